"""What a trained VAE is worth on given data, as numbers for a file and as lines for a person.

Knows evaluation and the checks of diagnostics; must not know folders or arguments.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.diagnostics import Check
from ppl_vae.diagnostics.verdicts import CHECK_HEADER, check_rows
from ppl_vae.elbo import estimator_from, kl_report
from ppl_vae.evaluation import (
    LogLikelihood,
    active_units,
    log_likelihood,
    lower_bound,
    reconstruction_error,
)
from ppl_vae.evaluation.blocks import by_blocks
from ppl_vae.evaluation.importance import default_prior_share
from ppl_vae.evaluation.likelihood import METHODS
from ppl_vae.tables import as_lines
from ppl_vae.vae import VAE

__all__ = ["check_table", "evaluation_lines", "evaluation_report", "verdict"]

# above it the mean of importance weights cannot be estimated reliably from any number of draws
HIGH_K = 0.7

GREY = (
    "grey pixels are no draws of a Bernoulli, so this is no log density: compare it with none "
    "of binarised data"
)


def evaluation_report(
    vae: VAE,
    x: Tensor,
    estimator: str,
    num_particles: int,
    num_samples: int | None,
    seed: int,
    progress: bool,
    prior_share: float | None = None,
    method: str = "importance",
) -> dict[str, Any]:
    """Every number of `evaluation_lines`, in plain values; x (N, *event_shape).

    The bound is that of `estimator` with `num_particles` draws a datum, log p(x) that of `method`
    with `num_samples`; of those of "importance", `prior_share` (None: a tenth where the guide
    allows) are the prior's. A plain autoencoder, whose posterior is a point, has no bound, and
    log p(x) by methods that do not ask the posterior.
    """
    checks.choice("--method", method, METHODS)
    kl = _kl(vae, x, estimator, seed)
    report = {
        "num_data": len(x),
        "seed": seed,
        "estimator": estimator,
        "num_particles": num_particles,
        "reconstruction_error": _mean(reconstruction_error(vae, x, seed=seed)),
        "active_units": int(active_units(vae, x, seed=seed).sum()),
        "latent_size": vae.config.latent_size,
        "grey_pixels": vae.config.likelihood == "bernoulli" and bool(((x != 0) & (x != 1)).any()),
        "kl": kl,
    }
    if "point" not in {site["kind"] for site in kl.values()}:
        report["lower_bound"] = _mean(lower_bound(vae, x, estimator, num_particles, seed=seed))
    elif method == "importance":
        return report
    options: dict[str, Any] = {}
    if method == "importance":
        num_samples = METHODS["importance"][1] if num_samples is None else num_samples
        if prior_share is None:
            prior_share = default_prior_share(vae, x, num_samples)
        options["prior_share"] = prior_share
    likelihood = log_likelihood(
        vae, x, num_samples, method, seed=seed, progress=progress, **options
    )
    return report | options | _likelihood(likelihood)


def _likelihood(likelihood: LogLikelihood) -> dict[str, Any]:
    k = likelihood.pareto_k.double()
    high = (k > HIGH_K).double().mean().item()
    return {
        "method": likelihood.method,
        "num_samples": likelihood.num_samples,
        "log_likelihood": _mean(likelihood.values),
        "monte_carlo_error": likelihood.monte_carlo_error.double().mean().item(),
        "pareto_k": {"median": k.median().item(), "largest": k.max().item(), "above_0.7": high},
    }


def _mean(values: Tensor) -> dict[str, float]:
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": values.mean().item(), "standard_error": error}


def _kl(vae: VAE, x: Tensor, estimator: str, seed: int) -> dict[str, dict[str, Any]]:
    """For each latent site, how the estimator gets its KL term and what it is, in nats per
    datum.
    """
    kinds = kl_report(vae.model, vae.guide, vae.as_float(x[:2]), estimator)

    def of_sites(rows: Tensor) -> Tensor:
        terms = estimator_from(estimator).terms(vae.model, vae.guide, rows)
        weights = [
            kl.value.expand(len(rows)) / (vae.num_data or len(x)) for kl in terms.weight_kl.values()
        ]
        return torch.stack([kl.value for kl in terms.kl.values()] + weights, -1)

    values = by_blocks(vae, x, of_sites, seed=seed).double().mean(0).tolist()
    return {
        site: {"kind": kind, "nats": value}
        for (site, kind), value in zip(kinds.items(), values, strict=True)
    }


def evaluation_lines(report: dict[str, Any]) -> list[str]:
    """The report as a screen of text."""
    lines = _likelihood_lines(report) if "log_likelihood" in report else []
    lines += [
        f"reconstruction error  {_plus_minus(report['reconstruction_error'])} squared error per "
        "datum",
        f"active units          {report['active_units']} of {report['latent_size']}",
        "",
    ]
    rows = [(site, kl["kind"], f"{kl['nats']:.3f}") for site, kl in report["kl"].items()]
    return lines + as_lines(("site", f"KL under {report['estimator']}", "nats per datum"), rows)


def _likelihood_lines(report: dict[str, Any]) -> list[str]:
    estimator = f"estimator {report['estimator']}, draws a datum: {report['num_particles']}"
    lines = []
    if "lower_bound" in report:
        bound = _plus_minus(report["lower_bound"])
        lines.append(f"lower bound           {bound} nats per datum ({estimator})")
    value = _plus_minus(report["log_likelihood"])
    lines.append(f"log p(x)              {value} nats per datum ({_method(report)}")
    lines += _pareto_lines(report)
    return [*lines, GREY] if report["grey_pixels"] else lines


def _method(report: dict[str, Any]) -> str:
    """How log p(x) was computed, and on which side of it the value is."""
    size, error = report["num_samples"], f"{report['monte_carlo_error']:.2g}"
    share = report.get("prior_share", 0.0)
    source = f", {share:.0%} of them the prior's" if share else ""
    return {
        "importance": f"{size} importance samples{source}), a lower bound in expectation",
        "annealed": f"{size} annealed chains, Monte Carlo error {error}), a lower bound in "
        "expectation",
        "reciprocal": f"{size} draws of the posterior, Monte Carlo error {error}), an upper bound "
        "in expectation",
        "quadrature": f"quadrature, {error} from that of half as many points)",
    }[report["method"]]


def _pareto_lines(report: dict[str, Any]) -> list[str]:
    """What k says; nothing of quadrature, which has no weights."""
    k = report["pareto_k"]
    if math.isnan(k["median"]):
        return []
    if math.isinf(k["median"]):
        return ["Pareto k              too few draws to say"]
    of = {
        "importance": "k cannot see modes that no draw reached",
        "annealed": "k cannot see modes that no chain reached",
        "reciprocal": "k is that of the reciprocal weights",
    }[report["method"]]
    return [
        f"Pareto k              median {k['median']:.2f}, largest {k['largest']:.2f}; above "
        f"{HIGH_K} for {100 * k['above_0.7']:.0f} % of the data, whose log p(x) may be wrong; {of}"
    ]


def _plus_minus(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} ± {value['standard_error']:.2f}"


def check_table(found: Sequence[Check]) -> list[str]:
    """One line a check."""
    return as_lines(CHECK_HEADER, check_rows(found))


def verdict(found: Sequence[Check]) -> str:
    """All checks in one line."""
    failed = [check.name for check in found if check.verdict != "pass"]
    passed = f"{len(found) - len(failed)} of {len(found)} checks pass"
    return f"{passed}; look at {', '.join(failed)}" if failed else passed
