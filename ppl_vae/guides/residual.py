"""The residual guide: the prior run top-down, each layer's Normal corrected by what x says.

Knows latent sites, the prior as a program, and an encoder network; knows nothing of decoders or
estimators.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.guides.levels import bottom_up
from ppl_vae.guides.sites import LatentSite, base_distribution
from ppl_vae.handlers.top_down import TopDown
from ppl_vae.networks import zeroed
from ppl_vae.protocols import Posterior

__all__ = ["ResidualGuide"]


class ResidualGuide(Posterior):
    """q(z_s | z_<s, x) = N(m_p + a, (s_p exp(b))^2), (a, b) = head_s([d_s(x), m_p, log s_p]).

    The sites come in the prior's order. m_p and s_p are the prior's mean and scale of z_s given the
    guide's draws of the sites before, so KL_s = 1/2 sum [a^2 / s_p^2 + exp(2 b) - 2 b - 1], and
    heads that are 0, as they start, give KL 0 whatever the prior is. d_s(x) comes up from the
    encoder as in the ladder guide. Every site is to be Normal given those before.

    Args:
        encoder: x (M, *event_shape) -> features.
        feature_size: number of features.
        sites: the latent sites of the prior.
        prior: the prior as a program, whose parameters stay the model's.
        init: initial weights of the layers on the way up, as in `VAEConfig`.
        activation: of these layers, as in `VAEConfig`.
        level_sizes: widths of these layers; None halves the size of the last one.
        batch_norm: whether these layers are batch-normalised.

    Source: NVAE: a deep hierarchical variational autoencoder (2020), section 3.2.
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
        for site in sites:
            if site.family is not dist.Normal or len(site.event_shape) != 1:
                checks.refuse(
                    "posterior 'residual'",
                    f"the site '{site.name}', {site.family.__name__} of shape "
                    f"{tuple(site.event_shape)}",
                    "Normal vectors",
                    "use posterior='ladder'",
                )
        self.prior = (prior,)  # in a tuple: its parameters are the model's, not this module's
        self.levels, self.heads = bottom_up(
            encoder,
            feature_size,
            sites,
            prior,
            init,
            activation,
            level_sizes,
            batch_norm,
            num_vectors=2,
        )
        zeroed(self.heads)

    def forward(self, x: Tensor) -> None:
        """Sample every latent site by running the prior.

        Args:
            x: data (M, *event_shape).
        """
        parts = zip(self.sites, self.heads, self.levels(x), strict=True)
        with TopDown(
            {site.name: partial(_corrected, head, features) for site, head, features in parts}
        ):
            self.prior[0]()


def _corrected(
    head: nn.Module, features: Tensor, p: dist.TorchDistribution
) -> dist.TorchDistribution:
    base = base_distribution(p)
    location, scale = torch.broadcast_tensors(base.loc, base.scale)
    shift, log_ratio = head(features, location, scale.log())
    ratio = log_ratio.clamp(-5.0, 5.0).exp()  # beyond it single precision loses the square
    return dist.Normal(location + shift, scale * ratio, validate_args=False).to_event(1)
