"""Sampling theta against closed forms: a conjugate decoder, a grid posterior, exact log p(x), exact
SWAG moments.

Knows the rooms sampling, evaluation and vae. Statistical tests fix their seed and say how far off
chance may put them.
"""

import copy
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide.initialization import init_to_sample
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from ppl_vae import InputError, VAEConfig, build, fit
from ppl_vae.diagnostics import weight_convergence, weights_to_inference_data
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.sampling import (
    ConstantSteps,
    CyclicalSteps,
    WeightPosterior,
    bayesian_vae,
    ensemble,
    fitted,
    mixture,
    nuts,
    point_vae,
    refined_log_likelihood,
    stochastic_gradient_hmc,
    swag,
)
from ppl_vae.sampling.gradient import _around
from ppl_vae.sampling.noise import GradientNoise
from ppl_vae.sampling.nuts import _recorded
from ppl_vae.vae import VAE

NOISE, SCALE = 0.5, 1.0


def conjugate(num_data: int = 30) -> tuple[VAE, Tensor, Tensor, Tensor]:
    """(vae, x, mean, row covariance): z is a fixed point code, so x_n ~ N(W z_n, NOISE^2 I) is
    linear in W.
    """
    config = VAEConfig(
        (2,),
        2,
        (),
        posterior="point",
        likelihood="normal_shared",
        likelihood_options={"initial_scale": NOISE},
    )
    vae = build(config, seed=0)
    with torch.no_grad():  # z_n = A x_n with A correlated
        vae.guide.posterior.heads.weight.copy_(torch.tensor([[1.0, 0.4], [0.0, 0.8]]))
    x = torch.randn(num_data, 2, generator=torch.Generator().manual_seed(1))
    z = vae.encode(x)
    covariance = torch.linalg.inv(z.T @ z / NOISE**2 + torch.eye(2) / SCALE**2)
    return vae, x, x.T @ z @ covariance / NOISE**2, covariance


def linear_gaussian() -> tuple[VAE, Tensor, Tensor]:
    """(vae, x, log p(x)): x ~ N(b, W W' + NOISE^2 I), exact."""
    config = VAEConfig(
        (5,), 2, (), likelihood="normal_shared", likelihood_options={"initial_scale": NOISE}
    )
    vae, generator = build(config, seed=0), torch.Generator().manual_seed(1)
    layer = vae.model.decoder.network[0]
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.qr(torch.randn(5, 2, generator=generator))[0])
    covariance = (layer.weight @ layer.weight.T + NOISE**2 * torch.eye(5)).detach()
    x = torch.randn(20, 5, generator=generator) @ torch.linalg.cholesky(covariance).T
    return vae, x, dist.MultivariateNormal(layer.bias, covariance).log_prob(x).detach()


def test_refined_importance_sampling_is_exact_where_the_encoder_knows_nothing() -> None:
    """400 draws from near the posterior: errors of 0.05 nats a datum are far in the tail; unrefined
    they are nats.
    """
    vae, x, exact = linear_gaussian()
    plain, _ = refined_log_likelihood(vae, x, num_samples=400, num_steps=0)
    refined, (mean, log_scale) = refined_log_likelihood(vae, x, num_samples=400, num_steps=300)
    weight = vae.model.decoder.network[0].weight.detach()
    precision = weight.T @ weight / NOISE**2 + torch.eye(2)
    assert (plain - exact).mean() < -0.2
    assert torch.allclose(refined, exact, atol=0.05)
    assert torch.allclose(mean, x @ weight @ precision.inverse() / NOISE**2, atol=0.1)
    assert torch.allclose(log_scale, (-0.5 * precision.diagonal().log()).expand(20, 2), atol=0.15)


def test_refined_importance_sampling_takes_any_prior_and_gives_the_same_eagerly() -> None:
    config = VAEConfig((5,), 2, (4,), prior="laplace")
    vae, x = build(config, seed=0), torch.rand(7, 5).round()
    values = [refined_log_likelihood(vae, x, 50, 10, compile=tier)[0] for tier in ("off", "record")]
    assert values[0].isfinite().all() and torch.equal(*values)


class TestStochasticGradientHMC:
    def chain(self, temperature: float = 1.0, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
        vae, x, mean, covariance = conjugate()
        kernel = ConstantSteps(0.02, 0.1, temperature, burn_in=200, thin=8)
        posterior = stochastic_gradient_hmc(
            vae,
            x,
            num_draws=1000,
            kernel=kernel,
            scale=SCALE,
            alongside="nothing",
            batch_size=30,
            **settings,
        )
        return posterior.draws["decoder.network.0.weight"][0], mean, covariance

    @pytest.mark.parametrize("temperature", [1.0, 0.1])
    def test_conjugate_posterior(self, temperature: float) -> None:
        """1000 draws 8 steps apart: some 250 independent ones, so 30 % is over three standard
        errors of a variance.
        """
        draws, mean, covariance = self.chain(temperature)
        scale = (temperature * covariance.diagonal()).sqrt()
        assert ((draws.mean(0) - mean).abs() < 0.25 * scale).all()
        for row in (0, 1):
            found = draws[:, row].T.cov()
            assert torch.allclose(found.diagonal(), temperature * covariance.diagonal(), rtol=0.3)
            correlation = found[0, 1] / found.diagonal().prod().sqrt()
            assert abs(correlation - covariance[0, 1] / covariance.diagonal().prod().sqrt()) < 0.2

    def test_recorded_equals_eager(self) -> None:
        vae, x, _, _ = conjugate()
        settings: Any = {
            "num_draws": 3,
            "kernel": ConstantSteps(burn_in=5, thin=2),
            "batch_size": 10,
        }
        runs = [
            stochastic_gradient_hmc(vae, x, compile=tier, **settings) for tier in ("off", "record")
        ]
        name = "decoder.network.0.weight"
        assert torch.equal(runs[0].draws[name], runs[1].draws[name])
        assert runs[0].markov and runs[0].shape == (1, 3)

    def test_only_what_it_says_moves(self) -> None:
        config = VAEConfig((6,), 2, (4,))
        vae, x = build(config, seed=0), torch.rand(20, 6).round()
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        other = copy.deepcopy(vae)
        torch.nn.init.normal_(other.model.decoder.network[2].weight)
        posterior = stochastic_gradient_hmc(
            [vae, other],
            x,
            num_draws=2,
            where="output",
            kernel=CyclicalSteps(cycle=10, draws_per_cycle=1),
        )
        assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
        assert list(posterior.draws) == ["decoder.network.2.weight"] and posterior.shape == (2, 2)

    def test_starts_that_differ_elsewhere_are_refused(self) -> None:
        vaes, x = (
            [build(VAEConfig((6,), 2, (4,)), seed=seed) for seed in (0, 1)],
            torch.rand(20, 6).round(),
        )
        with pytest.raises(InputError, match="which is not sampled"):
            stochastic_gradient_hmc(
                vaes, x, num_draws=2, where="output", kernel=ConstantSteps(burn_in=0, thin=1)
            )

    def test_a_bayesian_start_brings_its_own_prior(self) -> None:
        vae = build(VAEConfig((6,), 2, (4,), weights="mean_field"), seed=0)
        posterior = stochastic_gradient_hmc(
            vae,
            torch.rand(20, 6).round(),
            num_draws=2,
            num_chains=2,
            kernel=ConstantSteps(burn_in=0, thin=1),
        )
        assert (
            set(posterior.draws) == set(vae.guide.mean_weights())
            and posterior.vae.config.weights is None
        )

    def test_refusals(self) -> None:
        vae, x, _, _ = conjugate()
        with pytest.raises(InputError, match="further sites"):
            stochastic_gradient_hmc(vae, x, prior="half_cauchy")
        for kernel, fields in (
            (ConstantSteps, {"friction": 0.0}),
            (ConstantSteps, {"friction": 1.5}),
            (CyclicalSteps, {"exploration": 1.0}),
            (CyclicalSteps, {"cycle": 2}),
        ):
            with pytest.raises(InputError):
                kernel(**fields)


def independent_weights(num_data: int, size: int = 60) -> tuple[VAE, Tensor, Tensor]:
    """(vae, x, mean): x_id ~ N(w_d, 1) at z = 1, so w_d | x ~ N(mean_d, 1 / (N + 1)); the chain
    starts at the mean.
    """
    config = VAEConfig((size,), 1, (), likelihood="normal_unit")
    vae, generator = build(config, seed=0), torch.Generator().manual_seed(0)
    x = torch.randn(num_data, size, generator=generator) + 1
    mean = x.sum(0) / (num_data + 1)
    heads, decoder = vae.guide.posterior.heads, vae.model.decoder.network[0]
    with torch.no_grad():
        heads.weight.zero_()
        heads.bias.copy_(torch.tensor([1.0, -40.0]))
        decoder.bias.zero_()
        decoder.weight.copy_(mean[:, None])
    return vae, x, mean


def width(kernel: Any, batch_size: int, num_data: int = 2000) -> float:
    """The variance of draws over the posterior's, to be the temperature."""
    vae, x, mean = independent_weights(num_data)
    found = stochastic_gradient_hmc(
        vae,
        x,
        num_draws=24,
        kernel=kernel,
        batch_size=batch_size,
        alongside="nothing",
        seed=1,
    )
    draws = found.draws["decoder.network.0.weight"].double().squeeze()
    return (draws - mean).square().mean().item() * (num_data + 1)


class TestGradientNoise:
    """x has unit variance, so gradients of a batch of B have variance 1 / B, and bring a share
    e N / (2 a B T) of the velocity's noise: with a = 0.05, 200 e / T at N = 2000, B = 100.
    """

    @pytest.mark.parametrize(
        ("kernel", "batch_size"),
        [
            (ConstantSteps(0.002, burn_in=200, thin=50), 100),
            (ConstantSteps(0.001, temperature=0.5, burn_in=300, thin=60), 100),
            (ConstantSteps(0.002, temperature=2.0, burn_in=200, thin=50), 50),
            (ConstantSteps(0.002, burn_in=200, thin=50), 2000),
            (CyclicalSteps(0.01, cycle=2000, exploration=0.2, draws_per_cycle=12), 100),
        ],
        ids=["plain", "cold", "warm", "full", "cyclical"],
    )
    def test_draws_have_the_temperature_asked_for(
        self, kernel: Any, batch_size: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Two fifths of the noise are the gradients': uncorrected, variances are 1.4 times too
        large; of the cycle's first draw, 1.6 times.

        60 weights and 24 draws: a standard error of 4 %, and measured variances leave 5 %.
        """
        assert width(kernel, batch_size) / kernel.temperature == pytest.approx(1, abs=0.15)
        assert not caplog.records

    def test_a_step_too_large_is_said_with_its_factor_and_one_that_would_do(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """At e = 0.02 gradients alone bring 4 times the noise wanted."""
        found = width(ConstantSteps(0.02, burn_in=100, thin=30), 100)
        assert found == pytest.approx(4, rel=0.2)
        (record,) = caplog.records
        factor, _, step_size = record.args
        assert factor == pytest.approx(4, rel=0.2) and 0.002 <= step_size <= 0.005

    def test_noise_that_weights_share_is_seen(self) -> None:
        """Gradients g_j = s for all of 50 weights, Var s = 1: one direction has 50 times the mean
        variance. 32 pairs: 50 within 50 % is two standard errors and the seed fixed.
        """
        torch.manual_seed(0)
        noise = GradientNoise(num_data=100, friction=0.05)
        noise.measure(lambda: [torch.randn(()).expand(50)])
        e = 0.05 * 2 * 0.05 / 100 / 50  # 5 % of what is wanted in that direction
        assert noise.excess(e, 1.0) == pytest.approx(0.05 * 49 / 50, rel=0.5)
        assert noise.excess(noise.tolerable(1.0, 1.0), 1.0) <= 0.05

    def test_measuring_changes_neither_the_chain_s_numbers_nor_running_statistics(self) -> None:
        """With gradients that have no noise a chain is the same draw by draw, however often it is
        measured; the likelihood's running variance is left alone.
        """
        config = VAEConfig((2,), 2, (), posterior="point", likelihood="normal_optimal")
        vae, x = build(config, seed=0), torch.randn(30, 2)
        settings: Any = {"num_draws": 3, "kernel": ConstantSteps(1e-3, burn_in=5, thin=2)}
        chain = [
            stochastic_gradient_hmc(vae, x, batch_size=30, alongside="nothing", **settings)
            for _ in range(2)
        ]
        name = "decoder.network.0.weight"
        assert torch.equal(chain[0].draws[name], chain[1].draws[name])
        assert chain[0].vae.model.decoder.likelihood.num_batches == 11


def test_cyclical_steps_fall_to_zero_and_are_cold_while_exploring() -> None:
    moves = list(CyclicalSteps(0.1, cycle=100, draws_per_cycle=3, exploration=0.5).moves(5))
    assert len(moves) == 200 and sum(move.keep for move in moves) == 5
    assert moves[0].step_size == moves[100].step_size == 0.1 and moves[99].step_size < 1e-4
    assert [move.temperature for move in moves[:100]] == [0.0] * 50 + [1.0] * 50
    assert moves[99].keep and moves[199].keep and not any(move.keep for move in moves[:51])


class TestSwag:
    def test_draws_have_the_moments_of_the_snapshots(self) -> None:
        """200,000 draws; five standard errors of each covariance are below 0.05."""
        torch.manual_seed(0)
        snapshots = torch.randn(6, 3) @ torch.randn(3, 3)
        draws = _around(snapshots, torch.randn(200_000, 6), 0.5)
        deviations = snapshots - snapshots.mean(0)
        exact = 0.5 * (snapshots.var(0, correction=0).diag() + deviations.T @ deviations / 5)
        assert torch.allclose(draws.T.cov(), exact, atol=0.05)
        assert torch.allclose(draws.mean(0), snapshots.mean(0), atol=0.02)

    def test_the_path_without_noise_stays_at_the_conjugate_mode(self) -> None:
        vae, x, mean, _ = conjugate()
        kernel = ConstantSteps(temperature=0.0, burn_in=300, thin=5)
        posterior = swag(
            vae,
            x,
            num_draws=7,
            num_snapshots=4,
            rank=3,
            kernel=kernel,
            scale=0.5,
            batch_size=30,
            alongside="nothing",
        )
        assert posterior.shape == (1, 7) and not posterior.markov
        assert torch.allclose(
            posterior.draws["decoder.network.0.weight"], mean.expand(1, 7, 2, 2), atol=1e-3
        )


def test_nuts_and_its_predictive_agree_with_a_grid() -> None:
    """One weight, one latent: x ~ N(b, w^2 + NOISE^2), so p(w | x) and p(x* | x) are
    one-dimensional integrals.

    200 draws, 100 of them in the predictive: 0.1 of its mean size and 0.15 nats are three standard
    errors.
    """
    config = VAEConfig(
        (1,),
        1,
        (),
        likelihood="normal_shared",
        likelihood_options={"initial_scale": NOISE},
        weights="mean_field",
        weights_options={"prior": "normal", "scale": SCALE},
    )
    vae = build(config, seed=0)
    x, new = torch.linspace(-2.0, 2.0, 8)[:, None], torch.tensor([[0.0], [3.0]])
    posterior = nuts(vae, x, num_draws=100, num_warmup=100, num_chains=2, max_tree_depth=5)
    w = torch.linspace(-6, 6, 2001)
    marginal = dist.Normal(0.0, (w.square() + NOISE**2).sqrt())
    log_p = dist.Normal(0.0, SCALE).log_prob(w) + marginal.log_prob(x).sum(0)
    p = (log_p - log_p.logsumexp(0)).exp()
    found = posterior.draws["decoder.network.0.weight"].abs()
    assert (
        posterior.shape == (2, 100)
        and posterior.markov
        and posterior.latents["z"].shape == (2, 100, 8, 1)
    )
    assert abs(found.mean() - (p * w.abs()).sum()) < 0.1
    exact = (p.log() + marginal.log_prob(new)).logsumexp(-1)
    assert torch.allclose(
        posterior.thinned(100).predictive(new, num_samples=200, num_steps=60), exact, atol=0.15
    )


def test_nuts_recorded_density_is_the_program_s_and_hyper_sites_keep_their_support() -> None:
    """A half-Cauchy hierarchy: the recorded potential equals the program's at values it was not
    recorded at.
    """
    options = {"prior": "half_cauchy"}
    vae = build(
        VAEConfig(
            (2,), 1, (), likelihood="normal_shared", weights="mean_field", weights_options=options
        ),
        seed=0,
    )
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(), local_parameters():
        torch.manual_seed(0)
        start, potential, _, _ = initialize_model(
            vae.eval().model, (x,), init_strategy=init_to_sample()
        )
        recorded, other = (
            _recorded(potential, start),
            {name: value + 0.7 for name, value in start.items()},
        )
        assert recorded is not potential and torch.allclose(recorded(other), potential(other))
        assert not torch.allclose(recorded(other), potential(start))
    posterior = nuts(vae, x, num_draws=5, num_warmup=5, num_chains=1, max_tree_depth=3)
    name = "decoder.network.0.weight"
    assert posterior.draws[name].shape == (1, 5, 2, 1) and posterior.latents["z"].shape == (
        1,
        5,
        4,
        1,
    )
    assert all(
        (posterior.latents[f"{name}.{part}"] > 0).all() for part in ("layer_scale", "unit_scale")
    )


@pytest.mark.arviz
class TestArviz:
    def chains(self, markov: bool, count: int = 2) -> WeightPosterior:
        draws = torch.randn(count, 200, 3, 2, generator=torch.Generator().manual_seed(0))
        return WeightPosterior(
            build(VAEConfig((3,), 2, ())), {"decoder.network.0.weight": draws}, markov
        )

    def test_sites_become_arviz_variables(self) -> None:
        data, posterior = weights_to_inference_data(self.chains(True)), self.chains(True)
        site = data.posterior["decoder.network.0.weight"]
        assert site.dims[:2] == ("chain", "draw") and site.shape == (2, 200, 3, 2)
        assert np.array_equal(site.values, posterior.draws["decoder.network.0.weight"].numpy())
        assert data.posterior.attrs["independent_draws"] == 0

    def test_convergence_where_there_are_chains_and_only_there(self) -> None:
        rhat, ess = weight_convergence(self.chains(True))
        assert float(rhat["decoder.network.0.weight"].max()) < 1.05
        assert float(ess["decoder.network.0.weight"].min()) > 200
        for posterior in (self.chains(False), self.chains(True, 1)):
            with pytest.raises(InputError, match="chain"):
                weight_convergence(posterior)


class TestWeightPosterior:
    def test_predictive_averages_densities_not_their_logarithms(self) -> None:
        vae, x, _ = linear_gaussian()
        torch.manual_seed(0)
        weight = vae.model.decoder.network[0].weight.detach()
        draws = weight + 0.1 * torch.randn(1, 5, *weight.shape)
        posterior = WeightPosterior(vae, {"decoder.network.0.weight": draws}, markov=False)
        noise = NOISE**2 * torch.eye(5)
        exact = torch.stack(
            [dist.MultivariateNormal(torch.zeros(5), w @ w.T + noise).log_prob(x) for w in draws[0]]
        )
        assert torch.allclose(
            posterior.log_likelihoods(x, num_samples=400, num_steps=300), exact, atol=0.08
        )
        predictive = posterior.predictive(x, num_samples=400, num_steps=300)
        assert torch.allclose(predictive, exact.logsumexp(0) - math.log(5), atol=0.08)
        assert torch.equal(posterior.mean_vae().model.decoder.network[0].weight, draws.mean((0, 1)))
        assert torch.equal(vae.model.decoder.network[0].weight, weight)

    def test_fitted_draws_are_those_of_q(self) -> None:
        """4000 draws: mean and standard deviation of each weight within five standard errors."""
        vae = build(VAEConfig((6,), 2, (4,), weights="matrix_normal"), seed=0)
        posterior = fitted(vae, 4000)
        for name, q in vae.guide.weights.distributions().items():
            draws, scale = posterior.draws[name][0], q.variance.sqrt()
            assert ((draws.mean(0) - q.mean).abs() < 5 * scale / math.sqrt(4000)).all()
            assert torch.allclose(draws.std(0), scale, rtol=5 / math.sqrt(8000))
        with pytest.raises(InputError, match="points"):
            fitted(posterior.vae)

    def test_the_point_vae_decodes_as_the_bayesian_one_does_at_its_mean(self) -> None:
        config = VAEConfig(
            (6,), 2, (4,), weights="low_rank", weights_options={"where": "all", "biases": True}
        )
        vae, x, z = build(config, seed=0), torch.rand(3, 6).round(), torch.randn(3, 2)
        point = point_vae(vae)
        assert torch.equal(point.decode(z).base_dist.logits, vae.decode(z).base_dist.logits)
        assert torch.equal(point.encode(x), vae.encode(x))
        assert set(point.state_dict()) == set(build(VAEConfig((6,), 2, (4,))).state_dict())
        fit(point, x.repeat(4, 1), epochs=1, progress=False)
        assert point_vae(point) is not point

    def test_a_point_made_bayesian_keeps_its_values_as_means(self) -> None:
        vae = build(VAEConfig((6,), 2, (4,)), seed=0)
        random = bayesian_vae(vae, "matrix_normal", prior="normal", where="all", biases=True)
        assert (
            random.config.weights == "matrix_normal"
            and "model.decoder.network.0.weight" not in random.state_dict()
        )
        assert all(
            torch.equal(value, vae.state_dict()[n])
            for n, value in point_vae(random).state_dict().items()
        )
        with pytest.raises(InputError, match="points"):
            bayesian_vae(random)

    def test_an_ensemble_holds_whole_models(self) -> None:
        config = VAEConfig(
            (4, 4),
            2,
            (4,),
            network="conv",
            network_options={"channels": (2,)},
            likelihood="normal_optimal",
        )
        members, x = [build(config, seed=s) for s in range(3)], torch.rand(5, 4, 4)
        for i, member in enumerate(members):
            fit(member, x, epochs=i + 1, progress=False)
        found = ensemble(members)
        assert found.shape == (1, 3) and len(found) == 3
        for member, model in zip(members, found.models(), strict=True):
            assert all(
                torch.equal(value, model.state_dict()[name])
                for name, value in member.state_dict().items()
            )
        each = torch.stack([refined_log_likelihood(m, x, 100, 30)[0] for m in members])
        assert torch.allclose(
            found.predictive(x, num_samples=100, num_steps=30), each.logsumexp(0) - math.log(3)
        )
        with pytest.raises(InputError, match="all alike"):
            ensemble([members[0], build(VAEConfig((6,), 3, (4,)))])
        assert found.mean_vae().model.decoder.network is not members[0].model.decoder.network

    def test_a_mixture_holds_the_whole_model_of_each_mode(self) -> None:
        """log p(x | theta_s) of the mixture are those of its parts, which differ in encoder and
        biases too.
        """
        members, x = (
            [linear_gaussian()[0], build(linear_gaussian()[0].config, seed=5)],
            linear_gaussian()[1],
        )
        name, how = "decoder.network.0.weight", {"num_samples": 200, "num_steps": 100}
        parts = [
            WeightPosterior(
                vae, {name: vae.model.decoder.network[0].weight.detach().expand(1, n, -1, -1)}, True
            )
            for vae, n in zip(members, (2, 4))
        ]
        found = mixture(parts)
        assert found.shape == (2, 2) and not found.markov
        for vae, values in zip(members, found.log_likelihoods(x, **how).unflatten(0, (2, 2))):
            exact = WeightPosterior(
                vae, {name: vae.model.decoder.network[0].weight.detach()[None, None]}, False
            )
            assert torch.allclose(values, exact.log_likelihoods(x, **how), atol=0.1)
        with pytest.raises(InputError, match="mixture"):
            mixture([*parts, fitted(build(VAEConfig((6,), 3, (4,), weights="mean_field")), 3)])
