"""Named checks of a trained pair, each with a value, a threshold and a verdict.

Knows evaluation; knows nothing of runs, files or how a verdict is shown.
"""

from dataclasses import dataclass

from torch import Tensor

from ppl_vae.evaluation import active_units, log_likelihood, lower_bound
from ppl_vae.vae import VAE

__all__ = ["Check", "diagnose"]


@dataclass(frozen=True)
class Check:
    """One check: `value` against `threshold` in `unit`; `verdict` is "pass", or "look" where a person should look."""

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


def at_most(name: str, value: float, threshold: float, unit: str, meaning: str) -> Check:
    """A check that passes when `value` is at most `threshold`; NaN never passes."""
    return Check(name, value, threshold, unit, "pass" if value <= threshold else "look", meaning)


def diagnose(vae: VAE, x: Tensor, seed: int = 0, num_samples: int = 1000) -> list[Check]:
    """Checks of q(z|x) and log p(x) on held-out x (N, *event_shape); a function of `seed`."""
    likelihood = log_likelihood(vae, x, num_samples, seed=seed)
    gap = likelihood.values - lower_bound(vae, x, num_particles=100, seed=seed).double().cpu()
    heavy = (likelihood.pareto_k > 0.7).double().mean().item()
    inactive = 1 - active_units(vae, x, seed=seed).double().mean().item()
    per_latent = gap.mean().item() / vae.config.latent_size
    return [
        at_most("gap", per_latent, 0.25, "nats per latent", "log p(x) minus the lower bound: KL(q || p(z|x))"),
        at_most("pareto_k", heavy, 0.05, "of data", "share with k > 0.7, whose importance weights cannot be averaged"),
        at_most("inactive_units", inactive, 0.5, "of latents", "share of latents that carry nothing about x"),
    ]
