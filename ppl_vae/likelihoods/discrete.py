"""Likelihoods of categories and of grey levels: log p(x|z) is the logarithm of a probability."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_vae import checks, distributions
from ppl_vae.likelihoods.functions import SMALLEST
from ppl_vae.likelihoods.pixels import PixelLikelihood
from ppl_vae.likelihoods.start import (
    Blocks,
    OutputStart,
    inverse_softplus,
    log_shares,
    moments,
    per_entry,
)

__all__ = ["Categorical", "DiscretizedLogistic"]


class Categorical(PixelLikelihood):
    """P(x_d = k|z) = softmax(l_d)_k, k = 0 .. K-1, l (*, K, *event_shape) the logits.

    x holds the codes 0 .. K-1, whole numbers of any type. The mean, which `reconstruct` gives, is
    that of the code; the most probable category is `vae.decode(z).mode`.

    Args:
        event_shape: that of a datum.
        categories: K, the same for every entry.
    """

    counts = True

    def __init__(self, event_shape: tuple[int, ...], categories: int | None = None) -> None:
        super().__init__()
        self.event_dim = len(event_shape)
        if categories is None:
            checks.refuse(
                "likelihood_options.categories",
                "none",
                "the number of categories K of likelihood 'categorical'",
                "likelihood_options={'categories': K}, or --likelihood.categories K",
            )
        self.num_outputs = checks.integer("likelihood_options.categories", categories, 2)
        self.support = constraints.integer_interval(0, self.num_outputs - 1)

    @property
    def starts_from_data(self) -> bool | None:
        """By default."""
        return True

    def start_from(self, blocks: Blocks) -> OutputStart:
        """Logits at the logarithm of each category's share."""
        offset = log_shares(blocks, self.num_outputs)
        return per_entry(moments(blocks), offset, whole_numbers=True)

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        logits = outputs.movedim(-self.event_dim - 1, -1)
        codes = distributions.Codes(logits=logits, validate_args=False)
        return codes.to_event(self.event_dim)


class DiscretizedLogistic(PixelLikelihood):
    """P(x_d|z) of 256 grey levels, the logistic density of location m_d and scale s_d over each.

    s = softplus of the second map, in units of x in [0, 1]. x is uint8, or floats that are
    multiples of 1/255; so are draws. log p(x) is that of a probability, at most 0, and not to be
    compared with densities of grey values. Source: PixelCNN++ (2017), section 2.1.
    """

    num_outputs = 2

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_dim = len(event_shape)
        self.support = distributions.GreyLevels()

    @property
    def starts_from_data(self) -> bool | None:
        """By default."""
        return True

    def start_from(self, blocks: Blocks) -> OutputStart:
        """m = mean of the data + unit * output, and s that of a logistic of this unit, one standard
        deviation for all entries.
        """
        found = moments(blocks)
        unit = found.common_unit
        scale = inverse_softplus(unit * math.sqrt(3) / math.pi)
        offset = torch.stack([found.mean, scale.expand_as(found.mean)])
        factor = torch.ones_like(offset)
        factor[0] = unit
        return OutputStart(offset, factor, found.mean, unit.expand_as(found.mean))

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        location, raw_scale = outputs.unbind(-self.event_dim - 1)
        levels = distributions.DiscretizedLogistic(location, softplus(raw_scale) + SMALLEST)
        return levels.to_event(self.event_dim)
