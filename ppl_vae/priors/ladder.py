"""The ladder prior: a chain of Normal layers, each given the one above it, by multilayer
perceptrons.

Knows networks; knows nothing of data or guides. The guide for it is the posterior "ladder" (or
"residual").
"""

from collections.abc import Sequence
from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae import checks
from ppl_vae.networks import ACTIVATIONS, RowNorm, initialize

__all__ = ["Ladder"]


class Ladder(nn.Module):
    """p(z_S) = N(0, I), p(z_i | z_(i+1)) = N(m_i(z_(i+1)), diag(s_i(z_(i+1))^2)), i = S-1..1.

    Sites from the top, "z_S", ..., "z_2", "z": the last is the one that data are decoded from.
    Between two layers lies one hidden layer of eight times the upper one's size.

    Args:
        latent_size: number of coordinates of z.
        upper_sizes: sizes of z_2, ..., z_S.
        activation: of the hidden layers, as in `VAEConfig`.
        batch_norm: whether the hidden layers are batch-normalised; without it the upper layers
            collapse.

    Source: Ladder variational autoencoders (2016), sections 2 and 4.
    """

    def __init__(
        self,
        latent_size: int = 64,
        upper_sizes: Sequence[int] = (32, 16, 8, 4),
        activation: str = "relu",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        sizes = (latent_size, *checks.sizes("prior_options.upper_sizes", upper_sizes))
        checks.choice("prior_options.activation", activation, ACTIVATIONS)
        self.top: Tensor
        self.register_buffer("top", torch.zeros(sizes[-1]), persistent=False)
        steps = [_step(upper, lower, activation, batch_norm) for lower, upper in pairwise(sizes)]
        self.steps = nn.ModuleList(steps[::-1])

    def forward(self) -> Tensor:
        """Sample every layer from the top down; returns the value of "z"."""
        parameters = self.top, torch.ones_like(self.top)
        for i, step in enumerate(self.steps):
            upper = pyro.sample(f"z_{len(self.steps) + 1 - i}", _normal(*parameters))
            location, raw = step(upper).chunk(2, -1)
            parameters = (
                location,
                softplus(raw) + 1e-3,
            )  # a floor: the scale of a collapsed layer would go to 0
        return pyro.sample("z", _normal(*parameters))


def _normal(location: Tensor, scale: Tensor) -> dist.TorchDistribution:
    return dist.Normal(location, scale, validate_args=False).to_event(1)


def _step(upper: int, lower: int, activation: str, batch_norm: bool) -> nn.Module:
    hidden = 8 * upper
    norm = [RowNorm(hidden)] if batch_norm else []
    layers = (
        nn.Linear(upper, hidden),
        *norm,
        ACTIVATIONS[activation](),
        nn.Linear(hidden, 2 * lower),
    )
    return initialize(nn.Sequential(*layers), "fan_in", activation)
