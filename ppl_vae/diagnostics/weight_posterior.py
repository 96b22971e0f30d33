"""Sampled weights in arviz's containers, with convergence where there are chains and only there.

Knows a `WeightPosterior` and arviz's containers; knows nothing of how the draws were made.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ppl_vae import __version__, checks
from ppl_vae.sampling import WeightPosterior

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = ["weight_convergence", "weights_to_inference_data"]


def weights_to_inference_data(posterior: WeightPosterior) -> "InferenceData":
    """The sites of theta, and of latents where they were sampled too, as arviz's group `posterior`.

    Each site has dimensions (chain, draw, *its own). The attribute `independent_draws` is 1 where
    draws do not depend on each other (q(theta), SWAG, ensembles): R-hat and effective sample size
    then say nothing.
    """
    import arviz as az

    attributes = {
        "inference_library": "ppl_vae",
        "inference_library_version": __version__,
        "independent_draws": int(not posterior.markov),
    }
    variables: dict[str, Any] = {}
    for name, values in {**posterior.draws, **posterior.latents}.items():
        own = tuple(f"{name}_dim_{i}" for i in range(values.dim() - 2))
        variables[name] = (("chain", "draw", *own), values.detach().cpu().numpy())
    sizes = {
        dim: size for dims, array in variables.values() for dim, size in zip(dims, array.shape)
    }
    dataset = xr.Dataset(
        variables, {dim: np.arange(size) for dim, size in sizes.items()}, attributes
    )
    return az.InferenceData(attrs=attributes, posterior=dataset)


def weight_convergence(posterior: WeightPosterior) -> tuple[xr.Dataset, xr.Dataset]:
    """(R-hat, bulk effective sample size) of every weight. `InputError` where the draws are no
    chains, or one alone.

    Weights of hidden units can be permuted and mirrored without changing the model: R-hat above 1
    then says that the chains sit in different copies, and what they predict is what to compare.
    """
    import arviz as az

    if not posterior.markov:
        checks.refuse(
            "weight_convergence",
            "independent draws",
            "chains",
            "R-hat says nothing of independent draws",
        )
    if posterior.shape[0] < 2:
        checks.refuse("weight_convergence", "one chain", "at least two", "sample with num_chains=2")
    data = weights_to_inference_data(posterior)
    return az.rhat(data), az.ess(data)
