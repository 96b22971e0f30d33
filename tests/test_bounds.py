"""Importance-weighted bounds: valid per datum, tight as they should be, and the same gradient by
two estimators.

Knows the linear-Gaussian truths and Pyro's own estimator; must not know how a bound is assembled.
Statistical tests fix their seeds and state their failure rate.
"""

import math

import pyro
import pytest
import torch
from torch import Tensor, nn
from truths import LinearGaussian, linear_gaussian

from ppl_vae import VAE, InputError, VAEConfig, build, fit, lower_bound
from ppl_vae.elbo import estimator_from
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.training.objective import Objective, StepValues

LIMIT = 4.5  # standard errors: passed by chance by 7 of a million


def bounds(
    truth: LinearGaussian, x: Tensor, estimator: str, num_particles: int, repeats: int = 200
) -> Tensor:
    """Independent estimates of each datum's bound, (repeats, N), as one batch of copies."""
    with torch.no_grad(), local_parameters(), torch.random.fork_rng():
        torch.manual_seed(0)
        terms = estimator_from(estimator, num_particles).terms(
            truth.vae.model, truth.vae.guide, x.repeat(repeats, 1)
        )
        return terms.lower_bound.reshape(repeats, len(x))


def gradients(
    vae: VAE,
    x: Tensor,
    estimator: str,
    num_particles: int,
    repeats: int,
    kl_weight: float = 1.0,
    corruption: str = "none",
) -> dict[str, Tensor]:
    """Repeated gradients of the loss by parameter, (repeats, *shape)."""
    parameters = dict(vae.named_parameters())
    rows: list[tuple[Tensor, ...]] = []
    objective = Objective(estimator, num_particles, corruption)
    values = StepValues(kl_weight=kl_weight, corruption_level=0.4)
    with local_parameters(), torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(repeats):
            loss, _ = objective(vae.model, vae.guide, x, values)
            rows.append(
                torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
            )
    return {name: torch.stack(values) for name, values in zip(parameters, zip(*rows))}


def furthest(plain: dict[str, Tensor], double: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference of two mean gradients in standard errors, and the parameter it is
    of.
    """
    errors = {}
    for name, values in plain.items():
        spread = ((values.var(0) + double[name].var(0)) / len(values)).sqrt().clamp(min=1e-6)
        errors[name] = ((values.mean(0) - double[name].mean(0)) / spread).abs().max().item()
    return max((error, name) for name, error in errors.items())


class TestTheBound:
    def test_at_the_exact_posterior_it_is_the_likelihood_whatever_the_draws(self) -> None:
        truth = linear_gaussian("exact")
        x = truth.draw(6)
        for num_particles in (1, 3, 50):
            found = bounds(truth, x, "iwae", num_particles, repeats=3)
            torch.testing.assert_close(
                found, truth.log_likelihood(x).float().expand(3, -1), atol=2e-4, rtol=1e-5
            )

    def test_it_rises_from_the_evidence_lower_bound_to_the_likelihood(self) -> None:
        """K = 1 within 4.5 standard errors of the exact bound; fails by chance less than once in
        10,000 seeds.
        """
        truth = linear_gaussian(
            "conservative"
        )  # bounded weights, so that the limit is reached soon
        x = truth.draw(6)
        one = bounds(truth, x, "iwae", 1, 2000)
        error = (one.mean(0) - truth.lower_bound(x)) / (one.std(0) / math.sqrt(len(one)))
        assert error.abs().max() < LIMIT
        means = [bounds(truth, x, "iwae", k).mean().item() for k in (1, 5, 50, 500)]
        limit = truth.log_likelihood(x).mean().item()
        assert means == sorted(means)
        assert means[-1] < limit
        assert means[-1] == pytest.approx(limit, abs=0.01)

    def test_for_one_datum_it_is_pyros_own_estimate_from_the_same_draws(self) -> None:
        truth = linear_gaussian("overconfident")
        x = truth.draw(1)
        torch.manual_seed(0)
        stock = pyro.infer.RenyiELBO(
            alpha=0, num_particles=7, vectorize_particles=True, max_plate_nesting=1
        )
        reference = -stock.loss(truth.vae.model, truth.vae.guide, x)
        torch.manual_seed(0)
        with torch.no_grad():
            found = estimator_from("iwae", 7).terms(truth.vae.model, truth.vae.guide, x).lower_bound
        assert found.item() == pytest.approx(reference, abs=1e-4)

    @pytest.mark.parametrize(("alpha", "q"), [(0.5, "conservative"), (3.0, "overconfident")])
    def test_of_order_alpha_it_is_pyros_own_estimate_and_stops_at_the_renyi_divergence(
        self, alpha: float, q: str
    ) -> None:
        """Closed form within 0.02 nats of 2000 draws by 200 copies; fails by chance less than once
        in 10,000 seeds.
        """
        truth, name = linear_gaussian(q), f"renyi:{alpha}"
        x, c = truth.draw(1), truth.q_scale
        stock = pyro.infer.RenyiELBO(
            alpha=alpha, num_particles=7, vectorize_particles=True, max_plate_nesting=1
        )
        torch.manual_seed(0)
        reference = -stock.loss(truth.vae.model, truth.vae.guide, x)
        torch.manual_seed(0)
        with torch.no_grad():
            found = estimator_from(name, 7).terms(truth.vae.model, truth.vae.guide, x).lower_bound
        assert found.item() == pytest.approx(reference, abs=1e-4)
        mixed = (
            (1 - alpha) * c** 2 + alpha
        )  # of the two variances, q's and the exact posterior's, in units of the latter
        divergence = 2 * (-math.log(c) - math.log(mixed) / (2 * (alpha - 1)))
        limit = truth.log_likelihood(x).item() - divergence
        assert bounds(truth, x, name, 2000).mean().item() == pytest.approx(limit, abs=0.02)

    def test_it_falls_as_alpha_rises_from_importance_weighted_past_evidence_lower_bound(
        self,
    ) -> None:
        truth = linear_gaussian("overconfident")
        x = truth.draw(6)
        names = ("iwae", "renyi:0", "renyi:0.5", "renyi:0.999", "A", "renyi:1.001", "renyi:4")
        means = [bounds(truth, x, name, 20, 20).mean().item() for name in names]
        assert means[0] == means[1]
        assert means[1:] == sorted(means[1:], reverse=True)
        assert means[3] == pytest.approx(means[5], abs=0.05)

    def test_minibatches_leave_it_a_bound_where_the_stock_estimate_is_none(self) -> None:
        """Trap 3: with N/M = 1000 inside its logarithm the stock estimate is above log p(x)."""
        truth = linear_gaussian("conservative")
        x = truth.draw(4)
        limit = truth.log_likelihood(x).mean()
        losses = []
        for num_data in (4, 4000):
            truth.vae.num_data = num_data
            truth.vae.train()
            torch.manual_seed(0)
            with torch.no_grad(), local_parameters():
                losses.append(Objective("iwae", 100)(truth.vae.model, truth.vae.guide, x)[0])
        assert losses[0] == losses[1]
        assert -losses[0] < limit + 0.1
        stock = pyro.infer.RenyiELBO(
            alpha=0, num_particles=100, vectorize_particles=True, max_plate_nesting=1
        )
        assert -stock.loss(truth.vae.model, truth.vae.guide, x) / 4000 > limit + 0.5

    def test_a_weight_of_zero_leaves_the_mean_likelihood_of_the_draws(self) -> None:
        truth = linear_gaussian("overconfident")
        x = truth.draw(3)
        torch.manual_seed(0)
        with torch.no_grad(), local_parameters():
            programs = truth.vae.model, truth.vae.guide
            loss, _ = Objective("iwae", 5)(*programs, x, StepValues(kl_weight=0.0))
            torch.manual_seed(0)
            z = truth.vae.encode(x, num_samples=5)
            log_likelihoods = truth.vae.decode(z).log_prob(x)
        assert loss.item() == pytest.approx(
            -(log_likelihoods.logsumexp(0) - math.log(5)).mean().item(), abs=1e-4
        )

    def test_the_public_bound_and_a_run_take_it_by_name(self) -> None:
        truth = linear_gaussian("overconfident")
        x = truth.draw(20)
        found = lower_bound(truth.vae, x, estimator="iwae", num_particles=200, seed=0)
        assert (
            lower_bound(truth.vae, x, estimator="A", num_particles=200, seed=0).mean()
            < found.mean() - 0.1
        )
        history = fit(truth.vae, x, estimator="dreg", num_particles=4, epochs=1, progress=False)
        assert history.kl_kinds == {"z": "sampled"}


class TestDoublyReparameterisedGradients:
    @pytest.mark.parametrize("num_particles", [1, 8])
    def test_at_the_exact_posterior_the_guide_has_no_gradient_at_all(
        self, num_particles: int
    ) -> None:
        truth = linear_gaussian("exact")
        x = truth.draw(5)
        heads = "guide.posterior.heads.weight"
        assert gradients(truth.vae, x, "dreg", num_particles, 3)[heads].abs().max() < 1e-4
        assert gradients(truth.vae, x, "iwae", num_particles, 3)[heads].abs().max() > 1e-2

    @pytest.mark.parametrize("q", ["overconfident", "conservative"])
    @pytest.mark.parametrize("kl_weight", [1.0, 0.4, 0.0])
    def test_they_are_those_of_the_plain_bound_in_expectation(
        self, q: str, kl_weight: float
    ) -> None:
        """All parameters, 80 repeats of 50 copies; fails by chance less than once in a thousand
        seeds.
        """
        truth = linear_gaussian(q)
        x = truth.draw(3).repeat(50, 1)
        both = (
            gradients(truth.vae, x, estimator, 4, 80, kl_weight) for estimator in ("iwae", "dreg")
        )
        assert furthest(*both) < (LIMIT, "")

    @pytest.mark.parametrize("posterior", ["implicit", "iaf", "mixture", "point"])
    @pytest.mark.parametrize("corruption", ["none", "masking"])
    def test_so_they_are_of_every_guide_and_of_data_it_sees_corrupted(
        self, posterior: str, corruption: str
    ) -> None:
        """Weight 0.5, parameters away from their start; fails by chance less than once in a
        thousand seeds.
        """
        generator = torch.Generator().manual_seed(1)
        vae = build(VAEConfig((6,), 2, (5,), posterior=posterior), seed=0).train()
        for parameter in vae.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        x = (torch.rand(4, 6, generator=generator) < 0.4).float().repeat(10, 1)
        # three draws: a multiple of the mixture's components would be drawn by strata, which is
        # another bound
        both = (
            gradients(vae, x, estimator, 3, 80, 0.5, corruption) for estimator in ("iwae", "dreg")
        )
        assert furthest(*both) < (LIMIT, "")

    def test_a_corrupted_guide_leaves_it_the_same_bound(self) -> None:
        """The second run of the guide scores z under what the first one saw: with another it is
        above log p(x).
        """
        truth = linear_gaussian("exact")
        x = truth.draw(4).repeat(50, 1)
        truth.vae.train()
        losses = []
        for estimator in ("iwae", "dreg"):
            torch.manual_seed(0)
            with local_parameters():
                objective = Objective(estimator, 8, "normal")
                values = StepValues(corruption_level=0.6)
                losses.append(objective(truth.vae.model, truth.vae.guide, x, values)[0])
        assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-4)
        assert -losses[0] < truth.log_likelihood(x).mean() - 0.1

    def test_their_noise_falls_below_that_of_the_plain_ones(self) -> None:
        truth = linear_gaussian("conservative")
        x = truth.draw(3)
        name = "guide.posterior.heads.bias"
        plain, double = (
            gradients(truth.vae, x, e, 64, 100)[name].std(0).mean() for e in ("iwae", "dreg")
        )
        assert double < 0.3 * plain


class TestRefusals:
    @pytest.mark.parametrize(
        "name", ["renyi:1", "renyi:-0.5", "renyi:nan", "renyi:", "renyi:ALPHA"]
    )
    def test_an_order_without_a_bound(self, name: str) -> None:
        with pytest.raises(
            InputError, match=r"estimator: got .*renyi.*at least 0, not 1.*ALPHA = 1 is estimator A"
        ):
            Objective(name, 5)

    def test_dropout_in_the_guide_would_make_two_guides(self) -> None:
        vae = build(VAEConfig((4,), 2, (5,), network_options={"dropout": 0.2}), num_data=10)
        with pytest.raises(InputError, match=r"estimator 'dreg'.*dropout.*use estimator 'iwae'"):
            estimator_from("dreg", 2).terms(vae.model, vae.guide, torch.zeros(3, 4))

    def test_batch_normalisation_in_the_model_would_couple_the_data(self) -> None:
        vae = build(VAEConfig((4,), 4, (5,), prior="ladder", posterior="ladder")).train()
        with pytest.raises(
            InputError, match=r"estimator 'dreg': got batch normalisation.*use estimator 'iwae'"
        ):
            estimator_from("dreg", 2).terms(vae.model, vae.guide, torch.zeros(3, 4))

    def test_a_scale_fitted_to_the_batch_would_couple_the_data(self) -> None:
        vae = build(VAEConfig((4,), 2, (5,), likelihood="normal_optimal")).train()
        with pytest.raises(InputError, match=r"estimator 'dreg': got NormalOptimal.*learned"):
            estimator_from("dreg", 2).terms(vae.model, vae.guide, torch.zeros(3, 4))
        vae.eval()
        assert estimator_from("dreg", 2).terms(vae.model, vae.guide, torch.zeros(3, 4))

    @pytest.mark.parametrize(
        ("estimator", "likelihood", "said"),
        [
            ("iwae", "normal_optimal", True),
            ("renyi:0.5", "normal_optimal", True),
            ("iwae", "normal_shared", False),
            ("A", "normal_optimal", False),
        ],
    )
    def test_a_fitted_scale_is_said_to_leave_no_bound_of_single_data(
        self, estimator: str, likelihood: str, said: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        vae = build(VAEConfig((4,), 2, (5,), likelihood=likelihood))
        options = {"epochs": 1, "compile": "off", "progress": False}
        fit(vae, torch.rand(6, 4), estimator=estimator, num_particles=2, **options)
        assert ("NormalOptimal couples the data of a batch" in caplog.text) == said

    def test_balanced_weights_leave_no_such_gradient_and_no_kl_of_an_implicit_guide(self) -> None:
        with pytest.raises(InputError, match=r"'dreg' with kl_balance.*use estimator 'iwae'"):
            Objective("dreg", 2, kl_balance=True)
        vae = build(VAEConfig((4,), 2, (5,), posterior="implicit"))
        with pytest.raises(
            InputError, match=r"kl_balance: got the guide's own sites noise, reverse"
        ):
            Objective("A", kl_balance=True)(vae.model, vae.guide, torch.zeros(3, 4))

    def test_an_auxiliary_site_without_reparameterised_draws(self) -> None:
        truth = linear_gaussian()

        class Switched(nn.Module):
            def forward(self, x: Tensor) -> None:
                with pyro.plate("data", len(x)):
                    pyro.sample(
                        "switch", pyro.distributions.Bernoulli(0.5), infer={"is_auxiliary": True}
                    )
                    pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))

        with pytest.raises(
            InputError, match=r"guide site 'switch': got Bernoulli without reparameterised draws"
        ):
            estimator_from("A").terms(truth.vae.model, Switched(), truth.draw(3))

    def test_bayesian_weights_have_no_bound_per_datum(self) -> None:
        class Weighted(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Tensor) -> None:
                pyro.sample("theta", pyro.distributions.Normal(0.0, 1.0))
                self.inner(x)

        truth = linear_gaussian()
        with pytest.raises(
            InputError,
            match=r"importance-weighted bound: got Bayesian weights theta.*use estimator A or B",
        ):
            estimator_from("iwae", 2).terms(
                Weighted(truth.vae.model), Weighted(truth.vae.guide), truth.draw(3)
            )
