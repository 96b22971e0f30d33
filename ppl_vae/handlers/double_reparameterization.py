"""Gradients of an importance-weighted bound that flow through the draws alone.

Knows traces and modules' parameters; knows nothing of what the bound is made of.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from ppl_vae import checks
from ppl_vae.distributions.remembered import made_from, remember
from ppl_vae.handlers.scored import Scored

__all__ = ["DoubleReparameterization"]


class DoubleReparameterization:
    """Turn a guide's trace into one whose use in log(1/K sum_k w_k) has the doubly reparameterised
    gradient.

    gradient of phi = sum_k v_k (1 - b + b v_k) (d log w_k / dz_k) (dz_k / dphi), v_k = w_k / sum_j
    w_j, b the KL
    weight: the densities log q(z_k|x) are those of a second run of the guide at the same draws
    whose parameters are constants, and the gradient that reaches z_k, v_k d log w_k / dz_k, is
    multiplied by 1 - b + b v_k. A factor of the guide is a part of the target, not of q: it keeps
    its parameters. Same value and, in expectation, same gradient as the plain bound, whose
    signal-to-noise ratio falls with K while this one's rises; with K = 1 it is "sticking the
    landing". Source: Doubly reparameterized gradient estimators for Monte Carlo objectives (2018),
    section 4; there b = 1, and E[v_k dlog q/dphi] = E[v_k (1 - v_k) (dlog w_k/dz_k) (dz_k/dphi)]
    gives the rest.
    """

    def __init__(self) -> None:
        self._weights: Tensor | None = None

    def trace(self, model: Any, guide: Any, x: Tensor, trace: poutine.Trace) -> poutine.Trace:
        """The guide's densities with constant parameters at the draws of `trace`, which pass
        gradients on weighted.
        """
        _check(model, guide)
        for site in _drawn(trace):
            kl_weight = 0.0 if site["infer"].get("point") else site.get("kl_weight", 1.0)
            site["value"] = _hooked(site["value"], self._weigh(kl_weight))
        scored = _scored(model, guide, x, trace)
        factors = [
            name
            for name, site in scored.nodes.items()
            if site["type"] == "sample" and site["is_observed"]
        ]
        if factors:
            live = poutine.trace(poutine.replay(guide, trace=trace)).get_trace(x)
            for name in factors:
                scored.nodes[name].update(live.nodes[name])
        return scored

    def weigh(self, log_weights: Tensor) -> None:
        """Give the log importance weights, (K, M), once they are known: hooks need them only in the
        backward pass.
        """
        self._weights = log_weights.detach().softmax(0)

    def _weigh(self, kl_weight: float | Tensor) -> Any:
        def hook(gradient: Tensor) -> Tensor:
            if self._weights is None:
                return gradient
            factor = 1 - kl_weight + kl_weight * self._weights
            return factor.reshape(*factor.shape, *(1,) * (gradient.dim() - 2)) * gradient

        return hook


def _hooked(value: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    """A view of a draw whose gradient passes the hook; so does that of the logit it was made from,
    which densities are taken at.
    """
    logit, view = made_from(value), value.view_as(value)
    view.register_hook(hook)
    return view if logit is None else remember(view, _hooked(logit, hook))


def _drawn(trace: poutine.Trace) -> Iterator[Any]:
    sites = (s for s in trace.nodes.values() if s["type"] == "sample" and not s["is_observed"])
    return (site for site in sites if getattr(site["value"], "requires_grad", False))


class _Scored(nn.Module):
    """The guide's sites, scored at the values of a trace; beside the model, whose parameters it may
    share.
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.model, self.guide = model, guide

    def forward(self, x: Tensor, trace: poutine.Trace) -> poutine.Trace:
        scored = poutine.trace(poutine.replay(self.guide, trace=trace)).get_trace(x)
        for site in _drawn(
            scored
        ):  # here, where parameters are constants: a flow's networks run when it is scored
            site["fn"] = Scored(site["fn"], site["fn"].log_prob(site["value"]))
        return scored


def _scored(model: nn.Module, guide: nn.Module, x: Tensor, trace: poutine.Trace) -> poutine.Trace:
    pair = _Scored(model, guide)
    constants = {name: parameter.detach() for name, parameter in pair.named_parameters()}
    constants |= {
        name: buffer.clone() for name, buffer in pair.named_buffers()
    }  # batch statistics are counted once
    return functional_call(pair, constants, (x, trace))


def _check(model: Any, guide: Any) -> None:
    if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
        checks.refuse(
            "estimator 'dreg'",
            f"{type(guide).__name__}, no nn.Module",
            "programs that own their parameters",
        )
    if any(
        isinstance(m, nn.modules.dropout._DropoutNd) and m.p and m.training for m in guide.modules()
    ):
        checks.refuse(
            "estimator 'dreg'",
            "dropout in the guide, another q at its second run",
            "a guide without noise",
            "use estimator 'iwae' or no dropout",
        )
    of_guide = set(guide.modules())
    norms = (
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m not in of_guide
    )
    if any(m.training for m in norms):
        checks.refuse(
            "estimator 'dreg'",
            "batch normalisation in the model, by which a datum's draws move others' weights",
            "data that are independent",
            "use estimator 'iwae' or batch_norm=False",
        )
