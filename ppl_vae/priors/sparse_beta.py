"""The sparse Beta prior: coordinates in (0, 1) that avoid the middle."""

import pyro
import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.distributions import CensoredBeta

__all__ = ["SparseBeta"]


class SparseBeta(nn.Module):
    """p(z) = prod_j Beta(z_j; a, b), both shapes below 1, z in (0, 1)^latent_size.

    Then the density z^(a-1) (1-z)^(b-1) / B(a, b) rises without bound towards 0 and towards 1: a
    nearly binary code with P(z_j > 1/2) = 1/2 for a = b. As a = b goes to 0, the mass within e of
    an end goes to e^a. Axes are told apart: rotations are no symmetry of it, permutations still
    are. The guide is Beta as well, and KL(q || p) has a closed form.

    Args:
        latent_size: number of coordinates of z.
        alpha: a, from 0.01 to below 1.
        beta: b, from 0.01 to below 1.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, latent_size: int, alpha: float = 0.3, beta: float = 0.3) -> None:
        super().__init__()
        for name, shape in (("alpha", alpha), ("beta", beta)):
            if not 0.01 <= checks.number(f"prior sparse_beta's {name}", shape) < 1:
                checks.refuse(
                    f"prior sparse_beta's {name}",
                    shape,
                    "a shape from 0.01 to below 1",
                    "from 1 on it is not sparse, below 0.01 draws underflow",
                )
        self.register_buffer("alpha", torch.full((latent_size,), float(alpha)), persistent=False)
        self.register_buffer("beta", torch.full((latent_size,), float(beta)), persistent=False)

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        return pyro.sample(
            "z", CensoredBeta(self.alpha, self.beta, validate_args=False).to_event(1)
        )
