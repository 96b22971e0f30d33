"""The deterministic way up: features of x for each layer of a hierarchy, and heads that read them.

Knows latent sites and networks; knows nothing of distributions. Layers are vectors, or images where
the prior says so (`ImageLayers`).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.guides.sites import LatentSite
from ppl_vae.guides.vectors import vector_size
from ppl_vae.handlers.own_parameters import users_program
from ppl_vae.networks import ACTIVATIONS, Images, RowNorm, initialize
from ppl_vae.priors.nvae import ResidualCell
from ppl_vae.protocols import ImageLayers

__all__ = ["bottom_up"]


class Levels(nn.Module):
    """d_1 = encoder(x), d_(i+1) = step_i(d_i): one feature tensor for each site.

    d_1 is the last sampled site's.

    Args:
        encoder: x (M, *event_shape) -> d_1.
        steps: the modules step_i.
    """

    def __init__(self, encoder: nn.Module, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoder, self.steps = encoder, nn.ModuleList(steps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features in the order in which the prior samples its sites.

        Args:
            x: data (M, *event_shape).
        """
        features = [self.encoder(x)]
        for step in self.steps:
            features.append(step(features[-1]))
        return features[::-1]


class VectorHead(nn.Module):
    """(features (*, H), further vectors (*, n)) -> two vectors (*, n), by one linear map.

    Args:
        features: H.
        size: n.
        num_vectors: number of further vectors.
        init: initial weights, as in `VAEConfig`.
    """

    def __init__(self, features: int, size: int, num_vectors: int, init: str) -> None:
        super().__init__()
        self.body = initialize(nn.Linear(features + num_vectors * size, 2 * size), init, "tanh")

    def forward(self, features: Tensor, *vectors: Tensor) -> Sequence[Tensor]:
        return self.body(_joined(features, vectors, -1)).chunk(2, -1)


class MapHead(nn.Module):
    """(features (*, C', H, W), vectors (*, n)) -> two vectors (*, n), by a 3 x 3 convolution.

    Args:
        features: C'.
        shape: (C, H, W) of the site, n = C H W.
        num_vectors: number of further vectors.
    """

    def __init__(self, features: int, shape: tuple[int, int, int], num_vectors: int) -> None:
        super().__init__()
        self.shape = shape
        self.body = Images(nn.Conv2d(features + num_vectors * shape[0], 2 * shape[0], 3, padding=1))

    def forward(self, features: Tensor, *vectors: Tensor) -> Sequence[Tensor]:
        images = [vector.unflatten(-1, self.shape) for vector in vectors]
        return [half.flatten(-3) for half in self.body(_joined(features, images, -3)).chunk(2, -3)]


def _joined(features: Tensor, others: Sequence[Tensor], dim: int) -> Tensor:
    """Concatenation along `dim` of tensors whose leading dimensions broadcast."""
    parts = [features, *others]
    batch = torch.broadcast_shapes(*(part.shape[:dim] for part in parts))
    return (
        torch.cat([part.expand(*batch, *part.shape[dim:]) for part in parts], dim)
        if others
        else features
    )


def bottom_up(
    encoder: nn.Module,
    feature_size: int,
    sites: Sequence[LatentSite],
    prior: Any,
    init: str,
    activation: str,
    level_sizes: Sequence[int] | None,
    batch_norm: bool,
    num_vectors: int = 0,
) -> tuple[Levels, nn.ModuleList]:
    """The way up, and one head for each site.

    Args:
        encoder: x (M, *event_shape) -> features.
        feature_size: number of features.
        sites: the latent sites of the prior.
        prior: the prior as a program; layers are images where it inherits `ImageLayers`.
        init: initial weights of heads and layers, as in `VAEConfig`.
        activation: of the layers, as in `VAEConfig`.
        level_sizes: widths of the layers on the way up; None halves the size of the last one, down
            to 16. Image-shaped layers take none.
        batch_norm: whether the layers are batch-normalised.
        num_vectors: how many further vectors of the site's size each head takes.

    Raises:
        InputError: for sizes that do not fit the sites, and for an encoder whose features do not
            fit image-shaped layers.
    """
    program = users_program(prior)
    if isinstance(program, ImageLayers):
        if level_sizes is not None:
            checks.refuse(
                "posterior_options.level_sizes",
                list(level_sizes),
                "none with image-shaped layers, whose features have the encoder's channels",
            )
        return _image_levels(
            encoder, feature_size, [program.map_shapes[site.name] for site in sites], num_vectors
        )
    sizes = _level_sizes(feature_size, level_sizes, len(sites))
    steps = [_dense(a, b, init, activation, batch_norm) for a, b in pairwise(sizes)]
    pairs = zip(sizes[::-1], sites, strict=True)
    heads = [VectorHead(size, vector_size(site), num_vectors, init) for size, site in pairs]
    return Levels(encoder, steps), nn.ModuleList(heads)


def _level_sizes(feature_size: int, level_sizes: Sequence[int] | None, num_sites: int) -> list[int]:
    if level_sizes is None:
        return [max(feature_size // 2**i, min(16, feature_size)) for i in range(num_sites)]
    sizes = [feature_size, *checks.sizes("posterior_options.level_sizes", level_sizes)]
    if len(sizes) != num_sites:
        checks.refuse(
            "posterior_options.level_sizes",
            f"{len(sizes) - 1} sizes",
            f"{num_sites - 1}, the upper layers'",
        )
    return sizes


def _dense(inputs: int, outputs: int, init: str, activation: str, batch_norm: bool) -> nn.Module:
    norm = [RowNorm(outputs)] if batch_norm else []
    return initialize(
        nn.Sequential(nn.Linear(inputs, outputs), *norm, ACTIVATIONS[activation]()),
        init,
        activation,
    )


def _image_levels(
    encoder: nn.Module, feature_size: int, shapes: Sequence[tuple[int, int, int]], num_vectors: int
) -> tuple[Levels, nn.ModuleList]:
    _, height, width = shapes[-1]
    channels, rest = divmod(feature_size, height * width)
    if rest or not channels:
        expected = f"a multiple of the bottom layer's {height} x {width}"
        checks.refuse(
            "size of the encoder's features",
            feature_size,
            expected,
            "use network='conv', hidden_sizes=() and one of channels for each halving",
        )
    first = nn.Sequential(
        encoder, nn.Unflatten(-1, (channels, height, width)), ResidualCell(channels)
    )
    upward = list(reversed(shapes))
    steps = [_image_step(channels, a[1:], b[1:]) for a, b in pairwise(upward)]
    return Levels(first, steps), nn.ModuleList(
        MapHead(channels, shape, num_vectors) for shape in shapes
    )


def _image_step(channels: int, here: Sequence[int], above: Sequence[int]) -> nn.Module:
    halve = (
        []
        if tuple(here) == tuple(above)
        else [Images(nn.Conv2d(channels, channels, 3, stride=2, padding=1))]
    )
    return nn.Sequential(*halve, ResidualCell(channels))
