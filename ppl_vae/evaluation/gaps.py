"""Where the bound loses: to the family of q, or to one encoder having to serve all data.

Knows the guide as a module that can be copied and fitted anew; knows nothing of how it is built.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.elbo import estimator_from, kl_report
from ppl_vae.evaluation.blocks import as_float, checked, evaluation
from ppl_vae.evaluation.likelihood import log_likelihood
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE, Guide

__all__ = ["InferenceGaps", "inference_gaps"]

FINAL_PARTICLES = 2000


@dataclass(frozen=True)
class InferenceGaps:
    """log p(x) and the bounds of a guide before and after it is fitted to each datum alone.

    Args:
        log_likelihood: log p(x), (N,) nats, signed.
        refitted: L[q*], the bound of the guide fitted anew to each datum, (N,) nats, signed.
        amortised: L[q], the bound of the guide, (N,) nats, signed.
    """

    log_likelihood: Tensor
    refitted: Tensor
    amortised: Tensor

    @property
    def approximation(self) -> Tensor:
        """log p(x) - L[q*], (N,) nats: what the best member q* of the family lacks."""
        return self.log_likelihood - self.refitted

    @property
    def amortisation(self) -> Tensor:
        """L[q*] - L[q], (N,) nats: what the encoder's q(z|x) lacks of the best member."""
        return self.refitted - self.amortised


def inference_gaps(
    vae: VAE,
    x: Data,
    method: str = "annealed",
    num_steps: int = 300,
    learning_rate: float = 1e-2,
    num_particles: int = 16,
    seed: int | None = None,
    progress: bool = False,
    **options: Any,
) -> InferenceGaps:
    """log p(x) - L[q] = approximation gap + amortisation gap, for each datum.

    L[q*]: a copy of the guide, all its parameters, maximises the bound of this one datum from the
    amortised start; 2000 draws then estimate both bounds.

    Args:
        vae: the VAE; it stays as it is.
        x: data (N, *event_shape), a tensor, an array, a frame or a map-style data set.
        method: the method of `log_likelihood` that gives log p(x).
        num_steps: steps of Adam for each datum.
        learning_rate: of Adam at the first step; it falls linearly to zero.
        num_particles: draws of z in each step's bound.
        seed: of the draws; None uses the global generator.
        progress: whether to show a progress bar.
        **options: further arguments of `log_likelihood`, those of its method among them.

    Returns:
        An `InferenceGaps`.

    Raises:
        InputError: for Bayesian weights, whose own KL a datum's bound lacks, for a guide that is a
            point, and for a bad value of an argument.

    Source: Inference suboptimality in variational autoencoders (2018), section 3.
    """
    tensor = checked(vae, x)
    _check(vae, tensor)
    checks.integer("num_steps", num_steps)
    checks.integer("num_particles", num_particles)
    checks.number("learning_rate", learning_rate, 0.0, exclusive=True)
    likelihood = log_likelihood(vae, tensor, method=method, seed=seed, progress=progress, **options)
    with evaluation(vae, seed):
        bounds = []
        for row in tqdm(tensor.split(1), disable=not progress, unit="datum", desc="refitting q"):
            datum = as_float(vae, row)
            best = _refitted(vae, datum, num_steps, learning_rate, num_particles)
            bounds.append(
                torch.cat([_bound(vae, q, datum, FINAL_PARTICLES) for q in (best, vae.guide)])
            )
    refitted, amortised = torch.stack(bounds, 1).double().cpu()
    return InferenceGaps(likelihood.values, refitted, amortised)


def _check(vae: VAE, x: Tensor) -> None:
    if vae.guide.weights is not None:
        checks.refuse("inference_gaps", "Bayesian weights", "weights that are points")
    kinds = kl_report(vae.model, vae.guide, as_float(vae, x[:1]), "A")
    if "point" in kinds.values():
        checks.refuse(
            "inference_gaps",
            "a guide that is a point",
            "a density of z, since a point has no bound",
        )


def _bound(vae: VAE, guide: Guide, x: Tensor, num_particles: int) -> Tensor:
    return estimator_from("A", num_particles).terms(vae.model, guide, x).lower_bound


def _refitted(
    vae: VAE, x: Tensor, num_steps: int, learning_rate: float, num_particles: int
) -> Guide:
    """The guide that has seen this datum only; its learning rate falls to zero, so that it ends at
    an optimum.
    """
    guide = copy.deepcopy(vae.guide)
    parameters = [p for p in guide.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, learning_rate)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / num_steps)
        with torch.enable_grad():
            loss = -_bound(vae, guide, x, num_particles).mean()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        optimizer.step()
    return guide
