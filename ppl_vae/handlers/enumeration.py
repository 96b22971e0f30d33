"""Sum discrete index sites out of a model's trace, exactly.

Knows sample sites only. A site marked `infer={"enumerate": "parallel"}` takes all its values at
once, along a dimension left of every plate; what is left afterwards is a trace of the other sites,
whose densities hold the index no more.
"""

from collections.abc import Callable, Iterable
from typing import Any

from pyro import poutine
from pyro.poutine.util import site_is_subsample

from ppl_vae import checks
from ppl_vae.handlers.scored import Scored

__all__ = ["INDEX_DIM", "SummedOut", "check_agreement", "replayed_trace"]

INDEX_DIM = -3  # left of the plates of draws (-2) and of data (-1)


class SummedOut(Scored):
    """p(value | sites before it) with an index summed out.

    Its log density is known at the value of one run only.
    """


def replayed_trace(
    model: Callable[..., Any], guide_trace: poutine.Trace, *args: Any, **kwargs: Any
) -> poutine.Trace:
    """The model's trace at the guide's draws, every enumerated index k summed out.

    log p(x, z) = log sum_k p(x, z, k). Cost: every site that depends on k is evaluated at all its
    values. A model without index sites is replayed as is.

    Args:
        model: a Pyro program.
        guide_trace: a trace of its guide.
        *args: what the model is called with.
        **kwargs: what the model is called with, by name.

    Raises:
        InputError: where the guide lacks a latent site of the model, or has one that the model
            lacks.
    """
    enumerating = poutine.enum(model, first_available_dim=INDEX_DIM)
    trace = poutine.trace(poutine.replay(enumerating, trace=guide_trace)).get_trace(*args, **kwargs)
    _sum_out(trace)
    latents = {
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["is_observed"]
    }
    missing = latents - set(guide_trace.nodes)
    if missing:
        checks.refuse(
            "guide",
            f"no site '{min(missing)}', which the model has",
            "the model's latent sites",
            "sample it given x",
        )
    check_agreement(guide_trace, latents)
    return trace


def check_agreement(guide_trace: poutine.Trace, latents: Iterable[str]) -> None:
    """Refuse a latent site of a guide that is none of the model's, unless marked as its own.

    Args:
        guide_trace: a trace of the guide.
        latents: names of the model's latent sites.

    Raises:
        InputError: for such a site that is not marked `infer={"is_auxiliary": True}`.
    """
    known = set(latents)
    for name, site in guide_trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site) or site["is_observed"]:
            continue
        if name not in known and not (site["infer"] or {}).get("is_auxiliary"):
            checks.refuse(
                "guide",
                f"a site '{name}' that the model lacks",
                "the model's latent sites",
                "remove it, or mark it with infer={'is_auxiliary': True}",
            )


def _sum_out(trace: poutine.Trace) -> None:
    """By the chain rule, log p(s | before) = log sum_k p(k, before, s) - log sum_k p(k, before),
    site after site.
    """
    joint: Any = 0.0
    before: Any = 0.0
    sites: dict[str, Any] = {
        n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)
    }
    if all(site["infer"].get("_enumerate_dim") is None for site in sites.values()):
        return
    for name, site in sites.items():
        log_prob = site["fn"].log_prob(site["value"])
        if log_prob.dim() < -INDEX_DIM:
            continue  # given its parents, this site does not depend on an index
        joint = joint + log_prob
        after = joint.flatten(0, INDEX_DIM).logsumexp(0)
        if site["infer"].get("_enumerate_dim") is not None:
            trace.remove_node(name)
        else:
            marginal = after - before
            site["fn"] = SummedOut(site["fn"], marginal[0] if len(marginal) == 1 else marginal)
        before = after
