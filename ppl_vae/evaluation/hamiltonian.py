"""Hamiltonian Monte Carlo for many chains and many data at once, each datum with a step size of its
own.

Knows the joint density; knows nothing of what the chains are for.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ppl_vae.evaluation.density import LogDensity
from ppl_vae.evaluation.weights import program

__all__ = ["Chains", "Gradients", "State", "chain_tier"]

TARGET_ACCEPTANCE, EVALUATIONS_WORTH_COMPILING = 0.65, 50_000


class State(NamedTuple):
    """Where chains are, u (C, M, U), with log p(u) and log p(x|u), (C, M), and their gradients in
    u, (C, M, U).

    Kept apart, so that a change of temperature costs no new evaluation.
    """

    u: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    prior_gradient: Tensor
    likelihood_gradient: Tensor

    def value(self, inverse_temperature: Tensor) -> Tensor:
        """log p(u) + b log p(x|u), (C, M)."""
        return self.log_prior + inverse_temperature * self.log_likelihood

    def gradient(self, inverse_temperature: Tensor) -> Tensor:
        """The gradient of `value`, (C, M, U)."""
        return self.prior_gradient + inverse_temperature * self.likelihood_gradient


class Gradients(nn.Module):
    """u, x -> the fields of `State` but u; the chains are independent, so one backward pass serves
    all.
    """

    def __init__(self, density: LogDensity) -> None:
        super().__init__()
        self.density = density

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """(log p(u), log p(x|u), and the gradient of each), whatever the gradient mode around
        it.
        """
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            terms = self.density(u, x)
            gradients = [torch.autograd.grad(term.sum(), u, retain_graph=True)[0] for term in terms]
        return (*(term.detach() for term in terms), *gradients)


class Chains:
    """C chains for each of M data, and a step size for each datum, (M,)."""

    def __init__(
        self, density: LogDensity, x: Tensor, u: Tensor, num_leapfrog: int, tier: str
    ) -> None:
        self.x, self.num_leapfrog = x, num_leapfrog
        self.step_size = x.new_full((len(x),), 0.1)
        self._gradients = program(Gradients(density), [u, x], tier)
        self.start(u)

    def start(self, u: Tensor) -> None:
        """Put the chains at u (C, M, U)."""
        self.state = self._at(u)

    def _at(self, u: Tensor) -> State:
        return State(u, *self._gradients(u, self.x))

    def transition(self, inverse_temperature: Tensor) -> Tensor:
        """One step of the kernel that keeps p(u) p(x|u)^b; returns the share accepted for each
        datum, (M,).

        Source: MCMC using Hamiltonian dynamics (2011), section 2.
        """
        b, size, new = inverse_temperature, self.step_size[:, None], self.state
        momentum = torch.randn_like(new.u)
        before = new.value(b) - momentum.square().sum(-1) / 2
        for _ in range(self.num_leapfrog):
            momentum = momentum + size / 2 * new.gradient(b)
            new = self._at(new.u + size * momentum)
            momentum = momentum + size / 2 * new.gradient(b)
        log_ratio = (new.value(b) - momentum.square().sum(-1) / 2 - before).nan_to_num(
            nan=-torch.inf
        )
        accepted = torch.rand_like(log_ratio).log() < log_ratio
        self.state = State(*(_where(accepted, *pair) for pair in zip(new, self.state)))
        return log_ratio.exp().clamp(max=1).mean(0)

    def adapt(self, acceptance: Tensor, rate: float = 0.1) -> None:
        """Longer steps where more than the target share was accepted, shorter where less: e <- e
        exp(rate (a - t)).
        """
        self.step_size = self.step_size * (rate * (acceptance - TARGET_ACCEPTANCE)).exp()


def _where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted.reshape(*accepted.shape, *(1,) * (new.dim() - 2)), new, old)


def chain_tier(wanted: str, evaluations: int) -> str:
    """The tier of the gradient: recording pays after hundreds of evaluations, compiling after tens
    of thousands.
    """
    if wanted != "auto":
        return wanted
    return "inductor" if evaluations >= EVALUATIONS_WORTH_COMPILING else "record"
