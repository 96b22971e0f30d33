"""Data sets: what the tensors hold, and what happens to files that are missing, damaged or cut short on their way.

Mirrors are played by an HTTP server on 127.0.0.1 that serves the real bytes; tests that need those bytes are skipped
unless $PPL_VAE_DATA names a folder with them.
"""

import dataclasses
import gzip
import hashlib
import http.server
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ppl_vae import data_files, datasets
from ppl_vae.checks import InputError
from ppl_vae.datasets import SPLITS, load_data

REAL = Path(os.environ.get("PPL_VAE_DATA") or "no such folder")
needs_files = pytest.mark.skipif(
    not (REAL / "train-images-idx3-ubyte.gz").is_file(), reason="PPL_VAE_DATA names no folder with the real files"
)
LABELS = "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of each test's own, and mirrors that refuse every connection: no test leaves the machine."""
    monkeypatch.setattr(data_files, "_cache_folder", lambda: tmp_path / "cache")
    for name in data_files.SOURCES:
        set_mirrors(monkeypatch, name, "http://127.0.0.1:9/")
    return tmp_path / "cache"


def set_mirrors(monkeypatch: pytest.MonkeyPatch, name: str, *mirrors: str) -> None:
    monkeypatch.setitem(data_files.SOURCES, name, dataclasses.replace(data_files.SOURCES[name], mirrors=mirrors))


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves `files` by name; the folder in the path says how: good, cut (half, then closed), wrong, slow or gone."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        _, manner, name = self.path.split("/")
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if manner == "gone" or name not in self.files:
            return self.send_error(404)
        body = self.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[::-1] if manner == "wrong" else body if manner == "good" else body[: len(body) // 2])
        if manner == "slow":
            self.server.released.wait(30)  # type: ignore[attr-defined]

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes]], http.server.ThreadingHTTPServer]]:
    servers = []

    def start(files: dict[str, bytes]) -> http.server.ThreadingHTTPServer:
        handler = type("MirrorOfFiles", (Mirror,), {"files": files})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.asked, server.released = [], threading.Event()  # type: ignore[attr-defined]
        server.address = f"http://127.0.0.1:{server.server_port}/"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


def mnist_files() -> dict[str, bytes]:
    return {name: (REAL / name).read_bytes() for name in data_files.SOURCES["mnist"].checksums}


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------------------------------------------
# What the tensors hold


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
    assert all(len(y.unique()) == 10 for y in (data.train_labels, data.validation_labels, data.test_labels))


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
    assert [tuple(x.shape) for x in (data.train, data.validation)] == [(50000, 28, 28), (10000, 28, 28)]
    assert set(data.test.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(data.test.byte(), torch.from_numpy(np.load(REAL / "binarized_mnist_larochelle.npz")["test"]))


def test_uniform_square_has_the_moments_of_the_uniform_and_labels_by_quadrant() -> None:
    """Mean 1/2, variance 1/12, covariance 0, each within 5 standard errors; fixed seed, failure rate below 1e-5."""
    x = load_data("uniform_square", num_data=20_000, seed=3).train.double()
    assert x.shape == (20_000, 2) and x.min() >= 0 and x.max() <= 1
    assert (x.mean(0) - 1 / 2).abs().max() < 5 * (1 / 12 / 20_000) ** 0.5
    assert (x.var(0) - 1 / 12).abs().max() < 5 * (1 / 180 / 20_000) ** 0.5  # Var (x - 1/2)^2 = 1/80 - 1/144
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
    assert not torch.equal(first.validation, first.test) and not torch.equal(first.train[:1000], first.test)


# ---------------------------------------------------------------------------------------------------------------------
# Binarisation


def test_static_pixels_are_bernoulli_draws_of_the_grey_ones() -> None:
    """(sum b - sum x) / sqrt(sum x(1 - x)) is standard normal: within 4 in each third of the grey scale and part.

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
    first, again, other = (load_data("digits", binarization="static", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train, again.train) and torch.equal(first.test, again.test)
    assert not torch.equal(first.train, other.train)


def test_dynamic_leaves_train_grey_and_fixes_the_rest_as_static_does() -> None:
    grey, dynamic, static = (load_data("digits", binarization=kind) for kind in ("none", "dynamic", "static"))
    assert torch.equal(dynamic.train, grey.train) and dynamic.binarization == "dynamic"
    assert torch.equal(dynamic.validation, static.validation) and torch.equal(dynamic.test, static.test)


def test_loading_leaves_the_global_random_streams_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    load_data("digits", binarization="static")
    load_data("uniform_square")
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


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
def test_a_bad_argument_gets_one_line_that_says_what_would_do(arguments: tuple, words: tuple[str, ...]) -> None:
    name, keywords = arguments
    with pytest.raises(InputError) as caught:
        load_data(name, **keywords)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Files on this machine


@pytest.mark.parametrize("name", [name for name in SPLITS if name not in ("digits", "uniform_square")])
def test_a_missing_file_off_line_names_the_file_the_folders_and_the_mirrors(
    name: str, tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_data(name)
    first = next(iter(data_files.SOURCES[name].checksums))
    for word in (first, str(tmp_path), str(empty_cache), "http://127.0.0.1:9/ (ConnectionError)", "set PPL_VAE_DATA"):
        assert word in str(caught.value)
    assert files_in(tmp_path) == []


def test_an_unset_folder_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPL_VAE_DATA", raising=False)
    with pytest.raises(InputError, match=r"\$PPL_VAE_DATA \(not set\)"):
        load_data("mnist")


@needs_files
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:20] + b"?" + b[21:], lambda b: b""])
def test_a_damaged_file_in_the_users_folder_is_refused_and_kept(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    damaged = tmp_path / "train-images-idx3-ubyte.gz"
    damaged.write_bytes(damage((REAL / damaged.name).read_bytes()))
    with pytest.raises(InputError, match="damaged, cut short or another one") as caught:
        load_data("mnist")
    assert str(damaged) in str(caught.value) and "440fcabf" in str(caught.value)
    assert damaged.is_file()


def idx(values: bytes, *sizes: int, kind: int = 8) -> bytes:
    return gzip.compress(struct.pack(f">BBBB{len(sizes)}I", 0, 0, kind, len(sizes), *sizes) + values)


def test_an_idx_file_is_read_as_its_header_says(tmp_path: Path) -> None:
    (tmp_path / "good.gz").write_bytes(idx(bytes(range(12)), 2, 3, 2))
    np.testing.assert_array_equal(
        datasets._read_idx(tmp_path / "good.gz", (2, 3, 2)), np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
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
    ids=["truncated", "not_gzip", "damaged", "empty", "floats", "one_axis", "other_sizes", "too_few", "short_header"],
)
def test_a_bad_idx_file_is_refused_in_words(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gz").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        datasets._read_idx(tmp_path / "bad.gz", (2, 3, 2))
    assert str(tmp_path / "bad.gz") in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Files from mirrors


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPL_VAE_DATA", raising=False)


@needs_files
@pytest.mark.parametrize("first", ["gone", "cut", "wrong", None])
def test_a_failing_mirror_is_followed_by_the_next(
    first: str | None, serve: Callable, no_folder: None, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = mnist_files()
    server = serve(files)
    failing = "http://127.0.0.1:9/" if first is None else server.address + first + "/"
    set_mirrors(monkeypatch, "mnist", failing, server.address + "good/")
    path = data_files.fetch(data_files.SOURCES["mnist"], LABELS)
    assert path.read_bytes() == files[LABELS]
    assert files_in(empty_cache) == [LABELS]
    assert server.asked == [f"/{manner}/{LABELS}" for manner in (first, "good") if manner]


@needs_files
@pytest.mark.parametrize(
    ("manner", "reason"), [("gone", "HTTPError"), ("cut", "Error|wrong checksum"), ("wrong", "wrong checksum")]
)
def test_a_mirror_that_fails_leaves_no_file_behind(
    manner: str, reason: str, serve: Callable, no_folder: None, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(mnist_files())
    set_mirrors(monkeypatch, "mnist", server.address + manner + "/")
    with pytest.raises(InputError, match=reason) as caught:
        load_data("mnist")
    assert server.address in str(caught.value)
    assert files_in(empty_cache) == []


@needs_files
def test_mnist_is_downloaded_once_and_then_read_from_the_cache(
    serve: Callable, no_folder: None, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(mnist_files())
    set_mirrors(monkeypatch, "mnist", server.address + "good/")
    downloaded = load_data("mnist")
    assert len(server.asked) == 4 and files_in(empty_cache) == sorted(mnist_files())
    assert torch.equal(load_data("mnist").train, downloaded.train)
    assert len(server.asked) == 4
    monkeypatch.setenv("PPL_VAE_DATA", str(REAL))
    assert torch.equal(load_data("mnist").train, downloaded.train)


@needs_files
def test_a_damaged_copy_in_the_cache_is_downloaded_anew(
    serve: Callable, no_folder: None, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = mnist_files()
    set_mirrors(monkeypatch, "mnist", serve(files).address + "good/")
    empty_cache.mkdir()
    (empty_cache / LABELS).write_bytes(files[LABELS][:100])
    assert data_files.fetch(data_files.SOURCES["mnist"], LABELS).read_bytes() == files[LABELS]


@needs_files
def test_fashion_mnist_keeps_to_its_own_folder(
    serve: Callable, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST's bytes stand in for Fashion-MNIST's, with their checksums; MNIST's own files must not be taken."""
    files = mnist_files()
    sums = {name: "sha256:" + hashlib.sha256(content).hexdigest() for name, content in files.items()}
    source = dataclasses.replace(data_files.SOURCES["fashion_mnist"], checksums=sums)
    monkeypatch.setitem(data_files.SOURCES, "fashion_mnist", source)
    monkeypatch.setenv("PPL_VAE_DATA", str(REAL))
    set_mirrors(monkeypatch, "fashion_mnist", serve(files).address + "good/")
    data = load_data("fashion_mnist")
    assert files_in(empty_cache / "fashion-mnist") == sorted(files) == files_in(empty_cache)
    assert data.name == "fashion_mnist" and len(data.train) == 50000
    for name in files:
        (tmp_path / "fashion-mnist").mkdir(exist_ok=True)
        (tmp_path / "fashion-mnist" / name).write_bytes(files[name])
        (empty_cache / "fashion-mnist" / name).unlink()
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    set_mirrors(monkeypatch, "fashion_mnist", "http://127.0.0.1:9/")
    assert torch.equal(load_data("fashion_mnist").test, data.test)


@needs_files
def test_binarized_mnist_from_its_text_files_equals_the_archive(
    serve: Callable, no_folder: None, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three text files are rebuilt from the archive; their published md5 sums show that they are the originals."""
    files = {}
    for part, x in np.load(REAL / "binarized_mnist_larochelle.npz").items():
        text = np.full((len(x), 2 * 784), ord(" "), dtype=np.uint8)
        text[:, ::2] = x.reshape(-1, 784) + ord("0")
        text[:, -1] = ord("\n")
        files[f"binarized_mnist_{part}.amat"] = text.tobytes()
    set_mirrors(monkeypatch, "binarized_mnist", serve(files).address + "good/")
    downloaded = load_data("binarized_mnist")
    assert files_in(empty_cache) == sorted(files)
    monkeypatch.setenv("PPL_VAE_DATA", str(REAL))
    archived = load_data("binarized_mnist")
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(downloaded, part), getattr(archived, part))


@needs_files
def test_a_process_killed_in_the_middle_of_a_download_leaves_no_file_under_its_name(
    serve: Callable, no_folder: None, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = mnist_files()
    server = serve(files)
    program = (
        "import sys, pathlib\nfrom ppl_vae import data_files as f\nfrom dataclasses import replace\n"
        "f._cache_folder = lambda: pathlib.Path(sys.argv[1])\n"
        "f.fetch(replace(f.SOURCES['mnist'], mirrors=(sys.argv[2],)), sys.argv[3])\n"
    )
    name = "train-images-idx3-ubyte.gz"
    command = [sys.executable, "-c", program, str(empty_cache), server.address + "slow/", name]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1]) as process:
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size > 1_000_000 for p in empty_cache.glob("*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert any(p.stat().st_size > 1_000_000 for p in empty_cache.glob("*")), "the download had not begun"
    assert not (empty_cache / name).exists()
    set_mirrors(monkeypatch, "mnist", server.address + "good/")
    assert data_files.fetch(data_files.SOURCES["mnist"], name).read_bytes() == files[name]


# ---------------------------------------------------------------------------------------------------------------------
# Frey Face's pickle


def python2_pickle(array: np.ndarray) -> bytes:
    """What Python 2's cPickle, protocol 2, writes for a list of one uint8 array of two axes, with numpy 1."""
    rows, columns = (b"M" + struct.pack("<H", size) for size in array.shape)
    start = b"\x80\x02]cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return (
        start
        + b"(K\x01"
        + rows
        + columns
        + b"\x86"
        + dtype
        + b"\x89T"
        + struct.pack("<I", array.size)
        + array.tobytes()
        + b"tba."
    )


@needs_files
def test_frey_faces_from_the_pickle_equals_the_archive(
    serve: Callable, no_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = python2_pickle(np.load(REAL / "frey_faces.npz")["images"].reshape(1965, 560))
    checksum = {"freyfaces.pkl": "sha256:" + hashlib.sha256(content).hexdigest()}
    checksums = {**data_files.SOURCES["frey_faces"].checksums, **checksum}
    mirrors = (serve({"freyfaces.pkl": content}).address + "good/",)
    source = dataclasses.replace(data_files.SOURCES["frey_faces"], checksums=checksums, mirrors=mirrors)
    monkeypatch.setitem(data_files.SOURCES, "frey_faces", source)
    downloaded = load_data("frey_faces")
    monkeypatch.setenv("PPL_VAE_DATA", str(REAL))
    assert torch.equal(downloaded.train, load_data("frey_faces").train)


class Malicious:
    """Unpickled without care, this calls `os.mkdir`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_calls_something_is_refused_before_the_call(tmp_path: Path) -> None:
    (tmp_path / "frames.pkl").write_bytes(pickle.dumps([Malicious(tmp_path / "called")], protocol=2))
    with pytest.raises(InputError, match="mkdir, expected numpy arrays and nothing else"):
        datasets._read_pickled_frames(tmp_path / "frames.pkl")
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("content", [[], {"images": 1}, [3], "text"])
def test_a_pickle_of_something_else_is_refused(content: object, tmp_path: Path) -> None:
    (tmp_path / "frames.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(InputError, match="a list of one array"):
        datasets._read_pickled_frames(tmp_path / "frames.pkl")
