"""The joint density of a datum and its latents as a function: what samplers and quadrature work on.

Knows the model's latent sites and the maps onto their supports; knows nothing of the guide.
"""

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import biject_to

from ppl_vae import checks
from ppl_vae.evaluation.weights import sites
from ppl_vae.guides import latent_sites
from ppl_vae.handlers.enumeration import replayed_trace
from ppl_vae.vae import VAE

__all__ = ["LogDensity"]


class LogDensity(nn.Module):
    """(log p(u), log p(x|u)) of unconstrained latents u (C, M, U) and data x (M, *event_shape), each (C, M) nats.

    u holds every latent site of the prior, each mapped from its support to the reals; log p(u) counts the maps'
    Jacobians. Index sites are summed out. Raises `InputError` for Bayesian weights, over which it does not average.
    """

    def __init__(self, vae: VAE, method: str) -> None:
        super().__init__()
        if vae.model.weights is not None:
            checks.refuse(
                f"method '{method}'", "Bayesian weights", "weights that are points", "use method='importance'"
            )
        self.model = vae.model
        self.latents = latent_sites(vae.model.prior, vae.config.latent_size)
        self.sizes = [math.prod(site.unconstrained_shape) for site in self.latents]

    def values(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Each site's value, (C, M, *event), and the log Jacobian of u -> values, (C, M)."""
        values, log_jacobian = {}, u.new_zeros(u.shape[:-1])
        for site, part in zip(self.latents, u.split(self.sizes, -1)):
            part, transform = part.reshape(*u.shape[:-1], *site.unconstrained_shape), biject_to(site.support)
            values[site.name] = transform(part)
            determinant = transform.log_abs_det_jacobian(part, values[site.name])
            log_jacobian = log_jacobian + determinant.reshape(*u.shape[:-1], -1).sum(-1)
        return values, log_jacobian

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run the model with its latents fixed; u may be (C, 1, U), the same for all data."""
        values, log_prior = self.values(u)
        with pyro.plate("draws", len(u), dim=-2):
            trace = replayed_trace(poutine.condition(self.model, values), poutine.Trace(), x)
        found = {name: site["fn"].log_prob(site["value"]) for name, site in sites(trace).items()}
        log_likelihood = found.pop("x")
        return log_prior + sum(found.values()), log_likelihood

    @torch.no_grad()
    def prior_draws(self, num_draws: int, num_data: int) -> Tensor:
        """u ~ p(u), (C, M, U)."""
        with pyro.plate("draws", num_draws, dim=-2), pyro.plate("data", num_data, dim=-1):
            nodes: Any = poutine.trace(self.model.prior).get_trace().nodes
        return self.unconstrained({site.name: nodes[site.name]["value"] for site in self.latents})

    def unconstrained(self, values: Mapping[str, Tensor]) -> Tensor:
        """u (C, M, U) of each site's value (C, M, *event)."""
        parts = [biject_to(site.support).inv(values[site.name]) for site in self.latents]
        return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts], -1)
