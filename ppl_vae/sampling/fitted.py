"""Draws of theta that need no chain: from a fitted q(theta), the members of an ensemble, or a
mixture of posteriors.

Knows q(theta) and trained VAEs; knows nothing of training.
"""

from collections.abc import Sequence

import torch

from ppl_vae import checks
from ppl_vae.evaluation.blocks import evaluation
from ppl_vae.sampling.posterior import WeightPosterior, check_alike, point_vae
from ppl_vae.vae import VAE

__all__ = ["ensemble", "fitted", "mixture"]


def fitted(vae: VAE, num_draws: int = 20, seed: int | None = 0) -> WeightPosterior:
    """Independent draws of theta ~ q(theta), as one chain.

    Args:
        vae: a VAE with Bayesian weights.
        num_draws: S.
        seed: of the draws; None uses the global generator.

    Returns:
        A `WeightPosterior` of draws (1, S, *shape).

    Raises:
        InputError: where the weights are points.
    """
    if vae.guide.weights is None:
        checks.refuse(
            "vae",
            "weights that are points",
            "Bayesian weights",
            "build it with weights='mean_field', say",
        )
    size = checks.integer("num_draws", num_draws)
    with evaluation(vae, seed):
        thetas = [vae.guide.weights() for _ in range(size)]
    draws = {name: torch.stack([theta[name] for theta in thetas])[None] for name in thetas[0]}
    return WeightPosterior(point_vae(vae), draws, markov=False)


def ensemble(vaes: Sequence[VAE]) -> WeightPosterior:
    """The members of a deep ensemble as independent draws of all their tensors.

    Args:
        vaes: VAEs of one configuration, trained from different seeds.

    Returns:
        A `WeightPosterior` of draws (1, S, *shape), S the number of members.

    Raises:
        InputError: for no VAE, and for VAEs of different configurations.

    Source: Simple and scalable predictive uncertainty estimation using deep ensembles (2017),
        section 2.4.
    """
    check_alike("ensemble", vaes)
    states = [_tensors(vae) for vae in vaes]
    draws = {name: torch.stack([state[name] for state in states])[None] for name in states[0]}
    return WeightPosterior(point_vae(vaes[0]), draws, markov=False)


def mixture(posteriors: Sequence[WeightPosterior]) -> WeightPosterior:
    """Draws around several modes as one posterior: each mode a chain.

    Each has all tensors of its own VAE, the encoder among them. Modes count alike; each gives as
    many draws as the shortest has.

    Args:
        posteriors: one for each mode, such as chains or SWAG that started at several trained VAEs.

    Returns:
        A `WeightPosterior` of draws (C, S, *shape), C the number of modes.

    Raises:
        InputError: for no posterior, and for VAEs of different configurations.

    Source: Bayesian deep learning and a probabilistic perspective of generalization (2020),
        section 3.2.
    """
    check_alike("mixture", [posterior.vae for posterior in posteriors])
    n = min(len(posterior) for posterior in posteriors)
    modes = []
    for posterior in posteriors:
        own = {
            name: value.expand(n, *value.shape) for name, value in _tensors(posterior.vae).items()
        }
        spaced = torch.linspace(0, len(posterior) - 1, n).long()
        modes.append(
            {
                **own,
                **{name: value.flatten(0, 1)[spaced] for name, value in posterior.draws.items()},
            }
        )
    draws = {name: torch.stack([mode[name] for mode in modes]) for name in modes[0]}
    return WeightPosterior(posteriors[0].vae, draws, markov=False)


def _tensors(vae: VAE) -> dict[str, torch.Tensor]:
    point = point_vae(vae)
    return {**point.model.state_dict(), **point.guide.state_dict()}
