"""A user's own files of arrays and tables, whole or mapped from disk.

Knows the formats; knows nothing of named data sets. Nothing in a file is executed: pickled objects
are refused.
"""

import csv
import hashlib
import itertools
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.inputs import Rows, Source, frame_to_array
from ppl_vae.permutation import KeyedPermutation

__all__ = [
    "ARRAYS",
    "FILE_SPLITS",
    "FOLDER",
    "LARGE",
    "SMALLEST",
    "LargeFile",
    "Shards",
    "check_file",
    "file_kind",
    "is_large",
    "map_data",
    "read_arrays",
]

FOLDER = "a folder"
# The splits of each kind of file; the first is its default.
FILE_SPLITS = {
    ".npy": ("shuffled", "ordered"),
    ".npz": ("given",),
    ".csv": ("shuffled", "ordered"),
    ".parquet": ("shuffled", "ordered"),
    FOLDER: ("shuffled", "ordered"),
}
TABLES = (".csv", ".parquet")
ARRAYS = (".npy", ".npz", FOLDER)
PARTS = ("train", "validation", "test")
EXPECTED = {
    ".npy": "an array written by numpy.save (.npy) or arrays written by numpy.savez (.npz)",
    ".npz": "an array written by numpy.save (.npy) or arrays written by numpy.savez (.npz)",
    ".csv": "a table of numbers with commas between them, one line a datum",
    ".parquet": "a table of numbers as pandas' to_parquet writes it",
    FOLDER: "a folder of .npy files of one type and shape, which are read in the order of names",
}
SMALL_ARCHIVE, HIGHEST_RATIO = 2**28, 200  # bytes; of expanded to packed size
SMALLEST = 10  # rows of which a tenth can be held out
# Bytes in single precision from which on a .npy file stays on the disk.
LARGE = 2**30
# Rows held out of data that are not in memory, for validation and for test each.
HELD_OUT = 10_000
# Bytes at either end of a large file that its checksum is made of, together with its size.
ENDS = 2**20
# Files of a folder that are open at once.
FILES_OPEN = 200


def file_kind(name: str) -> str:
    """What a user's own data are kept in: one of the keys of `FILE_SPLITS`; "" where `name` is no
    such file.
    """
    suffix = Path(name).suffix
    if suffix in FILE_SPLITS:
        return suffix
    return FOLDER if os.path.isdir(os.path.expanduser(name)) else ""


def map_data(path: str | os.PathLike[str]) -> Source:
    """The array in a .npy file, or in a folder of these, as x (N, *event_shape) mapped from disk:
    for data larger than memory.

    A row is read when it is used, so that `fit` holds a minibatch at a time. uint8 pixels take the
    least room, and need no look through the whole file before a run; nor do data in a folder, each
    minibatch of which is checked as it is read. No file is ever written to.

    Args:
        path: of a file, or of a folder whose .npy files hold the rows, in the order of their names.

    Returns:
        A tensor, or for a folder a map-style data set of torch's.

    Raises:
        InputError: for a file that is missing, damaged or of another type.
    """
    if os.path.isdir(path):
        return Shards(path)
    try:
        # copy on write: what a caller does in place happens to memory of this process
        array = np.lib.format.open_memmap(path, "c")
    except Exception as error:  # see _load
        _refuse(Path(path), error)
    _check_mapped(Path(path), array.dtype)
    return torch.from_numpy(array)


def _check_mapped(path: Path, dtype: np.dtype) -> None:
    """`InputError` unless numbers of this type can be used as they lie on the disk."""
    signed = dtype.kind in "if" and dtype.itemsize <= 8
    if not dtype.isnative or not (signed or dtype == np.uint8):
        checks.refuse(
            f"data file {path}",
            f"dtype {dtype.str}",
            "uint8 pixels, float32 or float64, or signed whole numbers that are counts",
            "save array.astype('float32')",
        )


class Shards(Rows):
    """The rows of a .npy file, or of all such files in a folder in the order of their names.

    Args:
        path: of a file, or of a folder whose files are all of one type and one event shape.

    Raises:
        InputError: for a folder without such files, and for files that do not fit together.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._shards = [_Shard.of(file) for file in _array_files(Path(path))]
        if not self._shards:
            checks.refuse(f"data in {path}", "no .npy files", EXPECTED[FOLDER])
        first = self._shards[0]
        for shard in self._shards:
            if (shard.dtype, shard.shape[1:]) != (first.dtype, first.shape[1:]):
                checks.refuse(
                    f"data file {shard.path}",
                    f"rows {shard.shape[1:]} of {shard.dtype}",
                    f"those of {first.path.name}, {first.shape[1:]} of {first.dtype}",
                )
        self._ends = np.cumsum([shard.shape[0] for shard in self._shards])
        self.event_shape, self.dtype = first.shape[1:], first.dtype
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: np.ndarray) -> Tensor:
        # in the order of the disk, where rows that follow one another are read at once
        order = np.argsort(index, kind="stable")
        rows = np.asarray(index)[order]
        of_shard = np.searchsorted(self._ends, rows, side="right")
        apart = (np.diff(rows) != 1) | (np.diff(of_shard) != 0)
        limits = [0, *(np.flatnonzero(apart) + 1).tolist(), len(rows)]
        ordered = np.empty((len(rows), *self.event_shape), self.dtype)
        room, size = ordered.reshape(-1).view(np.uint8).data, ordered[:1].nbytes
        for start, stop in itertools.pairwise(limits):
            if start < stop:
                number = int(of_shard[start])
                self._fill(room[start * size : stop * size], number, int(rows[start]) * size)
        found = np.empty_like(ordered)
        found[order] = ordered
        return torch.from_numpy(found)

    def _fill(self, room: memoryview, number: int, place: int) -> None:
        """Read bytes into `room`, from a place that is counted over all shards."""
        shard = self._shards[number]
        before = (int(self._ends[number]) - shard.shape[0]) * (shard.nbytes // shard.shape[0])
        handle, offset = self._handle(number), shard.offset + place - before
        while room.nbytes:
            count = os.preadv(handle, [room], offset)
            if not count:
                got = "fewer rows than its first line says"
                checks.refuse(f"data file {shard.path}", got, EXPECTED[".npy"])
            room, offset = room[count:], offset + count

    def _handle(self, number: int) -> int:
        if number not in self._open:
            if len(self._open) >= FILES_OPEN:
                self._close()
            self._open[number] = os.open(self._shards[number].path, os.O_RDONLY)
        return self._open[number]

    def _close(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def __del__(self) -> None:
        if "_open" in self.__dict__:  # not where a file was refused
            self._close()

    def __getstate__(self) -> dict[str, Any]:
        """For a process that reads: it opens the files itself."""
        return {**self.__dict__, "_open": {}}


class _Shard:
    """One .npy file: where its numbers begin, and what they are."""

    def __init__(self, path: Path, offset: int, array: np.memmap) -> None:
        self.path, self.offset, self.nbytes = path, offset, array.nbytes
        self.shape, self.dtype = array.shape, array.dtype

    @classmethod
    def of(cls, path: Path) -> "_Shard":
        try:
            array = np.lib.format.open_memmap(path, "r")
        except Exception as error:  # see _load
            _refuse(path, error)
        _check_mapped(path, array.dtype)
        if array.ndim < 2 or not array.size:
            checks.refuse(
                f"data file {path}", f"shape {array.shape}", "rows of values, (N, *event_shape)"
            )
        if not array.flags.c_contiguous:
            hint = "save np.ascontiguousarray(array)"
            checks.refuse(f"data file {path}", "columns first", "rows first", hint)
        return cls(path, array.offset, array)


class LargeFile(Rows):
    """The training part of data that stay on the disk; what is held out is read.

    Args:
        source: all rows.
        split: "shuffled" draws the parts at random, the same in every process; "ordered" takes the
            last rows for validation and test.
    """

    def __init__(self, source: Rows, split: str) -> None:
        size = len(source)
        held_out = min(size // 10, HELD_OUT)
        self._source, self._size = source, size - 2 * held_out
        self._order = KeyedPermutation(size, 0) if split == "shuffled" else None
        self.validation, self.test = (
            self._read(np.arange(start, start + held_out))
            for start in (self._size, self._size + held_out)
        )

    def __len__(self) -> int:
        return self._size

    def read(self, index: np.ndarray) -> Tensor:
        return self._read(index)

    def _read(self, index: np.ndarray) -> Tensor:
        return self._source.read(index if self._order is None else self._order(index))


def is_large(path: Path) -> bool:
    """Whether the array in a .npy file is too large to be read as a whole."""
    try:
        return 4 * np.lib.format.open_memmap(path, "r").size >= LARGE
    except Exception:  # what is wrong with it is said where it is read
        return False


def check_file(path: Path, checksum: str) -> str:
    """The checksum of a file or a folder; `InputError` if it is another than `checksum`, where one
    is given, or there is no such file.

    That of more than a gigabyte is made of the files' sizes and of a megabyte at either end of
    each.
    """
    files = _array_files(path)
    try:
        size = sum(file.stat().st_size for file in files)
        found = _whole_digest(files) if size < LARGE else _ends_digest(files)
    except OSError as error:
        checks.refuse(f"data file {path}", str(error.strerror), EXPECTED[file_kind(str(path))])
    if checksum and found != checksum:
        hint = "the file has changed since: put the old one back, or start a new run"
        checks.refuse(f"data file {path}", found, checksum, hint)
    return found


def _array_files(path: Path) -> list[Path]:
    """The file itself, or the .npy files of a folder."""
    return sorted(path.glob("*.npy")) if path.is_dir() else [path]


def _whole_digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        if len(files) > 1:
            digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _ends_digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(ENDS))
            file.seek(max(0, size - ENDS))
            digest.update(file.read(ENDS))
    return f"ends-sha256:{digest.hexdigest()}"


def read_arrays(
    path: Path, split: str, grey: bool = True
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """(x, labels) of train, validation and test data: `path`.npz names them, an array or a table is
    cut at 80 % and 90 %. Whole numbers other than bytes are refused where bytes are `grey` levels.
    """
    if path.suffix in TABLES:
        return _cut(path, _read_table(path), split, grey)
    arrays = _load(path)
    if path.suffix == ".npz":
        parts = _named_parts(path, arrays, grey)
    else:
        parts = _cut(path, arrays["array"], split, grey)
    if grey and all(x.dtype == np.uint8 and x.max() <= 1 for x, _ in parts):
        checks.refuse(
            f"data file {path}",
            "uint8 values of 0 and 1 alone, which as pixels are all but black",
            "pixels from 0 to 255",
            "save array.astype(bool) for binary data",
        )
    return parts


def _read_table(path: Path) -> np.ndarray:
    """The numbers of a table, (N, columns)."""
    try:
        import pandas
    except ImportError:
        checks.refuse(
            f"data file {path}", "no package pandas", "it installed", "pip install pandas"
        )
    try:
        frame = pandas.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except ImportError:
        hint = "pip install pyarrow"
        checks.refuse(f"data file {path}", "no package pyarrow", "it installed", hint)
    except Exception as error:  # readers raise many kinds of errors on damaged files
        _refuse(path, error)
    first = frame.columns[0] if len(frame.columns) else ""
    numbered = str(first).startswith("Unnamed: 0")
    if numbered and np.array_equal(frame[first], np.arange(len(frame))):
        hint = "write it by frame.to_csv(path, index=False)"
        checks.refuse(f"data file {path}", "a first column of row numbers", "data alone", hint)
    return frame_to_array(f"data file {path}", frame)


def _read_csv(path: Path) -> Any:
    """A table with commas; its first line is a datum if it is made of numbers alone."""
    import pandas

    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next(csv.reader(file), [])
    return pandas.read_csv(path, header=None if _all_numbers(first) else 0, encoding="utf-8-sig")


def _all_numbers(texts: list[str]) -> bool:
    try:
        return bool([float(text) for text in texts])
    except ValueError:
        return False


def _cut(
    path: Path, array: np.ndarray, split: str, grey: bool
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    x = _values(path, "array", array, grey)
    if len(x) < SMALLEST:
        checks.refuse(
            f"data file {path}",
            f"{len(x)} rows",
            f"{SMALLEST} or more, a tenth of which can be held out",
        )
    if (
        split == "shuffled"
    ):  # a file's order often says something, and held-out data are to be like the others
        x = x[np.random.RandomState(0).permutation(len(x))]
    return [(part, None) for part in np.split(x, (len(x) * 8 // 10, len(x) * 9 // 10))]


def _load(path: Path) -> dict[str, np.ndarray]:
    """What the file holds, by name; the one array of a .npy file is called "array"."""
    try:
        with path.open("rb") as file:  # np.load by itself leaves a damaged archive open
            content = np.load(file)
            if isinstance(content, np.ndarray):
                arrays = {"array": content}
            else:
                arrays = _used_arrays(path, content)
    except checks.InputError:
        raise
    except Exception as error:  # numpy's readers raise a dozen kinds of errors on damaged files
        _refuse(path, error)
    odd = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if odd or isinstance(content, np.ndarray) == (path.suffix == ".npz"):
        got = odd[0] if odd else "the content of another kind of file"
        checks.refuse(f"data file {path}", got, EXPECTED[path.suffix])
    return arrays


def _used_arrays(path: Path, archive: np.lib.npyio.NpzFile) -> dict[str, np.ndarray]:
    """The arrays of a .npz file that mean something here, each of them expanded only if its size is
    what data of a file of this size can have.
    """
    if missing := [part for part in PARTS if part not in archive.files]:
        how = "write it by numpy.savez(path, train=..., validation=..., test=...)"
        checks.refuse(
            f"data file {path}",
            f"arrays {', '.join(archive.files) or 'none'}",
            f"{', '.join(missing)} too",
            how,
        )
    used = {*PARTS, *(f"{part}_labels" for part in PARTS)}
    assert archive.zip is not None
    members = [
        info for info in archive.zip.infolist() if info.filename.removesuffix(".npy") in used
    ]
    expanded = sum(info.file_size for info in members)
    packed = sum(info.compress_size for info in members)
    if expanded > SMALL_ARCHIVE and expanded > HIGHEST_RATIO * packed:
        checks.refuse(
            f"data file {path}",
            f"{packed} bytes that expand to {expanded}",
            f"arrays no more than {HIGHEST_RATIO} times as large as the file",
            "write them by numpy.savez if they are data",
        )
    return {name: archive[name] for name in archive.files if name in used}


def _refuse(path: Path, error: Exception) -> NoReturn:
    expected = EXPECTED.get(path.suffix, EXPECTED[".npy"])
    checks.refuse(f"data file {path}", f"{type(error).__name__}: {error}", expected)


def _named_parts(
    path: Path, arrays: dict[str, np.ndarray], grey: bool
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    parts = [
        (_values(path, part, arrays[part], grey), arrays.get(f"{part}_labels")) for part in PARTS
    ]
    first = parts[0][0]
    for part, (x, labels) in zip(PARTS, parts):
        if x.shape[1:] != first.shape[1:]:
            checks.refuse(
                f"{part} in {path}",
                f"event shape {x.shape[1:]}",
                f"that of train, {first.shape[1:]}",
            )
        if (x.dtype == np.uint8) != (first.dtype == np.uint8):
            checks.refuse(
                f"{part} in {path}",
                f"dtype {x.dtype}",
                f"that of train, {first.dtype}: one scale for all",
            )
        if labels is not None and (labels.shape != (len(x),) or labels.dtype.kind not in "iub"):
            got = f"shape {labels.shape}, dtype {labels.dtype}"
            checks.refuse(f"{part}_labels in {path}", got, f"{len(x)} whole numbers, one a row")
    return parts


def _values(path: Path, name: str, array: np.ndarray, grey: bool) -> np.ndarray:
    """The array as it is, if it can be data x (N, *event_shape)."""
    if array.ndim < 2 or not array.size:
        checks.refuse(
            f"{name} in {path}", f"shape {array.shape}", "rows of values, (N, *event_shape)"
        )
    if array.dtype != np.uint8 and array.dtype.kind not in ("fb" if grey else "fbiu"):
        hint = "save array.astype('uint8') for pixels from 0 to 255, else array.astype('float32')"
        hint += ", or take a likelihood of counts" if array.dtype.kind in "iu" else ""
        checks.refuse(
            f"{name} in {path}", f"dtype {array.dtype}", "uint8 pixels, floats or booleans", hint
        )
    largest = np.float64(checks.LARGEST)  # which half precision does not reach
    # NaN is what was not observed, which a model may be built for
    if array.dtype.kind == "f" and (huge := np.abs(array) >= largest).any():
        first = int(np.flatnonzero(huge.reshape(len(array), -1).any(1))[0])
        got = f"{int(huge.sum())} infinite or huge values, the first in row {first}"
        checks.refuse(f"{name} in {path}", got, "finite numbers", "drop or rescale them")
    return array
