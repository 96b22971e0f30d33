"""Files that appear whole or not at all. Knows bytes and folders; knows nothing of what is in
them.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ppl_vae import checks

__all__ = ["atomic_write", "remove_unfinished", "saved"]


@contextmanager
def saved(path: Path) -> Iterator[IO[bytes]]:
    """`atomic_write` for what a user waits for: `InputError` where the disk does not take it."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        checks.refuse(
            f"saving {path}",
            f"{type(error).__name__}: {error.strerror}",
            "a disk that takes the file",
            "free some space; the file that was there before is whole",
        )


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` whole, after its bytes are on the disk, or not at
    all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.chmod(
            name, 0o644
        )  # as any other file of the user's: a temporary one is readable by no one else
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_unfinished(path: Path) -> None:
    """Remove what processes killed while they wrote `path` have left; no process may be writing it
    now.
    """
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
