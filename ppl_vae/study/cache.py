"""The rows of finished cells on disk, one JSON file a cell, so that nothing finished is ever
computed twice.

Knows files; must not know how rows are computed or shown. Nothing read from here is executed.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppl_vae import __version__
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
    """Whether a file's content has rows of this cell, and a number of seconds."""
    if not isinstance(entry, dict) or not isinstance(entry.get("rows"), list):
        return False
    own = {**cell.settings, "seed": cell.seed}
    for row in entry["rows"]:
        if not isinstance(row, dict) or any(row.get(axis) != own[axis] for axis in own):
            return False
    seconds = entry.get("cpu_seconds")
    return isinstance(seconds, int | float) and not isinstance(seconds, bool)


@dataclass(frozen=True)
class Cache:
    """A folder of cells' rows."""

    path: Path

    def load(self, cell: Cell) -> dict[str, Any] | None:
        """The cell's entry, {"rows": [...], "cpu_seconds": ...}; None if it is not there or is not
        what `save` writes.
        """
        try:
            entry = parse_json((self.path / f"{cell.key}.json").read_bytes())
        except (OSError, ValueError):
            return None
        if not _is_entry(entry, cell):
            return None
        return {"rows": entry["rows"], "cpu_seconds": float(entry["cpu_seconds"])}

    def save(self, cell: Cell, rows: list[dict], cpu_seconds: float) -> None:
        """Keep a finished cell's rows; writing the same cell again changes nothing."""
        entry = {**asdict(cell), "version": __version__, "cpu_seconds": cpu_seconds, "rows": rows}
        write(self.path / f"{cell.key}.json", json.dumps(entry).encode())
        self.failure(cell).unlink(missing_ok=True)

    def save_failure(self, cell: Cell, text: str) -> Path:
        """Keep a failed cell's traceback, for a person to read; the cell stays to be computed."""
        write(self.failure(cell), f"{cell}\n\n{text}".encode())
        return self.failure(cell)

    def failure(self, cell: Cell) -> Path:
        return self.path / f"{cell.key}.failure.txt"
