"""Where the maps of a decoder start: at what the data say of each entry, and in units of the data.

A network's outputs start near 0 and an optimiser moves them by about its learning rate a step, so
that data in other units than their own standard deviation are first reached after thousands of
steps, or never.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

UNIT_SCALE = math.log(math.e - 1)  # softplus of it is 1

__all__ = [
    "UNIT_SCALE",
    "Blocks",
    "Moments",
    "OutputStart",
    "StartsFromData",
    "inverse_softplus",
    "log_shares",
    "logit",
    "moments",
    "per_entry",
    "units",
]

# the data x as blocks (n, *event_shape), in the precision of the parameters, from the first again
# at each call; NaN where an entry is not known
Blocks = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class OutputStart:
    """maps = offset + factor * outputs of the network; the encoder sees (x - center) / scale.

    Args:
        offset: (num_outputs, *event_shape).
        factor: broadcastable to it.
        center, scale: broadcastable to event_shape, in units of x.
    """

    offset: Tensor
    factor: Tensor
    center: Tensor
    scale: Tensor


class StartsFromData(nn.Module):
    """Abstract: a likelihood that may say where the decoder's maps start."""

    @property
    def starts_from_data(self) -> bool | None:
        """Whether maps start at what the data say: None where they cannot, False where only if
        asked.
        """
        return None

    def prepare_start(self) -> None:
        """Make room for the units of the data, where the maps alone do not hold them."""

    def start_from(self, blocks: Blocks) -> OutputStart:
        """Where the maps start, given the data; sets what the likelihood itself has to learn."""
        raise NotImplementedError


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each entry over the data, (*event_shape), and how many data have it."""

    mean: Tensor
    variance: Tensor
    count: Tensor

    @property
    def unit(self) -> Tensor:
        """The standard deviation of each entry; of one that never varies its own size, or 1."""
        size = torch.where(self.mean != 0, self.mean.abs(), torch.ones_like(self.mean))
        varies = self.variance > 1e-12 * self.mean.square()
        return torch.where(varies, self.variance.sqrt(), size)

    @property
    def common_unit(self) -> Tensor:
        """One standard deviation for all entries, which are in the same unit: a scalar."""
        variance = self.variance.mean()
        return variance.sqrt() if variance > 0 else torch.ones_like(variance)

    def share(self) -> Tensor:
        """The mean of values in [0, 1], away from both ends by half a datum."""
        least = 0.5 / self.count.clamp(min=1)
        return self.mean.clamp(min=least).minimum(1 - least)


def moments(blocks: Blocks) -> Moments:
    """Mean and variance in double precision, in two passes so that no offset costs any of it."""
    mean, count = _mean(blocks)
    variance, _ = _mean(lambda: ((rows - mean).square() for rows in _doubles(blocks)))
    return Moments(mean, variance, count)


def _mean(blocks: Blocks) -> tuple[Tensor, Tensor]:
    total: Tensor | float = 0.0
    count: Tensor | float = 0.0
    for rows in _doubles(blocks):
        total = total + rows.nansum(0)
        count = count + (~rows.isnan()).double().sum(0)
    assert isinstance(total, Tensor) and isinstance(count, Tensor)
    return total / count.clamp(min=1), count


def _doubles(blocks: Blocks) -> Iterator[Tensor]:
    return (rows.double() for rows in blocks())


def per_entry(found: Moments, offset: Tensor, whole_numbers: bool = False) -> OutputStart:
    """Maps that start at `offset`; the encoder sees each entry in its own unit, which of whole
    numbers is at least 1.
    """
    scale = found.unit.clamp(min=1.0) if whole_numbers else found.unit
    return OutputStart(offset, torch.ones_like(offset), found.mean, scale)


def log_shares(blocks: Blocks, categories: int) -> Tensor:
    """log of each code's share of the data, (K, *event_shape), with half a datum of each added."""
    total = sum(
        torch.stack([(rows == code).double().sum(0) for code in range(categories)])
        for rows in blocks()
    )
    assert isinstance(total, Tensor)
    return ((total + 0.5) / (total.sum(0) + 0.5 * categories)).log()


def inverse_softplus(value: Tensor) -> Tensor:
    """y with softplus(y) = value > 0."""
    return value + torch.log(-torch.expm1(-value))


def logit(share: Tensor) -> Tensor:
    """log(p / (1 - p))."""
    return share.log() - (-share).log1p()


def units(support: Constraint, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """(center, unit) of each entry, in units of x: mean and standard deviation of real numbers, 0
    and the geometric mean of positive ones, 0 and 1 of all others.
    """
    found = moments(blocks)
    zeros, ones = torch.zeros_like(found.mean), torch.ones_like(found.mean)
    if support is constraints.real:
        return found.mean, found.unit
    if support is constraints.positive:
        return zeros, moments(lambda: (rows.log() for rows in blocks())).mean.exp()
    return zeros, ones
