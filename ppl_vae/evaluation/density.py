"""The joint density of a datum and its latents as a function: what samplers and quadrature work on.

Knows the model's latent sites and the maps between them and coordinates; knows nothing of the
guide.
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Transform, biject_to
from torch.distributions.transforms import AffineTransform

from ppl_vae import checks
from ppl_vae.evaluation.weights import sites
from ppl_vae.guides import LatentSite, latent_sites
from ppl_vae.guides.sites import base_distribution
from ppl_vae.handlers.enumeration import replayed_trace
from ppl_vae.vae import VAE

__all__ = ["LogDensity"]

LOCATION_AND_SCALE = (dist.Normal, dist.Laplace, dist.StudentT, dist.Cauchy)


class LogDensity(nn.Module):
    """(log p(u), log p(x|u)) as a function of coordinates u of the latents and of data x.

    u holds every latent site of the prior: (value - location) / scale, given the sites before it,
    where its family has a location and a scale, else the value mapped from its support to the
    reals; log p(u) counts the maps' Jacobians. So the layers of a hierarchy have one scale and no
    dependence in the prior, which is where samplers come from. Index sites are summed out, and what
    comes after one is mapped from its support.

    Args:
        vae: the VAE; its weights have to be points, since the density does not average over them.
        method: the method that asks, named in the error.

    Raises:
        InputError: for Bayesian weights.

    Source: A general framework for the parametrization of hierarchical models (2007).
    """

    def __init__(self, vae: VAE, method: str) -> None:
        super().__init__()
        if vae.model.weights is not None:
            checks.refuse(
                f"method '{method}'",
                "Bayesian weights",
                "weights that are points",
                "use method='importance'",
            )
        self.model = vae.model
        self.latents = latent_sites(vae.model.prior, vae.config.latent_size)
        self.sizes = [math.prod(site.unconstrained_shape) for site in self.latents]

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run the model with its latents fixed.

        Args:
            u: coordinates (C, M, U), or (C, 1, U), the same for all data.
            x: data (M, *event_shape).

        Returns:
            log p(u) and log p(x|u), each (C, M) nats.
        """
        at = _At(self.latents, u.split(self.sizes, -1))
        with pyro.plate("draws", len(u), dim=-2):
            trace = replayed_trace(at(self.model), poutine.Trace(), x)
        found = {name: site["fn"].log_prob(site["value"]) for name, site in sites(trace).items()}
        log_likelihood = found.pop("x")
        return at.log_jacobian + sum(found.values()), log_likelihood

    @torch.no_grad()
    def prior_draws(self, num_draws: int, num_data: int) -> Tensor:
        """u ~ p(u), (C, M, U).

        Args:
            num_draws: C.
            num_data: M.
        """
        return self._coordinates(self._prior_nodes(self.model.prior, num_draws, num_data))

    def coordinates(self, values: dict[str, Tensor]) -> Tensor:
        """The coordinates of given latents.

        Args:
            values: each latent site's value (C, M, *event), by name.

        Returns:
            u, (C, M, U).
        """
        shape = values[self.latents[0].name].shape[:2]
        return self._coordinates(
            self._prior_nodes(poutine.condition(self.model.prior, values), *shape)
        )

    def values(self, u: Tensor) -> dict[str, Tensor]:
        """The latents at given coordinates: the inverse of `coordinates`.

        Args:
            u: coordinates (C, M, U).

        Returns:
            Each latent site's value (C, M, *event), by name.
        """
        nodes = self._prior_nodes(
            _At(self.latents, u.split(self.sizes, -1))(self.model.prior), *u.shape[:2]
        )
        return {site.name: nodes[site.name]["value"] for site in self.latents}

    def log_tails(self, u: Tensor) -> Tensor:
        """log P(beyond u_j) / p(u_j): how much mass a density that is cut at u_j leaves out.

        Of a Beta site, P(z < t) = t f(t) / a and u = logit z: -log a below and -log b above. Of
        other families nothing is left out, -inf.

        Args:
            u: coordinates (C, M, U), with |u_j| large.

        Returns:
            The logarithms below and above, (C, M, U, 2).
        """
        nodes = self._prior_nodes(
            _At(self.latents, u.split(self.sizes, -1))(self.model.prior), *u.shape[:2]
        )
        parts = []
        for site, size in zip(self.latents, self.sizes):
            base = base_distribution(nodes[site.name]["fn"])
            tails = u.new_full((*u.shape[:2], size, 2), -math.inf)
            if isinstance(base, dist.Beta) and not any(map(_is_index, nodes.values())):
                shapes = torch.stack([base.concentration1, base.concentration0], -1)
                tails = -shapes.log().reshape(tails.shape)
            parts.append(tails)
        return torch.cat(parts, 2)

    def _prior_nodes(self, prior: Any, num_draws: int, num_data: int) -> Any:
        with pyro.plate("draws", num_draws, dim=-2), pyro.plate("data", num_data, dim=-1):
            return poutine.trace(prior).get_trace().nodes

    def _coordinates(self, nodes: Any) -> Tensor:
        latents, indexed, parts = {site.name: site for site in self.latents}, False, []
        for name, node in nodes.items():  # in program order, which is that of the latents
            indexed = indexed or _is_index(node)
            if name in latents:
                part = _map(latents[name], node["fn"], indexed).inv(node["value"])
                parts.append(part.reshape(*part.shape[:2], -1))
        return torch.cat(parts, -1)


class _At(Messenger):
    """Fix each latent site at its part of u, (C, M, size), and add up the log Jacobian of u ->
    values, (C, M).
    """

    def __init__(self, latents: Sequence[LatentSite], parts: Sequence[Tensor]) -> None:
        super().__init__()
        self.parts = {site.name: (site, part) for site, part in zip(latents, parts, strict=True)}

    def __enter__(self) -> Any:
        self.log_jacobian: Any = 0.0
        self.indexed = False
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        self.indexed = self.indexed or _is_index(msg)
        if msg["name"] not in self.parts:
            return
        site, part = self.parts[msg["name"]]
        part, transform = (
            part.unflatten(-1, site.unconstrained_shape or (1,)),
            _map(site, msg["fn"], self.indexed),
        )
        part = part if site.unconstrained_shape else part.squeeze(-1)
        msg["value"], msg["is_observed"] = transform(part), True
        determinant = transform.log_abs_det_jacobian(part, msg["value"])
        leading = part.shape[: part.dim() - len(site.unconstrained_shape)]
        self.log_jacobian = self.log_jacobian + determinant.reshape(*leading, -1).sum(-1)


def _map(site: LatentSite, fn: Any, indexed: bool) -> Transform:
    """From a site's coordinates to its value, given the distribution it has after the sites before
    it.
    """
    base = base_distribution(fn)
    if indexed or not isinstance(base, LOCATION_AND_SCALE):
        return biject_to(site.support)
    return AffineTransform(base.loc, base.scale, len(site.event_shape))


def _is_index(node: Any) -> bool:
    return node["type"] == "sample" and node["infer"].get("enumerate") == "parallel"
