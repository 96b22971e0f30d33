"""Likelihoods that are functions: a decoder's output maps -> the Pyro distribution of x.

The form in which a user writes one, too: an argument a map, each of shape (*, *event_shape).
"""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.distributions import ZeroInflatedNegativeBinomial
from ppl_vae.likelihoods.start import (
    UNIT_SCALE,
    Blocks,
    Moments,
    inverse_softplus,
    logit,
    moments,
)

__all__ = [
    "STARTS",
    "beta",
    "log_normal",
    "negative_binomial",
    "poisson",
    "student_t",
    "zero_inflated_negative_binomial",
]

SMALLEST = 1e-4  # of scales and shapes: nearer to 0, densities grow without bound


def student_t(
    location: Tensor, raw_scale: Tensor, degrees_of_freedom: float = 4.0
) -> dist.TorchDistribution:
    """Student's t on the real numbers, for data with outliers.

    x = location + scale t, t with `degrees_of_freedom`, scale = softplus(raw_scale), in units of x.
    """
    scale = softplus(raw_scale) + SMALLEST
    return dist.StudentT(degrees_of_freedom, location, scale)


def log_normal(location: Tensor, raw_scale: Tensor) -> dist.TorchDistribution:
    """log x ~ N(location, scale^2) on positive numbers, scale = softplus(raw_scale)."""
    return dist.LogNormal(location, softplus(raw_scale) + SMALLEST)


def beta(raw_first: Tensor, raw_second: Tensor) -> dist.TorchDistribution:
    """Beta(a, b) on (0, 1), a and b the softplus of the maps: shares and probabilities."""
    return dist.Beta(softplus(raw_first) + SMALLEST, softplus(raw_second) + SMALLEST)


def poisson(log_rate: Tensor) -> dist.TorchDistribution:
    """Poisson counts of rate exp(log_rate), whose variance is their mean."""
    return dist.Poisson(log_rate.exp())


def negative_binomial(log_total: Tensor, logits: Tensor) -> dist.TorchDistribution:
    """Counts more spread than Poisson's: mean m = exp(log_total + logits), variance m (1 +
    exp(logits)).
    """
    return dist.NegativeBinomial(log_total.exp(), logits=logits)


def zero_inflated_negative_binomial(
    log_total: Tensor, logits: Tensor, gate_logits: Tensor
) -> dist.TorchDistribution:
    """Negative binomial counts, which are 0 besides with probability sigmoid(gate_logits)."""
    return ZeroInflatedNegativeBinomial(log_total.exp(), logits, gate_logits)


def start_student_t(blocks: Blocks) -> Tensor:
    """Location 0 and scale 1, of data in units of their own."""
    mean = moments(blocks).mean
    return torch.stack([torch.zeros_like(mean), torch.full_like(mean, UNIT_SCALE)])


def start_log_normal(blocks: Blocks) -> Tensor:
    """Mean and standard deviation of log x."""
    found = moments(lambda: (rows.log() for rows in blocks()))
    scale = found.variance.sqrt().clamp(min=10 * SMALLEST)
    return torch.stack([found.mean, inverse_softplus(scale)])


def start_beta(blocks: Blocks) -> Tensor:
    """a = m k, b = (1 - m) k, k = m (1 - m) / v - 1, at mean m and variance v of the data."""
    found = moments(blocks)
    share = found.share()
    variance = found.variance.clamp(min=1e-12)
    total = (share * (1 - share) / variance - 1).clamp(min=0.1, max=1e4)
    return torch.stack([inverse_softplus(share * total), inverse_softplus((1 - share) * total)])


def start_poisson(blocks: Blocks) -> Tensor:
    """log of the mean."""
    return _count_mean(moments(blocks)).log()[None]


def start_negative_binomial(blocks: Blocks) -> Tensor:
    """Total r = m^2 / (v - m), and logits log(m / r): mean m and variance v are the data's."""
    found = moments(blocks)
    return _negative_binomial_of(_count_mean(found), found.variance)


def start_zero_inflated_negative_binomial(blocks: Blocks) -> Tensor:
    """Half of the zeros are the gate's; the rest is a negative binomial of the data's moments."""
    found = moments(blocks)
    zeros = moments(lambda: (_is_zero(rows) for rows in blocks())).share()
    gate = 0.5 * zeros
    mean = _count_mean(found) / (1 - gate)
    return torch.cat([_negative_binomial_of(mean, found.variance), logit(gate)[None]])


def _is_zero(rows: Tensor) -> Tensor:
    return torch.where(rows.isnan(), rows, (rows == 0).to(rows.dtype))


def _count_mean(found: Moments) -> Tensor:
    """The mean of counts, of half a count where there was none."""
    return found.mean.maximum(0.5 / found.count.clamp(min=1))


def _negative_binomial_of(mean: Tensor, variance: Tensor) -> Tensor:
    total = (mean.square() / (variance - mean).clamp(min=1e-9)).clamp(min=0.1, max=100.0)
    return torch.stack([total.log(), (mean / total).log()])


# Where the maps of each function start, (number of maps, *event_shape), given the data in units of
# their own.
STARTS: dict[Callable[..., dist.TorchDistribution], Callable[[Blocks], Tensor]] = {
    student_t: start_student_t,
    log_normal: start_log_normal,
    beta: start_beta,
    poisson: start_poisson,
    negative_binomial: start_negative_binomial,
    zero_inflated_negative_binomial: start_zero_inflated_negative_binomial,
}
