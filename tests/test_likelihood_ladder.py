"""Every method of log p(x) against models whose likelihood is known, and against each other.

Knows the public function and the ground truths; must not know how chains move.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from truths import linear_gaussian

from ppl_vae import VAE, InputError, VAEConfig, build, log_likelihood
from ppl_vae.evaluation import bidirectional_gap
from ppl_vae.evaluation.density import LogDensity
from ppl_vae.evaluation.hamiltonian import Chains


def scaled_prior() -> torch.Tensor:
    """s ~ LogNormal(0, 0.5^2), a number, z ~ N(0, s^2), a vector of one: two sites, one of them
    positive.
    """
    s = pyro.sample("s", dist.LogNormal(0.0, torch.tensor(0.5)))
    return pyro.sample("z", dist.Normal(torch.zeros(1), s[..., None]).to_event(1))


def scaled_model() -> tuple[VAE, torch.Tensor, torch.Tensor]:
    """The VAE with that prior and a linear decoder, data drawn from it, and their log p(x) by
    quadrature over s.
    """
    config = VAEConfig(event_shape=(3,), latent_size=1, hidden_sizes=(), likelihood="normal_unit")
    vae = build(config, prior=scaled_prior, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = vae.sample(6)
    layer = vae.model.decoder.network[0]
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    variance = torch.tensor(0.5 * nodes).exp()[:, None, None] ** 2
    covariance = variance * (layer.weight @ layer.weight.T).detach().double() + torch.eye(
        3, dtype=torch.float64
    )
    given_s = dist.MultivariateNormal(layer.bias.detach().double(), covariance).log_prob(
        x.double()[:, None]
    )
    return vae, x, (given_s + torch.tensor(weights / weights.sum()).log()).logsumexp(1)


class TestDefensiveProposal:
    @pytest.mark.parametrize("share", [0.0, 0.2])
    def test_finds_the_mode_that_q_misses(self, share: float) -> None:
        """x = |z| + e, by two rectifiers, has two modes in z; q sits on one of them, so half of
        p(x) is log 2 nats.

        20000 draws: without the prior's draws log p(x) is low by log 2 and k is good; with them it
        is within 0.1.
        """
        config = VAEConfig(
            event_shape=(1,),
            latent_size=1,
            hidden_sizes=(2,),
            activation="relu",
            likelihood="normal_shared",
            likelihood_options={"initial_scale": 0.1},
        )
        vae = build(config, seed=0)
        with torch.no_grad():
            first, last = vae.model.decoder.network[0], vae.model.decoder.network[2]
            first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            last.weight.fill_(1.0)
            vae.guide.posterior.heads.weight.zero_()
            vae.guide.posterior.heads.bias.copy_(torch.tensor([1.5, 2 * math.log(0.12)]))
        x = torch.tensor([[1.5]])
        exact = log_likelihood(vae, x, method="quadrature", seed=0).values
        found = log_likelihood(vae, x, 20_000, seed=0, prior_share=share)
        assert found.values.item() == pytest.approx(
            exact.item() - (math.log(2) if share == 0 else 0), abs=0.1
        )
        assert share > 0 or found.pareto_k < 0.7

    def test_is_right_where_nothing_is_missed_and_for_any_number_of_draws(self) -> None:
        truth = linear_gaussian("overconfident")
        x = truth.draw(20)
        for size in (2, 999, 4000):
            found = log_likelihood(truth.vae, x, size, seed=0, prior_share=0.1, compile="record")
            z = (found.values - truth.log_likelihood(x)) / found.monte_carlo_error
            assert size == 2 or abs(z.mean()) < 5 / math.sqrt(20)

    @pytest.mark.parametrize("share", [-0.1, 1.0, "a"])
    def test_refuses_a_share_that_is_none(self, share: object) -> None:
        truth = linear_gaussian("exact")
        with pytest.raises(InputError, match="prior_share"):
            log_likelihood(truth.vae, truth.draw(1), prior_share=share)


class TestQuadrature:
    @pytest.mark.parametrize("latent_size", [1, 2])
    @pytest.mark.parametrize("scale", [0.02, 1.0])
    def test_is_exact_however_narrow_the_posterior(self, latent_size: int, scale: float) -> None:
        truth = linear_gaussian("overconfident", latent_size, scale=scale)
        x = truth.draw(5)
        found = log_likelihood(truth.vae, x, method="quadrature", seed=0)
        tolerance = (
            1e-3 if scale < 1 else 1e-5
        )  # log p(x|u) of single precision is a sum of terms of 1e4 nats
        assert torch.allclose(found.values, truth.log_likelihood(x), atol=tolerance, rtol=1e-5)
        assert found.monte_carlo_error.max() < 1e-3 and found.pareto_k.isnan().all()

    def test_counts_the_jacobian_of_a_positive_site(self) -> None:
        vae, x, exact = scaled_model()
        assert torch.allclose(
            log_likelihood(vae, x, method="quadrature", seed=0).values, exact, atol=1e-4
        )

    def test_sums_an_index_out(self) -> None:
        """A mixture of two unit Normals at -2 and 2 with shares 0.3 and 0.7, seen through x = z +
        e.
        """

        def prior() -> torch.Tensor:
            k = pyro.sample(
                "k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"}
            )
            return pyro.sample("z", dist.Normal(torch.tensor([[-2.0], [2.0]])[k], 1.0).to_event(1))

        config = VAEConfig(
            event_shape=(1,), latent_size=1, hidden_sizes=(), likelihood="normal_unit"
        )
        vae = build(config, prior=prior, seed=0)
        with torch.no_grad():
            vae.model.decoder.network[0].weight.fill_(1.0)
        x = torch.tensor([[-3.0], [0.5]])
        both = (
            dist.Normal(torch.tensor([-2.0, 2.0]), math.sqrt(2)).log_prob(x)
            + torch.tensor([0.3, 0.7]).log()
        )
        found = log_likelihood(vae, x, method="quadrature", seed=0)
        assert torch.allclose(found.values, both.logsumexp(1).double(), atol=1e-5)

    @pytest.mark.parametrize(
        "shapes", [(0.5, 0.5), (0.3, 0.2), (0.05, 0.1), (0.03, 0.03), (0.01, 0.02)]
    )
    @pytest.mark.parametrize("latent_size", [1, 2])
    def test_counts_the_mass_at_the_ends_of_a_sparse_prior(
        self, shapes: tuple[float, float], latent_size: int
    ) -> None:
        """Against log E_p[p(x|z)] of 200 000 draws of the prior in double precision, whose standard
        errors are below 0.005 nats.
        """
        alpha, beta = shapes
        options = {"alpha": alpha, "beta": beta}
        config = VAEConfig(
            (6,), latent_size, (8,), prior="sparse_beta", prior_options=options, init="fan_in"
        )
        vae = build(config, seed=0)
        with torch.no_grad():
            for layer in vae.model.decoder.network[::2]:
                layer.weight.mul_(3.0)
        x = torch.eye(6)[:3]
        generator = np.random.default_rng(0)
        z = torch.tensor(generator.beta(alpha, beta, (200_000, latent_size)), dtype=torch.float32)
        with torch.no_grad():
            log_p = vae.decode(z[:, None]).log_prob(x).double()
        exact = log_p.logsumexp(0) - math.log(len(z))
        assert log_p.exp().std(0).div(exact.exp()).max() / len(z) ** 0.5 < 0.005
        found = log_likelihood(vae, x, method="quadrature", seed=0)
        torch.testing.assert_close(found.values, exact, rtol=0, atol=0.02)
        assert (found.monte_carlo_error < 0.02).all()

    def test_takes_a_beta_of_the_user_s_own(self) -> None:
        """q and p(x|z) that know nothing of z: log p(x) = 4 log(1/2)."""

        def prior() -> torch.Tensor:
            return pyro.sample(
                "z", dist.Beta(torch.tensor([0.05]), torch.tensor([2.0])).to_event(1)
            )

        vae = build(VAEConfig((4,), 1, (8,)), prior=prior, seed=0)
        with torch.no_grad():
            for parameter in vae.model.decoder.parameters():
                parameter.zero_()
        found = log_likelihood(vae, torch.ones(1, 4), method="quadrature", seed=0)
        assert found.values.item() == pytest.approx(4 * math.log(0.5), abs=0.01)

    def test_refuses_three_latents(self) -> None:
        truth = linear_gaussian("exact", latent_size=3)
        with pytest.raises(InputError, match="annealed"):
            log_likelihood(truth.vae, truth.draw(1), method="quadrature")


class TestAnnealed:
    def test_finds_log_p_whatever_the_guide(self) -> None:
        """Ten data, 16 chains: z-scores with mean within 4 / sqrt(10); fails for a right code with
        p < 1e-3.
        """
        truth = linear_gaussian("overconfident", scale=0.3)
        x = truth.draw(10)
        found = log_likelihood(truth.vae, x, method="annealed", seed=0, num_temperatures=100)
        z = (found.values - truth.log_likelihood(x)) / found.monte_carlo_error
        assert abs(z.mean()) < 4 / math.sqrt(10)
        assert found.monte_carlo_error.max() < 0.5 and found.num_samples == 16

    def test_more_temperatures_come_closer(self) -> None:
        truth = linear_gaussian("exact", latent_size=5, event_size=8, scale=0.1)
        x = truth.draw(5)
        found = [
            log_likelihood(truth.vae, x, method="annealed", seed=0, num_temperatures=n)
            for n in (5, 80)
        ]
        errors = [(f.values - truth.log_likelihood(x)).abs().mean().item() for f in found]
        assert errors[1] < errors[0] / 3

    def test_does_without_a_guide_s_density(self) -> None:
        vae = build(
            VAEConfig(event_shape=(3,), latent_size=2, hidden_sizes=(), posterior="point"), seed=0
        )
        x = torch.tensor([[0.0, 1.0, 1.0]])
        exact = log_likelihood(vae, x, method="quadrature", seed=0).values
        assert torch.allclose(
            log_likelihood(vae, x, 50, "annealed", 0, num_temperatures=50).values, exact, atol=0.02
        )

    def test_is_right_with_a_positive_site(self) -> None:
        """Six data, 50 chains: mean z-score within 4 / sqrt(6), p < 1e-3."""
        vae, x, exact = scaled_model()
        found = log_likelihood(vae, x, 50, "annealed", seed=0, num_temperatures=40)
        assert abs(((found.values - exact) / found.monte_carlo_error).mean()) < 4 / math.sqrt(6)

    def test_is_needed_for_sharp_decoders_of_tens_of_latents(self) -> None:
        """Thirty latents, q with the exact scales but its means 4 of them off: importance sampling
        is over a hundred nats low and its k says so; annealing is within ten."""
        truth = linear_gaussian("exact", latent_size=30, event_size=40, scale=0.2)
        with torch.no_grad():
            truth.vae.guide.posterior.heads.bias[:30] += 4 * truth.posterior_variance.sqrt()
        x = truth.draw(2)
        exact = truth.log_likelihood(x)
        importance = log_likelihood(truth.vae, x, 5000, seed=0)
        annealed = log_likelihood(truth.vae, x, 8, "annealed", seed=0, num_temperatures=200)
        assert (importance.values - exact).max() < -100 and (importance.pareto_k > 0.7).all()
        assert (annealed.values - exact).abs().max() < 10


class TestReciprocal:
    def test_finds_log_p_and_its_fit_is_good(self) -> None:
        """The ratios' standard deviation is a few per cent where g fits: 0.05 nats is over five
        standard errors.
        """
        truth = linear_gaussian("overconfident", scale=0.3)
        x = truth.draw(5)
        found = log_likelihood(truth.vae, x, 200, "reciprocal", seed=0, num_temperatures=50)
        assert (found.values - truth.log_likelihood(x)).abs().max() < 0.05
        assert (found.pareto_k < 0.7).all()

    @pytest.mark.parametrize(("shape", "refused"), [(0.4, False), (0.1, True), (0.03, True)])
    def test_refuses_a_prior_whose_draws_pile_up(self, shape: float, refused: bool) -> None:
        """Where it is not refused it is right: log p(x) = 4 log(1/2) of a decoder that ignores
        z.
        """
        options = {"alpha": shape, "beta": shape}
        vae = build(VAEConfig((4,), 1, (8,), prior="sparse_beta", prior_options=options), seed=0)
        with torch.no_grad():
            for parameter in vae.model.decoder.parameters():
                parameter.zero_()
        if refused:
            with pytest.raises(InputError, match=r"sparse prior.*annealed"):
                log_likelihood(vae, torch.ones(1, 4), method="reciprocal", seed=0)
        else:
            found = log_likelihood(vae, torch.ones(1, 4), method="reciprocal", seed=0)
            assert found.values.item() == pytest.approx(4 * math.log(0.5), abs=0.05)

    def test_agrees_with_quadrature_where_the_posterior_is_not_normal(self) -> None:
        vae, x, exact = scaled_model()
        found = log_likelihood(vae, x, 200, "reciprocal", seed=0, num_temperatures=30)
        assert (found.values - exact).abs().max() < 0.15


class TestBidirectionalGap:
    def test_brackets_the_truth(self) -> None:
        """Both bounds are one-sided in expectation: means over 20 data within 3 standard errors on
        the wrong side.
        """
        truth = linear_gaussian("exact", latent_size=4, event_size=6, scale=0.2)
        found = bidirectional_gap(truth.vae, 20, 8, seed=0, num_temperatures=60)
        exact = truth.log_likelihood(found.x)
        below, above = found.lower - exact, found.upper - exact
        assert below.mean() < 3 * below.std() / math.sqrt(
            20
        ) and above.mean() > -3 * above.std() / math.sqrt(20)
        assert 0 < found.gap.mean() < 3

    def test_too_few_temperatures_show_as_a_wide_gap(self) -> None:
        truth = linear_gaussian("exact", latent_size=4, event_size=6, scale=0.05)
        gaps = [
            bidirectional_gap(truth.vae, 10, 8, seed=0, num_temperatures=n).gap.mean()
            for n in (3, 60)
        ]
        assert gaps[0] > 10 > gaps[1]


def chain_prior() -> torch.Tensor:
    """top ~ N(0, I), z ~ N(5 top, 0.01^2), 8 of each: in z's own units one scale is five hundred
    times the other.
    """
    top = pyro.sample("top", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    return pyro.sample("z", dist.Normal(5 * top, 0.01).to_event(1))


class TestCoordinates:
    """Latents are moved in units of their conditional scales, so that layers of unequal width cost
    nothing.
    """

    def test_a_narrow_layer_is_annealed_as_well_as_a_wide_one(self) -> None:
        vae = build(VAEConfig((8,), 8, (), likelihood="normal_unit"), prior=chain_prior, seed=0)
        with torch.no_grad():
            vae.model.decoder.network[0].weight.copy_(torch.eye(8))
        x = 5 * torch.randn(3, 8)
        exact = dist.Normal(0.0, math.sqrt(26 + 1e-4)).log_prob(x).sum(-1)
        found = log_likelihood(vae, x, 64, "annealed", 0, num_temperatures=100)
        assert (found.values - exact).abs().max() < 2  # in z's own units up to a hundred nats off

    def test_there_and_back_where_an_index_comes_between(self) -> None:
        def prior() -> torch.Tensor:
            s = pyro.sample("s", dist.Normal(torch.full((1,), 2.0), 3.0).to_event(1))
            k = pyro.sample(
                "k", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"}
            )
            return pyro.sample(
                "z", dist.Normal(torch.tensor([[-2.0], [2.0]])[k] + s, 0.5).to_event(1)
            )

        vae = build(VAEConfig((1,), 1, (), likelihood="normal_unit"), prior=prior, seed=0)
        density = LogDensity(vae, "here")
        u = density.prior_draws(3, 2)
        values = density.values(u)
        assert torch.allclose(values["s"], 2 + 3 * u[..., :1]) and torch.allclose(
            values["z"], u[..., 1:]
        )
        assert torch.allclose(density.coordinates(values), u)

    def test_there_and_back_and_the_density_counts_the_maps(self) -> None:
        def prior() -> torch.Tensor:
            rate = pyro.sample("rate", dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1))
            shift = pyro.sample("shift", dist.Laplace(0.0, 1 / rate).to_event(1))
            return pyro.sample("z", dist.StudentT(5.0, shift, 0.1 * rate).to_event(1))

        vae = build(
            VAEConfig(event_shape=(3,), latent_size=2, hidden_sizes=()), prior=prior, seed=0
        )
        density = LogDensity(vae, "here")
        u = density.prior_draws(4, 3)
        values = density.values(u)
        assert torch.allclose(density.coordinates(values), u, atol=1e-4)
        rate, shift = values["rate"], values["shift"]
        assert torch.allclose(u[..., :2].exp(), rate) and torch.allclose(
            u[..., 2:4], shift * rate, atol=1e-5
        )
        assert torch.allclose(values["z"], shift + 0.1 * rate * u[..., 4:], atol=1e-5)
        parts = (
            dist.Gamma(2.0, 1.0).log_prob(rate) + rate.log(),
            dist.Laplace(0.0, 1.0).log_prob(u[..., 2:4]),
            dist.StudentT(5.0).log_prob(u[..., 4:]),
        )
        log_prior, _ = density(u, torch.zeros(3, 3))
        assert torch.allclose(log_prior, sum(part.sum(-1) for part in parts), atol=1e-4)


class TestChains:
    def test_keep_the_posterior(self) -> None:
        """From prior to exact posterior: 64 chains, 5 data, 60 transitions; moments within 6
        standard errors.
        """
        truth = linear_gaussian("exact")
        x = truth.draw(5)
        with (
            torch.no_grad(),
            torch.random.fork_rng(),
            pyro.settings.context(module_local_params=True),
        ):
            torch.manual_seed(0)
            density = LogDensity(truth.vae, "chains")
            chains = Chains(density, x, density.prior_draws(64, 5), 5, "off")
            one = torch.ones(())
            for _ in range(40):
                chains.adapt(chains.transition(one))
            kept = []
            for _ in range(60):
                chains.transition(one)
                kept.append(chains.state.u)
        draws = torch.cat(kept).double()
        scale = truth.posterior_variance.sqrt()
        assert ((draws.mean(0) - truth.posterior_mean(x)) / scale).abs().max() < 6 / math.sqrt(
            64 * 10
        )
        assert torch.allclose(draws.std(0), scale.expand(5, 2), rtol=0.1)


@pytest.mark.parametrize("method", ["importance", "annealed", "reciprocal", "quadrature"])
class TestEveryMethod:
    def test_is_a_function_of_the_seed_and_leaves_everything_as_it_was(self, method: str) -> None:
        truth = linear_gaussian("conservative")
        truth.vae.train()
        options = (
            {}
            if method in ("importance", "quadrature")
            else {"num_temperatures": 3, "num_leapfrog": 2}
        )
        state = torch.get_rng_state()
        first, second = (
            log_likelihood(truth.vae, truth.draw(2), 40, method, 5, **options) for _ in range(2)
        )
        assert torch.equal(first.values, second.values) and first.values.dtype == torch.float64
        assert truth.vae.training and torch.equal(state, torch.get_rng_state())
        assert all(p.grad is None for p in truth.vae.parameters())

    def test_refuses_an_option_that_is_not_its_own(self, method: str) -> None:
        truth = linear_gaussian("exact")
        with pytest.raises(InputError, match="option of method"):
            log_likelihood(truth.vae, truth.draw(1), method=method, num_steps=3)


def test_methods_agree_where_the_posterior_is_not_normal() -> None:
    """A decoder with a hidden layer, Bernoulli pixels: differences to quadrature within 4 Monte
    Carlo errors.
    """
    vae = build(VAEConfig(event_shape=(12,), latent_size=2, hidden_sizes=(8,)), seed=0)
    with torch.no_grad():
        for layer in (0, 2):
            vae.model.decoder.network[layer].weight.mul_(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = vae.sample(4)
    exact = log_likelihood(vae, x, method="quadrature", seed=0).values
    for method, options in (("importance", {}), ("annealed", {"num_temperatures": 60})):
        found = log_likelihood(vae, x, method=method, seed=0, **options)
        assert ((found.values - exact) / found.monte_carlo_error).abs().max() < 4, method
    found = log_likelihood(vae, x, 600, "reciprocal", seed=0, num_temperatures=30)
    assert (found.values - exact).abs().max() < 0.2
