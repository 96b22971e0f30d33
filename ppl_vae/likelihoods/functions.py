"""Likelihoods that are functions: a decoder's output maps -> the Pyro distribution of x.

The form in which a user writes one, too: an argument a map, each of shape (*, *event_shape).
"""

import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import softplus

__all__ = [
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
    return dist.ZeroInflatedNegativeBinomial(
        log_total.exp(), logits=logits, gate_logits=gate_logits
    )
