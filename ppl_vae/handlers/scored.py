"""A distribution of which only the log density of one run's value is left.

Knows Pyro's distributions only.
"""

from typing import Any

import pyro.distributions as dist
from torch import Tensor

__all__ = ["Scored"]


class Scored(dist.TorchDistribution):
    """The distribution of a site after its value was scored: the log density of that value is left.

    Args:
        fn: the distribution of the site, of which the event shape is kept.
        log_prob: the log density of the value, of the batch's shape, nats.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, fn: Any, log_prob: Tensor) -> None:
        super().__init__(log_prob.shape, fn.event_shape, validate_args=False)
        self._log_prob, self.has_rsample = log_prob, fn.has_rsample

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density at the run's own value, nats."""
        return self._log_prob
