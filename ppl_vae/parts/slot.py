"""One way in for every part that may be the user's own: a name, "file.py:Name", a class, a function
or an object.
"""

import copy
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ppl_vae import checks
from ppl_vae.parts.user_code import (
    absolute_reference,
    check_attributes,
    fault,
    is_reference,
    made,
    refuse_file,
    resolve,
)

__all__ = ["CUSTOM", "Slot", "copies"]

# the name of an object that no reference names; `load` has to be given it again
CUSTOM = "custom"


@dataclass(frozen=True, eq=False)
class Slot:
    """A kind of part: the word for it, the library's own parts by name, and what they are made of.

    Args:
        kind: the word for it in messages, flags and configurations, such as "likelihood".
        builtin: the library's own parts by name.
        offered: arguments that the library hands to a class or function that names them; every
            other argument is an option of the user's.
    """

    kind: str
    builtin: Mapping[str, Callable[..., Any]]
    offered: Collection[str] = ()

    def check_name(self, name: object) -> None:
        """`InputError` unless a configuration may name this: a built-in part, a reference, or
        "custom".
        """
        if isinstance(name, str) and (is_reference(name) or name == CUSTOM):
            return
        if isinstance(name, str) and name.endswith(".py"):
            refuse_file(self.kind, name)
        if name is None and not self.builtin:  # what the library makes where nothing is given
            return
        if not self.builtin:
            checks.refuse(self.kind, repr(name), "'file.py:Name' or 'package.module:Name'")
        checks.choice(self.kind, name, self.builtin)

    def reference(self, given: Any, configured: str | None) -> str | None:
        """The name by which a later process finds the same part; "custom" if there is none.

        Args:
            given: the part in Python, or None for the configured one.
            configured: the name in the configuration.
        """
        check_attributes(self.kind, given)
        if given is None or isinstance(given, str):
            name = configured if given is None else given
            if name is None:
                return None
            return absolute_reference(name) if is_reference(name) else name
        module = getattr(given, "__module__", None)
        name = getattr(given, "__name__", "")
        found = getattr(sys.modules.get(module or ""), name, None)
        return f"{module}:{name}" if found is given and module != "__main__" else CUSTOM

    def find(self, given: Any, configured: str | None) -> Any:
        """The class, function or object that is given or, where None is, configured."""
        if given is None and configured == CUSTOM:
            checks.refuse(
                self.kind,
                "'custom', an object this process does not have",
                f"the {self.kind} itself",
                f"pass {self.kind}=...",
            )
        found = configured if given is None else given
        if not isinstance(found, str):
            return found
        if not is_reference(found):
            self.check_name(found)
            return self.builtin[found]
        found = resolve(found, self.kind)
        check_attributes(self.kind, found)
        return found

    def arguments(
        self, program: Callable[..., Any], options: Mapping[str, Any], offers: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a class or function is called with: the options, and those offers that it names.

        Raises `InputError` for an option that it has not.
        """
        parameters = inspect.signature(program).parameters
        name = getattr(program, "__name__", type(program).__name__)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            known = [p for p in parameters if p not in offers]
            checks.options(f"option of {self.kind} {name}", options, known)
        return {**{k: v for k, v in offers.items() if k in parameters}, **options}

    def without_options(self, part: Any, options: Mapping[str, Any]) -> Any:
        """A ready-made part; `InputError` if options are given with it."""
        subject = f"options of the ready-made {self.kind} {type(part).__name__}"
        checks.options(subject, options, ())
        return part

    def make(self, kind: type, options: Mapping[str, Any], **offers: Any) -> Any:
        """An object of a class; `InputError` if it cannot be made."""
        return made(self.kind, kind, **self.arguments(kind, options, offers))

    def option_names(self) -> dict[str, list[str]]:
        """The options of each of the library's own parts."""
        return {
            name: [p for p in inspect.signature(part).parameters if p not in self.offered]
            for name, part in self.builtin.items()
        }


def copies(*parts: Any) -> tuple[Any, ...]:
    """The same parts, objects among them copied: what two share, their copies share too.

    Each VAE has its own: two that held one module would train and load each other's parameters.
    """
    try:
        return copy.deepcopy(parts)
    except Exception as error:
        checks.refuse(
            "a part of a VAE",
            fault(error),
            "an object that can be copied, since each VAE has its own",
            "give its class, or a function",
        )
