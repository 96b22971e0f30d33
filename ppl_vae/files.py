"""Files that appear whole or not at all, and words for what a disk refuses. Knows bytes, folders
and JSON; knows nothing of what is in them.
"""

import contextlib
import errno
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ppl_vae import checks

__all__ = ["atomic_write", "parse_json", "remove_unfinished", "saved", "side_matter"]

log = logging.getLogger(__name__)

# What to try, by the kind of error; what is not here has nothing to be tried.
HINTS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENOTDIR: "choose a path whose folders are folders",
    errno.EEXIST: "choose a path whose folders are folders",
    errno.ENAMETOOLONG: "choose a shorter name",
}
# Lists and objects inside one another; what this library writes has five.
DEEPEST = 50
_warned: set[str] = set()


@contextmanager
def saved(path: Path) -> Iterator[IO[bytes]]:
    """`atomic_write` for what a user waits for: `InputError` where the disk does not take it."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        hint = HINTS.get(error.errno or 0, "")
        kept = "the file that was there before is whole" if _is_file(path) else ""
        checks.refuse(
            f"saving {path}",
            f"{type(error).__name__}: {error.strerror or error}",
            "a place that takes the file",
            "; ".join(text for text in (hint, kept) if text),
        )


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` whole, after its bytes are on the disk, or not at
    all.

    Through a symbolic link, the file behind it is written. `InputError` where something else than
    an ordinary file is there, such as a folder, a named pipe or a device.
    """
    path = _behind_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "something that is no ordinary file"
        checks.refuse(f"saving {path}", f"{kind} of that name", "a new path, or that of a file")
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


@contextmanager
def side_matter(what: str) -> Iterator[None]:
    """A block whose failure to write must not end a run: it is said once in a process, and the run
    goes on.
    """
    try:
        yield
    except (OSError, checks.InputError) as error:
        text = f"{what} ({error})"
        if text not in _warned:
            _warned.add(text)
            log.warning(text)


def parse_json(content: bytes | str) -> Any:
    """The JSON value in `content`; `ValueError` if it is none, or nested deeper than anything that
    this library writes.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("values nested too deep") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [part for whole in level for part in _parts(whole)]
        if not level:
            return value
    raise ValueError("values nested too deep")


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def remove_unfinished(path: Path) -> None:
    """Remove what processes killed while they wrote `path` have left; no process may be writing it
    now.
    """
    path = _behind_links(path)
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)


def _behind_links(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError as error:  # links in a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    # some network drives refuse this, and the file is whole and has its name
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
