"""A run that is killed, interrupted or continued equals, bit for bit, the run that was never
stopped.

Knows `fit`, its run folder and signals; must not know what a checkpoint file holds.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae.checkpoint import CHECKPOINT, read_tensors, save, write_tensors
from ppl_vae.checks import InputError
from ppl_vae.protocols import InitialisedFromData
from ppl_vae.training import fit, history, saving
from ppl_vae.training.history import HistoryFile
from ppl_vae.training.run import Run
from tests.examples import PRIORS, pixels, tiny

ROOT = Path(__file__).parents[1]
IMAGES = {
    "event_shape": (8, 8),
    "network": "conv",
    "network_options": {"channels": [3, 4]},
    "likelihood": "normal_optimal",
}

ARGUMENTS = {
    "epochs": 6,
    "batch_size": 7,
    "learning_rate": "linear:0.02:0.001:6",
    "kl_weight": "linear:0:1:3",
    "binarization": "dynamic",
}
CASES = {
    "adam and batch norm": {
        "prior": "standard_normal",
        "fields": IMAGES,
        "arguments": {"compile": "off"},
    },
    "recorded, adagrad, two sites": {
        "prior": "scale_then_z",
        "fields": {},
        "arguments": {"compile": "record", "optimizer": "adagrad", "num_particles": 2},
    },
    "early stopping": {
        "prior": "standard_normal",
        "fields": {},
        "arguments": {
            "compile": "off",
            "early_stopping": 2,
            "epochs": 9,
            "learning_rate": "linear:0.01:3:6",
        },
    },
}


@pytest.fixture(autouse=True)
def trust_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trust.json"))


def train(name, **arguments):
    """The case's run in this process: its VAE and its rows without their times."""
    case = CASES[name]
    vae = tiny(PRIORS[case["prior"]], **case["fields"])
    x, valid = pixels(40, vae.config.event_shape), pixels(20, vae.config.event_shape, seed=1)
    return vae, fit(
        vae, x, validation=valid, progress=False, **{**ARGUMENTS, **case["arguments"], **arguments}
    )


@contextlib.contextmanager
def slow_child(name, steps, **arguments):
    """The case's run in a forked process whose every step waits, yielded when it has made so many
    steps.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            take = Run.take

            def slow(self, *arguments):
                take(self, *arguments)
                os.write(writing, b".")
                time.sleep(0.05)

            Run.take = slow
            train(name, **arguments)
        os._exit(1)
    os.close(writing)
    try:
        for _ in range(steps):
            assert os.read(reading, 1) == b"."
        yield child
    finally:
        os.close(reading)


def everything(folder):
    """Parameters, buffers, optimiser, best epoch and generator, as the folder has them."""
    return read_tensors(folder / CHECKPOINT)[0]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_as_if_it_never_was(name, tmp_path):
    """SIGKILL in the fourth epoch, at its third of six minibatches: the folder's last whole epoch
    is the third.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    vae, expected = train(name, checkpoint=whole)
    with slow_child(name, 21, checkpoint=killed) as child:
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len((killed / "history.csv").read_text().splitlines()) == 4
    again, found = train(name, checkpoint=killed, resume=True)
    assert (
        same_rows(found, expected) and same(again, vae) and found.best_epoch == expected.best_epoch
    )
    first, second = everything(whole), everything(killed)
    assert first.keys() == second.keys() and all(
        torch.equal(value, second[n]) for n, value in first.items()
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_in_another_process_saves_and_says_how_to_go_on(tmp_path, name):
    """A whole process, its signal handler and its last words; the first step of the second epoch is
    in hand.
    """
    code = f"""
import signal
import torch
torch.set_num_threads(1)  # as here: sums of two threads have other last bits
from tests.examples import pixels, tiny
from tests.test_resume import train
from ppl_vae.training.run import Run
from ppl_vae.training.optimizers import FusedUpdate
take = Run.take
def press(self, index):
    take(self, index)
    if (self.state.epoch, self.state.batch) == (1, 1):
        signal.raise_signal(signal.{name})
Run.take = press
train("adam and batch norm", checkpoint={str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "KeyboardInterrupt: stopped in epoch 2 after batch 1" in done.stderr
    assert f"ppl-vae train --resume {tmp_path}" in done.stderr
    vae, expected = train("adam and batch norm")
    again, found = train("adam and batch norm", checkpoint=tmp_path, resume=True)
    assert same_rows(found, expected) and same(again, vae)


def interrupted_at(monkeypatch, batch, vae, *arguments, **options):
    """Run `fit` and press Ctrl-C while the given minibatch of the first epoch is at work."""
    take = Run.take

    def press(self, index):
        take(self, index)
        if self.state.epoch == 0 and self.state.batch == batch:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "take", press)
    with pytest.raises(KeyboardInterrupt):
        fit(vae, *arguments, **options)
    monkeypatch.setattr(Run, "take", take)


@pytest.mark.parametrize("tier", ["off", "record"])
@pytest.mark.parametrize("batch", [1, 4])
def test_any_minibatch_may_be_the_interrupted_one_the_last_of_an_epoch_included(
    tmp_path, monkeypatch, batch, tier
):
    x, options = pixels(40), {"epochs": 3, "batch_size": 10, "progress": False, "compile": tier}
    whole, vae, again = tiny(), tiny(), tiny(seed=5)
    expected = fit(whole, x, **options)
    interrupted_at(monkeypatch, batch, vae, x, checkpoint=tmp_path, **options)
    handler = signal.getsignal(signal.SIGINT)
    assert handler is signal.default_int_handler
    found = fit(again, x, checkpoint=tmp_path, resume=True, **options)
    assert same_rows(found, expected) and same(whole, again) and found.tier == tier


class StartsFromData(nn.Module, InitialisedFromData):
    """A prior that begins at the mean of random rows, without noting that it did."""

    def __init__(self):
        super().__init__()
        self.location = nn.Parameter(torch.zeros(2))

    @torch.no_grad()
    def start_from(self, data):
        self.location.copy_(data[torch.randint(len(data), (5,))].mean(0)[:2])

    def forward(self):
        return pyro.sample("z", dist.Normal(self.location, 1.0).to_event(1))


def test_a_prior_starts_from_data_at_the_first_step_and_not_when_resuming(tmp_path):
    x, whole, vae, again = pixels(40), *(tiny(StartsFromData()) for _ in range(3))
    expected = fit(whole, x, epochs=4, **QUIET)
    fit(vae, x, epochs=2, checkpoint=tmp_path, **QUIET)
    found = fit(again, x, epochs=4, checkpoint=tmp_path, resume=True, **QUIET)
    assert same_rows(found, expected) and same(whole, again)


def same_rows(first, second):
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in h.rows]
        for h in (first, second)
    ]
    return rows[0] == rows[1]


def same(first, second):
    return all(
        torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items()
    )


QUIET = {"batch_size": 10, "progress": False, "compile": "off"}


class Transposed(nn.Module):
    """A prior whose parameter's gradient comes transposed."""

    def __init__(self, latent_size):
        super().__init__()
        self.a = nn.Parameter(torch.linspace(-1, 1, 3 * latent_size).reshape(3, latent_size))
        self.register_buffer("s", torch.linspace(-2, 1, 3 * latent_size).reshape(latent_size, 3))

    def forward(self):
        location = (self.a.t() * self.s).sum(1)
        return pyro.sample("z", dist.Normal(location, 1.0).to_event(1))


@pytest.mark.parametrize("tier", ["off", "record"])
def test_gradients_of_any_layout_resume_bit_for_bit(tmp_path, tier):
    x, whole, vae, again = pixels(40), *(tiny(Transposed) for _ in range(3))
    options = {**QUIET, "compile": tier}
    expected = fit(whole, x, epochs=4, **options)
    fit(vae, x, epochs=2, checkpoint=tmp_path, **options)
    found = fit(again, x, epochs=4, checkpoint=tmp_path, resume=True, **options)
    assert same_rows(found, expected) and same(whole, again)


def test_a_finished_run_continues_to_more_epochs(tmp_path):
    x, whole, vae, again = pixels(40), tiny(), tiny(), tiny()
    expected = fit(whole, x, epochs=5, **QUIET)
    fit(vae, x, epochs=2, checkpoint=tmp_path, **QUIET)
    assert same_rows(
        fit(again, x, epochs=5, checkpoint=tmp_path, resume=True, **QUIET), expected
    ) and same(whole, again)


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    x, arguments = pixels(40), {"early_stopping": 2, "epochs": 50, "learning_rate": 0.5, **QUIET}
    first, second = tiny(), tiny()
    stopped = fit(first, x, validation=pixels(20, seed=1), checkpoint=tmp_path, **arguments)
    assert stopped.stopped and len(stopped.rows) < 50
    again = fit(
        second, x, validation=pixels(20, seed=1), checkpoint=tmp_path, resume=True, **arguments
    )
    assert same_rows(again, stopped) and again.stopped == stopped.stopped and same(first, second)


def test_a_function_of_the_epoch_can_be_resumed(tmp_path):
    """A schedule without a text of its own is the caller's to repeat: it is not told apart by its
    address.
    """
    whole, vae, again, x = tiny(), tiny(), tiny(), pixels(40)
    expected = fit(whole, x, epochs=4, learning_rate=lambda epoch: 0.01 / (1 + epoch), **QUIET)
    fit(
        vae,
        x,
        epochs=2,
        learning_rate=lambda epoch: 0.01 / (1 + epoch),
        checkpoint=tmp_path,
        **QUIET,
    )
    found = fit(
        again,
        x,
        epochs=4,
        learning_rate=lambda epoch: 0.01 / (1 + epoch),
        checkpoint=tmp_path,
        resume=True,
        **QUIET,
    )
    assert same_rows(found, expected) and same(whole, again)


def test_functions_at_two_addresses_are_not_told_apart_by_them(tmp_path):
    rates = [lambda epoch: 0.01, lambda epoch: 0.01]
    assert str(rates[0]) != str(rates[1])
    for epochs, rate in enumerate(rates, start=1):
        history = fit(
            tiny(),
            pixels(40),
            epochs=epochs,
            learning_rate=rate,
            checkpoint=tmp_path,
            resume=True,
            **QUIET,
        )
    assert len(history.rows) == 2


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("settings", "without a run's state"),
        ("run", "without a run's state"),
        ("rows", "an incomplete run's state"),
    ],
)
def test_a_header_with_a_part_missing_is_refused(tmp_path, part, message):
    fit(tiny(), pixels(40), epochs=1, checkpoint=tmp_path, **QUIET)
    tensors, header = read_tensors(tmp_path / CHECKPOINT)
    (header["run"] if part == "rows" else header).pop(part)
    write_tensors(tmp_path / CHECKPOINT, tensors, header)
    with pytest.raises(InputError, match=message):
        fit(tiny(), pixels(40), epochs=2, checkpoint=tmp_path, resume=True, **QUIET)


class TestLongHistory:
    """A checkpoint holds three rows here, the others stand in history.csv alone."""

    @pytest.fixture(autouse=True)
    def few_rows(self, monkeypatch):
        monkeypatch.setattr("ppl_vae.training.state.OWN_ROWS", 3)
        monkeypatch.setattr("ppl_vae.training.run.OWN_ROWS", 3)

    @pytest.mark.parametrize("every", [1, 2, 100])
    def test_it_resumes_with_all_its_rows(self, tmp_path, every):
        x, options = pixels(40), {**QUIET, "checkpoint": tmp_path, "checkpoint_every": every}
        expected = fit(tiny(), x, epochs=9, validation=x, **QUIET)
        fit(tiny(), x, epochs=7, validation=x, **options)
        assert len(read_tensors(tmp_path / CHECKPOINT)[1]["run"]["rows"]["values"]) == 3
        found = fit(tiny(), x, epochs=9, validation=x, resume=True, **options)
        assert same_rows(found, expected)
        kinds = [[type(value) for value in row.values()] for row in found.rows]
        assert kinds == [[type(value) for value in row.values()] for row in expected.rows]
        assert len((tmp_path / "history.csv").read_text().splitlines()) == 10

    @pytest.mark.parametrize("ending", ["", "8,40,", "8,320\n9,360\n"])
    def test_rows_that_are_ahead_of_the_checkpoint_or_torn_are_written_anew(self, tmp_path, ending):
        x, options = pixels(40), {**QUIET, "checkpoint": tmp_path}
        expected = fit(tiny(), x, epochs=9, **QUIET)
        fit(tiny(), x, epochs=7, **options)
        file = tmp_path / "history.csv"
        file.write_text(file.read_text() + ending)
        assert same_rows(fit(tiny(), x, epochs=9, resume=True, **options), expected)
        assert [line.split(",")[0] for line in file.read_text().splitlines()[1:]] == [
            str(epoch) for epoch in range(1, 10)
        ]

    def test_without_its_file_it_goes_on_and_says_what_is_missing(self, tmp_path, caplog):
        x, options = pixels(40), {**QUIET, "checkpoint": tmp_path}
        whole, again = tiny(), tiny()
        expected = fit(whole, x, epochs=9, **QUIET)
        fit(tiny(), x, epochs=7, **options)
        (tmp_path / "history.csv").unlink()
        found = fit(again, x, epochs=9, resume=True, **options)
        assert "rows before epoch 5 are missing" in caplog.text
        assert [row["epoch"] for row in found.rows] == [5, 6, 7, 8, 9] and same(whole, again)
        assert expected.rows[-1]["lower_bound"] == found.rows[-1]["lower_bound"]

    def test_a_save_writes_what_is_new(self, tmp_path, monkeypatch):
        """The checkpoint stays as large as it is; of the file, the new rows are written."""
        rows = [{"epoch": epoch, "kl.z": epoch / 3} for epoch in range(1, 2001)]
        file, written = HistoryFile(tmp_path / "history.csv"), []
        lines = history._lines
        monkeypatch.setattr(
            history,
            "_lines",
            lambda columns, new, header: (
                written.append(len(new)) or lines(columns, new, header=header)
            ),
        )
        for count in range(100, 2001, 100):
            file.write(rows[:count])
        assert written == [100] * 20
        whole = HistoryFile(tmp_path / "whole.csv")
        whole.write(rows)
        assert (tmp_path / "history.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()

    def test_a_new_column_and_a_lost_file_are_written_whole(self, tmp_path):
        file = HistoryFile(tmp_path / "history.csv")
        rows = [{"epoch": 1, "a": 0.5}, {"epoch": 2, "a": 0.25}, {"epoch": 3, "b": 1.0}]
        for count in (1, 2, 3):
            file.write(rows[:count])
        assert file.path.read_text().split() == ["epoch,a,b", "1,0.5,", "2,0.25,", "3,,1.0"]
        file.path.unlink()
        file.write([*rows, {"epoch": 4, "b": 2.0}])
        file.write([*rows, {"epoch": 4, "b": 2.0}, {"epoch": 5, "b": 3.0}])
        assert file.path.read_text().split()[-3:] == ["3,,1.0", "4,,2.0", "5,,3.0"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("epoch", value) for value in ("2", 1.5, None, -5, True, 3, 2**62, 10**40)],
        *[("batch", value) for value in ("1", -1, 5, 10**9)],
        *[("seen", value) for value in (-1, 41, None)],
        *[("rows", value) for value in ("abc", [1], None, {}, {"first": 0, "columns": []})],
        *[
            ("rows", {"first": first, "columns": ["epoch", "a"], "values": values})
            for first, values in (
                (0, [[2, 0.5]]),
                (0, [[1, "b"]]),
                (0, [[1]]),
                (0, []),
                (1, [[1, 0.5]]),
                (-1, [[1, 0.5], [2, 0.5]]),
            )
        ],
        *[("seconds", value) for value in ("x", -1, None)],
    ],
)
def test_a_runs_state_that_no_run_can_be_in_is_refused(tmp_path, key, value):
    fit(tiny(), pixels(40), epochs=1, checkpoint=tmp_path, **QUIET)
    tensors, header = read_tensors(tmp_path / CHECKPOINT)
    header["run"][key] = value
    write_tensors(tmp_path / CHECKPOINT, tensors, header)
    with pytest.raises(InputError, match=key):
        fit(tiny(), pixels(40), epochs=4, checkpoint=tmp_path, resume=True, **QUIET)


def test_an_optimisers_tensor_of_another_shape_is_refused(tmp_path):
    fit(tiny(), pixels(40), epochs=1, checkpoint=tmp_path, **QUIET)
    tensors, header = read_tensors(tmp_path / CHECKPOINT)
    name = next(n for n in tensors if n.startswith("training/optimizer/exp_avg"))
    tensors[name] = tensors[name].flatten()[:1].reshape(())  # which could be broadcast
    write_tensors(tmp_path / CHECKPOINT, tensors, header)
    with pytest.raises(InputError, match="of another shape"):
        fit(tiny(), pixels(40), epochs=2, checkpoint=tmp_path, resume=True, **QUIET)


def test_numbers_of_numpy_are_numbers(tmp_path):
    """They are stored as Python's, so that a checkpoint can hold them and a resumed run finds them
    equal.
    """
    vae = tiny(latent_size=np.int64(2), hidden_sizes=(np.int32(5),))
    given = {
        "epochs": np.int64(1),
        "batch_size": np.int32(10),
        "seed": np.uint8(0),
        "weight_penalty": np.float32(0.5),
    }
    fit(vae, pixels(40), checkpoint=tmp_path, progress=False, compile="off", **given)
    plain = {"epochs": 2, "batch_size": 10, "seed": 0, "weight_penalty": 0.5, "compile": "off"}
    assert (
        len(fit(tiny(), pixels(40), checkpoint=tmp_path, resume=True, progress=False, **plain).rows)
        == 2
    )


def test_another_setting_or_other_data_are_refused_by_name(tmp_path):
    fit(tiny(), pixels(40), epochs=1, checkpoint=tmp_path, **QUIET)
    for changed in (
        {"seed": 1},
        {"learning_rate": 0.5},
        {"estimator": "A"},
        {"batch_size": 5},
        {"kl_weight": "linear:0:1:2"},
    ):
        with pytest.raises(InputError, match=f"{next(iter(changed))}=.*now"):
            fit(
                tiny(),
                pixels(40),
                epochs=2,
                checkpoint=tmp_path,
                resume=True,
                **{**QUIET, **changed},
            )
    with pytest.raises(InputError, match=r"num_data=40 \(now 39\)"):
        fit(tiny(), pixels(39), epochs=2, checkpoint=tmp_path, resume=True, **QUIET)
    with pytest.raises(InputError, match="other tensors"):
        fit(
            tiny(hidden_sizes=(4,)), pixels(40), epochs=2, checkpoint=tmp_path, resume=True, **QUIET
        )


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    fit(tiny(), pixels(40), epochs=1, checkpoint=tmp_path, **QUIET)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="resume=True goes on with it"):
        fit(tiny(), pixels(40), epochs=1, checkpoint=tmp_path, **QUIET)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_saved_vae_is_no_run_to_go_on_with(tmp_path):
    save(tiny(), tmp_path / "checkpoint.safetensors")
    with pytest.raises(InputError, match="without a run's state"):
        fit(tiny(), pixels(40), epochs=1, checkpoint=tmp_path, resume=True, **QUIET)


def test_checkpoints_come_every_so_many_epochs_and_at_the_end(tmp_path, monkeypatch):
    saved = []
    save_run = Run.save
    monkeypatch.setattr(Run, "save", lambda self: (saved.append(self.state.epoch), save_run(self)))
    fit(tiny(), pixels(40), epochs=5, checkpoint=tmp_path, checkpoint_every=2, **QUIET)
    assert saved == [2, 4, 5]


def saves_of(monkeypatch):
    """A list that fills with (epoch, batch) of each save."""
    made, save_run = [], Run.save

    def noted(self):
        made.append((self.state.epoch, self.state.batch))
        save_run(self)

    monkeypatch.setattr(Run, "save", noted)
    return made


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (2, [(2, 0), (3, 0)]),
        ("2 epochs", [(2, 0), (3, 0)]),
        ("1 epoch", [(1, 0), (2, 0), (3, 0)]),
        ("3 steps", [(0, 3), (1, 2), (2, 1), (3, 0)]),
        ("4steps", [(1, 0), (2, 0), (3, 0)]),
        ("100 steps", [(3, 0)]),
        ("1 hour", [(3, 0)]),
    ],
)
def test_checkpoints_come_by_epochs_or_by_steps(tmp_path, monkeypatch, every, expected):
    """Three epochs of four steps."""
    made = saves_of(monkeypatch)
    fit(tiny(), pixels(40), epochs=3, checkpoint=tmp_path, checkpoint_every=every, **QUIET)
    assert made == expected


def test_checkpoints_come_by_the_clock(tmp_path, monkeypatch):
    """A step takes a minute of this clock, and a save none of it."""
    made, now, take = saves_of(monkeypatch), [0.0], Run.take

    def slow(self, *given):
        take(self, *given)
        now[0] += 60

    monkeypatch.setattr(Run, "take", slow)
    monkeypatch.setattr(saving, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    fit(tiny(), pixels(40), epochs=3, checkpoint=tmp_path, checkpoint_every="5 min", **QUIET)
    assert made == [(1, 1), (2, 2), (3, 0)]


class Killed(Exception):
    """The process went."""


@pytest.mark.parametrize("name", CASES)
def test_a_run_killed_after_a_save_inside_an_epoch_goes_on_as_if_it_never_was(
    name, tmp_path, monkeypatch
):
    """Saved after 16 of 36 steps, in the third epoch, and killed after 19."""
    vae, expected = train(name)
    take, steps = Run.take, []

    def counted(self, *given):
        take(self, *given)
        steps.append(self.state.batch)
        if len(steps) == 19:
            raise Killed

    monkeypatch.setattr(Run, "take", counted)
    with pytest.raises(Killed):
        train(name, checkpoint=tmp_path, checkpoint_every="16 steps")
    monkeypatch.setattr(Run, "take", take)
    run = read_tensors(tmp_path / CHECKPOINT)[1]["run"]
    assert (run["epoch"], run["batch"]) == (2, 4)
    again, found = train(name, checkpoint=tmp_path, checkpoint_every="16 steps", resume=True)
    assert same_rows(found, expected) and same(again, vae)


def test_a_run_that_saves_often_is_the_run_that_saves_once_and_its_seconds_add_up(tmp_path):
    first, second = tiny(), tiny()
    expected = fit(first, pixels(40), epochs=3, **QUIET)
    began = time.perf_counter()
    found = fit(
        second, pixels(40), epochs=3, checkpoint=tmp_path, checkpoint_every="1 step", **QUIET
    )
    assert same_rows(found, expected) and same(first, second)
    assert 0 < sum(row["seconds"] for row in found.rows) < time.perf_counter() - began


@pytest.mark.parametrize(
    "every", [0, -1, 1.5, True, "", "ten minutes", "5", "0 steps", "1.5 steps", "3 days", "0 min"]
)
def test_an_interval_between_saves_that_has_no_meaning_is_refused(tmp_path, every):
    with pytest.raises(InputError, match="checkpoint_every"):
        fit(tiny(), pixels(40), epochs=1, checkpoint=tmp_path, checkpoint_every=every, **QUIET)


@pytest.mark.parametrize("prior", ["mixture", "gamma_scale"])
def test_priors_with_parameters_or_gamma_noise_resume_too(tmp_path, prior):
    whole, vae, again, x = (*(tiny(PRIORS[prior]) for _ in range(3)), pixels(40))
    options = {**QUIET, "compile": "record"}
    expected = fit(whole, x, epochs=4, **options)
    fit(vae, x, epochs=2, checkpoint=tmp_path, **options)
    assert same_rows(
        fit(again, x, epochs=4, checkpoint=tmp_path, resume=True, **options), expected
    ) and same(whole, again)
