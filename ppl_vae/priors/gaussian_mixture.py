"""A learned mixture of Gaussians as prior."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks

__all__ = ["GaussianMixture"]


class GaussianMixture(nn.Module):
    """p(z) = sum_k w_k N(z; m_k, diag(s_k^2)), w, m and s learned, z (*, latent_size).

    The bound is largest in p(z) where p(z) is the average posterior (1/N) sum_i q(z|x_i), itself a
    mixture, so a mixture of K terms is the simplest learned prior. A component is of the joint
    vector: a product over coordinates of one-dimensional mixtures would put modes at all
    K^latent_size combinations.

    Args:
        latent_size: number of coordinates of z.
        components: K, components of the whole vector.
    """

    def __init__(self, latent_size: int, components: int = 10) -> None:
        super().__init__()
        shape = (checks.integer("prior gaussian_mixture's components", components), latent_size)
        self.locations, self.log_scales = (
            nn.Parameter(torch.randn(shape)),
            nn.Parameter(torch.zeros(shape)),
        )
        self.logits = nn.Parameter(torch.zeros(shape[0]))

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        normals = dist.Normal(self.locations, self.log_scales.exp(), validate_args=False).to_event(
            1
        )
        weights = dist.Categorical(logits=self.logits, validate_args=False)
        return pyro.sample("z", dist.MixtureSameFamily(weights, normals, validate_args=False))
