"""Whatever is given as data, latents or a number, a public function answers it or refuses it in one
line.

Inputs are generated: every container, number type, shape and kind of value, combined at random. An
answer is finite and of the documented shape; a refusal is an `InputError` of one line. No error of
torch, numpy or Pyro gets through, and no warning. Knows the public functions; must not know which
of them checks what.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_vae import (
    VAE,
    InputError,
    VAEConfig,
    build,
    fit,
    load_data,
    log_likelihood,
    lower_bound,
    to_inference_data,
)
from ppl_vae.cli.run_folder import RunFolder
from ppl_vae.diagnostics import (
    diagnose,
    functional_spread,
    lower_bound_when_pruned,
    nuts_reference,
    posterior_predictive_check,
    simulation_based_calibration,
    to_datatree,
)
from ppl_vae.evaluation import active_units, bidirectional_gap, inference_gaps, reconstruction_error
from tests.examples import scale_then_z, tiny

EVENT = (2, 3)
VAES: dict[str, Callable[[], VAE]] = {
    "bernoulli": lambda: tiny(event_shape=EVENT),
    "continuous_bernoulli": lambda: tiny(event_shape=EVENT, likelihood="continuous_bernoulli"),
    "normal_unit": lambda: build(
        VAEConfig(EVENT, 2, (5,), likelihood="normal_unit", posterior="iaf"), seed=0
    ),
    "normal_pixelwise": lambda: tiny(
        scale_then_z, event_shape=EVENT, likelihood="normal_pixelwise"
    ),
    "flat": lambda: tiny(event_shape=(6,), likelihood="normal_optimal", hidden_sizes=()),
}
vae_of = cache(lambda kind: VAES[kind]())
bayesian = cache(lambda: tiny(event_shape=EVENT, num_data=9, weights="mean_field"))

SHAPES = [
    (5, *EVENT),
    (1, *EVENT),
    (2, *EVENT),
    (0, *EVENT),
    (5, 1, *EVENT),
    EVENT,
    (5, 6),
    (1, 6),
    (3, 2),
    (5, 3, 2),
    (),
]
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int64,
    torch.int32,
    torch.bool,
    torch.complex64,
]
VALUES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "grey": lambda u: u,
    "binary": torch.round,
    "constant": lambda u: torch.ones_like(u),
    "black": torch.zeros_like,
    "outside": lambda u: 3 * u - 1,
    "one NaN": lambda u: (
        u.reshape(-1).index_fill(0, torch.tensor([0]), torch.nan).reshape(u.shape)
        if u.numel()
        else u
    ),
    "infinite": lambda u: torch.full_like(u, torch.inf),
    "large": lambda u: 1e14 * u,
    "huge": lambda u: 1e300 * u,
    "small": lambda u: 1e-40 * u,
}
CONTAINERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda x: x,
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "with gradient": lambda x: x.clone().requires_grad_() if x.is_floating_point() else x,
    "sparse": lambda x: x.to_sparse(),
    "array": lambda x: x.double().numpy() if x.dtype == torch.bfloat16 else x.numpy(),
    "list": lambda x: x.tolist(),
    "none": lambda x: None,
    "text": lambda x: "mnist",
}


@st.composite
def anything(draw: st.DrawFn, shapes: list[tuple[int, ...]]) -> Any:
    """Some of everything; each part is the good one half of the time, so that single faults are
    seen too.
    """

    def pick(choices: Any) -> Any:
        options = list(choices)
        return draw(st.sampled_from([options[0]] * len(options) + options))

    shape, values, dtype, container = pick(shapes), pick(VALUES), pick(DTYPES), pick(CONTAINERS)
    u = torch.rand(
        shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))), dtype=torch.float64
    )
    x = VALUES[values](u)
    whole = dtype in (torch.uint8, torch.int64, torch.int32)
    return CONTAINERS[container]((x.nan_to_num(0, 9, -9).clamp(-9, 9) if whole else x).to(dtype))


def pinned(examples: int) -> Callable:
    """So many examples, the same ones in every run."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def answered(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns; None if it refuses in one line. Any other error, or a warning,
    goes on its way.
    """
    try:
        return function(*arguments)
    except InputError as error:
        assert str(error) and "\n" not in str(error), error
        return None


def check(values: Any, shape: tuple[int, ...]) -> None:
    tensor = torch.as_tensor(values)
    assert tuple(tensor.shape) == shape and torch.isfinite(tensor.double()).all()


def trained(vae: VAE, x: Any) -> None:
    copy = tiny(event_shape=vae.config.event_shape, likelihood=vae.config.likelihood)
    try:
        history = fit(copy, x, validation=x, epochs=2, batch_size=2, progress=False, compile="off")
    except FloatingPointError as error:
        assert "not finite at epoch" in str(error) and "\n" not in str(error)
        return
    check([row["lower_bound"] for row in history.rows], (2,))
    assert all(torch.isfinite(p).all() for p in copy.parameters())


def likelihood(vae: VAE, x: Any, **options: Any) -> None:
    found = log_likelihood(vae, x, 20, seed=0, **options)
    check(found.values, (len(x),))
    check(found.monte_carlo_error, (len(x),))


def inference_data(vae: VAE, x: Any) -> None:
    found = to_inference_data(vae, x, 7)
    check(found.posterior["z"].values, (1, 7, len(x), 2))
    check(found.sample_stats["log_weight"].values, (1, 7, len(x)))
    check(found.posterior_predictive["x"].values, (1, 7, *x.shape))


def predictive(vae: VAE, x: Any) -> None:
    for found in posterior_predictive_check(vae, x, num_samples=5, seed=0).values():
        check(found.replicated, (5,))
        check([found.observed, found.p_value], (2,))


FUNCTIONS: dict[str, Callable[[VAE, Any], None]] = {
    "fit": trained,
    "lower_bound A": lambda vae, x: check(lower_bound(vae, x, "A", seed=0), (len(x),)),
    "lower_bound iwae": lambda vae, x: check(lower_bound(vae, x, "iwae", 3, seed=0), (len(x),)),
    "log_likelihood": likelihood,
    "reconstruction_error": lambda vae, x: check(reconstruction_error(vae, x, seed=0), (len(x),)),
    "active_units": lambda vae, x: check(active_units(vae, x, seed=0), (2,)),
    "encode": lambda vae, x: check(vae.encode(x), (len(x), 2)),
    "encode draws": lambda vae, x: check(vae.encode(x, 3), (3, len(x), 2)),
    "reconstruct": lambda vae, x: check(vae.reconstruct(x), tuple(x.shape)),
    "to_inference_data": inference_data,
    "to_datatree": lambda vae, x: check(
        to_datatree(vae, x, 3)["posterior"]["z"].values, (1, 3, len(x), 2)
    ),
    "posterior_predictive_check": predictive,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pinned(80)
@given(kind=st.sampled_from(list(VAES)), x=anything(SHAPES))
def test_data_are_answered_or_refused(name: str, kind: str, x: Any) -> None:
    answered(FUNCTIONS[name], vae_of(kind), x)


FEW = {"num_temperatures": 5, "num_leapfrog": 2}


def gaps(vae: VAE, x: Any) -> None:
    found = inference_gaps(
        vae, x, method="importance", num_steps=3, num_particles=2, seed=0, num_samples=20
    )
    check(found.approximation, (len(x),))
    check(found.amortisation, (len(x),))


def reference(vae: VAE, x: Any) -> None:
    found = nuts_reference(vae, x, 8, 4, 2, **FEW)
    check(found.draws, (2, 8, len(x), 2))
    check(found.kl, (len(x),))


SLOW: dict[str, Callable[[VAE, Any], None]] = {
    "annealed": lambda vae, x: likelihood(vae, x, method="annealed", **FEW),
    "reciprocal": lambda vae, x: likelihood(vae, x, method="reciprocal", **FEW),
    "quadrature": lambda vae, x: likelihood(vae, x, method="quadrature", num_points=21),
    "inference_gaps": gaps,
    "nuts_reference": reference,
    "diagnose": lambda vae, x: check(
        [made.threshold for made in diagnose(vae, x, num_samples=20)], (6,)
    ),
    "functional_spread": lambda _, x: check(functional_spread(bayesian(), x, 3, seed=0), (len(x),)),
    "lower_bound_when_pruned": lambda _, x: check(
        list(lower_bound_when_pruned(bayesian(), x, (0.0, 0.5), 2, seed=0).values()), (2,)
    ),
}


@pytest.mark.parametrize("name", SLOW)
@pinned(80)
@given(x=anything(SHAPES))
def test_what_the_bound_refuses_no_slow_function_takes(name: str, x: Any) -> None:
    vae = vae_of("bernoulli")
    if answered(lower_bound, vae, x) is None:
        with pytest.raises(InputError) as error:
            SLOW[name](vae, x)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SLOW)
def test_constant_pixels_are_answered_by_the_slow_functions_too(name: str) -> None:
    SLOW[name](vae_of("bernoulli"), torch.ones(2, *EVENT, dtype=torch.float64))


@pytest.mark.parametrize("name", SLOW)
def test_a_single_datum_is_answered_unless_the_question_is_about_several(name: str) -> None:
    def ask() -> None:
        SLOW[name](vae_of("bernoulli"), torch.ones(1, *EVENT))

    if name == "diagnose":
        with pytest.raises(InputError, match="number of rows: got 1, expected at least 2"):
            ask()
    else:
        ask()


LATENTS = [(5, 2), (2,), (0, 2), (4, 3, 2), (3, 3), (5, 1), ()]


@pinned(300)
@given(kind=st.sampled_from(list(VAES)), z=anything(LATENTS))
def test_latents_are_decoded_or_refused(kind: str, z: Any) -> None:
    vae = vae_of(kind)

    def decoded(z: Any) -> None:
        p = vae.decode(z)
        check(p.mean.detach(), (*z.shape[:-1], *vae.config.event_shape))
        assert p.mean.requires_grad

    answered(decoded, z)


def test_latents_of_any_precision_are_those_of_the_model_and_keep_their_gradient() -> None:
    vae, z = vae_of("bernoulli"), torch.tensor([[1, -2], [0, 3]])
    expected = vae.decode(z.float()).mean
    for dtype in (torch.float64, torch.float16, torch.int64, torch.int8):
        assert torch.equal(vae.decode(z.to(dtype)).mean, expected)
    precise = z.double().requires_grad_()
    (gradient,) = torch.autograd.grad(vae.decode(precise).mean.sum(), precise)
    assert gradient.dtype == torch.float64 and gradient.abs().min() > 0
    with pytest.raises(InputError, match="z: got 1 NaN or infinite values from row 1 on"):
        vae.decode(torch.tensor([[0.0, 1.0], [0.0, torch.nan]]))


X = torch.ones(3, *EVENT)
NUMBERS = [
    2,
    np.int64(2),
    np.float32(0.5),
    0.5,
    0,
    -1,
    2.5,
    np.nan,
    np.inf,
    True,
    None,
    "2",
    "x",
    [],
    (1, 2),
    1 + 2j,
    torch.tensor(2),
    np.array([1, 2]),
]


def run_with(name: str) -> Callable[[Any], Any]:
    arguments = {"epochs": 1, "batch_size": 2, "compile": "off", "progress": False}
    return lambda value: fit(tiny(event_shape=EVENT), X, **{**arguments, name: value})


def likelihood_with(method: str, name: str) -> Callable[[Any], Any]:
    arguments = {"num_samples": 4, **(FEW if method in ("annealed", "reciprocal") else {})}
    return lambda value: log_likelihood(
        vae_of("bernoulli"), X, method=method, **{**arguments, name: value}
    )


ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    **{
        f"fit {name}": run_with(name)
        for name in (
            "epochs",
            "batch_size",
            "num_particles",
            "kl_weight",
            "weight_kl_weight",
            "learning_rate",
            "weight_penalty",
            "corruption_level",
            "early_stopping",
            "seed",
            "checkpoint_every",
            "estimator",
            "optimizer",
            "binarization",
            "kl_balance",
            "corruption",
            "compile",
            "precision",
            "device",
            "checkpoint",
            "resume",
            "progress",
        )
    },
    **{
        f"importance {name}": likelihood_with("importance", name)
        for name in ("num_samples", "seed", "prior_share")
    },
    **{f"annealed {name}": likelihood_with("annealed", name) for name in FEW},
    "quadrature num_points": likelihood_with("quadrature", "num_points"),
    "method": lambda value: log_likelihood(vae_of("bernoulli"), X, 4, method=value),
    "sample": lambda value: check(vae_of("bernoulli").sample(value), (int(value), *EVENT)),
    "encode": lambda value: vae_of("bernoulli").encode(X, value),
    "num_particles": lambda value: check(lower_bound(vae_of("bernoulli"), X, "A", value), (3,)),
    "seed": lambda value: lower_bound(vae_of("bernoulli"), X, seed=value),
    "threshold": lambda value: active_units(vae_of("bernoulli"), X, value),
    "reconstruction_error": lambda value: check(
        reconstruction_error(vae_of("bernoulli"), X, value), (3,)
    ),
    "draws": lambda value: to_inference_data(vae_of("bernoulli"), X, value),
    "draws' seed": lambda value: to_inference_data(vae_of("bernoulli"), X, 2, value),
    "labels": lambda value: to_inference_data(vae_of("bernoulli"), X, 2, labels=value),
    "replicates": lambda value: posterior_predictive_check(
        vae_of("bernoulli"), X, num_samples=value
    ),
    "simulations": lambda value: simulation_based_calibration(vae_of("bernoulli"), value, 3),
    "simulations' draws": lambda value: simulation_based_calibration(vae_of("bernoulli"), 3, value),
    "gap's data": lambda value: bidirectional_gap(vae_of("bernoulli"), value, 2, 0, **FEW),
    "gap's draws": lambda value: bidirectional_gap(vae_of("bernoulli"), 2, value, 0, **FEW),
    "gap's temperatures": lambda value: bidirectional_gap(vae_of("bernoulli"), 2, 2, 0, value, 2),
    "steps": lambda value: inference_gaps(
        vae_of("bernoulli"), X, "importance", value, num_samples=4
    ),
    "rate": lambda value: inference_gaps(
        vae_of("bernoulli"), X, "importance", 2, value, num_samples=4
    ),
    "particles": lambda value: inference_gaps(
        vae_of("bernoulli"), X, "importance", 2, 0.1, value, num_samples=4
    ),
    "chains": lambda value: nuts_reference(vae_of("bernoulli"), X, 8, 2, value, **FEW),
    "NUTS draws": lambda value: nuts_reference(vae_of("bernoulli"), X, value, 2, 2, **FEW),
    "shares": lambda value: lower_bound_when_pruned(bayesian(), X, value, 2),
    "spread": lambda value: functional_spread(bayesian(), X, value),
    "latent_size": lambda value: build(VAEConfig(EVENT, value, (3,))),
    "hidden_sizes": lambda value: build(VAEConfig(EVENT, 2, value)),
    "event_shape": lambda value: build(VAEConfig(value, 2, (3,))),
    "build's seed": lambda value: build(VAEConfig(EVENT, 2, (3,)), seed=value),
    "num_data": lambda value: fit(
        tiny(num_data=value, event_shape=EVENT), X, epochs=1, compile="off", progress=False
    ),
    "load_data": load_data,
    "square": lambda value: load_data("uniform_square", num_data=value),
    "digits' seed": lambda value: load_data("digits", binarization="static", seed=value),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_taken_or_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in NUMBERS:
        answered(ARGUMENTS[name], value)


def test_numbers_that_are_not_finite_are_null_in_a_run_s_json(tmp_path: Path) -> None:
    values = {
        "mean": np.nan,
        "errors": (1.0, -np.inf),
        "nested": [{"k": np.inf, "n": 2, "name": "NaN"}],
    }
    text = RunFolder(tmp_path).write_json("evaluation.json", values).read_text()
    expected = {"mean": None, "errors": [1.0, None], "nested": [{"k": None, "n": 2, "name": "NaN"}]}
    assert json.loads(text, parse_constant=pytest.fail) == expected


def test_a_plain_autoencoder_is_not_diagnosed_but_referred_to_evaluate() -> None:
    vae = build(VAEConfig(EVENT, 2, (5,), posterior="point"), seed=0)
    with pytest.raises(
        InputError,
        match=r"posterior: got 'point', which has no density to check, .*; evaluate says",
    ):
        diagnose(vae, X)
