"""A row of a table whose columns have distributions of several kinds."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

__all__ = ["Table"]


class Table(dist.TorchDistribution):
    """log p(x) = sum over groups g of columns, sum over j in g, of log p_g(x_j); x (*, D).

    Args:
        groups: pairs (indices of the columns (n,), their distribution of batch shape (*, n)), each
            column in one group.
        columns: where each column may lie, in the order of the columns.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        groups: Sequence[tuple[Tensor, dist.TorchDistribution]],
        columns: constraints.Constraint,
    ) -> None:
        self.groups, self.columns = list(groups), columns
        width = sum(len(index) for index, _ in self.groups)
        batch_shape = self.groups[0][1].batch_shape[:-1]
        super().__init__(batch_shape, torch.Size([width]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Where a row may lie, each column by its own kind."""
        return constraints.independent(self.columns, 1)

    def expand(self, batch_shape: _size, _instance: Any = None) -> "Table":
        """The same distribution at a larger batch shape."""
        shape = torch.Size(batch_shape)
        groups = [(index, fn.expand(shape + fn.batch_shape[-1:])) for index, fn in self.groups]
        return Table(groups, self.columns)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(row), (*,) nats."""
        parts = [fn.log_prob(value[..., index]).sum(-1) for index, fn in self.groups]
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def entry_log_prob(self, value: Tensor) -> Tensor:
        """log p of each column, (*, D) nats."""
        order = torch.cat([index for index, _ in self.groups]).argsort()
        parts = [fn.log_prob(value[..., index]) for index, fn in self.groups]
        shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        joined = torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)
        return joined[..., order]

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Rows, (*sample_shape, *batch_shape, D)."""
        return self._joined(lambda fn: fn.sample(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The mean of each column, (*, D)."""
        return self._joined(lambda fn: fn.mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each column, (*, D)."""
        return self._joined(lambda fn: fn.variance)

    def _joined(self, part: Callable[[dist.TorchDistribution], Tensor]) -> Tensor:
        """What each group has, as columns in their own order."""
        order = torch.cat([index for index, _ in self.groups]).argsort()
        return torch.cat([part(fn) for _, fn in self.groups], -1)[..., order]
