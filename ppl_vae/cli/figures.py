"""Which figures a trained VAE can show, given its data.

Knows the VAE and `plots.py`; must not know files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae import plots
from ppl_vae.vae import VAE, evaluating

__all__ = ["figures"]

POINTS_PER_SIDE, STEPS, ROWS = 15, 11, 10


def figures(
    vae: VAE,
    x: Tensor,
    labels: Tensor | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
) -> dict[str, Figure]:
    """Every figure that fits the shape of the data, by name.

    x: (N, *event_shape), held out; labels: (N,); rows: those of the training's history. Draws come
    from `seed`.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        z = vae.encode(x)
        found = {"latent_scatter": plots.latent_scatter(z, labels)}
        if rows:
            found["training_curves"] = plots.training_curves(rows)
        if is_image(vae.config.event_shape):
            found |= _of_images(vae, x, z)
        elif vae.config.event_shape == (2,):
            found["prior_samples"] = plots.points_scatter(vae.sample(len(x)), title="Prior samples")
            found["reconstructions"] = plots.point_reconstructions(x, vae.reconstruct(x), labels)
        return found


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Whether a datum is (H, W) or (C, H, W) with one or three channels C."""
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def _of_images(vae: VAE, x: Tensor, z: Tensor) -> dict[str, Figure]:
    draws = _prior_draws(vae, 10_000)
    found = {
        "prior_samples": plots.samples(vae.decode(draws[:100]).mean),
        "reconstructions": plots.reconstructions(x[:20], vae.reconstruct(x[:20])),
        "interpolations": _interpolations(vae, z[: 2 * ROWS]),
        "traversals": _traversals(vae, z, draws),
    }
    if vae.config.latent_size == 2:
        found["manifold"] = _manifold(vae, draws)
    return found


def _prior_draws(vae: VAE, num_samples: int) -> Tensor:
    """z ~ p(z), (num_samples, latent_size)."""
    with (
        evaluating(vae),
        pyro.settings.context(module_local_params=True),
        pyro.plate("draws", num_samples),
    ):
        return vae.model.draw_latents()


def _interpolations(vae: VAE, z: Tensor) -> Figure:
    start, end = z[: len(z) // 2 * 2].reshape(-1, 2, z.shape[1]).unbind(1)
    return plots.interpolations(
        vae.decode(plots.interpolation_codes(start, end, STEPS)).mean, len(start)
    )


def _traversals(vae: VAE, z: Tensor, draws: Tensor) -> Figure:
    """The first datum's code, the coordinates that differ most between data varied over the bulk of
    the prior.
    """
    dimensions = sorted(z.var(0).argsort(descending=True)[:ROWS].tolist())
    low, high = (
        float(f"{draws[:1000].quantile(p).item():.1g}") for p in (0.0015, 0.9985)
    )  # -3 and 3 under N(0, 1)
    codes = plots.traversal_codes(z[0], STEPS, (low, high), dimensions)
    return plots.traversals(
        vae.decode(codes).mean, len(dimensions), ends=(low, high), dimensions=dimensions
    )


def _manifold(vae: VAE, draws: Tensor) -> Figure:
    """Over the quantiles of the prior's own draws, which any prior has, both coordinates pooled."""

    def inverse_cdf(probabilities: Tensor) -> Tensor:
        return draws.flatten().double().quantile(probabilities)

    codes = plots.manifold_grid(POINTS_PER_SIDE, inverse_cdf).to(draws)
    return plots.manifold(vae.decode(codes).mean, POINTS_PER_SIDE, inverse_cdf)
