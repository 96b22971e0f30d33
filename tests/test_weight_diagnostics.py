"""Diagnostics of q(theta) on weights whose posterior is known.

Knows the diagnostics room and Bayesian weights; must not know how they are trained.
"""

import math

import pytest
import torch

from ppl_vae import (
    VAE,
    InputError,
    VAEConfig,
    build,
    log_likelihood,
    lower_bound,
    to_inference_data,
)
from ppl_vae.diagnostics import functional_spread, lower_bound_when_pruned, weight_signal_to_noise

SCALE = 0.3


def linear(**config: object) -> VAE:
    """x = W z + b + e, e ~ N(0, I), q(W) = N(m, 0.3^2) entry by entry, m (4, 2) as built;
    weights=None fixes W at m.
    """
    options = {
        "weights": "mean_field",
        "weights_options": {"initial_scale": SCALE * math.sqrt(2)},
    } | config
    return build(
        VAEConfig(
            event_shape=(4,), latent_size=2, hidden_sizes=(), likelihood="normal_unit", **options
        ),
        seed=0,
    )


@pytest.fixture
def vae() -> VAE:
    return linear()


@pytest.fixture
def means(vae: VAE) -> torch.Tensor:
    """m, (4, 2)."""
    (mean,) = vae.guide.mean_weights().values()
    return mean.detach()


def some(num_data: int) -> torch.Tensor:
    return torch.randn(num_data, 4, generator=torch.Generator().manual_seed(0))


class TestLikelihood:
    @pytest.mark.parametrize("estimator", ["local", "naive", "flipout"])
    def test_integrates_the_weights_out(self, means: torch.Tensor, estimator: str) -> None:
        """Given z, x ~ N(m z + b, (1 + 0.09 |z|^2) I): z by quadrature. Mean z-score of 10 data
        within 4 / sqrt(10).
        """
        options = {"initial_scale": SCALE * math.sqrt(2), "estimator": estimator}
        vae, x = linear(weights_options=options), some(10)
        with torch.no_grad():
            vae.guide.posterior.heads.weight.zero_()
            vae.guide.posterior.heads.bias[2:] = (
                0.7  # q wider than the prior, so that weights are bounded
            )
        axis = torch.linspace(-7, 7, 201, dtype=torch.float64)
        z = torch.cartesian_prod(axis, axis)
        bias = vae.model.decoder.network[0].bias.detach()
        scale = (1 + SCALE**2 * z.square().sum(1)).sqrt()
        given_z = torch.distributions.Normal(z @ means.double().T + bias, scale[:, None]).log_prob(
            x[:, None].double()
        )
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        exact = (given_z.sum(2) + prior).logsumexp(1) + 2 * (axis[1] - axis[0]).log()
        found = log_likelihood(vae, x, 4000, seed=0)
        assert abs(((found.values - exact) / found.monte_carlo_error).mean()) < 4 / math.sqrt(10)
        assert found.monte_carlo_error.max() < 0.2


@pytest.mark.arviz
class TestInferenceData:
    def test_posterior_holds_theta_and_says_what_was_drawn(
        self, vae: VAE, means: torch.Tensor
    ) -> None:
        """Moments of 4000 draws of 8 weights within 5 standard errors."""
        data = to_inference_data(vae, some(2), 4000)
        (name,) = vae.guide.mean_weights()
        assert data.posterior[name].dims == ("chain", "draw", f"{name}_dim_0", f"{name}_dim_1")
        drawn = torch.tensor(data.posterior[name].values[0])
        assert (drawn.mean(0) - means).abs().max() < 5 * SCALE / math.sqrt(4000)
        assert torch.allclose(drawn.std(0), torch.tensor(SCALE), rtol=0.06)
        assert data.posterior["z"].dims == ("chain", "draw", "datum", "latent")

    def test_leaves_theta_out_where_it_would_not_fit(
        self, vae: VAE, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ppl_vae.diagnostics.draws.MOST_PREDICTED", 79)
        assert list(to_inference_data(vae, some(2), 10).posterior.data_vars) == ["z"]
        assert len(to_inference_data(vae, some(2), 9).posterior.data_vars) == 2


class TestSignalToNoise:
    def test_is_the_mean_over_the_standard_deviation(self, vae: VAE, means: torch.Tensor) -> None:
        (found,) = weight_signal_to_noise(vae).values()
        assert torch.allclose(found, means.abs() / SCALE)

    @pytest.mark.parametrize("family", ["matrix_normal", "low_rank"])
    def test_is_there_for_every_family(self, family: str) -> None:
        (found,) = weight_signal_to_noise(linear(weights=family, weights_options={})).values()
        assert found.shape == (4, 2) and (found >= 0).all() and found.isfinite().all()

    def test_refuses_weights_that_are_points(self) -> None:
        with pytest.raises(InputError, match="points"):
            weight_signal_to_noise(linear(weights=None, weights_options={}))


class TestPruning:
    def test_nothing_pruned_is_the_model_at_its_mean_weights(
        self, vae: VAE, means: torch.Tensor
    ) -> None:
        point, x = linear(weights=None, weights_options={}), some(30)
        with torch.no_grad():
            point.model.decoder.network[0].weight.copy_(means)
            heads = vae.guide.posterior.heads.state_dict()
        point.guide.posterior.heads.load_state_dict(heads)
        found = lower_bound_when_pruned(vae, x, (0.0,), 50, seed=0)[0.0]
        assert found == pytest.approx(
            lower_bound(point, x, "A", 50, seed=0).mean().item(), rel=1e-5
        )

    def test_the_least_certain_weights_go_first(self, vae: VAE, means: torch.Tensor) -> None:
        """All but the largest of 8 weights pruned equals the model with that weight alone."""
        point, x = linear(weights=None, weights_options={}), some(30)
        largest = means.abs() == means.abs().max()
        with torch.no_grad():
            point.model.decoder.network[0].weight.copy_(means * largest)
        point.guide.posterior.heads.load_state_dict(vae.guide.posterior.heads.state_dict())
        found = lower_bound_when_pruned(vae, x, (0.98,), 50, seed=0)[0.98]
        assert found == pytest.approx(
            lower_bound(point, x, "A", 50, seed=0).mean().item(), rel=1e-5
        )


def test_functional_spread_is_that_of_the_linear_map(vae: VAE) -> None:
    """sd of (W z)_d over theta is 0.3 |z|: 400 draws of 4 outputs, within 15 %, five standard
    errors.
    """
    x = some(5)
    expected = SCALE * vae.encode(x).norm(dim=1)
    assert torch.allclose(functional_spread(vae, x, 400, seed=0), expected, rtol=0.15)


def test_functional_spread_does_not_depend_on_where_the_function_lies(vae: VAE) -> None:
    """Outputs around 1000 spread as those around 0 do: no digits are lost to the mean."""
    x = some(5)
    with torch.no_grad():
        near = functional_spread(vae, x, 20, seed=0)
        vae.model.decoder.network[0].bias += 1000.0
    assert torch.allclose(functional_spread(vae, x, 20, seed=0), near, rtol=1e-3)
