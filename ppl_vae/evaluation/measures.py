"""Cheap measures of a pair of programs, per datum or per latent: the bound, reconstruction error,
active units.

Knows estimators and the VAE's own questions; knows nothing of importance weights.
"""

from torch import Tensor

from ppl_vae import checks
from ppl_vae.elbo import estimator_from
from ppl_vae.evaluation.blocks import by_blocks, checked
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE

__all__ = ["active_units", "lower_bound", "reconstruction_error"]


def lower_bound(
    vae: VAE, x: Data, estimator: str = "B", num_particles: int = 1, seed: int | None = None
) -> Tensor:
    """An unbiased estimate of the evidence lower bound of each datum, signed: higher is better.

    L(x) = E_q[log p(x|z)] - sum over sites of KL(q(z|x) || p(z)) - KL(q(theta) || p(theta)) / N,
    the last term only where weights are Bayesian; N is `vae.num_data`, or len(x) where that is not
    known. A guide that is a point has no KL: what is left, log p(x|z) at its z, bounds nothing.

    Args:
        vae: the VAE.
        x: data (N, *event_shape), a tensor, an array, a frame or a map-style data set.
        estimator: "A" (all terms sampled), "B" (closed-form KL where there is one), "iwae", "dreg"
            or "renyi:ALPHA" (`elbo.estimator_from`).
        num_particles: draws of z averaged for each datum.
        seed: of the draws; None uses the global generator.

    Returns:
        The bounds, (N,) nats.

    Raises:
        InputError: for what is no data of this VAE, and for a bad value of an argument.

    Source: Auto-Encoding Variational Bayes (2013), equations 6 and 7.
    """
    elbo, tensor = estimator_from(estimator, num_particles), checked(vae, x)
    num_data = vae.num_data or len(tensor)

    def bound(rows: Tensor) -> Tensor:
        terms = elbo.terms(vae.model, vae.guide, rows)
        return terms.lower_bound - sum(kl.value for kl in terms.weight_kl.values()) / num_data

    return by_blocks(vae, tensor, bound, elbo.num_particles, seed)


def reconstruction_error(
    vae: VAE, x: Data, num_samples: int | None = None, seed: int | None = None
) -> Tensor:
    """Sum of squared error of the reconstruction of each datum, in squared units of x.

    ||x - E[x|z]||^2 over the entries observed, at z the posterior mean, or its average over draws
    z ~ q(z|x).

    Args:
        vae: the VAE.
        x: data (N, *event_shape), a tensor, an array, a frame or a map-style data set.
        num_samples: K, draws of z for each datum; None takes the posterior mean.
        seed: of the draws; None uses the global generator.

    Returns:
        The errors, (N,).

    Raises:
        InputError: for what is no data of this VAE, and for a bad value of an argument.
    """
    draws = 1 if num_samples is None else checks.integer("num_samples", num_samples)

    def error(rows: Tensor) -> Tensor:
        z = vae.encode(rows) if num_samples is None else vae.encode(rows, num_samples)
        squares = (rows - vae.decode(z).mean).square().flatten(z.dim() - 1).nansum(-1)
        return squares if num_samples is None else squares.mean(0)

    return by_blocks(vae, x, error, draws, seed)


def active_units(vae: VAE, x: Data, threshold: float = 0.01, seed: int | None = None) -> Tensor:
    """Which latents carry information about x: Var_x(E_q[z_j | x]) > threshold.

    Variance over the data of posterior means; `.sum()` counts the active units.

    Args:
        vae: the VAE.
        x: data (N, *event_shape), N at least 2, a tensor, an array, a frame or a map-style data
            set.
        threshold: the variance above which a unit is active, in squared units of z.
        seed: of the draws, where a posterior mean takes any; None uses the global generator.

    Returns:
        (latent_size,) booleans.

    Raises:
        InputError: for what is no data of this VAE, and for a bad value of an argument.

    Source: Importance weighted autoencoders (2015), section 5.2.
    """
    checks.number("threshold", threshold, 0.0)
    means = by_blocks(vae, checked(vae, x, minimum_rows=2), vae.encode, seed=seed)
    return means.double().var(0) > threshold
