"""The plain autoencoder: a point code for each datum, and no KL term.

Knows latent sites and an encoder network.
"""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import biject_to

from ppl_vae.guides.diagonal import split_heads
from ppl_vae.guides.sites import LatentSite
from ppl_vae.networks import initialize
from ppl_vae.protocols import Posterior, SiteInfo

__all__ = ["PointGuide"]


class PointGuide(Posterior):
    """q(z|x) = delta(z - T(m(x))), m the encoder's code, T the map onto the site's support.

    m is (M, *unconstrained_shape). The sites carry `infer={"ppl_point": True}`: estimators give
    them no KL term, which for a Delta is not one.

    Args:
        encoder: x (M, *event_shape) -> features (M, H).
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
        size = sum(math.prod(site.unconstrained_shape) for site in sites)
        self.heads = initialize(nn.Linear(feature_size, size), init, "tanh")

    @property
    def mean_field(self) -> bool:
        """True: every site's code is made of x alone."""
        return True

    def forward(self, x: Tensor) -> None:
        """Sample every latent site, in the prior's order.

        Args:
            x: data (M, *event_shape).
        """
        for site, (code,) in zip(
            self.sites, split_heads(self.heads(self.encoder(x)), self.sites, 1), strict=True
        ):
            value = biject_to(site.support)(code)
            delta = dist.Delta(value, event_dim=len(site.event_shape), validate_args=False)
            pyro.sample(site.name, delta, infer=SiteInfo(ppl_point=True))
