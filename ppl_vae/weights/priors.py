"""Priors p(theta) over the weights of a network: one short class each, for one weight tensor at a
time.

Knows a weight's shape, fan-in and input units; knows nothing of q(theta), of data or of the network
around it. Each is a module whose `forward()` gives the tensor's distribution, W with event shape
`weight.value.shape`; it may sample hyper-sites of its own first, under names that begin with the
weight's.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.weights.distributions import CenteredNormal
from ppl_vae.weights.selection import Weight

__all__ = ["SPEED", "WEIGHT_PRIORS", "WeightPrior", "positive_parameter"]

# a log-scale is SPEED times its parameter: scales travel much further in log than weights do at one
# learning rate
SPEED = 3.0


def positive_parameter(initial: Tensor) -> tuple[nn.Parameter, Tensor]:
    """(r, initial): a free parameter r, at 0, for a positive tensor `initial * exp(SPEED * r)`.

    Args:
        initial: the tensor's initial value.
    """
    return nn.Parameter(torch.zeros_like(initial)), initial


def _normal(scale: Tensor, shape: torch.Size) -> dist.TorchDistribution:
    return CenteredNormal(scale, shape).to_event(len(shape))


class NormalPrior(nn.Module):
    """W_ij ~ N(0, scale^2).

    Args:
        weight: the weight W.
        scale: standard deviation, above 0.
    """

    def __init__(self, weight: Weight, scale: float = 1.0) -> None:
        super().__init__()
        value = checks.number("weights_options.scale", scale, 0.0, exclusive=True)
        self.shape = weight.value.shape
        self.register_buffer("scale", weight.value.new_tensor(value), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return _normal(self.scale, self.shape)  # type: ignore[arg-type]


class FanInPrior(NormalPrior):
    """W_ij ~ N(0, scale^2 / fan-in).

    A unit's input has variance scale^2 times its inputs' mean square.

    Args:
        weight: the weight W.
        scale: standard deviation times sqrt(fan-in), above 0.
    """

    def __init__(self, weight: Weight, scale: float = 1.0) -> None:
        checks.number("weights_options.scale", scale, 0.0, exclusive=True)
        super().__init__(weight, scale / math.sqrt(weight.fan_in))


class LayerScalePrior(nn.Module):
    """W_ij ~ N(0, t^2), t = exp(SPEED r) / sqrt(fan-in) learned, one a tensor.

    It is learned by type-II maximum likelihood.

    Args:
        weight: the weight W.
    """

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.shape = weight.value.shape
        initial = weight.value.new_full(self._scale_shape(weight), 1 / math.sqrt(weight.fan_in))
        self.log_scale, initial = positive_parameter(initial)
        self.register_buffer("initial", initial, persistent=False)

    def _scale_shape(self, weight: Weight) -> tuple[int, ...]:
        return ()

    def forward(self) -> dist.TorchDistribution:
        return _normal(self.initial * (SPEED * self.log_scale).exp(), self.shape)  # type: ignore[operator]


class UnitScalePrior(LayerScalePrior):
    """W_ij ~ N(0, t_j^2), one learned t_j for each input unit j.

    That is automatic relevance determination.

    Args:
        weight: the weight W.

    Source: Bayesian Learning for Neural Networks (1996), section 1.2; t_j by type-II maximum
        likelihood.
    """

    def _scale_shape(self, weight: Weight) -> tuple[int, ...]:
        return _unit_shape(weight)


def _unit_shape(weight: Weight) -> tuple[int, ...]:
    """Broadcastable to the weight's shape, with one entry for each input unit (one in all for a
    bias).
    """
    return tuple(n if dim == weight.input_dim else 1 for dim, n in enumerate(weight.value.shape))


class ScaleMixturePrior(nn.Module):
    """W_ij ~ probability N(0, scale^2) + (1 - probability) N(0, narrow_scale^2); no closed-form KL.

    Args:
        weight: the weight W.
        scale: standard deviation of the first part, above 0.
        narrow_scale: standard deviation of the second part, above 0.
        probability: of the first part, between 0 and 1.

    Source: Weight Uncertainty in Neural Networks (2015), section 3.3.
    """

    def __init__(
        self,
        weight: Weight,
        scale: float = 1.0,
        narrow_scale: float = 0.01,
        probability: float = 0.5,
    ):
        super().__init__()
        for name, value in (
            ("scale", scale),
            ("narrow_scale", narrow_scale),
            ("probability", probability),
        ):
            checks.number(f"weights_options.{name}", value, 0.0, exclusive=True)
        if probability >= 1:
            checks.refuse("weights_options.probability", probability, "a number between 0 and 1")
        self.shape = weight.value.shape
        self.register_buffer(
            "scales", weight.value.new_tensor([scale, narrow_scale]), persistent=False
        )
        self.register_buffer(
            "probs", weight.value.new_tensor([probability, 1 - probability]), persistent=False
        )

    def forward(self) -> dist.TorchDistribution:
        components = dist.Normal(torch.zeros_like(self.scales), self.scales, validate_args=False)  # type: ignore[arg-type]
        index = dist.Categorical(self.probs, validate_args=False)  # type: ignore[arg-type]
        mixture = dist.MixtureSameFamily(index, components, validate_args=False)
        return mixture.expand(self.shape).to_event(len(self.shape))


class HalfCauchyPrior(nn.Module):
    """W_ij ~ N(0, t^2 u_j^2), t ~ C+(0, scale / sqrt(fan-in)), u_j ~ C+(0, 1).

    There is one t a tensor and one u_j an input unit. The sites are "<name>.layer_scale" (t) and
    "<name>.unit_scale" (u, shape broadcastable to W's).

    Args:
        weight: the weight W.
        scale: scale of t times sqrt(fan-in), above 0.

    Source: Bayesian Compression for Deep Learning (2017), section 4.1.
    """

    def __init__(self, weight: Weight, scale: float = 1.0) -> None:
        super().__init__()
        checks.number("weights_options.scale", scale, 0.0, exclusive=True)
        self.name, self.shape = weight.name, weight.value.shape
        self.register_buffer(
            "scale", weight.value.new_tensor(scale / math.sqrt(weight.fan_in)), persistent=False
        )
        self.register_buffer("one", weight.value.new_ones(_unit_shape(weight)), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        layer = pyro.sample(
            f"{self.name}.layer_scale", dist.HalfCauchy(self.scale, validate_args=False)
        )
        per_unit = dist.HalfCauchy(self.one, validate_args=False).to_event(len(self.shape))
        unit = pyro.sample(f"{self.name}.unit_scale", per_unit)
        scale = layer.reshape(*layer.shape, *(1,) * len(self.shape)) * unit
        batch = scale.shape[: scale.dim() - len(self.shape)]
        return CenteredNormal(scale, batch + self.shape).to_event(len(self.shape))


# name -> (class, its options)
WEIGHT_PRIORS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "normal": (NormalPrior, ("scale",)),
    "fan_in": (FanInPrior, ("scale",)),
    "layer_scale": (LayerScalePrior, ()),
    "unit_scale": (UnitScalePrior, ()),
    "scale_mixture": (ScaleMixturePrior, ("scale", "narrow_scale", "probability")),
    "half_cauchy": (HalfCauchyPrior, ("scale",)),
}


class WeightPrior(nn.Module):
    """p(theta) = prod over weights of p(W), a Pyro program that runs before any plate of data.

    `forward()` samples one site for each weight, under its name, and returns {name: W}.

    Args:
        weights: the weights.
        prior: the name of p(W), one of `WEIGHT_PRIORS`.
        **options: the prior's.

    Raises:
        InputError: for an unknown prior or option.
    """

    def __init__(self, weights: list[Weight], prior: str = "unit_scale", **options: float) -> None:
        super().__init__()
        kind, known = WEIGHT_PRIORS[checks.choice("weights_options.prior", prior, WEIGHT_PRIORS)]
        checks.options(f"option of weight prior '{prior}'", options, known)
        self.weights = tuple(weights)
        self.priors = nn.ModuleList(kind(weight, **options) for weight in weights)

    def forward(self) -> dict[str, Tensor]:
        """Sample theta."""
        pairs = zip(self.weights, self.priors, strict=True)
        return {weight.name: pyro.sample(weight.name, prior()) for weight, prior in pairs}
