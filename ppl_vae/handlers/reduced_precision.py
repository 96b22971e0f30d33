"""Matrix products in bfloat16, everything else in the precision it had.

Knows torch's layer functions; knows nothing of programs. Unlike `torch.autocast`, whose reduced
results flow on into log-densities, each product is handed back in single precision.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ppl_vae.handlers.layers import LAYERS, LayerCall

__all__ = ["BFloat16Products"]


class BFloat16Products(TorchFunctionMode):
    """y = float32(bfloat16(x) bfloat16(W)^T) + b for every layer called inside the block.

    The layers are dense and convolutional ones. Inputs keep 8 bits of mantissa, so a product's
    relative error is about 2^-8; gradients are rounded alike.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Round the two factors of a layer's product, and add its bias in the precision it had."""
        if function not in LAYERS:
            return function(*args, **(kwargs or {}))
        layer = LayerCall.of(function, args, kwargs or {})
        factors = {
            "input": layer.input.to(torch.bfloat16),
            "weight": layer.weight.to(torch.bfloat16),
        }
        product = layer.replaced(bias=None, **factors)().float()
        if layer.bias is None:
            return product
        spatial = 0 if layer.dense else layer.weight.dim() - 2
        return product + layer.bias.reshape(-1, *(1,) * spatial)
