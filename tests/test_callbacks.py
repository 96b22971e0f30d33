"""Callbacks of `fit`: when they are called, with what, and that they change nothing but the end.

Knows `fit` and run folders; the recipes for other libraries are called with stand-ins for these.
"""

import random
import sys
import traceback
import types

import numpy as np
import pytest
import torch

from ppl_vae import InputError, fit, load, lower_bound
from ppl_vae.checkpoint import CHECKPOINT, read_tensors
from ppl_vae.training import Event
from studies.recipes import callbacks as recipes
from tests.examples import pixels, tiny
from tests.test_resume import IMAGES, same, same_rows

QUIET = {"batch_size": 10, "progress": False, "compile": "off"}


@pytest.fixture(autouse=True)
def trust_file(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path_factory.mktemp("trust") / "trust.json"))


def meddle(event: Event) -> None:
    """Everything that must have no effect."""
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    torch.set_grad_enabled(False)
    event.vae.train()
    event.vae.sample(2)
    lower_bound(event.vae, pixels(7, event.vae.config.event_shape), seed=3)
    event.row.clear()
    event.row["lower_bound"] = torch.inf


def test_it_is_called_at_the_start_after_each_epoch_and_at_the_end():
    events = []
    vae, validation = tiny(), pixels(20, seed=1)
    history = fit(
        vae, pixels(40), validation=validation, epochs=3, callbacks=[events.append], **QUIET
    )
    assert [event.kind for event in events] == ["start", "epoch", "epoch", "epoch", "end"]
    assert [event.row for event in events] == [{}, *history.rows, history.rows[-1]]
    assert all(event.vae is vae for event in events)


@pytest.mark.parametrize("tier", ["off", "record"])
def test_a_run_with_callbacks_is_the_run_without_to_the_bit(tier):
    """With a batch normalisation, whose statistics another mode would change."""
    whole, watched = tiny(**IMAGES), tiny(**IMAGES)
    x, options = pixels(40, (8, 8)), {**QUIET, "compile": tier, "epochs": 3, "seed": 2}
    expected = fit(whole, x, validation=x[:9], early_stopping=2, **options)
    state = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    found = fit(
        watched, x, validation=x[:9], early_stopping=2, callbacks=[meddle, meddle], **options
    )
    assert same_rows(found, expected) and same(whole, watched)
    assert random.getstate() == state[0] and np.array_equal(np.random.get_state()[1], state[1])
    assert torch.equal(torch.get_rng_state(), state[2]) and not watched.training


def test_it_sees_the_vae_in_evaluation_mode_and_at_the_end_with_its_best_parameters():
    seen = {}

    def look(event):
        seen[event.kind, event.row.get("epoch")] = (
            event.vae.training,
            torch.cat([p.detach().flatten().clone() for p in event.vae.parameters()]),
        )

    options = {**QUIET, "learning_rate": "linear:0.01:3:4", "early_stopping": 2}
    history = fit(
        tiny(), pixels(40), validation=pixels(20, seed=1), epochs=9, callbacks=[look], **options
    )
    assert not any(training for training, _ in seen.values())
    best, last = history.best_epoch, history.rows[-1]["epoch"]
    assert best < last
    assert torch.equal(seen["end", last][1], seen["epoch", best][1])
    assert not torch.equal(seen["end", last][1], seen["epoch", last][1])


@pytest.mark.parametrize("answer", [True, np.True_])
def test_one_that_returns_true_stops_the_run_which_can_be_resumed(tmp_path, answer):
    whole, stopped, again = tiny(), tiny(), tiny(seed=5)
    expected = fit(whole, pixels(40), epochs=4, **QUIET)
    kinds = []

    def stop(event):
        kinds.append(event.kind)
        return answer if event.row.get("epoch") == 2 else event.kind == "start"

    history = fit(
        stopped,
        pixels(40),
        epochs=4,
        checkpoint=tmp_path,
        checkpoint_every=3,
        callbacks=[stop, lambda event: None],
        **QUIET,
    )
    assert len(history.rows) == 2 and history.stopped == "a callback returned True"
    assert kinds == ["start", "epoch", "epoch", "end"]
    found = fit(again, pixels(40), epochs=4, checkpoint=tmp_path, resume=True, **QUIET)
    assert same_rows(found, expected) and same(again, whole) and found.stopped == ""


@pytest.mark.parametrize("answer", [1, "yes", [True], torch.ones(3), None])
def test_only_true_stops(answer):
    history = fit(tiny(), pixels(40), epochs=2, callbacks=[lambda event: answer], **QUIET)
    assert len(history.rows) == 2 and not history.stopped


def test_an_exception_ends_the_run_by_its_own_traceback_after_the_epoch_is_saved(tmp_path):
    whole, again = tiny(), tiny(seed=5)
    expected = fit(whole, pixels(40), epochs=4, **QUIET)

    def fail_in_the_second(event):
        torch.rand(3)
        if event.row.get("epoch") == 2:
            raise ZeroDivisionError("mine")

    options = {**QUIET, "checkpoint": tmp_path, "checkpoint_every": 3}
    with pytest.raises(ZeroDivisionError, match="mine") as error:
        fit(tiny(), pixels(40), epochs=4, callbacks=[fail_in_the_second], **options)
    assert traceback.extract_tb(error.value.__traceback__)[-1].name == "fail_in_the_second"
    assert read_tensors(tmp_path / CHECKPOINT)[1]["run"]["epoch"] == 2
    assert (tmp_path / "history.csv").read_text().count("\n") == 3
    found = fit(again, pixels(40), epochs=4, resume=True, **options)
    assert same_rows(found, expected) and same(again, whole)


def test_an_exception_at_the_start_leaves_no_checkpoint_and_one_at_the_end_a_whole_one(tmp_path):
    def fail(event):
        if event.kind == wanted:
            raise ZeroDivisionError

    for wanted, there in (("start", False), ("end", True)):
        folder = tmp_path / wanted
        with pytest.raises(ZeroDivisionError):
            fit(tiny(), pixels(40), epochs=2, checkpoint=folder, callbacks=[fail], **QUIET)
        assert (folder / CHECKPOINT).exists() == there
    assert load(tmp_path / "end").num_data == 40


def test_a_resumed_run_begins_with_the_row_it_had_reached(tmp_path):
    fit(tiny(), pixels(40), epochs=2, checkpoint=tmp_path, **QUIET)
    events = []
    fit(
        tiny(),
        pixels(40),
        epochs=3,
        checkpoint=tmp_path,
        resume=True,
        callbacks=[events.append],
        **QUIET,
    )
    assert [(event.kind, event.row["epoch"]) for event in events] == [
        ("start", 2),
        ("epoch", 3),
        ("end", 3),
    ]


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        (print, "got a function, expected a list of functions; use callbacks=[f]"),
        ([print, 3], "callbacks[1]: got int"),
        (3, "got 3"),
        ("print", "got 'print'"),
    ],
)
def test_what_is_no_list_of_functions_is_refused(callbacks, words):
    with pytest.raises(InputError) as error:
        fit(tiny(), pixels(40), epochs=1, callbacks=callbacks, **QUIET)
    assert words in str(error.value)


# --------------------------------------------------------------------------------------------------
# - Recipes for other libraries


def stand_in(monkeypatch, name, **members):
    """A module of that name which holds `members`."""
    module = types.ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module


class Calls:
    """Notes every call of every method."""

    def __init__(self):
        self.made = []

    def __getattr__(self, name):
        return lambda *given, **named: self.made.append((name, given, named))


def test_tensorboard_gets_each_number_of_each_epoch(monkeypatch):
    writer = Calls()
    stand_in(monkeypatch, "tensorboard")
    stand_in(monkeypatch, "torch.utils.tensorboard", SummaryWriter=lambda folder: writer)
    callback = recipes.tensorboard("somewhere")
    history = fit(tiny(), pixels(40), epochs=2, callbacks=[callback], **QUIET)
    bounds = [given[1:] for name, given, _ in writer.made if given[:1] == ("lower_bound",)]
    assert bounds == [(row["lower_bound"], row["epoch"]) for row in history.rows]
    assert writer.made[-1][0] == "close"


def test_mlflow_gets_the_configuration_once_and_each_epochs_numbers(monkeypatch):
    calls = Calls()
    names = ("log_params", "log_metrics")
    stand_in(monkeypatch, "mlflow", **{name: getattr(calls, name) for name in names})
    history = fit(tiny(), pixels(40), epochs=2, callbacks=[recipes.mlflow()], **QUIET)
    assert [name for name, _, _ in calls.made] == ["log_params", "log_metrics", "log_metrics"]
    assert calls.made[0][1][0]["latent_size"] == 2
    assert calls.made[2][1:] == ((history.rows[1],), {"step": 2})


def test_weights_and_biases_gets_each_epochs_numbers_and_is_closed(monkeypatch):
    run = Calls()
    run.config = Calls()
    stand_in(monkeypatch, "wandb", init=lambda **options: run if options == {"mode": "x"} else None)
    callback = recipes.weights_and_biases(mode="x")
    history = fit(tiny(), pixels(40), epochs=1, callbacks=[callback], **QUIET)
    assert run.made == [("log", (history.rows[0],), {"step": 1}), ("finish", (), {})]
    assert run.config.made[0][1][0]["latent_size"] == 2


def test_optuna_prunes_a_trial_whose_epoch_is_reported(monkeypatch):
    class TrialPruned(Exception):
        pass

    class Trial:
        reported: list = []  # noqa: RUF012

        def report(self, value, step):
            self.reported.append((value, step))

        def should_prune(self):
            return len(self.reported) == 2

    stand_in(monkeypatch, "optuna", TrialPruned=TrialPruned)
    with pytest.raises(TrialPruned, match="after epoch 2"):
        fit(
            tiny(),
            pixels(40),
            epochs=4,
            callbacks=[recipes.optuna_pruning(Trial(), "lower_bound")],
            **QUIET,
        )
    assert [step for _, step in Trial.reported] == [1, 2]
    with pytest.raises(InputError, match="column: got validation_lower_bound, expected one of"):
        fit(tiny(), pixels(40), epochs=1, callbacks=[recipes.optuna_pruning(Trial())], **QUIET)


@pytest.mark.parametrize(
    ("recipe", "package"),
    [
        (lambda: recipes.tensorboard("x"), "tensorboard"),
        (recipes.mlflow, "mlflow"),
        (recipes.weights_and_biases, "wandb"),
        (lambda: recipes.optuna_pruning(None), "optuna"),
    ],
)
def test_a_package_that_is_absent_is_named_with_what_to_do(recipe, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"pip install {package}"):
        recipe()
