"""Distributions of our own against closed forms and scipy, where single precision is hardest.

Knows the room of distributions, and the programs that share its draws. Statistical tests fix their
seed and say how far off chance may put them.
"""

import copy
import math

import mpmath
import numpy as np
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae import VAE, VAEConfig, build, log_likelihood, lower_bound
from ppl_vae.distributions import (
    ContinuousBernoulli,
    LogisticSigmoid,
    RememberingSigmoid,
    remembered,
)
from ppl_vae.distributions.remembered import made_from
from ppl_vae.elbo import estimator_from
from ppl_vae.graphs import record
from ppl_vae.handlers.modes import local_parameters

LOGITS = [0.0, 1e-6, 1e-3, 0.03, 0.49, 0.51, 1.0, 5.0, 15.0, 17.0, 90.0, 300.0, 1000.0]
SIGNED = [sign * logit for logit in LOGITS for sign in (-1, 1)]
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-11}


class ExactContinuousBernoulli:
    """The law in extended precision, from its closed forms alone; x a list of numbers in [0, 1]."""

    def __init__(self, logit: float) -> None:
        self.m = mpmath.mp.clone()
        self.m.dps = 500
        self.l, self.zero = self.m.mpf(logit), logit == 0

    def log_prob(self, x: float) -> float:
        return float(0 if self.zero else x * self.l - self.m.log(self.m.expm1(self.l) / self.l))

    def mean(self) -> float:
        return float(0.5 if self.zero else 1 / (1 - self.m.exp(-self.l)) - 1 / self.l)

    def variance(self) -> float:
        if self.zero:
            return 1 / 12
        return float(1 / self.l**2 - 1 / (4 * self.m.sinh(self.l / 2) ** 2))

    def cdf(self, x: float) -> float:
        return float(x if self.zero else self.m.expm1(self.l * x) / self.m.expm1(self.l))

    def icdf(self, u: float) -> float:
        return float(u if self.zero else self.m.log1p(u * self.m.expm1(self.l)) / self.l)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("logit", SIGNED)
class TestContinuousBernoulli:
    def test_moments_density_and_quantiles_are_the_closed_forms(self, logit, dtype):
        q = ContinuousBernoulli(torch.tensor(logit, dtype=dtype))
        exact = ExactContinuousBernoulli(q.logits.item())
        tolerance = TOLERANCE[dtype]
        assert q.mean.item() == pytest.approx(exact.mean(), rel=tolerance)
        assert q.variance.item() == pytest.approx(exact.variance(), rel=5 * tolerance)
        for x in (0.0, 0.001, 0.25, 0.5, 0.999, 1.0):
            x = torch.tensor(x, dtype=dtype)
            found = [q.log_prob(x), q.cdf(x), q.icdf(x)]
            right = [exact.log_prob(x.item()), exact.cdf(x.item()), exact.icdf(x.item())]
            np.testing.assert_allclose(
                [value.item() for value in found], right, rtol=tolerance, atol=tolerance
            )

    def test_the_gradient_is_x_minus_the_mean(self, logit, dtype):
        logits = torch.tensor(logit, dtype=dtype, requires_grad=True)
        for x in (0.0, 0.3, 1.0):
            (gradient,) = torch.autograd.grad(
                ContinuousBernoulli(logits).log_prob(torch.tensor(x, dtype=dtype)), logits
            )
            right = torch.tensor(x, dtype=dtype).item() - ContinuousBernoulli(logits).mean.item()
            assert gradient.item() == pytest.approx(right, abs=TOLERANCE[dtype])

    def test_draws_have_its_mean_and_variance_and_pass_gradients(self, logit, dtype):
        """100 000 draws: five standard errors of the mean fail once in two million runs; the
        variance's are below 1 %, and 5 % is asked for.
        """
        torch.manual_seed(0)
        logits = torch.full((100_000,), logit, dtype=dtype, requires_grad=True)
        q = ContinuousBernoulli(logits)
        draws = q.rsample()
        assert ((draws >= 0) & (draws <= 1)).all()
        error = (q.variance[0].item() / len(draws)) ** 0.5
        assert abs(draws.mean().item() - q.mean[0].item()) < 5 * error + 1e-7
        assert draws.var().item() == pytest.approx(q.variance[0].item(), rel=0.05)
        # d E[x] / dl = Var x, and the gradient of one draw is at most 1/4
        (gradient,) = torch.autograd.grad(draws.sum(), logits)
        assert gradient.mean().item() == pytest.approx(q.variance[0].item(), rel=0.05)


def test_a_continuous_bernoulli_can_be_recorded_and_expanded():
    def gradient(logits: Tensor, x: Tensor) -> Tensor:
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            q = ContinuousBernoulli(logits, validate_args=False).to_event(1)
            return torch.autograd.grad((q.log_prob(x) + q.mean.sum(-1)).sum(), logits)[0]

    first = (torch.linspace(-300, 300, 12).reshape(2, 6), torch.rand(2, 6))
    other = (first[0].flip(1) / 7, first[1].flip(0))
    assert torch.equal(record(gradient, first)(*other), gradient(*other))
    q = ContinuousBernoulli(torch.tensor([-40.0, 0.0]))
    wide = q.expand((3, 2))
    assert wide.sample((5,)).shape == (5, 3, 2)
    assert torch.equal(wide.log_prob(torch.ones(2))[1], q.log_prob(torch.ones(2)))
    assert q.entropy()[1].item() == pytest.approx(0.0, abs=1e-7)
    assert q.entropy()[0].item() == pytest.approx(1 - math.log(40), rel=1e-6)


class TestRememberingSigmoid:
    def test_its_inverse_is_the_very_logit_and_elsewhere_the_plain_one(self):
        u = torch.tensor([-200.0, 0.5, 15.0, 40.0, 900.0], requires_grad=True)
        sigmoid = RememberingSigmoid()
        z = sigmoid(u)
        assert sigmoid.inv(z) is u and RememberingSigmoid(cache_size=1).inv(z) is u
        assert copy.deepcopy(sigmoid).inv(z) is u
        again = sigmoid.inv(z.clone())
        assert torch.allclose(again[1:2], u[1:2]) and again[-1] < 17

    def test_nothing_is_kept_of_a_value_that_is_gone(self):
        z = RememberingSigmoid()(torch.zeros(3))
        size = len(remembered._logits)
        assert made_from(z) is not None
        del z
        assert len(remembered._logits) == size - 1


def relaxed(temperature: float, mean: float, posterior: str = "diagonal_normal") -> VAE:
    """q over logits N(mean / T, (1.8 / T)^2), p Logistic(0, 1 / T), and a decoder that ignores
    z.
    """
    config = VAEConfig(
        (4,),
        1,
        (8,),
        prior="relaxed_bernoulli",
        prior_options={"temperature": temperature},
        posterior=posterior,
    )
    vae = build(config, seed=0)
    last = [m for m in vae.guide.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        for p in vae.model.decoder.parameters():
            p.zero_()
        last.weight.zero_()
        last.bias.copy_(torch.tensor([mean / temperature, 2 * math.log(1.8 / temperature)]))
    return vae


def renyi(mean: float, order: float) -> float:
    """1/(1 - a) log E_q[(p / q)^(1 - a)] nats; for a = 1, -KL(q || p)."""
    # in v = T u they do not depend on T
    v = torch.linspace(mean - 30, mean + 30, 400_001, dtype=torch.float64)
    log_q = -0.5 * ((v - mean) / 1.8) ** 2 - math.log(1.8) - 0.5 * math.log(2 * math.pi)
    log_p = -v - 2 * nn.functional.softplus(-v)
    if order == 1:
        return torch.trapezoid(log_q.exp() * (log_p - log_q), v).item()
    power = (log_q + (1 - order) * (log_p - log_q)).exp()
    return math.log(torch.trapezoid(power, v).item()) / (1 - order)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.1])
class TestRelaxedBernoulli:
    @pytest.mark.parametrize(
        ("estimator", "draws", "order"),
        [("A", 50_000, 1), ("B", 50_000, 1), ("iwae", 50_000, 0), ("renyi:0.5", 50_000, 0.5)],
    )
    @pytest.mark.parametrize("mean", [0.0, 2.0])
    def test_bounds_do_not_depend_on_the_temperature(
        self, temperature, mean, estimator, draws, order
    ):
        """Standard errors are below 0.004 nats; 0.02 is five of them. With z itself: off by 0.1 and
        more.
        """
        found = lower_bound(relaxed(temperature, mean), torch.ones(1, 4), estimator, draws, seed=0)
        assert found.item() + 4 * math.log(2) == pytest.approx(renyi(mean, order), abs=0.02)

    @pytest.mark.parametrize(
        ("method", "options", "tolerance"),
        [
            ("importance", {}, 0.03),
            ("importance", {"prior_share": 0.3}, 0.03),
            ("annealed", {"num_temperatures": 20}, 0.001),
            ("reciprocal", {"num_temperatures": 20, "num_samples": 200}, 0.15),
            ("quadrature", {}, 0.001),
        ],
    )
    def test_log_likelihoods_do_not_either(self, temperature, method, options, tolerance):
        """log p(x) = 4 log(1/2); tolerances are three of a method's own errors and more."""
        vae = relaxed(temperature, 1.0)
        found = log_likelihood(vae, torch.ones(1, 4), method=method, seed=0, **options)
        assert found.values.item() == pytest.approx(-4 * math.log(2), abs=tolerance)

    def test_doubly_reparameterised_gradients_are_those_of_the_bound(self, temperature):
        """The guide's mean and log variance at K = 8: means of 40 gradients of 500 data each,
        within five standard errors of each other (fails once in ten thousand runs).
        """
        vae, found = relaxed(temperature, 1.5), []
        bias = [m for m in vae.guide.modules() if isinstance(m, nn.Linear)][-1].bias
        torch.manual_seed(1)
        for estimator in ("iwae", "dreg"):
            gradients = []
            with local_parameters():
                for _ in range(40):
                    terms = estimator_from(estimator, 8).terms(
                        vae.model, vae.guide, torch.ones(500, 4)
                    )
                    gradients.append(torch.autograd.grad(terms.lower_bound.mean(), bias)[0])
            found.append(torch.stack(gradients).double())
        error = sum(g.var(0) / len(g) for g in found).sqrt()
        difference = (found[0].mean(0) - found[1].mean(0)).abs()
        assert (difference < 5 * error).all()
        assert (found[0].mean(0).abs() > 10 * error).any()  # there is a gradient to compare


@pytest.mark.parametrize("posterior", ["full_normal", "mixture", "iaf"])
def test_every_guide_hands_on_the_logit(posterior):
    """Draws far beyond what z holds, at which log p is that of the logit: about -T |u| - ..., not
    that of 15.9.
    """
    config = VAEConfig(
        (4,),
        2,
        (8,),
        prior="relaxed_bernoulli",
        prior_options={"temperature": 0.1},
        posterior=posterior,
    )
    vae = build(config, seed=0)
    with local_parameters(), torch.no_grad():
        guide = poutine.trace(vae.guide).get_trace(torch.ones(7, 4))
        logit = made_from(guide.nodes["z"]["value"])
    assert logit is not None
    p = LogisticSigmoid(torch.tensor(0.1), torch.zeros(2))
    z = RememberingSigmoid()(torch.tensor([100.0, -100.0]))
    right = math.log(0.1) - 10 - 2 * math.log1p(math.exp(-10)) + 100
    assert torch.allclose(p.log_prob(z), torch.tensor(right), rtol=1e-6)
