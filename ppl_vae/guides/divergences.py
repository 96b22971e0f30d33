"""Closed forms of KL(q || p) that torch lacks, for a log-normal q on positive latents: scales,
rates, precisions.

Knows distributions only. Registered with torch's own table of divergences, so every estimator in
the process has them. For x ~ LogNormal(m, s^2): E log x = m, E x^k = exp(k m + k^2 s^2 / 2),
entropy H = m + log(2 pi e s^2) / 2, and each KL is -H - E log p(x).
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.kl import register_kl

__all__ = ["POSITIVE_FAMILIES"]

POSITIVE_FAMILIES = (
    dist.InverseGamma,
    dist.HalfNormal,
    dist.Exponential,
)  # of p, whose guide is log-normal


def _negative_entropy(q: dist.LogNormal) -> Tensor:
    return -q.loc - 0.5 * (2 * math.pi * math.e * q.scale.square()).log()


def _moment(q: dist.LogNormal, power: int) -> Tensor:
    return (power * q.loc + 0.5 * power**2 * q.scale.square()).exp()


@register_kl(torch.distributions.LogNormal, torch.distributions.Gamma)
def _log_normal_gamma(q: dist.LogNormal, p: dist.Gamma) -> Tensor:
    """log p(x) = a log b - lgamma(a) + (a-1) log x - b x."""
    a, b = p.concentration, p.rate
    return _negative_entropy(q) - (a * b.log() - a.lgamma() + (a - 1) * q.loc - b * _moment(q, 1))


@register_kl(torch.distributions.LogNormal, dist.InverseGamma)
def _log_normal_inverse_gamma(q: dist.LogNormal, p: dist.InverseGamma) -> Tensor:
    """log p(x) = a log b - lgamma(a) - (a+1) log x - b / x."""
    a, b = p.concentration, p.rate
    return _negative_entropy(q) - (a * b.log() - a.lgamma() - (a + 1) * q.loc - b * _moment(q, -1))


@register_kl(torch.distributions.LogNormal, torch.distributions.Exponential)
def _log_normal_exponential(q: dist.LogNormal, p: dist.Exponential) -> Tensor:
    """log p(x) = log r - r x."""
    return _negative_entropy(q) - (p.rate.log() - p.rate * _moment(q, 1))


@register_kl(torch.distributions.LogNormal, torch.distributions.HalfNormal)
def _log_normal_half_normal(q: dist.LogNormal, p: dist.HalfNormal) -> Tensor:
    """log p(x) = log(2/pi)/2 - log s - x^2 / (2 s^2)."""
    return _negative_entropy(q) - (
        0.5 * math.log(2 / math.pi) - p.scale.log() - 0.5 * _moment(q, 2) / p.scale.square()
    )
