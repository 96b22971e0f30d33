"""The standard normal prior."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["StandardNormal"]


class StandardNormal(nn.Module):
    """p(z) = N(z; 0, I), z with shape (*, latent_size)."""

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("location", torch.zeros(latent_size), persistent=False)

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        location: Tensor = self.location  # type: ignore[assignment]
        return pyro.sample("z", dist.Normal(location, 1.0, validate_args=False).to_event(1))
