"""The two estimators against exact bounds and Pyro's own, term by term.

Knows the room `elbo` and the ground truths; must not know files.
"""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from ppl_vae.checks import InputError
from ppl_vae.elbo import estimator_from, kl_report
from ppl_vae.handlers import KLWeight
from ppl_vae.training.objective import Objective, StepValues
from ppl_vae.vae import VAEConfig, build
from tests.examples import PRIORS, pixels, tiny
from tests.truths import Q_SCALES, linear_gaussian

STOCK = {"A": Trace_ELBO, "B": TraceMeanField_ELBO}


def terms(vae, x, estimator, num_particles=1, seed=0):
    torch.manual_seed(seed)
    return estimator_from(estimator, num_particles).terms(vae.model, vae.guide, x)


def loss(vae, x, objective, kl_weight=1.0, seed=0):
    torch.manual_seed(seed)
    values = StepValues(kl_weight=torch.tensor(kl_weight, dtype=x.dtype))
    return objective(vae.model, vae.guide, x, values, vae.num_data)


class TestLinearGaussian:
    @pytest.mark.parametrize("estimator", "AB")
    @pytest.mark.parametrize("q", Q_SCALES)
    def test_the_mean_of_both_estimators_is_the_exact_bound(self, q, estimator):
        """E[A] = E[B] = log p(x) - KL(q || p(z|x)): 20,000 draws, 4 standard errors; fails by
        chance once in 3,000.
        """
        truth = linear_gaussian(q)
        x = truth.draw(3)
        with torch.no_grad(), pyro.plate("draws", 20_000, dim=-2):
            draws = terms(truth.vae, x, estimator).lower_bound.double()
        error = draws.std(0) / math.sqrt(len(draws)) + 1e-5
        assert ((draws.mean(0) - truth.lower_bound(x)).abs() < 4 * error).all()

    def test_trap_11_at_the_exact_posterior_a_is_constant_and_b_is_not(self):
        truth = linear_gaussian("exact")
        x = truth.draw(4)
        draws = {
            e: torch.stack([terms(truth.vae, x, e, seed=s).lower_bound for s in range(30)])
            for e in "AB"
        }
        torch.testing.assert_close(
            draws["A"].double(), truth.log_likelihood(x).expand(30, 4), rtol=0, atol=2e-5
        )
        assert (draws["B"].std(0) > 0.1).all()

    def test_the_kl_under_b_is_the_closed_form(self):
        truth = linear_gaussian("conservative")
        x = truth.draw(6)
        kl = terms(truth.vae, x, "B").kl["z"]
        assert kl.kind == "analytic"
        torch.testing.assert_close(kl.value.double(), truth.kl_to_prior(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("estimator", "AB")
@pytest.mark.parametrize("num_particles", [1, 3])
def test_our_loss_is_the_stock_loss_over_the_number_of_data(prior, estimator, num_particles):
    """Same seed, same draws: the data plate's N/M, the KL terms and the particles' mean all agree
    with Pyro's.
    """
    x = pixels(10)
    vae = tiny(PRIORS[prior], num_data=40).train()
    ours, _ = loss(vae, x, Objective(estimator, num_particles), kl_weight=0.7)
    stock = STOCK[estimator](
        num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1
    )
    torch.manual_seed(0)
    with KLWeight(0.7):
        theirs = stock.loss(vae.model, vae.guide, x)
    assert ours.item() == pytest.approx(theirs / 40, rel=1e-5)


@pytest.mark.parametrize("estimator", "AB")
def test_the_terms_of_single_data_add_up_to_the_stock_loss(estimator):
    x = pixels(10)
    vae = tiny(PRIORS["scale_then_z"], num_data=40).train()
    own = terms(vae, x, estimator)
    assert set(own.kl) == {"scale", "z"} and all(kl.value.shape == (10,) for kl in own.kl.values())
    torch.manual_seed(0)
    stock = STOCK[estimator]().loss(vae.model, vae.guide, x)
    assert -own.lower_bound.sum().item() * 40 / 10 == pytest.approx(stock, rel=1e-5)


@pytest.mark.parametrize("estimator", "AB")
def test_the_mean_of_minibatch_losses_is_the_full_batch_loss(estimator):
    """With weights theta in the program and the same draws for each datum: KL(theta) is counted
    once for all data.
    """
    x = torch.arange(12.0)[:, None]

    def model(x):
        scale = 1 + pyro.sample("theta", dist.Normal(0.0, 1.0)).square()
        with pyro.plate("data", 12, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x):
        pyro.sample("theta", dist.Delta(torch.tensor(0.5)) if delta else dist.Normal(0.5, 0.1))
        with pyro.plate("data", 12, subsample=x):
            exact = (
                dist.Delta(0.2 * x, event_dim=1)
                if estimator == "A"
                else dist.Normal(0.2 * x, 1e-6).to_event(1)
            )
            pyro.sample("z", exact)

    delta = True
    full = terms_of(model, guide, x, estimator).mean_loss()
    parts = torch.stack(
        [terms_of(model, guide, rows, estimator).mean_loss() for rows in x.split(4)]
    )
    torch.testing.assert_close(parts.mean(), full, rtol=1e-4, atol=1e-4)
    delta = False
    own = terms_of(model, guide, x, "B").weight_kl["theta"]
    exact = torch.distributions.kl_divergence(dist.Normal(0.5, 0.1), dist.Normal(0.0, 1.0))
    assert own.kind == "analytic" and own.value.item() == pytest.approx(exact.item())
    torch.manual_seed(0)
    stock = STOCK["B"]().loss(model, guide, x[:4])
    torch.manual_seed(0)
    assert estimator_from("B").terms(model, guide, x[:4]).mean_loss().item() == pytest.approx(
        stock / 12, rel=1e-5
    )


def terms_of(model, guide, x, estimator):
    torch.manual_seed(0)
    return estimator_from(estimator).terms(model, guide, x)


@pytest.mark.parametrize("estimator", "AB")
def test_latents_and_weights_have_weights_of_their_own(estimator):
    """loss = -mean log p + 0.3 mean KL(z) + 0.6 KL(theta) / N, and stock Pyro agrees."""

    def model(x):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 12, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(theta + z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("theta", dist.Normal(0.5, 0.1))
        with pyro.plate("data", 12, subsample=x):
            pyro.sample("z", dist.Normal(0.2 * x, 0.7).to_event(1))

    x = torch.arange(4.0)[:, None]
    plain = terms_of(model, guide, x, estimator)
    with KLWeight(0.3, weights=0.6):
        weighed = terms_of(model, guide, x, estimator).mean_loss()
        torch.manual_seed(0)
        stock = STOCK[estimator]().loss(model, guide, x) / 12
    expected = (
        -plain.log_likelihood.mean()
        + 0.3 * plain.kl["z"].value.mean()
        + 0.6 * plain.weight_kl["theta"].value / 12
    )
    assert (
        weighed.item() == pytest.approx(expected.item(), rel=1e-5) == pytest.approx(stock, rel=1e-5)
    )


@pytest.mark.parametrize("estimator", "AB")
def test_gradients_equal_central_differences_at_fixed_noise(estimator):
    """In double precision with steps of 1e-5 the differences are exact to 1e-7, relative to the
    largest entry.
    """
    vae, x = tiny(PRIORS["scale_then_z"], hidden_sizes=(3,)).double(), pixels(4).double()
    objective = Objective(estimator, 2)
    for name, parameter in vae.named_parameters():
        value, _ = loss(vae, x, objective, 0.6)
        (gradient,) = torch.autograd.grad(value, [parameter])
        flat = parameter.data.view(-1)
        index = gradient.abs().argmax().item()
        sides = []
        for step in (1e-5, -1e-5):
            flat[index] += step
            sides.append(loss(vae, x, objective, 0.6)[0].item())
            flat[index] -= step
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(
            gradient.view(-1)[index].item(), rel=1e-6, abs=1e-9
        ), name


@pytest.mark.parametrize("estimator", "AB")
def test_particles_are_averaged(estimator):
    """The mean of L draws has 1/L the variance: over 2,000 draws the ratio is within 15 % of L (5
    sigma).
    """
    truth = linear_gaussian("conservative")
    x = truth.draw(1).expand(2000, -1)
    with torch.no_grad():
        variances = [
            terms(truth.vae, x, estimator, num).lower_bound.var().item() for num in (1, 10)
        ]
    assert variances[0] / variances[1] == pytest.approx(10, rel=0.15)


def test_the_encoder_runs_once_for_all_particles():
    vae, calls = tiny(), []
    vae.guide.posterior.encoder.register_forward_hook(lambda *_: calls.append(1))
    terms(vae, pixels(4), "B", num_particles=7)
    assert len(calls) == 1


def test_the_report_is_unweighted_and_the_loss_is_weighted():
    vae, x = tiny(), pixels(8)
    plain, report = loss(vae, x, Objective("B"))
    warm, same = loss(vae, x, Objective("B"), kl_weight=0.25)
    assert plain.item() == pytest.approx(-report["lower_bound"].item(), rel=1e-6)
    assert all(torch.equal(report[name], same[name]) for name in report)
    expected = -report["reconstruction"] + 0.25 * report["kl.z"]
    assert warm.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any(value.requires_grad for value in report.values())


@pytest.mark.parametrize("estimator", "AB")
def test_kl_weight_zero_leaves_reconstruction_alone(estimator):
    vae, x = tiny(), pixels(8)
    value, report = loss(vae, x, Objective(estimator), kl_weight=0.0)
    assert value.item() == pytest.approx(-report["reconstruction"].item(), rel=1e-6)


class TestReport:
    @pytest.mark.parametrize(
        ("prior", "kinds"),
        [
            ("standard_normal", {"z": "analytic"}),
            ("laplace", {"z": "analytic"}),
            ("beta", {"z": "analytic"}),
            ("gamma", {"z": "analytic"}),
            ("log_normal", {"z": "analytic"}),
            ("half_cauchy", {"z": "sampled"}),
            ("dirichlet", {"z": "sampled"}),
            ("mixture", {"z": "sampled"}),
            ("scale_then_z", {"scale": "analytic", "z": "analytic"}),
        ],
    )
    def test_it_says_which_terms_b_has_in_closed_form(self, prior, kinds):
        vae, x = tiny(PRIORS[prior]), pixels(4)
        assert kl_report(vae.model, vae.guide, x, "B") == kinds
        assert kl_report(vae.model, vae.guide, x, "A") == dict.fromkeys(kinds, "sampled")

    def test_a_point_posterior_has_no_kl_and_says_so(self):
        vae, x = build(VAEConfig((6,), 2, (5,), posterior="point"), seed=0), pixels(4)
        assert kl_report(vae.model, vae.guide, x, "B") == {"z": "point"}
        value, report = loss(vae, x, Objective("B"))
        assert report["kl.z"].item() == 0 and value.item() == pytest.approx(
            -report["reconstruction"].item()
        )
        reconstruction = vae.reconstruct(x)
        expected = (x * reconstruction.log() + (1 - x) * (1 - reconstruction).log()).sum(-1).mean()
        assert report["reconstruction"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_it_changes_neither_generator_nor_buffers(self):
        vae, x = tiny(event_shape=(8, 8), network="conv"), pixels(4, (8, 8))
        vae.train()
        before, state = {k: v.clone() for k, v in vae.state_dict().items()}, torch.get_rng_state()
        kl_report(vae.model, vae.guide, x, "B")
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


class TestRefusals:
    def refuse(self, model, guide, estimator="B"):
        with pytest.raises(InputError) as error:
            estimator_from(estimator).terms(model, guide, pixels(4))
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_a_guide_site_the_model_lacks(self):
        vae = tiny()

        def guide(x):
            vae.guide(x)
            pyro.sample("extra", dist.Normal(0.0, 1.0))

        assert "a site 'extra' that the model lacks" in self.refuse(vae.model, guide)

    def test_an_auxiliary_site_is_allowed_and_its_density_counted(self):
        vae, x = tiny(), pixels(4)

        def guide(x):
            vae.guide(x)
            pyro.sample("extra", dist.Normal(0.0, 1e-2), infer={"is_auxiliary": True})

        torch.manual_seed(0)
        stock = Trace_ELBO().loss(vae.model, guide, x) / 4
        assert terms_of(vae.model, guide, x, "A").mean_loss().item() == pytest.approx(
            stock, rel=1e-5
        )

    def test_a_draw_that_cannot_be_reparameterised(self):
        def program(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Poisson(torch.ones(2)).to_event(1))

        assert "without reparameterised draws" in self.refuse(program, program, "A")

    def test_unknown_names(self):
        with pytest.raises(InputError, match="estimator: got 'C', expected one of A, B"):
            Objective("C")
        with pytest.raises(InputError, match="num_particles: got 0"):
            Objective("A", 0)


def masked(latent_size: int, of_distribution: bool, mask: bool | Tensor) -> Tensor:
    """p(u) p(z | u), the mask on z, by a handler or by the distribution."""
    u = pyro.sample("u", dist.Normal(0.0, 1.0))
    q = dist.Normal(u[..., None].expand(*u.shape, latent_size), 1.0).to_event(1)
    if of_distribution:
        return pyro.sample("z", q.mask(mask))
    with poutine.mask(mask=mask):
        return pyro.sample("z", q)


def masked_coordinate(latent_size: int) -> Tensor:
    within = dist.Normal(torch.zeros(latent_size), 1.0).mask(torch.tensor([True, False]))
    return pyro.sample("z", within.to_event(1))


def masked_guide(x: Tensor, of_distribution: bool) -> None:
    q, mask = dist.Normal(x[:, :2], 1.0).to_event(1), x[:, 0] > 0.5
    if of_distribution:
        pyro.sample("z", q.mask(mask))
    else:
        with poutine.mask(mask=mask):
            pyro.sample("z", q)


def normal_z(latent_size: int) -> Tensor:
    return pyro.sample("z", dist.Normal(torch.zeros(latent_size), 1.0).to_event(1))


class TestMasks:
    """A mask drops part of log p or log q: the bound, and log p(x), would be of no model."""

    @pytest.mark.parametrize("of_distribution", [False, True])
    @pytest.mark.parametrize("mask", [False, torch.tensor(False)])
    def test_a_masked_prior_is_refused_when_built(
        self, of_distribution: bool, mask: bool | Tensor
    ) -> None:
        with pytest.raises(InputError, match="site 'z': got a mask"):
            tiny(partial(masked, of_distribution=of_distribution, mask=mask))

    def test_a_masked_coordinate_is_refused_when_built(self) -> None:
        with pytest.raises(InputError, match="site 'z': got a mask"):
            tiny(masked_coordinate)

    @pytest.mark.parametrize("of_distribution", [False, True])
    def test_a_masked_guide_is_refused_when_built(self, of_distribution: bool) -> None:
        with pytest.raises(InputError, match="site 'z': got a mask"):
            tiny(normal_z, partial(masked_guide, of_distribution=of_distribution))

    def test_a_scaled_prior_is_refused_when_built(self) -> None:
        def scaled(latent_size: int) -> Tensor:
            with poutine.scale(scale=0.5):
                return normal_z(latent_size)

        with pytest.raises(InputError, match="site 'z': got a scale"):
            tiny(scaled)

    @pytest.mark.parametrize("of_distribution", [False, True])
    def test_a_mask_of_everything_is_none(self, of_distribution: bool) -> None:
        def unmasked(latent_size: int) -> Tensor:
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            at_u = dist.Normal(u[..., None].expand(*u.shape, latent_size), 1.0).to_event(1)
            return pyro.sample("z", at_u)

        vae = tiny(partial(masked, of_distribution=of_distribution, mask=True))
        bounds = [terms(each, pixels(5), "A").lower_bound for each in (vae, tiny(unmasked))]
        assert torch.equal(*bounds)

    @pytest.mark.parametrize("estimator", "AB")
    @pytest.mark.parametrize("of_distribution", [False, True])
    def test_a_mask_in_one_of_two_programs_is_refused_by_the_estimator(
        self, estimator: str, of_distribution: bool
    ) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                masked(2, of_distribution, False)
                pyro.sample("x", dist.Bernoulli(0.5).expand([6]).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("u", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

        with pytest.raises(InputError, match="different masks in model and guide"):
            estimator_from(estimator).terms(model, guide, pixels(5))

    @pytest.mark.parametrize("estimator", "AB")
    def test_a_mask_around_the_estimator_leaves_the_other_data(self, estimator: str) -> None:
        vae, x = tiny(), pixels(5)
        keep = torch.tensor([True, False, True, True, False])
        with poutine.mask(mask=keep):
            some = terms(vae, x, estimator).lower_bound
        assert torch.equal(some, torch.where(keep, terms(vae, x, estimator).lower_bound, 0.0))
