"""Sampled weights in arviz's containers, with convergence where there are chains and only there.

Knows a `WeightPosterior` and arviz's containers; knows nothing of how the draws were made.
"""

import xarray as xr

from ppl_vae import __version__, checks
from ppl_vae.diagnostics.containers import Container, container, convergence_of, labelled
from ppl_vae.sampling import WeightPosterior

__all__ = ["weight_convergence", "weights_to_inference_data"]


def weights_to_inference_data(posterior: WeightPosterior) -> Container:
    """The sites of theta, and of latents where they were sampled too, as arviz's group `posterior`.

    Each site has dimensions (chain, draw, *its own). The attribute `independent_draws` is 1 where
    draws do not depend on each other (q(theta), SWAG, ensembles): R-hat and effective sample size
    then say nothing.
    """
    dataset = _dataset(posterior)
    return container({"posterior": dataset}, dataset.attrs)


def weight_convergence(posterior: WeightPosterior) -> tuple[xr.Dataset, xr.Dataset]:
    """(R-hat, bulk effective sample size) of every weight. `InputError` where the draws are no
    chains, or one alone.

    Weights of hidden units can be permuted and mirrored without changing the model: R-hat above 1
    then says that the chains sit in different copies, and what they predict is what to compare.
    """
    if not posterior.markov:
        checks.refuse(
            "weight_convergence",
            "independent draws",
            "chains",
            "R-hat says nothing of independent draws",
        )
    if posterior.shape[0] < 2:
        checks.refuse("weight_convergence", "one chain", "at least two", "sample with num_chains=2")
    return convergence_of(_dataset(posterior))


def _dataset(posterior: WeightPosterior) -> xr.Dataset:
    attributes = {
        "inference_library": "ppl_vae",
        "inference_library_version": __version__,
        "independent_draws": int(not posterior.markov),
    }
    variables = {}
    for name, values in {**posterior.draws, **posterior.latents}.items():
        own = tuple(f"{name}_dim_{i}" for i in range(values.dim() - 2))
        variables[name] = (("chain", "draw", *own), values.detach().cpu().numpy())
    return labelled(variables, attributes)
