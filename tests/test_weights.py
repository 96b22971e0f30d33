"""Bayesian weights against closed forms: conjugate regression, densities, KL terms, and what a
configuration builds.

Knows the rooms weights, vae and elbo; handlers have a file of their own. Statistical tests
fix their seed; each compares a mean of many draws with its exact value at five standard errors
(failure rate below 1e-6 a comparison).
"""

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppl_vae import InputError, VAEConfig, build, fit, load, save
from ppl_vae.elbo import estimator_from, kl_report
from ppl_vae.guides import DataProgram
from ppl_vae.handlers import KLWeight, call
from ppl_vae.likelihoods import LIKELIHOODS
from ppl_vae.training.objective import Objective, StepValues
from ppl_vae.weights import (
    FAMILIES,
    WEIGHT_PRIORS,
    LowRankNormal,
    MatrixNormal,
    WeightGuide,
    WeightPrior,
    bayesian,
    select,
)

NOISE, SCALE = 0.5, 1.3


class Regression(DataProgram):
    """x_n ~ N(W h_n, NOISE^2 I), W ~ N(0, SCALE^2): conjugate, so q(W), evidence and predictive are
    known.
    """

    def __init__(self, inputs: Tensor, outputs: int) -> None:
        super().__init__()
        self.inputs, self.layer = inputs, nn.Linear(inputs.shape[1], outputs, bias=False).to(inputs)
        self.weights = bayesian(self.layer, "normal", scale=SCALE)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.draw_weights("")
        with self.data_plate(x):
            mean = call(self.layer, theta, self.inputs)
            return pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)


class RegressionGuide(DataProgram):
    """q(W) alone: the model has no latent of a single datum."""

    def __init__(self, model: Regression, family: str, estimator: str, **options: Any) -> None:
        super().__init__()
        self.weights = WeightGuide(model.weights, family, estimator=estimator, **options)

    def forward(self, x: Tensor) -> None:
        self.draw_weights("")


def regression(
    outputs: int = 2, orthogonal: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """(inputs h (N, 2), data x (N, R), posterior mean of W, covariance of each row, log evidence),
    exact.
    """
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    h = torch.linalg.qr(h)[0] * torch.tensor([1.0, 2.0]) if orthogonal else h + 0.5 * h.flip(1)
    x = torch.randn(6, outputs, generator=generator, dtype=torch.float64)
    covariance = torch.linalg.inv(h.T @ h / NOISE**2 + torch.eye(2, dtype=h.dtype) / SCALE**2)
    marginal = SCALE**2 * h @ h.T + NOISE**2 * torch.eye(6, dtype=h.dtype)
    evidence = dist.MultivariateNormal(torch.zeros(6, dtype=h.dtype), marginal).log_prob(x.T).sum()
    return h, x, x.T @ h @ covariance / NOISE**2, covariance, float(evidence)


def set_exactly(guide: WeightGuide, mean: Tensor, covariance: Tensor) -> None:
    """Give the factor of the one weight the exact posterior's parameters."""
    (factor,) = guide.factors
    parameters: Any = dict(factor.named_parameters())
    with torch.no_grad():
        parameters["location"].copy_(mean)
        if isinstance(factor, FAMILIES["matrix_normal"][0]):
            cholesky = torch.linalg.cholesky(covariance)
            parameters["log_row_scale"].fill_(-math.log(factor.initial_scale) / 3)
            parameters["log_diagonal"].copy_(cholesky.diagonal().log() / 3)
            parameters["below_diagonal"].copy_(cholesky.tril(-1))
            return
        variance = covariance.diagonal().clone()
        if (
            "factors" in parameters
        ):  # two entries: the covariance is one factor's and what is left of the variances
            shared = (covariance[0, 1].abs() * (variance[0] / variance[1]).sqrt()).sqrt()
            column = torch.stack([shared, covariance[0, 1] / shared])
            parameters["factors"].copy_(column.reshape(1, 1, 2))
            variance -= column.square()
        parameters["log_scale"].copy_(
            (variance.sqrt() / factor.initial_scale).log().expand(mean.shape) / 3
        )


CONTAINING = {
    "mean_field": (2, True, {}),
    "matrix_normal": (2, False, {}),
    "low_rank": (1, False, {"rank": 1}),
}


@pytest.mark.parametrize("family", CONTAINING)
class TestConjugateRegression:
    """Each family on a problem whose exact posterior it contains."""

    def pair(
        self, family: str, estimator: str = "naive"
    ) -> tuple[Regression, RegressionGuide, Tensor, tuple]:
        outputs, orthogonal, options = CONTAINING[family]
        h, x, mean, covariance, evidence = regression(outputs, orthogonal)
        model = Regression(h, outputs)
        return (
            model,
            RegressionGuide(model, family, estimator, **options),
            x,
            (mean, covariance, evidence),
        )

    def test_estimator_a_is_the_log_evidence_at_every_draw_from_the_exact_posterior(
        self, family: str
    ) -> None:
        model, guide, x, (mean, covariance, evidence) = self.pair(family)
        set_exactly(guide.weights, mean, covariance)
        torch.manual_seed(0)
        for _ in range(5):
            terms = estimator_from("A").terms(model, guide, x)
            kl = terms.weight_kl["weight"]
            assert kl.kind == "sampled"
            assert (terms.log_likelihood.sum() - kl.value).item() == pytest.approx(
                evidence, abs=1e-8
            )

    @pytest.mark.parametrize("estimator", ["local", "flipout", "naive"])
    def test_estimator_b_has_the_log_evidence_as_its_mean(
        self, family: str, estimator: str
    ) -> None:
        model, guide, x, (mean, covariance, evidence) = self.pair(family, estimator)
        set_exactly(guide.weights, mean, covariance)
        torch.manual_seed(0)
        kl = estimator_from("B").terms(model, guide, x).weight_kl["weight"]
        assert kl.kind == "analytic"
        means = torch.stack(
            [estimator_from("B", 50).terms(model, guide, x).log_likelihood.sum() for _ in range(60)]
        )
        assert abs(means.mean() - kl.value - evidence) < 5 * means.std() / math.sqrt(60)

    def test_training_finds_the_exact_posterior(self, family: str) -> None:
        model, guide, x, (mean, covariance, evidence) = self.pair(family, "local")
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(guide.parameters(), 0.05)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
        for _ in range(600):
            optimizer.zero_grad()
            estimator_from("B", 10).terms(model, guide, x).mean_loss().backward()
            optimizer.step()
            decay.step()
        (q,) = guide.weights.distributions().values()
        assert torch.allclose(q.mean, mean, atol=0.04)
        assert torch.allclose(
            q.variance.sqrt(), covariance.diagonal().sqrt().expand_as(mean), rtol=0.1
        )
        guide.weights.estimator = "naive"  # at the exact posterior estimator A then hardly varies
        with torch.no_grad():
            terms = estimator_from("A", 20_000).terms(model, guide, x)
        assert float(terms.log_likelihood.sum() - terms.weight_kl["weight"].value) == pytest.approx(
            evidence, abs=0.03
        )

    def test_predictive_is_the_closed_form_one(self, family: str) -> None:
        """p(x*|h*) = N(mean h*, NOISE^2 + h*' Sigma h*): variance of 40,000 draws within five
        standard errors.
        """
        model, guide, x, (mean, covariance, _) = self.pair(family)
        set_exactly(guide.weights, mean, covariance)
        torch.manual_seed(0)
        guide_draws = Predictive(guide, num_samples=40_000, parallel=True)(x)["weight"]
        predicted = guide_draws.reshape(-1, *mean.shape) @ model.inputs[0]
        exact = model.inputs[0] @ covariance @ model.inputs[0]
        assert torch.allclose(
            predicted.var(0), exact.expand(len(mean)), rtol=5 * math.sqrt(2 / 40_000)
        )
        assert torch.allclose(
            predicted.mean(0), mean @ model.inputs[0], atol=5 * float(exact.sqrt()) / 200
        )


def test_the_bound_of_a_family_without_the_answer_lacks_exactly_its_kl() -> None:
    """Mean-field where the posterior is correlated: evidence - bound = KL(q || posterior) > 0, from
    closed forms.
    """
    h, x, mean, covariance, evidence = regression()
    model = Regression(h, 2)
    guide = RegressionGuide(model, "mean_field", "naive")
    best = (
        covariance.inverse().diagonal().reciprocal()
    )  # the optimum: each variance given the other weight
    set_exactly(guide.weights, mean, best.diag())
    exact = dist.MultivariateNormal(mean, covariance)
    gap = kl_divergence(dist.MultivariateNormal(mean, best.diag()), exact).sum()
    assert gap > 0.1
    torch.manual_seed(0)
    terms = [estimator_from("B", 50).terms(model, guide, x) for _ in range(60)]
    bounds = torch.stack([t.log_likelihood.sum() - t.weight_kl["weight"].value for t in terms])
    assert abs(bounds.mean() - (evidence - gap)) < 5 * bounds.std() / math.sqrt(60)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_bound_is_above_the_evidence(family: str) -> None:
    """At parameters drawn at random the exact gap KL(q || posterior) is positive and is what the
    bound lacks.
    """
    h, x, _, _, evidence = regression()
    model = Regression(h, 2)
    guide = RegressionGuide(model, family, "naive")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        bounds = [estimator_from("B", 4000).terms(model, guide, x) for _ in range(5)]
    for terms in bounds:
        assert terms.log_likelihood.sum() - terms.weight_kl["weight"].value < evidence


def structured() -> list[tuple[Any, Tensor]]:
    """The correlated Normals with their dense covariance."""
    torch.manual_seed(0)
    loc, rows, factor = (
        torch.randn(3, 4),
        torch.rand(3) + 0.5,
        torch.randn(4, 4).tril(-1) + torch.eye(4),
    )
    scale, factors = torch.rand(3, 4) + 0.5, torch.randn(2, 3, 4)
    flat = factors.flatten(1)
    return [
        (MatrixNormal(loc, rows, factor), torch.kron(rows.square().diag(), factor @ factor.T)),
        (LowRankNormal(loc, scale, factors), scale.flatten().square().diag() + flat.T @ flat),
    ]


@pytest.mark.parametrize("case", [0, 1], ids=["matrix_normal", "low_rank"])
class TestCorrelatedNormals:
    def test_density_variance_and_kl_are_those_of_the_dense_normal(self, case: int) -> None:
        q, covariance = structured()[case]
        dense = dist.MultivariateNormal(q.loc.flatten(), covariance)
        value = torch.randn(5, 3, 4)
        assert torch.allclose(
            q.expand(torch.Size([5])).log_prob(value), dense.log_prob(value.flatten(1)), atol=1e-3
        )
        assert torch.allclose(q.variance.flatten(), covariance.diagonal(), rtol=1e-5)
        loc, scale = torch.randn(3, 4), torch.rand(3, 4) + 0.5
        exact = kl_divergence(
            dense, dist.MultivariateNormal(loc.flatten(), scale.flatten().square().diag())
        )
        kl = kl_divergence(q, dist.Normal(loc, scale).to_event(2))
        assert kl.shape == () and float(kl) == pytest.approx(float(exact), rel=1e-4)

    def test_draws_have_the_covariance(self, case: int) -> None:
        q, covariance = structured()[case]
        draws = q.rsample((100_000,)).flatten(1)
        error = 5 * torch.sqrt(
            (covariance.diagonal().outer(covariance.diagonal()) + covariance.square()) / 100_000
        )
        assert ((draws.T.cov() - covariance).abs() < error).all()

    def test_a_prior_that_is_no_normal_has_no_closed_kl(self, case: int) -> None:
        with pytest.raises(NotImplementedError):
            kl_divergence(structured()[case][0], dist.Laplace(torch.zeros(3, 4), 1.0).to_event(2))


class TestPriors:
    """The density of each prior over a 3 x 4 weight, against its formula."""

    w = torch.linspace(-1, 1, 12).reshape(3, 4)

    def program(self, prior: str, **options: float) -> WeightPrior:
        torch.manual_seed(0)
        return WeightPrior(select(nn.Linear(4, 3, bias=False)), prior, **options)

    def log_prob(self, program: WeightPrior, **hyper: Tensor) -> float:
        data = {"weight": self.w, **{f"weight.{name}": value for name, value in hyper.items()}}
        return poutine.trace(poutine.condition(program, data)).get_trace().log_prob_sum().item()

    def normal(self, scale: Tensor | float) -> float:
        return float(dist.Normal(0.0, scale).expand((3, 4)).log_prob(self.w).sum())

    def test_normal_and_fan_in(self) -> None:
        assert self.log_prob(self.program("normal", scale=2.0)) == pytest.approx(
            self.normal(2.0), rel=1e-5
        )
        assert self.log_prob(self.program("fan_in")) == pytest.approx(self.normal(0.5), rel=1e-5)

    def test_learned_scales_start_at_fan_in_and_move_threefold_in_log(self) -> None:
        for prior, shape in (("layer_scale", ()), ("unit_scale", (1, 4))):
            program = self.program(prior)
            assert self.log_prob(program) == pytest.approx(self.normal(0.5), rel=1e-5)
            (parameter,) = program.parameters()
            assert parameter.shape == shape
            with torch.no_grad():
                parameter.copy_(torch.linspace(0, 0.3, parameter.numel()).reshape(shape))
            scale = 0.5 * (3 * parameter.detach()).exp()
            assert self.log_prob(program) == pytest.approx(self.normal(scale), rel=1e-5)

    def test_scale_mixture(self) -> None:
        program = self.program("scale_mixture", scale=1.5, narrow_scale=0.1, probability=0.25)
        wide, narrow = (dist.Normal(0.0, s).log_prob(self.w).exp() for s in (1.5, 0.1))
        exact = float((0.25 * wide + 0.75 * narrow).log().sum())
        assert self.log_prob(program) == pytest.approx(exact, rel=1e-5)

    def test_half_cauchy(self) -> None:
        layer, unit = torch.tensor(0.7), torch.tensor([[0.5, 1.0, 1.5, 2.0]])
        exact = dist.HalfCauchy(0.5).log_prob(layer) + dist.HalfCauchy(1.0).log_prob(unit).sum()
        found = self.log_prob(self.program("half_cauchy"), layer_scale=layer, unit_scale=unit)
        assert found == pytest.approx(float(exact) + self.normal(layer * unit), rel=1e-5)

    @pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(2, 3, 3, stride=2)])
    def test_input_units_of_kernels_are_their_input_channels(self, layer: nn.Module) -> None:
        (weight,) = select(layer)
        assert weight.value.shape[weight.input_dim] == 2
        assert weight.fan_in == (18 if isinstance(layer, nn.Conv2d) else 4)

    def test_options_are_checked(self) -> None:
        for prior, options in (
            ("normal", {"scale": 0.0}),
            ("fan_in", {"width": 1.0}),
            ("ard", {}),
            ("scale_mixture", {"probability": 1.0}),
        ):
            with pytest.raises(InputError, match=r"weight"):
                self.program(prior, **options)


def small(weights: str = "mean_field", x: tuple[int, ...] = (8,), **fields: Any) -> VAEConfig:
    options = {
        name: fields.pop(name)
        for name in ("prior", "where", "biases", "estimator", "rank")
        if name in fields
    }
    return VAEConfig(x, 2, (5,), weights=weights, weights_options=options, **fields)


def data(rows: int = 40) -> Tensor:
    return torch.rand(rows, 8, generator=torch.Generator().manual_seed(2)).round()


@pytest.mark.parametrize("prior", WEIGHT_PRIORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_both_estimators_have_the_same_mean(family: str, prior: str) -> None:
    """E[A] = E[B] of the whole bound, 60 estimates each of 30 particles, five standard errors of
    the difference.
    """
    vae, x = build(small(family, prior=prior), seed=0), data(4)
    torch.manual_seed(0)
    means, errors = [], []
    with torch.no_grad():
        for estimator in ("A", "B"):
            terms = [
                estimator_from(estimator, 30).terms(vae.model, vae.guide, x) for _ in range(60)
            ]
            values = torch.stack(
                [t.lower_bound.sum() - sum(kl.value for kl in t.weight_kl.values()) for t in terms]
            )
            means.append(values.mean())
            errors.append(values.var() / len(values))
    assert abs(means[0] - means[1]) < 5 * math.sqrt(sum(errors))


class TestEquation19:
    """N/M on the data's terms, KL(theta) once."""

    def test_minibatch_losses_average_to_the_full_batch_loss(self) -> None:
        x = data(40)
        vae = build(
            small(prior="normal", estimator="naive", posterior="point"), num_data=40, seed=0
        ).train()

        def loss(batch: Tensor) -> Tensor:
            torch.manual_seed(3)  # the same theta for every batch; z is a point
            return estimator_from("B").terms(vae.model, vae.guide, batch).mean_loss(40)

        pieces = torch.stack([loss(batch) for batch in x.split(10)])
        assert pieces.mean().item() == pytest.approx(loss(x).item(), rel=1e-5)
        terms = estimator_from("B").terms(vae.model, vae.guide, x[:10])
        _, report = Objective()(vae.model, vae.guide, x[:10], num_data=40)
        total = sum(kl.value for kl in terms.weight_kl.values())
        assert report["kl_weights"].item() == pytest.approx(total.item() / 40, rel=1e-6)

    def test_the_stock_estimators_agree_on_the_scale(self) -> None:
        """`TraceMeanField_ELBO` on the programs as they are: N nats per datum, KL(theta) not
        multiplied by N/M.
        """
        x = data(40)
        vae = build(small(prior="normal", estimator="naive"), num_data=4000, seed=0).train()
        torch.manual_seed(0)
        exact = sum(
            kl.value for kl in estimator_from("B").terms(vae.model, vae.guide, x).weight_kl.values()
        ).item()
        losses = {}
        for weight in (1.0, 3.0):
            torch.manual_seed(0)
            with KLWeight(1.0, weights=weight):
                losses[weight] = TraceMeanField_ELBO().loss(vae.model, vae.guide, x)
        assert (losses[3.0] - losses[1.0]) / 2 == pytest.approx(exact, rel=1e-3)
        assert math.isfinite(Trace_ELBO().loss(vae.model, vae.guide, x))

    def test_weight_kl_weight_weighs_kl_theta_alone_and_is_not_in_the_report(self) -> None:
        vae, x = build(small(prior="normal"), num_data=40, seed=0).train(), data(40)
        results = []
        for weight in (0.0, 1.0):
            torch.manual_seed(0)
            results.append(
                Objective()(vae.model, vae.guide, x, StepValues(weight_kl_weight=weight), 40)
            )
        (tempered, report), (full, same_report) = results
        assert report == same_report
        assert (full - tempered).item() == pytest.approx(report["kl_weights"].item(), rel=1e-5)
        parts = report["reconstruction"] - report["kl.z"] - report["kl_weights"]
        assert float(report["lower_bound"]) == pytest.approx(float(parts), rel=1e-6)


class TestConfig:
    def test_random_weights_leave_no_parameter_behind(self) -> None:
        point, vae = build(VAEConfig((8,), 2, (5,))), build(small())
        gone = {"model.decoder.network.0.weight", "model.decoder.network.2.weight"}
        assert gone <= set(point.state_dict()) and not gone & set(vae.state_dict())
        means = {name: tuple(value.shape) for name, value in vae.guide.mean_weights().items()}
        assert means == {"decoder.network.0.weight": (5, 2), "decoder.network.2.weight": (8, 5)}

    @pytest.mark.parametrize(
        ("where", "biases", "count"),
        [
            ("output", False, 1),
            ("output", True, 2),
            ("decoder", True, 4),
            ("all", False, 4),
            ("all", True, 8),
        ],
    )
    def test_where(self, where: str, biases: bool, count: int) -> None:
        assert len(build(small(where=where, biases=biases)).guide.mean_weights()) == count

    def test_the_shifts_of_a_normalisation_stay_points(self) -> None:
        names = build(
            small(x=(8, 8), where="all", biases=True, network="conv")
        ).guide.mean_weights()
        assert len(names) == 16 and all(
            f"{name.rpartition('.')[0]}.weight" in names for name in names
        )

    @pytest.mark.parametrize("posterior", ["full_normal", "iaf", "mixture", "implicit"])
    @pytest.mark.parametrize("estimator", ["local", "flipout", "naive"])
    def test_everywhere_goes_with_every_posterior(self, posterior: str, estimator: str) -> None:
        options = {"where": "all", "estimator": estimator}
        vae = build(
            VAEConfig(
                (8,), 2, (5,), posterior=posterior, weights="mean_field", weights_options=options
            )
        )
        for num_particles in (1, 3):
            history = fit(
                vae, data(20), epochs=1, num_particles=num_particles, compile="off", progress=False
            )
            assert math.isfinite(history.rows[-1]["lower_bound"])

    def test_sites_lie_outside_the_plate_and_have_the_weights_shape(self) -> None:
        vae = build(small(), num_data=100).train()
        for program in (vae.model, vae.guide):
            site = poutine.trace(program).get_trace(data(10)).nodes["decoder.network.2.weight"]
            assert (
                site["value"].shape == (8, 5)
                and site["cond_indep_stack"] == ()
                and site["scale"] == 1.0
            )

    def test_the_kl_of_every_closed_form_pair_is_analytic(self) -> None:
        for family in FAMILIES:
            for prior in WEIGHT_PRIORS:
                vae = build(small(family, prior=prior))
                kind = kl_report(vae.model, vae.guide, data(3), "B")["decoder.network.2.weight"]
                assert kind == ("sampled" if prior == "scale_mixture" else "analytic")

    def test_bad_options_are_refused_in_words(self) -> None:
        for fields, message in (
            ({"weights": "meanfield"}, "did you mean 'mean_field'"),
            ({"weights": None, "prior": "normal"}, "without weights"),
            ({"where": "encoder"}, "decoder, output, all"),
            ({"rank": 2}, "'rank'"),
            ({"estimator": "fast"}, "local, flipout, naive"),
            ({"biases": 1}, "true or false"),
        ):
            with pytest.raises(InputError, match=message):
                small(**{"weights": "mean_field", **fields})

    def test_decoding_takes_the_posterior_mean(self) -> None:
        vae, z = build(small(), seed=0), torch.randn(3, 2)
        theta = vae.guide.mean_weights()
        hidden = torch.tanh(
            z @ theta["decoder.network.0.weight"].T + vae.model.decoder.network[0].bias
        )
        logits = hidden @ theta["decoder.network.2.weight"].T + vae.model.decoder.network[2].bias
        assert torch.allclose(vae.decode(z).base_dist.logits, logits, atol=1e-6)


LIKELIHOOD_OPTIONS = {
    "categorical": {"categories": 2},
    "columns": {"columns": ["real", "count", "binary", "categorical:3"] * 2},
}


@pytest.mark.parametrize("likelihood", sorted(LIKELIHOODS.keys() - {"decoder"}))
def test_trains_and_loads_with_every_likelihood(likelihood: str, tmp_path: Path) -> None:
    options = LIKELIHOOD_OPTIONS.get(likelihood, {})
    vae = build(small(likelihood=likelihood, likelihood_options=options), seed=0)
    x = data()
    if likelihood in ("beta", "log_normal"):  # which 0 and 1 are no draws of
        x = 0.25 + 0.5 * x
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    history = fit(vae, x, batch_size=10, epochs=2, compile="off", progress=False)
    assert math.isfinite(history.rows[-1]["lower_bound"]) and history.rows[-1]["kl_weights"] > 0
    moved = [
        name
        for name, value in vae.state_dict().items()
        if name.startswith("guide.weights") and not torch.equal(value, before[name])
    ]
    assert len(moved) == 4
    save(vae, tmp_path / "vae.safetensors")
    loaded = load(tmp_path / "vae.safetensors")
    assert torch.equal(loaded.reconstruct(x[:3]), vae.reconstruct(x[:3]))


@pytest.mark.parametrize(
    ("family", "prior", "estimator", "where"),
    [
        ("mean_field", "unit_scale", "local", "decoder"),
        ("mean_field", "half_cauchy", "flipout", "all"),
        ("matrix_normal", "scale_mixture", "naive", "output"),
        ("low_rank", "layer_scale", "local", "all"),
    ],
)
def test_a_recorded_run_equals_the_eager_one_and_a_resumed_run_one_never_stopped(
    family: str, prior: str, estimator: str, where: str, tmp_path: Path
) -> None:
    config = small(family, prior=prior, estimator=estimator, where=where)
    settings: Any = {
        "batch_size": 10,
        "num_particles": 2,
        "progress": False,
        "weight_kl_weight": "linear:0:1:2",
    }
    runs = {name: build(config, seed=0) for name in ("eager", "recorded", "resumed")}
    fit(runs["eager"], data(), epochs=3, compile="off", **settings)
    history = fit(runs["recorded"], data(), epochs=3, compile="record", **settings)
    fit(runs["resumed"], data(), epochs=1, compile="off", checkpoint=tmp_path, **settings)
    runs["resumed"] = build(config, seed=5)
    fit(
        runs["resumed"],
        data(),
        epochs=3,
        compile="off",
        checkpoint=tmp_path,
        resume=True,
        **settings,
    )
    assert history.tier == "record"
    for name, value in runs["eager"].state_dict().items():
        assert torch.equal(value, runs["recorded"].state_dict()[name]), name
        assert torch.equal(value, runs["resumed"].state_dict()[name]), name
