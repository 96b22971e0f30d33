"""The Laplace prior: independent coordinates with exponential tails."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks

__all__ = ["Laplace"]


class Laplace(nn.Module):
    """p(z) = prod_j exp(-|z_j| / b) / (2 b), z with shape (*, latent_size).

    The density has a corner at 0 and tails heavier than a Normal's, so codes gather on the axes:
    unlike N(0, I) it is not the same in every rotated basis. The guide is Laplace as well, and KL(q
    || p) has a closed form.

    Args:
        latent_size: number of coordinates of z.
        scale: b, above 0.
    """

    location: Tensor

    def __init__(self, latent_size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = checks.number("prior laplace's scale", scale, 0.0, exclusive=True)
        self.register_buffer("location", torch.zeros(latent_size), persistent=False)

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        return pyro.sample(
            "z", dist.Laplace(self.location, self.scale, validate_args=False).to_event(1)
        )
