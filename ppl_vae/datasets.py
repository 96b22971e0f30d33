"""Data sets by name or from a user's own file: found or downloaded, checked, split and binarised.

Knows formats, splits and scales. Must not know models, training or the command line: everything
else sees only the tensors of a `Dataset`. No byte of a named data set is parsed before
`data_files.py` has verified its checksum.
"""

import gzip
import os
import pickle
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.array_files import (
    FILE_SPLITS,
    FOLDER,
    SMALLEST,
    LargeFile,
    Shards,
    check_file,
    file_kind,
    is_large,
    map_data,
    read_arrays,
)
from ppl_vae.data_files import SOURCES, fetch, find, remember

__all__ = ["BINARIZATIONS", "SPLITS", "Dataset", "load_data", "map_data"]

BINARIZATIONS = ("none", "static", "dynamic")
# The splits each data set knows; the first is its default.
SPLITS = {
    "digits": ("shuffled",),
    "mnist": ("standard",),
    "fashion_mnist": ("standard",),
    "binarized_mnist": ("standard",),
    "frey_faces": ("shuffled", "ordered"),
    "omniglot": ("standard",),
    "uniform_square": ("standard",),
}
# Omniglot's characters to train on, to test on, and those of the former that validate.
OMNIGLOT = (24_345, 8_070, 1_345)
# By which grey levels that were computed may lie outside [0, 1].
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set, ready to fit.

    `train`, `validation`, `test` are float32 tensors (N, *event_shape) in [0, 1] (floats of a
    user's file are as they are there); the matching labels are int64 tensors (N,), or None where
    the data have none. `split` and `binarization` name how the tensors were made. Under "dynamic",
    `train` holds the grey values, read as probabilities from which `fit` draws anew each epoch.
    `checksum` is that of a user's own file; named data are checked against the library's. Of a
    file larger than memory `train` is a map-style data set, which reads what is asked for. `grey`
    says whether bytes of a file are grey levels, in [0, 1] here, or numbers as they are there.
    """

    name: str
    split: str
    binarization: str
    event_shape: tuple[int, ...]
    train: Any
    validation: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    validation_labels: Tensor | None = None
    test_labels: Tensor | None = None
    checksum: str = ""
    grey: bool = True

    def __repr__(self) -> str:
        """One line: name, split and sizes."""
        rows = " / ".join(str(len(part)) for part in (self.train, self.validation, self.test))
        made = f"split={self.split!r}, binarization={self.binarization!r}"
        return (
            f"Dataset({self.name!r}, {made}, event_shape={self.event_shape}, train / "
            f"validation / test: {rows})"
        )


def load_data(
    name: str,
    *,
    split: str | None = None,
    binarization: str = "none",
    seed: int = 0,
    num_data: int | None = None,
    checksum: str = "",
    grey: bool = True,
) -> Dataset:
    """The data set called `name`, or in the file of that name, as a frozen `Dataset` of tensors
    (N, *event_shape).

    Files are looked for in the folder $PPL_VAE_DATA, then in the user's cache folder, then
    downloaded there; each is verified by its checksum wherever it was found.

    - `digits`, (8, 8): `shuffled` 1297 / 250 / 250; bundled with scikit-learn, needs no network.
    - `mnist`, (28, 28): `standard` first 50000 / last 10000 of the 60000 / 10000.
    - `fashion_mnist`, (28, 28): `standard` as `mnist`.
    - `binarized_mnist`, (28, 28): `standard` 50000 / 10000 / 10000, drawn once by Larochelle; no
      labels.
    - `frey_faces`, (28, 20): `shuffled` 1565 / 200 / 200, or `ordered`: the film's first 1500
      frames / 465.
    - `omniglot`, (28, 28): `standard` 23000 / 1345 / 8070 grey characters, the first two parts
      permuted as by Burda et al.; the label is the alphabet, 0 to 49. Nobody has published the
      file's checksum: that of the file read first is remembered.
    - `uniform_square`, (2,): `standard` num_data (default 10000) / a tenth / a tenth; the label is
      the quadrant.
    - `PATH.npy`, the array's shape: `shuffled` 80 % / 10 % / 10 %, or `ordered`: the same in the
      file's order.
    - `PATH.npz`, the arrays' shape: `given`: arrays `train`, `validation`, `test`, and if any
      `train_labels`, ...
    - `PATH.csv`, `PATH.parquet`, (columns,): as `PATH.npy`; columns of numbers, a first line of
      names or none. Needs pandas, `.parquet` pyarrow as well.
    - `FOLDER`, of .npy files whose rows follow one another: as `PATH.npy`.

    A folder, and a .npy file of a gigabyte in single precision, stay on the disk: a minibatch is
    read when it is used, and a tenth each, but no more than 10000 rows, is held out.

    Frey Face is a film, so neighbouring frames are near copies: `ordered` asks for extrapolation to
    unseen poses, `shuffled` (permuted by seed 123) for interpolation. `ordered` has no third part:
    its validation and test sets are the same last 465 frames. Both permutations are fixed, whatever
    `seed` is.

    `binarization`: "none" keeps grey values; "static" draws every pixel b ~ Bernoulli(x) once, from
    `seed`; "dynamic" draws validation and test so, and leaves `train` grey for `fit` to draw anew
    each epoch. `binarized_mnist` is always "static". `seed` also draws the `uniform_square`;
    `num_data` is that set's alone. Of a user's file, uint8 values are divided by 255, floats and
    booleans are taken as they are; with `grey=False` whole numbers of any type are numbers as they
    are, such as counts. With `checksum`, it has to be the very file.

    Raises `InputError`, in one line, for an unknown name, split or binarisation, for `num_data`
    where it has no meaning, and for a file that is missing, damaged or not what its name says.

    Sources: LeCun et al., Gradient-based learning applied to document recognition, 1998; Xiao et
    al., Fashion-MNIST, 2017; Larochelle and Murray, The neural autoregressive distribution
    estimator, 2011, section 6; Omniglot: Lake et al., Human-level concept learning through
    probabilistic program induction, 2015, in the form of Burda et al., Importance weighted
    autoencoders, 2016, section 5; the shuffled Frey
    split: van den Berg et al., Sylvester normalizing flows for variational inference, 2018, section
    5.
    """
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    own = file_kind(name) if isinstance(name, str) and name not in SPLITS else ""
    if not own:
        files = ", ".join(suffix for suffix in FILE_SPLITS if suffix != FOLDER)
        checks.choice(f"data set (a name, a file {files}, or a folder of .npy)", name, SPLITS)
    known = FILE_SPLITS[own] if own else SPLITS[name]
    split = checks.choice(f"split of {name}", known[0] if split is None else split, known)
    checks.seed(seed)
    checks.choice("binarization", binarization, BINARIZATIONS)
    if not isinstance(checksum, str):
        checks.refuse("checksum", repr(checksum), "a text such as 'sha256:...', or '' for none")
    if not checks.truth("grey", grey) and (not own or binarization != "none"):
        subject = f"grey of {name}" if not own else f"grey under binarization '{binarization}'"
        checks.refuse(subject, "False", "True: its values are grey levels")
    _check_meaning(name, binarization, num_data, "" if own else checksum)
    if own:
        name = str(Path(os.path.expanduser(name)).resolve())
        checksum = check_file(Path(name), checksum)
        if own == FOLDER or (own == ".npy" and is_large(Path(name))):
            return _large(Path(name), split, binarization, seed, checksum, grey)
        parts = _own_parts(Path(name), split, binarization, grey)
    else:
        parts = (
            _uniform_square(seed, num_data or 10_000)
            if name == "uniform_square"
            else _READERS[name](split)
        )
    tensors = _binarize(
        [_unit_interval(part.x, part.maximum) for part in parts], binarization, seed
    )
    labels = [
        None if part.labels is None else torch.from_numpy(part.labels.astype(np.int64))
        for part in parts
    ]
    made = "static" if name == "binarized_mnist" else binarization
    arrays: list[Any] = [*tensors, *labels, checksum, grey]
    return Dataset(name, split, made, tuple(tensors[0].shape[1:]), *arrays)


def _check_meaning(name: str, binarization: str, num_data: int | None, checksum: str) -> None:
    """Refuse the arguments that the data set called `name` cannot honour."""
    if checksum:
        checks.refuse(
            f"checksum of {name}", checksum, "none: the library knows that of a named data set"
        )
    if num_data is not None and name != "uniform_square":
        refuse_to = "leave it out, or take rows of the tensors: data.train[:1000]"
        checks.refuse(
            f"num_data of {name}",
            num_data,
            "nothing: only uniform_square has a free size",
            refuse_to,
        )
    if num_data is not None:
        checks.integer("num_data", num_data)
    if name == "uniform_square" and binarization != "none":
        checks.refuse(
            "binarization of uniform_square",
            repr(binarization),
            "'none': coordinates are not pixels",
        )
    if name == "binarized_mnist" and binarization == "dynamic":
        hint = "load mnist with binarization='dynamic'"
        checks.refuse(
            "binarization of binarized_mnist",
            repr(binarization),
            "'none' or 'static': it is binary",
            hint,
        )


class _Part(NamedTuple):
    """One split part: values x (N, *event_shape) in [0, maximum], and labels (N,) or None."""

    x: np.ndarray
    maximum: float
    labels: np.ndarray | None = None


def _unit_interval(x: np.ndarray, maximum: float) -> Tensor:
    return torch.from_numpy(np.divide(x, np.float32(maximum), dtype=np.float32))


def _stream(*key: int) -> np.random.RandomState:
    # RandomState, because numpy guarantees its stream for ever: a newer numpy must not change the
    # data.
    return np.random.RandomState(np.random.MT19937(list(key)))


def _binarize(parts: list[Tensor], binarization: str, seed: int) -> list[Tensor]:
    """Draw b ~ Bernoulli(x) once for the parts that `binarization` fixes, each from its own
    stream.
    """
    first = {"static": 0, "dynamic": 1, "none": len(parts)}[binarization]
    return [_draw(x, _stream(seed, i)) if i >= first else x for i, x in enumerate(parts)]


def _draw(x: Tensor, random: np.random.RandomState) -> Tensor:
    # In blocks: the uniform draws are float64, and those of all of MNIST would take 300 MB.
    drawn = [
        (torch.from_numpy(random.random_sample(block.shape)) < block).float()
        for block in x.split(1000)
    ]
    return torch.cat(drawn).masked_fill(x.isnan(), torch.nan)  # what was not observed stays so


# --------------------------------------------------------------------------------------------------
# - What the files hold


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array in a gzipped idx file: two zero bytes, type 8, number of axes, big-endian
    sizes, values.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (EOFError, OSError, zlib.error) as error:
        checks.refuse(
            f"{path}",
            f"unreadable gzip data ({error})",
            "a whole .gz file",
            "remove it and load again",
        )
    magic = bytes([0, 0, 8, len(shape)])
    if raw[:4] != magic:
        checks.refuse(
            f"magic number of {path}",
            raw[:4].hex() or "an empty file",
            f"{magic.hex()} (idx, uint8)",
        )
    header = 4 + 4 * len(shape)
    got = tuple(np.frombuffer(raw[4:header].ljust(header - 4, b"\0"), dtype=">u4").tolist())
    if got != shape or len(raw) - header != np.prod(shape):
        checks.refuse(
            f"array in {path}", f"sizes {got} and {len(raw) - header} values", f"sizes {shape}"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def _read_amat(path: Path, rows: int) -> np.ndarray:
    """Text rows of 784 zeros and ones as uint8 (rows, 28, 28)."""
    raw = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    values = raw[(raw == ord("0")) | (raw == ord("1"))] - ord("0")
    if values.size != rows * 784:
        checks.refuse(f"text in {path}", f"{values.size} zeros and ones", f"{rows} rows of 784")
    return values.reshape(rows, 28, 28)


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and refuses to import anything else, so that reading executes no code
    of the file.
    """

    def find_class(self, module: str, name: str) -> Any:
        rebuild: Callable = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
        known = {"_reconstruct": rebuild, "ndarray": np.ndarray, "dtype": np.dtype}
        if module not in ("numpy", "numpy.core.multiarray") or name not in known:
            checks.refuse(
                "pickled array", f"a reference to {module}.{name}", "numpy arrays and nothing else"
            )
        return known[name]


def _read_pickled_frames(path: Path) -> np.ndarray:
    """Frey Face frames (1965, 28, 20) from a Python 2 pickle of a list of one uint8 array (1965,
    560).
    """
    with path.open("rb") as file:
        # Python 2 kept array bytes in its str type; latin1 maps each byte to the character of the
        # same number.
        content = _ArrayUnpickler(file, encoding="latin1").load()
    shapes = [getattr(item, "shape", None) for item in content] if isinstance(content, list) else []
    if shapes != [(1965, 560)]:
        checks.refuse(
            f"pickle in {path}", type(content).__name__, "a list of one array (1965, 560)"
        )
    return content[0].reshape(1965, 28, 20)


# --------------------------------------------------------------------------------------------------
# - The data sets


def _large(
    path: Path, split: str, binarization: str, seed: int, checksum: str, grey: bool
) -> Dataset:
    """Data whose training part stays on the disk."""
    if binarization == "static":
        checks.refuse(
            f"binarization of {path}",
            "'static'",
            "'none' or 'dynamic': the data stay on the disk as they are",
        )
    source = Shards(path)
    if len(source) < SMALLEST:
        checks.refuse(f"data in {path}", f"{len(source)} rows", f"{SMALLEST} or more")
    train = LargeFile(source, split)
    held_out = [
        _unit_interval(rows.numpy(), 255 if grey and rows.dtype == torch.uint8 else 1)
        for rows in (train.validation, train.test)
    ]
    if binarization == "dynamic":
        _, *held_out = _binarize([torch.empty(0), *held_out], binarization, seed)
    validation, test = held_out
    return Dataset(
        str(path),
        split,
        binarization,
        tuple(validation.shape[1:]),
        train,
        validation,
        test,
        checksum=checksum,
        grey=grey,
    )


def _own_parts(path: Path, split: str, binarization: str, grey: bool) -> list[_Part]:
    arrays = read_arrays(path, split, grey)
    for x, _ in arrays:
        are_levels = x.dtype == np.uint8 and grey
        outside = ((x < 0) | (x > 1)).any()
        if binarization != "none" and not are_levels and outside:
            refused, hint = (
                f"values from {np.nanmin(x):.4g} to {np.nanmax(x):.4g}",
                "use 'none' for data that are no pixels",
            )
            checks.refuse(f"binarization of {path}", refused, "values in [0, 1]", hint)
    return [_Part(x, 255 if grey and x.dtype == np.uint8 else 1, labels) for x, labels in arrays]


def _digits(split: str) -> list[_Part]:
    from sklearn.datasets import load_digits  # here, because importing scikit-learn takes a second

    bundle = load_digits()
    order = np.random.RandomState(0).permutation(len(bundle.images))
    return [
        _Part(bundle.images[rows], 16, bundle.target[rows])
        for rows in np.split(order, (1297, 1547))
    ]


def _idx_images(name: str) -> Callable[[str], list[_Part]]:
    def read(split: str) -> list[_Part]:
        def array(filename: str, *shape: int) -> np.ndarray:
            return _read_idx(fetch(SOURCES[name], filename), shape)

        x, labels = (
            array("train-images-idx3-ubyte.gz", 60000, 28, 28),
            array("train-labels-idx1-ubyte.gz", 60000),
        )
        x_test, test_labels = (
            array("t10k-images-idx3-ubyte.gz", 10000, 28, 28),
            array("t10k-labels-idx1-ubyte.gz", 10000),
        )
        known = [_Part(x[rows], 255, labels[rows]) for rows in (slice(50000), slice(50000, None))]
        return [*known, _Part(x_test, 255, test_labels)]

    return read


def _binarized_mnist(split: str) -> list[_Part]:
    source, rows = SOURCES["binarized_mnist"], {"train": 50000, "valid": 10000, "test": 10000}
    if (archive := find(source, source.archive)) is not None:
        with np.load(archive) as arrays:
            return [_Part(arrays[part], 1) for part in rows]
    return [
        _Part(_read_amat(fetch(source, f"binarized_mnist_{part}.amat"), n), 1)
        for part, n in rows.items()
    ]


def _frey_faces(split: str) -> list[_Part]:
    frames = _frey_frames()
    if split == "ordered":
        held_out = _Part(frames[1500:], 255)
        return [_Part(frames[:1500], 255), held_out, held_out]
    order = np.random.RandomState(123).permutation(len(frames))
    return [_Part(frames[rows], 255) for rows in np.split(order, (1565, 1765))]


def _frey_frames() -> np.ndarray:
    source = SOURCES["frey_faces"]
    if (archive := find(source, source.archive)) is not None:
        with np.load(archive) as arrays:
            return arrays["images"]
    return _read_pickled_frames(fetch(source, "freyfaces.pkl"))


def _omniglot(split: str) -> list[_Part]:
    """The file's arrays have a datum in each column, and in it an image column after column."""
    source, name = SOURCES["omniglot"], "chardata.mat"
    path = fetch(source, name)
    arrays = _read_mat(path, ("data", "testdata", "target", "testtarget"))
    known, test, validation = OMNIGLOT
    parts = []
    for pixels, alphabets, size in (("data", "target", known), ("testdata", "testtarget", test)):
        x, y = arrays[pixels], arrays[alphabets]
        shapes = x.shape, y.shape[1]
        if shapes != ((784, size), size) or not ((x > -ROUNDING) & (x < 1 + ROUNDING)).all():
            checks.refuse(
                f"arrays in {path}",
                f"{pixels} {x.shape} and {alphabets} {y.shape}",
                f"(784, {size}), in [0, 1], and (alphabets, {size})",
                "remove it and load again",
            )
        parts.append((x.clip(0, 1).T.reshape(-1, 28, 28).transpose(0, 2, 1), y.argmax(0)))
    remember(source, name, path)
    (x, labels), held_out = parts
    order = np.split(np.random.RandomState(123).permutation(known), [known - validation])
    return [
        *(_Part(x[rows], 1, labels[rows]) for rows in order),
        _Part(held_out[0], 1, held_out[1]),
    ]


def _read_mat(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """These arrays of numbers in a MATLAB file."""
    from scipy.io import loadmat

    try:
        arrays = loadmat(path, variable_names=list(names))
    except Exception as error:  # of many kinds where a file is damaged
        got = f"{type(error).__name__}: {error}"
        checks.refuse(f"{path}", got, "a MATLAB file", "remove it and load again")
    missing = [name for name in names if np.ndim(arrays.get(name)) != 2]
    if missing:
        hint = "remove it and load again"
        checks.refuse(f"{path}", f"no array {missing[0]}", f"arrays {', '.join(names)}", hint)
    return {name: arrays[name] for name in names}


def _uniform_square(seed: int, num_data: int) -> list[_Part]:
    """Points uniform on [0, 1]^2; label 0 lower left, 1 lower right, 2 upper left, 3 upper
    right.
    """
    sizes = (num_data, -(-num_data // 10), -(-num_data // 10))
    points = [_stream(seed, i).random_sample((n, 2)) for i, n in enumerate(sizes)]
    return [_Part(x, 1, (x > 0.5) @ np.array([1, 2])) for x in points]


_READERS: Mapping[str, Callable[[str], list[_Part]]] = {
    "digits": _digits,
    "mnist": _idx_images("mnist"),
    "fashion_mnist": _idx_images("fashion_mnist"),
    "binarized_mnist": _binarized_mnist,
    "frey_faces": _frey_faces,
    "omniglot": _omniglot,
}
