"""Grey levels of eight bits under a logistic density: a probability for each of 256 levels."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid
from torch.types import _size

__all__ = ["DiscretizedLogistic", "GreyLevels"]

LEVELS = 256
HALF = 0.5 / (LEVELS - 1)  # half the distance of two levels
TOLERANCE = 1e-3  # in levels: what dividing by 255 in any precision leaves far behind


class GreyLevels(constraints.Constraint):
    """The multiples of 1/255 in [0, 1], in which bytes from 0 to 255 are kept as floats."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Which values are levels.

        Args:
            value: numbers (*).

        Returns:
            (*) booleans.
        """
        levels = value * (LEVELS - 1)
        whole = (levels - levels.round()).abs() < TOLERANCE
        return whole & (value >= 0.0) & (value <= 1.0)

    def __repr__(self) -> str:
        return "the 256 grey levels 0, 1/255, .. 1"


class DiscretizedLogistic(dist.TorchDistribution):
    """P(x = v) = sigma((v + h - m) / s) - sigma((v - h - m) / s), v a multiple of 1/255, h = 1/510.

    The levels 0 and 1 take the tails below and above, so that the 256 probabilities add up to 1.
    Computed as log sigma(a) + log sigma(-b) + log(1 - exp(b - a)), a and b the two arguments,
    which is exact in either tail.

    Args:
        location: m, in units of x in [0, 1].
        scale: s > 0, in the same units.

    Source: PixelCNN++ (2017), section 2.1.
    """

    arg_constraints = {"location": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = GreyLevels()
    has_rsample = False

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        self.location, self.scale = torch.broadcast_tensors(location, scale)
        super().__init__(self.location.shape, validate_args=False)

    def expand(self, batch_shape: _size, _instance: Any = None) -> "DiscretizedLogistic":
        """The same distribution at a larger batch shape."""
        return DiscretizedLogistic(
            self.location.expand(batch_shape), self.scale.expand(batch_shape)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x = value) in nats, of the shape of value and batch."""
        upper = (value + HALF - self.location) / self.scale
        lower = (value - HALF - self.location) / self.scale
        below, above = logsigmoid(upper), logsigmoid(-lower)
        between = below + above + torch.log(-torch.expm1(-2 * HALF / self.scale))
        inner = torch.where(value < HALF, below, between)
        return torch.where(value > 1 - HALF, above, inner)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Grey levels: draws of the logistic, each moved to the nearest level."""
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, dtype=self.location.dtype, device=self.location.device)
        tiny = torch.finfo(uniform.dtype).tiny
        drawn = self.location + self.scale * torch.logit(uniform.clamp(min=tiny))
        return (drawn * (LEVELS - 1)).round().clamp(0, LEVELS - 1) / (LEVELS - 1)

    @property
    def mean(self) -> Tensor:
        """E[x] = (1/255) sum_k P(255 x >= k), k = 1 .. 255."""
        total = torch.zeros_like(self.location)
        for level in range(1, LEVELS):
            edge = level / (LEVELS - 1) - HALF
            total = total + torch.sigmoid((self.location - edge) / self.scale)
        return total / (LEVELS - 1)

    @property
    def variance(self) -> Tensor:
        """E[x^2] - E[x]^2, E[x^2] = (1/255^2) sum_k (2 k - 1) P(255 x >= k)."""
        total = torch.zeros_like(self.location)
        for level in range(1, LEVELS):
            edge = level / (LEVELS - 1) - HALF
            total = total + (2 * level - 1) * torch.sigmoid((self.location - edge) / self.scale)
        return total / (LEVELS - 1) ** 2 - self.mean.square()
