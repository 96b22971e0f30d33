"""What a study leaves behind: rows.csv, arrays.json.gz, provenance.json, figure.png, answer.md.

The first three hold all that is needed to make the last two again, whatever has become of the code
that computed the rows. Knows rows and the script's `draw` and `answer`; must not know how the rows
came about.
"""

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppl_vae import __version__, checks
from ppl_vae.study.cache import write
from ppl_vae.study.cells import Script, axis_values
from ppl_vae.study.origin import COLUMNS
from ppl_vae.study.statistics import ENOUGH_SEEDS, table

ROWS = "rows.csv"
ARRAYS = "arrays.json.gz"
PROVENANCE = "provenance.json"
FIGURE = "figure.png"
ANSWER = "answer.md"
# A cell of more than an hour of one core may have fewer seeds.
LONG_CELL = 3600.0
EARLIER = (
    "The figure is the one drawn when the study was run and may differ from its description above: "
    "the arrays that it is drawn from were not kept with the rows."
)
ENOUGH_SEEDS_OF_LONG_CELLS = 3


@dataclass(frozen=True)
class Provenance:
    """How a study's numbers came about.

    Args:
        command: the command that makes the results again.
        axes: names of the grid's axes.
        scale: the scale.
        seeds: number of seeds.
        cells: number of cells.
        finished: how many of them have rows.
        cpu_seconds: processor time of all of them, in seconds.
        version: of this package.
        selection: the texts of `--only`.
        notes: written by hand into provenance.json, where something has come to light since that
            these rows suffer from; they go when the study is run again.
    """

    command: str
    axes: Sequence[str]
    scale: str
    seeds: int
    cells: int
    finished: int
    cpu_seconds: float
    version: str = __version__
    selection: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def missing(self) -> int:
        """How many cells have no rows."""
        return self.cells - self.finished


@dataclass(frozen=True)
class Results:
    """A study's rows and how they came about.

    Args:
        rows: the rows.
        origins: the origin of each row, the columns of `ppl_vae.study.origin`.
        provenance: how they came about.
    """

    rows: list[dict[str, Any]]
    origins: list[dict[str, str]]
    provenance: Provenance


def write_results(script: Script, results: Results, folder: Path) -> str:
    """Write all the files.

    Drawing may fail for want of cells that are missing or not selected; with all of them its error
    is the script's.

    Args:
        script: the study.
        results: its results.
        folder: where the files are to be.

    Returns:
        The reason why figure and answer were left out; empty if they were not.
    """
    rows, origins = results.rows, results.origins
    write(folder / ROWS, rows_csv(rows, origins).encode())
    write(folder / PROVENANCE, (json.dumps(asdict(results.provenance), indent=1) + "\n").encode())
    arrays = [{name: row[name] for name in _nested(rows) if name in row} for row in rows]
    if any(arrays):
        write(folder / ARRAYS, gzip.compress(json.dumps(arrays).encode(), mtime=0))
    try:
        write(folder / FIGURE, figure_png(script.draw(rows)))
        write(folder / ANSWER, answer_md(script, results).encode())
    except Exception as error:
        if not (results.provenance.selection or results.provenance.missing):
            raise
        return f"{type(error).__name__}: {error}"
    return ""


def answer_again(script: Script, folder: Path) -> str:
    """Write figure and answer from the other files of a folder.

    Args:
        script: the study.
        folder: where the files are.

    Returns:
        The reason why the figure was left as it was; empty if it was not.

    Raises:
        InputError: where a file is missing or damaged.
    """
    results = read_results(script, folder)
    try:
        write(folder / FIGURE, figure_png(script.draw(results.rows)))
        left_out = ""
    except Exception as error:
        whole = not (results.provenance.selection or results.provenance.missing)
        if whole and (folder / ARRAYS).exists():
            raise
        left_out = f"{type(error).__name__}: {error}"
    write(folder / ANSWER, answer_md(script, results, EARLIER if left_out else "").encode())
    return left_out


def read_results(script: Script, folder: Path) -> Results:
    """What `write_results` wrote.

    Args:
        script: the study.
        folder: where the files are.

    Raises:
        InputError: where a file is missing or damaged.
    """
    levels = axis_values(script)
    try:
        provenance = Provenance(**json.loads((folder / PROVENANCE).read_text(encoding="utf-8")))
        with open(folder / ROWS, encoding="utf-8", newline="") as file:
            texts = list(csv.DictReader(file))
        arrays: list[dict[str, Any]] = [{} for _ in texts]
        if (folder / ARRAYS).exists():
            arrays = json.loads(gzip.decompress((folder / ARRAYS).read_bytes()))
        rows = [
            {**_row(text, levels), **nested} for text, nested in zip(texts, arrays, strict=True)
        ]
    except (OSError, ValueError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        checks.refuse(f"results in {folder}", got, "the files that a study wrote", "run the study")
    origins = [{name: text.get(name, "") for name in COLUMNS} for text in texts]
    return Results(rows, origins, provenance)


def _row(text: Mapping[str, str], levels: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A row of rows.csv as `run` gave it: an axis has one of its levels, another column what its
    text looks like.
    """
    row = {}
    for name, entry in text.items():
        if name in levels and entry in levels[name]:
            row[name] = levels[name][entry]
        elif name not in COLUMNS:
            row[name] = _value(entry)
    return row


def _value(text: str) -> Any:
    """The number, boolean or None that the text of a table's entry stands for, else the text."""
    plain = {"": None, "True": True, "False": False}
    if text in plain:
        return plain[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def rows_csv(rows: Sequence[dict[str, Any]], origins: Sequence[Mapping[str, str]]) -> str:
    """The rows and their origins as comma-separated values.

    Columns that hold lists anywhere are left out.

    Args:
        rows: the rows.
        origins: the origin of each row.
    """
    nested = _nested(rows)
    columns = dict.fromkeys(name for row in rows for name in row if name not in nested)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *COLUMNS], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, **origin} for row, origin in zip(rows, origins, strict=True))
    return text.getvalue()


def _nested(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns that hold a list or a dict anywhere."""
    found = dict.fromkeys(
        name for row in rows for name, value in row.items() if isinstance(value, list | dict)
    )
    return list(found)


def figure_png(figure: Any) -> bytes:
    """The figure as a PNG file's content.

    Args:
        figure: a matplotlib `Figure`.

    Raises:
        InputError: for what is no figure.
    """
    from matplotlib import pyplot

    if not hasattr(figure, "savefig"):
        checks.refuse("draw", type(figure).__name__, "a matplotlib Figure", "return the figure")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return content.getvalue()


def answer_md(script: Script, results: Results, about_figure: str = "") -> str:
    """Question, answer, table, figure and provenance, in markdown.

    Args:
        script: the study.
        results: its results.
        about_figure: a remark that stands under the figure.
    """
    rows, provenance = results.rows, results.provenance
    question, _, rest = script.question.partition("\n\n")
    parts = [
        f"# {script.name}: {' '.join(question.split())}",
        rest,
        script.answer(rows) if script.answer else "",
        *_cautions(provenance),
        _table(script, rows, provenance.axes),
        f"![figure]({FIGURE})",
        about_figure,
        _errors(script, provenance),
        _made(results),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _cautions(provenance: Provenance) -> Iterator[str]:
    """What a reader has to know before believing a verdict."""
    for note in provenance.notes:
        yield f"**{note}**"
    if provenance.missing:
        yield f"**{provenance.missing} of {provenance.cells} cells are missing.**"
    long = provenance.cpu_seconds > LONG_CELL * provenance.finished
    needed = ENOUGH_SEEDS_OF_LONG_CELLS if long else ENOUGH_SEEDS
    if provenance.seeds < needed:
        yield (
            f"Seeds: {provenance.seeds}. A final verdict asks for {needed}, so the verdicts here "
            "are provisional."
        )


def _errors(script: Script, provenance: Provenance) -> str:
    """What a ± means."""
    if provenance.seeds < 2:
        return "With one seed there are no intervals and no verdicts."
    return (
        "Every ± is half the width of Student's 95 % interval for a mean over "
        f"{provenance.seeds} seeds. {script.errors}"
    )


def _made(results: Results) -> str:
    """The command that makes the results again, and what made them."""
    provenance = results.provenance
    return (
        f"Made again by `{provenance.command}`. Scale: {provenance.scale}. Seeds: "
        f"{provenance.seeds}. Cells: {provenance.cells}. CPU seconds: "
        f"{provenance.cpu_seconds:.0f}. Package: ppl-vae {provenance.version}. "
        f"Commit: {_counted(results.origins, 'commit')}. "
        f"torch: {_counted(results.origins, 'torch_version')}. "
        f"Processor: {_counted(results.origins, 'processor')}."
    )


def _counted(origins: Sequence[Mapping[str, str]], column: str) -> str:
    """The entries of a column, with the number of rows of each where there are several."""
    counts = Counter(origin.get(column) or "not recorded" for origin in origins)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{entry} ({count} rows)" for entry, count in sorted(counts.items()))


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
