"""The sections of `on_gpu.py` that ask whether everything works on a device, and equals what it has
to equal.

A section takes (report, device, tiny). Each of its cases builds what it needs, so that one that
fails leaves the others as they are.
"""

import contextlib
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae import (
    VAEConfig,
    build,
    fit,
    load,
    load_data,
    log_likelihood,
    lower_bound,
    save,
    to_elpd,
    to_inference_data,
)
from ppl_vae.evaluation import (
    active_units,
    bidirectional_gap,
    inference_gaps,
    reconstruction_error,
)
from ppl_vae.graphs import lift_noise
from ppl_vae.guides import POSTERIORS
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.likelihoods import LIKELIHOODS
from ppl_vae.priors import PRIORS
from ppl_vae.training.objective import Objective, TrainingLoss
from ppl_vae.training.ranks import Ranks
from ppl_vae.training.run import Run
from ppl_vae.training.step import record_gradients
from ppl_vae.training.tiers import CapturedStep
from ppl_vae.vae import VAE

ROOT = Path(__file__).parents[2]
SHAPE = (8, 8)


def ring(latent_size: int, radius: float = 3.0) -> Tensor:
    """As a user writes a prior, with no thought of devices."""
    normal = dist.Normal(0.0, 1.0).expand([latent_size]).to_event(1)
    u = pyro.sample("direction", normal)
    on_ring = radius * u / u.norm(dim=-1, keepdim=True)
    return pyro.sample("z", dist.Normal(on_ring, 1.0).to_event(1))


def zeros_prior(latent_size: int) -> Tensor:
    """As a user writes a prior whose constants are tensors of the default device."""
    return pyro.sample("z", dist.Laplace(torch.zeros(latent_size), 1.0).to_event(1))


def own_weight(latent_size: int) -> Tensor:
    """A user's prior with a parameter of `pyro.param`."""
    first = pyro.sample("first", dist.Normal(0.0, 1.0))
    weight = pyro.param("weight", lambda: torch.randn(1, latent_size))
    return pyro.sample("z", dist.Normal(torch.tanh(first[..., None] @ weight), 0.5).to_event(1))


def pixels(num_data: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    """Binary data whose pixels depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(shape)
    logits = torch.randn(num_data, 2, generator=generator) @ torch.randn(
        2, size, generator=generator
    )
    return torch.bernoulli((2 * logits).sigmoid(), generator=generator).reshape(num_data, *shape)


def small(device: str = "cpu", parts: Mapping[str, Any] | None = None, **fields: Any) -> VAE:
    """A VAE of 64 pixels with parts of one's own."""
    config = VAEConfig(**{"event_shape": SHAPE, "latent_size": 2, "hidden_sizes": (16,), **fields})
    return build(config, seed=0, **(parts or {})).to(device)


def trained(device: str, tier: str, vae: VAE | None = None, x: Tensor | None = None, **how: Any):
    """(VAE, history) of a short run on the device, 5 batches an epoch, the last one short."""
    vae = small() if vae is None else vae
    x = pixels(90) if x is None else x
    given = {"batch_size": 20, "epochs": 2, "progress": False, **how}
    return vae, fit(vae, x, compile=tier, device=device, **given)


def difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """The largest difference of two states, in units of the tensor's largest value."""
    assert first.keys() == second.keys()
    found = [0.0]
    for name, a in first.items():
        b = second[name]
        if a.numel() and not torch.equal(a.nan_to_num(), b.nan_to_num()):
            a, b = a.double(), b.double()
            found.append(((a - b).abs().max() / a.abs().max().clamp(min=1e-6)).item())
    return max(found)


def verdict(good: bool) -> str:
    """What a case says of a comparison."""
    return "ok" if good else "FAULT"


def finite(vae: VAE) -> None:
    """Stop at a tensor that is not finite, or that was left on the device."""
    for name, tensor in vae.state_dict().items():
        assert torch.isfinite(tensor).all(), f"{name} is not finite"
        assert tensor.device.type == "cpu", f"{name} was left on {tensor.device}"


@contextlib.contextmanager
def captures() -> Iterator[list[int]]:
    """Counts the steps that became a CUDA graph inside the block."""
    seen, capture = [0], CapturedStep._capture

    def counted(self: CapturedStep, *arguments: Tensor) -> None:
        capture(self, *arguments)
        seen[0] += 1

    CapturedStep._capture = counted  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        CapturedStep._capture = capture  # type: ignore[method-assign]


def tiers_alike(device: str, make: Callable[[], VAE] = small, **how: Any) -> dict[str, Any]:
    """Eager and recorded training of one seed: are they one run, and was it recorded?"""
    eager, _ = trained(device, "off", make(), **how)
    with captures() as seen:
        recorded, history = trained(device, "record", make(), **how)
    finite(eager)
    finite(recorded)
    apart = difference(eager.state_dict(), recorded.state_dict())
    found = {"tier": history.tier, "captured": seen[0], "apart": apart}
    good = apart == 0.0 and history.tier == "record" and (device == "cpu" or seen[0] == 1)
    return {"verdict": verdict(good), **found}


# ---- the tiers


def tiers(report: Any, device: str, tiny: bool) -> None:
    """Eager, recorded and compiled runs, on the device and on the processor."""
    data = load_data("digits", binarization="dynamic")
    epochs = 2 if tiny else 15
    common = {"epochs": epochs, "validation": data.validation, "x": data.train, "batch_size": 100}
    common["binarization"] = "dynamic"
    states: dict[Any, Any] = {}

    def run(tier: str, where: str, name: str) -> dict[str, Any]:
        with captures() as seen:
            vae, history = trained(where, tier, small(hidden_sizes=(50,)), **common)
        finite(vae)
        row = history.rows[-1]
        states[name] = vae.state_dict(), row["validation_lower_bound"]
        return {
            "verdict": "measured",
            "tier": history.tier,
            "captured": seen[0],
            "bound": row["lower_bound"],
            "validation": row["validation_lower_bound"],
        }

    report.case("off on the processor", partial(run, "off", "cpu", "cpu"))
    compiled = () if tiny else ("inductor",)
    for tier in ("off", "record", *compiled):
        report.case(f"{tier}", partial(run, tier, device, tier))
    report.case("record again", partial(run, "record", device, "again"))

    def compared(first: str, second: str, largest: float) -> dict[str, Any]:
        apart = difference(states[first][0], states[second][0])
        return {"verdict": verdict(apart <= largest), "apart": apart}

    def bounds(name: str) -> dict[str, Any]:
        gap = states[name][1] - states["cpu"][1]
        return {"verdict": verdict(abs(gap) < 1.0), "nats_from_processor": gap}

    report.case("record twice is one run", partial(compared, "record", "again", 0.0))
    report.case("record equals off to the bit", partial(compared, "off", "record", 0.0))
    if compiled:
        report.case("inductor is near off", partial(compared, "off", "inductor", 0.05))
    for tier in ("off", "record", *compiled):
        report.case(f"bound of {tier} near the processor's", partial(bounds, tier))
    report.case("gradients with one noise", partial(_gradients, device, {}))
    report.case(
        "gradients with one noise, conv",
        partial(_gradients, device, {"network": "conv", "network_options": {"channels": [8, 8]}}),
    )


def _gradients(device: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Loss and gradients of the recorded program where data, parameters and noise are the same."""
    found: list[list[Tensor]] = []
    noise: list[Tensor] = []
    for where in ("cpu", device):
        vae = small(where, **fields).train()
        x = pixels(20).to(where)
        parameters = list(vae.parameters())
        with local_parameters():
            module = TrainingLoss(vae, Objective("B", 1))
            recorded = record_gradients(module, parameters, x)
        draws, state = lift_noise(recorded.graph), [*parameters, *recorded.buffers.values()]
        noise = noise or [draw() for draw in draws]
        with torch.no_grad():
            values = recorded.graph(*state, x, *(n.to(where) for n in noise))
        found.append([value.cpu().double() for value in values])
    # a bias before a batch normalisation has gradient 0 but for rounding: the norm is that of all
    whole = sum(a.square().sum() for a in found[0]).sqrt()
    errors = [((a - b).norm() / whole).item() for a, b in zip(*found)]
    # a convolution in TF32 has ten bits of mantissa
    largest = 1e-2 if fields else 1e-5
    return {"verdict": verdict(max(errors) < largest), "error": max(errors)}


# ---- a run that goes on


def resume(report: Any, device: str, tiny: bool) -> None:
    """A run that was stopped, between two epochs or inside one, equals one that never was."""
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "dynamic, schedules": {
            "binarization": "dynamic",
            "kl_weight": "linear:0:1:3",
            "learning_rate": "linear:0.02:0.001:4",
        },
        "early stopping": {"early_stopping": 3, "validation": pixels(30, seed=1)},
        "constrained": {"kl_weight": "constrained:kl:2"},
        "adagrad": {"optimizer": "adagrad"},
        "AdamW": {"optimizer": torch.optim.AdamW},
    }
    for tier in ("off", "record") if tiny else ("off", "record", "inductor"):
        for name, how in cases.items():
            if tier == "inductor" and name != "plain":
                continue
            for batch in (0, 2):
                where = f"inside an epoch, batch {batch}" if batch else "between epochs"
                report.case(f"{tier}, {name}, {where}", partial(_resumed, device, tier, how, batch))
    report.case("another device", partial(_elsewhere, device))


def _resumed(device: str, tier: str, how: dict[str, Any], batch: int) -> dict[str, Any]:
    whole, history = trained(device, tier, epochs=4, **how)
    with tempfile.TemporaryDirectory() as folder:
        run = {"checkpoint": folder, **how}
        if batch:
            with _stopped_at(batch), contextlib.suppress(KeyboardInterrupt):
                trained(device, tier, epochs=4, **run)
        else:
            trained(device, tier, epochs=2, **run)
        again, resumed = trained(device, tier, epochs=4, resume=True, **run)
    apart = difference(whole.state_dict(), again.state_dict())
    columns = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
    same = columns == [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.rows]
    good = apart == 0.0 and same
    return {"verdict": verdict(good), "apart": apart, "rows_equal": same, "tier": resumed.tier}


@contextlib.contextmanager
def _stopped_at(batch: int) -> Iterator[None]:
    """As Ctrl-C at a batch of the second epoch."""
    take = Run.take

    def stopping(self: Run, index: Sequence[Tensor]) -> None:
        take(self, index)
        if (self.state.epoch, self.state.batch) == (1, batch):
            self.interrupt()

    Run.take = stopping  # type: ignore[method-assign]
    try:
        yield
    finally:
        Run.take = take  # type: ignore[method-assign]


def _elsewhere(device: str) -> None:
    """A run of the device goes on on the processor, and the other way round."""
    for first, second in ((device, "cpu"), ("cpu", device)):
        with tempfile.TemporaryDirectory() as folder:
            trained(first, "record", epochs=1, checkpoint=folder)
            vae, _ = trained(second, "record", epochs=2, checkpoint=folder, resume=True)
            finite(vae)
            finite(load(Path(folder) / "checkpoint.safetensors"))


# ---- what fit can do


def features(report: Any, device: str, tiny: bool) -> None:
    """Each argument of `fit`, eager against recorded."""
    conv = {"network": "conv", "network_options": {"channels": [8, 8]}}
    dropout = {"network_options": {"dropout": 0.2}}
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "plain": ({}, {}),
        "bytes": ({}, {"x": (255 * pixels(90)).to(torch.uint8)}),
        "whole batches only": ({}, {"x": pixels(100)}),
        "dynamic": ({}, {"x": torch.rand(90, 8, 8), "binarization": "dynamic"}),
        "validation": ({}, {"validation": pixels(30, seed=1)}),
        "early stopping": ({}, {"validation": pixels(30), "early_stopping": 1, "epochs": 4}),
        "weight penalty": ({}, {"weight_penalty": 1.0}),
        "learning rate": ({}, {"learning_rate": "linear:0.01:0.001:2"}),
        "kl weight": ({}, {"kl_weight": "linear:0:1:2"}),
        "constrained": ({}, {"kl_weight": "constrained:kl:2"}),
        "adagrad": ({}, {"optimizer": "adagrad"}),
        "AdamW": ({}, {"optimizer": torch.optim.AdamW}),
        "corruption": ({}, {"corruption": "salt_and_pepper", "corruption_level": 0.1}),
        "masking": ({}, {"corruption": "masking", "corruption_level": "linear:0.3:0:2"}),
        "bfloat16": ({}, {"precision": "bfloat16"}),
        "particles": ({}, {"num_particles": 4}),
        "A": ({}, {"estimator": "A"}),
        "iwae": ({}, {"estimator": "iwae", "num_particles": 4}),
        "dreg": ({}, {"estimator": "dreg", "num_particles": 4}),
        "renyi": ({}, {"estimator": "renyi:0.5", "num_particles": 4}),
        "conv": (conv, {}),
        "conv, normal_optimal": ({**conv, "likelihood": "normal_optimal"}, {}),
        "dropout": (dropout, {}),
        "weights, mean_field": ({"weights": "mean_field"}, {}),
        "weights, flipout": (
            {"weights": "mean_field", "weights_options": {"estimator": "flipout"}},
            {},
        ),
        "weights, naive": (
            {"weights": "mean_field", "weights_options": {"estimator": "naive"}},
            {},
        ),
        "weights, matrix_normal": (
            {"weights": "matrix_normal", "weights_options": {"prior": "normal"}},
            {},
        ),
        "weights, low_rank": (
            {"weights": "low_rank", "weights_options": {"prior": "normal"}},
            {},
        ),
        "weights everywhere": (
            {"weights": "mean_field", "weights_options": {"where": "all"}},
            {},
        ),
    }
    for name, (fields, how) in cases.items():
        report.case(name, partial(tiers_alike, device, partial(small, **fields), **how))
    report.case("an estimator of Pyro's", partial(_pyros, device))
    report.case("stock SVI", partial(_svi, device))
    report.case("a loss that is not finite", partial(_not_finite, device))
    report.case("kept in memory of its own", partial(_left_alone, device))
    if tiny:
        return
    report.case("a compiled run, short batch", partial(_compiled, device, {}))
    report.case("a compiled run, conv", partial(_compiled, device, conv))


def _compiled(device: str, fields: dict[str, Any]) -> dict[str, Any]:
    vae, history = trained(device, "inductor", small(**fields))
    finite(vae)
    return {"verdict": verdict(history.tier == "inductor"), "tier": history.tier}


def _pyros(device: str) -> None:
    vae, _ = trained(device, "record", estimator=pyro.infer.Trace_ELBO())
    finite(vae)


def _svi(device: str) -> None:
    vae, x = small(device), pixels(40).to(device)
    pyro.clear_param_store()
    svi = pyro.infer.SVI(
        vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()
    )
    assert all(math.isfinite(svi.step(x)) for _ in range(3))
    replicated = pyro.infer.Predictive(
        pyro.poutine.uncondition(vae.model), guide=vae.guide, num_samples=5
    )
    assert replicated(x)["x"].shape == (5, 40, *SHAPE)


def _not_finite(device: str) -> dict[str, Any]:
    """Whether the run stops, with parameters that are finite."""
    for tier in ("off", "record"):
        vae = small()
        try:
            trained(device, tier, vae, epochs=60, learning_rate=lambda epoch: 1e30 * (epoch > 1))
        except FloatingPointError as error:
            finite(vae)
            text = str(error)
            continue
        return {"verdict": "FAULT", "error": f"{tier} did not stop"}
    return {"says": text[:200]}


def _left_alone(device: str) -> None:
    """The global generators are as they were, and the model trains on after `release`."""
    torch.manual_seed(5)
    trained(device, "record")
    here, there = torch.rand(3), torch.rand(3, device=device)
    torch.manual_seed(5)
    assert torch.equal(here, torch.rand(3)), "the processor's generator was used"
    assert torch.equal(there, torch.rand(3, device=device)), "the device's generator was used"
    if device != "cpu":
        vae = small(device)
        fit(vae, pixels(90).to(device), batch_size=20, epochs=2, compile="record", progress=False)
        assert next(vae.parameters()).device.type == torch.device(device).type


# ---- the parts


def used(device: str, make: Callable[[], VAE], x: Tensor | None = None) -> dict[str, Any]:
    """Train at two tiers, then ask on the device all that is asked of a VAE."""
    found = tiers_alike(device, make, x=x)
    vae, x = make().to(device), pixels(90) if x is None else x
    few = x[:7]
    assert vae.sample(4).shape == (4, *SHAPE)
    assert vae.sample(4, mean=True).device.type == torch.device(device).type
    if vae.config.posterior != "implicit":
        assert torch.isfinite(lower_bound(vae, few, seed=0)).all(), "bound"
    assert vae.encode(few).shape == (7, vae.config.latent_size)
    assert vae.encode(few, 3).shape == (3, 7, vae.config.latent_size)
    assert vae.reconstruct(few).shape == few.shape
    if vae.config.posterior not in ("implicit", "point"):
        for tier in ("off", "record"):
            values = log_likelihood(vae, few, 40, seed=0, compile=tier).values
            assert torch.isfinite(values).all(), f"log p(x), {tier}"
        to_inference_data(vae, few, 20)
    return found


def parts_priors(report: Any, device: str, tiny: bool) -> None:
    """Every prior that is built in, and some as users write them."""
    options: dict[str, Any] = {"ladder": {"upper_sizes": [2]}}
    extra: dict[str, Any] = {"nvae": {"latent_size": 64}}
    for name in list(PRIORS)[:: 4 if tiny else 1]:
        fields = {"prior": name, "prior_options": options.get(name, {}), **extra.get(name, {})}
        report.case(name, partial(used, device, partial(small, **fields)))
    own: dict[str, Any] = {"ring": ring, "zeros": zeros_prior, "own weight": own_weight}
    for name, prior in own.items():
        make = partial(small, parts={"prior": prior})
        report.case(f"a user's, {name}", partial(used, device, make))
    stated = partial(small, prior=f"{ROOT}/studies/priors/ring.py:ring")
    report.case("in a file", partial(used, device, stated))


def parts_posteriors(report: Any, device: str, tiny: bool) -> None:
    """Every posterior that is built in."""
    ladder = {"prior": "ladder", "prior_options": {"upper_sizes": [2]}, "latent_size": 4}
    extra: dict[str, Any] = {"ladder": ladder, "residual": ladder}
    for name in list(POSTERIORS)[:: 4 if tiny else 1]:
        fields = {"posterior": name, **extra.get(name, {})}
        report.case(name, partial(used, device, partial(small, **fields)))
    fields = {"posterior": "full_normal", "prior": "two_level"}
    report.case("full_normal of two levels", partial(used, device, partial(small, **fields)))


def parts_likelihoods(report: Any, device: str, tiny: bool) -> None:
    """Every likelihood that is built in."""
    for name in list(LIKELIHOODS)[:: 4 if tiny else 1]:
        if name == "decoder":
            continue
        x = torch.rand(90, *SHAPE).clamp(0.01, 0.99)
        if name in ("poisson", "negative_binomial", "zero_inflated_negative_binomial"):
            x = torch.poisson(3 * x)
        x = pixels(90) if name == "bernoulli" else x
        report.case(name, partial(used, device, partial(small, likelihood=name), x))


# ---- evaluation


def evaluation(report: Any, device: str, tiny: bool) -> None:
    """Every estimate of log p(x), and each against quadrature on the processor."""
    data = load_data("digits", binarization="dynamic")
    vae = build(VAEConfig(SHAPE, 2, (50,)), seed=0)
    fit(vae, data.train, epochs=3, progress=False, compile="record")
    few = data.test[: 5 if tiny else 20]
    exact = log_likelihood(vae, few, method="quadrature", num_points=200).values
    bound = lower_bound(vae, few, num_particles=500, seed=0).double()
    error = reconstruction_error(vae, few)
    active = active_units(vae, data.test)
    vae.to(device)

    def near(make: Callable[[], Tensor], truth: Tensor, largest: float) -> dict[str, Any]:
        found = make()
        apart = (found.cpu().double() - truth.double()).abs().max().item()
        return {"verdict": verdict(apart < largest), "apart": apart}

    def values(**how: Any) -> Tensor:
        found = log_likelihood(vae, few, seed=0, **how)
        assert found.values.device.type == found.pareto_k.device.type == "cpu", "not on the CPU"
        return found.values

    for tier in ("off", "record"):
        for method in ("quadrature", "importance", "annealed", "reciprocal"):
            how: dict[str, Any] = {"method": method, "compile": tier}
            how |= {"num_temperatures": 60} if method in ("annealed", "reciprocal") else {}
            how |= {"num_samples": 2000} if method == "importance" else {}
            how |= {"num_points": 200} if method == "quadrature" else {}
            largest = 1e-3 if method == "quadrature" else 2.0
            report.case(f"{method}, {tier}", partial(near, partial(values, **how), exact, largest))
    how = {"method": "importance", "compile": "inductor", "num_samples": 2000}
    if not tiny:
        report.case("importance, inductor", partial(near, partial(values, **how), exact, 2.0))
    report.case("auto", partial(near, partial(values, num_samples=2000), exact, 2.0))
    sampled = partial(lower_bound, vae, few, num_particles=500, seed=0)
    report.case("lower bound", partial(near, sampled, bound, 1.0))
    report.case("lower bound, A", lambda: {"mean": lower_bound(vae, few, "A").mean().item()})
    report.case(
        "reconstruction error", partial(near, partial(reconstruction_error, vae, few), error, 1e-3)
    )
    report.case("active units", partial(near, partial(active_units, vae, data.test), active, 1e-3))
    report.case("data on the device", lambda: _of_device(vae, few.to(device)))
    report.case(
        "gaps",
        lambda: {"amortised": inference_gaps(vae, few, num_steps=20).amortised.mean().item()},
    )
    report.case(
        "bidirectional",
        lambda: {"gap": bidirectional_gap(vae, 4, 4, num_temperatures=40).gap.mean().item()},
    )
    report.case("saved there, loaded here", lambda: _saved(vae, few, exact))


def _of_device(vae: VAE, x: Tensor) -> None:
    log_likelihood(vae, x, 50)
    lower_bound(vae, x)
    to_inference_data(vae, x, 50)
    vae.reconstruct(x)


def _saved(vae: VAE, x: Tensor, exact: Tensor) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        save(vae, f"{folder}/vae.safetensors")
        again = load(f"{folder}/vae.safetensors")
    assert next(again.parameters()).device.type == "cpu"
    state = {name: tensor.cpu() for name, tensor in vae.state_dict().items()}
    found = log_likelihood(again, x, method="quadrature", num_points=200).values
    states = difference(state, again.state_dict())
    apart = (found - exact).abs().max().item()
    return {"verdict": verdict(states == 0 and apart < 1e-5), "states": states, "apart": apart}


def diagnostics(report: Any, device: str, tiny: bool) -> None:
    """What can be believed of a VAE on the device, and its figures."""
    from ppl_vae import diagnostics as rooms

    vae = small()
    fit(vae, pixels(300), epochs=3, progress=False, compile="record")
    vae.to(device)
    x = pixels(40, seed=1)
    report.case("to_inference_data", lambda: _inference_data(vae, x))
    report.case("to_elpd", lambda: {"elpd": float(to_elpd(log_likelihood(vae, x, 200)).elpd_loo)})
    report.case("to_datatree", lambda: rooms.to_datatree(vae, x, 50) and None)
    report.case("examine", lambda: _examined(rooms, vae, x))
    report.case("nuts", lambda: _nuts_reference(rooms, vae, x[:3]))
    report.case(
        "calibration",
        lambda: rooms.calibration_figure(rooms.simulation_based_calibration(vae, 30, 19)) and None,
    )
    report.case(
        "predictive",
        lambda: rooms.predictive_figure(rooms.posterior_predictive_check(vae, x)) and None,
    )


def _inference_data(vae: VAE, x: Tensor) -> dict[str, Any]:
    import arviz

    data = to_inference_data(vae, x, 100, labels=torch.arange(40) % 3)
    return {"groups": len(data.groups()), "rows": len(arviz.summary(data, var_names=["z"]))}


def _examined(rooms: Any, vae: VAE, x: Tensor) -> dict[str, Any]:
    found = rooms.examine(vae, x, num_samples=100)
    rooms.examination_figures(found)
    return {check.name: round(check.value, 3) for check in found.checks}


def _nuts_reference(rooms: Any, vae: VAE, x: Tensor) -> dict[str, Any]:
    found = rooms.nuts_reference(vae, x, 30, 30, 2)
    return {"r_hat": found.r_hat.max().item()}


def weights(report: Any, device: str, tiny: bool) -> None:
    """What is asked of posteriors over weights."""
    from ppl_vae import diagnostics as rooms
    from ppl_vae import sampling

    vae = small(weights="mean_field")
    fit(vae, pixels(100), epochs=2, progress=False, compile="record")
    vae.to(device)
    x = pixels(20, seed=1)
    report.case("log p(x)", lambda: {"mean": log_likelihood(vae, x, 100).mean})
    report.case("bound", lambda: {"mean": lower_bound(vae, x).mean().item()})
    report.case("signal to noise", lambda: len(rooms.weight_signal_to_noise(vae)) and None)
    report.case("pruned", lambda: {"at_half": rooms.lower_bound_when_pruned(vae, x)[0.5]})
    report.case("spread", lambda: {"mean": rooms.functional_spread(vae, x).mean().item()})
    report.case("draws of q", lambda: _posterior(rooms, sampling.fitted(vae, 5), x))
    report.case("nuts", lambda: _posterior(rooms, sampling.nuts(vae, x, 4, 4, 2), x))
    report.case("to_inference_data", lambda: to_inference_data(vae, x, 20) and None)


def _posterior(rooms: Any, posterior: Any, x: Tensor) -> dict[str, Any]:
    found = posterior.predictive(x, num_samples=20, num_steps=5)
    if posterior.markov:
        rooms.weight_convergence(posterior)
    rooms.weights_to_inference_data(posterior)
    posterior.mean_vae().sample(3)
    return {"predictive": found.mean().item()}


def sampling(report: Any, device: str, tiny: bool) -> None:
    """Weights by chains, SWAG and ensembles."""
    from ppl_vae import diagnostics as rooms
    from ppl_vae import sampling as room

    vae = small()
    fit(vae, pixels(100), epochs=2, progress=False, compile="record")
    vae.to(device)
    x, kernel = pixels(100), room.ConstantSteps(burn_in=20, thin=5)
    for tier in ("off", "record"):
        report.case(
            f"stochastic gradient HMC, {tier}",
            lambda tier=tier: _posterior(
                rooms,
                room.stochastic_gradient_hmc(
                    vae, x, num_draws=6, num_chains=2, kernel=kernel, compile=tier
                ),
                x[:10],
            ),
        )
    cold = room.ConstantSteps(temperature=0.0, burn_in=20, thin=5)
    path = partial(room.swag, vae, x, num_draws=4, num_snapshots=5, rank=3, kernel=cold)
    report.case("swag", lambda: _posterior(rooms, path(), x[:10]))
    report.case("ensemble", lambda: _posterior(rooms, room.ensemble([vae, vae]), x[:10]))
    report.case(
        "refined",
        lambda: {"mean": room.refined_log_likelihood(vae, x[:10], 20, 10)[0].mean().item()},
    )


# ---- the command, and several processes


def _command(*arguments: str) -> str:
    """`ppl-vae` with these arguments; what it prints."""
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-500:]}"
    return done.stdout[-300:] + done.stderr[-300:]


def command(report: Any, device: str, tiny: bool) -> None:
    """Train, go on, evaluate, draw and diagnose from the command line."""
    with tempfile.TemporaryDirectory() as made:
        out = f"{made}/run"
        train = ["ppl_vae", "train", "--no-progress"]
        first = [*train, "--data", "digits", "--binarization", "dynamic", "--latent-size", "2"]
        first += ["--epochs", "4", "--device", device, "--compile", "record", "--out", out]
        report.case("train", lambda: {"prints": _command(*first)})
        report.case(
            "resume", lambda: {"prints": _command(*train, "--resume", out, "--epochs", "6")}
        )
        for name in ("evaluate", "sample", "diagnose"):
            how = [] if name == "sample" else ["--num-data", "20"]
            report.case(
                name, lambda name=name, how=how: _command("ppl_vae", name, out, *how) and {}
            )


def ranks(report: Any, device: str, tiny: bool) -> None:
    """Messages between ranks inside a captured step, and more ranks than GPUs."""
    report.case("a message inside a step", partial(_messages, device))
    report.case("one rank by torchrun", partial(_torchrun, device, 1))
    report.case("two ranks by torchrun", partial(_torchrun, device, 2))


def _messages(device: str) -> dict[str, Any]:
    """A group of one process that takes itself for two, so that it sends what two would send."""
    import torch.distributed as group

    current = Ranks.current
    group.init_process_group(
        "gloo" if device == "cpu" else "nccl",
        init_method=f"file://{tempfile.mkdtemp()}/meet",
        rank=0,
        world_size=1,
    )
    Ranks.current = classmethod(lambda cls: cls(0, 2))  # type: ignore[assignment, method-assign]
    try:
        return tiers_alike(device, x=pixels(100))
    finally:
        Ranks.current = current  # type: ignore[method-assign]
        group.destroy_process_group()


def _torchrun(device: str, count: int) -> dict[str, Any]:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with tempfile.TemporaryDirectory() as made:
        train = ["-m", "ppl_vae", "train", "--data", "digits", "--latent-size", "2"]
        train += ["--epochs", "2", "--device", device, "--no-progress", "--out", f"{made}/run"]
        done = subprocess.run(
            [sys.executable, "-m", *launcher, *train], capture_output=True, text=True
        )
    too_many = device != "cpu" and count > torch.cuda.device_count()
    said = "one for each rank" in done.stderr
    good = (done.returncode != 0 and said) if too_many else done.returncode == 0
    return {"verdict": verdict(good), "status": done.returncode, "says": done.stderr[-400:]}


SECTIONS = {
    "tiers": tiers,
    "resume": resume,
    "features": features,
    "parts_priors": parts_priors,
    "parts_posteriors": parts_posteriors,
    "parts_likelihoods": parts_likelihoods,
    "evaluation": evaluation,
    "diagnostics": diagnostics,
    "sampling": sampling,
    "weights": weights,
    "command": command,
    "ranks": ranks,
}
