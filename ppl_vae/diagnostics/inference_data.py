"""Draws of the two programs in arviz's own containers, named and labelled as arviz names them.

The one file that knows arviz, which takes seconds to import: only who calls it pays.
"""

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_vae import __version__, checks
from ppl_vae.checkpoint import config_to_json
from ppl_vae.diagnostics.draws import Arrays, posterior_draws, prior_draws, weight_draws
from ppl_vae.evaluation.blocks import as_float, checked, evaluation
from ppl_vae.evaluation.likelihood import LogLikelihood
from ppl_vae.vae import VAE

if TYPE_CHECKING:
    from arviz import InferenceData
    from arviz.stats.stats_utils import ELPDData

__all__ = ["convergence", "to_datatree", "to_elpd", "to_inference_data"]

SAMPLED = ("chain", "draw")
ALIKE = ("prior", "prior_predictive", "weights")  # one value for all data


@torch.no_grad()
def to_inference_data(
    vae: VAE,
    x: Tensor,
    num_samples: int = 1000,
    seed: int = 0,
    labels: Any = None,
    progress: bool = False,
) -> "InferenceData":
    """Draws from q(z|x), the prior and both predictive distributions as `arviz.InferenceData`.

    posterior: latent sites, (chain, draw, datum, latent), and sites of theta where weights are
    Bayesian, drawn apart from z and left out beyond 256 MiB. sample_stats: log_weight = log p(x, z)
    - log q(z|x) and lp = log p(x, z), (chain, draw, datum), and pareto_k, (datum), in nats.
    log_likelihood: log p(x|z), (chain, draw, datum). posterior_predictive and prior_predictive: x,
    with as many draws as 256 MiB hold. prior, observed_data, constant_data (index of the datum, and
    `labels` if given).

    The draws are independent, in one chain: R-hat and effective sample size say nothing of q,
    Pareto k does. `az.loo` takes them for draws of a posterior that all data share; with a latent
    for each datum it is the harmonic mean of p(x|z), whatever q is, and says nothing of x left out:
    to compare models give `to_elpd` to `az.compare`.

    Args:
        x: (N, *event_shape). num_samples: S draws a datum. seed: of the draws; the global generator
            is left as it was.
    """
    checks.integer("num_samples", num_samples)
    with evaluation(vae, seed):
        groups = posterior_draws(vae, checked(vae, x), num_samples, progress) | prior_draws(
            vae, num_samples
        )
        theta = weight_draws(vae, num_samples)
    constant = {"index": np.arange(len(x))} | (
        {} if labels is None else {"labels": _labels(labels, len(x))}
    )
    groups |= {"observed_data": {"x": as_float(vae, x).cpu().numpy()}, "constant_data": constant}
    attributes = {
        "inference_library": "ppl_vae",
        "inference_library_version": __version__,
        "config": json.dumps(config_to_json(vae.config)),
        "seed": seed,
        "num_samples": num_samples,
    }
    sets = {name: _dataset(name, values, attributes) for name, values in groups.items()}
    sets["posterior"] = sets["posterior"].merge(
        _dataset("weights", theta, attributes), combine_attrs="override"
    )
    return _container(sets, attributes)


def _labels(labels: Any, num_data: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.shape[:1] != (num_data,):
        checks.refuse("labels", f"shape {array.shape}", f"one for each of the {num_data} data")
    return array


def to_datatree(
    vae: VAE,
    x: Tensor,
    num_samples: int = 1000,
    seed: int = 0,
    labels: Any = None,
    progress: bool = False,
) -> xr.DataTree:
    """`to_inference_data` as an `xarray.DataTree`, which arviz 1 takes."""
    return to_inference_data(vae, x, num_samples, seed, labels, progress).to_datatree()


def to_elpd(likelihood: LogLikelihood) -> "ELPDData":
    """Held-out log p(x_n) as arviz's expected log predictive density, for `az.compare` of two fits
    on the same x.

    The values are log predictive densities already, z integrated out and x not trained on, so
    nothing is left out again. Pareto k is that of their importance weights.
    """
    from arviz.stats.stats_utils import ELPDData

    values, k = (
        xr.DataArray(t.numpy(), dims=("datum",)) for t in (likelihood.values, likelihood.pareto_k)
    )
    size, good = len(likelihood.values), 0.7
    error = math.sqrt(size * likelihood.values.var(correction=0).item())
    fields = {
        "elpd_loo": values.sum().item(),
        "se": error,
        "p_loo": 0.0,
        "n_samples": likelihood.num_samples,
        "n_data_points": size,
        "warning": bool((k > good).any()),
        "loo_i": values.rename("loo_i"),
        "pareto_k": k,
        "scale": "log",
        "good_k": good,
    }
    return ELPDData(data=list(fields.values()), index=list(fields))


def convergence(draws: np.ndarray) -> tuple[Tensor, Tensor]:
    """(rank-normalised R-hat, bulk effective sample size), each (N, U), of draws (C, S, N, U)."""
    import arviz as az

    data = xr.Dataset({"u": (("chain", "draw", "datum", "latent"), draws.astype(np.float64))})
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # chains that never moved: an R-hat that is infinite
        found = (az.rhat(data), az.ess(data))
    return torch.as_tensor(found[0]["u"].values), torch.as_tensor(found[1]["u"].values)


def _container(groups: dict[str, Any], attributes: dict[str, Any]) -> "InferenceData":
    import arviz as az

    return az.InferenceData(attrs=attributes, **groups)


def _dataset(group: str, values: Arrays, attributes: dict[str, Any]) -> xr.Dataset:
    """Arrays with their dimensions named: a chain axis is added to draws, event axes follow."""
    variables = {}
    for name, value in values.items():
        sampled = group not in ("observed_data", "constant_data") and name != "pareto_k"
        leading = (SAMPLED if sampled else ()) + (("datum",) if group not in ALIKE else ())
        array = value[None] if sampled else value
        variables[name] = ((*leading, *_event_dims(name, array.ndim - len(leading))), array)
    sizes = {
        dim: size for dims, array in variables.values() for dim, size in zip(dims, array.shape)
    }
    return xr.Dataset(variables, {dim: np.arange(size) for dim, size in sizes.items()}, attributes)


def _event_dims(name: str, count: int) -> tuple[str, ...]:
    return ("latent",) if name == "z" else tuple(f"{name}_dim_{i}" for i in range(count))
