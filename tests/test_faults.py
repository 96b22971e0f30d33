"""Nothing a machine does to a run loses it: killed at any moment, or the disk full, its newest
checkpoint is whole.

Each fault is real: processes are forked from this one, which has the libraries loaded, and killed;
file systems and files have limits. Knows `fit`, its folder and the command line; must not know what
a checkpoint holds.
"""

import contextlib
import csv
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import arviz_versions
import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae import InputError, fit, load, save
from ppl_vae.checkpoint import CHECKPOINT, read_tensors
from ppl_vae.cli import main
from ppl_vae.training.run import Run
from ppl_vae.training.watch import Watch
from tests.examples import pixels, tiny
from tests.test_resume import everything, same, same_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
RUN = {
    "batch_size": 20,
    "compile": "off",
    "progress": False,
    "learning_rate": "linear:0.01:0.001:100",
}
ALWAYS = 1_000_000  # epochs


@pytest.fixture(autouse=True)
def trust_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trust.json"))


def go_on(folder: Path, epochs: int, seed: int = 0):
    """The run of this file, from where the folder has it: its VAE, which starts as another one, and
    its history.
    """
    vae = tiny(seed=seed)
    return vae, fit(vae, pixels(100), epochs=epochs, checkpoint=folder, resume=True, **RUN)


@contextlib.contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A forked process that does the work and ends; waited for, and killed if it is still there, at
    the end.
    """
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def epochs_saved(folder: Path) -> int:
    """How far the newest checkpoint has come, 0 without one; it loads and holds a row an epoch, and
    the history that is written after it, so may be behind it, is the beginning of its rows."""
    if not (folder / CHECKPOINT).exists():
        return 0
    assert torch.isfinite(load(folder).sample(3)).all()
    run = read_tensors(folder / CHECKPOINT)[1]["run"]
    rows = [dict(zip(run["rows"]["columns"], values)) for values in run["rows"]["values"]]
    assert [row["epoch"] for row in rows] == [*range(1, run["epoch"] + 1)]
    history = folder / "history.csv"
    for row, kept in zip(
        csv.DictReader(history.read_text().splitlines()) if history.is_file() else [], rows
    ):
        assert {name: float(value) for name, value in row.items()} == kept
    return run["epoch"]


def killed_at_random(folder: Path, moments: random.Random, longest: float) -> None:
    """Let the run go on in a process of its own, from its first step for a random time in seconds,
    and kill it.
    """
    reading, writing = os.pipe()

    def work() -> None:
        take = Run.take
        Run.take = lambda self, index: (
            os.write(writing, b".") if self.state.rows == 0 else 0,
            take(self, index),
        )  # type: ignore[assignment]
        go_on(folder, ALWAYS, seed=moments.randrange(99) if (folder / CHECKPOINT).exists() else 0)

    with child(work) as process:
        os.close(writing)
        assert (
            os.read(reading, 1) == b"."
        )  # it trains: what a slow machine takes to get there is no part of the moment
        os.close(reading)
        time.sleep(moments.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def test_killed_50_times_at_random_moments_it_ends_as_the_run_that_never_was(
    tmp_path: Path,
) -> None:
    """Every newest checkpoint loads and goes on, never falls back, and the last equals a whole run
    to the bit.
    """
    moments, saved = random.Random(0), 0
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    go_on(whole, 1)  # what a first step loads is loaded here, once, and not in each of the children
    began = time.perf_counter()
    go_on(whole, 6)
    epoch = (
        time.perf_counter() - began
    ) / 5  # so that a slow machine kills at the same moments as a fast one
    for _ in range(50):
        killed_at_random(killed, moments, 3 * epoch)
        before, saved = saved, epochs_saved(killed)
        assert saved >= before
    assert saved > 10
    vae, found = go_on(killed, saved + 1)
    expected_vae, expected = go_on(whole, saved + 1)
    assert same_rows(found, expected) and same(vae, expected_vae)
    first, second = everything(killed), everything(whole)
    assert first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )
    assert {path.name for path in killed.iterdir()} == {
        path.name for path in whole.iterdir()
    }  # no half-written file


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


MOMENTS = {
    "before a byte reaches the disk": ("os.fsync", 0),
    "when the file is whole, under another name": ("os.replace", 0),
    "when it has its name": ("ppl_vae.files._sync_folder", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_inside_a_save_it_has_the_old_checkpoint_or_the_new(
    tmp_path: Path, moment: str
) -> None:
    name, gained = MOMENTS[moment]
    run, whole = tmp_path / "run", tmp_path / "whole"
    go_on(run, 2)

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(name, die)
            go_on(run, ALWAYS)

    with child(work) as process:
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert epochs_saved(run) == 2 + gained
    goes_on_as_if_nothing_had_been(run, whole, 4)


def refused_in_one_line(work: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def goes_on_as_if_nothing_had_been(run: Path, whole: Path, epochs: int) -> None:
    (vae, found), (expected_vae, expected) = go_on(run, epochs), go_on(whole, epochs)
    assert same_rows(found, expected) and same(vae, expected_vae)
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, in memory; only the superuser can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip(
            "no right to mount a file system; the limit on the size of files stands in for it"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_leaves_the_old_checkpoint_and_says_so(
    tmp_path: Path, small_disk: Path
) -> None:
    run, ballast = small_disk / "run", small_disk / "ballast"
    go_on(run, 2)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(bytes(free - 4096))
    old = (run / CHECKPOINT).read_bytes()
    message = refused_in_one_line(lambda: go_on(run, 9))
    assert (
        "No space left on device" in message
        and "the file that was there before is whole" in message
    )
    assert (run / CHECKPOINT).read_bytes() == old and epochs_saved(run) == 2
    ballast.unlink()
    goes_on_as_if_nothing_had_been(run, tmp_path / "whole", 4)


@pytest.mark.parametrize("room", [5000, 100], ids=["for the history alone", "for neither"])
def test_a_file_that_may_not_grow_leaves_the_old_checkpoint_and_says_so(
    tmp_path: Path, room: int
) -> None:
    """A limit on file size, as a quota has one, needs no rights: it holds in a child, whose words
    are read here.
    """
    run = tmp_path / "run"
    go_on(run, 2)
    assert (run / CHECKPOINT).stat().st_size > room
    old = (run / CHECKPOINT).read_bytes()
    reading, writing = os.pipe()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        os.write(writing, refused_in_one_line(lambda: go_on(run, 9)).encode())

    with child(work) as process:
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    message = os.read(reading, 10_000).decode()
    assert "File too large" in message and "the file that was there before is whole" in message
    assert (run / CHECKPOINT).read_bytes() == old and epochs_saved(run) == 2
    goes_on_as_if_nothing_had_been(run, tmp_path / "whole", 4)


@pytest.mark.parametrize("spoilt", ["parameter", "sum", "buffer"])
def test_what_is_not_finite_is_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    """Whatever made it so, in the last moment before a save; the file that was there stays."""
    vae = tiny(event_shape=(8, 8), network="conv")
    save = Run.save

    def spoil(run):
        tensors = {
            "parameter": next(vae.parameters()),
            "sum": run.update.state()["exp_avg.0"],
            "buffer": next(b for name, b in vae.named_buffers() if name.endswith("running_mean")),
        }
        if run.state.epoch == 2:
            tensors[spoilt].data.view(-1)[0] = torch.nan
        save(run)

    monkeypatch.setattr(Run, "save", spoil)
    with pytest.raises(FloatingPointError, match=r"not finite after 2 epochs.*not saved; last"):
        fit(vae, pixels(10, (8, 8)), epochs=3, checkpoint=tmp_path, **RUN)
    assert all(value.isfinite().all() for value in load(tmp_path).state_dict().values())
    assert read_tensors(tmp_path / CHECKPOINT)[1]["run"]["epoch"] == 1


def test_a_step_seen_late_is_the_step_that_is_named_and_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports looked at when the epoch ends, as on a GPU, which is not waited for at each step."""
    look = Watch.look
    monkeypatch.setattr(
        Watch, "look", lambda self, names, running=0: None if running else look(self, names)
    )
    options = {**RUN, "learning_rate": lambda epoch: 0.01 if epoch < 1.4 else 1e30}
    with pytest.raises(FloatingPointError, match="loss not finite at epoch 2, batch 4:"):
        fit(tiny(), pixels(100), epochs=3, checkpoint=tmp_path, **options)
    assert epochs_saved(tmp_path) == 1


def test_a_history_that_cannot_be_written_is_said_once_and_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go_on(tmp_path, 1)
    (tmp_path / "history.csv").unlink()
    (tmp_path / "history.csv").mkdir()  # which no file can replace
    go_on(tmp_path, 4)
    assert len(caplog.records) == 1 and "history.csv" in caplog.text
    (tmp_path / "history.csv").rmdir()
    assert epochs_saved(tmp_path) == 4
    go_on(tmp_path, 5)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 6


def test_the_command_line_says_it_in_one_line_and_status_2(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    train = [
        "train",
        "--data",
        "digits",
        "--latent-size",
        "2",
        "--hidden-sizes",
        "4",
        "--no-progress",
    ]
    assert main([*train, "--epochs", "1", "--out", str(run)]) == 0
    capfd.readouterr()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        os._exit(main(["train", "--resume", str(run), "--epochs", "2", "--no-progress"]))

    with child(work) as process:
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("ppl-vae: saving") and "File too large" in said[0]
    assert epochs_saved(run) == 1


SMALL = ["--data", "digits", "--latent-size", "2", "--hidden-sizes", "4", "--no-progress"]
LOOK = ["--num-samples", "10", "--num-data", "20"]


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    assert main(["train", *SMALL, "--epochs", "1", "--out", str(run)]) == 0
    return run


class TestOutput:
    """What becomes of what a command prints decides nothing about its work."""

    @pytest.mark.parametrize("buffered", [True, False])
    def test_a_reader_that_goes_before_the_work_is_done(
        self, small_run: Path, buffered: bool
    ) -> None:
        command = [sys.executable, "-m", "ppl_vae", "evaluate", str(small_run), *LOOK]
        environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen([*command, "--no-progress"], env=environment, **pipes) as process:  # type: ignore[call-overload]
            process.stdout.close()
            said = process.stderr.read()
            assert process.wait(timeout=100) == 0 and said == b""
        assert (small_run / "evaluation.json").is_file()

    def test_letters_that_the_output_has_not(
        self, small_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
        assert main(["evaluate", str(small_run), *LOOK, "--no-progress"]) == 0
        sys.stdout.flush()
        assert b" ? " in raw.getvalue() and b"log p(x)" in raw.getvalue()

    def test_no_output_at_all(self, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdout", None)
        assert main(["evaluate", str(small_run), *LOOK, "--no-progress"]) == 0


class TestOneLine:
    """Whatever goes wrong in a command, it ends by one line and a status that is not 0."""

    @staticmethod
    def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(argv)
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        return status, error

    def test_a_prior_that_leaves_in_the_middle(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "leaves.py"
        path.write_text(
            "import pyro, sys, torch, pyro.distributions as dist\n"
            "class P(torch.nn.Module):\n"
            "    def forward(self):\n"
            "        if torch.is_grad_enabled(): sys.exit(0)\n"
            "        return pyro.sample('z', dist.Normal(torch.zeros(2), 1.0).to_event(1))\n"
        )
        out = ["--epochs", "1", "--out", str(tmp_path / "run")]
        status, error = self.said(capsys, "train", *SMALL, *out, "--prior", f"{path}:P")
        assert status == 1 and "SystemExit: 0 (leaves.py, line 4)" in error

    def test_more_than_the_memory_holds(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        huge = ["--latent-size", str(10**15), "--out", str(tmp_path / "run")]
        status, error = self.said(capsys, "train", "--data", "digits", *huge)
        assert status == 1 and "allocate" in error and "ppl_vae/networks.py, line" in error

    def test_a_truth_value_in_quotes(
        self, small_run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = small_run / "config.json"
        whole = json.loads(file.read_text())
        for name in ("validation", "kl_balance"):
            changed = {**whole, "fit": whole["fit"] | {name: "no"}}
            file.write_text(json.dumps(changed))
            status, error = self.said(capsys, "train", "--resume", str(small_run))
            assert status == 2 and f"{name} in" in error and "True or False" in error

    @pytest.mark.parametrize("depth", [100, 200_000])
    def test_a_config_nested_deep(
        self, small_run: Path, capsys: pytest.CaptureFixture[str], depth: int
    ) -> None:
        text = '{"fit": {}, "data": {}, "config": ' + '{"a":' * depth + "1" + "}" * depth + "}"
        (small_run / "config.json").write_text(text)
        status, error = self.said(capsys, "evaluate", str(small_run))
        assert status == 2 and "not what this library writes" in error

    @pytest.mark.arviz
    def test_a_disk_that_fills_up_in_diagnose(
        self, small_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(self: object, path: str) -> None:
            raise RuntimeError("NetCDF: HDF error")

        holder = "xarray.DataTree" if arviz_versions.NEW else "arviz.InferenceData"
        monkeypatch.setattr(f"{holder}.to_netcdf", full)
        status, error = self.said(capsys, "diagnose", str(small_run), *LOOK)
        assert status == 2 and "posterior.nc" in error and "NetCDF: HDF error" in error
        assert not list(small_run.glob(".posterior*"))


class Held(torch.nn.Module):
    """A prior at a tensor of its own, a parameter or a buffer."""

    def __init__(self, location: torch.Tensor, trained: bool) -> None:
        super().__init__()
        if trained:
            self.location = torch.nn.Parameter(location)
        else:
            self.register_buffer("location", location)

    def forward(self) -> torch.Tensor:
        return pyro.sample("z", dist.Normal(self.location, 1.0).to_event(1))


class TestTensorsOfAPrior:
    """Tensors as users make them train, save and load, or are refused when built."""

    @pytest.mark.parametrize("trained", [True, False])
    def test_an_expanded_one_gets_room_of_its_own(self, tmp_path: Path, trained: bool) -> None:
        prior = Held(torch.zeros(1).expand(2), trained)
        vae = tiny(prior)
        fit(vae, pixels(20), epochs=2, progress=False)
        save(vae, tmp_path / "vae")
        assert same(load(tmp_path / "vae", prior=prior), vae)
        if trained:
            first, second = vae.model.prior.location.tolist()
            assert first != second

    def test_a_parameter_of_another_precision_is_refused_and_a_buffer_is_not(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=r"model\.prior\.location: got torch.float64"):
            tiny(Held(torch.zeros(2).double(), True))
        prior = Held(torch.zeros(2).double(), False)
        vae = tiny(prior)
        fit(vae, pixels(20), epochs=1, progress=False)
        save(vae, tmp_path / "vae")
        again = load(tmp_path / "vae", prior=prior)
        assert same(again, vae) and again.model.prior.location.dtype == torch.float64
