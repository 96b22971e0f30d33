"""The posterior of theta and z themselves, by the No-U-Turn sampler: the ground truth for models
small enough.

Knows Pyro's sampler and the model as a program; the guide is not asked.
"""

from collections.abc import Callable

import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import initialization
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from ppl_vae import checks
from ppl_vae.evaluation.blocks import as_float, checked
from ppl_vae.graphs import NotRecordable, record
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.sampling.posterior import WeightPosterior, point_vae
from ppl_vae.vae import VAE, evaluating

__all__ = ["nuts"]

Potential = Callable[[dict[str, Tensor]], Tensor]


def nuts(
    vae: VAE,
    data: Tensor,
    num_draws: int = 500,
    num_warmup: int = 500,
    num_chains: int = 2,
    max_tree_depth: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> WeightPosterior:
    """Draws of (theta, z_1 ... z_N) ~ p(theta, z | data), exact up to the chains' convergence.

    The parameters that are no random weights stay as they are. Each chain starts at a draw of the
    prior.

    Args:
        vae: a VAE with Bayesian weights; its guide is not asked.
        data: x, (N, *event_shape).
        num_draws: S, draws of each chain.
        num_warmup: steps of each chain before these, in which the sampler adapts.
        num_chains: C.
        max_tree_depth: the most doublings of a trajectory.
        seed: chain i uses seed + i.
        progress: whether to show progress bars.

    Returns:
        A `WeightPosterior` of draws (C, S, *shape), with the data's latents.

    Raises:
        InputError: where the weights are points, and for a bad value of an argument.

    Source: The No-U-Turn Sampler (2014), algorithm 6.
    """
    if vae.model.weights is None:
        checks.refuse(
            "vae",
            "weights that are points",
            "Bayesian weights",
            "build it with weights='mean_field', say",
        )
    for name, value in (
        ("num_draws", num_draws),
        ("num_warmup", num_warmup),
        ("num_chains", num_chains),
    ):
        checks.integer(name, value)
    x = as_float(vae, checked(vae, data))
    with torch.random.fork_rng(), evaluating(vae), local_parameters():
        chains = [
            _chain(vae, x, num_draws, num_warmup, max_tree_depth, seed + i, progress)
            for i in range(num_chains)
        ]
    joined = {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}
    theta = {weight.name for weight in vae.model.weights.weights}
    draws = {name: value for name, value in joined.items() if name in theta}
    latents = {name: value for name, value in joined.items() if name not in theta}
    return WeightPosterior(point_vae(vae), draws, markov=True, latents=latents)


def _chain(
    vae: VAE, x: Tensor, num_draws: int, num_warmup: int, depth: int, seed: int, progress: bool
) -> dict[str, Tensor]:
    torch.manual_seed(checks.integer("seed", seed, 0))
    start, potential, transforms, _ = initialize_model(
        vae.model, (x,), init_strategy=initialization.init_to_sample()
    )
    sampler = NUTS(potential_fn=_recorded(potential, start), max_tree_depth=depth)
    sampler.transforms = transforms
    mcmc = MCMC(
        sampler,
        num_samples=num_draws,
        warmup_steps=num_warmup,
        initial_params=start,
        disable_progbar=not progress,
    )
    mcmc.run()
    return {name: value.detach() for name, value in mcmc.get_samples().items()}


def _recorded(potential: Potential, start: dict[str, Tensor]) -> Potential:
    """The same function of the same values as a graph: the program's own overhead is most of a
    small model's step.
    """
    names = list(start)
    try:
        graph = record(lambda *values: potential(dict(zip(names, values))), list(start.values()))
    except NotRecordable:
        return potential
    return lambda values: graph(*(values[name] for name in names))
