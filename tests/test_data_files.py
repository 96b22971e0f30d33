"""Files of the data sets that are missing, damaged, or cut short on their way.

Mirrors are played by an HTTP server on 127.0.0.1 that serves the real bytes; tests that need those
bytes are skipped unless $PPL_VAE_DATA names a folder with them.
"""

import dataclasses
import hashlib
import http.server
import io
import os
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
from scipy.io import savemat

from ppl_vae import data_files, datasets
from ppl_vae.checks import InputError
from ppl_vae.datasets import SPLITS, load_data

REAL = Path(os.environ.get("PPL_VAE_DATA") or "no such folder")
needs_files = pytest.mark.skipif(
    not (REAL / "train-images-idx3-ubyte.gz").is_file(),
    reason="PPL_VAE_DATA names no folder with the real files",
)
LABELS = "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of each test's own, and mirrors that refuse every connection: no test leaves
    the machine.
    """
    monkeypatch.setattr(data_files, "_cache_folder", lambda: tmp_path / "cache")
    for name in data_files.SOURCES:
        set_mirrors(monkeypatch, name, "http://127.0.0.1:9/")
    return tmp_path / "cache"


def set_mirrors(monkeypatch: pytest.MonkeyPatch, name: str, *mirrors: str) -> None:
    monkeypatch.setitem(
        data_files.SOURCES, name, dataclasses.replace(data_files.SOURCES[name], mirrors=mirrors)
    )


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves `files` by name; the folder in the path says how: good, cut (half, then closed),
    wrong, slow or gone.
    """

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
        self.wfile.write(
            body[::-1]
            if manner == "wrong"
            else body
            if manner == "good"
            else body[: len(body) // 2]
        )
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
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
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


@pytest.mark.parametrize(
    "name", [name for name in SPLITS if name not in ("digits", "uniform_square")]
)
def test_a_missing_file_off_line_names_the_file_the_folders_and_the_mirrors(
    name: str, tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_data(name)
    first = next(iter(data_files.SOURCES[name].checksums))
    for word in (
        first,
        str(tmp_path),
        str(empty_cache),
        "http://127.0.0.1:9/ (ConnectionError)",
        "set PPL_VAE_DATA",
    ):
        assert word in str(caught.value)
    assert files_in(tmp_path) == []


def test_an_unset_folder_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPL_VAE_DATA", raising=False)
    with pytest.raises(InputError, match=r"\$PPL_VAE_DATA \(not set\)"):
        load_data("mnist")


@needs_files
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:20] + b"?" + b[21:], lambda b: b""]
)
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


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPL_VAE_DATA", raising=False)


@needs_files
@pytest.mark.parametrize("first", ["gone", "cut", "wrong", None])
def test_a_failing_mirror_is_followed_by_the_next(
    first: str | None,
    serve: Callable,
    no_folder: None,
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
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
    ("manner", "reason"),
    [("gone", "HTTPError"), ("cut", "Error|wrong checksum"), ("wrong", "wrong checksum")],
)
def test_a_mirror_that_fails_leaves_no_file_behind(
    manner: str,
    reason: str,
    serve: Callable,
    no_folder: None,
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
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
    """MNIST's bytes stand in for Fashion-MNIST's, with their checksums; MNIST's own files must not
    be taken.
    """
    files = mnist_files()
    sums = {
        name: "sha256:" + hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
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
    """The three text files are rebuilt from the archive; their published md5 sums show that they
    are the originals.
    """
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
        "import sys, pathlib\nfrom ppl_vae import data_files as f\n"
        "from dataclasses import replace\n"
        "f._cache_folder = lambda: pathlib.Path(sys.argv[1])\n"
        "f.fetch(replace(f.SOURCES['mnist'], mirrors=(sys.argv[2],)), sys.argv[3])\n"
    )
    name = "train-images-idx3-ubyte.gz"
    command = [sys.executable, "-c", program, str(empty_cache), server.address + "slow/", name]
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1]
    ) as process:
        deadline = time.monotonic() + 60
        while (
            not any(p.stat().st_size > 1_000_000 for p in empty_cache.glob("*"))
            and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert any(p.stat().st_size > 1_000_000 for p in empty_cache.glob("*")), (
        "the download had not begun"
    )
    assert not (empty_cache / name).exists()
    set_mirrors(monkeypatch, "mnist", server.address + "good/")
    assert data_files.fetch(data_files.SOURCES["mnist"], name).read_bytes() == files[name]


@pytest.fixture
def few_characters(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Omniglot of 30 + 12 characters, 8 of them for validation, as MATLAB would hold it."""
    monkeypatch.setattr(datasets, "OMNIGLOT", (30, 12, 8))
    random = np.random.default_rng(0)
    return {
        "data": random.random((784, 30)),
        "testdata": random.random((784, 12)),
        "target": np.eye(50)[:, random.integers(0, 50, 30)],
        "testtarget": np.eye(50)[:, random.integers(0, 50, 12)],
    }


def mat(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays, do_compression=True)
    return file.getvalue()


def test_omniglot_is_split_as_published_and_its_characters_stand_upright(
    few_characters: dict[str, np.ndarray],
    serve: Callable,
    no_folder: None,
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reshape and the permutation are those of the code of the importance weighted
    autoencoders, written out; the mirror is asked once.
    """
    server = serve({"chardata.mat": mat(few_characters)})
    set_mirrors(monkeypatch, "omniglot", server.address + "gone/", server.address + "good/")
    data = load_data("omniglot")

    def reshaped(x: np.ndarray) -> np.ndarray:
        return x.reshape((-1, 28, 28)).reshape((-1, 28 * 28), order="F")

    order = np.random.RandomState(seed=123).permutation(30)
    known = reshaped(few_characters["data"].T.astype("float32"))[order]
    test = reshaped(few_characters["testdata"].T.astype("float32"))
    expected = [known[:-8], known[-8:], test]
    for part, x in zip((data.train, data.validation, data.test), expected, strict=True):
        np.testing.assert_array_equal(part.flatten(1).numpy(), x)
    assert data.train_labels is not None and data.test_labels is not None
    labels = few_characters["target"].argmax(0)[order]
    np.testing.assert_array_equal(data.train_labels.numpy(), labels[:-8])
    assert data.event_shape == (28, 28) and data.split == "standard"
    asked = len(server.asked)
    drawn = load_data("omniglot", binarization="static")
    assert set(drawn.train.unique().tolist()) == {0.0, 1.0} and len(server.asked) == asked


def test_of_a_file_without_a_published_checksum_the_first_one_is_the_only_one(
    few_characters: dict[str, np.ndarray],
    serve: Callable,
    no_folder: None,
    empty_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = mat(few_characters)
    other = mat({**few_characters, "data": 1 - few_characters["data"]})
    set_mirrors(monkeypatch, "omniglot", serve({"chardata.mat": first}).address + "good/")
    data = load_data("omniglot")
    file = empty_cache / "omniglot" / "chardata.mat"
    note = file.with_name("chardata.mat.checksum")
    assert note.read_text() == f"sha256:{hashlib.sha256(first).hexdigest()}"
    file.write_bytes(other)  # a damaged copy in the cache is downloaded anew
    assert torch.equal(load_data("omniglot").train, data.train) and file.read_bytes() == first
    file.unlink()
    set_mirrors(monkeypatch, "omniglot", serve({"chardata.mat": other}).address + "good/")
    with pytest.raises(InputError, match="wrong checksum"):
        load_data("omniglot")
    assert not file.exists()
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "chardata.mat").write_bytes(other)
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    with pytest.raises(InputError, match="the file is damaged, cut short or another one"):
        load_data("omniglot")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda arrays: b"no MATLAB file", "a MATLAB file"),
        (lambda arrays: mat(arrays)[:5000], "a MATLAB file"),
        (lambda arrays: mat({"data": arrays["data"]}), "no array testdata"),
        (lambda arrays: mat({**arrays, "data": arrays["data"][:, :20]}), "data (784, 20)"),
        (lambda arrays: mat({**arrays, "data": 255 * arrays["data"]}), "in [0, 1]"),
        (lambda arrays: mat({**arrays, "target": "text"}), "no array target"),
    ],
)
def test_a_file_that_is_not_omniglot_is_refused_and_not_remembered(
    damage: Callable[[dict[str, np.ndarray]], bytes],
    words: str,
    few_characters: dict[str, np.ndarray],
    empty_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "omniglot").mkdir()
    file = tmp_path / "omniglot" / "chardata.mat"
    file.write_bytes(damage(few_characters))
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_data("omniglot")
    assert words in str(caught.value) and str(file) in str(caught.value)
    assert files_in(empty_cache) == []
    file.write_bytes(mat(few_characters))
    assert len(load_data("omniglot").train) == 22


def python2_pickle(array: np.ndarray) -> bytes:
    """What Python 2's cPickle, protocol 2, writes for a list of one uint8 array of two axes, with
    numpy 1.
    """
    rows, columns = (b"M" + struct.pack("<H", size) for size in array.shape)
    start = b"\x80\x02]cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
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
    source = dataclasses.replace(
        data_files.SOURCES["frey_faces"], checksums=checksums, mirrors=mirrors
    )
    monkeypatch.setitem(data_files.SOURCES, "frey_faces", source)
    downloaded = load_data("frey_faces")
    monkeypatch.setenv("PPL_VAE_DATA", str(REAL))
    assert torch.equal(downloaded.train, load_data("frey_faces").train)
