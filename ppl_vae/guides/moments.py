"""Moments of a guide's distribution that its family may not have in closed form.

Knows distributions and transforms; knows nothing of sites or networks.
"""

import contextlib
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["mean"]


def mean(q: Any, draws: Tensor | None = None) -> Tensor:
    """The mean of q; where the family has none in closed form, a numerical one.

    It is then that of 64 Gauss-Hermite nodes or of 256 draws.

    Args:
        q: a distribution of a guide.
        draws: where q is itself one of many, given draws of what it is given: its draws, which are
            returned in place of 256 draws' mean, to be averaged over. None draws the 256.
    """
    with contextlib.suppress(NotImplementedError):
        return q.mean
    base = getattr(getattr(q, "base_dist", None), "base_dist", None)
    if isinstance(base, dist.Normal) and all(map(_is_elementwise, q.transforms)):
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        shape = (-1, *(1,) * base.loc.dim())
        x = base.loc + base.scale * torch.as_tensor(
            nodes, dtype=base.loc.dtype, device=base.loc.device
        ).reshape(shape)
        for transform in q.transforms:
            x = transform(x)
        return (torch.as_tensor(weights / math.sqrt(2 * math.pi)).to(x).reshape(shape) * x).sum(0)
    return q.sample((256,)).mean(0) if draws is None else draws


def _is_elementwise(transform: Any) -> bool:
    """Whether a coordinate of the output depends on its own coordinate alone, as one-dimensional
    quadrature needs.
    """
    inner = getattr(transform, "base_transform", transform)
    return inner.domain.event_dim == inner.codomain.event_dim == 0
