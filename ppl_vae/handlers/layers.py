"""Dense and convolutional layers whose weight is a random value: many weights at once, and noise
put in by handlers.

Knows torch's layer functions; knows nothing of distributions or of who sampled the weight. A weight
drawn under a plate of L particles around the plate of data has shape (L, 1, *W): every particle's
data meet that particle's weight.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["LayerCall", "WeightLayers", "call"]

_AFTER_BIAS = ("stride", "padding", "dilation", "groups")
_AFTER_BIAS_TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")
# function -> names of its arguments after input, weight and bias
LAYERS: dict[Callable[..., Tensor], tuple[str, ...]] = {
    F.linear: (),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _AFTER_BIAS),
    **dict.fromkeys(
        (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _AFTER_BIAS_TRANSPOSED
    ),
}
_SPATIAL = {function: int(function.__name__[-2]) for function in LAYERS if function is not F.linear}


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer function: y = function(input, weight, bias, **options).

    Args:
        function: a layer function of torch, one of `LAYERS`.
        input: what the layer is applied to.
        weight: the matrix or kernel W, or a batch of them, (*batch, *W).
        bias: (R,), or a batch of them; None for a layer without one.
        options: the function's further arguments, by name.
    """

    function: Callable[..., Tensor]
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls, function: Callable[..., Tensor], args: tuple, kwargs: Mapping[str, Any]
    ) -> "LayerCall":
        """The call with given positional and keyword arguments.

        Args:
            function: a layer function of torch, one of `LAYERS`.
            args: its positional arguments.
            kwargs: its keyword arguments.
        """
        named = {
            **dict(zip(("input", "weight", "bias", *LAYERS[function]), args, strict=False)),
            **kwargs,
        }
        return cls(
            function, named.pop("input"), named.pop("weight"), named.pop("bias", None), named
        )

    @property
    def dense(self) -> bool:
        """Whether the layer is a matrix product."""
        return self.function is F.linear

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of the plates in which the weight was drawn; () for one weight."""
        return self.weight.shape[
            : self.weight.dim() - (2 if self.dense else 2 + _SPATIAL[self.function])
        ]

    def replaced(self, **changes: Any) -> "LayerCall":
        """The same call with some of its parts exchanged.

        Args:
            **changes: the new parts, by their names.
        """
        return replace(self, **changes)

    def __call__(self) -> Tensor:
        """y. A batch of weights has its last dimension, the plate of data's, of size 1.

        Dense: input (*, M, C) -> (*batch[:-1], M, R). Convolution: input (B M, ...), the B =
        prod(batch) blocks of M each with their own kernel, in one grouped convolution.
        """
        if not self.batch_shape and (self.bias is None or self.bias.dim() == 1):
            return self.function(self.input, self.weight, self.bias, **self.options)
        return self._dense() if self.dense else self._grouped()

    def _dense(self) -> Tensor:
        weight = self.weight.squeeze(-3) if self.batch_shape else self.weight
        y = self.input @ weight.mT
        return y if self.bias is None else y + self.bias

    def _grouped(self) -> Tensor:
        size = self.batch_shape.numel() if self.batch_shape else self.bias.shape[:-1].numel()  # type: ignore[union-attr]
        weight = self.weight if self.batch_shape else self.weight.expand(size, *self.weight.shape)
        event = weight.shape[-2 - _SPATIAL[self.function] :]
        blocks = self.input.unflatten(0, (size, -1)).transpose(0, 1).flatten(1, 2)
        options = {**self.options, "groups": size * self.options.get("groups", 1)}
        y = self.function(blocks, weight.reshape(size * event[0], *event[1:]), None, **options)
        y = y.unflatten(1, (size, -1)).transpose(0, 1)
        return (y if self.bias is None else y + self._block_bias(size)).flatten(0, 1)

    def _block_bias(self, size: int) -> Tensor:
        bias: Tensor = self.bias  # type: ignore[assignment]
        blocks = bias.reshape(-1, 1, bias.shape[-1]).expand(size, 1, -1)
        return blocks.reshape(*blocks.shape, *(1,) * _SPATIAL[self.function])


class WeightLayers(TorchFunctionMode):
    """Inside the block a layer function takes batches of weights, and a weight's own noise.

    A weight has noise if a handler gave it one. The noise is looked up on the very tensor object
    that the guide's site returned, so that nothing can be mistaken for it once it is freed.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if func not in LAYERS:
            return func(*args, **(kwargs or {}))
        layer = LayerCall.of(func, args, kwargs or {})
        noise = getattr(layer.weight, "noise", None)
        return layer() if noise is None else noise(layer)


def call(module: nn.Module, theta: Mapping[str, Tensor], *args: Any) -> Any:
    """`module(*args)` with other values of some of its parameters.

    Args:
        module: the module.
        theta: the values, by the names of the parameters; torch's own call if empty.
        *args: what the module is called with.
    """
    if not theta:
        return module(*args)
    with WeightLayers():
        return functional_call(module, dict(theta), args)
