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
    """Where chains are, with the two terms of their log density and the gradients of these.

    They are kept apart, so that a change of temperature costs no new evaluation.

    Args:
        u: coordinates (C, M, U).
        log_prior: log p(u), (C, M) nats.
        log_likelihood: log p(x|u), (C, M) nats.
        prior_gradient: of log p(u) in u, (C, M, U).
        likelihood_gradient: of log p(x|u) in u, (C, M, U).
    """

    u: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    prior_gradient: Tensor
    likelihood_gradient: Tensor

    def value(self, inverse_temperature: Tensor) -> Tensor:
        """log p(u) + b log p(x|u), (C, M) nats.

        Args:
            inverse_temperature: b, ().
        """
        return self.log_prior + inverse_temperature * self.log_likelihood

    def gradient(self, inverse_temperature: Tensor) -> Tensor:
        """The gradient of `value` in u, (C, M, U).

        Args:
            inverse_temperature: b, ().
        """
        return self.prior_gradient + inverse_temperature * self.likelihood_gradient


class Gradients(nn.Module):
    """u, x -> the fields of `State` but u, by one backward pass for each term.

    The chains are independent, so that the gradient of a sum over them serves all.

    Args:
        density: log p(u) and log p(x|u).
    """

    def __init__(self, density: LogDensity) -> None:
        super().__init__()
        self.density = density

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """The log densities and their gradients in u, whatever the gradient mode around it.

        Args:
            u: coordinates (C, M, U).
            x: data (M, *event_shape).

        Returns:
            log p(u) and log p(x|u), (C, M) nats each, and the gradient of each, (C, M, U).
        """
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            terms = self.density(u, x)
            gradients = [torch.autograd.grad(term.sum(), u, retain_graph=True)[0] for term in terms]
        return (*(term.detach() for term in terms), *gradients)


class Chains:
    """C chains for each of M data, and a step size for each datum, (M,).

    Args:
        density: log p(u) and log p(x|u).
        x: data (M, *event_shape), of the model's dtype and device.
        u: where the chains start, (C, M, U).
        num_leapfrog: leapfrog steps of each transition.
        tier: "off", "record" or "inductor", how the density's gradient is run.
    """

    def __init__(
        self, density: LogDensity, x: Tensor, u: Tensor, num_leapfrog: int, tier: str
    ) -> None:
        self.x, self.num_leapfrog = x, num_leapfrog
        self.step_size = x.new_full((len(x),), 0.1)
        self._gradients = program(Gradients(density), [u, x], tier)
        self.start(u)

    def start(self, u: Tensor) -> None:
        """Put the chains at given coordinates.

        Args:
            u: where they are to be, (C, M, U).
        """
        self.state = self._at(u)

    def _at(self, u: Tensor) -> State:
        return State(u, *self._gradients(u, self.x))

    def transition(self, inverse_temperature: Tensor) -> Tensor:
        """Take one step of the kernel that keeps p(u) p(x|u)^b.

        Args:
            inverse_temperature: b, ().

        Returns:
            The share accepted for each datum, (M,).

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
        """Lengthen steps where more than the target share was accepted, and shorten them elsewhere.

        e <- e exp(rate (a - t)), e the step size and t = 0.65 the target.

        Args:
            acceptance: a, the share accepted for each datum, (M,).
            rate: how fast step sizes change.
        """
        self.step_size = self.step_size * (rate * (acceptance - TARGET_ACCEPTANCE)).exp()


def _where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted.reshape(*accepted.shape, *(1,) * (new.dim() - 2)), new, old)


def chain_tier(wanted: str, evaluations: int) -> str:
    """How the gradient is run, by the number of its evaluations.

    Recording pays after hundreds of evaluations, compiling after tens of thousands.

    Args:
        wanted: "off", "record" or "inductor", which are returned as they are, or "auto".
        evaluations: how often the gradient will be evaluated.
    """
    if wanted != "auto":
        return wanted
    return "inductor" if evaluations >= EVALUATIONS_WORTH_COMPILING else "record"
