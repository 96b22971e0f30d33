"""q(theta): families of distributions over each weight tensor, and the guide that samples theta
from them.

Knows weights and the sites of their prior; knows nothing of networks or data. Every factor is
sampled at the weight's own site, never as an auxiliary variable plus a Delta, so that KL(theta) has
its closed form.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.handlers import Flipout, LocalReparameterization, WeightLayers
from ppl_vae.weights.distributions import LogScaleNormal, LowRankNormal, MatrixNormal
from ppl_vae.weights.priors import SPEED, WeightPrior
from ppl_vae.weights.selection import Weight

__all__ = ["FAMILIES", "WeightGuide"]


class MeanField(nn.Module):
    """q(W) = prod_e N(W_e; m_e, s_e^2), s_e = (initial_scale / sqrt(fan-in)) exp(SPEED r_e).

    Args:
        weight: the weight; m starts at its value.
        initial_scale: s at first, times sqrt(fan-in).
    """

    def __init__(self, weight: Weight, initial_scale: float) -> None:
        super().__init__()
        self.location = nn.Parameter(weight.value.clone())
        self.log_scale = nn.Parameter(torch.zeros_like(weight.value))
        self.initial_scale = initial_scale / math.sqrt(weight.fan_in)
        self.register_buffer(
            "log_initial_scale", weight.value.new_tensor(math.log(self.initial_scale)), False
        )

    def own_log_scale(self) -> Tensor:
        """log s, the shape of W."""
        return torch.add(self.log_initial_scale, self.log_scale, alpha=SPEED)  # type: ignore[arg-type]

    def forward(self) -> dist.TorchDistribution:
        return LogScaleNormal(self.location, self.own_log_scale()).to_event(self.location.dim())


class MatrixNormalFactor(nn.Module):
    """q(W) = MatrixNormal(m, row scales s, column factor L).

    At first L = I and s = initial_scale / sqrt(fan-in). A bias is given a factorised Normal:
    `WeightGuide` sees to it.

    Args:
        weight: the weight; m starts at its value.
        initial_scale: s at first, times sqrt(fan-in).
    """

    def __init__(self, weight: Weight, initial_scale: float) -> None:
        super().__init__()
        rows, columns = len(weight.value), weight.value[0].numel()
        self.location = nn.Parameter(weight.value.clone())
        self.log_row_scale = nn.Parameter(weight.value.new_zeros(rows))
        self.log_diagonal = nn.Parameter(weight.value.new_zeros(columns))
        self.below_diagonal = nn.Parameter(weight.value.new_zeros(columns, columns))
        self.initial_scale = initial_scale / math.sqrt(weight.fan_in)

    def forward(self) -> dist.TorchDistribution:
        row_scale = self.initial_scale * (SPEED * self.log_row_scale).exp()
        factor = self.below_diagonal.tril(-1) + (SPEED * self.log_diagonal).exp().diag()
        return MatrixNormal(self.location, row_scale, factor)


class LowRank(MeanField):
    """q(W) = N(m, diag(s^2) + U U'), U at first a tenth of s in size.

    Args:
        weight: the weight; m starts at its value.
        initial_scale: s at first, times sqrt(fan-in).
        rank: number of columns of U.
    """

    def __init__(self, weight: Weight, initial_scale: float, rank: int = 4) -> None:
        super().__init__(weight, initial_scale)
        shape = (checks.integer("weights_options.rank", rank), *weight.value.shape)
        self.factors = nn.Parameter(
            0.1 / math.sqrt(rank) * self.initial_scale * torch.randn(shape).to(weight.value)
        )

    def forward(self) -> dist.TorchDistribution:
        return LowRankNormal(self.location, self.own_log_scale().exp(), self.factors)


class LogNormalFactor(nn.Module):
    """q(t) = prod_e LogNormal(t_e; m_e, s_e^2) for a positive hyper-site, s = 0.1 at first.

    Args:
        prior: the distribution of t, whose median is exp(m) at first.
    """

    def __init__(self, prior: Any) -> None:
        super().__init__()
        median = (
            prior.icdf(torch.tensor(0.5))
            if not prior.event_shape
            else prior.base_dist.icdf(torch.tensor(0.5))
        )
        self.event_dim = len(prior.event_shape)
        self.location = nn.Parameter(median.log())
        self.log_scale = nn.Parameter(torch.zeros_like(median))

    def forward(self) -> dist.TorchDistribution:
        scale = 0.1 * (SPEED * self.log_scale).exp()
        return dist.LogNormal(self.location, scale, validate_args=False).to_event(self.event_dim)


# name of q(theta) -> (class of one weight's factor, its options)
FAMILIES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "mean_field": (MeanField, ()),
    "matrix_normal": (MatrixNormalFactor, ()),
    "low_rank": (LowRank, ("rank",)),
}


# how the noise of weights reaches a layer's outputs -> the handler that does it, given that nobody
# else needs a draw
ESTIMATORS: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "local": lambda: LocalReparameterization(keep_draw=False),
    "flipout": lambda: Flipout(keep_draw=False),
    "naive": WeightLayers,
}


class WeightGuide(nn.Module):
    """q(theta) = prod over the sites of p(theta), in their order, of one factor each.

    It is a Pyro program: `forward()` samples the sites, outside any plate of data, and returns
    {name: W} of the weights.

    Args:
        prior: p(theta).
        family: the name of q(theta), one of `FAMILIES`.
        initial_scale: standard deviation of a weight at first, times sqrt(fan-in).
        estimator: how the noise of weights reaches a layer's outputs, one of `ESTIMATORS`: "local",
            "flipout" or "naive".
        **options: the family's.

    Raises:
        InputError: for an unknown name or option, and for an `initial_scale` that is not above 0.
    """

    def __init__(
        self,
        prior: WeightPrior,
        family: str = "mean_field",
        initial_scale: float = 0.3,
        estimator: str = "local",
        **options: int,
    ) -> None:
        super().__init__()
        self.estimator = checks.choice("weights_options.estimator", estimator, ESTIMATORS)
        kind, known = FAMILIES[checks.choice("weights", family, FAMILIES)]
        checks.options(f"option of weights '{family}'", options, known)
        checks.number("weights_options.initial_scale", initial_scale, 0.0, exclusive=True)
        weights = {weight.name: weight for weight in prior.weights}
        self.event_dims = {name: weight.value.dim() for name, weight in weights.items()}
        sites = _sites(prior)
        self.names, self.weight_names = tuple(sites), tuple(weights)
        self.factors = nn.ModuleList(
            _factor(kind, weights[name], initial_scale, options)
            if name in weights
            else LogNormalFactor(fn)
            for name, fn in sites.items()
        )

    def distributions(self) -> dict[str, dist.TorchDistribution]:
        """q of every site, by name."""
        return {name: factor() for name, factor in zip(self.names, self.factors, strict=True)}

    def forward(self) -> dict[str, Tensor]:
        """Sample theta."""
        drawn = {name: pyro.sample(name, q) for name, q in self.distributions().items()}
        return {name: drawn[name] for name in self.weight_names}

    def noise_handler(self) -> contextlib.AbstractContextManager:
        """The handler to enter around the traces of guide and model, by the guide's estimator."""
        return ESTIMATORS[self.estimator]()

    def repeated(self, x: Tensor, theta: Mapping[str, Tensor], prefix: str) -> Tensor:
        """x once for each theta drawn under plates outside the data's.

        Args:
            x: data (M, *event_shape).
            theta: drawn weights, by their names without the prefix.
            prefix: what the names of their sites begin with.

        Returns:
            (*plates, M, *event_shape).
        """
        for name, value in theta.items():
            batch = value.shape[: value.dim() - self.event_dims[prefix + name]]
            return x.expand(*batch[:-1], *x.shape)
        return x

    def mean(self) -> dict[str, Tensor]:
        """E_q[W] of every weight, by name."""
        return {
            name: q.mean for name, q in self.distributions().items() if name in self.weight_names
        }


def _factor(
    kind: type[nn.Module], weight: Weight, initial_scale: float, options: dict[str, int]
) -> nn.Module:
    return (
        MeanField(weight, initial_scale)
        if weight.input_dim is None
        else kind(weight, initial_scale, **options)
    )


def _sites(prior: WeightPrior) -> dict[str, Any]:
    with (
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        pyro.settings.context(module_local_params=True),
    ):
        trace = poutine.trace(prior).get_trace()
    return {name: trace.nodes[name]["fn"] for name in trace.stochastic_nodes}
