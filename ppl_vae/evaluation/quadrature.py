"""log p(x) by the trapezium rule on a grid of latents: exact for one or two of them.

Knows the joint density; knows nothing of the guide.
"""

import math

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.evaluation.blocks import as_float, decoder_rows
from ppl_vae.evaluation.density import LogDensity
from ppl_vae.vae import VAE

__all__ = ["quadrature"]

NEGLIGIBLE = 25.0  # nats below the highest point of the joint: 1e-11 of it
REFINEMENTS = 6


def quadrature(
    vae: VAE, x: Tensor, num_samples: int, tier: str, progress: bool, num_points: int = 129
) -> Tensor:
    """log of the integral of p(x, u) over a box that holds all but 1e-11 of the posterior's
    density.

    The rule's error falls off like exp(-2 (pi s / h)^2) for a posterior of standard deviation s on
    a grid of spacing h, so a box of a hundred points a side is exact in single precision. Each
    datum's box starts as all of the prior's and shrinks to where the joint is not negligible.
    Returns (3, N): value, NaN, and the difference to the value on every second point. `num_samples`
    and `tier` have no meaning here. Raises `InputError` for more than two latents.
    """
    density = LogDensity(vae, "quadrature")
    if sum(density.sizes) > 2:
        checks.refuse(
            "method",
            f"'quadrature' with {sum(density.sizes)} latents",
            "one or two",
            "use 'annealed'",
        )
    side = num_points + 1 - num_points % 2
    draws = density.prior_draws(10_000, 1)[:, 0]
    margin = (draws.amax(0) - draws.amin(0)) / 2
    box = torch.stack([draws.amin(0) - margin, draws.amax(0) + margin])
    found = [
        _datum(density, as_float(vae, row), box, side, decoder_rows(vae))
        for row in tqdm(x.split(1), disable=not progress, unit="datum", desc="quadrature")
    ]
    return torch.stack(found, 1).cpu()


def _datum(density: LogDensity, x: Tensor, box: Tensor, side: int, rows: int) -> Tensor:
    """(value, NaN, error) of one datum, the box refined until it stops shrinking."""
    for _ in range(REFINEMENTS):
        axes = [torch.linspace(low, high, side).to(box) for low, high in box.T.tolist()]
        grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
        joint = torch.cat(
            [torch.add(*density(u[:, None], x)).double()[:, 0] for u in grid.split(rows)]
        )
        inside = grid[joint > joint.max() - NEGLIGIBLE]
        spacing = (box[1] - box[0]) / (side - 1)
        smaller = torch.stack([inside.amin(0) - spacing, inside.amax(0) + spacing])
        if (smaller[1] - smaller[0] > 0.7 * (box[1] - box[0])).all():
            break
        box = smaller
    fine, coarse = _integral(joint, spacing, side, 1), _integral(joint, spacing, side, 2)
    return torch.stack([fine, fine.new_tensor(math.nan), (fine - coarse).abs()])


def _integral(joint: Tensor, spacing: Tensor, side: int, step: int) -> Tensor:
    """The logarithm of the sum over every `step`-th point of each axis, times the cell's volume."""
    points = joint.reshape((side,) * len(spacing))[tuple(slice(None, None, step) for _ in spacing)]
    return points.flatten().logsumexp(0) + (spacing.double() * step).log().sum()
