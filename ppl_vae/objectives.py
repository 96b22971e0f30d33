"""Estimators of the evidence lower bound, term by term and per datum, for any pair of Pyro
programs.

Knows traces and sites; knows nothing of networks, optimisers or epochs. Unlike the stock estimators
it keeps the terms apart and per datum, needs no host synchronisation (so a step can be recorded),
and refuses, rather than mis-estimates, what an estimator cannot do.
"""

import contextlib
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppl_vae import checks
from ppl_vae.handlers import KLWeight
from ppl_vae.handlers.corruption import CORRUPTIONS, Corruption, SameEvidence
from ppl_vae.handlers.double_reparameterization import DoubleReparameterization
from ppl_vae.handlers.enumeration import SummedOut, replayed_trace
from ppl_vae.handlers.kl_weight import in_data_plate, unweighted_log_prob, unweighted_scale
from ppl_vae.handlers.strata import Strata, stratum_weights
from ppl_vae.vae import evaluating

__all__ = ["ESTIMATORS", "KL", "Objective", "Terms", "evidence_terms", "kl_report", "renyi_order"]

ESTIMATORS = ("A", "B", "iwae", "dreg", "renyi:ALPHA")
Program = Callable[..., Any]


def renyi_order(estimator: str) -> float | None:
    """alpha of an importance-weighted bound ("renyi:ALPHA"; 0 for iwae and dreg), None for A and B.

    Raises `InputError` for what is no estimator, alpha < 0, where K draws give no bound, and alpha
    = 1, which is A.
    """
    kind, _, order = str(estimator).partition(":")
    if kind != "renyi":
        return (
            0.0 if checks.choice("estimator", estimator, ESTIMATORS) in ("iwae", "dreg") else None
        )
    with contextlib.suppress(ValueError):
        if 0 <= float(order) < math.inf and float(order) != 1:
            return float(order)
    checks.refuse(
        "estimator",
        repr(estimator),
        "renyi:ALPHA, ALPHA at least 0, not 1",
        "ALPHA = 1 is estimator A",
    )


@dataclass(frozen=True)
class KL:
    """One site's KL(q || p) in nats, unweighted, the weight a handler gave it, and how it was got
    (`kl_report`).
    """

    value: Tensor
    weight: float | Tensor
    kind: str


@dataclass(frozen=True)
class Terms:
    """The terms of the bound: `log_likelihood` (M,) = E_q[log p(x|z, theta)] in nats per datum,
    signed; `kl` by latent site, (M,) each; `weight_kl` by site of theta, scalars, in nats for all
    data; `draws`, for an importance-weighted bound of order `order`, the same terms at each of its
    K draws, (K, M)."""

    log_likelihood: Tensor
    kl: dict[str, KL]
    weight_kl: dict[str, KL]
    draws: "Terms | None" = None
    order: float = 0.0

    @property
    def lower_bound(self) -> Tensor:
        """E_q[log p(x|z)] - sum of KL(q(z|x) || p(z)), (M,) nats per datum, KL(theta) left out.

        With `draws`, 1/(1 - alpha) log(1/K sum_k exp((1 - alpha) of that)) over them.
        """
        return self._bound(lambda kl: kl.value)

    def loss(self, inverse_num_data: float | Tensor) -> Tensor:
        """The negated, weighted bound: -mean_i[log p - sum_s w_s KL_s] + w KL(theta) / N, in nats
        per datum.
        """
        loss = -self._bound(_weighted).mean()
        return (
            loss + inverse_num_data * _total(map(_weighted, self.weight_kl.values()))
            if self.weight_kl
            else loss
        )

    def _bound(self, term: Callable[[KL], Tensor]) -> Tensor:
        if self.draws is not None:
            powers = (1 - self.order) * self.draws._bound(term)
            return (powers.logsumexp(0) - math.log(len(powers))) / (1 - self.order)
        terms = [term(kl) for kl in self.kl.values() if kl.kind != "point"]
        return self.log_likelihood - _total(terms) if terms else self.log_likelihood


def _total(terms: Iterable[Tensor]) -> Tensor:
    """The sum of tensors, without the 0 that `sum` starts from: one operator less at every step."""
    return reduce(operator.add, terms)


def _weighted(kl: KL) -> Tensor:
    return kl.value if isinstance(kl.weight, float) and kl.weight == 1.0 else kl.weight * kl.value


def evidence_terms(
    model: Program, guide: Program, x: Tensor, estimator: str = "B", num_particles: int = 1
) -> Terms:
    """The terms of one estimate of the bound.

    A (`Trace_ELBO`): log p(x|z_l) - [log q(z_l|x) - log p(z_l)], every term at draws z_l ~ q(z|x).
    B (`TraceMeanField_ELBO`): the bracket replaced by the closed form of KL(q || p) wherever there
    is one. `num_particles` draws are averaged, vectorised under one plate, the encoder run once.
    iwae: log(1/K sum_k p(x, z_k) / q(z_k|x)), K = `num_particles`, for each datum by itself, so
    that a minibatch and its scale N/M leave it a bound; K = 1 is A. dreg: the same, with the doubly
    reparameterised gradient. renyi:ALPHA: 1/(1 - alpha) log(1/K sum_k (p / q)^(1 - alpha)), for
    each datum too, which tends to log p(x) minus the Renyi divergence of order alpha from q(z|x) to
    p(z|x); iwae is alpha = 0, and A the limit alpha = 1.

    x (M, *event_shape). Raises `InputError` where the estimator would be wrong: sites out of order
    under B, Bayesian weights under iwae, a site that cannot be reparameterised, or one scaled
    differently in model and guide.
    Sources: Auto-Encoding Variational Bayes (2013), equations 6 and 7; Importance weighted
    autoencoders (2015), eq. 8; Renyi divergence variational inference (2016), equation 14.
    """
    order = renyi_order(estimator)
    double = DoubleReparameterization() if estimator == "dreg" and torch.is_grad_enabled() else None
    model_trace, guide_trace = _traces(model, guide, x, num_particles, double)
    latent = {
        n: s
        for n, s in guide_trace.nodes.items()
        if s["type"] == "sample" and not site_is_subsample(s)
    }
    kls = {name: _kl(name, q, model_trace.nodes.get(name), estimator) for name, q in latent.items()}
    if estimator == "B" and any(kl.kind == "analytic" for kl in kls.values()):
        _check_order(model_trace, latent)
    local = {name: kl for name, kl in kls.items() if in_data_plate(latent[name])}
    drawn = (
        site
        for site in model_trace.nodes.values()
        if site["type"] == "sample" and not site_is_subsample(site)
    )
    log_likelihood = _total(unweighted_log_prob(site) for site in drawn if site["is_observed"])
    weights = {
        n: KL(kl.value.mean() if num_particles > 1 else kl.value.sum(), kl.weight, kl.kind)
        for n, kl in kls.items()
        if n not in local
    }
    if weights and order is not None:
        checks.refuse(
            f"estimator '{estimator}'",
            f"Bayesian weights {', '.join(weights)}",
            "latents of single data",
            "use estimator A or B",
        )
    terms = Terms(log_likelihood, local, weights)
    if num_particles == 1:
        return terms
    terms = _over_draws(terms, stratum_weights(guide_trace), order)
    if double is not None and terms.draws is not None:
        double.weigh(terms.draws._bound(_weighted))
    return terms


def _over_draws(terms: Terms, strata: Tensor | None, order: float | None) -> Terms:
    """Terms (L, M) -> their means over the draws, and, for an importance-weighted bound, the terms
    of each draw.
    """

    def mean(t: Tensor) -> Tensor:
        return (t if strata is None else strata * t).mean(0)

    kl = {name: KL(mean(kl.value), kl.weight, kl.kind) for name, kl in terms.kl.items()}
    averaged = Terms(mean(terms.log_likelihood), kl, terms.weight_kl)
    if order is None:
        return averaged
    log_strata = (
        0.0 if strata is None else strata.log() / (1 - order)
    )  # the power is of p / q, not of the stratum
    return replace(
        averaged,
        draws=replace(terms, log_likelihood=terms.log_likelihood + log_strata),
        order=order,
    )


def _traces(
    model: Program,
    guide: Program,
    x: Tensor,
    num_particles: int,
    double: DoubleReparameterization | None,
) -> tuple[poutine.Trace, poutine.Trace]:
    plate = (
        contextlib.nullcontext()
        if num_particles == 1
        else pyro.plate("particles", num_particles, dim=-2)
    )
    weights = getattr(guide, "weights", None)
    noise = contextlib.ExitStack() if weights is None else weights.noise_handler()
    strata = contextlib.nullcontext() if num_particles == 1 or double else Strata()
    with SameEvidence():
        with noise, strata, plate:
            guide_trace = poutine.trace(guide).get_trace(x)
        if double is not None:
            with plate:
                guide_trace = double.trace(model, guide, x, guide_trace)
    with noise, plate:
        model_trace = replayed_trace(model, guide_trace, x)
    return model_trace, guide_trace


def _kl(name: str, q: Any, p: Any, estimator: str) -> KL:
    weight = q.get("kl_weight", 1.0)
    if q["infer"].get("point"):
        return KL(q["value"].new_zeros(q["fn"].batch_shape), 0.0, "point")
    if p is None:
        return _auxiliary(name, q, weight)
    _check_reparameterized(name, q)
    _check_scales(name, q, p)
    if estimator == "B":
        with contextlib.suppress(NotImplementedError):
            value = kl_divergence(q["fn"], p["fn"])
            return KL(
                scale_and_mask(value, scale=unweighted_scale(q), mask=q["mask"]), weight, "analytic"
            )
    kind = "enumerated" if isinstance(p["fn"], SummedOut) else "sampled"
    drawn = (
        q["fn"].rsample() if q["infer"].get("undrawn") else None
    )  # a noise handler left the draw to whom needs it
    return KL(unweighted_log_prob(q, drawn) - unweighted_log_prob(p, drawn), weight, kind)


def _auxiliary(name: str, q: Any, weight: float | Tensor) -> KL:
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


def _check_reparameterized(name: str, q: Any) -> None:
    if not q["fn"].has_rsample:
        checks.refuse(
            f"guide site '{name}'",
            f"{type(q['fn']).__name__} without reparameterised draws",
            "a reparameterised distribution",
            "use a relaxed one",
        )


def _check_scales(name: str, q: Any, p: Any) -> None:
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


def _check_order(model_trace: poutine.Trace, latent: dict[str, Any]) -> None:
    model_order = [name for name in model_trace.nodes if name in latent]
    guide_order = [name for name in latent if name in model_trace.nodes]
    if model_order != guide_order:
        checks.refuse(
            "estimator B",
            f"guide sites in the order {', '.join(guide_order)}",
            f"the model's order, {', '.join(model_order)} (its mean-field condition)",
            "use estimator A or sample the guide's sites top-down",
        )


def kl_report(model: Program, guide: Program, x: Tensor, estimator: str) -> dict[str, str]:
    """For each site of the guide, how the estimator gets its KL term.

    "analytic": closed form. "sampled": log q - log p at the draws. "enumerated": so too, but with
    the prior's index sites summed out of p exactly. "auxiliary": log q alone, of a site that p
    lacks. "point": left out, as q is a point.
    """
    modules = nn.ModuleList(program for program in (model, guide) if isinstance(program, nn.Module))
    local = pyro.settings.context(module_local_params=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), local, evaluating(modules):
        terms = evidence_terms(model, guide, x, estimator)
    return {name: kl.kind for name, kl in (terms.kl | terms.weight_kl).items()}


def _balanced(terms: Terms, kl_weight: Tensor) -> Terms:
    """Each site's weight times its share KL_s / mean of KL_s over sites, held fixed, while
    `kl_weight` is below 1.

    During warm-up a layer that says little is then pulled to its prior less than one that says
    much, so that none collapses before it is of use. Source: NVAE: a deep hierarchical variational
    autoencoder (2020), appendix A.
    """
    parts = [name for name, kl in terms.kl.items() if kl.kind == "auxiliary"]
    if parts:
        checks.refuse(
            "kl_balance",
            f"the guide's own sites {', '.join(parts)}, each but a part of one KL",
            "a guide of the prior's sites",
            "leave it out, or use another posterior",
        )
    means = torch.stack([kl.value.mean().detach().clamp(min=1e-2) for kl in terms.kl.values()])
    shares = torch.where(
        torch.as_tensor(kl_weight) < 1, means / means.mean(), torch.ones_like(means)
    )
    weights = {
        name: share * terms.kl[name].weight for name, share in zip(terms.kl, shares.unbind())
    }
    draws = terms.draws and replace(terms.draws, kl=_reweighed(terms.draws.kl, weights))
    return replace(terms, kl=_reweighed(terms.kl, weights), draws=draws)


def _reweighed(kl: dict[str, KL], weights: dict[str, Tensor]) -> dict[str, KL]:
    return {name: replace(each, weight=weights[name]) for name, each in kl.items()}


@dataclass(frozen=True)
class Objective:
    """The training objective: an estimator of the bound with `num_particles` draws, as one
    differentiable function.
    """

    estimator: str = "B"
    num_particles: int = 1
    corruption: str = "none"
    kl_balance: bool = False

    def __post_init__(self) -> None:
        """Check every field; raises `InputError`."""
        renyi_order(self.estimator)
        checks.integer("num_particles", self.num_particles)
        checks.choice("corruption", self.corruption, ("none", *CORRUPTIONS))
        if self.kl_balance and self.estimator == "dreg":
            checks.refuse(
                "estimator",
                "'dreg' with kl_balance",
                "one KL weight for all sites",
                "use estimator 'iwae'",
            )

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        kl_weight: Tensor,
        weight_kl_weight: Tensor,
        inverse_num_data: Tensor,
        corruption_level: float | Tensor = 0.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, report): the loss to minimise and the unweighted terms to show, all 0-dimensional,
        nats per datum.

        `kl_weight` weighs the latents' KL, `weight_kl_weight` KL(theta), `inverse_num_data` is 1/N,
        `corruption_level` how much of x a guide in training mode does not see: tensors, since each
        may change between the steps of one recorded program.
        """
        corrupted = self.corruption != "none"
        corruption = (
            Corruption(self.corruption, corruption_level) if corrupted else contextlib.nullcontext()
        )
        with KLWeight(kl_weight, weights=weight_kl_weight), corruption:
            terms = evidence_terms(model, guide, x, self.estimator, self.num_particles)
        terms = _balanced(terms, kl_weight) if self.kl_balance else terms
        report = {
            "lower_bound": terms.lower_bound.mean(),
            "reconstruction": terms.log_likelihood.mean(),
        }
        report |= {f"kl.{name}": kl.value.mean() for name, kl in terms.kl.items()}
        if terms.weight_kl:
            weight_kl = inverse_num_data * _total(kl.value for kl in terms.weight_kl.values())
            report |= {"lower_bound": report["lower_bound"] - weight_kl, "kl_weights": weight_kl}
        return terms.loss(inverse_num_data), {
            name: value.detach() for name, value in report.items()
        }
