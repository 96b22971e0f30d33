"""Training against stock Pyro, step for step: `pyro.infer.SVI` with Pyro's own estimators, and our
estimators inside it.

Knows `fit`, the room `elbo` and Pyro; the noise is the same on both sides, so nothing is left to
chance.
"""

import functools

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from torch import Tensor

from ppl_vae import VAE, InputError, fit
from ppl_vae.elbo import (
    DoublyReparameterizedELBO,
    ImportanceWeightedELBO,
    MeanFieldELBO,
    SampledELBO,
    TermwiseELBO,
)
from tests.examples import PRIORS, pixels, tiny

STOCK = {"A": Trace_ELBO, "B": TraceMeanField_ELBO}
OURS = {"A": SampledELBO, "B": MeanFieldELBO}
# what each VAE is built of, by what it stands for
VAES = {
    "plain": {},
    "hierarchy": {"prior": PRIORS["scale_then_z"]},
    "mixture": {"prior": PRIORS["mixture"]},
    "Bayesian weights": {
        "weights": "mean_field",
        "weights_options": {"estimator": "naive"},
    },
}
N, M, EPOCHS, RATE, SEED = 40, 10, 3, 0.01, 3


def built(name: str) -> VAE:
    return tiny(num_data=N, **VAES[name]).train()


def trained_by_svi(vae: VAE, x: Tensor, elbo: object) -> list[float]:
    """Losses in nats per datum of the steps that `fit` makes, made by stock Pyro.

    The programs are scaled by 1/N from outside, since Adam is given nats per datum by `fit` and
    its epsilon would see the difference. Batches come in the order of `fit`.
    """
    pyro.clear_param_store()
    optimizer = pyro.optim.Adam({"lr": RATE})
    scaled = [poutine.scale(program, 1 / N) for program in (vae.model, vae.guide)]
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        svi = SVI(*scaled, optimizer, elbo)
        for epoch in range(EPOCHS):
            generator = torch.Generator().manual_seed(SEED * 1_000_003 + epoch)
            for rows in torch.randperm(N, generator=generator).split(M):
                losses.append(svi.step(x[rows]))
    return losses


def trained_by_fit(vae: VAE, x: Tensor, estimator: object) -> list[float]:
    """Bounds of the epochs, negated, in nats per datum."""
    options = {"epochs": EPOCHS, "batch_size": M, "learning_rate": RATE, "seed": SEED}
    history = fit(vae, x, estimator=estimator, compile="off", progress=False, **options)
    return [-row["lower_bound"] for row in history.rows]


def assert_same_parameters(name: str, one: VAE, other: VAE) -> None:
    """Equal to rounding: Adam's steps are made by two kernels, of 1e-2 each."""
    start = dict(built(name).named_parameters())
    others = dict(other.named_parameters())
    for where, parameter in one.named_parameters():
        torch.testing.assert_close(parameter, others[where], rtol=1e-4, atol=2e-5, msg=where)
        assert not torch.equal(parameter, start[where]), where


@pytest.mark.parametrize("estimator", "AB")
@pytest.mark.parametrize("name", VAES)
def test_fit_takes_the_steps_of_stock_svi(name: str, estimator: str) -> None:
    x, ours, theirs = pixels(N), built(name), built(name)
    losses = torch.tensor(trained_by_svi(theirs, x, STOCK[estimator]()))
    bounds = trained_by_fit(ours, x, estimator)
    assert bounds == pytest.approx(losses.reshape(EPOCHS, -1).mean(1).tolist(), rel=1e-4)
    assert_same_parameters(name, ours, theirs)


@pytest.mark.parametrize("estimator", "AB")
@pytest.mark.parametrize("name", VAES)
def test_our_estimators_take_the_same_steps_in_stock_svi(name: str, estimator: str) -> None:
    x, ours, theirs = pixels(N), built(name), built(name)
    losses = trained_by_svi(theirs, x, STOCK[estimator]())
    assert trained_by_svi(ours, x, OURS[estimator]()) == pytest.approx(losses, rel=1e-4)
    assert_same_parameters(name, ours, theirs)


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, TraceEnum_ELBO, SampledELBO]
)
def test_fit_takes_any_estimator_of_pyros(elbo: type) -> None:
    """`TraceGraph_ELBO` returns no loss to differentiate, so its gradients are added up."""
    options = {"max_plate_nesting": 1} if elbo is TraceEnum_ELBO else {}
    name = "B" if elbo is TraceMeanField_ELBO else "A"
    x, given, named = pixels(N), built("plain"), built("plain")
    bounds = trained_by_fit(given, x, elbo(**options))
    assert bounds == pytest.approx(trained_by_fit(named, x, name), rel=1e-4)
    assert_same_parameters("plain", given, named)


def test_one_of_pyros_own_runs_eagerly_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    vae, options = built("plain"), {"epochs": 1, "progress": False, "compile": "record"}
    history = fit(vae, pixels(N), validation=pixels(8), estimator=Trace_ELBO(), **options)
    assert [r.message for r in caplog.records] == [
        "Trace_ELBO looks at values, so its steps are not recorded; running them eagerly"
    ]
    assert history.tier == "off" and history.kl_kinds == {}
    assert {"lower_bound", "validation_lower_bound"} <= history.rows[0].keys()
    ours = fit(built("plain"), pixels(N), estimator=MeanFieldELBO(2), **options)
    assert ours.tier == "record" and ours.kl_kinds == {"z": "analytic"}


def test_a_run_is_gone_on_with_under_an_equal_estimator_alone(tmp_path: object) -> None:
    options = {"progress": False, "checkpoint": tmp_path}
    x, whole, again = pixels(N), built("plain"), built("plain")
    fit(whole, x, epochs=2, estimator=Trace_ELBO(), progress=False)
    fit(built("plain"), x, epochs=1, estimator=Trace_ELBO(), **options)
    with pytest.raises(InputError, match="estimator"):
        fit(built("plain"), x, epochs=2, estimator=Trace_ELBO(3), resume=True, **options)
    fit(again, x, epochs=2, estimator=Trace_ELBO(), resume=True, **options)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Trace_ELBO, {"num_particles": 2, "vectorize_particles": True}),
        (TraceGraph_ELBO, {"num_particles": 2, "vectorize_particles": True}),
        (TraceEnum_ELBO, {}),
    ],
)
def test_an_estimator_that_counts_plates_takes_no_noise_of_the_run(
    kind: type, options: dict[str, object], tmp_path: object
) -> None:
    """It runs the programs to count, and a run that goes on counts anew."""
    x, run = pixels(N), {"progress": False, "batch_size": 4}
    whole, resumed, reused, same = built("plain"), built("plain"), built("plain"), kind(**options)
    fit(whole, x, epochs=2, estimator=same, **run)
    fit(built("plain"), x, epochs=1, estimator=kind(**options), checkpoint=tmp_path, **run)
    fit(resumed, x, epochs=2, estimator=kind(**options), checkpoint=tmp_path, resume=True, **run)
    fit(reused, x, epochs=2, estimator=same, **run)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name))
        assert torch.equal(parameter, reused.get_parameter(name))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"estimator": RenyiELBO(alpha=0.0, num_particles=2)}, "inside the logarithm.*datum"),
        ({"estimator": 3}, "estimator: got .*a pyro.infer.ELBO"),
        ({"estimator": 3}, "estimator: got 3"),
        ({"estimator": Trace_ELBO(), "kl_balance": True}, "kl_balance.*keeps no terms apart"),
        ({"estimator": Trace_ELBO(), "kl_weight": "constrained:kl:5"}, "kl_weight.*terms apart"),
        ({"estimator": SampledELBO(2), "num_particles": 3}, "num_particles: got 3.*own"),
    ],
)
def test_what_would_be_no_bound_is_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(built("plain"), pixels(N), batch_size=M, epochs=1, progress=False, **options)


def test_renyis_bound_of_all_data_at_once_is_one_of_pyros() -> None:
    vae = built("plain")
    elbo = RenyiELBO(alpha=0.0, num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    history = fit(vae, pixels(N), batch_size=N, epochs=2, estimator=elbo, progress=False)
    assert history.rows[1]["lower_bound"] == history.rows[1]["lower_bound"]  # not NaN


@pytest.mark.parametrize(
    "elbo",
    [SampledELBO(2), MeanFieldELBO(2), ImportanceWeightedELBO(2), DoublyReparameterizedELBO(2)],
    ids=lambda elbo: type(elbo).__name__,
)
def test_each_of_ours_trains_as_a_module_under_an_optimiser_of_torch(elbo: TermwiseELBO) -> None:
    vae, x = built("plain"), pixels(N)
    module = elbo(vae.model, vae.guide)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02)
    losses = []
    with torch.random.fork_rng(), pyro.settings.context(module_local_params=True):
        torch.manual_seed(0)
        for _ in range(60):
            optimizer.zero_grad()
            loss = module(x)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10]) - 10 * 0.2 * N


OPTIMIZERS = {
    "SGD with momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "AdamW": torch.optim.AdamW,
    "Adamax": torch.optim.Adamax,
    "RMSprop": torch.optim.RMSprop,
    "Rprop": torch.optim.Rprop,
    "NAdam": torch.optim.NAdam,
}


@pytest.mark.parametrize("tier", ["off", "record"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_takes_the_steps_of_any_optimiser_of_torch(name: str, tier: str) -> None:
    """`step()` after `backward()`, with the penalty's gradient added: equal to rounding."""
    x, ours, theirs = pixels(N), built("plain"), built("plain")
    penalty = 2.0
    options = {"epochs": 2, "batch_size": M, "learning_rate": RATE, "seed": SEED, "compile": tier}
    fit(ours, x, optimizer=OPTIMIZERS[name], weight_penalty=penalty, progress=False, **options)
    module = MeanFieldELBO()(theirs.model, theirs.guide)
    optimizer = OPTIMIZERS[name](theirs.parameters())
    for group in optimizer.param_groups:
        group["lr"] = RATE
    with torch.random.fork_rng(), pyro.settings.context(module_local_params=True):
        torch.manual_seed(SEED)
        for epoch in range(2):
            generator = torch.Generator().manual_seed(SEED * 1_000_003 + epoch)
            for rows in torch.randperm(N, generator=generator).split(M):
                optimizer.zero_grad()
                squares = sum(p.square().sum() for p in theirs.parameters())
                (module(x[rows]) / N + penalty * squares / (2 * N)).backward()
                optimizer.step()
    for where, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter, theirs.get_parameter(where), rtol=1e-4, atol=2e-5, msg=where
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_under_any_optimiser_is_resumed_to_the_bit(name: str, tmp_path: object) -> None:
    x, whole, again = pixels(N), built("plain"), built("plain")
    options = {"optimizer": OPTIMIZERS[name], "batch_size": M, "progress": False}
    fit(whole, x, epochs=4, **options)
    fit(built("plain"), x, epochs=2, checkpoint=tmp_path, **options)
    fit(again, x, epochs=4, checkpoint=tmp_path, resume=True, **options)
    for where, parameter in whole.named_parameters():
        assert torch.equal(parameter, again.get_parameter(where)), where
    other = functools.partial(torch.optim.SGD, momentum=0.5)
    with pytest.raises(InputError, match="optimizer"):
        options["optimizer"] = other
        fit(built("plain"), x, epochs=5, checkpoint=tmp_path, resume=True, **options)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (torch.optim.LBFGS, "evaluates the loss several times"),
        (3, "optimizer: got 3, expected one of adam, adagrad, or a torch.optim class"),
        (functools.partial(torch.optim.AdamW, beta=1), "AdamW.*unexpected keyword"),
        (dict, "optimizer: got"),
        (pyro.optim.Adam({"lr": 1e-3}), "Pyro's wrapper of .*Adam.*optimizer=torch.optim.AdamW"),
        (pyro.optim.ClippedAdam, "optimizer: got pyro.optim.*optimizer=torch.optim.AdamW"),
        (lambda parameters: parameters, "what makes a list"),
    ],
)
def test_what_is_no_optimiser_is_refused(optimizer: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(built("plain"), pixels(N), optimizer=optimizer, epochs=1, progress=False)
