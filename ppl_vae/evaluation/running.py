"""The mean of weights that come in pieces, in bounded memory, and what says whether to believe it.

Knows arrays of log weights; knows nothing of where they come from.
"""

import math

import torch
from torch import Tensor

from ppl_vae.evaluation.pareto import pareto_k_of_tail, tail_size

__all__ = ["RunningWeights"]


class RunningWeights:
    """log mean_s w_s of M data from log weights that come in pieces.

    It keeps the tail that Pareto k needs and no more.

    Args:
        num_samples: S, the number of weights of each datum in all pieces together.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples, self.tail = num_samples, tail_size(num_samples) + 1
        self.total = self.largest = torch.empty(0)

    def update(self, log_weights: Tensor) -> None:
        """Take in further log weights.

        Args:
            log_weights: (S', M), S' further ones of each datum.
        """
        precise = log_weights.double()
        sums = torch.stack([precise.logsumexp(0), (2 * precise).logsumexp(0)])
        first = not len(self.total)
        self.total = sums if first else torch.logaddexp(self.total, sums)
        candidates = log_weights if first else torch.cat([self.largest, log_weights])
        self.largest = candidates.topk(min(self.tail, len(candidates)), dim=0).values

    def summary(self) -> Tensor:
        """The log mean weight of each datum, and what says whether to believe it.

        Returns:
            (3, M): log mean weight, Pareto k, and the Monte Carlo error sqrt(sum w^2 / (sum w)^2 -
            1/S), NaN for S = 1.
        """
        total, squares = self.total
        error = ((squares - 2 * total).exp() - 1 / self.num_samples).clamp(min=0).sqrt()
        error = error if self.num_samples > 1 else torch.full_like(error, math.nan)
        return torch.stack(
            [total - math.log(self.num_samples), pareto_k_of_tail(self.largest), error]
        )
