"""log p(x) by the reciprocal estimator: draws of the posterior, and a density fitted to others of
them.

Knows chains and a Gaussian fit; knows nothing of the guide.
"""

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.evaluation.annealed import AnnealedPath
from ppl_vae.evaluation.blocks import as_float, decoder_rows
from ppl_vae.evaluation.density import LogDensity
from ppl_vae.evaluation.hamiltonian import chain_tier
from ppl_vae.evaluation.running import RunningWeights
from ppl_vae.vae import VAE

__all__ = ["reciprocal"]

CHAINS = 20
THINNING = 5
MOST_REPEATED = 0.05


def reciprocal(
    vae: VAE,
    x: Tensor,
    num_samples: int,
    tier: str,
    progress: bool,
    num_temperatures: int = 100,
    num_leapfrog: int = 10,
) -> Tensor:
    """log p(x) by the reciprocal estimator, for few latents: an upper bound in expectation.

    -log 1/S sum_s g(u_s) / p(x, u_s), u_s ~ p(u|x), g a Gaussian fitted to S other draws. Chains
    are annealed to the posterior, then thinned.

    Args:
        vae: the VAE; its guide is not used.
        x: data (N, *event_shape).
        num_samples: S, draws of the posterior of each datum.
        tier: "off", "record", "inductor" or "auto" (by the amount of work), how the density's
            gradient is run.
        progress: whether to show a progress bar.
        num_temperatures: T, steps from the prior to the posterior.
        num_leapfrog: leapfrog steps of each transition.

    Returns:
        (3, N): value in nats, Pareto k of the ratios, Monte Carlo error (of independent draws).

    Raises:
        InputError: where the prior's draws pile up, as sparse codes do, since a Gaussian is no fit
            to spikes; and for Bayesian weights.

    Source: Auto-Encoding Variational Bayes (2013), appendix D.
    """
    density = LogDensity(vae, "reciprocal")
    _check_spread(density)
    results, groups = [], x.split(max(1, decoder_rows(vae) // CHAINS))
    transitions = 2 * num_temperatures + 2 * THINNING * num_samples // CHAINS
    tier = chain_tier(tier, len(groups) * num_leapfrog * transitions)
    for rows in tqdm(groups, disable=not progress, desc="reciprocal"):
        path = AnnealedPath(
            density, as_float(vae, rows), CHAINS, num_temperatures, num_leapfrog, tier
        )
        path.forward()
        results.append(
            _summary(path, _posterior_draws(path, num_samples), _posterior_draws(path, num_samples))
        )
    return torch.cat(results, 1)


def _check_spread(density: LogDensity) -> None:
    """Refuse a prior of which more than a twentieth of 2000 draws of a coordinate are one number,
    or a few: at the ends of (0, 1) their density in the chains' coordinates is a spike.
    """
    with torch.random.fork_rng():
        draws = density.prior_draws(2000, 1)[:, 0]
    for column in draws.unbind(-1):
        repeated = 1 - len(column.unique()) / len(column)
        if repeated > MOST_REPEATED:
            checks.refuse(
                "method",
                f"'reciprocal' with a sparse prior ({repeated:.0%} of its draws repeat a number)",
                "a prior whose draws are apart",
                "use 'annealed' or 'importance', or 'quadrature' for one or two latents",
            )


def _posterior_draws(path: AnnealedPath, num_samples: int) -> Tensor:
    """(S, M, U) states of the chains, every `THINNING`-th."""
    kept = []
    for step in range(THINNING * -(-num_samples // CHAINS)):
        path.chains.transition(path.temperatures[-1])
        if step % THINNING == THINNING - 1:
            kept.append(path.chains.state.u)
    return torch.cat(kept)[:num_samples]


def _summary(path: AnnealedPath, fitted_to: Tensor, draws: Tensor) -> Tensor:
    precise = fitted_to.double().transpose(0, 1)
    centred = precise - precise.mean(1, keepdim=True)
    covariance = centred.mT @ centred / (len(fitted_to) - 1)
    fit = MultivariateNormal(
        precise.mean(1), covariance + 1e-9 * torch.eye(covariance.shape[-1]).to(covariance)
    )
    ratios = RunningWeights(len(draws))
    for part in draws.split(CHAINS):
        log_prior, log_likelihood = path.density(part, path.x)
        ratios.update(fit.log_prob(part.double()) - log_prior - log_likelihood)
    return ratios.summary().cpu() * torch.tensor([-1.0, 1.0, 1.0]).double()[:, None]
