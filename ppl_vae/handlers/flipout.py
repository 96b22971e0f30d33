"""Flipout: one drawn weight, its deviation from the mean with random signs for each datum.

Knows sample sites and layer calls; knows nothing of networks or estimators.
"""

from typing import Any

import torch
from torch import Tensor

from ppl_vae.handlers.layers import LayerCall
from ppl_vae.handlers.weight_noise import Noise, WeightNoise, factorised

__all__ = ["Flipout", "FlipoutNoise"]


def _signs(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Independent draws of +1 or -1."""
    return torch.randint(0, 2, shape, dtype=like.dtype, device=like.device) * 2 - 1


def _sign_shape(layer: LayerCall, values: Tensor) -> tuple[int, ...]:
    """One sign for each row and unit of a dense layer, for each image and channel of a
    convolution.
    """
    return tuple(values.shape) if layer.dense else (*values.shape[:2], *(1,) * (values.dim() - 2))


class FlipoutNoise(Noise):
    """y_m = E[W] h_m + ((W - E[W]) (h_m * r_m)) * s_m, one pair of signs (r, s) a datum m.

    r are signs over inputs and s over outputs. Where the entries of W are independent r and s
    differ in every coordinate; where they are correlated one sign is drawn for each datum, which
    leaves any Normal as it is.

    Args:
        q: the distribution of W.
        handler: the handler that gives W this noise.
    """

    def __init__(self, q: Any, handler: WeightNoise) -> None:
        super().__init__(q, handler)
        self._drawn: tuple[Tensor, Tensor] | None = None

    def output(self, layer: LayerCall, mean: Tensor) -> Tensor:
        """The output, given its mean; a second use of the weight meets the same draw and signs."""
        inputs, outputs = self._sign_pair(layer, mean)
        deviation = layer.replaced(
            input=layer.input * inputs, weight=self.deviation(layer), bias=None
        )()
        return mean + deviation * outputs

    def _sign_pair(self, layer: LayerCall, mean: Tensor) -> tuple[Tensor, Tensor]:
        inputs, outputs = (_sign_shape(layer, t) for t in (layer.input, mean))
        self.same_rows(torch.Size(outputs[:-1] if layer.dense else outputs[:1]))
        if self._drawn is None:
            self._drawn = self._draw(inputs, outputs, mean)
        return self._drawn

    def _draw(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], like: Tensor
    ) -> tuple[Tensor, Tensor]:
        if factorised(self.q):
            return _signs(inputs, like), _signs(outputs, like)
        one_each = (
            (outputs[0], *(1,) * (len(outputs) - 1)) if len(outputs) > 3 else (*outputs[:-1], 1)
        )
        return like.new_ones(()), _signs(one_each, like)


class Flipout(WeightNoise):
    """Decorrelate the weight noise of the data in a batch at the cost of one more product a layer.

    Unbiased for objectives that are sums over data. Dense layers and convolutions.

    Args:
        keep_draw: whether each weight is drawn, too, for whoever needs its value (`WeightNoise`).

    Source: Flipout: Efficient Pseudo-Independent Weight Perturbations on Mini-Batches (2018),
        section 3.1.

    >>> import torch
    >>> from pyro.infer import Trace_ELBO
    >>> from ppl_vae import VAEConfig, build
    >>> vae = build(VAEConfig((4,), latent_size=2, hidden_sizes=(8,), weights="mean_field"), seed=0)
    >>> with Flipout():
    ...     loss = Trace_ELBO().loss(vae.model, vae.guide, torch.rand(10, 4))
    """

    noise = FlipoutNoise
