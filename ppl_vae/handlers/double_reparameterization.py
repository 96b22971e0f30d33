"""Gradients of an importance-weighted bound that flow through the draws alone.

Knows traces and modules' parameters; knows nothing of what the bound is made of.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from ppl_vae import checks

__all__ = ["DoubleReparameterization"]


class DoubleReparameterization:
    """Turn a guide's trace into one whose use in log(1/K sum_k w_k) has the doubly reparameterised gradient.

    gradient of phi = sum_k v_k^2 (d log w_k / dz_k) (dz_k / dphi), v_k = w_k / sum_j w_j: the densities log q(z_k|x)
    are those of a second run of the guide at the same draws whose parameters are constants, and the gradient that
    reaches z_k is multiplied by v_k once more. Same value and, in expectation, same gradient as the plain bound, whose
    signal-to-noise ratio falls with K while this one's rises; with K = 1 it is "sticking the landing".
    Source: Doubly reparameterized gradient estimators for Monte Carlo objectives (2018), section 4.
    """

    def __init__(self) -> None:
        self._weights: Tensor | None = None

    def trace(self, model: Any, guide: Any, x: Tensor, trace: poutine.Trace) -> poutine.Trace:
        """The guide's densities with constant parameters at the draws of `trace`, which pass gradients on weighted."""
        _check(model, guide)
        for site in _drawn(trace):
            site["value"] = site["value"].view_as(site["value"])
            site["value"].register_hook(self._weigh)
        return poutine.trace(poutine.replay(_frozen(model, guide), trace=trace)).get_trace(x)

    def weigh(self, log_weights: Tensor) -> None:
        """Give the log importance weights, (K, M), once they are known: hooks need them only in the backward pass."""
        self._weights = log_weights.detach().softmax(0)

    def _weigh(self, gradient: Tensor) -> Tensor:
        weights = self._weights
        return gradient if weights is None else weights.reshape(*weights.shape, *(1,) * (gradient.dim() - 2)) * gradient


def _drawn(trace: poutine.Trace) -> Iterator[Any]:
    sites = (s for s in trace.nodes.values() if s["type"] == "sample" and not s["is_observed"])
    return (site for site in sites if getattr(site["value"], "requires_grad", False))


class _GuideOf(nn.Module):
    """The guide beside the model, so that parameters they share are constants too."""

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.model, self.guide = model, guide

    def forward(self, x: Tensor) -> Any:
        return self.guide(x)


def _frozen(model: nn.Module, guide: nn.Module) -> Callable[[Tensor], Any]:
    pair = _GuideOf(model, guide)
    constants = {name: parameter.detach() for name, parameter in pair.named_parameters()}
    constants |= {name: buffer.clone() for name, buffer in pair.named_buffers()}  # batch statistics are counted once
    return lambda x: functional_call(pair, constants, (x,))


def _check(model: Any, guide: Any) -> None:
    if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
        checks.refuse("estimator 'dreg'", f"{type(guide).__name__}, no nn.Module", "programs that own their parameters")
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p and m.training for m in guide.modules()):
        checks.refuse("estimator 'dreg'", "dropout in the guide, another q at its second run", "a guide without noise",
                      "use estimator 'iwae' or no dropout")  # fmt: skip
