"""Draws of both programs as plain arrays, filled block by block: never all draws of all pixels at
once.

Knows traces of the two programs; knows nothing of arviz.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.distributions import entry_log_prob
from ppl_vae.evaluation.blocks import as_float, decoder_rows
from ppl_vae.evaluation.pareto import pareto_k
from ppl_vae.evaluation.weights import paired_traces, sites
from ppl_vae.protocols import is_point
from ppl_vae.vae import VAE

__all__ = ["UNITS", "Arrays", "posterior_draws", "prior_draws", "weight_draws"]

Arrays = dict[str, np.ndarray]
UNITS = ("datum", "entry")  # what one log likelihood is of
MOST_PREDICTED = 2**26  # pixels of predictive draws kept: 256 MiB in single precision


def predictive_size(num_samples: int, rows: int, event_size: int) -> int:
    """How many of S draws of `rows` events each are kept of a predictive distribution."""
    return max(1, min(num_samples, MOST_PREDICTED // (rows * event_size)))


def posterior_draws(
    vae: VAE, x: Tensor, num_samples: int, progress: bool = False, unit: str = "datum"
) -> dict[str, Arrays]:
    """Draws z_s ~ q(z|x_n) of every site, (S, N, *event), and what the programs say of them, in
    nats.

    log_weight = lp - log q(z|x), lp = log p(x, z) and log_likelihood = log p(x|z), each (S, N),
    the last (S, N, *event_shape) where the unit is an "entry"; pareto_k (N,); x, the posterior
    predictive draws, (S', N, *event_shape) with S' <= S.
    """
    kept = predictive_size(num_samples, len(x), math.prod(x.shape[1:]))
    if unit == "entry" and kept < num_samples:
        checks.refuse(
            "unit",
            f"'entry', for {num_samples} draws of {tuple(x.shape)}",
            f"at most {kept} draws, which 256 MiB hold",
            "give fewer draws or fewer data",
        )
    groups: dict[str, Arrays] = {
        "posterior": {},
        "sample_stats": {},
        "log_likelihood": {},
        "posterior_predictive": {},
    }
    for columns, rows, block in _blocks(vae, x, num_samples, progress):
        for group, values in _block_values(block, max(0, kept - rows.start), unit).items():
            shape = (kept if group == "posterior_predictive" else num_samples, len(x))
            for name, value in values.items():
                target = groups[group].setdefault(
                    name, np.empty((*shape, *value.shape[2:]), np.float32)
                )
                target[rows, columns] = value.cpu().numpy()
    weights = groups["sample_stats"]["log_weight"]
    parts = np.array_split(weights, math.ceil(len(x) / 500), axis=1)
    groups["sample_stats"]["pareto_k"] = np.concatenate(
        [pareto_k(torch.as_tensor(w)).numpy() for w in parts]
    )
    return groups


def _blocks(
    vae: VAE, x: Tensor, num_samples: int, progress: bool
) -> Iterator[tuple[slice, slice, Any]]:
    """(columns of data, rows of draws, traces of both programs) for blocks of a bounded number of
    decoder rows.
    """
    most = decoder_rows(vae)
    size = min(len(x), max(1, most // num_samples))
    for first in tqdm(
        range(0, len(x), size),
        disable=not progress,
        unit="block",
        desc="posterior",
        dynamic_ncols=True,
    ):
        data = as_float(vae, x[first : first + size])
        for start in range(0, num_samples, most):
            draws = min(most, num_samples - start)
            yield (
                slice(first, first + len(data)),
                slice(start, start + draws),
                paired_traces(vae, data, draws),
            )


def _block_values(
    traces: tuple[poutine.Trace, poutine.Trace], kept: int, unit: str
) -> dict[str, dict[str, Tensor]]:
    guide, model = (sites(trace) for trace in traces)
    observed = model["x"]["fn"]
    batch = observed.batch_shape
    joint = sum(site["log_prob"] for site in model.values())
    point = any(
        is_point(site) for site in guide.values()
    )  # a point mass has no density to weigh by
    weight = joint * math.nan if point else joint - sum(site["log_prob"] for site in guide.values())
    values = {
        "posterior": {
            name: site["value"].expand(*batch, *site["fn"].event_shape)
            for name, site in guide.items()
            if site["value"].numel()
        },  # a guide's factor has no value
        "sample_stats": {"log_weight": weight, "lp": joint},
        "log_likelihood": {"x": _log_likelihood(model["x"], unit)},
    }
    return values | ({"posterior_predictive": {"x": observed.sample()[:kept]}} if kept else {})


def _log_likelihood(observed: Any, unit: str) -> Tensor:
    """log p(x|z), (S, M), or that of each entry, (S, M, *event_shape)."""
    if unit == "datum":
        return observed["log_prob"]
    shape = (*observed["log_prob"].shape, *observed["fn"].event_shape)
    return entry_log_prob(observed["fn"], observed["value"]).expand(shape)


def weight_draws(vae: VAE, num_samples: int) -> Arrays:
    """theta_s ~ q(theta), (S, *W) by site; empty where weights are points, or where they would not
    fit in 256 MiB.
    """
    weights = vae.guide.weights
    if (
        weights is None
        or num_samples * sum(mean.numel() for mean in weights.mean().values()) > MOST_PREDICTED
    ):
        return {}
    with pyro.plate("draws", num_samples, dim=-2):
        drawn = weights()
    return {
        name: value.reshape(num_samples, *value.shape[2:]).cpu().numpy()
        for name, value in drawn.items()
    }


def prior_draws(vae: VAE, num_samples: int) -> dict[str, Arrays]:
    """Draws of every site of the prior, (S, *event), and of x given the first S' of them, (S',
    *event_shape).
    """
    with pyro.plate("draws", num_samples):
        trace = poutine.trace(vae.model.draw_latents).get_trace()
    found: dict[str, Tensor] = {
        name: site["value"]  # type: ignore[misc]
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and name != "draws"
    }
    z = found["z"][: predictive_size(num_samples, 1, math.prod(vae.config.event_shape))]
    x = torch.cat([vae.decode(part).sample() for part in z.split(decoder_rows(vae))])
    return {
        "prior": {name: value.cpu().numpy() for name, value in found.items()},
        "prior_predictive": {"x": x.cpu().numpy()},
    }
