"""What a part may do besides being a program: abilities that its class declares by inheriting them.

An attribute or an argument of a user's own means nothing by its name alone, whatever it is called.
The classes here have no metaclass of their own, so a `PyroModule` can inherit them too.
"""

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
from pyro.poutine.runtime import InferDict
from torch import Tensor, nn

__all__ = [
    "ClosedFormPosterior",
    "CouplesData",
    "ImageLayers",
    "InitialisedFromData",
    "MadeOfPosterior",
    "Posterior",
    "SiteInfo",
    "StratifiedDraws",
    "is_point",
]


class InitialisedFromData:
    """Abstract: a prior or a pair of programs that training shows its data before the first
    step.
    """

    def start_from(self, data: Tensor) -> None:
        """Set initial values.

        Args:
            data: the training data x, (N, *event_shape), uint8 where they are grey levels in bytes;
                of data that are not in memory some thousand rows.
        """
        raise NotImplementedError


class CouplesData:
    """Abstract: a module whose output for one datum depends, in training mode, on the other data
    and draws of its batch.

    No bound is then a bound datum by datum, and a gradient that is derived for data one by one is
    wrong.
    """


class ImageLayers:
    """Abstract: a prior whose layers are flattened images.

    `map_shapes` is the shape (C, H, W) of each latent site's image, by the site's name.
    """

    map_shapes: Mapping[str, tuple[int, int, int]]


class MadeOfPosterior:
    """Abstract: a prior class that is made of the guide's own q(z|x).

    The guide is built first, and its q(z|x) is handed to the class as the argument `encode`.
    """


class Posterior(nn.Module):
    """Abstract: one of the library's amortised guides, over the latent sites `sites`."""

    sites: tuple[Any, ...]

    @property
    def mean_field(self) -> bool:
        """Whether q of each site is known given x alone, so that one run shows its mean."""
        return len(self.sites) == 1


class ClosedFormPosterior(Posterior):
    """Abstract: a guide whose q(z|x) over one real site has a closed form."""

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x).

        Args:
            x: data (M, *event_shape).

        Returns:
            A distribution of batch shape (M,) and event shape (latent_size,).
        """
        raise NotImplementedError


class StratifiedDraws:
    """Abstract: a distribution that can draw its components evenly over the draws of a batch."""

    def stratified_rsample(self) -> tuple[Tensor, Tensor] | None:
        """(draws, their weights), or None where the batch is no multiple of the components."""
        raise NotImplementedError


class SiteInfo(InferDict, total=False):
    """What `infer` of a sample site may say besides Pyro's own keys."""

    ppl_point: bool  # q is a point mass, which has no KL term
    ppl_undrawn: bool  # a noise handler left the draw to whoever needs it
    ppl_strata: Tensor  # the weights (L, M) of draws that were made stratum by stratum


def is_point(site: Mapping[str, Any]) -> bool:
    """Whether a guide's site is a point mass that has no KL term: a marked Delta."""
    fn = site["fn"]
    while isinstance(fn, (dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta) and bool(site["infer"].get("ppl_point"))
