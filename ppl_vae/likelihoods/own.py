"""A likelihood that is a function of the decoder's output maps, as a module of this library."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae import checks
from ppl_vae.distributions import InUnits
from ppl_vae.likelihoods.start import Blocks, OutputStart, StartsFromData, moments, per_entry, units
from ppl_vae.parts.user_code import fault

__all__ = ["DecoderDistribution", "FunctionLikelihood", "output_maps"]


def output_maps(program: Callable[..., Any]) -> list[str]:
    """The arguments of a likelihood that are maps of the decoder: those without a default."""
    target = program.forward if isinstance(program, nn.Module) else program
    parameters = inspect.signature(target).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]


class FunctionLikelihood(StartsFromData):
    """p(x|z) = f(maps of the decoder), f a function or a module that returns a distribution.

    Dimensions of the event that the distribution does not declare are independent.

    Args:
        program: f, with an argument a map, each (*, *event_shape).
        event_shape: that of a datum.
        start: where the maps start, given the data in units of their own; without it they start at
            what the network makes of z.

    Raises:
        InputError: where f raises, or returns no distribution of a datum.
    """

    center: Tensor | None
    unit: Tensor | None

    def __init__(
        self,
        program: Callable[..., Any],
        event_shape: tuple[int, ...],
        start: Callable[[Blocks], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.start, self.event_shape = start, event_shape
        self.register_buffer("center", None)
        self.register_buffer("unit", None)
        self.program, self.event_dim = program, len(event_shape)
        self.num_outputs = len(output_maps(program))
        if not self.num_outputs:
            checks.refuse(
                "likelihood",
                f"{_name(program)} without arguments",
                "one argument for each map of the decoder",
                "such as def poisson(log_rate): return dist.Poisson(log_rate.exp())",
            )
        self.support = self._support(event_shape)

    @property
    def counts(self) -> bool:
        """Whether x is whole numbers, so that integers and bytes are data as they are."""
        return self.support.is_discrete

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        """The distribution of x at outputs (*, num_outputs, *event_shape)."""
        found = self.program(*outputs.unbind(-self.event_dim - 1))
        if self.center is not None and self.unit is not None:
            found = InUnits(found, self.center, self.unit)
        return found.to_event(self.event_dim - found.event_dim)

    @property
    def has_units(self) -> bool:
        """Whether x is a number that has a unit, each entry by itself."""
        return self.independent and self.support in (constraints.real, constraints.positive)

    @property
    def starts_from_data(self) -> bool | None:
        """By default where it is known how; in units of the data if asked, where they have any."""
        if self.start is not None:
            return True
        return False if self.has_units else None

    def prepare_start(self) -> None:
        """Make room for the unit of each entry."""
        if self.has_units:
            self.register_buffer("center", torch.zeros(self.event_shape))
            self.register_buffer("unit", torch.ones(self.event_shape))

    def start_from(self, blocks: Blocks) -> OutputStart:
        """Where the maps start, given the data; sets the unit of each entry."""
        center, unit = units(self.support, blocks)
        if self.center is not None and self.unit is not None:
            self.center.copy_(center)
            self.unit.copy_(unit)
        if self.start is None:
            offset = center.new_zeros(self.num_outputs, *self.event_shape)
        else:
            offset = self.start(lambda: ((rows - center) / unit for rows in blocks()))
        return per_entry(moments(blocks), offset, self.support.is_discrete)

    def _support(self, event_shape: tuple[int, ...]) -> Constraint:
        """Where x may lie, read from the distribution at outputs of 0; checks the program."""
        expected = "a Pyro distribution of x for maps of shape (*, *event_shape)"
        outputs = torch.zeros(3, self.num_outputs, *event_shape)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                found = self.program(*outputs.unbind(1))
        except Exception as error:
            checks.refuse("likelihood", fault(error), expected)
        support = checked_support("likelihood", found, (3,), event_shape)
        self.independent = found.event_dim == 0
        return support


class DecoderDistribution(StartsFromData):
    """p(x|z) = what the decoder returns: a distribution of x, made by a decoder of one's own."""

    num_outputs = 1

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.support: Constraint = constraints.real

    @property
    def counts(self) -> bool:
        """Whether x is whole numbers, so that integers and bytes are data as they are."""
        return self.support.is_discrete

    def read(self, decoder: Callable[[Tensor], Any], latent_size: int) -> None:
        """Take the support from the decoder's distribution at z = 0, and check its shape."""
        for shape in ((3,), (2, 3)):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                found = decoder(torch.zeros(*shape, latent_size))
            self.support = checked_support("decoder", found, shape, self.event_shape)

    def forward(self, outputs: Any, x: Tensor | None = None) -> dist.TorchDistribution:
        """The decoder's distribution, all dimensions of the event declared."""
        return outputs.to_event(len(self.event_shape) - outputs.event_dim)


def checked_support(
    subject: str, found: Any, batch_shape: tuple[int, ...], event_shape: tuple[int, ...]
) -> Constraint:
    """Where x may lie under a distribution; `InputError` unless it is one of x."""
    if not isinstance(found, TorchDistributionMixin):
        got = f"a {type(found).__module__}.{type(found).__name__}"
        expected = "a Pyro distribution of x"
        checks.refuse(subject, got, expected, "import pyro.distributions as dist")
    shape = tuple(found.batch_shape + found.event_shape)
    if shape != (*batch_shape, *event_shape) or found.event_dim > len(event_shape):
        checks.refuse(
            subject,
            f"batch and event shape {shape} for {math.prod(batch_shape)} data",
            f"{(*batch_shape, *event_shape)}",
            "each map has the shape of the data; declare no more than the event's dimensions",
        )
    support: Any = found.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _name(program: Any) -> str:
    if isinstance(program, functools.partial):
        return _name(program.func)
    return getattr(program, "__name__", type(program).__name__)
