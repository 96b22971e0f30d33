"""A distribution of data of which some entries were not observed."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.types import _size

from ppl_vae import checks
from ppl_vae.distributions.table import Table

__all__ = ["Incomplete", "entry_log_prob", "fillers"]

# Numbers tried in turn for one that lies well inside a support.
CANDIDATES = (0.5, 0.0, 1.0)


def entry_log_prob(distribution: dist.TorchDistribution, value: Tensor) -> Tensor:
    """log p of each entry of an event, (*batch_shape, *event_shape) in nats.

    Args:
        distribution: one whose entries are independent.
        value: (*, *event_shape), in units of x.

    Raises:
        InputError: for a distribution whose entries depend on one another.
    """
    shape = torch.broadcast_shapes(distribution.batch_shape + distribution.event_shape, value.shape)
    base: Any = distribution
    while isinstance(base, dist.Independent | torch.distributions.Independent):
        base = base.base_dist
    if isinstance(base, Table | Incomplete):
        return base.entry_log_prob(value).expand(shape)
    if base.event_shape:
        checks.refuse(
            "log p of an entry",
            f"a likelihood {type(base).__name__}",
            "one whose entries are independent given z",
        )
    return base.log_prob(value).expand(shape)


def fillers(support: Constraint, event_shape: tuple[int, ...]) -> Tensor:
    """Numbers inside a support, (*event_shape), to stand where nothing was observed: no density or
    gradient there is taken.
    """
    if isinstance(support, constraints.stack):
        return torch.stack([fillers(part, ()) for part in support.cseq]).expand(event_shape)
    for number in CANDIDATES:
        if bool(support.check(torch.tensor(number)).all()):
            return torch.full(event_shape, number)
    return torch.full(event_shape, CANDIDATES[0])


class Incomplete(dist.TorchDistribution):
    """log p(x) = sum over the entries d that are observed of log p(x_d); the others are NaN.

    Where entries are missing at random given those observed, this is all that they say of the
    parameters.

    Args:
        complete: the distribution of x with all its entries, independent of one another.
        filler: (*event_shape), a number inside the support for each entry.

    Source: Statistical analysis with missing data (1987), section 5.3.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, complete: dist.TorchDistribution, filler: Tensor) -> None:
        self.complete, self.filler = complete, filler
        super().__init__(complete.batch_shape, complete.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have a gradient."""
        return self.complete.has_rsample

    @property
    def support(self) -> Constraint | None:
        """Where entries that are observed may lie."""
        return self.complete.support

    def expand(self, batch_shape: _size, _instance: Any = None) -> "Incomplete":
        """The same distribution at a larger batch shape."""
        return Incomplete(self.complete.expand(batch_shape), self.filler)

    def entry_log_prob(self, value: Tensor) -> Tensor:
        """log p of each entry, 0 where it is NaN, (*batch_shape, *event_shape) in nats."""
        known = ~value.isnan()
        filled = torch.where(known, value, self.filler.to(value))
        terms = entry_log_prob(self.complete, filled)
        return torch.where(known, terms, torch.zeros_like(terms))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of the entries that are observed, (*batch_shape) in nats."""
        return self.entry_log_prob(value).flatten(len(self.batch_shape)).sum(-1)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws of all entries."""
        return self.complete.sample(sample_shape)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws of all entries, differentiable."""
        return self.complete.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """E[x] of all entries."""
        return self.complete.mean

    @property
    def variance(self) -> Tensor:
        """Var[x] of all entries."""
        return self.complete.variance
