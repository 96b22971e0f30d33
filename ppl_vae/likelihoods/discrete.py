"""Likelihoods of categories and of grey levels: log p(x|z) is the logarithm of a probability."""

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_vae import checks, distributions
from ppl_vae.likelihoods.functions import SMALLEST
from ppl_vae.likelihoods.pixels import PixelLikelihood

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

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        location, raw_scale = outputs.unbind(-self.event_dim - 1)
        levels = distributions.DiscretizedLogistic(location, softplus(raw_scale) + SMALLEST)
        return levels.to_event(self.event_dim)
