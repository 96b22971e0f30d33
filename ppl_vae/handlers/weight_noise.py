"""What local reparameterisation and flipout share: they mark weights, and layers ask the mark for
their noise.

Knows sample sites and layer calls; knows nothing of networks. Entered outside an estimator, a
handler reinterprets every matrix-valued Normal site drawn outside the data plate: the weight stays
a sample site with its KL term, but a layer that multiplies by it draws what suits the layer, a
different weight for each datum.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae import checks
from ppl_vae.handlers.kl_weight import in_data_plate
from ppl_vae.handlers.layers import LayerCall, WeightLayers

__all__ = ["Noise", "WeightNoise"]


class WeightNoise(Messenger):
    """Abstract: give each weight site of a guide a `Noise` of class `noise`.

    Args:
        keep_draw: whether each weight is drawn, too. If not, the site's value is NaN, which only a
            marked layer may take, and the site's `infer["ppl_undrawn"]` says so to an estimator
            that needs a draw for a sampled KL term.
    """

    noise: "type[Noise]"

    def __init__(self, keep_draw: bool = True) -> None:
        super().__init__()
        self.keep_draw = keep_draw
        self._modes: list[WeightLayers] = []

    @property
    def active(self) -> bool:
        """Whether the handler is entered at present."""
        return bool(self._modes)

    def __enter__(self) -> Any:
        self._modes.append(WeightLayers())
        self._modes[-1].__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> Any:
        self._modes.pop().__exit__(*exception)
        return super().__exit__(*exception)

    def _pyro_sample(self, msg: Any) -> None:
        if (
            msg["done"]
            or msg["is_observed"]
            or site_is_subsample(msg)
            or in_data_plate(msg)
            or not _fits(msg["fn"])
        ):
            return
        q = msg["fn"]
        if self.keep_draw:
            value = q.rsample()
        else:
            value = q.mean.new_full((), float("nan")).expand(q.shape())
            msg["infer"] = {**msg["infer"], "ppl_undrawn": True}
        value.noise = self.noise(q, self)
        msg["value"], msg["done"] = value, True


def _fits(fn: Any) -> bool:
    return len(fn.event_shape) >= 2 and (factorised(fn) or hasattr(fn, "output_covariance"))


def factorised(fn: Any) -> bool:
    """Whether a distribution is a Normal with independent entries.

    Others must offer `output_covariance`.

    Args:
        fn: the distribution of a weight.
    """
    return isinstance(fn, dist.Independent) and isinstance(fn.base_dist, dist.Normal)


def one_of(parameter: Tensor, event_dim: int) -> Tensor:
    """A parameter that plates only repeat, without their dimensions.

    Args:
        parameter: (*batch, *event).
        event_dim: number of its last dimensions, those of the event.

    Returns:
        (*event); unchanged if the parameter truly differs between the plates.
    """
    batch = parameter.dim() - event_dim
    repeats = all(
        size == 1 or step == 0 for size, step in zip(parameter.shape[:batch], parameter.stride())
    )
    return parameter[(0,) * batch] if repeats else parameter


class Noise:
    """Abstract: the outputs of the layers that one drawn weight, W ~ q, is used in.

    Args:
        q: the distribution of W.
        handler: the handler that gives W this noise.
    """

    def __init__(self, q: Any, handler: WeightNoise) -> None:
        self.q, self.handler = q, handler
        self.location = one_of(q.base_dist.loc if factorised(q) else q.loc, len(q.event_shape))
        self._deviation: Tensor | None = None
        self._rows: torch.Size | None = None

    def __call__(self, layer: LayerCall) -> Tensor:
        """A layer's output; as with any weight once the handler has been left.

        Args:
            layer: the call of the layer.
        """
        if not self.handler.active:
            return layer()
        mean = layer.replaced(weight=self.location)()
        if (
            layer.dense and layer.batch_shape
        ):  # each particle has its own noise, be its input its own or not
            mean = mean.expand(torch.broadcast_shapes(mean.shape, (*layer.batch_shape[:-1], 1, 1)))
        return self.output(layer, mean)

    def output(self, layer: LayerCall, mean: Tensor) -> Tensor:
        """A layer's output, given its mean.

        Args:
            layer: the call of the layer, with the drawn weight.
            mean: the layer's output at E[W].
        """
        raise NotImplementedError

    def deviation(self, layer: LayerCall) -> Tensor:
        """W - E[W] of the one draw that all uses of the weight share.

        Args:
            layer: the call of a layer, with the drawn weight.
        """
        if self._deviation is None:
            drawn = layer.weight if self.handler.keep_draw else self.q.rsample()
            self._deviation = drawn - self.location
        return self._deviation

    def same_rows(self, rows: torch.Size) -> None:
        """Refuse a second use on other rows, of which each might be to meet another datum's weight.

        Args:
            rows: the shape of the rows that the weight is used on.

        Raises:
            InputError: for other rows than those of the first use.
        """
        if self._rows not in (None, rows):
            checks.refuse(
                "a weight used twice",
                f"rows {tuple(rows)} after {tuple(self._rows or ())}",
                "the same rows",
                "use the estimator 'naive'",
            )
        self._rows = rows
