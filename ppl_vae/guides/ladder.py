"""The ladder guide: the prior run top-down, each layer's Normal combined with evidence from x by
their precisions.

Knows latent sites, the prior as a program, and an encoder network; knows nothing of decoders or
estimators.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from ppl_vae.guides.diagonal import site_distribution
from ppl_vae.guides.levels import bottom_up
from ppl_vae.guides.sites import LatentSite, base_distribution
from ppl_vae.handlers.top_down import TopDown
from ppl_vae.protocols import Posterior

__all__ = ["LadderGuide"]


class LadderGuide(Posterior):
    """q(z_s | z_<s, x) = N(m, v): 1/v = 1/v^ + 1/v_p, m = v (m^/v^ + m_p/v_p), site after site.

    The sites come in the prior's order. m_p and v_p are the prior's mean and variance of z_s given
    the guide's draws of the sites before; m^ and v^ come from d_s(x), the deterministic way up: d
    of the last site is the encoder's features, each further one a dense layer on. A site that is
    not Normal gets a head of its own, as in the diagonal guide. Works with any prior without index
    sites.

    Args:
        encoder: x (M, *event_shape) -> features.
        feature_size: number of features.
        sites: the latent sites of the prior.
        prior: the prior as a program, whose parameters stay the model's.
        init: initial weights of heads and layers, as in `VAEConfig`.
        activation: of the layers, as in `VAEConfig`.
        level_sizes: widths of the layers on the way up; None halves the size of the last one.
        batch_norm: whether the layers are batch-normalised.

    Source: Ladder variational autoencoders (2016), equations 15 to 19.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        sites: Sequence[LatentSite],
        prior: Callable[[], Any],
        init: str = "fan_in",
        activation: str = "relu",
        level_sizes: Sequence[int] | None = None,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.prior = (prior,)  # in a tuple: its parameters are the model's, not this module's
        self.levels, self.heads = bottom_up(
            encoder, feature_size, sites, prior, init, activation, level_sizes, batch_norm
        )

    def forward(self, x: Tensor) -> None:
        """Sample every latent site by running the prior.

        Args:
            x: data (M, *event_shape).
        """
        outputs = (
            head(features) for head, features in zip(self.heads, self.levels(x), strict=True)
        )
        rules = {
            site.name: partial(_combined, site, *output)
            for site, output in zip(self.sites, outputs, strict=True)
        }
        with TopDown(rules):
            self.prior[0]()


def _combined(
    site: LatentSite, first: Tensor, second: Tensor, p: dist.TorchDistribution
) -> dist.TorchDistribution:
    """The product of N(first, exp(second)) and p, normalised."""
    first, second = (
        t.unflatten(-1, site.unconstrained_shape) if site.unconstrained_shape else t.squeeze(-1)
        for t in (first, second)
    )
    base = base_distribution(p)
    if not isinstance(base, dist.Normal):
        return site_distribution(site, first, second)
    evidence, prior = (-second).exp(), base.scale**-2
    precision = evidence + prior
    location = (evidence * first + prior * base.loc) / precision
    return dist.Normal(location, precision.rsqrt(), validate_args=False).to_event(
        len(site.event_shape)
    )
