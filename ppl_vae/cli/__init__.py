"""The command line: `ppl-vae demo|train|evaluate|sample|diagnose`.

Knows how errors become one line and an exit status: 0 done, 1 a run that failed, 2 a bad value, 130
interrupted.
"""

import sys
from collections.abc import Sequence

from ppl_vae.checks import InputError
from ppl_vae.cli.parser import parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say (those of the process by default); returns the exit status."""
    try:
        given = parse(sys.argv[1:] if argv is None else argv)
        return given.command(given)
    except InputError as error:
        return _say(str(error), 2)
    except KeyboardInterrupt as interrupt:
        return _say(str(interrupt) or "interrupted", 130)
    except (FloatingPointError, OSError) as error:
        return _say(f"{type(error).__name__}: {error}", 1)


def _say(message: str, status: int) -> int:
    print(f"ppl-vae: {' '.join(message.split())}", file=sys.stderr)
    return status
