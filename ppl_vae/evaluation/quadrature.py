"""log p(x) by the trapezium rule on a grid of latents: exact for one or two of them.

Knows the joint density; knows nothing of the guide.
"""

import math
from dataclasses import dataclass

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
LAST_LOGIT = math.log(1e5)  # where z is 1e-5 from 0 or 1: nearer, single precision rounds 1 - z


def quadrature(
    vae: VAE, x: Tensor, num_samples: int, tier: str, progress: bool, num_points: int = 129
) -> Tensor:
    """log of the integral of p(x, u) over u, on a grid: exact for one or two latents.

    The box of the grid holds all but 1e-11 of the posterior's density. The rule's error falls off
    like exp(-2 (pi s / h)^2) for a posterior of standard deviation s on a grid of spacing h, so a
    box of a hundred points a side is exact in single precision. Each datum's box starts as all of
    the prior's and shrinks to where the joint is not negligible. The box of a Beta site ends where
    z is 1e-5 from 0 or 1; the last point then stands for the tail beyond it as well, whose mass
    sparse codes have most of.

    Args:
        vae: the VAE; its guide is not used.
        x: data (N, *event_shape).
        num_samples: has no meaning here.
        tier: has no meaning here.
        progress: whether to show a progress bar.
        num_points: grid points a side; an even number is taken one larger.

    Returns:
        (3, N): value in nats, NaN, and the difference to the value on every second point.

    Raises:
        InputError: for more than two latents, and for Bayesian weights.
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
    has_tails = density.log_tails(draws[:1, None])[0, 0].isfinite()
    widest = torch.where(has_tails, LAST_LOGIT, math.inf).T * torch.tensor([[-1.0], [1.0]]).to(box)
    grid = _Grid(density, side, decoder_rows(vae), widest)
    found = [
        grid.integral(as_float(vae, row), box)
        for row in tqdm(x.split(1), disable=not progress, unit="datum", desc="quadrature")
    ]
    return torch.stack(found, 1).cpu()


@dataclass(frozen=True)
class _Grid:
    """A grid of `side` points along each of U coordinates, evaluated `rows` points at a time.

    widest: (2, U), where densities with tails are cut; infinite for those without.
    """

    density: LogDensity
    side: int
    rows: int
    widest: Tensor

    def integral(self, x: Tensor, box: Tensor) -> Tensor:
        """(value, NaN, error) of one datum, the box (2, U) refined until it stops shrinking."""
        for _ in range(REFINEMENTS):
            box = box.maximum(self.widest[0]).minimum(self.widest[1])
            axes = [
                torch.linspace(low, high, self.side, dtype=box.dtype)
                for low, high in box.T.tolist()
            ]
            points = torch.cartesian_prod(*axes).reshape(-1, len(axes)).to(box)
            parts = [torch.add(*self.density(u[:, None], x)) for u in points.split(self.rows)]
            joint = torch.cat(parts).double()[:, 0]
            spacing = (box[1] - box[0]) / (self.side - 1)
            masses = joint + self._log_cells(points, box, spacing, 1)
            inside = points[masses > masses.max() - NEGLIGIBLE]
            smaller = torch.stack([inside.amin(0) - spacing, inside.amax(0) + spacing])
            if (smaller[1] - smaller[0] > 0.7 * (box[1] - box[0])).all():
                break
            box = smaller
        fine = masses.logsumexp(0)
        every_second = joint + self._log_cells(points, box, spacing, 2)
        shape = (self.side,) * len(spacing)
        coarse = every_second.reshape(shape)[(slice(None, None, 2),) * len(spacing)].flatten()
        return torch.stack([fine, fine.new_tensor(math.nan), (fine - coarse.logsumexp(0)).abs()])

    def _log_cells(self, points: Tensor, box: Tensor, spacing: Tensor, step: int) -> Tensor:
        """Log weight of each point (P, U) when every `step`-th of an axis counts, (P,).

        A cell's volume; half of it at an end of the box, and there the tail beyond it, if any.
        """
        ends = points[..., None] == box.T  # (P, U, 2): which points are the first or last
        cells = (step * spacing).log() - math.log(2) * ends.any(-1)
        cut = ends & (box == self.widest).T
        if cut.any():
            parts = [self.density.log_tails(u[:, None])[:, 0] for u in points.split(self.rows)]
            beyond = torch.where(cut, torch.cat(parts), -math.inf).logsumexp(-1)
            cells = torch.logaddexp(cells, beyond)
        return cells.double().sum(-1)
