"""The noise of minibatch gradients: how wide it is, and how much less is then to be injected.

Knows lists of gradients; knows nothing of VAEs or of the chain that asks for them.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

__all__ = ["GradientNoise"]

PAIRS = 32
SHARE_OF_NEW = 0.3  # of a later measurement in the running mean
TOLERATED = 0.05


class GradientNoise:
    """Variance of the gradient g by weight, from pairs of g at the same weights.

    d = (g - g') / sqrt(2). A chain with step size e, friction a and temperature T on N data needs
    noise of variance 2 a e T / N in its velocity; e g brings e^2 Var g, and the rest is injected.
    What is subtracted is the variance of each weight alone: noise that weights share stays.

    Args:
        num_data: N.
        friction: a.

    Source: Stochastic gradient Hamiltonian Monte Carlo (2014), equation 15.
    """

    def __init__(self, num_data: int, friction: float) -> None:
        self.num_data, self.friction = num_data, friction
        self.variance: list[Tensor] = []
        self.shared = 0.0

    def measure(self, gradients: Callable[[], Sequence[Tensor]]) -> None:
        """Take in 32 pairs of gradients, all at the weights where the chain is.

        Args:
            gradients: makes the gradients of a fresh minibatch, one tensor for each weight.
        """
        pairs = [[(a - b) / 2**0.5 for a, b in zip(gradients(), gradients())] for _ in range(PAIRS)]
        variance = [torch.stack(parts).square().mean(0) for parts in zip(*pairs)]
        flat = torch.stack([torch.cat([part.flatten() for part in pair]) for pair in pairs])
        products = (flat @ flat.T).double()
        # (d . d')^2 of independent d has the mean tr S^2, S the covariance, and |d|^2 has tr S
        squares = [products[i, j].square() for i, j in combinations(range(PAIRS), 2)]
        trace = products.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        shared = (torch.stack(squares).mean() / trace).item()
        rate = SHARE_OF_NEW if self.variance else 1.0
        previous = self.variance or variance
        self.variance = [old.lerp(new, rate) for old, new in zip(previous, variance)]
        self.shared += rate * (shared - self.shared)

    def wanted(self, step_size: float, temperature: float) -> float:
        """2 a e T / N, the variance that the velocity's noise is to have.

        Args:
            step_size: e.
            temperature: T.
        """
        return 2 * self.friction * step_size * temperature / self.num_data

    def injected(self, step_size: float, temperature: float) -> list[Tensor]:
        """sqrt(2 a e T / N - e^2 Var g), or 0 where that is negative, weight by weight.

        Args:
            step_size: e.
            temperature: T.
        """
        wanted = self.wanted(step_size, temperature)
        return [(wanted - step_size**2 * v).clamp(min=0).sqrt() for v in self.variance]

    def excess(self, step_size: float, temperature: float) -> float:
        """By how much the chain is too warm, as a share of T, in the mean over the noise.

        e^2 (tr S^2 - sum_j c_j S_jj) / (tr S 2 a e T / N), S the covariance of g and c_j what was
        subtracted for weight j, at most S_jj. The mean is over directions of the noise.

        Args:
            step_size: e.
            temperature: T, above 0.
        """
        wanted = self.wanted(step_size, temperature)
        flat = torch.cat([v.flatten() for v in self.variance]).double()
        subtracted = flat.clamp(max=wanted / step_size**2)
        total = flat.sum().clamp(min=torch.finfo(torch.float64).tiny)
        mean = ((flat * subtracted).sum() / total).item()
        return step_size**2 * (self.shared - mean) / wanted

    def tolerable(self, step_size: float, temperature: float) -> float:
        """The largest of a step size, its half, its quarter ... at which the excess is at most 5 %.

        Args:
            step_size: e, the largest.
            temperature: T, above 0.
        """
        while self.excess(step_size, temperature) > TOLERATED:
            step_size /= 2
        return step_size
