"""Draws of the two programs in arviz's own containers, named and labelled as arviz names them.

The one file that knows arviz, which takes seconds to import: only who calls it pays.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_vae import __version__, checks
from ppl_vae.checkpoint import config_to_json
from ppl_vae.diagnostics.draws import Arrays, posterior_draws, prior_draws
from ppl_vae.evaluation.blocks import as_float, checked, evaluation
from ppl_vae.vae import VAE

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = ["to_inference_data"]

SAMPLED = ("chain", "draw")


@torch.no_grad()
def to_inference_data(vae: VAE, x: Tensor, num_samples: int = 1000, seed: int = 0, labels: Any = None,
                      progress: bool = False) -> "InferenceData":  # fmt: skip
    """Draws from q(z|x), the prior and both predictive distributions as `arviz.InferenceData`.

    posterior: latent sites, (chain, draw, datum, latent). sample_stats: log_weight = log p(x, z) - log q(z|x) and
    lp = log p(x, z), (chain, draw, datum), and pareto_k, (datum), in nats. log_likelihood: log p(x|z), (chain, draw,
    datum). posterior_predictive and prior_predictive: x, with as many draws as 256 MiB hold. prior, observed_data,
    constant_data (index of the datum, and `labels` if given).

    The draws are independent, in one chain: R-hat and effective sample size say nothing of q, Pareto k does.
    `az.loo` takes them for draws of the exact posterior: its number is only as good as q.

    Args:
        x: (N, *event_shape). num_samples: S draws a datum. seed: of the draws; the global generator is left as it was.
    """
    checks.integer("num_samples", num_samples)
    with evaluation(vae, seed):
        groups = posterior_draws(vae, checked(vae, x), num_samples, progress) | prior_draws(vae, num_samples)
    constant = {"index": np.arange(len(x))} | ({} if labels is None else {"labels": np.asarray(labels)})
    groups |= {"observed_data": {"x": as_float(vae, x).cpu().numpy()}, "constant_data": constant}
    attributes = {
        "inference_library": "ppl_vae",
        "inference_library_version": __version__,
        "config": json.dumps(config_to_json(vae.config)),
        "seed": seed,
        "num_samples": num_samples,
    }
    return _container({name: _dataset(name, values, attributes) for name, values in groups.items()}, attributes)


def _container(groups: dict[str, Any], attributes: dict[str, Any]) -> "InferenceData":
    import arviz as az

    return az.InferenceData(attrs=attributes, **groups)


def _dataset(group: str, values: Arrays, attributes: dict[str, Any]) -> xr.Dataset:
    """Arrays with their dimensions named: a chain axis is added to draws, event axes follow."""
    variables = {}
    for name, value in values.items():
        sampled = group not in ("observed_data", "constant_data") and name != "pareto_k"
        leading = (SAMPLED if sampled else ()) + (() if group.startswith("prior") else ("datum",))
        array = value[None] if sampled else value
        variables[name] = ((*leading, *_event_dims(name, array.ndim - len(leading))), array)
    sizes = {dim: size for dims, array in variables.values() for dim, size in zip(dims, array.shape)}
    return xr.Dataset(variables, {dim: np.arange(size) for dim, size in sizes.items()}, attributes)


def _event_dims(name: str, count: int) -> tuple[str, ...]:
    return ("latent",) if name == "z" else tuple(f"{name}_dim_{i}" for i in range(count))
