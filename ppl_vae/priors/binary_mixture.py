"""The binary code prior: each coordinate near 0 or near 1."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks

__all__ = ["BinaryMixture"]


class BinaryMixture(nn.Module):
    """p(z) = prod_j [N(z_j; 0, s^2) + N(z_j; 1, s^2)] / 2, z with shape (*, latent_size).

    A product over coordinates of two-component mixtures, so that all 2^latent_size corners of the
    cube are modes: the index of each coordinate is summed out on its own, at a cost of 2
    latent_size Normals instead of 2^latent_size.

    Args:
        latent_size: number of coordinates of z.
        scale: s, the standard deviation around a corner, above 0.
    """

    corners: Tensor

    def __init__(self, latent_size: int, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = checks.number("prior binary_mixture's scale", scale, 0.0, exclusive=True)
        self.register_buffer(
            "corners", torch.tensor([0.0, 1.0]).repeat(latent_size, 1), persistent=False
        )

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        pairs = dist.Normal(self.corners, self.scale, validate_args=False)
        evenly = dist.Categorical(logits=torch.zeros_like(self.corners), validate_args=False)
        return pyro.sample(
            "z", dist.MixtureSameFamily(evenly, pairs, validate_args=False).to_event(1)
        )
