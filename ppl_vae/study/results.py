"""What a study leaves behind: rows.csv, figure.png, answer.md.

Knows rows and the script's `draw` and `answer`; must not know how the rows came about.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppl_vae import __version__, checks
from ppl_vae.study.cache import write
from ppl_vae.study.cells import Script
from ppl_vae.study.statistics import table


@dataclass(frozen=True)
class Provenance:
    """How a study's numbers came about."""

    command: str
    axes: Sequence[str]
    scale: str
    seeds: int
    cells: int
    finished: int
    cpu_seconds: float
    selection: Sequence[str] = ()

    @property
    def missing(self) -> int:
        return self.cells - self.finished


def write_results(
    script: Script, rows: list[dict[str, Any]], provenance: Provenance, folder: Path
) -> str:
    """Write the three files; the reason why figure and answer were left out, if they were.

    Drawing may fail for want of cells that are missing or not selected; with all of them its error
    is the script's.
    """
    write(folder / "rows.csv", rows_csv(rows).encode())
    try:
        write(folder / "figure.png", figure_png(script.draw(rows)))
        write(folder / "answer.md", answer_md(script, rows, provenance).encode())
    except Exception as error:
        if not (provenance.selection or provenance.missing):
            raise
        return f"{type(error).__name__}: {error}"
    return ""


def rows_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as comma-separated values; columns that hold lists anywhere are left out."""
    nested = {name for row in rows for name, value in row.items() if isinstance(value, list | dict)}
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in nested))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def figure_png(figure: Any) -> bytes:
    """The figure as a PNG file's content."""
    from matplotlib import pyplot

    if not hasattr(figure, "savefig"):
        checks.refuse("draw", type(figure).__name__, "a matplotlib Figure", "return the figure")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return content.getvalue()


def answer_md(script: Script, rows: list[dict[str, Any]], provenance: Provenance) -> str:
    """Question, answer, table and provenance, in markdown."""
    question, _, rest = script.question.partition("\n\n")
    parts = [
        f"# {script.name}: {' '.join(question.split())}",
        rest,
        script.answer(rows) if script.answer else "",
        f"**{provenance.missing} of {provenance.cells} cells are missing.**"
        if provenance.missing
        else "",
        _table(script, rows, provenance.axes),
        "![figure](figure.png)",
        f"Made again by `{provenance.command}`. Scale: {provenance.scale}. Seeds: "
        f"{provenance.seeds}. "
        f"Cells: {provenance.cells}. CPU seconds: {provenance.cpu_seconds:.0f}. Package: ppl-vae "
        f"{__version__}. "
        "Errors are standard errors over seeds.",
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _table(script: Script, rows: list[dict[str, Any]], axes: Sequence[str]) -> str:
    """The script's TABLE, else every measured number by the grid's axes and the rows' text columns.

    A study whose cells give several rows each has no such table unless it says by TABLE what tells
    the rows apart.
    """
    if script.table:
        return table(rows, **script.table)
    by = [*axes, *_columns(rows, axes, str)]
    values = _columns(rows, [*by, "seed"], int | float)
    places = {tuple(row.get(name) for name in [*by, "seed"]) for row in rows}
    return table(rows, by, values) if values and len(places) == len(rows) else ""


def _columns(rows: Sequence[dict[str, Any]], known: Sequence[str], kind: Any) -> list[str]:
    """The further columns whose every entry is of that kind."""
    names = dict.fromkeys(name for row in rows for name in row if name not in known)
    return [
        name
        for name in names
        if all(isinstance(row[name], kind) for row in rows if row.get(name) is not None)
    ]
