"""Draws of theta that need no chain: from a fitted q(theta), or the members of an ensemble.

Knows q(theta) and trained VAEs; knows nothing of training.
"""

from collections.abc import Sequence

import torch

from ppl_vae import checks
from ppl_vae.evaluation.blocks import evaluation
from ppl_vae.sampling.posterior import WeightPosterior, point_vae
from ppl_vae.vae import VAE

__all__ = ["ensemble", "fitted"]


def fitted(vae: VAE, num_draws: int = 20, seed: int | None = 0) -> WeightPosterior:
    """Independent draws of theta ~ q(theta), as one chain. Raises `InputError` where the weights are points."""
    if vae.guide.weights is None:
        checks.refuse("vae", "weights that are points", "Bayesian weights", "build it with weights='mean_field', say")
    size = checks.integer("num_draws", num_draws)
    with evaluation(vae, seed):
        thetas = [vae.guide.weights() for _ in range(size)]
    draws = {name: torch.stack([theta[name] for theta in thetas])[None] for name in thetas[0]}
    return WeightPosterior(point_vae(vae), draws, markov=False)


def ensemble(vaes: Sequence[VAE]) -> WeightPosterior:
    """The members of a deep ensemble, trained from different seeds, as independent draws of all their tensors.

    Source: Simple and scalable predictive uncertainty estimation using deep ensembles (2017), section 2.4.
    """
    if len(vaes) < 1 or any(vae.config != vaes[0].config for vae in vaes):
        checks.refuse("ensemble", f"{len(vaes)} VAEs of different configurations", "at least one VAE, all alike")
    states = [{**point.model.state_dict(), **point.guide.state_dict()} for point in map(point_vae, vaes)]
    draws = {name: torch.stack([state[name] for state in states])[None] for name in states[0]}
    return WeightPosterior(point_vae(vaes[0]), draws, markov=False)
