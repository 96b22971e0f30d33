"""Local reparameterisation and flipout against the analytic moments of W h, and against each other.

Knows the rooms handlers and weights. Statistical tests fix their seed; a moment of 20,000 draws is
compared with its exact value at five standard errors (failure rate below 1e-6 an entry, below 1e-3
a test).
"""

import gc
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.nn import functional as F

from ppl_vae import InputError, VAEConfig, build
from ppl_vae.elbo import estimator_from
from ppl_vae.handlers import Flipout, LocalReparameterization, WeightLayers
from ppl_vae.weights import LowRankNormal, MatrixNormal

DRAWS = 20_000
HANDLERS: dict[str, Callable[[], Any]] = {
    "local": LocalReparameterization,
    "local, undrawn": lambda: LocalReparameterization(keep_draw=False),
    "flipout": Flipout,
    "flipout, undrawn": lambda: Flipout(keep_draw=False),
    "naive": WeightLayers,
}


def families() -> dict[str, tuple[Any, Tensor]]:
    """Distributions of a 3 x 2 weight and the covariance of its six entries."""
    loc, scale = torch.arange(6.0).reshape(3, 2) / 4, torch.linspace(0.2, 1.0, 6).reshape(3, 2)
    rows, factor = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([[1.0, 0.0], [0.8, 0.5]])
    factors = torch.linspace(-1, 1, 12).reshape(2, 3, 2)
    flat = factors.flatten(1)
    return {
        "normal": (dist.Normal(loc, scale).to_event(2), scale.flatten().square().diag()),
        "matrix_normal": (
            MatrixNormal(loc, rows, factor),
            torch.kron(rows.square().diag(), factor @ factor.T),
        ),
        "low_rank": (
            LowRankNormal(loc, scale, factors),
            scale.flatten().square().diag() + flat.T @ flat,
        ),
    }


def sampled(
    q: Any, handler: Any, network: Callable[[Tensor], Tensor], draws: int = DRAWS
) -> Tensor:
    """Outputs of `network(weight)` for as many draws of the weight, under a plate outside the
    data's.
    """
    torch.manual_seed(0)
    with handler, pyro.plate("particles", draws, dim=-2):
        return network(pyro.sample("w", q))


def assert_moments(values: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """values (S, E): mean and covariance as stated, within five standard errors."""
    variance = covariance.diagonal()
    assert ((values.mean(0) - mean).abs() <= 5 * (variance / len(values)).sqrt() + 1e-5).all()
    error = ((variance.outer(variance) + covariance.square()) / len(values)).sqrt()
    assert ((values.T.cov() - covariance).abs() <= 5 * error + 1e-5).all()


def linear_map(function: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
    """The matrix of a linear function of a weight, (outputs, entries)."""
    basis = torch.eye(shape.numel()).reshape(-1, *shape)
    return torch.stack([function(w).flatten() for w in basis], -1)


H = torch.tensor([[1.0, -0.5], [0.3, 2.0]])
OTHER = torch.tensor([[0.5, 1.0], [-1.0, 0.7]])


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("handler", HANDLERS)
class TestDenseMoments:
    def test_one_use(self, handler: str, family: str) -> None:
        q, covariance = families()[family]
        y = sampled(q, HANDLERS[handler](), lambda w: F.linear(H, w, torch.ones(3)))
        assert y.shape == (DRAWS, 2, 3)
        for row, h in enumerate(H):
            a = linear_map(lambda w, h=h: F.linear(h, w), q.event_shape)
            assert_moments(y[:, row], F.linear(h, q.mean) + 1, a @ covariance @ a.T)

    def test_two_uses_meet_the_same_weight(self, handler: str, family: str) -> None:
        q, covariance = families()[family]
        y = sampled(
            q, HANDLERS[handler](), lambda w: torch.cat([F.linear(H, w), F.linear(OTHER, w)], -1)
        )
        for row, pair in enumerate(zip(H, OTHER, strict=True)):
            a = linear_map(
                lambda w, pair=pair: torch.cat([F.linear(h, w) for h in pair]), q.event_shape
            )
            assert_moments(
                y[:, row], torch.cat([F.linear(h, q.mean) for h in pair]), a @ covariance @ a.T
            )

    def test_data_are_independent_but_for_the_naive_estimator(
        self, handler: str, family: str
    ) -> None:
        q, covariance = families()[family]
        y = sampled(q, HANDLERS[handler](), lambda w: F.linear(H, w)).flatten(1)
        a = linear_map(lambda w: F.linear(H, w), q.event_shape)
        exact = a @ covariance @ a.T
        if handler != "naive":
            exact[:3, 3:] = exact[3:, :3] = 0
        assert_moments(y, F.linear(H, q.mean).flatten(), exact)

    def test_keyword_arguments_and_one_draw_without_a_plate(
        self, handler: str, family: str
    ) -> None:
        q, covariance = families()[family]
        torch.manual_seed(0)
        rows = H[:1].expand(5000, 2)
        with HANDLERS[handler]():
            y = (
                torch.cat(
                    [
                        F.linear(bias=None, weight=pyro.sample("w", q), input=rows[:1])
                        for _ in range(2000)
                    ]
                )
                if handler == "naive"
                else F.linear(bias=None, weight=pyro.sample("w", q), input=rows)
            )
        if (
            "flipout" not in handler
        ):  # flipout's rows share one draw, so they show its moments over draws only
            a = linear_map(lambda w: F.linear(H[0], w), q.event_shape)
            assert_moments(y, F.linear(H[0], q.mean), a @ covariance @ a.T)


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_have_the_moments_of_one_kernel_an_image(
    handler: str, transposed: bool
) -> None:
    torch.manual_seed(1)
    function: Any = F.conv_transpose2d if transposed else F.conv2d
    shape = (1, 2, 2, 2) if transposed else (2, 1, 2, 2)
    q = dist.Normal(torch.randn(shape), torch.rand(shape) + 0.2).to_event(4)
    images, draws = torch.randn(2, 1, 3, 3), 5000
    repeated = images.repeat(draws, 1, 1, 1)
    y = sampled(q, HANDLERS[handler](), lambda w: function(repeated, w, torch.ones(2), 2), draws)
    y = y.unflatten(0, (draws, 2)).flatten(2)
    for i, image in enumerate(images):
        a = linear_map(lambda w, image=image: function(image, w, stride=2), q.event_shape)
        covariance = a @ q.variance.flatten().diag() @ a.T
        assert_moments(y[:, i], (a @ q.mean.flatten()) + 1, covariance)


@pytest.mark.parametrize("handler", ["local", "flipout"])
@pytest.mark.parametrize("family", ["matrix_normal", "low_rank"])
def test_correlated_kernels(family: str, handler: str) -> None:
    q, covariance = families()[family]
    shape = (3, 2, 1, 1)
    q.loc = q.loc.reshape(shape)
    if family == "low_rank":
        q.scale, q.factors = q.scale.reshape(shape), q.factors.reshape(2, *shape)
    q = q.expand(())
    q._event_shape = torch.Size(shape)
    y = sampled(
        q, HANDLERS[handler](), lambda w: F.conv2d(H[:1, :, None, None].repeat(DRAWS, 1, 1, 1), w)
    )
    a = linear_map(lambda w: F.linear(H[0], w), torch.Size((3, 2)))
    assert_moments(y.flatten(1), a @ q.loc.flatten(), a @ covariance @ a.T)


@pytest.mark.parametrize("handler", ["local", "flipout"])
class TestIdentity:
    q = dist.Normal(torch.zeros(3, 2), 1.0).to_event(2)

    def test_a_weight_that_was_not_sampled_is_left_alone(self, handler: str) -> None:
        with HANDLERS[handler]():
            kept = []
            for i in range(50):  # tensors are freed and their addresses used again
                pyro.sample("w", self.q)
                if i % 20 == 0:
                    gc.collect()
                weight = torch.ones(3, 2)
                kept.append(F.linear(H, weight))
        assert all(torch.equal(y, F.linear(H, torch.ones(3, 2))) for y in kept)

    def test_outside_the_handler_the_draw_is_a_plain_weight(self, handler: str) -> None:
        with HANDLERS[handler]():
            w = pyro.sample("w", self.q)
            assert not torch.equal(F.linear(H, w), H @ w.T)
        with WeightLayers():
            assert torch.equal(F.linear(H, w), H @ w.T)
        assert torch.equal(F.linear(H, w), H @ w.T)

    def test_sites_of_data_and_observed_sites_are_left_alone(self, handler: str) -> None:
        with HANDLERS[handler]():
            with pyro.plate("data", 3):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3, 2]).to_event(1))
            w = pyro.sample("w", self.q, obs=torch.ones(3, 2))
        assert not hasattr(z, "noise") and not hasattr(w, "noise")

    def test_a_second_use_on_other_rows_is_refused(self, handler: str) -> None:
        with HANDLERS[handler](), pytest.raises(InputError, match="used twice"):
            w = pyro.sample("w", self.q)
            F.linear(H, w)
            F.linear(H[:1], w)

    def test_an_undrawn_weight_used_elsewhere_shows(self, handler: str) -> None:
        with HANDLERS[f"{handler}, undrawn"]():
            assert (H @ pyro.sample("w", self.q).T).isnan().all()

    def test_the_network_is_as_it_was_after_an_error(self, handler: str) -> None:
        with pytest.raises(ZeroDivisionError), HANDLERS[handler]():
            pyro.sample("w", self.q)
            raise ZeroDivisionError
        assert torch.overrides._get_current_function_mode() is None


def test_zero_inputs_give_finite_gradients() -> None:
    location, scale = torch.zeros(3, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    with LocalReparameterization():
        w = pyro.sample("w", dist.Normal(location, scale).to_event(2))
        y = F.linear(torch.zeros(4, 2), w) + F.linear(torch.zeros(4, 2), w)
    y.sum().backward()
    assert location.grad is not None and scale.grad is not None
    assert torch.equal(scale.grad, torch.zeros(3, 2)) and location.grad.isfinite().all()


def vae(estimator: str = "naive") -> Any:
    config = VAEConfig(
        (12,),
        3,
        (10,),
        weights="mean_field",
        weights_options={"prior": "normal", "estimator": estimator, "initial_scale": 1.0},
    )
    return build(config, seed=0)


def gradient_variance(estimator: str, x: Tensor) -> Tensor:
    """The summed variance of the gradient for (means, scales) of the output layer's weight over 200
    estimates.
    """
    model, seen = vae(estimator), []
    wanted = [model.guide.weights.factors[1].location, model.guide.weights.factors[1].log_scale]
    torch.manual_seed(0)
    for _ in range(200):
        loss = estimator_from("B").terms(model.model, model.guide, x).mean_loss(10**15)
        seen.append([g.flatten() for g in torch.autograd.grad(loss, wanted)])
    return torch.stack([torch.stack(column).var(0).sum() for column in zip(*seen, strict=True)])


def test_gradient_variance_falls_from_naive_to_flipout_to_local() -> None:
    """Ratios are above 1.2 at this seed; 200 estimates give each variance to about 10 %."""
    x = torch.rand(50, 12, generator=torch.Generator().manual_seed(0)).round()
    naive, flipout, local = (gradient_variance(e, x) for e in ("naive", "flipout", "local"))
    assert (naive > 1.2 * flipout).all()
    assert flipout[1] > 1.2 * local[1] and flipout[0] > 0.9 * local[0]


@pytest.mark.parametrize("estimator", ["local", "flipout", "naive"])
def test_all_estimators_have_one_mean(estimator: str) -> None:
    """The mean bound of 40 x 100 draws against 500 of the stock estimator's, five standard
    errors.
    """
    x = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)).round()
    model = vae(estimator)
    torch.manual_seed(0)
    with torch.no_grad():
        ours = torch.stack(
            [
                estimator_from("B", 100).terms(model.model, model.guide, x).log_likelihood.sum()
                for _ in range(40)
            ]
        )
        terms = estimator_from("B").terms(model.model, model.guide, x)
        kl = sum(kl.value.sum() for kl in (terms.kl | terms.weight_kl).values())
        stock = -torch.tensor(
            [TraceMeanField_ELBO().loss(model.model, model.guide, x) for _ in range(500)]
        )
    error = (ours.var() / len(ours) + stock.var() / len(stock)).sqrt()
    assert abs(ours.mean() - kl - stock.mean()) < 5 * error


def test_handlers_compose_with_the_stock_estimator() -> None:
    model, x = vae("naive"), torch.rand(3, 12).round()
    for handler in (LocalReparameterization, Flipout):
        torch.manual_seed(0)
        with torch.no_grad(), handler():
            with_noise = TraceMeanField_ELBO().loss(model.model, model.guide, x)
            torch.manual_seed(0)
            terms = estimator_from("B").terms(model.model, model.guide, x)
        exact = terms.lower_bound.sum() - sum(kl.value for kl in terms.weight_kl.values())
        assert with_noise == pytest.approx(-exact.item(), rel=1e-5)
