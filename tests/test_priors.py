"""Every built-in prior against the battery, and what is known of each in closed form.

Knows priors and the guides built from them; must not know how a prior is refused.
"""

import copy
import itertools
import math
from pathlib import Path
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from torch.distributions import kl_divergence

from ppl_vae import fit
from ppl_vae.distributions import CensoredBeta
from ppl_vae.elbo import estimator_from, kl_report
from ppl_vae.guides import divergences
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.testing import PriorBattery
from ppl_vae.testing.priors import LIMIT
from tests.examples import pixels, tiny


class TestStandardNormal(PriorBattery):
    prior = "standard_normal"


class TestLaplace(PriorBattery):
    prior = "laplace"
    options: ClassVar = {"scale": 0.7}


class TestStudentT(PriorBattery):
    prior = "student_t"


class TestSparseBeta(PriorBattery):
    prior = "sparse_beta"
    options: ClassVar = {"alpha": 0.4, "beta": 0.6}


class TestBinaryMixture(PriorBattery):
    prior = "binary_mixture"
    options: ClassVar = {"scale": 0.2}


class TestRelaxedBernoulli(PriorBattery):
    prior = "relaxed_bernoulli"


class TestGaussianMixture(PriorBattery):
    prior = "gaussian_mixture"
    options: ClassVar = {"components": 3}


class TestVamp(PriorBattery):
    prior = "vamp"
    options: ClassVar = {"components": 4}
    compiled = True


class TestAffineFlow(PriorBattery):
    prior = "flow"


class TestSplineFlow(PriorBattery):
    prior = "flow"
    options: ClassVar = {"kind": "spline", "transforms": 2, "hidden_sizes": 16}


class TestRelevance(PriorBattery):
    prior = "relevance"


class TestRing(PriorBattery):
    """The README's example of a user's own prior."""

    prior = str(Path(__file__).parents[1] / "studies" / "priors" / "ring.py:ring")
    options: ClassVar = {"radius": 4.0}


class TestOwnWeight(PriorBattery):
    prior = f"{Path(__file__).parent / 'examples.py'}:own_weight"


class TestLadder(PriorBattery):
    prior = "ladder"
    options: ClassVar = {"upper_sizes": 2}


class TestTwoLevel(PriorBattery):
    prior = "two_level"
    options: ClassVar = {"hidden_size": 8}


KINDS = {
    "standard_normal": "analytic",
    "laplace": "analytic",
    "student_t": "sampled",
    "sparse_beta": "analytic",
    "binary_mixture": "sampled",
    "relaxed_bernoulli": "sampled",
    "gaussian_mixture": "sampled",
    "vamp": "sampled",
    "flow": "sampled",
    "relevance": "analytic",
    "two_level": "analytic",
}


@pytest.mark.parametrize("prior", KINDS)
def test_the_report_says_which_kl_is_in_closed_form(prior: str) -> None:
    vae = tiny(prior=prior)
    assert set(kl_report(vae.model, vae.guide, pixels(), "B").values()) == {KINDS[prior]}
    assert set(kl_report(vae.model, vae.guide, pixels(), "A").values()) == {"sampled"}


POSITIVE = {
    "gamma": dist.Gamma(2.5, 0.7),
    "inverse_gamma": dist.InverseGamma(2.5, 0.7),
    "exponential": dist.Exponential(1.3),
    "half_normal": dist.HalfNormal(1.7),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_a_registered_divergence_is_the_mean_log_ratio(name: str) -> None:
    """200000 draws; the tolerance is 4.5 standard errors, so a right formula fails once in 150000
    seeds.
    """
    torch.manual_seed(0)
    p, q = POSITIVE[name], dist.LogNormal(torch.tensor([0.3, -1.0]), torch.tensor([0.4, 0.6]))
    x = q.sample((200_000,))
    ratio = q.log_prob(x) - p.log_prob(x)
    assert (
        (kl_divergence(q, p) - ratio.mean(0)).abs() < LIMIT * ratio.std(0) / len(x) ** 0.5
    ).all()


@pytest.mark.parametrize(
    "family", divergences.POSITIVE_FAMILIES, ids=lambda family: family.__name__
)
def test_the_guide_of_a_positive_site_has_its_closed_form(family: Any) -> None:
    arguments = [torch.full((2,), 2.0)] * (2 if family is dist.InverseGamma else 1)
    vae = tiny(lambda: pyro.sample("z", family(*arguments).to_event(1)))
    assert kl_report(vae.model, vae.guide, pixels(), "B") == {"z": "analytic"}


def run_prior(vae: Any, size: int, seed: int = 0) -> Any:
    """The prior's trace in a plate of data."""
    torch.manual_seed(seed)
    with local_parameters(), torch.no_grad(), pyro.plate("data", size):
        return poutine.trace(vae.model.prior).get_trace()


def test_the_binary_mixture_is_the_mixture_over_all_corners() -> None:
    fn = run_prior(tiny(prior="binary_mixture", latent_size=3), 1).nodes["z"]["fn"]
    z = torch.rand(5, 3)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    by_hand = dist.Normal(corners, 0.1).to_event(1).log_prob(z[:, None]).logsumexp(-1) - math.log(8)
    torch.testing.assert_close(fn.log_prob(z), by_hand)


def test_a_gaussian_mixture_has_components_of_the_whole_vector() -> None:
    """Two components on the diagonal leave the other two quadrants empty, in density as in draws
    (trap 17).
    """
    vae = tiny(prior="gaussian_mixture", prior_options={"components": 2})
    with torch.no_grad():
        vae.model.prior.locations.copy_(torch.tensor([[-3.0, -3.0], [3.0, 3.0]]))
    assert (run_prior(vae, 1000).nodes["z"]["value"].prod(-1) > 0).double().mean() > 0.99
    grid = torch.cartesian_prod(torch.linspace(-9, 0, 91), torch.linspace(0, 9, 91))
    assert run_prior(vae, 1).nodes["z"]["fn"].log_prob(grid).exp().sum() * 0.1**2 < 0.01


def test_vamp_is_the_even_mixture_of_the_guides_own_posteriors() -> None:
    vae, z = tiny(prior="vamp", prior_options={"components": 3}), torch.randn(4, 2)
    fn = run_prior(vae, 4).nodes["z"]["fn"]
    posteriors = [
        vae.guide.posterior.distributions(u[None])["z"].log_prob(z)
        for u in vae.model.prior.pseudo_inputs
    ]
    torch.testing.assert_close(fn.log_prob(z), torch.stack(posteriors).logsumexp(0) - math.log(3))


def test_vamp_borrows_the_encoder_and_does_not_own_it() -> None:
    vae = tiny(prior="vamp", prior_options={"components": 3})
    assert [name for name, _ in vae.model.prior.named_parameters()] == ["pseudo_inputs"]
    twin = copy.deepcopy(vae)
    with torch.no_grad():
        for parameter in twin.guide.parameters():
            parameter.add_(1.0)
    z = torch.zeros(2)
    densities = [run_prior(one, 1).nodes["z"]["fn"].log_prob(z) for one in (vae, twin)]
    assert not torch.equal(*densities), "the copy's prior must follow the copy's encoder"
    assert torch.equal(densities[0], run_prior(vae, 1).nodes["z"]["fn"].log_prob(z))


def test_vamp_starts_from_rows_of_the_data_once() -> None:
    vae, x = tiny(prior="vamp", prior_options={"components": 5}), pixels(20)
    vae.model.prior.start_from((255 * x).to(torch.uint8))
    started = vae.model.prior.pseudo_inputs.detach().clone()
    assert all((row == x).all(-1).any() for row in started)
    vae.model.prior.start_from(1 - x)
    assert torch.equal(vae.model.prior.pseudo_inputs, started)


def test_vamp_started_at_random_leaves_the_data_alone() -> None:
    vae = tiny(prior="vamp", prior_options={"components": 5, "start": "random"})
    before = vae.model.prior.pseudo_inputs.detach().clone()
    vae.model.prior.start_from(pixels(20))
    assert torch.equal(vae.model.prior.pseudo_inputs, before)


def test_vamp_resumed_is_the_run_never_stopped(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 10, "progress": False}
    whole, halves = (tiny(prior="vamp", prior_options={"components": 3}) for _ in range(2))
    fit(whole, pixels(30), epochs=4, **settings)
    fit(halves, pixels(30), epochs=2, checkpoint=tmp_path, **settings)
    again = tiny(prior="vamp", prior_options={"components": 3}, seed=9)
    fit(again, pixels(30), epochs=4, checkpoint=tmp_path, resume=True, **settings)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_the_flows_density_is_one_pass_and_sampling_one_a_coordinate(kind: str) -> None:
    vae = tiny(prior="flow", latent_size=4, prior_options={"kind": kind, "transforms": 2})
    calls = []
    for transform in vae.model.prior.flow.transform.transforms:
        transform.hyper.register_forward_hook(lambda *_: calls.append(1))
    with pyro.plate("data", 3):
        fn = (
            poutine.trace(poutine.condition(vae.model.prior, {"z": torch.zeros(3, 4)}))
            .get_trace()
            .nodes["z"]["fn"]
        )
    fn.log_prob(torch.randn(3, 4))
    assert len(calls) == 2
    fn.sample()
    assert len(calls) == 2 + 2 * 4


def test_relevance_tells_superfluous_dimensions_from_relevant_ones() -> None:
    """Linear data of two directions and noise, five latents, scales from 1: two grow, three fall
    below 0.4 of these.
    """
    torch.manual_seed(0)
    x = torch.randn(200, 2) @ torch.randn(2, 8) + 0.3 * torch.randn(200, 8)
    fields: dict[str, Any] = {
        "event_shape": (8,),
        "hidden_sizes": (),
        "likelihood": "normal_shared",
    }
    vae = tiny(
        prior="relevance", latent_size=5, prior_options={"shape": 5.0, "rate": 0.01}, **fields
    )
    fit(vae, x, epochs=300, batch_size=100, learning_rate=0.05, weight_penalty=1.0, progress=False)
    scales = vae.model.prior.log_scale.exp().sort(descending=True).values
    assert scales[1] > 1.5
    assert (scales[2:] < 0.4 * scales[1]).all()


def test_the_hyper_prior_of_relevance_counts_once_for_all_data_and_not_in_evaluation() -> None:
    vae, x = tiny(prior="relevance", num_data=40), pixels(10)
    shares = {}
    for training in (True, False):
        vae.train(training)
        with local_parameters():
            torch.manual_seed(0)
            shares[training] = estimator_from("B").terms(vae.model, vae.guide, x).lower_bound
    log_prior = dist.InverseGamma(1.0, 1e-4).log_prob(torch.tensor(1.0)) * 2
    torch.testing.assert_close(
        shares[True] - shares[False], (log_prior / 40).expand(10), rtol=1e-4, atol=1e-5
    )


class TestCensoredBeta:
    """A draw at an end of single precision stands for the tail beyond it."""

    @pytest.mark.parametrize(("a", "b"), [(0.01, 0.01), (0.02, 0.3)])
    def test_its_ends_have_the_mass_of_their_tails(self, a: float, b: float) -> None:
        info = torch.finfo(torch.float32)
        p = CensoredBeta(torch.tensor(a), torch.tensor(b))
        below = p.log_prob(torch.tensor(info.tiny)) + math.log(info.tiny)
        above = p.log_prob(torch.tensor(1 - info.eps)) + math.log(info.eps)
        assert below.item() == pytest.approx(
            math.log(scipy.stats.beta.cdf(info.tiny, a, b)), abs=1e-3
        )
        assert above.item() == pytest.approx(
            math.log(scipy.stats.beta.cdf(info.eps, b, a)), abs=1e-3
        )

    def test_importance_weights_average_to_one(self) -> None:
        """100000 draws, within 4.5 standard errors, 7 seeds of a million fail; with the density
        alone it is 0.65.
        """
        p, q = (
            CensoredBeta(torch.tensor(a), torch.tensor(b)) for a, b in ((0.01, 0.01), (0.03, 0.02))
        )
        z = q.sample((100_000,))
        w = (p.log_prob(z) - q.log_prob(z)).exp().double()
        assert abs(w.mean() - 1) < 4.5 * w.std() / math.sqrt(len(w))
        stock = (dist.Beta(0.01, 0.01).log_prob(z) - dist.Beta(0.03, 0.02).log_prob(z)).exp()
        assert stock.mean() < 0.8
