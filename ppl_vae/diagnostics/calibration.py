"""Simulation-based calibration: does q(z|x) hold the z that made x as often as it says?

Knows draws of the two programs; knows nothing of how ranks are drawn as figures.
"""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import checks
from ppl_vae.evaluation.blocks import decoder_rows, evaluation
from ppl_vae.vae import VAE

__all__ = ["Calibration", "simulation_based_calibration"]


@dataclass(frozen=True)
class Calibration:
    """Ranks (R, J) of R simulated latents, J coordinates each, among `num_samples` = K draws of q.

    They are uniform on 0..K where q is the exact posterior, ties broken at random. `names` (J) are
    the coordinates, "z[0]" and so on.
    """

    ranks: Tensor
    num_samples: int
    names: tuple[str, ...]

    @property
    def uniform(self) -> Tensor:
        """The ranks as values in (0, 1), (R, J): the probability integral transform of z under
        q.
        """
        return (self.ranks.double() + 0.5) / (self.num_samples + 1)

    def coverage(self, probability: float) -> Tensor:
        """Share of simulated latents inside q's central interval of that probability, (J,)."""
        return ((self.uniform - 0.5).abs() < probability / 2).double().mean(0)

    @property
    def deviation(self) -> Tensor:
        """Largest distance of each coordinate's empirical distribution function from the uniform
        one, (J,).
        """
        values, size = self.uniform.sort(0).values, len(self.ranks)
        steps = torch.arange(size + 1, dtype=torch.float64)[:, None] / size
        return torch.maximum((values - steps[:-1]).abs(), (values - steps[1:]).abs()).amax(0)

    def band(self, error_rate: float = 0.01) -> float:
        """What `deviation` exceeds, in any of the J coordinates of an exact q, with at most this
        probability.

        sqrt(ln(2 J / a) / (2 R)), plus half a rank: Dvoretzky, Kiefer, Wolfowitz and Massart
        (1990), and a union bound.
        """
        size, coordinates = self.ranks.shape
        return math.sqrt(math.log(2 * coordinates / error_rate) / (2 * size)) + 0.5 / (
            self.num_samples + 1
        )


def simulation_based_calibration(
    vae: VAE, num_simulations: int = 500, num_samples: int = 199, seed: int | None = None
) -> Calibration:
    """Ranks of z* among K draws z ~ q(z|x*), where (z*, x*) are R draws of the model: of every
    site's coordinates.

    rank = #{z < z*} + uniform{0, ..., #{z = z*}}: draws of a sparse code tie at the ends of (0, 1).
    Which of the tied ranks it is depends on `seed`, as the draws do.
    U-shaped ranks: q is overconfident; a hump: conservative; a slope: biased.
    Source: Validating Bayesian inference algorithms with simulation-based calibration (2018),
    section 4.
    """
    checks.integer("num_simulations", num_simulations)
    checks.integer("num_samples", num_samples)
    with evaluation(vae, seed):
        with pyro.plate("data", num_simulations):
            prior = poutine.trace(vae.model.draw_latents).get_trace()
        values: dict[str, Any] = {
            n: s["value"] for n, s in prior.nodes.items() if s["type"] == "sample" and n != "data"
        }
        x = vae.decode(values["z"]).sample()
        size, counts, names = max(1, decoder_rows(vae) // num_samples), [], []
        for start in range(0, num_simulations, size):
            rows = slice(start, start + size)
            block = {name: value[rows] for name, value in values.items()}
            found = _counts(vae, block, x[rows], num_samples)
            names = [f"{name}[{j}]" for name, each in found.items() for j in range(each.shape[2])]
            counts.append(torch.cat(list(found.values()), 2))
        ranks = _broken_ties(*torch.cat(counts, 1))
    return Calibration(ranks.cpu(), num_samples, tuple(names))


def _counts(
    vae: VAE, simulated: dict[str, Tensor], x: Tensor, num_samples: int
) -> dict[str, Tensor]:
    """How many draws lie below each simulated value and how many tie with it, {site: (2, R', J)}.

    Of one block of simulations; an index that the model sums out is no site of the guide.
    """
    with pyro.plate("draws", num_samples, dim=-2):
        guide: Any = poutine.trace(vae.guide).get_trace(x).nodes
    found = {}
    for name in (name for name in simulated if name in guide):
        draws = guide[name]["value"]
        pair = [(draws < simulated[name]).sum(0), (draws == simulated[name]).sum(0)]
        found[name] = torch.stack(pair).reshape(2, len(x), -1)
    return found


def _broken_ties(below: Tensor, tied: Tensor) -> Tensor:
    """below + uniform{0, ..., tied}, all (R, J), by the global generator."""
    uniform = torch.rand(tied.shape, dtype=torch.float64, device=tied.device)
    return below + (uniform * (tied + 1)).long()
