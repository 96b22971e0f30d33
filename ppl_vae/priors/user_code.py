"""Names of a user's own code: "file.py:Name" and "package.module:Name" -> the object; and what goes
wrong in it.

The one place that runs code named by text. It knows nothing of priors; whoever calls it with a name
read from a checkpoint has made sure first that the user trusts that file (`checkpoint.py`).
"""

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from torch.distributions import Distribution

from ppl_vae import checks

__all__ = [
    "absolute_reference",
    "fault",
    "is_program",
    "is_reference",
    "made",
    "reference_file",
    "resolve",
]

LIBRARIES = (f"{os.sep}lib{os.sep}python", f"{Path(__file__).parents[1]}{os.sep}")


def is_reference(name: str) -> bool:
    """Whether `name` points at code ("file.py:Name", "package.module:Name") rather than naming a
    built-in choice.
    """
    return ":" in name


def reference_file(reference: str) -> Path | None:
    """The absolute path of a "file.py:Name" reference; None for "package.module:Name"."""
    location = reference.rpartition(":")[0]
    return Path(location).expanduser().resolve() if location.endswith(".py") else None


def absolute_reference(reference: str) -> str:
    """The same reference with the file's path made absolute, so that it means the same from any
    folder.
    """
    path = reference_file(reference)
    return f"{path}:{reference.rpartition(':')[2]}" if path else reference


def resolve(reference: str) -> Any:
    """The object a reference names. `InputError` if the file or module or name is missing, or its
    code raises.
    """
    location, _, name = reference.rpartition(":")
    path = reference_file(reference)
    module = _from_file(path) if path else _from_package(location)
    if not hasattr(module, name):
        public = [
            key
            for key in vars(module)
            if not key.startswith("_") and callable(getattr(module, key))
        ]
        checks.refuse(
            f"'{reference}'",
            f"no '{name}' in {location}",
            f"one of {', '.join(public) or 'its names'}",
            checks.nearest(name, public),
        )
    return getattr(module, name)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        checks.refuse(
            "prior's file",
            f"no file {path}",
            "a Python file",
            "give 'file.py:Name' from this folder or an absolute path",
        )
    # named by content, so two files of one name, or an edited one, never share a module
    name = f"ppl_vae_user_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        checks.refuse(
            f"{path.name}",
            f"{type(error).__name__}: {error}",
            "a file that imports without an error",
        )
    return module


def _from_package(location: str) -> ModuleType:
    try:
        return importlib.import_module(location)
    except ImportError as error:
        checks.refuse(
            f"module '{location}'",
            f"{type(error).__name__}: {error}",
            "an importable module",
            "use 'file.py:Name' for a file",
        )


def is_program(value: Any) -> TypeGuard[Callable[..., Any]]:
    """Whether it can be run as a program: a distribution can be called, too, but that samples no
    site.
    """
    return callable(value) and not isinstance(value, Distribution)


def made(subject: str, kind: type, /, **arguments: Any) -> Any:
    """An object of a user's class; `InputError` if making it raises."""
    try:
        return kind(**arguments)
    except checks.InputError:
        raise
    except Exception as error:
        checks.refuse(f"{subject} {kind.__name__}", fault(error), "a class that can be made")


def fault(error: Exception) -> str:
    """What went wrong in a user's program: the error's first line, and the user's last line on the
    way to it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in LIBRARIES)]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    first, _, _ = str(error).partition("\n")
    return f"{type(error).__name__}: {first}{place}"
