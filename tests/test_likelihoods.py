"""Densities of x against closed forms: each one normalised, with the scale it promises.

Knows `likelihoods.py` and scipy's distributions; must not know networks, latents or guides.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ppl_vae.checks import InputError
from ppl_vae.likelihoods import LIKELIHOODS, build_likelihood


def density(name: str, outputs: list[float], x: torch.Tensor, **options: object) -> torch.Tensor:
    """exp log p(x) of one pixel, whose outputs are the same for every x (K,)."""
    head = build_likelihood(name, (1,), options).eval()
    return (
        head(torch.tensor(outputs)[:, None].expand(len(x), -1, 1))
        .log_prob(x[:, None])
        .exp()
        .detach()
    )


@pytest.mark.parametrize("logit", [-6.0, -1.0, -1e-3, 0.0, 2e-3, 0.7, 8.0])
def test_continuous_bernoulli_integrates_to_one_and_the_bernoulli_objective_does_not(logit):
    """Trap 15: only the first of the two is a density of grey pixels. Simpson's rule on 2001
    points.
    """
    x = torch.linspace(0, 1, 2001)
    weights = torch.tensor([1.0, *[4.0, 2.0] * 999, 4.0, 1.0]) / 6000
    integral = {
        name: (weights * density(name, [logit], x)).sum().item()
        for name in LIKELIHOODS
        if "bern" in name
    }
    assert integral["continuous_bernoulli"] == pytest.approx(1.0, abs=1e-4)
    assert integral["bernoulli"] < 0.75


@pytest.mark.parametrize("logit", [-3.0, 0.5, 4.0])
def test_continuous_bernoulli_is_the_closed_form(logit):
    """log C = log(2 artanh(1 - 2 p) / (1 - 2 p)); mean p / (2 p - 1) + 1 / (2 artanh(1 - 2 p))."""
    p = 1 / (1 + math.exp(-logit))
    constant = 2 * math.atanh(1 - 2 * p) / (1 - 2 * p)
    x = torch.tensor([0.0, 0.3, 1.0])
    expected = constant * p ** x.numpy() * (1 - p) ** (1 - x.numpy())
    np.testing.assert_allclose(
        density("continuous_bernoulli", [logit], x).numpy(), expected, rtol=2e-5
    )
    q = build_likelihood("continuous_bernoulli", (1,), {})(torch.tensor([[[logit]]]))
    assert q.mean.item() == pytest.approx(
        p / (2 * p - 1) + 1 / (2 * math.atanh(1 - 2 * p)), rel=1e-4
    )


def test_bernoulli_of_binary_pixels_is_a_probability():
    assert density("bernoulli", [0.4], torch.tensor([0.0, 1.0])).sum().item() == pytest.approx(1.0)
    assert density("bernoulli", [0.4], torch.tensor([1.0])).item() == pytest.approx(
        1 / (1 + math.exp(-0.4))
    )


def test_trap_15_grey_pixels_cap_the_bernoulli_objective_at_minus_their_entropy():
    """sum x log m + (1-x) log(1-m) is largest at m = x, where it is minus the entropy of the pixels
    themselves.
    """
    x = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)) * 0.98 + 0.01
    head = build_likelihood("bernoulli", (9,), {})
    best = head(torch.logit(x)[:, None]).log_prob(x)
    entropy = -(x * x.log() + (1 - x) * (1 - x).log()).sum(-1)
    torch.testing.assert_close(best, -entropy, rtol=1e-4, atol=1e-4)
    for noise in (-0.3, 0.3):
        assert (head((torch.logit(x) + noise)[:, None]).log_prob(x) < best).all()


def test_normal_unit_and_shared_are_the_normal_density_in_units_of_x():
    x = torch.tensor([-1.0, 0.2, 3.0])
    expected = stats.norm(0.5, 1.0).pdf(x.numpy())
    np.testing.assert_allclose(density("normal_unit", [0.5], x).numpy(), expected, rtol=1e-5)
    expected = stats.norm(0.5, 0.2).pdf(x.numpy())
    np.testing.assert_allclose(
        density("normal_shared", [0.5], x, initial_scale=0.2).numpy(), expected, rtol=1e-4
    )


@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if n.startswith("normal")])
def test_a_sigmoid_mean_is_the_sigmoid_of_the_output(name):
    head = build_likelihood(name, (1,), {"mean": "sigmoid"}).eval()
    q = head(torch.full((1, head.num_outputs, 1), 0.3))
    assert q.mean.item() == pytest.approx(1 / (1 + math.exp(-0.3)))


def test_the_shared_scale_is_learned():
    head = build_likelihood("normal_shared", (2,), {})
    x = torch.tensor([[1.0, 2.0]])
    head(torch.zeros(1, 1, 2)).log_prob(x).sum().backward()
    assert head.log_scale.grad.item() == pytest.approx(
        5 - 2
    )  # d/d ln s of -sum x^2 / (2 s^2) - D ln s at s = 1


class TestPixelwise:
    def test_the_variance_is_the_head_plus_the_floor_squared(self):
        x = torch.tensor([0.1, 0.6])
        for log_variance in (-40.0, -3.0, 1.0):
            scale = math.sqrt(math.exp(log_variance) + 0.05**2)
            expected = stats.norm(0.5, scale).pdf(x.numpy())
            got = density("normal_pixelwise", [0.5, log_variance], x, scale_floor=0.05)
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)

    @pytest.mark.parametrize("floor", [0.0, 1 / 256])
    @pytest.mark.parametrize("log_variance", [-10.0, 0.0, 88.0, 89.0, 150.0])
    def test_a_large_log_variance_overflows_nowhere(self, log_variance, floor):
        """log p(x) = -(x^2 e^-l + l + log 2 pi) / 2, and its derivative in l, wherever f^2 is small
        beside e^l."""
        outputs = torch.tensor([[[0.0], [log_variance]]], requires_grad=True)
        head = build_likelihood("normal_pixelwise", (1,), {"scale_floor": floor})
        got = head(outputs).log_prob(torch.full((1, 1), 0.01))
        variance = math.exp(log_variance) + floor**2
        expected = -0.5 * (1e-4 / variance + math.log(variance) + math.log(2 * math.pi))
        assert got.item() == pytest.approx(expected, rel=1e-5)
        (gradient,) = torch.autograd.grad(got.sum(), outputs)
        share = math.exp(log_variance) / variance
        assert gradient[0, 1, 0].item() == pytest.approx(
            0.5 * share * (1e-4 / variance - 1), rel=1e-4
        )

    def test_the_floor_bounds_the_density_on_repeated_pixels(self):
        """A pixel that is always 0 cannot be given more than the floor's log density, whatever the
        head says.
        """
        bound = -math.log(1 / 256) - 0.5 * math.log(2 * math.pi)
        assert density(
            "normal_pixelwise", [0.0, -1e4], torch.zeros(1)
        ).log().item() == pytest.approx(bound, rel=1e-5)

    def test_gradients_stay_finite_at_the_floor(self):
        outputs = torch.tensor([[[0.0], [-200.0]]], requires_grad=True)
        build_likelihood("normal_pixelwise", (1,), {})(outputs).log_prob(
            torch.zeros(1, 1)
        ).sum().backward()
        assert outputs.grad is not None and torch.isfinite(outputs.grad).all()


class TestOptimalScale:
    def setup_method(self):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(30, 4, generator=generator)
        self.outputs = torch.randn(30, 1, 4, generator=generator)
        self.head = build_likelihood("normal_optimal", (4,), {"momentum": 1.0})
        self.best = (self.x - self.outputs[:, 0]).square().mean().sqrt().item()

    def test_it_maximises_the_likelihood_of_the_training_batch(self):
        at_best = self.head(self.outputs, self.x).log_prob(self.x).sum().item()
        expected = stats.norm(self.outputs[:, 0].numpy(), self.best).logpdf(self.x.numpy()).sum()
        assert at_best == pytest.approx(expected, rel=1e-5)
        for factor in (0.9, 1.1):
            other = build_likelihood("normal_shared", (4,), {"initial_scale": factor * self.best})
            assert other(self.outputs).log_prob(self.x).sum().item() < at_best

    def test_evaluation_uses_the_training_value_and_never_its_own_batch(self):
        self.head(self.outputs, self.x)
        self.head.eval()
        q = self.head(self.outputs, 100 * self.x)
        assert q.base_dist.scale.unique().item() == pytest.approx(self.best, rel=1e-5)
        assert self.head.variance.sqrt().item() == pytest.approx(self.best, rel=1e-5)

    def test_the_running_variance_moves_by_the_momentum_and_is_saved(self):
        """A plain mean of the first 1 / momentum batches, whatever it began with; then a quarter of
        each new one.
        """
        head, v = build_likelihood("normal_optimal", (4,), {"momentum": 0.25}), self.best**2
        error = self.x - self.outputs[:, 0]
        for factor, expected in (
            (1, v),
            (2, 2.5 * v),
            (2, 3 * v),
            (0, 2.25 * v),
            (0, 0.75 * 2.25 * v),
        ):
            head(self.outputs, self.outputs[:, 0] + factor * error)
            assert head.variance.item() == pytest.approx(expected, rel=1e-5)
        assert {"variance", "num_batches"} <= set(head.state_dict())

    def test_decoding_while_training_without_data_leaves_the_variance(self):
        self.head(self.outputs)
        assert self.head.variance.item() == 1.0

    def test_the_gradient_is_that_of_the_profile_likelihood(self):
        """d/dm of -(M D / 2) log mean (x - m)^2 = M D (x - m) / sum (x - m)^2."""
        outputs = self.outputs.clone().requires_grad_()
        self.head(outputs, self.x).log_prob(self.x).sum().backward()
        residual = self.x - self.outputs[:, 0]
        expected = residual.numel() * residual / residual.square().sum()
        torch.testing.assert_close(outputs.grad[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(LIKELIHOODS.keys() - {"columns", "decoder"}))
@pytest.mark.parametrize("event_shape", [(5,), (3, 4), (2, 3, 4)])
def test_batch_and_event_shapes(name, event_shape):
    options = {"categories": 4} if name == "categorical" else {}
    head = build_likelihood(name, event_shape, options)
    q = head(torch.randn(7, 2, head.num_outputs, *event_shape))
    assert (q.batch_shape, q.event_shape) == ((7, 2), event_shape)
    assert q.log_prob(q.sample()).shape == (7, 2) and q.mean.shape == (7, 2, *event_shape)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bernouli", {}, "did you mean 'bernoulli'?"),
        ("bernoulli", {"mean": "sigmoid"}, "no option"),
        ("normal_unit", {"mean": "sigmiod"}, "did you mean 'sigmoid'?"),
        ("normal_shared", {"initial_scale": 0.0}, "a finite number > 0"),
        ("normal_pixelwise", {"scale_floor": -1.0}, "a finite number >= 0"),
        ("normal_optimal", {"momentum": 2.0}, "at most 1"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(name, options, message):
    with pytest.raises(InputError) as error:
        build_likelihood(name, (3,), options)
    assert message in str(error.value) and "\n" not in str(error.value)
