"""log p(x) at given weights, by importance sampling from a proposal fitted to each datum alone.

Knows the model's density over coordinates of its latents; takes the guide as a place to start from.
An encoder that has overfitted its training data then costs nothing: what is judged is the decoder.
"""

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.evaluation.blocks import as_float, checked, decoder_rows, evaluation
from ppl_vae.evaluation.density import LogDensity
from ppl_vae.evaluation.weights import program
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE

__all__ = ["Proposal", "RefinedImportance", "refined_log_likelihood"]

Proposal = tuple[
    Tensor, Tensor
]  # mean and log standard deviation of each datum's coordinates, (N, U)
NARROWEST, WIDENED = 0.03, 1.2
PARTICLES = 2


class _BoundGradient(nn.Module):
    """Gradients of -sum over data of E_q[log p(x, u) - log q(u)], q = N(mean, exp(log_scale)^2)."""

    def __init__(self, density: LogDensity) -> None:
        super().__init__()
        self.density = density

    def forward(self, mean: Tensor, log_scale: Tensor, x: Tensor) -> Proposal:
        with torch.enable_grad():
            mean, log_scale = (t.detach().requires_grad_() for t in (mean, log_scale))
            u = mean + log_scale.exp() * torch.randn(
                PARTICLES, *mean.shape, dtype=mean.dtype, device=mean.device
            )
            joint = sum(part.sum() for part in self.density(u, x)) / PARTICLES
            gradients = torch.autograd.grad(-(joint + log_scale.sum()), (mean, log_scale))
        return gradients[0], gradients[1]


class _LogEvidence(nn.Module):
    """log 1/K sum_k p(x, u_k) / q(u_k), u_k ~ q = N(mean, (WIDENED exp(log_scale))^2), (M,)
    nats.
    """

    def __init__(self, density: LogDensity, num_samples: int) -> None:
        super().__init__()
        self.density, self.num_samples = density, num_samples

    def forward(self, mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
        noise = torch.randn(self.num_samples, *mean.shape, dtype=mean.dtype, device=mean.device)
        log_prior, log_likelihood = self.density(mean + WIDENED * log_scale.exp() * noise, x)
        entropy_terms = (
            0.5 * noise.square() + log_scale + math.log(WIDENED * math.sqrt(2 * math.pi))
        )
        log_weights = log_prior + log_likelihood + entropy_terms.sum(-1)
        return log_weights.logsumexp(0) - math.log(self.num_samples)


class RefinedImportance:
    """log p(x) at a VAE's present weights.

    Programs are recorded once and follow the weights when these change. The estimate is that of
    `refined_log_likelihood`.

    Args:
        vae: the VAE; its weights have to be points.
        num_samples: K, draws of the latents for each datum.
        num_steps: steps of Adam that refine the proposals; 0 leaves them at their start.
        learning_rate: of Adam at the first step; it falls linearly to zero.
        compile: "off", "record" or "inductor", how the programs are run.

    Raises:
        InputError: for Bayesian weights, and for a bad value of an argument.
    """

    def __init__(
        self,
        vae: VAE,
        num_samples: int = 100,
        num_steps: int = 90,
        learning_rate: float = 0.1,
        compile: str = "record",
    ) -> None:
        checks.integer("num_samples", num_samples)
        checks.integer("num_steps", num_steps, 0)
        checks.number("learning_rate", learning_rate, 0.0, exclusive=True)
        self.vae, self.num_steps, self.learning_rate, self.compile = (
            vae,
            num_steps,
            learning_rate,
            compile,
        )
        self.density = LogDensity(vae, "refined")
        self.gradient, self.evidence = (
            _BoundGradient(self.density),
            _LogEvidence(self.density, num_samples),
        )
        self.rows = max(1, decoder_rows(vae) // max(num_samples, PARTICLES))
        self._programs: dict[Any, Any] = {}

    def __call__(
        self, x: Data, start: Proposal | None = None, seed: int | None = 0
    ) -> tuple[Tensor, Proposal]:
        """Estimate log p(x).

        Args:
            x: data (N, *event_shape), a tensor, an array, a frame or a map-style data set.
            start: mean and log standard deviation of each datum's proposal to begin with, (N, U)
                each; None takes the guide's moments.
            seed: of the draws; None uses the global generator.

        Returns:
            log p(x), (N,) nats, and the refined proposals.
        """
        with evaluation(self.vae, seed):
            x = as_float(self.vae, checked(self.vae, x))
            mean, log_scale = self._refined(x, self._moments(x) if start is None else start)
            blocks = zip(mean.split(self.rows), log_scale.split(self.rows), x.split(self.rows))
            values = [self._run(self.evidence, block) for block in blocks]
        return torch.cat(values), (mean, log_scale)

    def _run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        key = (module, len(inputs[0]))
        if key not in self._programs:
            self._programs[key] = program(module, inputs, self.compile)
        return self._programs[key](*inputs)

    def _moments(self, x: Tensor) -> Proposal:
        """Mean and log standard deviation of 32 draws of the guide."""
        moments = []
        for rows in x.split(max(1, decoder_rows(self.vae) // 32)):
            with pyro.plate("draws", 32, dim=-2):
                nodes: Any = poutine.trace(self.vae.guide).get_trace(rows).nodes
            sites = {site.name: nodes[site.name] for site in self.density.latents}
            shapes = {
                name: (32, len(rows), *site["fn"].event_shape) for name, site in sites.items()
            }
            u = self.density.coordinates(
                {name: site["value"].expand(shapes[name]) for name, site in sites.items()}
            )
            moments.append((u.mean(0), u.std(0).clamp(min=NARROWEST).log()))
        means, scales = zip(*moments)
        return torch.cat(means), torch.cat(scales)

    def _refined(self, x: Tensor, q: Proposal) -> Proposal:
        """The proposals after `num_steps` of Adam for all data at once, the learning rate falling
        to zero.
        """
        mean, log_scale = (t.clone() for t in q)
        optimizer = torch.optim.Adam([mean, log_scale], self.learning_rate)
        for step in range(self.num_steps):
            optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - step / self.num_steps)
            mean.grad, log_scale.grad = self._run(self.gradient, (mean, log_scale, x))
            optimizer.step()
        return mean, log_scale


def refined_log_likelihood(
    vae: VAE,
    x: Data,
    num_samples: int = 100,
    num_steps: int = 90,
    seed: int | None = 0,
    **options: Any,
) -> tuple[Tensor, Proposal]:
    """log p(x) at given weights, with proposals fitted to each datum alone.

    log p(x) = log E_q[p(x, u) / q(u)], K draws, q a Normal over `LogDensity`'s coordinates, one for
    each datum: the guide's moments, improved by Adam on that datum's bound, then widened by 1.2 so
    that its tails cover the posterior's. A lower bound in expectation; tight where the posterior
    has one mode.

    Args:
        vae: the VAE; its weights have to be points.
        x: data (N, *event_shape), a tensor, an array, a frame or a map-style data set.
        num_samples: K, draws of the latents for each datum.
        num_steps: steps of Adam that refine the proposals; 0 leaves them at the guide's moments.
        seed: of the draws; None uses the global generator.
        **options: further arguments of `RefinedImportance`.

    Returns:
        log p(x), (N,) nats, and the proposals it was estimated with: mean and log standard
        deviation of each datum's coordinates, (N, U) each.

    Raises:
        InputError: for Bayesian weights, and for a bad value of an argument.
    """
    return RefinedImportance(vae, num_samples, num_steps, **options)(x, seed=seed)
