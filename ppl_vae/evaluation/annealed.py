"""log p(x) by annealed importance sampling, and the check that brackets it from both sides.

Knows chains that can be tempered; knows nothing of the guide, which it is therefore fit to judge.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.evaluation.blocks import as_float, decoder_rows, evaluation
from ppl_vae.evaluation.density import LogDensity
from ppl_vae.evaluation.hamiltonian import Chains, chain_tier
from ppl_vae.evaluation.running import RunningWeights
from ppl_vae.vae import VAE

__all__ = ["BidirectionalGap", "annealed", "bidirectional_gap", "inverse_temperatures"]

PILOT_CHAINS = 4
STEEPNESS = 4.0


def inverse_temperatures(num_temperatures: int) -> Tensor:
    """0 = b_0 < ... < b_T = 1 on a sigmoid: small steps near both ends.

    Args:
        num_temperatures: T, the number of steps.

    Returns:
        The inverse temperatures b, (T + 1,).

    Source: On the quantitative analysis of decoder-based generative models (2017), section 4.
    """
    sigmoid = torch.linspace(-STEEPNESS, STEEPNESS, num_temperatures + 1).sigmoid()
    return (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])


class AnnealedPath:
    """The path p(u) p(x|u)^b from prior to posterior for M data.

    Step sizes by temperature and datum are found by a pilot run and then frozen, so that the
    weights of later chains are unbiased.

    Args:
        density: log p(u) and log p(x|u).
        x: data (M, *event_shape), of the model's dtype and device.
        num_chains: C, chains for each datum.
        num_temperatures: T, steps from the prior to the posterior.
        num_leapfrog: leapfrog steps of each transition.
        tier: "off", "record" or "inductor", how the density's gradient is run.
    """

    def __init__(
        self,
        density: LogDensity,
        x: Tensor,
        num_chains: int,
        num_temperatures: int,
        num_leapfrog: int,
        tier: str,
    ) -> None:
        self.density, self.x, self.num_leapfrog, self.tier = density, x, num_leapfrog, tier
        self.temperatures = inverse_temperatures(num_temperatures).to(x)
        self.chains = Chains(
            density, x, density.prior_draws(num_chains, len(x)), num_leapfrog, tier
        )
        pilot = Chains(density, x, density.prior_draws(PILOT_CHAINS, len(x)), num_leapfrog, tier)
        self.step_sizes = torch.stack([self._adapted(pilot, b) for b in self.temperatures[1:]])

    def _adapted(self, pilot: Chains, inverse_temperature: Tensor) -> Tensor:
        pilot.adapt(pilot.transition(inverse_temperature))
        return pilot.step_size

    def forward(self) -> Tensor:
        """Run chains from the prior; they end at draws of (about) the posterior.

        log w = sum_t (b_t - b_{t-1}) log p(x|u_{t-1}), u_t ~ T_t(u_{t-1}); E[w] = p(x).

        Returns:
            Log weights (C, M), nats.
        """
        log_weights = torch.zeros_like(self.chains.state.log_prior)
        for t, difference in enumerate(self.temperatures.diff()):
            log_weights = log_weights + difference * self.chains.state.log_likelihood
            self.chains.step_size = self.step_sizes[t]
            self.chains.transition(self.temperatures[t + 1])
        return log_weights

    def backward(self, u: Tensor) -> Tensor:
        """Run chains along the reverse path, from the posterior to the prior: E[1/w] = 1/p(x).

        Args:
            u: exact draws of the posterior, (C, M, U).

        Returns:
            Log weights (C, M), nats.
        """
        self.chains.start(u)
        log_weights = torch.zeros_like(self.chains.state.log_prior)
        for t in range(len(self.step_sizes) - 1, -1, -1):
            self.chains.step_size = self.step_sizes[t]
            self.chains.transition(self.temperatures[t + 1])
            difference = self.temperatures[t + 1] - self.temperatures[t]
            log_weights = log_weights + difference * self.chains.state.log_likelihood
        return log_weights


def annealed(
    vae: VAE,
    x: Tensor,
    num_samples: int,
    tier: str,
    progress: bool,
    num_temperatures: int = 500,
    num_leapfrog: int = 10,
) -> Tensor:
    """log p(x) by annealed importance sampling: a lower bound in expectation.

    log 1/C sum_c w_c, w_c the weight of a chain from the prior to the posterior.

    Args:
        vae: the VAE; its guide is not used.
        x: data (N, *event_shape).
        num_samples: C, chains for each datum.
        tier: "off", "record", "inductor" or "auto" (by the amount of work), how the density's
            gradient is run.
        progress: whether to show a progress bar.
        num_temperatures: T, steps from the prior to the posterior.
        num_leapfrog: leapfrog steps of each transition.

    Returns:
        (3, N): value in nats, Pareto k (of few chains: infinite, too few to say), Monte Carlo
        error.

    Raises:
        InputError: for Bayesian weights.

    Source: Annealed importance sampling (2001), section 2; On the quantitative analysis of
        decoder-based generative models (2017), section 2.3.
    """
    density = LogDensity(vae, "annealed")
    results, groups = [], x.split(max(1, decoder_rows(vae) // num_samples))
    tier = chain_tier(tier, 2 * len(groups) * num_temperatures * num_leapfrog)
    for rows in tqdm(groups, disable=not progress, unit="block", desc="annealed"):
        path = AnnealedPath(
            density, as_float(vae, rows), num_samples, num_temperatures, num_leapfrog, tier
        )
        weights = RunningWeights(num_samples)
        weights.update(path.forward())
        results.append(weights.summary().cpu())
    return torch.cat(results, 1)


@dataclass(frozen=True)
class BidirectionalGap:
    """A lower and an upper bound on log p(x) in expectation, of N simulated data.

    `gap` = upper - lower bounds the error of method "annealed" on data like these.

    Args:
        x: the simulated data, (N, *event_shape).
        lower: the lower bounds, (N,) nats.
        upper: the upper bounds, (N,) nats.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def gap(self) -> Tensor:
        """upper - lower, (N,) nats."""
        return self.upper - self.lower


def bidirectional_gap(
    vae: VAE,
    num_data: int = 20,
    num_samples: int = 16,
    seed: int | None = None,
    num_temperatures: int = 500,
    num_leapfrog: int = 10,
) -> BidirectionalGap:
    """Bracket log p(x) of data simulated from the model, of which a posterior draw is known.

    That draw is the z that made them. lower = log 1/C sum_c w_c over forward chains; upper =
    -log 1/C sum_c 1/w_c over chains that start at that z.

    Args:
        vae: the VAE; its guide is not used.
        num_data: N, data to simulate.
        num_samples: C, chains for each datum and direction.
        seed: of data and chains; None uses the global generator.
        num_temperatures: T, steps from the prior to the posterior.
        num_leapfrog: leapfrog steps of each transition.

    Returns:
        A `BidirectionalGap`.

    Raises:
        InputError: for a count below 1, and for Bayesian weights.

    Source: Sandwiching the marginal likelihood using bidirectional Monte Carlo (2015); On the
        quantitative analysis of decoder-based generative models (2017), section 2.4.
    """
    counts = {
        "num_data": num_data,
        "num_samples": num_samples,
        "num_temperatures": num_temperatures,
        "num_leapfrog": num_leapfrog,
    }
    num_data, num_samples, num_temperatures, num_leapfrog = (
        checks.integer(*count) for count in counts.items()
    )
    with evaluation(vae, seed):
        density = LogDensity(vae, "annealed")
        u = density.prior_draws(1, num_data)
        x = vae.decode(density.values(u)["z"][0]).sample()
        path = AnnealedPath(density, x, num_samples, num_temperatures, num_leapfrog, "record")
        lower, upper = RunningWeights(num_samples), RunningWeights(num_samples)
        lower.update(path.forward())
        upper.update(-path.backward(u.repeat(num_samples, 1, 1)))
        return BidirectionalGap(x, lower.summary()[0], -upper.summary()[0])
