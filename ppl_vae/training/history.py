"""What a run reports: one row an epoch, kept in memory and in `history.csv`.

Knows rows of numbers; knows nothing of what they mean. A save writes what is new, so that all saves
of a run together write each row a bounded number of times.
"""

import contextlib
import csv
import html
import io
import itertools
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.files import saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["History", "HistoryFile"]

log = logging.getLogger(__name__)


@dataclass
class History:
    """The rows of a run, one an epoch, in nats per datum (higher `lower_bound` is better), and how
    it was run.

    `best_epoch` is the epoch whose parameters the VAE holds in the end, `tier` the way its steps
    were run ("off", "record" or "inductor"), `kl_kinds` says for each site whether its KL was
    analytic or sampled. A schedule's column holds the value that the epoch ended at.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    kl_kinds: dict[str, str] = field(default_factory=dict)
    tier: str = "off"
    best_epoch: int | None = None
    stopped: str = ""

    def __repr__(self) -> str:
        """One line: how far the run went, and its last row's numbers."""
        row = self.rows[-1] if self.rows else {}
        last = ", ".join(
            f"{name}={value:.4g}" for name, value in row.items() if isinstance(value, float)
        )
        return (
            f"History({len(self.rows)} epochs, tier={self.tier!r}, kl_kinds={self.kl_kinds}; "
            f"last: {last or 'none'})"
        )

    def plot(self) -> "Figure":
        """The bound of training and held-out data, and the KL of each site, epoch by epoch."""
        from ppl_vae import plots

        return plots.training_curves(self.rows)

    def to_frame(self) -> "DataFrame":
        """The rows as a pandas frame, by epoch."""
        import pandas

        frame = pandas.DataFrame(self.rows)
        return frame.set_index("epoch") if self.rows else frame

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_frame().to_html(max_rows=10)}"

    def tail(self, first: int) -> dict[str, Any]:
        """The rows from index `first` on in plain values, columns named once."""
        columns = _columns(self.rows[first:])
        values = [[row.get(name) for name in columns] for row in self.rows[first:]]
        return {"first": first, "columns": columns, "values": values}

    def restore_rows(self, tail: Mapping[str, Any], path: Path) -> None:
        """The rows of `tail`, and before them those of the file at `path`, as far as it has
        them.
        """
        rows = [
            {name: v for name, v in zip(tail["columns"], values, strict=True) if v is not None}
            for values in tail["values"]
        ]
        before = _read(path, tail["first"]) if tail["first"] else []
        if len(before) < tail["first"]:
            log.warning("%s: rows before epoch %d are missing", path, tail["first"] + 1)
        self.rows = before + rows


class HistoryFile:
    """`history.csv`: the rows of a history, to which each save appends those that are new.

    A new column makes it be written anew, and so does the first save of a process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows = 0
        self._columns: list[str] = []
        self._size = 0

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make the file hold these rows, the first `num_rows` of which it holds already.

        Raises:
            InputError: the disk does not take it; the rows that were there still are.
        """
        new = rows[self.num_rows :]
        if not self._columns or any(row.keys() - set(self._columns) for row in new):
            self._columns, new = _columns(rows), rows
            text = _lines(self._columns, new, header=True)
            with saved(self.path) as file:
                file.write(text)
            self._size = 0
        else:
            text = _lines(self._columns, new, header=False)
            self._append(text, rows)
        self._size += len(text)
        self.num_rows = len(rows)

    def _append(self, text: bytes, rows: Sequence[Mapping[str, Any]]) -> None:
        try:
            with open(self.path, "r+b") as file:
                file.seek(self._size)
                file.truncate()
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # a disk that is full is told of, and half a row that it took is taken back, by writing
            # the whole; what somebody removed is there again
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._size)
            with saved(self.path) as whole:
                whole.write(_lines(self._columns, rows, header=True))
            self._size = self.path.stat().st_size - len(text)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every column in the order in which it first appears."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _lines(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], header: bool) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _read(path: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` rows of a file, numbers as they were; none where it cannot be read."""
    limit = csv.field_size_limit(sys.maxsize)  # a site's name may be long
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = itertools.islice(csv.DictReader(file), count)
            return [{name: _number(v) for name, v in line.items() if v} for line in lines]
    except (OSError, ValueError, TypeError, csv.Error):
        return []
    finally:
        csv.field_size_limit(limit)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
