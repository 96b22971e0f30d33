"""A logistic variable through the sigmoid: the relaxed Bernoulli, with its density over logits.

Knows the sigmoid that remembers; knows nothing of priors.
"""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.distributions.remembered import RememberingSigmoid, remembered_unit_interval

__all__ = ["LogisticSigmoid"]


class _Logistic(dist.Logistic):
    """Pyro's Logistic distribution, whose draws are finite."""

    def expand(self, batch_shape: Any, _instance: None = None) -> "_Logistic":
        return _Logistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        eps = torch.finfo(uniform.dtype).eps
        return self.icdf(uniform.clamp(min=eps, max=1 - eps))


class LogisticSigmoid(dist.TransformedDistribution):
    """z = sigmoid(u), u = (l + L) / t, L standard logistic.

    log p(z) = log Logistic(u; l / t, 1 / t) - log(z (1 - z)), at the u that z was made from where
    a `RememberingSigmoid` made it: a guide's draw of the site is such a z. So the ratio of two
    densities of z is that of their densities over logits, without the rounding of z.

    Args:
        temperature: t, broadcastable to the logits.
        logits: l, (*), the shape of z.
        validate_args: whether arguments and values are checked; None is the class's setting.

    Source: The concrete distribution (2017), section 3.1.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, temperature: Tensor, logits: Tensor, validate_args: Any = None) -> None:
        logistic = _Logistic(logits / temperature, 1 / temperature, validate_args=False)
        super().__init__(logistic, [RememberingSigmoid()], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogisticSigmoid":
        """The same distribution at a larger batch shape."""
        new = self._get_checked_instance(LogisticSigmoid, _instance)
        return super().expand(batch_shape, _instance=new)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """(0, 1), with the map onto it that keeps logits."""
        return remembered_unit_interval
