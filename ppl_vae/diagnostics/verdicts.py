"""Named checks of a trained pair, each with a value, a threshold and a verdict.

Knows evaluation; knows nothing of runs, files or how a verdict is shown.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.diagnostics.calibration import Calibration, simulation_based_calibration
from ppl_vae.diagnostics.predictive import PredictiveCheck, posterior_predictive_check
from ppl_vae.diagnostics.weights import weight_signal_to_noise
from ppl_vae.elbo import kl_report
from ppl_vae.evaluation import LogLikelihood, active_units, log_likelihood, lower_bound
from ppl_vae.evaluation.blocks import as_float, checked
from ppl_vae.inputs import Data
from ppl_vae.tables import as_html, as_lines
from ppl_vae.vae import VAE

__all__ = ["Check", "Checks", "Examination", "diagnose", "examine"]

INTERVAL, P_VALUE = 0.8, 0.01


@dataclass(frozen=True)
class Check:
    """One check: `value` against `threshold` in `unit`; `verdict` is "pass", or "look" where a
    person should look.
    """

    name: str
    value: float
    threshold: float
    unit: str
    verdict: str
    meaning: str

    def __str__(self) -> str:
        """One line of a report."""
        found = f"{self.name}: {self.value:.3g} {self.unit} (threshold {self.threshold:g})"
        return f"{self.verdict:>4}  {found}: {self.meaning}"


CHECK_HEADER = ("verdict", "check", "value", "threshold", "unit", "meaning")


def check_rows(found: Iterable[Check]) -> list[tuple[str, ...]]:
    """The cells of a table, one row a check."""
    return [
        (c.verdict, c.name, f"{c.value:.3g}", f"{c.threshold:g}", c.unit, c.meaning) for c in found
    ]


class Checks(list[Check]):
    """Checks, shown as a table."""

    def __repr__(self) -> str:
        """One line a check."""
        return "\n".join(as_lines(CHECK_HEADER, check_rows(self)))

    def _repr_html_(self) -> str:
        return as_html(CHECK_HEADER, check_rows(self))


@dataclass(frozen=True)
class Examination:
    """Checks of a trained pair, and what they were read from: for figures.

    pareto_k: (N,). signal_to_noise: |mean| / standard deviation of every weight by site; empty for
    point weights.
    """

    checks: Checks
    pareto_k: Tensor
    calibration: Calibration
    predictive: dict[str, PredictiveCheck]
    signal_to_noise: dict[str, Tensor]

    def __repr__(self) -> str:
        """The table of its checks."""
        return repr(self.checks)

    def _repr_html_(self) -> str:
        return self.checks._repr_html_()


def at_most(name: str, value: float, threshold: float, unit: str, meaning: str) -> Check:
    """A check that passes when `value` is at most `threshold`; NaN never passes."""
    return Check(name, value, threshold, unit, "pass" if value <= threshold else "look", meaning)


def diagnose(vae: VAE, x: Data, seed: int = 0, num_samples: int = 1000) -> Checks:
    """The checks of `examine` alone."""
    return examine(vae, x, seed, num_samples).checks


def examine(vae: VAE, x: Data, seed: int = 0, num_samples: int = 1000) -> Examination:
    """Checks of q(z|x), log p(x) and, where weights are random, q(theta), on held-out x (N,
    *event_shape).

    A function of `seed`. Raises `InputError` where the posterior is a point.
    """
    tensor = checked(vae, x)
    kinds = kl_report(vae.model, vae.guide, as_float(vae, tensor[:1]), "A")
    if "point" in kinds.values():
        checks.refuse(
            "posterior",
            "'point', which has no density to check",
            "a posterior to draw from",
            "evaluate says what a plain autoencoder is worth",
        )
    # all draws the guide's, which k then judges
    likelihood = log_likelihood(vae, tensor, num_samples, seed=seed, prior_share=0.0)
    calibration = simulation_based_calibration(vae, seed=seed)
    predictive = posterior_predictive_check(vae, tensor, seed=seed)
    ratios = {} if vae.guide.weights is None else weight_signal_to_noise(vae)
    found = Checks(_likelihood_checks(vae, tensor, likelihood, seed))
    found.append(_inactive_units(vae, tensor, seed))
    found += _calibration_checks(calibration)
    found.append(_predictive(predictive))
    found += _weight_checks(ratios)
    return Examination(found, likelihood.pareto_k, calibration, predictive, ratios)


def _likelihood_checks(vae: VAE, x: Tensor, likelihood: LogLikelihood, seed: int) -> list[Check]:
    gap = likelihood.values - lower_bound(vae, x, num_particles=100, seed=seed).double().cpu()
    heavy = (likelihood.pareto_k > 0.7).double().mean().item()
    per_latent = gap.mean().item() / vae.config.latent_size
    return [
        at_most(
            "gap",
            per_latent,
            0.25,
            "nats per latent",
            "log p(x) minus the lower bound: KL(q || p(z|x))",
        ),
        at_most(
            "pareto_k",
            heavy,
            0.05,
            "of data",
            "share with k > 0.7, whose importance weights cannot be averaged",
        ),
    ]


def _inactive_units(vae: VAE, x: Tensor, seed: int) -> Check:
    inactive = 1 - active_units(vae, x, seed=seed).double().mean().item()
    return at_most(
        "inactive_units", inactive, 0.5, "of latents", "share of latents that carry nothing about x"
    )


def _calibration_checks(found: Calibration) -> list[Check]:
    coverage = found.coverage(INTERVAL)
    worst = coverage[(coverage - INTERVAL).abs().argmax()].item()
    off = abs(worst - INTERVAL)
    tendency = ""
    if off > 0.1:
        tendency = ", overconfident" if worst < INTERVAL else ", conservative"
    held = (
        f"the worst latent's {INTERVAL:.0%} intervals hold {worst:.0%} of simulated "
        f"latents{tendency}"
    )
    shape = "largest distance of the ranks of simulated latents from uniform ones"
    limit = max(0.1, found.band())
    return [
        at_most("coverage", off, 0.1, "of simulations", held),
        at_most("calibration", found.deviation.max().item(), limit, "of simulations", shape),
    ]


def _predictive(made: dict[str, PredictiveCheck]) -> Check:
    found = {name: check.p_value for name, check in made.items()}
    name = min(found, key=lambda key: found[key])
    meaning = f"smallest of {len(found)} posterior predictive p-values, of the statistic '{name}'"
    verdict = "pass" if found[name] >= P_VALUE else "look"
    return Check("predictive", found[name], P_VALUE, "(p-value)", verdict, meaning)


def _weight_checks(ratios: dict[str, Tensor]) -> list[Check]:
    if not ratios:
        return []
    unsure = torch.cat([ratio.flatten() for ratio in ratios.values()]).lt(1).double().mean().item()
    meaning = (
        "share whose sign q(theta) hardly knows, |mean| below one standard deviation; all: "
        "nothing was learned"
    )
    return [at_most("unsure_weights", unsure, 0.98, "of weights", meaning)]
