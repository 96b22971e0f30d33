"""The part that a battery names, as `build`, `load` and the command line take it."""

import inspect
from collections.abc import Mapping
from typing import Any

__all__ = ["as_argument", "as_words", "named_part"]


def named_part(battery: object, kind: str) -> Any:
    """The part as it was written in the class: a function of a class body is no method here."""
    found = inspect.getattr_static(battery, kind)
    return found.__func__ if isinstance(found, staticmethod) else found


def as_argument(part: Any, kind: str) -> dict[str, Any]:
    """What `build` and `load` are given besides a configuration: nothing where a text names it."""
    return {} if isinstance(part, str) else {kind: part}


def as_words(part: str, kind: str, options: Mapping[str, Any]) -> list[str]:
    """A part and its options as words of the command line."""
    words = [f"--{kind}", part]
    for name, value in options.items():
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words += [f"--{kind}.{name}", text]
    return words
