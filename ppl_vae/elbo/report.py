"""Estimators by their short names, and what one does at each site of a pair of programs."""

import contextlib
from collections.abc import Callable

import pyro
import torch
from torch import nn

from ppl_vae import checks
from ppl_vae.elbo.doubly_reparameterized import DoublyReparameterizedELBO
from ppl_vae.elbo.importance_weighted import ImportanceWeightedELBO
from ppl_vae.elbo.mean_field import MeanFieldELBO
from ppl_vae.elbo.sampled import SampledELBO
from ppl_vae.elbo.termwise import Program, TermwiseELBO
from ppl_vae.handlers.modes import evaluating
from ppl_vae.parts.slot import Slot

__all__ = ["ESTIMATOR", "ESTIMATORS", "estimator_from", "kl_report"]

BY_NAME: dict[str, Callable[[int], TermwiseELBO]] = {
    "A": SampledELBO,
    "B": MeanFieldELBO,
    "iwae": ImportanceWeightedELBO,
    "dreg": DoublyReparameterizedELBO,
}
ESTIMATORS = (*BY_NAME, "renyi:ALPHA")
ESTIMATOR = Slot("estimator", BY_NAME)


def estimator_from(name: str, num_particles: int = 1) -> TermwiseELBO:
    """The library's own estimator of a short name.

    Args:
        name: "A" (`SampledELBO`), "B" (`MeanFieldELBO`), "iwae" (`ImportanceWeightedELBO`), "dreg"
            (`DoublyReparameterizedELBO`) or "renyi:ALPHA" (`ImportanceWeightedELBO` of that order).
        num_particles: K, draws of z a datum.

    Raises:
        InputError: for what is no estimator.
    """
    kind, _, order = str(name).partition(":")
    if kind != "renyi":
        return BY_NAME[checks.choice("estimator", name, ESTIMATORS)](num_particles)
    with contextlib.suppress(ValueError):
        if 0 <= float(order) < float("inf") and float(order) != 1:
            return ImportanceWeightedELBO(num_particles, float(order))
    checks.refuse(
        "estimator",
        repr(name),
        "renyi:ALPHA, ALPHA at least 0, not 1",
        "ALPHA = 1 is estimator A",
    )


def kl_report(
    model: Program, guide: Program, x: torch.Tensor, estimator: str | TermwiseELBO
) -> dict[str, str]:
    """For each site of the guide, how the estimator gets its KL term.

    "analytic": closed form. "sampled": log q - log p at the draws. "enumerated": so too, but with
    the prior's index sites summed out of p exactly. "auxiliary": log q alone, of a site that p
    lacks. "point": left out, as q is a point.

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: a few data, (M, *event_shape).
        estimator: a short name, or a `TermwiseELBO`.
    """
    elbo = estimator_from(estimator) if isinstance(estimator, str) else estimator
    modules = nn.ModuleList(program for program in (model, guide) if isinstance(program, nn.Module))
    local = pyro.settings.context(module_local_params=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), local, evaluating(modules):
        terms = elbo.terms(model, guide, x)
    return {name: kl.kind for name, kl in (terms.kl | terms.weight_kl).items()}
