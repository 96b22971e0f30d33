"""The command `ppl-vae`, `python -m ppl_vae`: an interruption at any time ends it with one line.

Knows the process; the libraries are loaded once its signals are handled, if they are needed.
"""

import sys

from ppl_vae.terminal import keep_descriptors, let_streams_go, stop_at_once

__all__ = ["main"]


def main() -> int:
    """Do what the process's arguments say; returns the exit status."""
    stop_at_once()
    keep_descriptors()
    from ppl_vae.cli import main as command

    try:
        return command()
    except KeyboardInterrupt:  # outside of all that words it
        print("ppl-vae: interrupted", file=sys.stderr)
        return 130
    finally:
        let_streams_go()


if __name__ == "__main__":
    sys.exit(main())
