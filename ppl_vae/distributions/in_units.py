"""A distribution of numbers that are measured in units of the data."""

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.types import _size

__all__ = ["InUnits"]


class InUnits(dist.TorchDistribution):
    """x = center + unit y, y from a base: log p(x) = log p_y((x - center) / unit) - log unit.

    Args:
        base: the distribution of y, with no dimension of the event declared.
        center: in units of x, broadcastable to the base's batch shape.
        unit: above 0, in units of x, broadcastable to the base's batch shape.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base: dist.TorchDistribution, center: Tensor, unit: Tensor) -> None:
        self.base, self.center, self.unit = base, center, unit
        super().__init__(base.batch_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws of y have a gradient."""
        return self.base.has_rsample

    @property
    def support(self) -> Constraint | None:
        """Where y may lie: all real numbers, or with a center of 0 all positive ones."""
        return self.base.support

    def expand(self, batch_shape: _size, _instance: Any = None) -> "InUnits":
        """The same distribution at a larger batch shape."""
        return InUnits(self.base.expand(batch_shape), self.center, self.unit)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) in nats."""
        return self.base.log_prob((value - self.center) / self.unit) - self.unit.log()

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws in units of x."""
        return self.center + self.unit * self.base.sample(sample_shape)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws in units of x, differentiable."""
        return self.center + self.unit * self.base.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return self.center + self.unit * self.base.mean

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        return self.unit.square() * self.base.variance
