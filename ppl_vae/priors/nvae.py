"""A small convolutional hierarchy of image-shaped Normal layers with a deterministic path from the
top down.

Knows networks; knows nothing of data or guides. The guide for it is the posterior "residual" (or
"ladder").
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.networks import Images, image_shape, zeroed
from ppl_vae.protocols import ImageLayers

__all__ = ["NVAE", "ResidualCell"]

GROUP = 8  # channels that are normalised together


class ResidualCell(nn.Module):
    """h + f(h): twice group norm, silu and a 3 x 3 convolution, the last one 0 at the start.

    Group norm, not batch norm: its statistics are a datum's own, so draws, batches of one and
    recorded steps agree.

    Args:
        channels: C of h, (*, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = math.gcd(channels, max(1, channels // GROUP))
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        nn.init.zeros_(convolutions[1].weight)
        layers = [
            part
            for layer in convolutions
            for part in (nn.GroupNorm(groups, channels), nn.SiLU(), layer)
        ]
        self.body = Images(nn.Sequential(*layers))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.body(h)


class NVAE(nn.Module, ImageLayers):
    """p(z_S) = N(0, I), p(z_i | z_>i) = N(m_i(h_i), diag(s_i(h_i)^2)), layers that are images.

    h_i = cells(h_(i+1) + W_i z_(i+1)). Layers are images of C = latent_size / (H W) channels; "z",
    the bottom layer, is the flattened image that data are decoded from, and "z_S", ..., "z_2" come
    before it. h has one residual cell a layer. `map_shapes` tells a guide each site's (C, H, W).

    Every layer starts as the prior of the next and comes into use late: with 400 steps of Adam at
    1e-3 on 8 x 8 digits all layers stay near KL 0, with 500 at 5e-3, `kl_weight="linear:0:1:5"` and
    `kl_balance=True` all are used and the bound is an MLP's. `weight_penalty` keeps the cells'
    weights small.

    Args:
        latent_size: number of coordinates of z, a multiple of the bottom layer's H W.
        event_shape: shape of a datum, an image.
        halvings: from the bottom, how many times each layer's height and width are those of the
            event halved; each layer's number is that of the last one, or one more.
        channels: channels of h.

    Source: NVAE: a deep hierarchical variational autoencoder (2020), section 3.
    """

    def __init__(
        self,
        latent_size: int,
        event_shape: Sequence[int],
        halvings: Sequence[int] = (2, 2, 3, 3),
        channels: int = 32,
    ) -> None:
        super().__init__()
        halvings = checks.sizes("prior_options.halvings", halvings)
        if any(above - below not in (0, 1) for below, above in pairwise(halvings)):
            checks.refuse(
                "prior_options.halvings", list(halvings), "each layer's the last one's, or one more"
            )
        sizes = [_image_size(event_shape, n) for n in halvings]
        area = sizes[0][0] * sizes[0][1]
        if latent_size % area:
            checks.refuse(
                "latent_size with prior 'nvae'",
                latent_size,
                f"a multiple of {area}, its bottom layer's area",
            )
        names = ["z", *(f"z_{i + 1}" for i in range(1, len(sizes)))]
        shapes = {
            name: (latent_size // area, *size) for name, size in zip(names, sizes, strict=True)
        }
        self.map_shapes = dict(reversed(shapes.items()))
        self.start = nn.Parameter(torch.zeros(channels, *sizes[-1]))
        inputs = [nn.Conv2d(latent_size // area, channels, 1) for _ in names[1:]]
        self.inputs = nn.ModuleList(Images(layer) for layer in inputs)
        self.cells = nn.ModuleList(ResidualCell(channels) for _ in names[1:])
        self.heads = nn.ModuleList(
            Images(_head(channels, 2 * latent_size // area)) for _ in names[1:]
        )
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self) -> Tensor:
        """Sample every layer from the top down; returns the value of "z"."""
        h, shapes = self.start, list(self.map_shapes.items())
        (top, shape), *below = shapes
        z = pyro.sample(top, _normal(self.zero.expand(shape), self.zero.expand(shape)))
        for i, (name, lower) in enumerate(below):
            h = self.cells[i](h + self.inputs[i](z.unflatten(-1, shape)))
            h = Images(nn.Upsample(size=lower[1:]))(h) if lower[1:] != shape[1:] else h
            z = pyro.sample(name, _normal(*self.heads[i](h).chunk(2, -3)))
            shape = lower
        return z


def _image_size(event_shape: Sequence[int], halvings: int) -> tuple[int, int]:
    if len(event_shape) < 2:
        checks.refuse(
            "prior 'nvae'", f"event_shape {tuple(event_shape)}", "an image", "use prior='ladder'"
        )
    _, *size = image_shape("prior 'nvae'", tuple(event_shape))
    height, width = (-(-n // 2**halvings) for n in size)
    return height, width


def _head(channels: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.SiLU(), zeroed(nn.Conv2d(channels, outputs, 1))
    )  # every layer starts as N(0, I)


def _normal(location: Tensor, log_scale: Tensor) -> dist.TorchDistribution:
    """N over the flattened image, its log scale kept where single precision can square it."""
    scale = log_scale.clamp(-5.0, 5.0).exp()
    return dist.Normal(location.flatten(-3), scale.flatten(-3), validate_args=False).to_event(1)
