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

MEANS = {"identity": lambda outputs: outputs, "sigmoid": torch.sigmoid}


class PixelLikelihood(nn.Module):
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

    def scale(self, mean: Tensor, x: Tensor | None) -> Tensor:
        """The standard deviation, broadcastable to the mean's shape, in units of x."""
        return mean.new_ones(())

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        mean = MEANS[self.mean](outputs.squeeze(-self.event_dim - 1))
        return dist.Normal(mean, self.scale(mean, x), validate_args=False).to_event(self.event_dim)


class NormalShared(NormalUnit):
    """log p(x|z) = log N(x; m, s^2 I) with one learned scale s = exp(log_scale), a parameter of the
    model.

    An optimiser such as Adam moves log s by no more than its learning rate a step: of short runs,
    `initial_scale` is best the data's own standard deviation.
    """

    def __init__(
        self, event_shape: tuple[int, ...], mean: str = "identity", initial_scale: float = 1.0
    ) -> None:
        super().__init__(event_shape, mean)
        initial = checks.number(
            "likelihood_options.initial_scale", initial_scale, 0.0, exclusive=True
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial)))

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

    def __init__(
        self, event_shape: tuple[int, ...], mean: str = "identity", momentum: float = 0.1
    ) -> None:
        super().__init__(event_shape, mean)
        self.momentum = checks.number(
            "likelihood_options.momentum", momentum, 0.0, True, maximum=1.0
        )
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("num_batches", torch.zeros(()))

    def scale(self, mean: Tensor, x: Tensor | None) -> Tensor:
        if not self.training or x is None:
            return self.variance.sqrt()
        batch_variance = (x - mean).square().mean().clamp(min=1e-8)
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
    grey level, 1/256.
    """

    num_outputs = 2

    def __init__(
        self, event_shape: tuple[int, ...], mean: str = "identity", scale_floor: float = 1 / 256
    ) -> None:
        super().__init__(event_shape, mean)
        self.scale_floor = checks.number("likelihood_options.scale_floor", scale_floor, 0.0)

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        location, log_variance = outputs.unbind(-self.event_dim - 1)
        if self.scale_floor > 0.0:  # log(e^l + f^2)
            floor = log_variance.new_full((), 2 * math.log(self.scale_floor))
            log_variance = torch.logaddexp(log_variance, floor)
        mean = MEANS[self.mean](location)
        return LogVarianceNormal(mean, log_variance).to_event(self.event_dim)
