"""Local reparameterisation: draw a dense layer's outputs instead of its weights.

Knows sample sites and layer calls; knows nothing of networks or estimators.
"""

from typing import Any

import torch
from torch import Tensor

from ppl_vae.handlers.flipout import FlipoutNoise
from ppl_vae.handlers.layers import LayerCall
from ppl_vae.handlers.weight_noise import Noise, WeightNoise, factorised, one_of

__all__ = ["LocalReparameterization"]

# below it a variance is rounding; clamping there keeps the gradient of the square root finite
SMALLEST = 1e-20


class LocalNoise(Noise):
    """y_m = E[W] h_m + sqrt(Cov(W h_m)) e_m, e standard normal, one draw a datum m and output.

    The n-th use of one weight is drawn given the uses before it: y_n = E[W] h_n + sum_{k<=n} C_nk
    e_k with C the Cholesky factor, for each datum and output, of the covariances among W h_1 ... W
    h_n.

    Args:
        q: the distribution of W.
        handler: the handler that gives W this noise.
    """

    def __init__(self, q: Any, handler: WeightNoise) -> None:
        super().__init__(q, handler)
        self._flipout = FlipoutNoise(q, handler)
        self._uses: list[
            tuple[Tensor, list[Tensor], Tensor]
        ] = []  # input, row of the Cholesky factor, draw
        self._shared: Tensor | None = None

    def output(self, layer: LayerCall, mean: Tensor) -> Tensor:
        """The output, given its mean.

        In a convolution, whose outputs share each weight, it is by flipout.
        """
        if not layer.dense:
            return self._flipout.output(layer, mean)
        self.same_rows(mean.shape[:-1])
        return mean + self._independent(layer, mean) + self._common(layer.input, mean)

    def _independent(self, layer: LayerCall, mean: Tensor) -> Tensor:
        h, rest = layer.input, self._covariance(layer, layer.input)
        row: list[Tensor] = []
        for k, (other, factors, _) in enumerate(self._uses):
            known = sum(c * d for c, d in zip(row, factors[:k], strict=True))
            row.append((self._covariance(layer, other) - known) / factors[k])
            rest = rest - row[k].square()
        row.append(rest.clamp(min=SMALLEST).sqrt())
        self._uses.append((h, row, torch.randn_like(mean)))
        return sum(c * draw for c, (_, _, draw) in zip(row, self._uses, strict=True))  # type: ignore[return-value]

    def _covariance(self, layer: LayerCall, other: Tensor) -> Tensor:
        """Covariance of W h and W other, output by output, (*rows, R)."""
        if not factorised(self.q):
            return self.q.output_covariance(layer.input, other)
        variance = one_of(self.q.base_dist.variance, 2)
        return layer.replaced(input=layer.input * other, weight=variance, bias=None)()

    def _common(self, h: Tensor, mean: Tensor) -> Tensor | float:
        """What a low-rank part adds: its draws are shared by the outputs, and by all uses, but not
        by the data.
        """
        if not hasattr(self.q, "shared_outputs"):
            return 0.0
        if self._shared is None:
            self._shared = mean.new_empty(*mean.shape[:-1], 1, len(self.q.factors)).normal_()
        return (self._shared * self.q.shared_outputs(h)).sum(-1)


class LocalReparameterization(WeightNoise):
    """Give every datum its own weight in dense layers, by drawing the layer's outputs.

    That has the least gradient variance. Unbiased for objectives that are sums over data (so not
    through batch normalisation, which couples them). Convolutions are left to flipout.

    Args:
        keep_draw: whether each weight is drawn, too, for whoever needs its value (`WeightNoise`).

    Source: Variational Dropout and the Local Reparameterization Trick (2015), section 2.2.

    >>> import torch
    >>> from pyro.infer import Trace_ELBO
    >>> from ppl_vae import VAEConfig, build
    >>> vae = build(VAEConfig((4,), latent_size=2, hidden_sizes=(8,), weights="mean_field"), seed=0)
    >>> with LocalReparameterization():
    ...     loss = Trace_ELBO().loss(vae.model, vae.guide, torch.rand(10, 4))
    """

    noise = LocalNoise
