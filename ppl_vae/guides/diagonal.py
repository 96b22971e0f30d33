"""The mean-field guide: one head a site, of the prior's own family where that gives a closed-form
KL.

Knows latent sites and an encoder network. It knows nothing of the model it will be used with.
"""

import math
from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.nn.functional import softplus

from ppl_vae.distributions import CensoredBeta
from ppl_vae.guides.divergences import POSITIVE_FAMILIES
from ppl_vae.guides.sites import LatentSite
from ppl_vae.guides.vectors import is_real
from ppl_vae.networks import initialize
from ppl_vae.protocols import ClosedFormPosterior

__all__ = ["DiagonalGuide", "split_heads"]

Head = Callable[[Tensor, Tensor], dist.TorchDistribution]


def _normal(location: Tensor, log_variance: Tensor) -> dist.TorchDistribution:
    return dist.Normal(location, (0.5 * log_variance).exp(), validate_args=False)


def _log_normal(location: Tensor, log_variance: Tensor) -> dist.TorchDistribution:
    return dist.LogNormal(location, (0.5 * log_variance).exp(), validate_args=False)


def _laplace(location: Tensor, log_scale: Tensor) -> dist.TorchDistribution:
    return dist.Laplace(location, log_scale.exp(), validate_args=False)


def _positive(raw: Tensor) -> Tensor:
    return (
        softplus(raw) + 5e-3
    )  # below, draws underflow and torch's gradient of a Beta draw is wrong by magnitudes


def _beta(first: Tensor, second: Tensor) -> dist.TorchDistribution:
    return dist.Beta(_positive(first), _positive(second), validate_args=False)


def _censored_beta(first: Tensor, second: Tensor) -> dist.TorchDistribution:
    return CensoredBeta(_positive(first), _positive(second), validate_args=False)


def _gamma(first: Tensor, second: Tensor) -> dist.TorchDistribution:
    return dist.Gamma(_positive(first), _positive(second), validate_args=False)


# families of p with a closed form of KL(q || p), q as the head makes it
HEADS: dict[type, Head] = {
    dist.Normal: _normal,
    dist.LogNormal: _log_normal,
    dist.Laplace: _laplace,
    dist.Beta: _beta,
    CensoredBeta: _censored_beta,
    dist.Gamma: _gamma,
    **dict.fromkeys(POSITIVE_FAMILIES, _log_normal),
}


def site_distribution(site: LatentSite, first: Tensor, second: Tensor) -> dist.TorchDistribution:
    """q of one site from its head's two parameters.

    The family that `HEADS` has for the prior's; else a Normal pushed through `biject_to(support)`,
    which remembers its last input: log q at a draw is exact even where the draw, near an end of its
    support, has been rounded.

    Args:
        site: the site.
        first: the head's first parameter, (*, *unconstrained_shape): a Normal's location, say.
        second: the head's second parameter, (*, *unconstrained_shape): a Normal's log
            variance, say.

    Returns:
        A distribution of batch shape (*,) and the site's event shape.
    """
    event_dim = len(site.event_shape)
    if site.family in HEADS:
        return HEADS[site.family](first, second).to_event(event_dim)
    normal = _normal(first, second).to_event(len(site.unconstrained_shape))
    transform = biject_to(site.support).with_cache()
    return (
        normal
        if is_real(site)
        else dist.TransformedDistribution(normal, [transform], validate_args=False)
    )


def split_heads(
    outputs: Tensor, sites: Sequence[LatentSite], per_site: int = 2
) -> list[tuple[Tensor, ...]]:
    """Divide the outputs of one product among the sites.

    Args:
        outputs: (*, sum of sizes).
        sites: the sites, in the order of the outputs.
        per_site: number of tensors for each site.

    Returns:
        For each site `per_site` tensors (*, *unconstrained_shape).
    """
    sizes = [per_site * math.prod(site.unconstrained_shape) for site in sites]
    parts = outputs.split(sizes, -1)
    return [
        tuple(t.reshape(*t.shape[:-1], *site.unconstrained_shape) for t in part.chunk(per_site, -1))
        for part, site in zip(parts, sites, strict=True)
    ]


class DiagonalGuide(ClosedFormPosterior):
    """q(z|x) = prod over sites s and coordinates j of q_sj(z_sj; parameters from x).

    For a Normal site: N(m_j(x), exp(l_j(x))), m and l from one linear head of the encoder's
    features h(x), (M, H).

    Args:
        encoder: x (M, *event_shape) -> features h(x).
        feature_size: H, the number of features.
        sites: the latent sites of the prior.
        init: initial weights of the head, as in `VAEConfig`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        sites: Sequence[LatentSite],
        init: str = "fan_in",
    ) -> None:
        super().__init__()
        self.encoder, self.sites = encoder, tuple(sites)
        size = sum(2 * math.prod(site.unconstrained_shape) for site in sites)
        self.heads = initialize(nn.Linear(feature_size, size), init, "tanh")

    @property
    def mean_field(self) -> bool:
        """True: every site's q is made of x alone."""
        return True

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x) over a prior's one real site: what a prior may be made of."""
        return self.distributions(x)["z"]

    def distributions(self, x: Tensor) -> dict[str, dist.TorchDistribution]:
        """q of every site given x, by name, batch shape (M,).

        Args:
            x: data (M, *event_shape).
        """
        parts = split_heads(self.heads(self.encoder(x)), self.sites)
        return {
            site.name: site_distribution(site, *part)
            for site, part in zip(self.sites, parts, strict=True)
        }

    def forward(self, x: Tensor) -> None:
        """Sample every latent site, in the prior's order.

        Args:
            x: data (M, *event_shape).
        """
        for name, q in self.distributions(x).items():
            pyro.sample(name, q)
