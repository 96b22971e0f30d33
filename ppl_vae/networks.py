"""Network bodies: x -> features and z -> outputs, in torch alone.

Knows activations, initialisation schemes and image shapes. Knows nothing of Pyro, of distributions
or of what its outputs mean: a likelihood (`likelihoods.py`) or a guide's heads (`guides/`) give
them a meaning.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.parts.slot import Slot
from ppl_vae.parts.user_code import fault

__all__ = [
    "ACTIVATIONS",
    "DECODER",
    "ENCODER",
    "INITIALIZATIONS",
    "NETWORKS",
    "NETWORK_OPTIONS",
    "TRANSPOSED",
    "Gaps",
    "InUnits",
    "OwnDecoder",
    "OwnEncoder",
    "decoder_network",
    "encoder_network",
    "fan_in",
    "gaps_shape",
    "image_shape",
    "initialize",
    "own_decoder",
    "own_encoder",
    "zeroed",
]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}
# of which a unit that is as often below 0 as above passes half of its variance on
RECTIFIERS = ("relu", "silu", "softplus", "leaky_relu")
NORMALIZATIONS = ("none", "layer", "batch")
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
INITIALIZATIONS = ("fan_in", "normal_0.01")


class Flatten(nn.Module):
    """Events to rows: (*, *event_shape) -> (*, D)."""

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_dim = len(event_shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-self.event_dim) if self.event_dim > 1 else x


class Unflatten(nn.Module):
    """Rows to events: (*, prod(shape)) -> (*, *shape)."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:-1], *self.shape)


class InUnits(nn.Module):
    """x (*, *event_shape) -> (x - center) / scale, whose buffers training sets from the data."""

    center: Tensor
    scale: Tensor

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(*event_shape))
        self.register_buffer("scale", torch.ones(*event_shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.scale


class Gaps(nn.Module):
    """x (*, *event_shape) with NaN where nothing was observed -> what an encoder of complete
    numbers takes: zeros there, and beside x a second map of ones and zeros that says where.

    Args:
        encoder: takes x and the map as channels, `gaps_shape(event_shape)`; a module of the user's
            own takes x alone, or x and `observed` if its forward has an argument of that name.
        event_shape: that of a datum.
    """

    def __init__(self, encoder: nn.Module, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder, self.event_shape = encoder, event_shape

    def forward(self, x: Tensor) -> Tensor:
        """Features (*, H)."""
        known = ~x.isnan()
        filled = torch.where(known, x, torch.zeros_like(x))
        if isinstance(self.encoder, OwnEncoder):
            return self.encoder(filled, known.to(x.dtype))
        maps = [filled, known.to(x.dtype)]
        if len(self.event_shape) == 3:
            return self.encoder(torch.cat(maps, -3))
        return self.encoder(torch.stack(maps, -len(self.event_shape) - 1))


def gaps_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The event shape of x with the map of what was observed beside it."""
    if len(event_shape) == 3:
        return (2 * event_shape[0], *event_shape[1:])
    return (2, *event_shape)


class Images(nn.Module):
    """An image-to-image layer stack with any number of leading dimensions, which torch's
    convolutions do not take.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x.reshape(-1, *x.shape[-3:]))
        return y.reshape(*x.shape[:-3], *y.shape[1:])


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation of rows (*, D) with any number of leading dimensions; a single row uses
    the running moments, since its own variance is 0."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        mean, variance, momentum = self.running_mean, self.running_var, self.momentum or 0.0
        own = self.training and len(rows) > 1
        y = nn.functional.batch_norm(
            rows, mean, variance, self.weight, self.bias, own, momentum, self.eps
        )
        return y.reshape(x.shape)


class ImageNorm(nn.BatchNorm2d):
    """Batch normalisation of images; a single value a channel (one image of one pixel) uses the
    running moments.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            moments = self.running_mean, self.running_var
            return nn.functional.batch_norm(
                x, *moments, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


class GatedLinear(nn.Module):
    """h (*, D) -> (W h + b) * sigmoid(V h + c), elementwise.

    Source: Language modeling with gated convolutional networks (2017), equation 1.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * torch.sigmoid(self.gate(x))


class ResidualBlock(nn.Module):
    """Images (M, C, H, W) -> x + conv(activation(norm(conv(activation(norm(x)))))), kernels 3 x 3.

    Source: Identity mappings in deep residual networks (2016), section 4.
    """

    def __init__(self, channels: int, activation: str, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [ImageNorm(channels)] if batch_norm else []
            layers += [ACTIVATIONS[activation](), nn.Conv2d(channels, channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def dense(
    sizes: Sequence[int],
    activation: str,
    dropout: float = 0.0,
    gated: bool = False,
    normalization: str = "none",
) -> list[nn.Module]:
    """Hidden layers h <- activation(W h + b), one for each consecutive pair of `sizes`.

    Args:
        sizes: of the input and of each layer.
        activation: its name.
        dropout: share of each layer's units set to 0 in training.
        gated: h <- (W h + b) * sigmoid(V h + c) in place of the activation.
        normalization: of W h + b before the activation, or of a gated layer's output: "layer" over
            the units of a datum, "batch" over the data of a batch, and over running means of them
            in evaluation.
    """
    checks.number("network_options.dropout", dropout, 0.0, maximum=1.0)
    checks.truth("network_options.gated", gated)
    checks.choice("network_options.normalization", normalization, NORMALIZATIONS)
    norms = {"none": None, "layer": nn.LayerNorm, "batch": RowNorm}
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers.append(GatedLinear(inputs, outputs) if gated else nn.Linear(inputs, outputs))
        norm = norms[normalization]
        if norm is not None:
            layers.append(norm(outputs))
        if not gated:
            layers.append(ACTIVATIONS[activation]())
        if dropout:
            layers.append(nn.Dropout(dropout))
    return layers


def mlp_encoder(
    event_shape: tuple[int, ...],
    hidden_sizes: tuple[int, ...],
    activation: str,
    decoder_hidden_sizes: object = None,
    **options: Any,
) -> tuple[nn.Module, int]:
    """Multilayer perceptron x -> features; no hidden size makes it the identity on flattened x.

    `options` are those of `dense`.
    """
    sizes = (math.prod(event_shape), *hidden_sizes)
    return nn.Sequential(Flatten(event_shape), *dense(sizes, activation, **options)), sizes[-1]


def mlp_decoder(
    latent_size: int,
    num_outputs: int,
    event_shape: tuple[int, ...],
    hidden_sizes: tuple[int, ...],
    activation: str,
    decoder_hidden_sizes: object = None,
    **options: Any,
) -> nn.Module:
    """Multilayer perceptron z -> outputs, its hidden sizes the encoder's in reverse unless given;
    `options` are those of `dense`.
    """
    hidden = (
        tuple(reversed(hidden_sizes))
        if decoder_hidden_sizes is None
        else checks.sizes("network_options.decoder_hidden_sizes", decoder_hidden_sizes)
    )
    sizes = (latent_size, *hidden)
    output = nn.Linear(sizes[-1], num_outputs * math.prod(event_shape))
    return nn.Sequential(
        *dense(sizes, activation, **options), output, Unflatten((num_outputs, *event_shape))
    )


def image_shape(subject: str, event_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of an event; a `subject` that needs images refuses any other.

    A last axis of 1, 3 or 4 after larger ones is that of channels, as image files have them.
    """
    expected = "(height, width) or (channels, height, width)"
    if len(event_shape) not in (2, 3):
        checks.refuse(subject, f"event_shape {event_shape}", expected, "use network='mlp'")
    channels, height, width = (1, *event_shape)[-3:]
    if len(event_shape) == 3 and width in (1, 3, 4) and width < min(channels, height):
        checks.refuse(
            subject,
            f"event_shape {event_shape}, whose channels come last",
            expected,
            "put the channels first, x.permute(0, 3, 1, 2)",
        )
    return channels, height, width


def _halvings(size: int, times: int) -> list[int]:
    """Sizes after 0..times strided convolutions (kernel 3, stride 2, padding 1): n -> ceil(n /
    2).
    """
    return [-(-size // 2**i) for i in range(times + 1)]


def _block(layer: nn.Module, channels: int, activation: str, batch_norm: bool) -> list[nn.Module]:
    return [layer, *([ImageNorm(channels)] if batch_norm else []), ACTIVATIONS[activation]()]


def _residual(blocks: int, channels: int, activation: str, batch_norm: bool) -> list[nn.Module]:
    """That many residual blocks at one resolution."""
    number = checks.integer("network_options.residual_blocks", blocks, 0)
    return [ResidualBlock(channels, activation, batch_norm) for _ in range(number)]


def conv_encoder(
    event_shape: tuple[int, ...],
    hidden_sizes: tuple[int, ...],
    activation: str,
    channels: Sequence[int] = (32, 64),
    batch_norm: bool = True,
    residual_blocks: int = 0,
) -> tuple[nn.Module, int]:
    """Strided convolutions that halve the image, one for each of `channels`, each followed by
    `residual_blocks` at its resolution; then dense layers.
    """
    image = image_shape("network 'conv'", event_shape)
    widths = checks.sizes("network_options.channels", channels)
    checks.truth("network_options.batch_norm", batch_norm)
    layers: list[nn.Module] = []
    for inputs, outputs in zip((image[0], *widths), widths, strict=False):
        layers += _block(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), outputs, activation, batch_norm
        )
        layers += _residual(residual_blocks, outputs, activation, batch_norm)
    height, width = (_halvings(n, len(widths))[-1] for n in image[1:])
    sizes = ((widths[-1] if widths else image[0]) * height * width, *hidden_sizes)
    body = (
        Flatten(event_shape),
        Unflatten(image),
        Images(nn.Sequential(*layers)),
        Flatten((1, 1, 1)),
    )
    return nn.Sequential(*body, *dense(sizes, activation)), sizes[-1]


def conv_decoder(
    latent_size: int,
    num_outputs: int,
    event_shape: tuple[int, ...],
    hidden_sizes: tuple[int, ...],
    activation: str,
    channels: Sequence[int] = (32, 64),
    batch_norm: bool = True,
    residual_blocks: int = 0,
) -> nn.Module:
    """The encoder's mirror: dense layers, then transposed convolutions that double the image to its
    exact size, `residual_blocks` before each.
    """
    image = image_shape("network 'conv'", event_shape)
    widths = checks.sizes("network_options.channels", channels)[::-1]
    heights, breadths = (_halvings(n, len(widths))[::-1] for n in image[1:])
    outputs = num_outputs * image[0]
    start = (widths[0] if widths else outputs, heights[0], breadths[0])
    layers: list[nn.Module] = []
    for i, inputs in enumerate(widths):
        last = i == len(widths) - 1
        layers += _residual(residual_blocks, inputs, activation, batch_norm)
        # stride 2 gives 2n - 1; the padding adds the row or column that halving an even size had
        # dropped
        padding = (heights[i + 1] + 1 - 2 * heights[i], breadths[i + 1] + 1 - 2 * breadths[i])
        width = outputs if last else widths[i + 1]
        layer = nn.ConvTranspose2d(inputs, width, 3, stride=2, padding=1, output_padding=padding)
        layers += [layer] if last else _block(layer, width, activation, batch_norm)
    sizes = (latent_size, *reversed(hidden_sizes), math.prod(start))
    body = dense(sizes[:-1], activation), nn.Linear(sizes[-2], sizes[-1])
    first = [ACTIVATIONS[activation]()] if widths else []
    shape = (num_outputs, *event_shape)
    return nn.Sequential(
        *body[0],
        body[1],
        *first,
        Unflatten(start),
        Images(nn.Sequential(*layers)),
        Flatten((1, 1, 1)),
        Unflatten(shape),
    )


NETWORKS: dict[str, tuple[Callable[..., tuple[nn.Module, int]], Callable[..., nn.Module]]] = {
    "mlp": (mlp_encoder, mlp_decoder),
    "conv": (conv_encoder, conv_decoder),
}
NETWORK_OPTIONS = {
    "mlp": ("dropout", "decoder_hidden_sizes", "gated", "normalization"),
    "conv": ("channels", "batch_norm", "residual_blocks"),
}


def encoder_network(
    network: str,
    event_shape: tuple[int, ...],
    hidden_sizes: tuple[int, ...],
    activation: str,
    init: str,
    options: dict,
) -> tuple[nn.Module, int]:
    """The named network's body x (*, *event_shape) -> features (*, H), and H."""
    checks.options(
        "network_options", options, NETWORK_OPTIONS[checks.choice("network", network, NETWORKS)]
    )
    checks.choice("activation", activation, ACTIVATIONS)
    body, size = NETWORKS[network][0](event_shape, hidden_sizes, activation, **options)
    return initialize(body, init, activation), size


def decoder_network(
    network: str,
    latent_size: int,
    num_outputs: int,
    event_shape: tuple[int, ...],
    hidden_sizes: tuple[int, ...],
    activation: str,
    init: str,
    options: dict,
) -> nn.Module:
    """The named network z (*, latent_size) -> outputs (*, num_outputs, *event_shape)."""
    checks.options(
        "network_options", options, NETWORK_OPTIONS[checks.choice("network", network, NETWORKS)]
    )
    checks.choice("activation", activation, ACTIVATIONS)
    body = NETWORKS[network][1](
        latent_size, num_outputs, event_shape, hidden_sizes, activation, **options
    )
    return initialize(body, init, activation)


def initialize(module: nn.Module, init: str, activation: str) -> nn.Module:
    """Draw every dense and convolutional weight anew, with zero biases; return the module.

    "fan_in": W ~ N(0, gain^2 / fan-in), gain sqrt(2) for the rectifier family and 1 for tanh and
    sigmoid, so the scale of a signal survives any depth; a layer that no activation follows has
    gain 1. "normal_0.01": W ~ N(0, 0.01^2), as replications of Auto-Encoding Variational Bayes
    (2013, section 5) do.
    """
    checks.choice("init", init, INITIALIZATIONS)
    gain = math.sqrt(2.0) if activation in RECTIFIERS else 1.0
    modules = list(module.modules())
    for i, layer in enumerate(modules):
        if not isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            continue
        scale = 0.01
        if init == "fan_in":
            followed = any(isinstance(m, tuple(ACTIVATIONS.values())) for m in modules[i:])
            scale = (gain if followed else 1.0) / math.sqrt(fan_in(layer, layer.weight))
        nn.init.normal_(layer.weight, 0.0, scale)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module


def zeroed(module: nn.Module) -> nn.Module:
    """The module with all its parameters 0: a correction that starts at none."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def fan_in(layer: nn.Module, kernel: Tensor) -> int:
    """How many inputs a unit of `layer` sums over, `kernel` being its weight.

    A unit of a transposed convolution meets one in prod(stride) of its kernel's taps.
    """
    if not isinstance(layer, TRANSPOSED):
        return max(1, math.prod(kernel.shape[1:]))
    inputs = kernel.shape[0] // layer.groups
    return max(1, inputs * math.prod(kernel.shape[2:]) // math.prod(layer.stride))


ENCODER = Slot("encoder", {}, ("event_shape",))
DECODER = Slot("decoder", {}, ("latent_size", "event_shape", "num_outputs"))


class OwnEncoder(nn.Module):
    """A module of the user's own, x (M, *event_shape) -> features (M, H), for x (*, *event_shape).

    Args:
        module: the network.
        event_shape: that of a datum.

    Raises:
        InputError: where it makes no row of features of each datum.
    """

    def __init__(self, module: nn.Module, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module, self.event_shape = module, event_shape
        parameters = inspect.signature(module.forward).parameters
        self.takes_observed = "observed" in parameters
        rows = torch.zeros(3, *event_shape)
        needed = self.takes_observed and parameters["observed"].default is inspect.Parameter.empty
        found = _tried("encoder", module, *([rows, torch.ones_like(rows)] if needed else [rows]))
        if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != 3:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            checks.refuse("encoder", f"{got} for 3 data", "a tensor (3, H), H features a datum")
        self.feature_size = found.shape[1]

    def forward(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Features (*, H); `observed` is 1 where x is known and else 0, of data with gaps."""
        event_dim = len(self.event_shape)
        given = {}
        if observed is not None and self.takes_observed:
            given["observed"] = observed.reshape(-1, *self.event_shape)
        features = self.module(x.reshape(-1, *self.event_shape), **given)
        return features.reshape(*x.shape[: x.dim() - event_dim], self.feature_size)


class OwnDecoder(nn.Module):
    """A module of the user's own, z (M, L) -> outputs (M, *event_shape) or (M, num_outputs,
    *event_shape), for z (*, L).

    What it returns that is no tensor, a distribution of x, is handed on as it is; its batch shape
    has to be that of z, whatever that is.

    Args:
        module: the network.
        latent_size: L.
        num_outputs: maps that the likelihood takes.
        event_shape: that of a datum.

    Raises:
        InputError: where it makes other outputs.
    """

    def __init__(
        self, module: nn.Module, latent_size: int, num_outputs: int, event_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.module, self.maps = module, (num_outputs, *event_shape)
        found = _tried("decoder", module, torch.zeros(3, latent_size))
        self.makes_tensors = isinstance(found, Tensor)
        whole = [(3, *self.maps), (3, *event_shape)] if num_outputs == 1 else [(3, *self.maps)]
        if isinstance(found, Tensor) and tuple(found.shape) not in whole:
            shapes = " or ".join(map(str, whole))
            checks.refuse(
                "decoder",
                f"outputs {tuple(found.shape)} for 3 latents",
                f"{shapes}, the maps of the likelihood",
            )

    def forward(self, z: Tensor) -> Any:
        """Outputs (*, num_outputs, *event_shape), or what the module returns."""
        if not self.makes_tensors:
            return self.module(z)
        outputs = self.module(z.reshape(-1, z.shape[-1]))
        return outputs.reshape(*z.shape[:-1], *self.maps)


def own_encoder(
    given: Any, options: Mapping[str, Any], event_shape: tuple[int, ...]
) -> tuple[nn.Module, int]:
    """An encoder of the user's own, a class or a module, and how many features it has."""
    encoder = OwnEncoder(_own(ENCODER, given, options, event_shape=event_shape), event_shape)
    return encoder, encoder.feature_size


def own_decoder(
    given: Any,
    options: Mapping[str, Any],
    latent_size: int,
    num_outputs: int,
    event_shape: tuple[int, ...],
) -> OwnDecoder:
    """A decoder of the user's own, a class or a module."""
    offers: dict[str, Any] = {
        "latent_size": latent_size,
        "num_outputs": num_outputs,
        "event_shape": event_shape,
    }
    return OwnDecoder(_own(DECODER, given, options, **offers), **offers)


def _own(slot: Slot, given: Any, options: Mapping[str, Any], **offers: Any) -> nn.Module:
    if inspect.isclass(given):
        given = slot.make(given, options, **offers)
    else:
        slot.without_options(given, options)
    if not isinstance(given, nn.Module):
        got = getattr(given, "__name__", type(given).__name__)
        checks.refuse(slot.kind, got, "a torch.nn.Module, its class or 'file.py:Name'")
    return given


def _tried(subject: str, module: nn.Module, *rows: Tensor) -> Any:
    """What a module makes of three rows, in evaluation mode, which one row too may be normalised
    in.
    """
    before = [m.training for m in module.modules()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return module.eval()(*rows)
    except Exception as error:
        checks.refuse(subject, fault(error), f"a module for rows of shape {tuple(rows[0].shape)}")
    finally:
        for m, training in zip(module.modules(), before, strict=True):
            m.training = training
