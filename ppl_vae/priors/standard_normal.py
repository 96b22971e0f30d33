"""The standard normal prior."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["StandardNormal"]


class StandardNormal(nn.Module):
    """p(z) = N(z; 0, I), z with shape (*, latent_size).

    Args:
        latent_size: number of coordinates of z.
    """

    location: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("location", torch.zeros(latent_size), persistent=False)
        self.register_buffer("scale", torch.ones(latent_size), persistent=False)

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        normal = dist.Normal(self.location, self.scale, validate_args=False)  # type: ignore[arg-type]
        return pyro.sample("z", normal.to_event(1))
