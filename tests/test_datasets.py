"""Data sets: what the tensors hold, which arguments are refused, and how each file format is read.

Knows the arrays. Where the files come from is tested in test_data_files.py. Tests that need the
real bytes are skipped unless $PPL_VAE_DATA names a folder with them.
"""

import dataclasses
import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ppl_vae import datasets
from ppl_vae.checks import InputError
from ppl_vae.datasets import load_data

REAL = Path(os.environ.get("PPL_VAE_DATA") or "no such folder")
needs_files = pytest.mark.skipif(
    not (REAL / "train-images-idx3-ubyte.gz").is_file(),
    reason="PPL_VAE_DATA names no folder with the real files",
)


# --------------------------------------------------------------------------------------------------
# - What the tensors hold


def sorted_rows(x: torch.Tensor) -> np.ndarray:
    rows = x.flatten(1).numpy()
    return rows[np.lexsort(rows.T)]


def test_digits_are_the_bundled_ones_each_once_with_its_label() -> None:
    data, bundle = load_data("digits"), load_digits()
    parts = (data.train, data.validation, data.test)
    assert [tuple(x.shape) for x in parts] == [(1297, 8, 8), (250, 8, 8), (250, 8, 8)]
    assert all(x.dtype == torch.float32 for x in parts) and data.event_shape == (8, 8)
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    got = torch.cat([torch.cat(parts).flatten(1) * 16, labels[:, None]], 1)
    expected = torch.from_numpy(np.column_stack([bundle.data, bundle.target])).float()
    np.testing.assert_array_equal(sorted_rows(got), sorted_rows(expected))


def test_digits_come_in_the_same_order_whatever_the_seed_and_every_class_is_in_every_part() -> None:
    data, again = load_data("digits"), load_data("digits", seed=5)
    assert torch.equal(data.train, again.train) and torch.equal(data.test, again.test)
    assert all(
        len(y.unique()) == 10 for y in (data.train_labels, data.validation_labels, data.test_labels)
    )


def test_a_dataset_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_data("digits").train = torch.zeros(1)  # type: ignore[misc]


@needs_files
def test_mnist_has_its_published_mean_deviation_and_first_labels() -> None:
    data = load_data("mnist")
    pixels = torch.cat([data.train, data.validation]).double()
    assert pixels.mean().item() == pytest.approx(0.1306604762738429, abs=1e-7)
    assert pixels.std(correction=0).item() == pytest.approx(0.30810780717887876, abs=1e-7)
    assert [len(data.train), len(data.validation), len(data.test)] == [50000, 10000, 10000]
    assert data.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    raw = gzip.decompress((REAL / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    assert bytes(data.validation_labels.tolist()) == raw[50000:]
    assert data.train.max() == 1 and data.event_shape == (28, 28)


@needs_files
def test_frey_faces_ordered_is_the_film_and_its_end_is_both_validation_and_test() -> None:
    data = load_data("frey_faces", split="ordered")
    film = torch.from_numpy(np.load(REAL / "frey_faces.npz")["images"])
    assert torch.equal((torch.cat([data.train, data.test]) * 255).round().byte(), film)
    assert len(data.train) == 1500 and torch.equal(data.validation, data.test)
    assert data.split == "ordered" and data.event_shape == (28, 20) and data.train_labels is None


@needs_files
def test_frey_faces_shuffled_is_the_published_permutation() -> None:
    """Sylvester normalizing flows (2018) shuffle the rows in place after numpy.random.seed(123)."""
    data = load_data("frey_faces")
    film = np.load(REAL / "frey_faces.npz")["images"].copy()
    np.random.RandomState(123).shuffle(film)
    parts = (data.train, data.validation, data.test)
    assert [len(x) for x in parts] == [1565, 200, 200] and data.split == "shuffled"
    assert torch.equal((torch.cat(parts) * 255).round().byte(), torch.from_numpy(film))


@needs_files
def test_binarized_mnist_is_binary_unlabelled_and_says_so() -> None:
    data = load_data("binarized_mnist")
    assert data.binarization == "static" and data.train_labels is None
    assert [tuple(x.shape) for x in (data.train, data.validation)] == [
        (50000, 28, 28),
        (10000, 28, 28),
    ]
    assert set(data.test.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(
        data.test.byte(), torch.from_numpy(np.load(REAL / "binarized_mnist_larochelle.npz")["test"])
    )


def test_uniform_square_has_the_moments_of_the_uniform_and_labels_by_quadrant() -> None:
    """Mean 1/2, variance 1/12, covariance 0, each within 5 standard errors; fixed seed, failure
    rate below 1e-5.
    """
    x = load_data("uniform_square", num_data=20_000, seed=3).train.double()
    assert x.shape == (20_000, 2) and x.min() >= 0 and x.max() <= 1
    assert (x.mean(0) - 1 / 2).abs().max() < 5 * (1 / 12 / 20_000) ** 0.5
    assert (x.var(0) - 1 / 12).abs().max() < 5 * (
        1 / 180 / 20_000
    ) ** 0.5  # Var (x - 1/2)^2 = 1/80 - 1/144
    assert abs(np.cov(x.T.numpy())[0, 1]) < 5 / 12 / 20_000**0.5


def test_uniform_square_labels_name_the_quadrant() -> None:
    data = load_data("uniform_square", num_data=100)
    for (right, up), label in zip(data.train > 0.5, data.train_labels, strict=True):
        assert label == right.int() + 2 * up.int()
    assert [len(data.train), len(data.validation), len(data.test)] == [100, 10, 10]


def test_uniform_square_is_drawn_from_its_seed_alone_and_the_parts_differ() -> None:
    first, second = load_data("uniform_square", seed=1), load_data("uniform_square", seed=1)
    assert torch.equal(first.train, second.train)
    assert not torch.equal(first.train, load_data("uniform_square", seed=2).train)
    assert not torch.equal(first.validation, first.test) and not torch.equal(
        first.train[:1000], first.test
    )


# --------------------------------------------------------------------------------------------------
# - Binarisation


def test_static_pixels_are_bernoulli_draws_of_the_grey_ones() -> None:
    """(sum b - sum x) / sqrt(sum x(1 - x)) is standard normal: within 4 in each third of the grey
    scale and part.

    Nine comparisons at a fixed seed: failure rate 6e-4 for another seed.
    """
    grey, drawn = load_data("digits"), load_data("digits", binarization="static")
    for part in ("train", "validation", "test"):
        x, b = getattr(grey, part).double(), getattr(drawn, part).double()
        assert set(b.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(b[x == 0], x[x == 0]) and torch.equal(b[x == 1], x[x == 1])
        for low in (0.05, 0.35, 0.65):
            chosen = (x > low) & (x < low + 0.3)
            p = x[chosen]
            assert abs((b[chosen] - p).sum() / (p * (1 - p)).sum().sqrt()) < 4


def test_static_draws_are_fixed_by_the_seed() -> None:
    first, again, other = (
        load_data("digits", binarization="static", seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first.train, again.train) and torch.equal(first.test, again.test)
    assert not torch.equal(first.train, other.train)


def test_dynamic_leaves_train_grey_and_fixes_the_rest_as_static_does() -> None:
    grey, dynamic, static = (
        load_data("digits", binarization=kind) for kind in ("none", "dynamic", "static")
    )
    assert torch.equal(dynamic.train, grey.train) and dynamic.binarization == "dynamic"
    assert torch.equal(dynamic.validation, static.validation) and torch.equal(
        dynamic.test, static.test
    )


def test_loading_leaves_the_global_random_streams_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    load_data("digits", binarization="static")
    load_data("uniform_square")
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


# --------------------------------------------------------------------------------------------------
# - Arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mnits", {}), ("'mnits'", "one of digits, mnist", "did you mean 'mnist'?")),
        ((3, {}), ("got 3", "one of digits")),
        (("frey_faces", {"split": "sorted"}), ("'sorted'", "shuffled, ordered")),
        (("digits", {"split": "ordered"}), ("'ordered'", "one of shuffled")),
        (("digits", {"binarization": "dynamical"}), ("'dynamical'", "did you mean 'dynamic'?")),
        (("uniform_square", {"num_data": 0}), ("num_data", "got 0", "integer >= 1")),
        (("uniform_square", {"num_data": 2.5}), ("num_data", "got 2.5", "integer >= 1")),
        (("uniform_square", {"binarization": "static"}), ("uniform_square", "not pixels")),
        (("digits", {"num_data": 10}), ("num_data of digits", "only uniform_square")),
        (("digits", {"seed": -1}), ("seed", "integer >= 0")),
        (("binarized_mnist", {"binarization": "dynamic"}), ("it is binary", "load mnist")),
    ],
)
def test_a_bad_argument_gets_one_line_that_says_what_would_do(
    arguments: tuple, words: tuple[str, ...]
) -> None:
    name, keywords = arguments
    with pytest.raises(InputError) as caught:
        load_data(name, **keywords)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------
# - Formats


def idx(values: bytes, *sizes: int, kind: int = 8) -> bytes:
    return gzip.compress(
        struct.pack(f">BBBB{len(sizes)}I", 0, 0, kind, len(sizes), *sizes) + values
    )


def test_an_idx_file_is_read_as_its_header_says(tmp_path: Path) -> None:
    (tmp_path / "good.gz").write_bytes(idx(bytes(range(12)), 2, 3, 2))
    np.testing.assert_array_equal(
        datasets._read_idx(tmp_path / "good.gz", (2, 3, 2)),
        np.arange(12, dtype=np.uint8).reshape(2, 3, 2),
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (idx(bytes(12), 2, 3, 2)[:-10], "unreadable gzip data"),
        (b"not gzip at all", "unreadable gzip data"),
        (idx(bytes(12), 2, 3, 2)[:-12] + b"\x00" * 12, "unreadable gzip data"),
        (gzip.compress(b""), "an empty file"),
        (idx(bytes(12), 2, 3, 2, kind=13), "got 00000d03, expected 00000803"),
        (idx(bytes(12), 12), "got 00000801, expected 00000803"),
        (idx(bytes(12), 3, 2, 2), r"sizes \(3, 2, 2\)"),
        (idx(bytes(11), 2, 3, 2), "11 values"),
        (gzip.compress(b"\x00\x00\x08\x03\x00\x00"), "sizes"),
    ],
    ids=[
        "truncated",
        "not_gzip",
        "damaged",
        "empty",
        "floats",
        "one_axis",
        "other_sizes",
        "too_few",
        "short_header",
    ],
)
def test_a_bad_idx_file_is_refused_in_words(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gz").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        datasets._read_idx(tmp_path / "bad.gz", (2, 3, 2))
    assert str(tmp_path / "bad.gz") in str(caught.value)


class Malicious:
    """Unpickled without care, this calls `os.mkdir`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_calls_something_is_refused_before_the_call(tmp_path: Path) -> None:
    (tmp_path / "frames.pkl").write_bytes(
        pickle.dumps([Malicious(tmp_path / "called")], protocol=2)
    )
    with pytest.raises(InputError, match="mkdir, expected numpy arrays and nothing else"):
        datasets._read_pickled_frames(tmp_path / "frames.pkl")
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("content", [[], {"images": 1}, [3], "text"])
def test_a_pickle_of_something_else_is_refused(content: object, tmp_path: Path) -> None:
    (tmp_path / "frames.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(InputError, match="a list of one array"):
        datasets._read_pickled_frames(tmp_path / "frames.pkl")
