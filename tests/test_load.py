"""Runs that are long and data that are large: memory stays where it was, a minibatch at a time,
rows by the epoch.

Knows `fit`, `map_data` and what the operating system says of a process's memory; must not know how
a step is made.
"""

import os
import resource
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_vae import InputError, VAEConfig, build, fit, log_likelihood, lower_bound
from ppl_vae.checkpoint import CHECKPOINT, read_tensors
from ppl_vae.datasets import map_data
from ppl_vae.training.history import History, HistoryFile
from ppl_vae.training.run import Run
from ppl_vae.training.state import OWN_ROWS
from tests.examples import pixels, tiny

MIB = 2**20
ROWS, EVENT = 1_000_000, (28, 28)  # 748 MiB of bytes


def memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this machine")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def in_a_child(work: Callable[[], str]) -> str:
    """What the work says, done in a forked process whose limits are its own."""
    reading, writing = os.pipe()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        process = os.fork()
    if process == 0:
        try:
            os.write(writing, work().encode())
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(0)
    os.close(writing)
    os.waitpid(process, 0)
    with os.fdopen(reading) as said:
        return said.read()


class Enough(Exception):
    """So many steps were made."""


def stopping_after(
    steps: int, monkeypatch: pytest.MonkeyPatch, look: Callable[[int], None] = lambda step: None
) -> None:
    """Let `fit` end by `Enough` after its first so many steps, with a look at each."""
    take, made = Run.take, [0]

    def counted(self: Run, index: Sequence[torch.Tensor]) -> None:
        take(self, index)
        made[0] += len(index)
        look(made[0])
        if made[0] >= steps:
            raise Enough

    monkeypatch.setattr(Run, "take", counted)


def test_memory_is_flat_over_ten_thousand_recorded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 2000 steps the process may grow by 2 MiB in the 8000 that follow: 260 bytes a step."""
    seen: dict[int, int] = {}

    def look(step: int) -> None:
        if step in (2000, 10_000):
            seen[step] = memory("RssAnon")

    stopping_after(10_000, monkeypatch, look)
    with pytest.raises(Enough):
        fit(tiny(), pixels(1000), epochs=10_000, batch_size=10, compile="record", progress=False)
    assert seen[10_000] - seen[2000] < 2 * MIB


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1e6 x 28 x 28 bytes, all of them 0 and none of them on the disk but for some at the end."""
    path = tmp_path_factory.mktemp("large") / "x.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (ROWS, *EVENT))
    array[-1] = 255
    array.flush()
    del array
    yield path
    path.unlink()


def test_data_larger_than_the_memory_allowed_are_trained_on_and_evaluated(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may allocate 256 MiB more than it has: neither the bytes nor their 3 GB as floats
    would fit.
    """
    stopping_after(50, monkeypatch)
    vae = build(VAEConfig(EVENT, 2, (16,)), seed=0)

    def work() -> str:
        before, x = memory("RssAnon"), map_data(large)
        limit = memory("VmData") + 256 * MIB  # which counts the mapping, for it may be written to
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        with pytest.raises(Enough):
            fit(vae, x, batch_size=100, epochs=1, compile="off", progress=False)
        bounds = lower_bound(vae, x[-200:], "A")
        grown = memory("RssAnon") - before
        with pytest.raises((RuntimeError, MemoryError)):  # the limit is one
            x.clone()
        return f"{len(x)} {torch.isfinite(bounds).all()} {grown < 256 * MIB}"

    assert in_a_child(work) == f"{ROWS} True True"


def test_mapped_data_train_as_the_same_data_in_memory_and_stay_as_they_are(tmp_path: Path) -> None:
    path, x = tmp_path / "x.npy", (pixels(40) * 255).byte()
    np.save(path, x.numpy())
    before, mapped, options = (
        path.read_bytes(),
        map_data(path),
        {"epochs": 3, "batch_size": 7, "progress": False},
    )
    assert torch.equal(mapped, x)
    first, second = tiny(), tiny()
    assert (
        fit(first, mapped, **options).rows[-1]["lower_bound"]
        == fit(second, x, **options).rows[-1]["lower_bound"]
    )
    found, expected = (log_likelihood(first, data, 50, seed=0).values for data in (mapped, x))
    assert torch.equal(found, expected)
    mapped.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npy", None, "FileNotFoundError"),
        ("text.npy", b"1, 2, 3", "expected an array written by numpy.save"),
        ("objects.npy", np.array([{}], object), "expected an array written by numpy.save"),
        (
            "unsigned.npy",
            np.ones((3, 2), np.uint16),
            "got dtype <u2, expected uint8 pixels, float32 or float64",
        ),
        ("swapped.npy", np.ones((3, 2), ">f4"), "got dtype >f4"),
        ("several.npz", {"x": np.ones(3)}, "expected an array written by numpy.save"),
    ],
)
def test_what_cannot_be_mapped_is_refused_in_one_line(
    tmp_path: Path, name: str, content, message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(InputError) as error:
        map_data(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_history_has_a_row_an_epoch_however_many_steps_that_is(tmp_path: Path) -> None:
    for steps, folder in ((4, tmp_path / "few"), (100, tmp_path / "many")):
        options = {"batch_size": 400 // steps, "epochs": 3, "compile": "off", "progress": False}
        fit(tiny(), pixels(400), validation=pixels(20), checkpoint=folder, **options)
        assert len((folder / "history.csv").read_text().splitlines()) == 4
    sizes = [(tmp_path / name / CHECKPOINT).stat().st_size for name in ("few", "many")]
    assert abs(sizes[0] - sizes[1]) < 200  # some digits of the rows


def test_the_history_of_a_run_of_ten_hours_is_small(tmp_path: Path) -> None:
    """An epoch a second, 36000 rows as `fit` writes them: less than 10 MB, a checkpoint's share of
    them less than 100 kB.
    """
    fit(
        tiny(),
        pixels(40),
        validation=pixels(20),
        epochs=1,
        checkpoint=tmp_path,
        compile="off",
        progress=False,
    )
    header = read_tensors(tmp_path / CHECKPOINT)[1]
    (values,) = header["run"]["rows"]["values"]
    row = dict(zip(header["run"]["rows"]["columns"], values))
    rows = [{**row, "epoch": epoch} for epoch in range(36_000)]
    HistoryFile(tmp_path / "long.csv").write(rows)
    assert (tmp_path / "long.csv").stat().st_size < 10e6
    assert len(repr(History(rows=rows).tail(36_000 - OWN_ROWS))) < 100e3
