"""Where the files of the data sets are: the user's folder, the cache, the mirrors; and the checksum
of each.

Knows addresses, checksums and folders. Must not know what a file holds: it hands out paths of
verified files only.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch

from ppl_vae import checks
from ppl_vae.files import saved, side_matter

FOLDER_VARIABLE = "PPL_VAE_DATA"


@dataclass(frozen=True)
class Source:
    """The files of one data set: their folder below a data folder, the mirrors, and each file's
    checksum.

    `archive` is a file that may lie in a data folder instead of the downloads, holding the same
    arrays. The checksum "" stands for one that nobody has published: what is read first, and found
    to be what it should, is remembered, and no other file is taken from then on.
    """

    mirrors: tuple[str, ...]
    checksums: Mapping[str, str]
    folder: str = ""
    archive: str = ""


SOURCES = {
    "mnist": Source(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        checksums={
            "train-images-idx3-ubyte.gz": "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion_mnist": Source(
        folder="fashion-mnist",  # its files have MNIST's names
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        checksums={
            "train-images-idx3-ubyte.gz": "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "binarized_mnist": Source(
        mirrors=("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",),
        archive="binarized_mnist_larochelle.npz",
        checksums={
            "binarized_mnist_train.amat": "md5:db28b1a6ae0fe70cbd3da91acf46e477",
            "binarized_mnist_valid.amat": "md5:bf37822a04e94123630de6a7dfd9c9ef",
            "binarized_mnist_test.amat": "md5:14e41ae11040adba6ab8cb291eda0dd8",
            "binarized_mnist_larochelle.npz": "sha256:4c2830802b203335733d2faafe523c442046e7f77d7dbfaafbd8b70fb6d40340",
        },
    ),
    "frey_faces": Source(
        mirrors=(
            "https://raw.githubusercontent.com/jmtomczak/vae_vampprior/master/datasets/Freyfaces/",
        ),
        archive="frey_faces.npz",
        checksums={
            "freyfaces.pkl": "sha256:3b69410c6a5fd6e03f09012905168be3712373a094a776f7e58fcd0670d2138a",
            "frey_faces.npz": "sha256:3c70375e0a9c4751ad49ad5f1f692bd094c46f133cf4aa8ea77d1cb14e1efcd1",
        },
    ),
    "omniglot": Source(
        folder="omniglot",
        mirrors=(
            "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/",
            "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/",
        ),
        checksums={"chardata.mat": ""},
    ),
}


def _cache_folder() -> Path:
    return Path(pooch.os_cache("ppl-vae"))


def _user_folder() -> Path | None:
    value = os.environ.get(FOLDER_VARIABLE)
    return Path(value).expanduser() if value else None


def _digest(path: Path, checksum: str) -> str:
    algorithm = checksum.partition(":")[0]
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _note(source: Source, filename: str) -> Path:
    """Where the checksum of a file is remembered that nobody has published."""
    return _cache_folder() / source.folder / f"{filename}.checksum"


def _checksum(source: Source, filename: str) -> str:
    """That of a file, published or remembered; "" where it is neither."""
    published, note = source.checksums[filename], _note(source, filename)
    if published or not note.is_file():
        return published
    return note.read_text(encoding="ascii", errors="replace").strip()


def remember(source: Source, filename: str, path: Path) -> None:
    """Take this very file from now on, and no other, for one whose checksum nobody has published."""
    if not _checksum(source, filename):
        with side_matter(f"the checksum of {filename} is not remembered"):
            text = _digest(path, "sha256:")
            with saved(_note(source, filename)) as file:
                file.write(text.encode())


def find(source: Source, filename: str) -> Path | None:
    """The verified file in the user's folder or else in the cache; a damaged copy in the cache
    counts as absent.
    """
    checksum = _checksum(source, filename)
    folder = _user_folder()
    if folder is not None and (path := folder / source.folder / filename).is_file():
        if checksum and (got := _digest(path, checksum)) != checksum:
            hint = "the file is damaged, cut short or another one: remove it to have it downloaded"
            checks.refuse(
                f"checksum of {path}", f"{got} ({path.stat().st_size} bytes)", checksum, hint
            )
        return path
    path = _cache_folder() / source.folder / filename
    sound = path.is_file() and (not checksum or _digest(path, checksum) == checksum)
    return path if sound else None


def fetch(source: Source, filename: str) -> Path:
    """The verified file, downloaded into the cache from the first mirror that delivers it.

    The bytes go to a temporary file, are verified, and only then take the file's name: whatever
    interrupts this, the name never stands for half a file.
    """
    if (found := find(source, filename)) is not None:
        return found
    checksum, folder, failures = _checksum(source, filename), _cache_folder() / source.folder, []
    (folder / filename).unlink(missing_ok=True)  # a damaged copy
    for mirror in source.mirrors:
        try:
            where = mirror + filename, checksum or None, filename, folder
            return Path(pooch.retrieve(*where, progressbar=True))
        except (
            OSError,
            ValueError,
        ) as error:  # connection, status and disk are OSErrors, a checksum is a ValueError
            reason = (
                "wrong checksum"
                if isinstance(error, ValueError)
                else error.strerror or type(error).__name__
            )
            failures.append(f"{mirror} ({reason})")
    own = f"${FOLDER_VARIABLE} ({_user_folder() or 'not set'})"
    got = f"no sound copy in {own}, in {folder} or from {', '.join(failures)}"
    wanted = f"the file{f' or {source.archive}' if source.archive else ''} in one of these places"
    hint = f"connect to the network, or set {FOLDER_VARIABLE} to a folder that holds it"
    checks.refuse(f"data file {Path(source.folder) / filename}", got, wanted, hint)
