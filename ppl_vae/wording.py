"""Every worded error on user input, in one voice: what was got, what was expected, what to try.

Imports nothing that takes long, so that a word on a mistyped command does not wait for libraries.
"""

import difflib
from collections.abc import Iterable
from typing import NoReturn

__all__ = ["InputError", "nearest", "refuse"]


class InputError(ValueError):
    """A value given by the user cannot be used; the message is one line that says what to do
    instead.
    """

    def __init__(self, message: str) -> None:
        # Pyro raises an error of a program that it traces anew, with the shapes of all sites in
        # lines below it
        super().__init__(message.partition("\n")[0])


def refuse(subject: str, got: object, expected: str, suggestion: str = "") -> NoReturn:
    """Raise `InputError`: "subject: got ..., expected ...; try ...".

    `got` is shown as it is when it is a string, else by its repr; line breaks are flattened so the
    error is one line.
    """
    text = f"{subject}: got {got if isinstance(got, str) else repr(got)}, expected {expected}"
    text = f"{text}; {suggestion}" if suggestion else text
    raise InputError(" ".join(text.split()))


def nearest(name: str, choices: Iterable[str]) -> str:
    """A suggestion, "did you mean 'x'?", when a choice is close to `name`; else the empty
    string.
    """
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f"did you mean '{close[0]}'?" if close else ""
