"""The recorded step is the eager one: the same numbers bit for bit, and a loud failure where it
could not be.

Knows steps and their tiers; must not know epochs or files. Eager Pyro is the truth here.
"""

import logging
import math
import random
import shutil

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.evaluation import log_likelihood
from ppl_vae.graphs import lift_noise
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.training import fit
from ppl_vae.training.objective import Objective, StepValues, TrainingLoss
from ppl_vae.training.optimizers import FusedUpdate
from ppl_vae.training.step import EagerStep, RecordedStep, record_gradients
from ppl_vae.training.tiers import choose_tier
from tests.examples import PRIORS, pixels, tiny

IMAGES = {"event_shape": (8, 8), "network": "conv", "network_options": {"channels": (3, 4)}}
CASES = {
    **{name: (name, {}, Objective("B")) for name in PRIORS},
    "sampled": ("scale_then_z", {}, Objective("A")),
    "three particles": ("scale_then_z", {}, Objective("B", 3)),
    "three gamma particles": ("gamma_scale", {}, Objective("A", 3)),
    "batch norm": ("standard_normal", IMAGES, Objective("B")),
    "dropout": ("standard_normal", {"network_options": {"dropout": 0.3}}, Objective("B")),
    "dropout and uniform noise": (
        "laplace",
        {"network_options": {"dropout": 0.3}},
        Objective("A", 2),
    ),
    "calibrated scale": ("standard_normal", {"likelihood": "normal_optimal"}, Objective("B")),
    "pixelwise scale": ("half_cauchy", {"likelihood": "normal_pixelwise"}, Objective("B")),
    "continuous pixels": ("laplace", {"likelihood": "continuous_bernoulli"}, Objective("B")),
}


def parts(prior, fields, objective, optimizer="adam"):
    vae = tiny(PRIORS[prior], num_data=50, **fields).train()
    module = TrainingLoss(vae, objective)
    return module, FusedUpdate(optimizer, list(vae.parameters()), 0.0)


def run(step, module, batches, seed=0):
    """Reports, gradients and, in the end, parameters and buffers of a few steps with changing
    weights and shapes.
    """
    torch.manual_seed(seed)
    found = []
    with local_parameters():
        for i, x in enumerate(batches):
            module.set(StepValues(kl_weight=0.1 + 0.3 * i))
            report, gradients = step.gradients(x)
            found += [report.clone(), *(g.clone() for g in gradients)]
            step.update(gradients, 0.01)
    return found + list(module.state_dict().values()) + [torch.rand(3)]


@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_buffers_and_generator_equal_the_eager_ones_bit_for_bit(case):
    prior, fields, objective = CASES[case]
    x = pixels(25, fields.get("event_shape", (6,)))
    batches = [x[:10], x[10:20], x[20:], x[:10]]
    eager, recorded = parts(prior, fields, objective), parts(prior, fields, objective)
    expected = run(EagerStep(*eager), eager[0], batches)
    found = run(RecordedStep(*recorded, "record"), recorded[0], batches)
    assert len(expected) == len(found)
    assert all(torch.equal(a, b) for a, b in zip(expected, found))


def test_noise_is_lifted_unless_its_law_depends_on_the_program():
    """Normal and uniform noise become inputs; a gamma variate stays, and all others of its program
    with it.
    """
    counts = {}
    for prior in ("standard_normal", "laplace", "scale_then_z", "gamma_scale"):
        module, update = parts(prior, {}, Objective("B"))
        with local_parameters():
            graph = record_gradients(module, update.parameters, pixels(10)).graph
        counts[prior] = len(lift_noise(graph))
    assert counts == {"standard_normal": 1, "laplace": 1, "scale_then_z": 2, "gamma_scale": 0}


def test_recording_changes_neither_generator_nor_parameters_nor_buffers():
    module, update = parts("standard_normal", IMAGES, Objective("B"))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    with local_parameters():
        record_gradients(module, update.parameters, pixels(10, (8, 8)))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_schedule_values_are_inputs_of_the_recorded_step():
    """One graph, four weights: loss = -reconstruction + weight KL each time."""
    module, update = parts("standard_normal", {}, Objective("B"))
    step = RecordedStep(module, update, "record")
    with local_parameters():
        for weight in (1.0, 0.0, 0.5, 7.0):
            module.set(StepValues(kl_weight=weight))
            report, _ = step.gradients(pixels(10))
            terms = dict(zip(step.names, report.tolist()))
            assert terms["loss"] == pytest.approx(
                -terms["reconstruction"] + weight * terms["kl.z"], rel=1e-5
            )
    assert len(step._programs) == 1


class Baked(Objective):
    """A wrong objective: the KL weight it is given is replaced by a number."""

    def __call__(self, model, guide, x, values, num_data):
        return super().__call__(model, guide, x, values._replace(kl_weight=0.5), num_data)


@pytest.mark.parametrize("prior", ["standard_normal", "gamma_scale"])
def test_a_number_baked_in_for_the_kl_weight_fails_loudly(prior):
    module, update = parts(prior, {}, Baked("B"))
    with local_parameters(), pytest.raises(RuntimeError, match="baked in as a number"):
        record_gradients(module, update.parameters, pixels(10))


@pytest.mark.parametrize(
    "fields", [IMAGES, {"network_options": {"dropout": 0.5}}], ids=["batch norm", "dropout"]
)
def test_a_program_recorded_in_training_mode_is_not_used_in_evaluation(fields):
    module, update = parts("standard_normal", fields, Objective("B"))
    x, step, eager = pixels(10, fields.get("event_shape", (6,))), None, None
    step, eager = RecordedStep(module, update, "record"), EagerStep(module, update)
    losses = {}
    for mode in (True, False, True, False):
        module.vae.train(mode)
        with local_parameters():
            pairs = []
            for each in (step, eager):
                torch.manual_seed(0)
                pairs.append(each.gradients(x)[0])
        if not mode:
            assert torch.equal(*pairs)
        losses[mode] = pairs[0][0].item()
    assert losses[True] != losses[False]
    assert len(step._programs) == 2


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_a_step_marked_as_failed_changes_nothing(optimizer):
    """As the kernel is told on a GPU; unmarked, the same step is that of an update never told."""
    found = []
    for marks in ((None, None), (0.0, 0.0), (0.0, 1.0, 0.0)):
        _, update = parts("standard_normal", {}, Objective("B"), optimizer)
        gradients = [torch.ones_like(p) for p in update.parameters]
        for mark in marks:
            bad = [g * math.nan for g in gradients] if mark else gradients
            update(bad, 0.01, None if mark is None else torch.tensor(mark))
        found.append([*update.parameters, *update.state().values()])
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1]))
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[2]))


def test_control_flow_that_looks_at_data_falls_back_to_eager_with_one_line(caplog):
    def prior():
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.3))
        location = 1.0 if scale.mean() > 1 else -1.0
        return pyro.sample("z", dist.Normal(torch.full((2,), location), 1.0).to_event(1))

    with caplog.at_level(logging.WARNING, logger="ppl_vae"):
        history = fit(tiny(prior), pixels(40), epochs=2, compile="record", progress=False)
    assert history.tier == "off"
    assert (
        len(caplog.records) == 1
        and "cannot be recorded" in caplog.text
        and "running them eagerly" in caplog.text
    )


class Changing(torch.nn.Module):
    """p(z) = N(0, scale), the scale a number of Python's that changes from call to call."""

    kind = "counter"

    def __init__(self, latent_size):
        super().__init__()
        self.latent_size, self.calls, self.counts = latent_size, 0, {"calls": 0}

    def forward(self):
        scale = {
            "counter": lambda: 1.0 + 0.1 * self.calls,
            "slow counter": lambda: 1.0 + 0.1 * (self.calls // 100),
            "counter in a dictionary": lambda: 1.0 + 0.1 * (self.counts["calls"] // 100),
            "python": lambda: random.uniform(1, 2),
            "numpy": lambda: np.random.default_rng().uniform(1, 2),
            "tensor": lambda: torch.tensor(np.random.default_rng().uniform(1, 2, 2)).float(),
        }[self.kind]()
        if self.kind == "counter in a dictionary":
            self.counts["calls"] += 1
        elif "counter" in self.kind:
            self.calls += 1
        return pyro.sample("z", dist.Normal(torch.zeros(self.latent_size), scale).to_event(1))


@pytest.mark.parametrize(
    "kind",
    ["counter", "slow counter", "counter in a dictionary", "python", "numpy", "tensor"],
)
def test_a_program_that_changes_from_call_to_call_is_run_eagerly_with_one_line(
    kind, monkeypatch, caplog
):
    monkeypatch.setattr(Changing, "kind", kind)
    vae = tiny(Changing)
    with caplog.at_level(logging.WARNING, logger="ppl_vae"):
        history = fit(vae, pixels(40), epochs=2, compile="record", progress=False)
    assert history.tier == "off"
    assert len(caplog.records) == 1 and "from call to call" in caplog.text
    assert ("model.prior.calls" in caplog.text) == (kind in ("counter", "slow counter"))
    assert ("model.prior.counts" in caplog.text) == (kind == "counter in a dictionary")


class Annealed(torch.nn.Module):
    """p(z) = N(0, exp(-c / 20)), the buffer c one more at each run in training."""

    def __init__(self, latent_size):
        super().__init__()
        self.latent_size = latent_size
        self.register_buffer("count", torch.zeros(()))

    def forward(self):
        if self.training:
            self.count = self.count + 1
        scale = torch.exp(-self.count / 20)
        return pyro.sample("z", dist.Normal(torch.zeros(self.latent_size), scale).to_event(1))


def test_a_program_that_replaces_a_buffer_is_run_eagerly_with_one_line(caplog):
    """A recorded step would begin with the first buffer at every call."""
    with caplog.at_level(logging.WARNING, logger="ppl_vae"):
        histories = [
            fit(tiny(Annealed), pixels(40), batch_size=10, epochs=3, compile=tier, progress=False)
            for tier in ("off", "record")
        ]
    assert len(caplog.records) == 1 and "they replace vae.model.prior.count" in caplog.text
    assert [history.tier for history in histories] == ["off", "off"]


class MadeBefore(torch.nn.Module):
    """p(z) = N(0, 1), a distribution that was made once, with its scale expanded."""

    def __init__(self, latent_size):
        super().__init__()
        self.standard_normal = dist.Normal(torch.zeros(latent_size), 1.0).to_event(1)

    def forward(self):
        return pyro.sample("z", self.standard_normal)


@pytest.mark.parametrize("latent_size", [1, 2])
def test_a_constant_that_was_expanded_is_recorded(latent_size):
    """Expanded, it has one number for many in memory, and no bytes of its own for each."""
    bounds = []
    for tier in ("off", "record"):
        vae = tiny(MadeBefore, latent_size=latent_size)
        history = fit(vae, pixels(40), epochs=2, compile=tier, progress=False)
        assert history.tier == tier
        bounds.append(history.rows[-1]["lower_bound"])
    assert bounds[0] == bounds[1]


def test_log_likelihood_of_a_program_that_changes_is_run_eagerly_with_one_line(monkeypatch, caplog):
    monkeypatch.setattr(Changing, "kind", "numpy")
    with caplog.at_level(logging.WARNING, logger="ppl_vae"):
        log_likelihood(tiny(Changing), pixels(5), num_samples=20, compile="record", seed=0)
    assert len(caplog.records) == 1 and "from call to call" in caplog.text


class Tempered(torch.nn.Module):
    """p(z) = N(0, temperature), a number for somebody else to change."""

    def __init__(self, latent_size):
        super().__init__()
        self.latent_size, self.temperature = latent_size, 1.0

    def forward(self):
        zeros = torch.zeros(self.latent_size)
        return pyro.sample("z", dist.Normal(zeros, self.temperature).to_event(1))


@pytest.mark.parametrize("tier", ["off", "record"])
def test_what_a_recorded_program_does_not_see_is_told_once(tier, caplog):
    vae = tiny(Tempered)

    def weight(epoch):
        vae.model.prior.temperature = 1.0 + epoch
        return 1.0

    with caplog.at_level(logging.WARNING, logger="ppl_vae"):
        fit(vae, pixels(40), epochs=3, kl_weight=weight, compile=tier, progress=False)
    assert len(caplog.records) == (tier == "record")
    assert ("model.prior.temperature changed after" in caplog.text) == (tier == "record")


def trained(tier, prior="scale_then_z", **arguments):
    """A VAE after 200 steps (40 epochs of four batches of ten and one of two)."""
    vae = tiny(PRIORS[prior])
    options = {
        "epochs": 40,
        "batch_size": 10,
        "learning_rate": "linear:0.01:0.001:40",
        "kl_weight": "linear:0:1:20",
    }
    history = fit(vae, pixels(42), compile=tier, progress=False, **{**options, **arguments})
    return vae, history


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_two_hundred_recorded_steps_leave_the_parameters_of_two_hundred_eager_ones(optimizer):
    (eager, first), (recorded, second) = (
        trained(tier, optimizer=optimizer) for tier in ("off", "record")
    )
    assert (first.tier, second.tier) == ("off", "record")
    assert all(
        torch.equal(value, recorded.state_dict()[name])
        for name, value in eager.state_dict().items()
    )
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in first.rows] == [
        {k: v for k, v in row.items() if k not in drop} for row in second.rows
    ]


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_compiled_steps_agree_with_eager_ones():
    """First epoch's bound within 1e-5 relative; parameters after 200 steps within 1e-4."""
    (eager, first), (compiled, second) = (
        trained(tier, "standard_normal") for tier in ("off", "inductor")
    )
    assert second.tier == "inductor"
    assert second.rows[0]["lower_bound"] == pytest.approx(first.rows[0]["lower_bound"], rel=1e-5)
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_size", [7, 10])
def test_without_a_working_compiler_the_recorded_graph_runs_and_one_line_says_so(
    monkeypatch, caplog, batch_size
):
    """With one size of batches, and with a short last one."""
    import torch._inductor

    def broken(*_, **__):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch._inductor, "compile", broken)
    reference, _ = trained("record", epochs=6, batch_size=batch_size)
    with caplog.at_level(logging.WARNING, logger="ppl_vae"):
        vae, history = trained("inductor", epochs=6, batch_size=batch_size)
    assert (
        history.tier == "record" and "no compiler here" in caplog.text and len(caplog.records) == 1
    )
    assert all(
        torch.equal(value, vae.state_dict()[name]) for name, value in reference.state_dict().items()
    )


def test_auto_weighs_the_steps_to_run_against_what_a_tier_costs_once():
    tiers = [choose_tier("auto", steps) for steps in (1, 1000, 10**6)]
    assert tiers == ["off", "record", "inductor"]
    assert all(choose_tier(name, 1) == name for name in ("off", "record", "inductor"))
