"""Gains in predictive log p(x) of one method on another, paired by seed, as numbers and as a panel of a figure.

Knows rows with the columns data, num_train, method, hidden and log_p; must not know how they were measured.
"""

import math

from ppl_vae import study
from weight_methods import METHODS, POINTS

__all__ = ["ahead_of_points", "gain", "gains_panel", "widths_panel"]


def gain(rows, method, reference, **place):
    """Mean and standard error over seeds of the difference in log_p; NaN where the cells are missing."""
    cells = [row for row in rows if place.items() <= row.items() and row["hidden"] is None]
    both = {method, reference} <= {row["method"] for row in cells}
    return study.paired_difference(cells, "method", method, reference, "log_p") if both else (math.nan, math.nan)


def ahead_of_points(rows, **place):
    """The methods whose gain on both point estimates is more than two standard errors."""
    others = [method for method in METHODS if method not in POINTS]
    gains = {method: [gain(rows, method, point, **place) for point in POINTS] for method in others}
    return [method for method, pairs in gains.items() if all(mean > 2 * error > 0 for mean, error in pairs)]


def gains_panel(axes, rows, data):
    """Each method's gain on the early-stopped point, one mark for each number of training data."""
    numbers = dict.fromkeys(row["num_train"] for row in rows if row["hidden"] is None and row["data"] == data)
    for i, number in enumerate(numbers):
        means, errors = zip(*(gain(rows, m, POINTS[0], data=data, num_train=number) for m in METHODS))
        heights = [y + 0.15 * i for y in range(len(METHODS))]
        axes.errorbar(means, heights, xerr=errors, fmt="o", ms=4, label=f"N = {number or 'all'}")
    axes.axvline(0.0, color="grey", lw=0.5)
    axes.set(title=data, xlabel="gain on the early-stopped point (nats)", ylim=(len(METHODS), -1))
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_yticks(range(len(METHODS)), METHODS)
    if numbers:
        axes.legend(frameon=False)


def widths_panel(axes, rows):
    """What picks the number of hidden units: the training bound with KL(theta) / N, or held-out log p?"""
    sizes = sorted({row["hidden"] for row in rows if row["hidden"]})
    columns = {"objective": "bound with KL(theta) / N", "log_p": "held-out log p"}
    for column, method in (("objective", "matrix-normal"), ("log_p", "matrix-normal"), ("log_p", POINTS[1])):
        means, errors = zip(*(study.mean_at(rows, column, hidden=size, method=method) for size in sizes))
        axes.errorbar(sizes, means, yerr=errors, marker="o", label=f"{columns[column]}, {method}")
    axes.set(xscale="log", xlabel="hidden units", ylabel="nats an image", title="Choosing a size")
    axes.legend(frameon=False)
