"""Pyro's zero-inflated negative binomial, that can be expanded at any time."""

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.types import _size

__all__ = ["ZeroInflatedNegativeBinomial"]


class ZeroInflatedNegativeBinomial(dist.ZeroInflatedNegativeBinomial):
    """P(x) = g [x = 0] + (1 - g) NegativeBinomial(x; total, logits).

    Pyro's own cannot be expanded once its mean was asked for.

    Args:
        total: the number of failures at which trials end, (*).
        logits: log-odds of a success, (*).
        gate_logits: g = sigmoid(gate_logits), (*).
    """

    def __init__(self, total: Tensor, logits: Tensor, gate_logits: Tensor) -> None:
        self.parts = total, logits, gate_logits
        super().__init__(total, logits=logits, gate_logits=gate_logits, validate_args=False)

    def expand(self, batch_shape: _size, _instance: Any = None) -> "ZeroInflatedNegativeBinomial":
        """The same distribution at a larger batch shape."""
        return ZeroInflatedNegativeBinomial(*(part.expand(batch_shape) for part in self.parts))
