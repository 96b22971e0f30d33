"""A latent site as a plain real vector, and back: what a guide with dependent coordinates works on.

Knows sites and bijections; knows nothing of networks or of any guide.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import ReshapeTransform

from ppl_vae.guides.sites import LatentSite

__all__ = ["from_vector", "is_real", "to_vector", "vector_size"]


def is_real(site: LatentSite) -> bool:
    """Whether the site's support is the whole of R^n, so that no bijection is needed.

    Args:
        site: the site.
    """
    support = site.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, type(dist.constraints.real))


def vector_size(site: LatentSite) -> int:
    """n, the number of unconstrained real coordinates of a site.

    Args:
        site: the site.
    """
    return math.prod(site.unconstrained_shape)


def from_vector(site: LatentSite, vector: dist.TorchDistribution) -> dist.TorchDistribution:
    """The distribution of T(u), T: R^n -> the site's support.

    The transforms remember their last input, so the density at a draw costs no inversion.

    Args:
        site: the site.
        vector: the distribution of u, event shape (n,).
    """
    shape, size = site.unconstrained_shape, vector_size(site)
    flat = torch.Size([size])
    transforms: list[Any] = [] if shape == flat else [ReshapeTransform(flat, shape, cache_size=1)]
    transforms += [] if is_real(site) else [biject_to(site.support).with_cache()]
    return (
        dist.TransformedDistribution(vector, transforms, validate_args=False)
        if transforms
        else vector
    )


def to_vector(site: LatentSite, value: Tensor) -> Tensor:
    """u = T^-1(value), T: R^n -> the site's support.

    Args:
        site: the site.
        value: (*, *event_shape).

    Returns:
        u, (*, n).
    """
    unconstrained = value if is_real(site) else biject_to(site.support).inv(value)
    return unconstrained.reshape(
        *value.shape[: value.dim() - len(site.event_shape)], vector_size(site)
    )
