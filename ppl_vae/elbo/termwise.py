"""What our estimators share: the two traces, the terms by site, and the refusals.

Unlike the stock estimators they keep the terms apart and per datum, never look at a value, so that
a step can be recorded, and refuse what would make the bound wrong.
"""

import abc
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.elbo import ELBOModule
from pyro.infer.util import torch_item
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ppl_vae import checks
from ppl_vae.elbo.terms import KL, Terms, total
from ppl_vae.guides import DataProgram
from ppl_vae.guides.sites import has_masked_distribution
from ppl_vae.handlers.corruption import SameEvidence
from ppl_vae.handlers.enumeration import SummedOut, replayed_trace
from ppl_vae.handlers.kl_weight import (
    DATA_PLATE,
    in_data_plate,
    unweighted_log_prob,
    unweighted_scale,
)
from ppl_vae.handlers.strata import Strata, stratum_weights
from ppl_vae.protocols import is_point

__all__ = ["Program", "TermwiseELBO", "TermwiseModule"]

Program = Callable[..., Any]
Site = Any
DRAWS_PLATE = "particles"


class TermwiseELBO(ELBO, abc.ABC):
    """An evidence lower bound whose terms stay apart and per datum.

    loss = -N/M sum_i [ log p(x_i|z_i) - sum_s w_s KL_s,i ] + w_theta KL(theta), in nats for all N
    data, as Pyro's own estimators have it; N is read from the program's data plate. The loss never
    looks at a value, so a step of it can be recorded as a graph. Works wherever Pyro takes an
    `ELBO`: in `pyro.infer.SVI`, and as `elbo(model, guide)` with an optimiser of torch.

    Args:
        num_particles: K, draws of z a datum, taken at once under one plate left of the data's; the
            guide's networks run once for all of them.

    Raises:
        InputError: where the bound would be wrong: a site that cannot be reparameterised, or one
            that is scaled or masked differently in model and guide.
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(
            num_particles=checks.integer("num_particles", num_particles),
            max_plate_nesting=1,
            vectorize_particles=True,
        )

    def __call__(self, model: nn.Module, guide: nn.Module) -> "TermwiseModule":
        """The loss as a module of the two programs' parameters."""
        return TermwiseModule(model, guide, self)

    @property
    def name(self) -> str:
        """The short name that `fit(estimator=...)` takes, for messages."""
        return type(self).__name__

    @abc.abstractmethod
    def divergence(self, q: Site, p: Site) -> KL:
        """KL(q || p) of one latent site.

        Args:
            q: the guide's site.
            p: the model's site of the same name, at the guide's draw.
        """

    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Terms:
        """The terms of one estimate of the bound.

        Args:
            model: p(x, z), a program with an observed site inside the plate "data".
            guide: q(z|x), a program that takes the same arguments.
            args: what both programs are given, x (M, *event_shape) first.
            kwargs: what both programs are given by name.
        """
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        return self._combined(self._terms(model_trace, guide_trace), guide_trace)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss in nats for all N data, to be differentiated."""
        return self.terms(model, guide, *args, **kwargs).loss()

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss in nats for all N data."""
        return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss in nats for all N data; its gradients are added to the parameters' own."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=bool(self.retain_graph))
        return torch_item(loss)

    def _combined(self, terms: Terms, guide_trace: poutine.Trace) -> Terms:
        """The terms of all draws as those of one estimate."""
        if self.num_particles == 1:
            return terms
        return terms.averaged(stratum_weights(guide_trace))

    def _get_trace(
        self,
        model: Program,
        guide: Program,
        args: Any,
        kwargs: Any,
        rescored: Callable[..., poutine.Trace] | None = None,
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """The model's trace at the guide's draws, and the guide's.

        `rescored` may replace the guide's densities by others at the same draws.
        """
        noise = weight_noise(guide)
        with SameEvidence():
            with noise, self._strata(), self._draws_plate():
                guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            if rescored is not None:
                with self._draws_plate():
                    guide_trace = rescored(model, guide, args, kwargs, guide_trace)
        with noise, self._draws_plate():
            model_trace = replayed_trace(model, guide_trace, *args, **kwargs)
        return model_trace, guide_trace

    def _get_traces(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> Iterator[tuple[poutine.Trace, poutine.Trace]]:
        yield self._get_trace(model, guide, args, kwargs)

    def _draws_plate(self) -> contextlib.AbstractContextManager[Any]:
        if self.num_particles == 1:
            return contextlib.nullcontext()
        return pyro.plate(DRAWS_PLATE, self.num_particles, dim=-2)

    def _strata(self) -> contextlib.AbstractContextManager[Any]:
        if self.num_particles == 1:
            return contextlib.nullcontext()
        return Strata()

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        latent = _sample_sites(guide_trace)
        observed = [site for site in _sample_sites(model_trace).values() if site["is_observed"]]
        kl = {name: self._kl(name, q, model_trace.nodes.get(name)) for name, q in latent.items()}
        self._check_sites(model_trace, latent, kl)
        log_likelihood = total(unweighted_log_prob(site) for site in observed)
        local = {name: term for name, term in kl.items() if in_data_plate(latent[name])}
        shared = {name: self._once(term) for name, term in kl.items() if name not in local}
        return Terms(log_likelihood, local, shared, _num_data(observed, log_likelihood))

    def _check_sites(
        self, model_trace: poutine.Trace, latent: Mapping[str, Site], kl: Mapping[str, KL]
    ) -> None:
        """Refuse pairs of programs that this estimator is wrong for; a subclass has its own."""

    def _once(self, kl: KL) -> KL:
        """KL of a site of theta, which all data share: one number, a mean over draws."""
        value = kl.value.mean() if self.num_particles > 1 else kl.value.sum()
        return KL(value, kl.weight, kl.kind)

    def _kl(self, name: str, q: Site, p: Site | None) -> KL:
        weight = q.get("kl_weight", 1.0)
        if is_point(q):
            return KL(q["value"].new_zeros(q["fn"].batch_shape), 0.0, "point")
        if p is None:
            return _auxiliary(name, q, weight)
        _check_reparameterized(name, q)
        _check_scales(name, q, p)
        _check_masks(name, q, p)
        return self.divergence(q, p)


class TermwiseModule(ELBOModule):
    """The loss of a pair of programs as a module; `terms` gives what it is made of."""

    elbo: TermwiseELBO

    def terms(self, *args: Any, **kwargs: Any) -> Terms:
        """The terms of one estimate at these arguments of the programs."""
        return self.elbo.terms(self.model, self.guide, *args, **kwargs)


def sampled_kl(q: Site, p: Site) -> KL:
    """log q - log p at the draw of q; the prior's index sites are summed out of p exactly."""
    kind = "enumerated" if isinstance(p["fn"], SummedOut) else "sampled"
    drawn = None
    if q["infer"].get("ppl_undrawn"):  # a noise handler left the draw to whom needs it
        drawn = q["fn"].rsample()
    value = unweighted_log_prob(q, drawn) - unweighted_log_prob(p, drawn)
    return KL(value, q.get("kl_weight", 1.0), kind)


def weight_noise(guide: Program) -> contextlib.AbstractContextManager[Any]:
    """How the guide draws Bayesian weights: by layer, or as it stands."""
    if isinstance(guide, DataProgram) and guide.weights is not None:
        return guide.weights.noise_handler()
    return contextlib.nullcontext()


def _sample_sites(trace: poutine.Trace) -> dict[str, Site]:
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }


def _num_data(observed: list[Site], log_likelihood: Tensor) -> int:
    """N: the full size of the plate of data, or the number of data where there is no such plate."""
    for site in observed:
        for frame in site["cond_indep_stack"]:
            if frame.name == DATA_PLATE:
                return frame.full_size or frame.size
    return log_likelihood.shape[-1] if log_likelihood.dim() else 1


def _auxiliary(name: str, q: Site, weight: float | Tensor) -> KL:
    if not q["infer"].get("is_auxiliary"):
        checks.refuse(
            "guide",
            f"a site '{name}' that the model lacks",
            "the model's latent sites",
            "remove it, or mark it with infer={'is_auxiliary': True}",
        )
    if not q["is_observed"]:
        _check_reparameterized(name, q)
    return KL(unweighted_log_prob(q), weight, "auxiliary")


def _check_reparameterized(name: str, q: Site) -> None:
    if not q["fn"].has_rsample:
        checks.refuse(
            f"guide site '{name}'",
            f"{type(q['fn']).__name__} without reparameterised draws",
            "a reparameterised distribution",
            "use a relaxed one",
        )


def _check_scales(name: str, q: Site, p: Site) -> None:
    weights = [site.get("kl_weight", 1.0) for site in (q, p)]
    if not (_same(*weights) and _same(unweighted_scale(q), unweighted_scale(p))):
        checks.refuse(
            f"site '{name}'",
            "different scales in model and guide",
            "one scale for both",
            "enter KLWeight around the estimator, not poutine.scale inside one program",
        )


def _same(a: float | Tensor, b: float | Tensor) -> bool:
    """Equal numbers, or two tensors, whose values a recorded step cannot look at."""
    tensors = [torch.is_tensor(value) for value in (a, b)]
    return all(tensors) or (not any(tensors) and math.isclose(a, b))


def _check_masks(name: str, q: Site, p: Site) -> None:
    """A mask in one program alone is no bound: A would drop log p but keep log q, B keep both."""
    of_distributions = any(has_masked_distribution(site["fn"]) for site in (q, p))
    if of_distributions or not _same_mask(q["mask"], p["mask"]):
        checks.refuse(
            f"site '{name}'",
            "different masks in model and guide",
            "one mask for both",
            "enter poutine.mask around the estimator, not inside one program",
        )


def _same_mask(a: bool | Tensor | None, b: bool | Tensor | None) -> bool:
    a, b = (None if mask is True else mask for mask in (a, b))  # as good as none
    if not (torch.is_tensor(a) and torch.is_tensor(b)):
        return a is b
    if a is b or get_proxy_mode() is not None:  # a recorded step cannot look at values
        return True
    return a.shape == b.shape and torch.equal(a, b)
