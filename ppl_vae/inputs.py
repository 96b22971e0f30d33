"""What a user brings as x: arrays of numpy, frames of pandas and map-style data sets of torch, as
tensors.

Knows types and numbers; knows nothing of likelihoods, files or training. What cannot be data is
refused with the line that makes it acceptable.
"""

import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Union

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from ppl_vae import checks

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "Data",
    "Rows",
    "Source",
    "array_to_tensor",
    "check_map_style",
    "frame_to_array",
    "in_memory",
    "read_rows",
]

# Types of a frame's columns that single precision holds exactly.
SMALL = ("bool", "int8", "int16", "uint8", "uint16", "float16", "float32")
# Items read at once where a data set is read whole.
BLOCK = 10_000


class Rows(TorchDataset[Tensor]):
    """Abstract: a map-style data set that reads many rows in one go, as files on a disk do."""

    @abstractmethod
    def __len__(self) -> int:
        """N, the number of rows."""

    @abstractmethod
    def read(self, index: np.ndarray) -> Tensor:
        """These rows.

        Args:
            index: (M,), whole numbers from 0 to N - 1, in any order.

        Returns:
            x (M, *event_shape), in memory of its own.
        """

    def __getitem__(self, index: Any) -> Tensor:
        """One row for a number, several for a slice or a tensor of numbers."""
        if isinstance(index, slice):
            return self.read(np.arange(*index.indices(len(self))))
        if isinstance(index, Tensor | np.ndarray | Sequence):
            return self.read(np.asarray(index))
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.read(np.asarray([int(index) % len(self)]))[0]


# What every function that takes x takes: (N, *event_shape).
Data = Union[Tensor, np.ndarray, "DataFrame", TorchDataset]
# What `fit` streams: a tensor, which may be mapped from a file, or a map-style data set.
Source = Tensor | TorchDataset


def in_memory(subject: str, x: object) -> Any:
    """`x` as a tensor, if it is a tensor, an array, a frame or a map-style data set, else as it is.

    Raises:
        InputError: for what holds no numbers, such as categories and dates.
    """
    if isinstance(x, Tensor):
        return x
    check_map_style(subject, x)
    if isinstance(x, TorchDataset):
        return _all_rows(subject, x)
    return array_to_tensor(subject, x)


def array_to_tensor(subject: str, x: object) -> Any:
    """`x` as a tensor, if it is an array or a frame, else as it is; an array's memory is shared."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(x, pandas.Series):
        checks.refuse(subject, "a Series", "rows of columns", "use x.to_frame()")
    if pandas is not None and isinstance(x, pandas.DataFrame):
        x = frame_to_array(subject, x)
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(x):
        checks.refuse(subject, f"a sparse {type(x).__name__}", "a dense array", "use x.toarray()")
    if not isinstance(x, np.ndarray):
        return x
    array = _numbers(subject, x)
    with warnings.catch_warnings():
        # an array that may not be written to, such as one mapped from a file: nothing here writes
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _numbers(subject: str, array: np.ndarray) -> np.ndarray:
    """The array in a type that torch has; raises `InputError` for what is no number."""
    if isinstance(array, np.ma.MaskedArray):
        checks.refuse(subject, "a masked array", "numbers", "drop or impute the masked entries")
    kind, dtype = array.dtype.kind, str(array.dtype)
    hints = {
        "O": 'use np.stack(x).astype("float32")',
        "V": "use numpy.lib.recfunctions.structured_to_unstructured(x)",
        "U": "encode a column of texts by np.unique(x, return_inverse=True)[1]",
        "M": 'use (x - x.min()) / np.timedelta64(1, "D")',
        "m": 'use x / np.timedelta64(1, "D")',
        "c": "use np.stack([x.real, x.imag], 1)",
    }
    if kind not in "biuf":
        checks.refuse(f"{subject}'s dtype", dtype, "numbers", hints.get(kind, ""))
    array = np.asarray(array)
    if kind == "b":
        return array.astype(np.float32)
    if kind == "f" and array.itemsize > 8:
        return array.astype(np.float64)
    if kind == "u" and array.itemsize > 1:  # torch has no arithmetic on these
        array = array.astype(np.int32 if array.itemsize == 2 else np.int64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(array) if any(step < 0 for step in array.strides) else array


def frame_to_array(subject: str, frame: Any) -> np.ndarray:
    """The numbers of a pandas frame, (N, columns), missing ones as NaN.

    In single precision where that holds every column exactly, else in double.

    Raises:
        InputError: for a column of categories, texts, dates or complex numbers.
    """
    import pandas

    if not len(frame.columns):
        checks.refuse(subject, "a frame without columns", "a column for each number of a datum")
    for position, name in enumerate(frame.columns):
        column = frame.iloc[:, position]
        dtype = column.dtype
        complex_numbers = pandas.api.types.is_complex_dtype(dtype)
        if not pandas.api.types.is_numeric_dtype(dtype) or complex_numbers:
            _refuse_column(subject, name, column)
    small = all(str(dtype).lower() in SMALL for dtype in frame.dtypes)
    return frame.to_numpy(dtype=np.float32 if small else np.float64, na_value=np.nan)


def _refuse_column(subject: str, name: object, column: Any) -> NoReturn:
    import pandas

    dtype, one = column.dtype, f"frame[{name!r}]"
    dummies = f", or pd.get_dummies(frame, columns=[{name!r}], dtype=float)"
    if isinstance(dtype, pandas.CategoricalDtype):
        got = f"{len(dtype.categories)} categories"
        hint = _instead(name, f"{one}.cat.codes") + dummies
    elif pandas.api.types.is_datetime64_any_dtype(dtype):
        got = "dates"
        hint = _instead(name, f"({one} - {one}.min()).dt.total_seconds()")
    elif pandas.api.types.is_timedelta64_dtype(dtype):
        got, hint = "durations", _instead(name, f"{one}.dt.total_seconds()")
    elif pandas.api.types.is_complex_dtype(dtype):
        got, hint = "complex numbers", "use a column each for real and imaginary parts"
    elif _are_numbers(column):
        got, hint = f"numbers of dtype {dtype}", _instead(name, f"{one}.astype(float)")
    else:
        got = f"texts (dtype {dtype})"
        hint = _instead(name, f'{one}.astype("category").cat.codes') + dummies
    checks.refuse(f"column {name!r} of {subject}", got, "numbers", hint)


def _instead(name: object, numbers: str) -> str:
    """The advice to put these numbers in place of a column."""
    return f"use frame.assign(**{{{str(name)!r}: {numbers}}})"


def _are_numbers(column: Any) -> bool:
    try:
        column.astype(float)
    except (TypeError, ValueError):
        return False
    return True


# --------------------------------------------------------------------------------------------------
# - Map-style data sets of torch


def check_map_style(subject: str, x: object) -> None:
    """`InputError` for what looks like a map-style data set and is none, and for an empty one."""
    if isinstance(x, DataLoader):
        checks.refuse(subject, "a DataLoader", "its data set", "use loader.dataset")
    if isinstance(x, IterableDataset):
        checks.refuse(
            subject,
            "an IterableDataset, which has no order to go on in",
            "a map-style data set, with __len__ and __getitem__",
            "write its rows to .npy files and use map_data on their folder",
        )
    if isinstance(x, TorchDataset):
        try:
            size = len(x)  # type: ignore[arg-type]
        except TypeError:
            checks.refuse(subject, f"{type(x).__name__} without a length", "one with __len__")
        if size < 1:
            checks.refuse(f"{subject}'s number of rows", size, "at least 1")


def read_rows(subject: str, source: Source, index: np.ndarray) -> Tensor:
    """Rows of a tensor or a map-style data set, (M, *event_shape).

    An item of a data set is x itself, or a sequence that begins with it, such as (x, label).

    Args:
        subject: what to call the data in an error.
        source: where they are.
        index: (M,), numbers of rows.
    """
    if isinstance(source, Tensor):
        return source[torch.from_numpy(index).to(source.device)]
    if isinstance(source, Rows):
        return source.read(index)
    return _stacked(subject, [source[int(i)] for i in index])


def _stacked(subject: str, items: Iterable[Any]) -> Tensor:
    rows = []
    for item in items:
        value = item[0] if isinstance(item, tuple | list) and len(item) else item
        if isinstance(value, float | int):
            value = torch.tensor(value)
        value = array_to_tensor(f"an item of {subject}", value)
        if not isinstance(value, Tensor):
            checks.refuse(
                f"an item of {subject}",
                type(value).__name__,
                "a tensor or an array x, or a pair (x, label)",
                "let the data set's transform make one, such as torchvision's ToTensor()",
            )
        rows.append(value)
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) > 1:
        first, second = sorted(shapes)[:2]
        checks.refuse(f"items of {subject}", f"shapes {first} and {second}", "one shape")
    return torch.stack(rows)


def _all_rows(subject: str, source: TorchDataset) -> Tensor:
    """A data set read whole, for what needs all data at once."""
    if type(source) is TensorDataset:
        return source.tensors[0]
    size = len(source)  # type: ignore[arg-type]
    starts = range(0, size, BLOCK)
    blocks = [np.arange(start, min(start + BLOCK, size)) for start in starts]
    return torch.cat([read_rows(subject, source, block) for block in blocks])
