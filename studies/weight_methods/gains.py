"""Gains in predictive log p(x) of one method on another, paired by seed, as numbers and as a panel
of a figure.

Knows rows with the columns data, num_train, method, hidden and log_p; must not know how they were
measured.
"""

import math

from ppl_vae import study
from weight_methods import METHODS, POINTS, UNIT_NORMAL

__all__ = ["gains_panel", "gains_table", "learning", "verdict", "widths_panel"]

BAYESIAN = set(METHODS) - {*POINTS, "ensemble of 5", "dropout", "KL alone"}


def gain(rows, method, reference, **place):
    """Mean and standard error over seeds of the difference in log_p; NaN where the cells are
    missing.
    """
    cells = [row for row in rows if place.items() <= row.items() and row["hidden"] is None]
    seeds = [
        {row["seed"] for row in cells if row["method"] == name} for name in (method, reference)
    ]
    both = seeds[0] & seeds[1]
    return (
        study.paired_difference(cells, "method", method, reference, "log_p")
        if both
        else (math.nan, math.nan)
    )


def places(rows):
    """The (data, num_train) of which there are gains, in order."""
    cells = [row for row in rows if row["hidden"] is None]
    return [
        {"data": data, "num_train": n}
        for data, n in dict.fromkeys((r["data"], r["num_train"]) for r in cells)
    ]


def ahead_of_points(rows, **place):
    """The Bayesian methods whose gain on both point estimates is more than two standard errors."""
    gains = {method: [gain(rows, method, point, **place) for point in POINTS] for method in METHODS}
    return [
        m
        for m, pairs in gains.items()
        if m in BAYESIAN and all(mean > 2 * error > 0 for mean, error in pairs)
    ]


def verdict(rows):
    """Whether some Bayesian method is ahead of both points on two data sets at N <= 1000, in
    words.
    """
    ahead = {}
    for place in places(rows):
        for method in (
            ahead_of_points(rows, **place) if (place["num_train"] or math.inf) <= 1000 else ()
        ):
            ahead.setdefault(method, set()).add(place["data"])
    twice = [method for method, names in ahead.items() if len(names) > 1]
    once = [
        f"{method} ({', '.join(sorted(names))})"
        for method, names in ahead.items()
        if len(names) == 1
    ]
    compared = [
        f"{place['data']} (N = {place['num_train'] or 'all'})"
        for place in places(rows)
        if any(
            math.isfinite(gain(rows, m, POINTS[1], **place)[0]) for m in BAYESIAN - {*UNIT_NORMAL}
        )
    ]
    return (
        f"Compared on {', '.join(compared) or 'nothing yet'}. More than two standard errors "
        "ahead of **both** points, "
        f"N <= 1000, on at least two data sets: **{', '.join(twice) or 'no Bayesian method'}**; "
        f"on one alone: {', '.join(once) or 'none'}."
    )


def learning(rows):
    """How far N(0, I) on weights is behind the early-stopped point, at its own posterior mean."""
    cells = [r for r in rows if r["hidden"] is None]
    lines = []
    for place in places(rows):
        for method in UNIT_NORMAL:
            found = [
                r
                for r in cells
                if place.items() <= r.items() and r["method"] in (method, POINTS[0])
            ]
            if len({r["method"] for r in found}) == 2:
                bound = study.paired_difference(found, "method", method, POINTS[0], "bound_mean")
                lines.append(
                    f"{place['data']}, N = {place['num_train']}: {method} "
                    f"{study.plus_minus(*bound)}"
                )
    told = "; ".join(lines) or "not measured yet"
    return f"Test bound at the posterior mean less the early-stopped point's, nats: {told}."


def gains_table(rows):
    """Gains in predictive log p, paired by seed, of every method on both points and on the
    ensemble, in markdown.
    """
    references = (*POINTS, "ensemble of 5")
    lines = [
        f"| data | N | gain in log_p of | {' | '.join(f'on {name}' for name in references)} |",
        "|---" * 6 + "|",
    ]
    for place in places(rows):
        for method in METHODS:
            gains = [
                gain(rows, method, name, **place) if name != method else (math.nan,) * 2
                for name in references
            ]
            if any(math.isfinite(mean) for mean, _ in gains):
                numbers = " | ".join(
                    study.plus_minus(*g) if math.isfinite(g[0]) else "-" for g in gains
                )
                lines.append(
                    f"| {place['data']} | {place['num_train'] or 'all'} | {method} | {numbers} |"
                )
    return "\n".join(lines)


def gains_panel(axes, rows, data):
    """Each method's gain on the early-stopped point, one mark for each number of training data."""
    cells = [row for row in rows if row["hidden"] is None and row["data"] == data]
    methods = [method for method in METHODS if any(row["method"] == method for row in cells)]
    largest = 0.0
    for i, number in enumerate(dict.fromkeys(row["num_train"] for row in cells)):
        means, errors = zip(
            *(gain(rows, m, POINTS[0], data=data, num_train=number) for m in methods)
        )
        heights = [y + 0.15 * i for y in range(len(methods))]
        axes.errorbar(means, heights, xerr=errors, fmt="o", ms=4, label=f"N = {number or 'all'}")
        largest = max(largest, *(abs(mean) for mean in means if math.isfinite(mean)))
    axes.axvline(0.0, color="grey", lw=0.5)
    axes.set(title=data, xlabel="gain on the early-stopped point (nats)", ylim=(len(methods), -1))
    axes.locator_params(axis="x", nbins=5)
    if largest > 50:
        axes.set_xscale("symlog", linthresh=1.0)
    axes.set_yticks(range(len(methods)), methods)
    axes.legend(frameon=False)


def widths_panel(axes, rows):
    """What picks the number of hidden units: the training bound with KL(theta) / N, or held-out log
    p?
    """
    rows = [row for row in rows if row["hidden"]]
    columns = {"objective": "bound with KL(theta) / N", "log_p": "held-out log p"}
    for column, method in (
        ("objective", "matrix-normal"),
        ("log_p", "matrix-normal"),
        ("log_p", POINTS[1]),
    ):
        sizes = sorted({row["hidden"] for row in rows if row["method"] == method})
        found = [study.mean_at(rows, column, hidden=size, method=method) for size in sizes]
        means, errors = zip(*found) if found else ((), ())
        axes.errorbar(sizes, means, yerr=errors, marker="o", label=f"{columns[column]}, {method}")
    axes.set(xscale="log", xlabel="hidden units", ylabel="nats an image", title="Choosing a size")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12))
