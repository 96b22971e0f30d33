"""Draws of the two programs in arviz's own containers, named and labelled as arviz names them.

Knows what is drawn and what each array's axes are; which container it becomes is `containers.py`'s
affair.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from ppl_vae import __version__, checks
from ppl_vae.checkpoint import config_to_json
from ppl_vae.diagnostics.containers import SAMPLED, Container, container, elpd, labelled, tree
from ppl_vae.diagnostics.draws import (
    UNITS,
    Arrays,
    posterior_draws,
    prior_draws,
    weight_draws,
)
from ppl_vae.evaluation.blocks import as_float, checked, evaluation
from ppl_vae.evaluation.likelihood import LogLikelihood
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE

if TYPE_CHECKING:
    from arviz.stats.stats_utils import ELPDData

__all__ = ["to_datatree", "to_elpd", "to_inference_data"]

ALIKE = ("prior", "prior_predictive", "weights")  # one value for all data

# what `az.loo` of the log likelihoods means, said where it reads them
LOO = {
    "datum": (
        "means nothing here: each datum has a latent of its own, and the draws are from q(z|x), "
        "which saw the very datum that is left out; compare models by to_elpd"
    ),
    "entry": "leaves out one entry of a datum, given its others, as far as q(z|x) is p(z|x)",
}


@torch.no_grad()
def to_inference_data(
    vae: VAE,
    x: Data,
    num_samples: int = 1000,
    seed: int = 0,
    labels: Any = None,
    progress: bool = False,
    unit: str = "datum",
) -> Container:
    """Draws from q(z|x), the prior and both predictive distributions, as the installed arviz takes
    them: `arviz.InferenceData` for 0.23, an `xarray.DataTree` for 1.

    posterior: latent sites, (chain, draw, datum, latent), and sites of theta where weights are
    Bayesian, drawn apart from z and left out beyond 256 MiB. sample_stats: log_weight = log p(x, z)
    - log q(z|x) and lp = log p(x, z), (chain, draw, datum), and pareto_k, (datum), in nats.
    log_likelihood: log p(x|z), (chain, draw, datum). posterior_predictive and prior_predictive: x,
    with as many draws as 256 MiB hold, integers where every value of x is a whole number, which
    `az.plot_ppc` draws as such. prior, observed_data, constant_data (index of the datum, and
    `labels` if given).

    The draws are independent, in one chain: R-hat and effective sample size say nothing of q,
    Pareto k does. `az.loo` takes them for draws of a posterior that all data share; with a latent
    for each datum it is the harmonic mean of p(x|z), whatever q is, and says nothing of x left out:
    to compare models give `to_elpd` to `az.compare`. The group's attribute `loo` says so.

    Args:
        vae: the pair of programs.
        x: (N, *event_shape).
        num_samples: S, draws a datum.
        seed: of the draws; the global generator is left as it was.
        labels: (N,), one a datum.
        progress: show a progress bar.
        unit: what one log likelihood is of: a "datum", or an "entry" of x, such as a pixel:
            log_likelihood is then (chain, draw, datum, *event_shape), and `az.loo_pit` and `az.loo`
            leave out one entry at a time, which q(z|x) has other entries to make up for.

    Raises:
        InputError: for data that the likelihood is not defined on, or draws of entries that 256 MiB
            do not hold.
    """
    return container(*_groups(vae, x, num_samples, seed, labels, progress, unit))


@torch.no_grad()
def to_datatree(
    vae: VAE,
    x: Data,
    num_samples: int = 1000,
    seed: int = 0,
    labels: Any = None,
    progress: bool = False,
    unit: str = "datum",
) -> xr.DataTree:
    """`to_inference_data` as an `xarray.DataTree`, whichever arviz is installed, and without it."""
    return tree(*_groups(vae, x, num_samples, seed, labels, progress, unit))


def _groups(
    vae: VAE, x: Data, num_samples: int, seed: int, labels: Any, progress: bool, unit: str
) -> tuple[dict[str, xr.Dataset], dict[str, Any]]:
    """(groups by name, attributes of the whole)."""
    checks.integer("num_samples", num_samples)
    checks.choice("unit", unit, UNITS)
    tensor = checked(vae, x)
    with evaluation(vae, seed):
        drawn = posterior_draws(vae, tensor, num_samples, progress, unit)
        groups = drawn | prior_draws(vae, num_samples)
        theta = weight_draws(vae, num_samples)
    constant = {"index": np.arange(len(tensor))}
    if labels is not None:
        constant["labels"] = _labels(labels, len(tensor))
    groups |= {
        "observed_data": {"x": as_float(vae, tensor).cpu().numpy()},
        "constant_data": constant,
    }
    if vae.whole_numbers:
        for name in ("observed_data", "posterior_predictive", "prior_predictive"):
            if not np.isnan(groups[name]["x"]).any():  # which no whole number stands for
                groups[name]["x"] = groups[name]["x"].astype(np.int64)
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
    likelihood = sets["log_likelihood"]
    for holder in (likelihood, likelihood["x"]):
        holder.attrs["loo"] = LOO[unit]
    return sets, attributes


def _labels(labels: Any, num_data: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.shape[:1] != (num_data,):
        checks.refuse("labels", f"shape {array.shape}", f"one for each of the {num_data} data")
    return array


def to_elpd(likelihood: LogLikelihood) -> "ELPDData":
    """Held-out log p(x_n) as arviz's expected log predictive density, for `az.compare` of two fits
    on the same x.

    The values are log predictive densities already, z integrated out and x not trained on, so
    nothing is left out again. Pareto k is that of their importance weights; quadrature has no
    weights, so its result has no k.

    Args:
        likelihood: what `log_likelihood` returned.

    Returns:
        The type that the installed arviz has for it: `ELPDData` of 0.23, `ELPDDataLOO` of 1.
    """
    return elpd(likelihood.values, likelihood.pareto_k, likelihood.num_samples)


def _dataset(group: str, values: Arrays, attributes: dict[str, Any]) -> xr.Dataset:
    """Arrays with their dimensions named: a chain axis is added to draws, event axes follow."""
    variables = {}
    for name, value in values.items():
        sampled = group not in ("observed_data", "constant_data") and name != "pareto_k"
        leading = (SAMPLED if sampled else ()) + (("datum",) if group not in ALIKE else ())
        array = value[None] if sampled else value
        variables[name] = ((*leading, *_event_dims(name, array.ndim - len(leading))), array)
    return labelled(variables, attributes)


def _event_dims(name: str, count: int) -> tuple[str, ...]:
    return ("latent",) if name == "z" else tuple(f"{name}_dim_{i}" for i in range(count))
