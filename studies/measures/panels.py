"""Panels that several studies draw alike: every seed by a mark of its own.

With few seeds the marks say more than a bar of error would. Knows axes and rows; must not know a
study's question.
"""

__all__ = ["seed_marks"]


def seed_marks(axes, places, rows_at, value, line="-", across=False, **looks):
    """A small mark for each seed at each place, and a line through their means.

    Args:
        axes: where to draw.
        places: positions on the x axis, or with `across` on the y axis.
        rows_at: for each place its rows, one a seed.
        value: the column to draw.
        line: the style of the line through the means; "" for none.
        across: values run along the x axis.
        looks: colour, label and the like, for line and marks.
    """
    means = []
    for place, rows in zip(places, rows_at, strict=True):
        values = [row[value] for row in rows if row.get(value) is not None]
        means.append(sum(values) / len(values) if values else float("nan"))
        quiet = {name: look for name, look in looks.items() if name != "label"}
        points = (values, [place] * len(values)) if across else ([place] * len(values), values)
        axes.plot(*points, linestyle="", **{"marker": "o", "markersize": 4, **quiet})
    points = (means, list(places)) if across else (list(places), means)
    looks = {name: look for name, look in looks.items() if name not in ("marker", "mfc")}
    axes.plot(*points, linestyle=line or "", marker="|" if across else "_", markersize=10, **looks)
