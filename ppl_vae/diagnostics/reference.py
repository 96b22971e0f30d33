"""The posterior itself for a few data, by NUTS, and how far q is from it.

Knows the joint density and Pyro's NUTS; knows nothing of training.
"""

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import Tensor

from ppl_vae import checks
from ppl_vae.diagnostics.containers import convergence
from ppl_vae.evaluation.blocks import as_float, checked, evaluation
from ppl_vae.evaluation.density import LogDensity
from ppl_vae.evaluation.hamiltonian import Gradients
from ppl_vae.evaluation.likelihood import log_likelihood
from ppl_vae.evaluation.measures import lower_bound
from ppl_vae.evaluation.weights import program
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE

__all__ = ["NutsReference", "nuts_reference"]


@dataclass(frozen=True)
class NutsReference:
    """Draws of p(u|x) and of q(u|x) for N data, u the U coordinates of `LogDensity`; and what they
    say of q.

    u is (z - location) / scale where the prior gives z a location and a scale (z itself under N(0,
    I)), and z mapped to the reals elsewhere.

    draws: (C, S, N, U) by NUTS. r_hat, effective_sample_size: (N, U), of those draws: the chains
    are Markov chains, so here they mean something. mean_error: (E_q[u] - E_p[u]) / sd_p, (N, U).
    scale_error: ln(sd_q / sd_p), (N, U), below 0 where q is overconfident. kl: KL(q || p(z|x)) =
    log p(x) - L, (N,) nats.
    """

    draws: Tensor
    r_hat: Tensor
    effective_sample_size: Tensor
    mean_error: Tensor
    scale_error: Tensor
    kl: Tensor


def nuts_reference(
    vae: VAE,
    x: Data,
    num_samples: int = 500,
    num_warmup: int = 300,
    num_chains: int = 4,
    seed: int = 0,
    method: str = "annealed",
    progress: bool = False,
    **options: Any,
) -> NutsReference:
    """Sample p(z|x) of a few data x (N, *event_shape) with Pyro's NUTS, all data and chains in one
    joint run.

    The C chains of N data are one point of dimension C N U: they are independent under the target,
    so one run of NUTS moves all of them, at a step size that suits the worst. log p(x) comes from
    `method` and its options.
    Source: The No-U-Turn sampler (2014).
    """
    for name, value in (
        ("num_samples", num_samples),
        ("num_warmup", num_warmup),
        ("num_chains", num_chains),
    ):
        checks.integer(name, value)
    likelihood = log_likelihood(vae, x, method=method, seed=seed, **options)
    kl = likelihood.values - lower_bound(vae, x, num_particles=1000, seed=seed).double().cpu()
    with evaluation(vae, seed):
        density, data = LogDensity(vae, "nuts"), as_float(vae, checked(vae, x))
        guide = _guide_draws(vae, density, data, 1000)
        draws = _nuts(density, data, guide[:num_chains], num_samples, num_warmup, progress)
    pooled = draws.flatten(0, 1)
    mean_error = (guide.mean(0) - pooled.mean(0)) / pooled.std(0)
    r_hat, size = convergence(draws.cpu().numpy())
    return NutsReference(draws, r_hat, size, mean_error, (guide.std(0) / pooled.std(0)).log(), kl)


def _guide_draws(vae: VAE, density: LogDensity, x: Tensor, num_samples: int) -> Tensor:
    """u ~ q(u|x), (S, N, U)."""
    with pyro.plate("draws", num_samples, dim=-2):
        nodes: Any = poutine.trace(vae.guide).get_trace(x).nodes
    return density.coordinates({site.name: nodes[site.name]["value"] for site in density.latents})


class _Potential(torch.autograd.Function):
    """-log p(u, x) summed, whose gradient the recorded program gives together with the value."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, gradients: Any, x: Tensor) -> Tensor:
        log_prior, log_likelihood, *parts = gradients(u, x)
        ctx.save_for_backward(sum(parts))
        return -(log_prior + log_likelihood).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        return -outer[0] * ctx.saved_tensors[0], None, None


def _nuts(
    density: LogDensity, x: Tensor, start: Tensor, num_samples: int, num_warmup: int, progress: bool
) -> Tensor:
    """(C, S, N, U) from chains that start at u (C, N, U)."""
    gradients = program(Gradients(density), [start, x], "record")

    def potential(parameters: dict[str, Tensor]) -> Tensor:
        return _Potential.apply(parameters["u"], gradients, x)

    with torch.enable_grad():
        kernel = NUTS(potential_fn=potential, max_tree_depth=7)
        run = MCMC(
            kernel,
            num_samples,
            num_warmup,
            initial_params={"u": start.clone()},
            disable_progbar=not progress,
        )
        run.run()
    return run.get_samples()["u"].detach().transpose(0, 1)
