"""A likelihood of tables whose columns are numbers of several kinds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import softplus

from ppl_vae import checks, distributions
from ppl_vae.likelihoods.functions import (
    SMALLEST,
    log_normal,
    negative_binomial,
    start_log_normal,
    start_negative_binomial,
    start_student_t,
)
from ppl_vae.likelihoods.pixels import PixelLikelihood
from ppl_vae.likelihoods.start import (
    Blocks,
    OutputStart,
    log_shares,
    logit,
    moments,
    per_entry,
    units,
)

__all__ = ["Columns"]

EXPECTED = "one of real, positive, count, binary, categorical:K"


@dataclass(frozen=True)
class Kind:
    """A kind of column: its maps of the decoder, its distribution given them, where x may lie, and
    where the maps start, given the columns (n,) in units of their own.
    """

    num_maps: int
    distribution: Callable[..., dist.TorchDistribution]
    support: Constraint
    start: Callable[[Blocks], Tensor]


def _real(location: Tensor, raw_scale: Tensor) -> dist.TorchDistribution:
    return dist.Normal(location, softplus(raw_scale) + SMALLEST, validate_args=False)


def _binary(logits: Tensor) -> dist.TorchDistribution:
    return dist.Bernoulli(logits=logits, validate_args=False)


def _codes(*logits: Tensor) -> dist.TorchDistribution:
    return distributions.Codes(logits=torch.stack(logits, -1), validate_args=False)


def _start_binary(blocks: Blocks) -> Tensor:
    return logit(moments(blocks).share())[None]


COUNTS = constraints.nonnegative_integer
KINDS = {
    "real": Kind(2, _real, constraints.real, start_student_t),
    "positive": Kind(2, log_normal, constraints.positive, start_log_normal),
    "count": Kind(2, negative_binomial, COUNTS, start_negative_binomial),
    "binary": Kind(1, _binary, constraints.boolean, _start_binary),
}


def _kind(subject: str, name: object) -> Kind:
    """The kind of a name."""
    if isinstance(name, str) and name.startswith("categorical:"):
        categories = name.removeprefix("categorical:")
        if not categories.isdecimal() or int(categories) < 2:
            checks.refuse(subject, repr(name), "categorical:K with K >= 2 categories")
        size = int(categories)
        support = constraints.integer_interval(0, size - 1)
        return Kind(size, _codes, support, lambda blocks: log_shares(blocks, size))
    if not isinstance(name, str) or name not in KINDS:
        hint = checks.nearest(str(name), [*KINDS, "categorical:3"])
        checks.refuse(subject, repr(name), EXPECTED, hint)
    return KINDS[name]


class Columns(PixelLikelihood):
    """log p(x|z) = sum over columns j of log p_j(x_j | maps of column j), x (*, D) rows of a table.

    real: N(m, s^2). positive: log x ~ N(m, s^2). count: negative binomial. binary: Bernoulli.
    categorical:K: the codes 0 .. K-1. s = softplus of a map. The decoder makes as many maps for
    each column as the kind with the most of them takes; a column leaves the others unused.

    Args:
        event_shape: (D,).
        columns: the kinds, one a column, such as ["real", "count", "categorical:3"].
    """

    counts = True
    center: Tensor | None
    unit: Tensor | None

    def __init__(
        self, event_shape: tuple[int, ...], columns: Sequence[str] | str | None = None
    ) -> None:
        super().__init__()
        names = _names(columns, event_shape)
        kinds = [_kind(f"likelihood_options.columns[{i}]", name) for i, name in enumerate(names)]
        self.num_outputs = max(kind.num_maps for kind in kinds)
        self.support = constraints.stack([kind.support for kind in kinds], -1)
        self.names = sorted(set(names))
        self.kinds = {name: kind for name, kind in zip(names, kinds)}
        for i, name in enumerate(self.names):
            indices = [j for j, other in enumerate(names) if other == name]
            self.register_buffer(f"columns_{i}", torch.tensor(indices), persistent=False)
        self.register_buffer("center", None)
        self.register_buffer("unit", None)

    @property
    def starts_from_data(self) -> bool | None:
        """By default."""
        return True

    def prepare_start(self) -> None:
        """Make room for the unit of each column."""
        width = sum(len(self.get_buffer(f"columns_{i}")) for i in range(len(self.names)))
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("unit", torch.ones(width))

    def start_from(self, blocks: Blocks) -> OutputStart:
        """Where each column's maps start, by its kind; sets its unit."""
        assert self.center is not None and self.unit is not None
        found = moments(blocks)
        offset = found.mean.new_zeros(self.num_outputs, len(found.mean))
        scale = found.unit
        for i, name in enumerate(self.names):
            index, kind = self.get_buffer(f"columns_{i}"), self.kinds[name]
            rows = _columns(blocks, index)
            center, unit = units(kind.support, rows)
            self.center[index], self.unit[index] = center.to(self.center), unit.to(self.unit)
            offset[: kind.num_maps, index] = kind.start(_in_units(rows, center, unit))
            scale[index] = per_entry(moments(rows), offset, kind.support.is_discrete).scale
        return OutputStart(offset, torch.ones_like(offset), found.mean, scale)

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> distributions.Table:
        """The distribution of rows, at outputs (*, num_outputs, D)."""
        groups = []
        for i, name in enumerate(self.names):
            index, kind = self.get_buffer(f"columns_{i}"), self.kinds[name]
            maps = outputs[..., : kind.num_maps, :].index_select(-1, index)
            found = kind.distribution(*maps.unbind(-2))
            if self.center is not None and self.unit is not None and not kind.support.is_discrete:
                found = distributions.InUnits(found, self.center[index], self.unit[index])
            groups.append((index, found))
        return distributions.Table(groups, self.support)


def _columns(blocks: Blocks, index: Tensor) -> Blocks:
    return lambda: (rows[:, index] for rows in blocks())


def _in_units(blocks: Blocks, center: Tensor, unit: Tensor) -> Blocks:
    return lambda: ((rows - center) / unit for rows in blocks())


def _names(columns: Any, event_shape: tuple[int, ...]) -> list[str]:
    """The kinds by name, one a column."""
    given = (columns,) if isinstance(columns, str) else columns
    if not isinstance(given, Sequence):
        checks.refuse(
            "likelihood_options.columns",
            "none" if columns is None else repr(columns),
            f"the kinds of the columns, each {EXPECTED}",
            "likelihood_options={'columns': [...]}, or --likelihood.columns real,count",
        )
    if len(event_shape) != 1 or len(given) != event_shape[0]:
        checks.refuse(
            "likelihood_options.columns",
            f"{len(given)} kinds for event_shape {event_shape}",
            f"one for each column of a table, event_shape ({len(given)},)",
        )
    return list(given)
