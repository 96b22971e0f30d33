"""Small programs that several tests share: priors as a user would write them, a tiny VAE and data
for it.

Knows the public way of building a VAE; must not know estimators, training or any closed form.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.vae import VAE, VAEConfig, build

__all__ = ["PRIORS", "dirichlet", "gamma_scale", "pixels", "scale_then_z", "tiny"]


def laplace(latent_size: int) -> Tensor:
    return pyro.sample("z", dist.Laplace(torch.zeros(latent_size), 1.0).to_event(1))


def beta(latent_size: int) -> Tensor:
    return pyro.sample("z", dist.Beta(torch.full((latent_size,), 2.0), 3.0).to_event(1))


def gamma(latent_size: int) -> Tensor:
    return pyro.sample("z", dist.Gamma(torch.full((latent_size,), 2.0), 1.5).to_event(1))


def log_normal(latent_size: int) -> Tensor:
    return pyro.sample("z", dist.LogNormal(torch.zeros(latent_size), 0.5).to_event(1))


def half_cauchy(latent_size: int) -> Tensor:
    return pyro.sample("z", dist.HalfCauchy(torch.ones(latent_size)).to_event(1))


def dirichlet(latent_size: int) -> Tensor:
    return pyro.sample("z", dist.Dirichlet(torch.full((latent_size,), 2.0)))


def scale_then_z(latent_size: int) -> Tensor:
    """Two sites: a positive scale for each datum, then a Normal of that scale."""
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.3))
    return pyro.sample("z", dist.Normal(torch.zeros(latent_size), scale[..., None]).to_event(1))


def own_weight(latent_size: int) -> Tensor:
    """Two sites, the first a number drawn in the default precision, and a parameter of the
    program's own.
    """
    first = pyro.sample("first", dist.Normal(0.0, 1.0))
    weight = pyro.param("weight", lambda: torch.randn(1, latent_size))
    return pyro.sample("z", dist.Normal(torch.tanh(first[..., None] @ weight), 0.5).to_event(1))


def gamma_scale(latent_size: int) -> Tensor:
    """Two sites, the first of which needs random numbers whose law depends on a value of the
    program.
    """
    scale = pyro.sample("scale", dist.Gamma(3.0, 3.0))
    return pyro.sample("z", dist.Normal(torch.zeros(latent_size), scale[..., None]).to_event(1))


class NormalMixture(nn.Module):
    """Two Normals whose locations are parameters; the index is summed out, so no closed-form KL
    exists.
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.locations = nn.Parameter(torch.linspace(-1.0, 1.0, 2)[:, None].repeat(1, latent_size))

    def forward(self) -> Tensor:
        index = dist.Categorical(logits=torch.zeros(2))
        return pyro.sample(
            "z", dist.MixtureSameFamily(index, dist.Normal(self.locations, 0.5).to_event(1))
        )


PRIORS = {
    "standard_normal": None,
    "laplace": laplace,
    "beta": beta,
    "gamma": gamma,
    "log_normal": log_normal,
    "half_cauchy": half_cauchy,
    "dirichlet": dirichlet,
    "scale_then_z": scale_then_z,
    "gamma_scale": gamma_scale,
    "mixture": NormalMixture,
}


def pixels(num_data: int = 40, event_shape: tuple[int, ...] = (6,), seed: int = 0) -> Tensor:
    """Binary data whose pixels depend on one another, (num_data, *event_shape)."""
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.tensor(event_shape).prod())
    logits = (
        torch.randn(num_data, 2, generator=generator)
        @ torch.randn(2, size, generator=generator)
        * 2
    )
    return torch.bernoulli(logits.sigmoid(), generator=generator).reshape(num_data, *event_shape)


def tiny(
    prior: Any = None,
    posterior: Any = None,
    num_data: int | None = None,
    seed: int = 0,
    **fields: Any,
) -> VAE:
    """A VAE of six binary pixels and two latents, or what `fields` of `VAEConfig` make of it."""
    config = VAEConfig(**{"event_shape": (6,), "latent_size": 2, "hidden_sizes": (5,), **fields})
    return build(config, prior=prior, posterior=posterior, num_data=num_data, seed=seed)
