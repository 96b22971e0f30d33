"""`python -m ppl_vae` is the command `ppl-vae`. Knows nothing else."""

import sys

from ppl_vae.cli import main

if __name__ == "__main__":
    sys.exit(main())
