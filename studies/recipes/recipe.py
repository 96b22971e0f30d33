"""How a recipe ends: one number on the terminal, one figure in a file.

python studies/recipes/counts.py            # its figure goes to studies/recipes/figures
python studies/recipes/counts.py --quick    # seconds; its figure goes to the working folder
"""

import io
import sys
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure
from PIL import Image

__all__ = ["finish", "quick"]

T = TypeVar("T")
QUICK = "--quick" in sys.argv


def quick(full: T, small: T) -> T:
    """`full`, or `small` where the recipe is only tried out."""
    return small if QUICK else full


def finish(name: str, figure: Figure, what: str, value: float) -> None:
    """Print the number and write the figure, in 64 colours, so that it stays small."""
    folder = Path() if QUICK else Path(__file__).parent / "figures"
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    picture = Image.open(drawn).convert("RGB").quantize(64)
    picture.save(folder / f"{name}.png", optimize=True)
    print(f"{what}: {value:.4g}")
