"""Gains in predictive log p(x) of one method on another, paired by seed, as numbers and as a panel
of a figure.

Knows rows with the columns data, num_train, method, hidden and log_p; must not know how they were
measured.
"""

import math

from measures.wording import told

from ppl_vae import study
from weight_methods import FIVE_TIMES, LONGER, METHODS, POINTS, UNIT_NORMAL

__all__ = ["gains_panel", "gains_table", "learning", "verdict", "widths_panel"]

ENSEMBLE = "ensemble of 5"
BAYESIAN = set(METHODS) - {*POINTS, LONGER, ENSEMBLE, "dropout", "KL alone"}
# Where a number of cells is missing there is no gain.
MISSING = study.Interval(math.nan, math.nan, 0)


def gain(rows, method, reference, **place):
    """The interval over seeds of the difference in log_p, paired by seed; NaN where the cells are
    missing.
    """
    cells = [row for row in rows if place.items() <= row.items() and row["hidden"] is None]
    own, other = (
        {row["seed"] for row in cells if row["method"] == name} for name in (method, reference)
    )
    if not own & other or method == reference:
        return MISSING
    return study.paired_difference(cells, "method", method, reference, "log_p")


def places(rows):
    """The (data, num_train) of which there are gains, in order."""
    cells = [row for row in rows if row["hidden"] is None]
    return [
        {"data": data, "num_train": n}
        for data, n in dict.fromkeys((row["data"], row["num_train"]) for row in cells)
    ]


def named(place):
    """A place in words."""
    return f"{place['data']}, N = {place['num_train'] or 'all'}"


def measured(rows, place):
    """The methods that have rows at a place, in order."""
    found = {row["method"] for row in rows if place.items() <= row.items() and not row["hidden"]}
    return [method for method in METHODS if method in found]


def verdict(rows):
    """At equal updates, which Bayesian methods are ahead of both points, and what a posterior adds
    to an ensemble, in words.
    """
    lines = ["At equal updates, held-out log p over the point with weight decay, in nats:", ""]
    for place in places(rows):
        lines += _over_points(rows, place)
    lines += ["", "Five times the updates, held-out log p over the ensemble of 5, in nats:", ""]
    for place in places(rows):
        lines += _over_the_ensemble(rows, place)
    return "\n".join([*lines, "", *_updates(rows)])


def _over_points(rows, place):
    """A line on the Bayesian methods that make as many updates as a point."""
    methods = [m for m in measured(rows, place) if m in BAYESIAN and m not in FIVE_TIMES]
    gains = {method: gain(rows, method, POINTS[1], **place) for method in methods}
    listed = "; ".join(
        f"{method} {told(found, '', 'above')}"
        for method, found in sorted(gains.items(), key=lambda item: -item[1].mean)
    )
    return [f"- {named(place)}: {listed}."] if listed else []


def _over_the_ensemble(rows, place):
    """A line on the methods that make five times the updates, beside the ensemble that does."""
    methods = [m for m in measured(rows, place) if m in FIVE_TIMES and m in BAYESIAN]
    gains = {method: gain(rows, method, ENSEMBLE, **place) for method in methods}
    listed = "; ".join(
        f"{method} {told(found, '', 'above')}"
        for method, found in gains.items()
        if math.isfinite(found.mean)
    )
    return [f"- {named(place)}: {listed}."] if listed else []


def _updates(rows):
    """What keeps gains over points from being gains of a posterior."""
    lowest = min(candidate["weight_penalty"] for candidate in METHODS[POINTS[1]])
    chosen = []
    for place in places(rows):
        points = [
            row
            for row in rows
            if place.items() <= row.items() and row["method"] == POINTS[1] and not row["hidden"]
        ]
        weakest = sum(row["chosen"] == str({"weight_penalty": lowest}) for row in points)
        chosen.append(f"{weakest} of {len(points)} ({named(place)})")
    longer = [
        f"{named(place)} {told(found, '', 'above')}"
        for place in places(rows)
        for found in [gain(rows, ENSEMBLE, LONGER, **place)]
        if math.isfinite(found.mean)
    ]
    return [
        "Ensembles, and methods that start from five points, make five times the updates of a "
        "point, so their gain over a point in the table below is no gain of a posterior. Nor is a "
        "gain over a point that has not converged: the lowest decay on offer, "
        f"{lowest:g}, which wins where the run is too short to overfit, was chosen in "
        f"{', '.join(chosen)} runs. The ensemble of 5 over one point of as many updates: "
        f"{'; '.join(longer) or 'not run'}."
    ]


def learning(rows):
    """How far N(0, I) on weights is behind the early-stopped point, at its own posterior mean."""
    cells = [row for row in rows if row["hidden"] is None]
    lines = []
    for place in places(rows):
        for method in UNIT_NORMAL:
            found = [
                row
                for row in cells
                if place.items() <= row.items() and row["method"] in (method, POINTS[0])
            ]
            if len({row["method"] for row in found}) == 2:
                bound = study.paired_difference(found, "method", method, POINTS[0], "bound_mean")
                lines.append(f"- {named(place)}: {method} {told(bound, '', 'below')}")
    head = (
        "Mean-field with N(0, I) on the weights: test bound at the posterior mean less that of the "
        'early-stopped point, in nats; the verdicts are on "it loses to the point".'
    )
    return "\n".join([head, "", *(lines or ["Not measured yet."])])


def gains_table(rows):
    """Gains in predictive log p, paired by seed, of every method on both points and on the
    ensemble, in markdown.
    """
    references = (*POINTS, ENSEMBLE)
    lines = [
        f"| data | N | gain in log_p of | {' | '.join(f'on {name}' for name in references)} |",
        "|---" * 6 + "|",
    ]
    for place in places(rows):
        for method in measured(rows, place):
            gains = [gain(rows, method, name, **place) for name in references]
            numbers = " | ".join(str(g) if math.isfinite(g.mean) else "-" for g in gains)
            lines.append(
                f"| {place['data']} | {place['num_train'] or 'all'} | {method} | {numbers} |"
            )
    return "\n".join(lines)


def gains_panel(axes, rows, data):
    """Each method's gain on the early-stopped point, one mark for each number of training data; the
    methods of five times its updates below a line.
    """
    cells = [row for row in rows if row["hidden"] is None and row["data"] == data]
    equal, more = [], []
    for method in measured(cells, {"data": data}):
        (more if method in FIVE_TIMES else equal).append(method)
    methods = equal + more
    largest = 0.0
    for i, number in enumerate(dict.fromkeys(row["num_train"] for row in cells)):
        found = [gain(rows, m, POINTS[0], data=data, num_train=number) for m in methods]
        means, half_widths = zip(*found)
        heights = [y + 0.15 * i for y in range(len(methods))]
        looks = {"fmt": "o", "ms": 4, "label": f"N = {number or 'all'}"}
        axes.errorbar(means, heights, xerr=half_widths, **looks)
        largest = max([largest, *(abs(mean) for mean in means if math.isfinite(mean))])
    axes.axvline(0.0, color="grey", lw=0.5)
    axes.axhline(len(equal) - 0.4, color="grey", lw=0.5, ls="--")
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
