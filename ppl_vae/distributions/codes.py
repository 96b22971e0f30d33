"""Categories as the numbers 0 .. K-1."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.types import _size

__all__ = ["Codes"]


class Codes(dist.Categorical):
    """p(x = k) = softmax(logits)_k, k = 0 .. K-1, with draws that are numbers as all data are.

    torch's `Categorical` draws integers, which no network takes, and has no moments. Here mean and
    variance are those of the code, which say something where categories have an order; `mode` is
    the most probable category.
    """

    @property
    def mean(self) -> Tensor:
        """sum_k k p_k, of the batch's shape."""
        return (self.probs * self._codes).sum(-1)

    @property
    def variance(self) -> Tensor:
        """sum_k k^2 p_k - mean^2, of the batch's shape."""
        return (self.probs * self._codes.square()).sum(-1) - self.mean.square()

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Whole numbers in the precision of the logits, (*sample_shape, *batch_shape)."""
        return super().sample(sample_shape).to(self._param.dtype)

    @property
    def _codes(self) -> Tensor:
        size = self._param.shape[-1]
        return torch.arange(size, dtype=self._param.dtype, device=self._param.device)
