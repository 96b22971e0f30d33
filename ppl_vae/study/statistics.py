"""Means over seeds with their uncertainty, and the tables made of them.

Knows rows (dicts of plain values with a "seed" column); must not know where they come from.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ppl_vae.checks import nearest, refuse

__all__ = ["mean_and_standard_error", "paired_difference", "plus_minus", "table"]

Row = Mapping[str, Any]


def mean_and_standard_error(values: Iterable[float]) -> tuple[float, float]:
    """The mean m and its standard error s/√n, s² = Σ(v - m)²/(n - 1), of n independent values; NaN
    error for n = 1.

    Raises `InputError` when there is no value.
    """
    numbers = [float(value) for value in values]
    n = len(numbers)
    if n == 0:
        refuse("mean_and_standard_error", "no values", "at least one")
    mean = math.fsum(numbers) / n
    if n == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (n - 1) / n)


def mean_at(rows: Iterable[Row], value: str, **levels: object) -> tuple[float, float]:
    """Mean and standard error over seeds of `value` in the rows whose columns have the given
    `levels`.

    The values of one seed are averaged first, since only seeds are independent. Raises `InputError`
    for no row.
    """
    by_seed: dict[object, list[float]] = {}
    for row in rows:
        if row.get(value) is not None and all(
            row.get(column) == level for column, level in levels.items()
        ):
            by_seed.setdefault(row["seed"], []).append(row[value])
    if not by_seed:
        refuse("mean_at", f"no row with {value!r} at {levels}", "at least one")
    return mean_and_standard_error(math.fsum(values) / len(values) for values in by_seed.values())


def paired_difference(
    rows: Iterable[Row], axis: str, a: object, b: object, value: str, pair_on: Sequence[str] = ()
) -> tuple[float, float]:
    """Mean and standard error over seeds of `value` at axis=a minus `value` at axis=b.

    A pair has one seed and equal entries in every `pair_on` column. What its two rows share (the
    seed's data order and initialisation) cancels. The differences of one seed are averaged first,
    since only seeds are independent. A row without its partner, as after a failed cell, counts for
    nothing.

    Raises `InputError` when two rows claim one place in a pair, or when there is no pair.
    """
    rows, columns = list(rows), ["seed", *(name for name in pair_on if name != "seed")]
    left, right = (
        _one_each([row for row in rows if row.get(axis) == level], value, columns)
        for level in (a, b)
    )
    by_seed: dict[object, list[float]] = {}
    for key in left.keys() & right.keys():
        by_seed.setdefault(key[0], []).append(left[key] - right[key])
    if not by_seed:
        refuse(
            "paired_difference",
            f"no pair with {axis}={a!r} and {axis}={b!r}",
            f"rows with {value!r} at both",
        )
    return mean_and_standard_error(math.fsum(values) / len(values) for values in by_seed.values())


def _one_each(rows: Iterable[Row], value: str, columns: Sequence[str]) -> dict[tuple, float]:
    """`value` by the entries in `columns`, each combination at most once."""
    found: dict[tuple, float] = {}
    for row in rows:
        if row.get(value) is None:
            continue
        key = tuple(row.get(column) for column in columns)
        if key in found:
            where = ", ".join(
                f"{column}={entry!r}" for column, entry in zip(columns, key, strict=True)
            )
            refuse(
                "rows",
                f"two values of {value!r} at {where}",
                "one",
                "name a column that tells them apart",
            )
        found[key] = row[value]
    return found


def plus_minus(mean: float, standard_error: float) -> str:
    """ "mean ± standard error", the error to two significant digits; the mean alone when the error
    is unknown or 0.
    """
    if not math.isfinite(standard_error) or standard_error <= 0 or not math.isfinite(mean):
        return f"{mean:.5g}"
    decimals = max(0, 1 - math.floor(math.log10(standard_error)))
    if decimals > 6:
        return f"{mean:.4e} ± {standard_error:.1e}"
    return f"{mean:.{decimals}f} ± {standard_error:.{decimals}f}"


def table(rows: Iterable[Row], by: Sequence[str], value: str | Sequence[str]) -> str:
    """A markdown table: a line for each combination of the `by` columns, mean ± standard error of
    values over seeds.

    The last column counts the seeds. Raises `InputError` for a column that no row has, and when a
    seed has two values in one line: they are not independent, so a standard error over them would
    be too small.
    """
    rows, values = list(rows), [value] if isinstance(value, str) else list(value)
    known = {name for row in rows for name in row}
    for name in (*by, *values):
        if name not in known:
            refuse(
                "table's column",
                repr(name),
                f"one of {', '.join(sorted(known))}",
                nearest(name, known),
            )
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in by), []).append(row)
    head = [*by, *values, "seeds"]
    lines = [
        [*map(_entry, key), *(_cell(group, name) for name in values), _seeds(group)]
        for key, group in groups.items()
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))


def _entry(value: object) -> str:
    """A setting as it stands in a table."""
    return "" if value is None else str(value).replace("|", "\\|")


def _cell(group: Sequence[Row], name: str) -> str:
    """Mean ± standard error of one value over the seeds of one line."""
    by_seed = _one_each(group, name, ["seed"])
    return plus_minus(*mean_and_standard_error(by_seed.values())) if by_seed else "–"


def _seeds(group: Sequence[Row]) -> str:
    return str(len({row["seed"] for row in group}))
