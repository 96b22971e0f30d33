"""Studies: a grid of settings x seeds -> cells that run anywhere -> cached rows -> figure and
answer.

Knows plain functions only; must not know of models, guides or training. A study is a script:

    '''Question in one line.

    Prediction: ... How to read the figure: ...
    '''
    from ppl_vae import study

    GRID = {"latent_size": [2, 10], "estimator": ["A", "B"]}

    def run(seed, latent_size, estimator): ...  # one cell -> a row (dict) or rows (list of dicts)
    def draw(rows): ...                         # rows of all cells -> matplotlib Figure
    def answer(rows): ...                       # optional: markdown, its numbers computed from the
    rows

    if __name__ == "__main__":
        study.main()

`GRID` names its axes, each a list of numbers, strings, booleans or None; a list of such dicts is
the union of their products, and `{"smoke": GRID, "laptop": GRID, "paper": GRID}` gives each scale
its own. Optional are `SEEDS = {"laptop": 5}`, and `TABLE = {"by": [...], "value": ...}`, the
arguments of the `table` that stands in the answer. `run` gets its axes by name, and `scale` if it
has such a parameter; it runs in a worker process on one thread, the global generators seeded with
`seed`. Arrays in a row reach `draw` as nested lists and stay out of `rows.csv`.

A cell is computed again when its settings, seed, scale, the package's version or the script's text
behind `run` change, never because `draw` or `answer` did. A change of the package within one
version is not seen: delete the cache then.
"""

from ppl_vae.study.command import main
from ppl_vae.study.statistics import (
    mean_and_standard_error,
    mean_at,
    paired_difference,
    plus_minus,
    table,
)

__all__ = ["main", "mean_and_standard_error", "mean_at", "paired_difference", "plus_minus", "table"]
