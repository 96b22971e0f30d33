"""An importance-weighted bound whose gradient flows through the draws alone."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from ppl_vae import checks
from ppl_vae.distributions.remembered import made_from, remember
from ppl_vae.elbo.importance_weighted import ImportanceWeightedELBO, coupling_modules
from ppl_vae.elbo.terms import Terms
from ppl_vae.elbo.termwise import Program
from ppl_vae.handlers.scored import Scored
from ppl_vae.protocols import is_point

__all__ = ["DoublyReparameterizedELBO"]


class DoublyReparameterizedELBO(ImportanceWeightedELBO):
    """The importance-weighted bound with the doubly reparameterised gradient of the guide.

    gradient of phi = sum_k v_k (1 - b + b v_k) (d log w_k / dz_k) (dz_k / dphi),
    v_k = w_k / sum_j w_j, b the KL weight: the densities log q(z_k|x) are those of a second run of
    the guide at the same draws whose parameters are constants, and the gradient that reaches z_k,
    v_k d log w_k / dz_k, is multiplied by 1 - b + b v_k. A factor of the guide is a part of the
    target, not of q: it keeps its parameters. Same value and, in expectation, same gradient as the
    plain bound, whose signal-to-noise ratio falls with K while this one's rises; with K = 1 it is
    "sticking the landing".

    Args:
        num_particles: K, draws of z a datum.

    Raises:
        InputError: for programs that are no modules, for dropout in the guide, and for whatever
            couples the data of a batch in the model, such as batch normalisation: w_k has to depend
            on the datum's own z_k alone.

    Source: Doubly reparameterized gradient estimators for Monte Carlo objectives (2018), section 4;
    there b = 1, and E[v_k dlog q/dphi] = E[v_k (1 - v_k) (dlog w_k/dz_k) (dz_k/dphi)] gives the
    rest.
    """

    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Terms:
        """The terms of one estimate; their gradient is the doubly reparameterised one."""
        if not torch.is_grad_enabled():
            return super().terms(model, guide, *args, **kwargs)
        _check(model, guide)
        draws = _Draws()
        traces = self._get_trace(model, guide, args, kwargs, draws.rescored)
        terms = self._combined(self._terms(*traces), traces[1])
        if terms.draws is not None:
            draws.weigh(terms.draws.weighted_bound)
        return terms

    def _strata(self) -> contextlib.AbstractContextManager[Any]:
        if torch.is_grad_enabled():  # the gradient's weights hold for independent draws
            return contextlib.nullcontext()
        return super()._strata()


class _Draws:
    """The draws of one estimate, which pass gradients on weighted."""

    def __init__(self) -> None:
        self._weights: Tensor | None = None

    def rescored(
        self, model: Any, guide: Any, args: Any, kwargs: Any, trace: poutine.Trace
    ) -> poutine.Trace:
        """The guide's trace with densities of constant parameters at the same draws."""
        for site in _drawn(trace):
            kl_weight = 0.0 if is_point(site) else site.get("kl_weight", 1.0)
            site["value"] = _hooked(site["value"], self._weigh(kl_weight))
        scored = _constant(model, guide, trace, args, kwargs)
        factors = [
            name
            for name, site in scored.nodes.items()
            if site["type"] == "sample" and site["is_observed"]
        ]
        if factors:
            replayed = poutine.replay(guide, trace=trace)
            live = poutine.trace(replayed).get_trace(*args, **kwargs)
            for name in factors:
                scored.nodes[name].update(live.nodes[name])
        return scored

    def weigh(self, log_weights: Tensor) -> None:
        """Give the log importance weights, (K, M), once they are known: hooks need them only in the
        backward pass.
        """
        self._weights = log_weights.detach().softmax(0)

    def _weigh(self, kl_weight: float | Tensor) -> Callable[[Tensor], Tensor]:
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

    def forward(self, trace: poutine.Trace, args: Any, kwargs: Any) -> poutine.Trace:
        replayed = poutine.replay(self.guide, trace=trace)
        scored = poutine.trace(replayed).get_trace(*args, **kwargs)
        # Scored here, where parameters are constants: a flow's networks run when it is scored.
        for site in _drawn(scored):
            if not is_point(site):
                site["fn"] = Scored(site["fn"], site["fn"].log_prob(site["value"]))
        return scored


def _constant(
    model: nn.Module, guide: nn.Module, trace: poutine.Trace, args: Any, kwargs: Any
) -> poutine.Trace:
    """The guide's trace at the same draws, scored with parameters that are constants."""
    pair = _Scored(model, guide)
    constants = {name: parameter.detach() for name, parameter in pair.named_parameters()}
    constants |= {
        name: buffer.clone() for name, buffer in pair.named_buffers()
    }  # batch statistics are counted once
    return functional_call(pair, constants, (trace, args, kwargs))


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
    coupling = coupling_modules(model, guide)
    if coupling:
        checks.refuse(
            "estimator 'dreg'",
            f"{', '.join(coupling)} in the model, by which a datum's draws move others' weights",
            "data that are independent",
            "use estimator 'iwae', no batch normalisation, or a scale that is learned",
        )
