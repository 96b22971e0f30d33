"""Likelihoods of pixels and of real numbers.

Argument checks are switched off per distribution, not globally: grey pixels under a Bernoulli are
the reports' objective although they are no draws of it, and the data are checked once before a run.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae import checks, distributions
from ppl_vae.likelihoods.start import Blocks, OutputStart, StartsFromData, logit, moments
from ppl_vae.protocols import CouplesData

__all__ = [
    "Bernoulli",
    "ContinuousBernoulli",
    "NormalOptimal",
    "NormalPixelwise",
    "NormalShared",
    "NormalUnit",
    "PixelLikelihood",
]

GREY_LEVEL = 1 / 256
LEAST_VARIANCE = 1e-8  # that a scale fitted to a batch may have, in squared units of the data
MEANS = {"identity": lambda outputs: outputs, "sigmoid": torch.sigmoid}


class PixelLikelihood(StartsFromData):
    """Abstract: a likelihood that takes its maps in one tensor, and the batch that a fitted scale
    is fitted to.

    `num_outputs` is the number of maps, `support` where x may lie. Where `counts`, integers and
    bytes are data as they are; else bytes are grey levels, which are divided by 255.
    """

    num_outputs: int
    support: Constraint
    counts = False

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        """The distribution of x, batch shape (*,), at outputs (*, num_outputs, *event_shape)."""
        raise NotImplementedError


class Bernoulli(PixelLikelihood):
    """log p(x|z) = sum_d [x_d l_d - softplus(l_d)], l (*, *event_shape) the logits.

    With grey x in [0, 1] this is the reports' objective and not the density of anything (the data's
    own entropy caps it near -45.5 nats on MNIST): never put it beside numbers of binary data.
    """

    num_outputs = 1
    support = constraints.unit_interval

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_dim = len(event_shape)

    @property
    def starts_from_data(self) -> bool | None:
        """Only if asked: the reports' networks start at even odds for every pixel."""
        return False

    def start_from(self, blocks: Blocks) -> OutputStart:
        """Logits at those of the mean of each pixel; the encoder sees pixels as they are."""
        offset = logit(moments(blocks).share())[None]
        one = torch.ones_like(offset[0])
        return OutputStart(offset, one, torch.zeros_like(one), one)

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        logits = outputs.squeeze(-self.event_dim - 1)
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(self.event_dim)


class ContinuousBernoulli(PixelLikelihood):
    """log p(x|z) = sum_d [x_d l_d - log((e^l_d - 1) / l_d)] on [0, 1]: the Bernoulli objective,
    normalised.

    Source: The continuous Bernoulli: fixing a pervasive error in variational autoencoders (2019),
    section 3.
    """

    num_outputs = 1
    support = constraints.unit_interval

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_dim = len(event_shape)

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        logits = outputs.squeeze(-self.event_dim - 1)
        return distributions.ContinuousBernoulli(logits, validate_args=False).to_event(
            self.event_dim
        )


class NormalUnit(PixelLikelihood):
    """log p(x|z) = -1/2 ||x - m||^2 - D/2 log 2 pi, m (*, *event_shape) the mean: unit variance."""

    num_outputs = 1
    support = constraints.real

    def __init__(self, event_shape: tuple[int, ...], mean: str = "identity") -> None:
        super().__init__()
        self.event_dim = len(event_shape)
        self.mean = checks.choice("likelihood_options.mean", mean, MEANS)

    @property
    def starts_from_data(self) -> bool | None:
        """Only if asked: the unit variance is a unit of its own. A sigmoid's mean has none."""
        return None if self.mean == "sigmoid" else False

    def start_from(self, blocks: Blocks) -> OutputStart:
        """m = mean of the data + unit * output, the unit one standard deviation for all entries."""
        found = moments(blocks)
        unit = found.common_unit
        rest = found.mean.new_zeros(self.num_outputs - 1, *found.mean.shape)
        offset = torch.cat([found.mean[None], rest])
        factor = torch.ones_like(offset)
        factor[0] = unit
        self._start_scale(unit, blocks, offset)
        return OutputStart(offset, factor, found.mean, unit.expand_as(found.mean))

    def _start_scale(self, unit: Tensor, blocks: Blocks, offset: Tensor) -> None:
        """Start a scale that is not given at the unit, a standard deviation of the data."""

    def scale(self, mean: Tensor, x: Tensor | None) -> Tensor:
        """The standard deviation, broadcastable to the mean's shape, in units of x."""
        return mean.new_ones(())

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        mean = MEANS[self.mean](outputs.squeeze(-self.event_dim - 1))
        return dist.Normal(mean, self.scale(mean, x), validate_args=False).to_event(self.event_dim)


class NormalShared(NormalUnit):
    """log p(x|z) = log N(x; m, s^2 I) with one learned scale s = exp(log_scale), a parameter of the
    model.

    An optimiser such as Adam moves log s by no more than its learning rate a step. Where no
    `initial_scale` is given, in units of x, training starts at the data's standard deviation.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        mean: str = "identity",
        initial_scale: float | None = None,
    ) -> None:
        super().__init__(event_shape, mean)
        self.initial_scale, initial = initial_scale, 1.0
        if initial_scale is not None:
            subject = "likelihood_options.initial_scale"
            initial = checks.number(subject, initial_scale, 0.0, exclusive=True)
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial)))

    @property
    def starts_from_data(self) -> bool | None:
        """By default where no scale is given; a sigmoid's mean has no unit."""
        return None if self.mean == "sigmoid" else self.initial_scale is None

    def _start_scale(self, unit: Tensor, blocks: Blocks, offset: Tensor) -> None:
        if self.initial_scale is None:
            self.log_scale.fill_(unit.log().item())

    def scale(self, mean: Tensor, x: Tensor | None) -> Tensor:
        return self.log_scale.exp()


class NormalOptimal(NormalUnit, CouplesData):
    """log p(x|z) = log N(x; m, s*^2 I), s*^2 = mean of (x - m)^2 over the batch: the scale that
    maximises it.

    The scale of a batch is used while training only; a running mean over training batches is kept
    and used in evaluation, so no held-out likelihood looks at its own batch. Source: Simple and
    effective VAE training with calibrated decoders (2020), section 4.2.
    """

    variance: Tensor
    num_batches: Tensor
    least: Tensor | None

    def __init__(
        self, event_shape: tuple[int, ...], mean: str = "identity", momentum: float = 0.1
    ) -> None:
        super().__init__(event_shape, mean)
        self.momentum = checks.number(
            "likelihood_options.momentum", momentum, 0.0, True, maximum=1.0
        )
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("num_batches", torch.zeros(()))
        self.register_buffer("least", None)

    @property
    def starts_from_data(self) -> bool | None:
        """By default; a sigmoid's mean has no unit."""
        return None if self.mean == "sigmoid" else True

    def prepare_start(self) -> None:
        """The least variance of a batch is in units of the data, too."""
        self.register_buffer("least", torch.tensor(LEAST_VARIANCE))

    def _start_scale(self, unit: Tensor, blocks: Blocks, offset: Tensor) -> None:
        assert self.least is not None
        self.variance.fill_(unit.square().item())
        self.least.fill_(LEAST_VARIANCE * unit.square().item())

    def scale(self, mean: Tensor, x: Tensor | None) -> Tensor:
        if not self.training or x is None:
            return self.variance.sqrt()
        least = LEAST_VARIANCE if self.least is None else self.least
        batch_variance = (x - mean).square().mean().clamp(min=least)
        self.num_batches.add_(1.0)
        # a plain mean of the first batches, so that nothing is left of the 1 it begins with
        rate = self.num_batches.reciprocal().clamp(min=self.momentum)
        self.variance.lerp_(batch_variance.detach(), rate)
        return batch_variance.sqrt()


class LogVarianceNormal(dist.Normal):
    """N(m, e^l) with its density computed from the log-variance l itself, which never overflows.

    log p(x) = -1/2 [(x - m)^2 e^-l + l + log 2 pi]; m, l (*, *event_shape).
    """

    def __init__(self, location: Tensor, log_variance: Tensor) -> None:
        self.log_variance = log_variance
        super().__init__(location, (0.5 * log_variance).exp(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: None = None) -> "LogVarianceNormal":
        """The same distribution at a larger batch shape."""
        return LogVarianceNormal(
            self.loc.expand(batch_shape), self.log_variance.expand(batch_shape)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), (*, *event_shape) nats."""
        error = (value - self.loc).square() * (-self.log_variance).exp()
        return -0.5 * (error + self.log_variance + math.log(2 * math.pi))


class NormalPixelwise(NormalUnit):
    """log p(x|z) = sum_d log N(x_d; m_d, f^2 + exp(l_d)): a log-variance head l with a floor f, in
    units of x.

    The floor bounds the density, which is unbounded on 8-bit data otherwise; the default is one
    grey level, 1/256 of the data's range where training starts from the data, else 1/256.
    """

    num_outputs = 2
    floor: Tensor | None

    def __init__(
        self,
        event_shape: tuple[int, ...],
        mean: str = "identity",
        scale_floor: float | None = None,
    ) -> None:
        super().__init__(event_shape, mean)
        self.given = scale_floor is not None
        floor = GREY_LEVEL if scale_floor is None else scale_floor
        self.scale_floor = checks.number("likelihood_options.scale_floor", floor, 0.0)
        self.register_buffer("floor", None)

    @property
    def starts_from_data(self) -> bool | None:
        """By default where no floor is given; a sigmoid's mean has no unit."""
        return None if self.mean == "sigmoid" else not self.given

    def prepare_start(self) -> None:
        """The floor is in units of the data, too, unless it is given."""
        if not self.given:
            self.register_buffer("floor", torch.tensor(self.scale_floor))

    def _start_scale(self, unit: Tensor, blocks: Blocks, offset: Tensor) -> None:
        offset[1] = 2 * unit.log()
        if self.floor is not None:
            highest = max(rows[~rows.isnan()].max().item() for rows in blocks())
            lowest = min(rows[~rows.isnan()].min().item() for rows in blocks())
            self.floor.fill_(GREY_LEVEL * (highest - lowest or 1.0))

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        location, log_variance = outputs.unbind(-self.event_dim - 1)
        if self.floor is not None:
            log_variance = torch.logaddexp(log_variance, 2 * self.floor.log())
        elif self.scale_floor > 0.0:  # log(e^l + f^2)
            floor = log_variance.new_full((), 2 * math.log(self.scale_floor))
            log_variance = torch.logaddexp(log_variance, floor)
        mean = MEANS[self.mean](location)
        return LogVarianceNormal(mean, log_variance).to_event(self.event_dim)
