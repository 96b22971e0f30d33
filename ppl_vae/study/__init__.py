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
its own. Optional are `SEEDS = {"laptop": 5}`; `TABLE = {"by": [...], "value": ...}`, the arguments
of the `table` that stands in the answer; and `ERRORS = "..."`, a sentence that says what the
intervals cover and what they leave out. `run` gets its axes by name, and `scale` if it has such a
parameter; it runs in a worker process on one thread, the global generators seeded with `seed`.
Arrays in a row reach `draw` as nested lists and stay out of `rows.csv`.

A cell that takes long names a parameter `scratch`: a folder of its own, kept until the cell is
done, so that an interrupted cell goes on where it was:

    def run(seed, latent_size, scratch):
        ...
        fit(vae, data, checkpoint=scratch, resume=True, seed=seed)

A cell is computed again when its settings, seed or scale change, or the source its rows depend on:
all of this package, what `run` reaches of the script, and the modules beside the script that it
imports. A change of comments, docstrings or layout, of `draw` or of `answer` is none.

Results are kept with the commit, the version of torch and the processor that made each row.
`--answer` makes figure and answer again from them, whatever has become of the code since.

An answer's verdict rests on Student's interval over seeds, and with one seed there is none:

    gain = study.paired_difference(rows, "estimator", "B", "A", "bound", ["latent_size"])
    f"{gain} nats: {study.verdict(gain, 'above')}"
"""

from ppl_vae.study.command import main
from ppl_vae.study.statistics import (
    Interval,
    interval,
    mean_and_standard_error,
    mean_at,
    paired_difference,
    plus_minus,
    table,
    verdict,
)

__all__ = [
    "Interval",
    "interval",
    "main",
    "mean_and_standard_error",
    "mean_at",
    "paired_difference",
    "plus_minus",
    "table",
    "verdict",
]
