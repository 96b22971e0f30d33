"""Step sizes of a stochastic-gradient chain: which step has which size and temperature, and whether
it is kept.

Knows numbers only.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ppl_vae import checks

__all__ = ["ConstantSteps", "CyclicalSteps", "Kernel", "Move"]


@dataclass(frozen=True)
class Move:
    """One step of a chain.

    Args:
        step_size: e, in units of the loss in nats per datum.
        temperature: T; at 0 no noise is added.
        keep: whether the draw after the step is kept.
    """

    step_size: float
    temperature: float
    keep: bool


@dataclass(frozen=True)
class Kernel:
    """Abstract: the steps of one chain.

    Args:
        step_size: e, in units of the loss in nats per datum.
        friction: a, the share of momentum lost a step, above 0 and at most 1.
        temperature: T, 1 for the posterior itself.
    """

    step_size: float = 0.02
    friction: float = 0.05
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields; raises `InputError`."""
        checks.number("step_size", self.step_size, 0.0, exclusive=True)
        checks.number("temperature", self.temperature, 0.0)
        if checks.number("friction", self.friction, 0.0, exclusive=True) > 1:
            checks.refuse("friction", self.friction, "a share, at most 1")

    def moves(self, num_draws: int) -> Iterator[Move]:
        """The steps that lead to the draws.

        Args:
            num_draws: draws to be kept.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ConstantSteps(Kernel):
    """One step size throughout: some steps at first, then a draw at regular distances.

    Args:
        step_size: e, in units of the loss in nats per datum.
        friction: a, the share of momentum lost a step, above 0 and at most 1.
        temperature: T, 1 for the posterior itself.
        burn_in: steps before those that lead to draws.
        thin: steps for each draw.
    """

    burn_in: int = 2000
    thin: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("burn_in", self.burn_in, 0)
        checks.integer("thin", self.thin)

    def moves(self, num_draws: int) -> Iterator[Move]:
        for k in range(1, self.burn_in + self.thin * num_draws + 1):
            after = k - self.burn_in
            yield Move(self.step_size, self.temperature, after > 0 and after % self.thin == 0)


@dataclass(frozen=True)
class CyclicalSteps(Kernel):
    """Step sizes that fall to 0 in cycles, e_k = step_size/2 (1 + cos(pi t)).

    t in [0, 1) is the place in the cycle. Up to t = `exploration` no noise is added (a search for
    another mode); after it the chain samples, and `draws_per_cycle` draws are kept, the last at the
    cycle's end.

    Args:
        step_size: e at the start of a cycle, in units of the loss in nats per datum.
        friction: a, the share of momentum lost a step, above 0 and at most 1.
        temperature: T while the chain samples, 1 for the posterior itself.
        cycle: steps of a cycle, at least two for each of its draws.
        draws_per_cycle: draws that each cycle keeps.
        exploration: the share of a cycle without noise, from 0 to below 1.

    Source: Cyclical stochastic gradient MCMC for Bayesian deep learning (2020), section 3.
    """

    cycle: int = 2000
    draws_per_cycle: int = 4
    exploration: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("draws_per_cycle", self.draws_per_cycle)
        checks.integer("cycle", self.cycle, 2 * self.draws_per_cycle)
        if not 0 <= checks.number("exploration", self.exploration) < 1:
            checks.refuse("exploration", self.exploration, "a share of the cycle, below 1")

    def moves(self, num_draws: int) -> Iterator[Move]:
        every = max(1, int((1 - self.exploration) * self.cycle) // (2 * self.draws_per_cycle))
        for i in range(-(-num_draws // self.draws_per_cycle)):
            left = min(self.draws_per_cycle, num_draws - i * self.draws_per_cycle)
            kept = {self.cycle - 1 - j * every for j in range(left)}
            for k in range(self.cycle):
                place = k / self.cycle
                step_size = self.step_size / 2 * (1 + math.cos(math.pi * place))
                yield Move(
                    step_size, self.temperature if place >= self.exploration else 0.0, k in kept
                )
