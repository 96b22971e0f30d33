"""Means over seeds with their intervals, verdicts that rest on them, and the tables made of them.

Every ± of a study is half the width of Student's 95 % interval. Knows rows (dicts of plain values
with a "seed" column); must not know where they come from.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student

from ppl_vae.checks import nearest, refuse

__all__ = [
    "Interval",
    "interval",
    "mean_and_standard_error",
    "mean_at",
    "paired_difference",
    "plus_minus",
    "table",
    "verdict",
]

CONFIDENCE = 0.95
# Fewer seeds give a valid interval, but one bad seed then decides what it says.
ENOUGH_SEEDS = 5

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Interval:
    """Student's 95 % interval of a mean, mean ± t_{n-1} s/√n, over n independent seeds.

    It unpacks as its mean and half its width, and its text is what `plus_minus` makes of them. With
    one seed half the width is NaN, and nothing can be said of any value.

    Args:
        mean: the mean over seeds.
        standard_error: s/√n over seeds; with an error over data, of both.
        seeds: n.
        over: what another experiment would draw anew: "seeds", or "seeds and data".

    >>> gain = Interval(mean=1.0, standard_error=0.1, seeds=5)
    >>> print(gain)
    1.00 ± 0.28
    >>> gain.above(0.5)
    True
    """

    mean: float
    standard_error: float
    seeds: int
    over: str = "seeds"

    @property
    def half_width(self) -> float:
        """t_{n-1} times the standard error; NaN for one seed."""
        if self.seeds < 2:
            return math.nan
        quantile = student.ppf((1 + CONFIDENCE) / 2, self.seeds - 1)
        return float(quantile) * self.standard_error

    @property
    def p_value(self) -> float:
        """Two-sided probability, if the true mean is 0, of a mean at least this far from 0."""
        if self.seeds < 2:
            return math.nan
        if self.standard_error == 0:
            return float(self.mean == 0)
        return float(2 * student.sf(abs(self.mean) / self.standard_error, self.seeds - 1))

    def above(self, value: float = 0.0) -> bool:
        """Whether the whole interval lies above a value.

        Args:
            value: in units of the mean.
        """
        return self.mean - self.half_width > value

    def below(self, value: float = 0.0) -> bool:
        """Whether the whole interval lies below a value.

        Args:
            value: in units of the mean.
        """
        return self.mean + self.half_width < value

    def excludes(self, value: float = 0.0) -> bool:
        """Whether a value lies outside the interval.

        Args:
            value: in units of the mean.
        """
        return self.above(value) or self.below(value)

    def with_data_error(self, standard_error: float) -> "Interval":
        """The interval for other seeds and other data.

        The squares of the two standard errors are added. The data are the same for every seed, so
        their part does not shrink with the number of seeds. The n - 1 degrees of freedom are kept,
        which errs on the side of a wider interval.

        Args:
            standard_error: of the mean over the data, at one seed.
        """
        both = math.hypot(self.standard_error, standard_error)
        return Interval(self.mean, both, self.seeds, "seeds and data")

    def __iter__(self) -> Iterator[float]:
        yield self.mean
        yield self.half_width

    def __str__(self) -> str:
        return plus_minus(self.mean, self.half_width)


def interval(values: Iterable[float]) -> Interval:
    """Student's interval of the mean of independent values.

    Args:
        values: one a seed.

    Raises:
        InputError: when there is no value.

    >>> print(interval([1.0, 1.2, 1.1]))
    1.10 ± 0.25
    """
    numbers = list(values)
    return Interval(*mean_and_standard_error(numbers), len(numbers))


def verdict(found: Interval, predicted: str = "above", value: float = 0.0) -> str:
    """What an interval says of a prediction about the mean.

    Args:
        found: the interval.
        predicted: that the mean is "above" or "below" the value.
        value: in units of the mean.

    Returns:
        "confirmed" or "refuted" where the whole interval lies on one side, "not shown" where it
        holds the value, "no verdict" for one seed.

    Raises:
        InputError: for another prediction.

    >>> verdict(interval([1.0, 1.2, 1.1]), "above")
    'confirmed'
    >>> verdict(interval([1.0]), "above")
    'no verdict'
    """
    if predicted not in ("above", "below"):
        refuse("predicted", repr(predicted), "'above' or 'below'")
    if found.seeds < 2:
        return "no verdict"
    if not found.excludes(value):
        return "not shown"
    as_predicted = found.above(value) == (predicted == "above")
    return "confirmed" if as_predicted else "refuted"


def mean_and_standard_error(values: Iterable[float]) -> tuple[float, float]:
    """The mean m of independent values and its standard error s/√n, s² = Σ(v - m)²/(n - 1).

    Args:
        values: n of them.

    Returns:
        m and s/√n; NaN error for n = 1.

    Raises:
        InputError: when there is no value.

    >>> mean_and_standard_error([1.0, 3.0])
    (2.0, 1.0)
    """
    numbers = [float(value) for value in values]
    n = len(numbers)
    if n == 0:
        refuse("mean_and_standard_error", "no values", "at least one")
    mean = math.fsum(numbers) / n
    if n == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (n - 1) / n)


def mean_at(rows: Iterable[Row], value: str, **levels: object) -> Interval:
    """The interval over seeds of the mean of a column in the rows at given levels.

    The values of one seed are averaged first, since only seeds are independent.

    Args:
        rows: the rows.
        value: the column.
        **levels: what a row has to have in other columns.

    Raises:
        InputError: for no row.

    >>> rows = [{"seed": 0, "a": 1, "bound": 2.0}, {"seed": 1, "a": 1, "bound": 4.0}]
    >>> mean_at(rows, "bound", a=1).mean
    3.0
    """
    by_seed: dict[object, list[float]] = {}
    for row in rows:
        matches = all(row.get(column) == level for column, level in levels.items())
        if matches and row.get(value) is not None:
            by_seed.setdefault(row["seed"], []).append(row[value])
    if not by_seed:
        refuse("mean_at", f"no row with {value!r} at {levels}", "at least one")
    return interval(math.fsum(values) / len(values) for values in by_seed.values())


def paired_difference(
    rows: Iterable[Row], axis: str, a: object, b: object, value: str, pair_on: Sequence[str] = ()
) -> Interval:
    """The interval over seeds of the mean of a column at axis=a minus the column at axis=b.

    A pair has one seed and equal entries in every column of `pair_on`. What its two rows share (the
    seed's data order and initialisation) cancels. The differences of one seed are averaged first,
    since only seeds are independent. A row without its partner, as after a failed cell, counts for
    nothing.

    Args:
        rows: the rows.
        axis: the column whose levels are compared.
        a: one level.
        b: the other level.
        value: the column that is compared.
        pair_on: further columns in which a pair agrees.

    Raises:
        InputError: when two rows claim one place in a pair, or when there is no pair.

    >>> bounds = {"A": (-90.5, -91.2, -90.8), "B": (-90.0, -90.6, -90.4)}
    >>> rows = [
    ...     {"seed": seed, "estimator": estimator, "bound": bound}
    ...     for estimator, found in bounds.items()
    ...     for seed, bound in enumerate(found)
    ... ]
    >>> print(paired_difference(rows, "estimator", "B", "A", "bound"))
    0.50 ± 0.25
    """
    rows = list(rows)
    columns = ["seed", *(name for name in pair_on if name != "seed")]
    left = _one_each([row for row in rows if row.get(axis) == a], value, columns)
    right = _one_each([row for row in rows if row.get(axis) == b], value, columns)
    by_seed: dict[object, list[float]] = {}
    for key in left.keys() & right.keys():
        by_seed.setdefault(key[0], []).append(left[key] - right[key])
    if not by_seed:
        refuse(
            "paired_difference",
            f"no pair with {axis}={a!r} and {axis}={b!r}",
            f"rows with {value!r} at both",
        )
    return interval(math.fsum(values) / len(values) for values in by_seed.values())


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


def plus_minus(mean: float, error: float) -> str:
    """The text "mean ± error", the error to two significant digits.

    It is the mean alone when the error is unknown or no more than rounding.

    Args:
        mean: the mean.
        error: half the width of an interval, say, in the same units.

    >>> plus_minus(-98.7654, 0.123)
    '-98.77 ± 0.12'
    """
    rounding = 1e-12 * abs(mean)
    if not math.isfinite(error) or error <= rounding or not math.isfinite(mean):
        return f"{mean:.5g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 6:
        return f"{mean:.4e} ± {error:.1e}"
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def table(rows: Iterable[Row], by: Sequence[str], value: str | Sequence[str]) -> str:
    """A markdown table of means with Student's interval over seeds.

    It has a line for each combination of the `by` columns; the last column counts the seeds.

    Args:
        rows: the rows.
        by: the columns that tell the lines apart.
        value: the column that is averaged, or several.

    Raises:
        InputError: for a column that no row has, and when a seed has two values in one line: they
            are not independent, so an interval over them would be too narrow.

    >>> rows = [{"seed": seed, "prior": "vamp", "bound": -90.0 - seed} for seed in range(3)]
    >>> print(table(rows, ["prior"], "bound"))
    | prior | bound | seeds |
    | --- | --- | --- |
    | vamp | -91.0 ± 2.5 | 3 |
    """
    rows = list(rows)
    values = [value] if isinstance(value, str) else list(value)
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
    """The interval of one value over the seeds of one line."""
    by_seed = _one_each(group, name, ["seed"])
    return str(interval(by_seed.values())) if by_seed else "–"


def _seeds(group: Sequence[Row]) -> str:
    return str(len({row["seed"] for row in group}))
