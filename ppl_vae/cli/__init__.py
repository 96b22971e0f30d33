"""The command line: `ppl-vae demo|train|evaluate|sample|diagnose|explain`.

Knows how errors become one line and an exit status: 0 done, 1 a run that failed, 2 a bad value, 130
interrupted. The libraries are loaded once it is known what is asked for: `--help` needs none.
"""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from ppl_vae.cli.parser import parse
from ppl_vae.terminal import interrupts, patient_streams
from ppl_vae.wording import InputError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say (those of the process by default); returns the exit status."""
    with patient_streams():
        return _status(sys.argv[1:] if argv is None else argv)


def _status(argv: Sequence[str]) -> int:
    try:
        given = parse(argv)
    except InputError as error:
        return _say(str(error), 2)
    try:
        # a library may take an interruption for its own while it is loaded: from here on, none is
        with interrupts():
            return given.command(given)
    except InputError as error:
        return _say(str(error), 2)
    except KeyboardInterrupt as interrupt:
        return _say(str(interrupt) or "interrupted", 130)
    except (Exception, SystemExit) as error:
        return _failed(error)


def _failed(error: Exception | SystemExit) -> int:
    """What is left, in one line; a SystemExit is a program of the user's: nothing of ours leaves by
    one.
    """
    import torch

    from ppl_vae.parts.user_code import fault

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        what = str(error).partition("\n")[0].partition(". ")[0]
        return _say(f"{what or 'out of memory'}; try a smaller --batch-size or --num-data", 1)
    if isinstance(error, FloatingPointError | OSError):
        return _say(f"{type(error).__name__}: {error}", 1)
    if isinstance(error, SystemExit):
        return _say(fault(error), 1)
    return _say(f"{fault(error)}, in {_place(error)}; this was not foreseen", 1)


def _place(error: Exception) -> str:
    """The last line of this library on the way to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).parents[1]
    own = [frame for frame in frames if package in Path(frame.filename).parents]
    return f"{Path(own[-1].filename).relative_to(package.parent)}, line {own[-1].lineno}"


def _say(message: str, status: int) -> int:
    print(f"ppl-vae: {' '.join(message.split())}", file=sys.stderr)
    return status
