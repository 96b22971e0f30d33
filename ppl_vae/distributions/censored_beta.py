"""A Beta distribution whose draws end where floating point does.

Knows distributions only.
"""

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["CensoredBeta"]


class CensoredBeta(dist.Beta):
    """Beta(z; a, b) of draws that end where floating point does: at t and at 1 - e.

    t is its smallest number. There a draw stands for a whole tail, P(z < t) = t f(t) / a and P(z >
    1 - e) = e f(1 - e) / b for small shapes, f the density. So log f(t) - log a and log f(1 - e) -
    log b, in units of t and e, make sums over draws right: with f alone, importance weights of such
    draws are off by the ratio of two guides' shapes. KL(q || p) is that of Betas.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """log f(z), and the log mass of a tail at its end, nats."""
        info, density = torch.finfo(value.dtype), super().log_prob(value)
        upper = torch.where(value >= 1 - info.eps, self.concentration0.log(), 0.0)
        return density - upper - torch.where(value <= info.tiny, self.concentration1.log(), 0.0)
