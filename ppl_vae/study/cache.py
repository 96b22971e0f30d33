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
    """A folder, made if need be.

    Args:
        option: the option that names it, named in the error.
        path: where it is to be.

    Raises:
        InputError: when that cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(option, path, f"a folder that can be written ({error.strerror})")
    return path


def write(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all.

    Args:
        path: where it is to be.
        content: its bytes.
    """
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
    """What is kept of a finished cell.

    Args:
        rows: its rows.
        seconds: how long it took.
        cpu_seconds: processor time, in seconds.
        origin: the columns of `ppl_vae.study.origin`: where its rows come from.
    """

    rows: list[dict[str, Any]]
    seconds: float
    cpu_seconds: float
    origin: dict[str, str]


@dataclass(frozen=True)
class Cache:
    """A folder of cells' rows.

    Args:
        path: the folder.
    """

    path: Path

    def load(self, cell: Cell) -> Entry | None:
        """What is kept of a cell.

        Args:
            cell: the cell.

        Returns:
            Its entry; None if it is not there or is not what `save` writes.
        """
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
        """Keep a finished cell's rows, and no longer what it saved on the way.

        Writing the same cell again changes nothing.

        Args:
            cell: the cell.
            entry: what is kept of it.
        """
        kept = {**asdict(cell), **asdict(entry)}
        write(self.path / f"{cell.key}.json", json.dumps(kept).encode())
        self.failure(cell).unlink(missing_ok=True)
        shutil.rmtree(self.scratch(cell), ignore_errors=True)

    def save_failure(self, cell: Cell, text: str) -> Path:
        """Keep a failed cell's traceback, for a person to read; the cell stays to be computed.

        Args:
            cell: the cell.
            text: the traceback.

        Returns:
            The file it is in.
        """
        write(self.failure(cell), f"{cell}\n\n{text}".encode())
        return self.failure(cell)

    def failure(self, cell: Cell) -> Path:
        """The file for the traceback of a cell's failure.

        Args:
            cell: the cell.
        """
        return self.path / f"{cell.key}.failure.txt"

    def scratch(self, cell: Cell) -> Path:
        """The folder for what a cell saves on the way, to go on from after an interruption.

        Args:
            cell: the cell.
        """
        return self.path / "scratch" / cell.key

    def times(self, scale: str) -> Iterator[tuple[dict[str, Any], float]]:
        """Settings and seconds of every cell ever finished at a scale, whatever its code was.

        Args:
            scale: the scale.
        """
        for path in self.path.glob("*.json"):
            try:
                entry = json.loads(path.read_bytes())
                if entry["scale"] == scale:
                    yield entry["settings"], float(entry["seconds"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
