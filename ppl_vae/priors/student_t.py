"""The Student-t prior: independent coordinates with polynomial tails."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks

__all__ = ["StudentT"]


class StudentT(nn.Module):
    """p(z) = prod_j t(z_j; v, 0, s), z with shape (*, latent_size).

    It is a Normal whose precision is unknown, z_j ~ N(0, s^2 / g_j) with g_j ~ Gamma(v/2, v/2)
    integrated out, so a code far from the origin costs log(1 + z^2 / v s^2) rather than z^2:
    outliers are let be. KL to a Normal is sampled.

    Args:
        latent_size: number of coordinates of z.
        degrees_of_freedom: v, above 0.
        scale: s, above 0.
    """

    location: Tensor

    def __init__(
        self, latent_size: int, degrees_of_freedom: float = 5.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.degrees = checks.number(
            "prior student_t's degrees_of_freedom", degrees_of_freedom, 0.0, exclusive=True
        )
        self.scale = checks.number("prior student_t's scale", scale, 0.0, exclusive=True)
        self.register_buffer("location", torch.zeros(latent_size), persistent=False)

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        return pyro.sample(
            "z",
            dist.StudentT(self.degrees, self.location, self.scale, validate_args=False).to_event(1),
        )
