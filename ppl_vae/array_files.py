"""A user's own arrays, as numpy.save and numpy.savez wrote them: whole, or mapped from disk.

Knows two file formats; knows nothing of named data sets. Nothing in a file is executed: pickled
objects are refused.
"""

import hashlib
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ppl_vae import checks

__all__ = ["FILE_SPLITS", "check_file", "map_data", "read_arrays"]

# The splits of each kind of file; the first is its default.
FILE_SPLITS = {".npy": ("shuffled", "ordered"), ".npz": ("given",)}
PARTS = ("train", "validation", "test")
EXPECTED = "an array written by numpy.save (.npy) or arrays written by numpy.savez (.npz)"
SMALL_ARCHIVE, HIGHEST_RATIO = 2**28, 200  # bytes; of expanded to packed size
SMALLEST = 10  # rows of which a tenth can be held out


def map_data(path: str | os.PathLike[str]) -> Tensor:
    """The array in a .npy file as a tensor x (N, *event_shape) mapped from disk: for data larger
    than memory.

    A row is read when it is used, so that `fit` holds a minibatch at a time. uint8 pixels take the
    least room, and need no look through the whole file before a run. The file is never written to.
    Raises `InputError`.
    """
    try:
        # copy on write: what a caller does in place happens to memory of this process
        array = np.lib.format.open_memmap(path, "c")
    except Exception as error:  # see _load
        _refuse(Path(path), error)
    if array.dtype not in (np.uint8, np.float32, np.float64):  # in this machine's byte order
        checks.refuse(
            f"data file {path}", f"dtype {array.dtype.str}", "uint8 pixels, float32 or float64"
        )
    return torch.from_numpy(array)


def check_file(path: Path, checksum: str) -> str:
    """The file's checksum; `InputError` if it is another than `checksum`, where one is given, or
    there is no file.
    """
    try:
        with path.open("rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        checks.refuse(f"data file {path}", str(error.strerror), EXPECTED)
    if checksum and found != checksum:
        hint = "the file has changed since: put the old one back, or start a new run"
        checks.refuse(f"data file {path}", found, checksum, hint)
    return found


def read_arrays(
    path: Path, split: str, grey_levels: bool = True
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """(x, labels) of train, validation and test data: `path`.npz names them, `path`.npy is cut at
    80 % and 90 %. Bytes are pixels where `grey_levels`, else numbers.
    """
    arrays = _load(path)
    parts = (
        _named_parts(path, arrays) if path.suffix == ".npz" else _cut(path, arrays["array"], split)
    )
    if grey_levels and all(x.dtype == np.uint8 and x.max() <= 1 for x, _ in parts):
        checks.refuse(
            f"data file {path}",
            "uint8 values of 0 and 1 alone, which as pixels are all but black",
            "pixels from 0 to 255",
            "save array.astype(bool) for binary data",
        )
    return parts


def _cut(path: Path, array: np.ndarray, split: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
    x = _values(path, "array", array)
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
        checks.refuse(
            f"data file {path}", odd[0] if odd else "the content of another kind of file", EXPECTED
        )
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
    checks.refuse(f"data file {path}", f"{type(error).__name__}: {error}", EXPECTED)


def _named_parts(
    path: Path, arrays: dict[str, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    parts = [(_values(path, part, arrays[part]), arrays.get(f"{part}_labels")) for part in PARTS]
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


def _values(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """The array as it is, if it can be data x (N, *event_shape)."""
    if array.ndim < 2 or not array.size:
        checks.refuse(
            f"{name} in {path}", f"shape {array.shape}", "rows of values, (N, *event_shape)"
        )
    if array.dtype != np.uint8 and array.dtype.kind not in "fb":
        hint = "save array.astype('uint8') for pixels from 0 to 255, else array.astype('float32')"
        checks.refuse(
            f"{name} in {path}", f"dtype {array.dtype}", "uint8 pixels, floats or booleans", hint
        )
    largest = np.float64(checks.LARGEST)  # which half precision does not reach
    if (
        array.dtype.kind == "f" and not (finite := np.abs(array) < largest).all()
    ):  # NaN is not below, either
        first = int(np.flatnonzero(~finite.reshape(len(array), -1).all(1))[0])
        got = f"{int((~finite).sum())} NaN, infinite or huge values, the first in row {first}"
        checks.refuse(f"{name} in {path}", got, "finite numbers", "drop or impute them")
    return array
