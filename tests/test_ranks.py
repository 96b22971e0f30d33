"""Training on several processes: the rows are shared out, the parameters are one, only the first
rank writes.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ppl_vae import InputError, fit, load
from ppl_vae.checkpoint import CHECKPOINT, read_tensors, write_tensors
from ppl_vae.training.ranks import Ranks, joined_ranks
from tests.examples import pixels, tiny

TRAIN = (
    "train",
    "--data",
    "digits",
    "--latent-size",
    "2",
    "--hidden-sizes",
    "8",
    "--batch-size",
    "100",
    "--compile",
    "record",
    "--no-progress",
)


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trust.json"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def start(ranks, *arguments):
    """`ppl-vae` with these arguments on so many processes."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        if ranks > 1
        else []
    )
    command = [sys.executable, *launcher, "-m", "ppl_vae", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def parameters(folder):
    return {
        n: t
        for n, t in read_tensors(folder / CHECKPOINT)[0].items()
        if not n.startswith("training/")
    }


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_shards_share_a_minibatch_out_without_overlap(rows):
    index = torch.randperm(rows)
    shards = [Ranks(rank, 3).shard(index) for rank in range(3)]
    assert sorted(torch.cat(shards).tolist()) == sorted(index.tolist())
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_minibatch_too_short_for_every_rank_is_refused():
    Ranks(0, 2).check(num_data=100, batch_size=7)  # the last one has two rows
    with pytest.raises(InputError, match="a minibatch of 1, expected one row a rank at least"):
        Ranks(0, 2).check(num_data=101, batch_size=10)


@pytest.mark.parametrize("device", [None, "cpu", "cuda", "cuda:0"])
def test_the_device_of_training_decides_how_ranks_meet_and_which_gpu_is_whose(device, monkeypatch):
    """Not what the machine has besides: a GPU each, and as long a wait as is said."""
    called = []
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", called.append)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setattr(
        "torch.distributed.init_process_group",
        lambda backend, timeout: called.append((backend, timeout.total_seconds())),
    )
    with joined_ranks(device):
        pass
    on_gpu = [1, ("nccl", 600.0)]
    assert called == (on_gpu if (device or "").startswith("cuda") else [("gloo", 600.0)])


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with (
        pytest.raises(InputError, match="1 GPUs, expected one for each"),
        joined_ranks("cuda"),
    ):
        pass


def test_two_ranks_equal_one_process_where_no_noise_is_drawn(tmp_path):
    """posterior 'point' draws nothing, so with an equal global batch only the order of sums
    differs.
    """
    for ranks in (1, 2):
        finish(
            start(
                ranks,
                *TRAIN,
                "--posterior",
                "point",
                "--epochs",
                "3",
                "--out",
                str(tmp_path / str(ranks)),
            )
        )
    one, two = (parameters(tmp_path / str(ranks)) for ranks in (1, 2))
    assert one.keys() == two.keys()
    assert all(torch.allclose(value, two[name], atol=1e-5) for name, value in one.items())


class MatchedNoise:
    """Every rank draws the normal variates of the whole minibatch and keeps those of its own
    rows.
    """

    def __init__(self, patch):
        self.generator, self.rows, shard = torch.Generator().manual_seed(0), 0, Ranks.shard

        def noted(ranks, index):
            self.ranks, self.rows = ranks, len(index)
            return shard(ranks, index)

        patch.setattr(Ranks, "shard", noted)
        patch.setattr("torch.distributions.normal._standard_normal", self.draw)

    def draw(self, shape, dtype, device):
        whole = torch.randn(self.rows, *shape[1:], dtype=dtype, generator=self.generator)
        return whole[self.ranks.rank :: self.ranks.size]


def rank_of_a_run(rank, ranks, matched, folder):
    """One rank's whole life, in this process: it meets the others, trains, and leaves its
    parameters in the folder.
    """
    group = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=group, rank=rank, world_size=ranks)
    with pytest.MonkeyPatch.context() as patch:
        vae = tiny()
        if matched:
            MatchedNoise(patch)
        options = {
            "epochs": 20,
            "batch_size": 10,
            "learning_rate": 0.02,
            "compile": "off",
            "progress": False,
        }
        bounds = [row["lower_bound"] for row in fit(vae, pixels(45), **options).rows]
    write_tensors(folder / str(rank), {**vae.state_dict(), "bounds": torch.tensor(bounds)}, {})


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("matched", [True, False])
def test_two_ranks_equal_one_process_where_the_noise_is_the_same(tmp_path, matched):
    """Equal global batches of ten and one of five, which is three rows and two: one run but for the
    order of sums.

    With noise of their own the ranks still share every parameter, and are another run than the
    single process.
    """
    found = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        children = [forked(rank_of_a_run, rank, ranks, matched, folder) for rank in range(ranks)]
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [
            0
        ] * ranks
        found[ranks] = [read_tensors(folder / str(rank))[0] for rank in range(ranks)]
    (one,), (first, second) = found[1], found[2]
    start = tiny().state_dict()
    assert max((one[name] - start[name]).abs().max() for name in start) > 0.1
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert matched == all(
        torch.allclose(value, first[name], atol=1e-5, rtol=0) for name, value in one.items()
    )


def forked(work, *arguments):
    """The id of a process that does the work and ends with status 0, or 1 if it failed."""
    process = os.fork()
    if process == 0:
        status = 1
        with contextlib.suppress(BaseException):
            work(*arguments)
            status = 0
        os._exit(status)
    return process


def test_a_run_of_two_ranks_is_one_run_with_one_folder_and_goes_on_with_another_number(tmp_path):
    out = finish(start(2, *TRAIN, "--epochs", "2", "--out", "run"))
    assert out.count("lower bound") == 1  # the first rank alone speaks
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert len(rows) == 3
    finish(start(1, "train", "--resume", "run", "--epochs", "3", "--no-progress"))
    finish(start(2, "train", "--resume", "run", "--epochs", "4", "--no-progress"))
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 5
    assert load("run").encode(torch.rand(3, 8, 8)).shape == (3, 2)


def test_a_rank_that_dies_ends_the_run_with_one_line_and_leaves_a_checkpoint(tmp_path):
    process = start(2, *TRAIN, "--epochs", "100000", "--out", "run")
    while not (tmp_path / "run" / CHECKPOINT).exists():
        time.sleep(0.1)
        assert process.poll() is None, process.stderr.read()
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    workers = [pid for pid in children if "LOCAL_RANK" in Path(f"/proc/{pid}/environ").read_text()]
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    said = [line for line in err.splitlines() if line.startswith("ppl-vae:")]
    assert len(said) <= 1 and all(
        any(words in line for words in ("lost another rank", "interrupted", "stopped in epoch"))
        for line in said
    )
    load("run")


KILLED = """
import sys
import torch
torch.set_num_threads(1)
from ppl_vae import fit
from ppl_vae.training.ranks import joined_ranks
from ppl_vae.training.run import Run
from tests.examples import pixels, tiny

folder, last, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "resume"
take = Run.take

def stop(self, *given):
    take(self, *given)
    if self.steps == last:
        sys.exit(0)

Run.take = stop
options = {"epochs": 2, "batch_size": 10, "progress": False, "compile": "off"}
with joined_ranks(None):
    fit(tiny(), pixels(60), checkpoint=folder, checkpoint_every="4 steps", resume=resume, **options)
"""


def test_two_ranks_go_on_from_a_save_inside_an_epoch_to_the_bit(tmp_path):
    """Of 12 steps they stop after the tenth, saved after the eighth: the noise of the second rank
    is that of each step, too.
    """
    (tmp_path / "killed.py").write_text(KILLED)

    def run(folder, last, resume):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *launcher, "killed.py", folder, str(last), resume]
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=300)

    run("whole", 0, "new")
    run("stopped", 10, "new")
    header = read_tensors(tmp_path / "stopped" / CHECKPOINT)[1]
    assert (header["run"]["epoch"], header["run"]["batch"]) == (1, 2)
    run("stopped", 0, "resume")
    first, second = parameters(tmp_path / "whole"), parameters(tmp_path / "stopped")
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
