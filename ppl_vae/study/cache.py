"""The rows of finished cells on disk, one JSON file a cell, so that nothing finished is ever
computed twice.

Knows files; must not know how rows are computed or shown. Nothing read from here is executed.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppl_vae.checks import refuse
from ppl_vae.files import atomic_write, parse_json
from ppl_vae.study.cells import Cell


def folder(option: str, path: Path) -> Path:
    """`path`, made if need be; raises `InputError` naming the option when that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(option, path, f"a folder that can be written ({error.strerror})")
    return path


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path` whole or not at all."""
    with atomic_write(path) as file:
        file.write(content)


def _is_entry(entry: Any, cell: Cell) -> bool:
    """Whether a file's content has rows of this cell, numbers of seconds and their origin."""
    if not isinstance(entry, dict) or not isinstance(entry.get("rows"), list):
        return False
    own = {**cell.settings, "seed": cell.seed}
    for row in entry["rows"]:
        if not isinstance(row, dict) or any(row.get(axis) != own[axis] for axis in own):
            return False
    origin = entry.get("origin")
    if not isinstance(origin, dict) or not all(isinstance(text, str) for text in origin.values()):
        return False
    seconds = [entry.get("seconds"), entry.get("cpu_seconds")]
    return all(isinstance(s, int | float) and not isinstance(s, bool) for s in seconds)


@dataclass(frozen=True)
class Entry:
    """What is kept of a finished cell: its rows, how long it took, and where its rows come from.

    `origin` holds the columns of `ppl_vae.study.origin`.
    """

    rows: list[dict[str, Any]]
    seconds: float
    cpu_seconds: float
    origin: dict[str, str]


@dataclass(frozen=True)
class Cache:
    """A folder of cells' rows."""

    path: Path

    def load(self, cell: Cell) -> Entry | None:
        """What is kept of the cell; None if it is not there or is not what `save` writes."""
        try:
            entry = parse_json((self.path / f"{cell.key}.json").read_bytes())
        except (OSError, ValueError):
            return None
        if not _is_entry(entry, cell):
            return None
        return Entry(
            entry["rows"], float(entry["seconds"]), float(entry["cpu_seconds"]), entry["origin"]
        )

    def save(self, cell: Cell, entry: Entry) -> None:
        """Keep a finished cell's rows, and no longer what it saved on the way; writing the same
        cell again changes nothing.
        """
        kept = {**asdict(cell), **asdict(entry)}
        write(self.path / f"{cell.key}.json", json.dumps(kept).encode())
        self.failure(cell).unlink(missing_ok=True)
        shutil.rmtree(self.scratch(cell), ignore_errors=True)

    def save_failure(self, cell: Cell, text: str) -> Path:
        """Keep a failed cell's traceback, for a person to read; the cell stays to be computed."""
        write(self.failure(cell), f"{cell}\n\n{text}".encode())
        return self.failure(cell)

    def failure(self, cell: Cell) -> Path:
        """The file for the traceback of the cell's failure."""
        return self.path / f"{cell.key}.failure.txt"

    def scratch(self, cell: Cell) -> Path:
        """The folder for what the cell saves on the way, to go on from after an interruption."""
        return self.path / "scratch" / cell.key

    def times(self, scale: str) -> Iterator[tuple[dict[str, Any], float]]:
        """Settings and seconds of every cell ever finished at that scale, whatever its code was."""
        for path in self.path.glob("*.json"):
            try:
                entry = json.loads(path.read_bytes())
                if entry["scale"] == scale:
                    yield entry["settings"], float(entry["seconds"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
