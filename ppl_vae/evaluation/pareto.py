"""The tail of importance weights: how heavy it is says whether their average can be believed.

Knows arrays of log weights, one column a datum; knows nothing of where they come from.
"""

import math

import torch
from torch import Tensor

__all__ = ["pareto_k", "pareto_k_of_tail", "tail_size"]

SMALLEST_TAIL = 5  # a fit to fewer exceedances says nothing


def tail_size(num_samples: int) -> int:
    """Number of largest weights that make up the tail: ceil(min(S/5, 3 sqrt(S))).

    Args:
        num_samples: S, the number of weights.

    Source: Pareto smoothed importance sampling (2024), section 2.2.

    >>> tail_size(1000)
    95
    """
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def pareto_k(log_weights: Tensor) -> Tensor:
    """Shape k of a generalised Pareto fitted to the tail of each column's weights.

    Moments of the weights below order 1/k exist. k < 0.7: the estimate can be trusted; above, it
    cannot. It is +inf where the tail has fewer than 5 distinct exceedances, too few to say, and 0
    where all weights are equal: q is exact.

    Args:
        log_weights: (S, N), S weights of each of N data.

    Returns:
        k, (N,), double precision.

    Source: Pareto smoothed importance sampling (2024), sections 2 and 3.

    >>> import torch
    >>> pareto_k(torch.zeros(100, 2))  # equal weights
    tensor([0., 0.], dtype=torch.float64)
    """
    return pareto_k_of_tail(log_weights.topk(tail_size(len(log_weights)) + 1, dim=0).values)


def pareto_k_of_tail(largest: Tensor) -> Tensor:
    """`pareto_k` from the largest log weights of each column alone.

    Args:
        largest: (tail_size(S) + 1, N), in falling order.

    Returns:
        k, (N,), double precision.
    """
    log_ratio = (
        (largest - largest[:1]).double().T.flip(1)
    )  # rising, the largest weight of each datum scaled to 1
    cutoff = log_ratio[:, :1].clamp(min=math.log(torch.finfo(torch.float64).tiny))
    exceedances = log_ratio[:, 1:].exp() - cutoff.exp()
    counts = (log_ratio[:, 1:] > cutoff).sum(1)
    k = largest.new_full((len(counts),), math.inf, dtype=torch.float64)
    for count in (
        counts.unique().tolist()
    ):  # ties with the cutoff shorten a tail; almost always all have one length
        if count >= SMALLEST_TAIL:
            k[counts == count] = _fit(exceedances[counts == count, -count:])
    return torch.where(_equal(largest) & (len(largest) > 1), 0.0, k)  # of one draw nothing is known


def _equal(largest: Tensor) -> Tensor:
    """Columns whose log weights differ by no more than the rounding of sums of their size."""
    resolution = 64 * torch.finfo(largest.dtype).eps * largest[0].abs().clamp(min=1.0)
    return (largest[0] - largest[-1] <= resolution) & largest[0].isfinite()


def _fit(x: Tensor) -> Tensor:
    """Shape of a generalised Pareto for exceedances x (N, n), rising: a quasi-Bayesian mean over a
    grid of m points.

    b_j = (1 - sqrt(m / (j - 1/2))) / (3 x_quartile) + 1 / x_max,  k(b) = mean_i log(1 - b x_i),
    weighted by the profile likelihood of b; then shrunk to 1/2 with the weight of ten observations.
    Source: A new and efficient estimation method for the generalized Pareto distribution (2009),
    section 3.
    """
    n = x.shape[1]
    m = 30 + math.isqrt(n)
    grid = 1 - (m / (torch.arange(1, m + 1, dtype=x.dtype, device=x.device) - 0.5)).sqrt()
    b = grid / (3 * x[:, int(n / 4 + 0.5) - 1, None]) + 1 / x[:, -1:]
    k = torch.log1p(-b[:, :, None] * x[:, None, :]).mean(2)
    profile = n * ((-b / k).log() - k - 1)
    b = (b * profile.softmax(1)).sum(1, keepdim=True)
    k = torch.log1p(-b * x).mean(1)
    return (n * k + 10 * 0.5) / (n + 10)
