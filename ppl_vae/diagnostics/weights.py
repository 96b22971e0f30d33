"""What a posterior over weights is worth: which weights it is sure of, and how much its functions
differ.

Knows q(theta) of a VAE and estimators; knows nothing of how q(theta) was found.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import checks
from ppl_vae.elbo import estimator_from
from ppl_vae.evaluation.blocks import as_float, by_blocks, checked, decoder_rows, evaluation
from ppl_vae.guides.program import named
from ppl_vae.handlers.layers import call
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE

__all__ = ["functional_spread", "lower_bound_when_pruned", "weight_signal_to_noise"]


def weight_signal_to_noise(vae: VAE) -> dict[str, Tensor]:
    """|E_q[W]| / sd_q[W] of every weight, by site: below 1 a weight's sign is hardly known, and it
    can be pruned.

    Raises `InputError` where weights are points. Source: Weight uncertainty in neural networks
    (2015), section 5.1.
    """
    weights = _weights(vae)
    with torch.no_grad():
        found = {name: weights.distributions()[name] for name in weights.weight_names}
        return {name: q.mean.abs() / q.variance.sqrt() for name, q in found.items()}


def lower_bound_when_pruned(
    vae: VAE,
    x: Data,
    shares: Sequence[float] = (0.0, 0.5, 0.75, 0.9, 0.98),
    num_particles: int = 10,
    seed: int | None = None,
) -> dict[float, float]:
    """Mean bound in nats per datum, KL(theta) left out, at E_q[theta] with a share of the weights
    set to zero.

    Those of the least signal-to-noise over all sites go first; share 0 is the posterior mean
    itself.
    """
    if not isinstance(shares, Sequence) or isinstance(shares, str):
        checks.refuse("shares", repr(shares), "a sequence of shares from 0 to 1")
    shares = [checks.number("shares", share, 0.0, maximum=1.0) for share in shares]
    ratios, means = weight_signal_to_noise(vae), vae.guide.mean_weights()
    ordered = torch.cat([ratio.flatten() for ratio in ratios.values()]).sort().values
    found = {}
    for share in shares:
        smallest = ordered[min(int(share * len(ordered)), len(ordered) - 1)]
        kept = {
            name: torch.where(ratios[name] >= smallest, mean, 0.0) for name, mean in means.items()
        }
        found[share] = (
            by_blocks(vae, x, _bound_at(vae, kept, num_particles), num_particles, seed)
            .mean()
            .item()
        )
    return found


def _bound_at(vae: VAE, theta: dict[str, Tensor], num_particles: int) -> Callable[[Tensor], Tensor]:
    """x -> the bound of each datum, (M,), with the weights fixed."""
    fixed = (poutine.condition(program, theta) for program in (vae.model, vae.guide))
    model, guide = (
        poutine.block(program, hide=list(theta)) for program in fixed
    )  # log p(theta) is no part of it
    return lambda rows: estimator_from("A", num_particles).terms(model, guide, rows).lower_bound


def functional_spread(vae: VAE, x: Data, num_samples: int = 20, seed: int | None = None) -> Tensor:
    """Root mean square over the event of sd_theta(E[x|z, theta]) at z the posterior mean, (N,), in
    units of x.

    0 where all drawn weights are one function; raises `InputError` where weights are points.
    """
    weights = _weights(vae)
    checks.integer("num_samples", num_samples, 2)
    with evaluation(vae, seed):
        z = torch.cat(
            [vae.encode(as_float(vae, rows)) for rows in checked(vae, x).split(decoder_rows(vae))]
        )
        centre, total, squares = (
            vae.decode(z).mean,
            torch.zeros(()),
            torch.zeros(()),
        )  # so that no digits are lost
        for _ in range(num_samples):
            theta = named(weights(), "decoder.")
            means = (
                call(vae.model.decoder, theta, rows).mean for rows in z.split(decoder_rows(vae))
            )
            deviation = torch.cat(list(means)) - centre
            total, squares = total + deviation, squares + deviation.square()
        variance = (squares - total.square() / num_samples).clamp(min=0) / (num_samples - 1)
        return variance.flatten(1).mean(1).sqrt()


def _weights(vae: VAE) -> Any:
    if vae.guide.weights is None:
        checks.refuse(
            "vae",
            "weights that are points",
            "Bayesian weights",
            "build it with VAEConfig(weights=...)",
        )
    return vae.guide.weights
