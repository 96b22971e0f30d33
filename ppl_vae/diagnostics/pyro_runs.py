"""Draws of any Pyro program in arviz's containers: those of an MCMC run, or those of a guide.

Knows Pyro's runs, traces and plates; knows nothing of VAEs. Programs run once a draw, so that any
program will do: no site has to be vectorised.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import MCMC
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae import __version__, checks
from ppl_vae.diagnostics.containers import SAMPLED, Container, Dims, container, labelled
from ppl_vae.evaluation.pareto import pareto_k
from ppl_vae.guides.sites import CONTAINERS, base_distribution, check_names
from ppl_vae.handlers.modes import evaluating

__all__ = ["from_pyro"]

Program = Callable[..., Any]
Draws = dict[str, Tensor]
Variables = dict[str, tuple[Dims, np.ndarray]]


@torch.no_grad()
def from_pyro(
    posterior: MCMC | Program,
    model: Program,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 1000,
    num_prior: int = 0,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Container:
    """Draws of a Pyro posterior, and what the model says of them, as the installed arviz takes
    them.

    posterior: latent and deterministic sites. log_likelihood: that of each observed site, one value
    for each cell of its plates, in nats, without the scale of a handler. posterior_predictive:
    observed sites drawn anew, jointly. sample_stats: lp, the log density of everything at once;
    diverging, of a run of NUTS or HMC; log_weight = lp - log q, of a guide that has a density. Its
    Pareto k, of all latents together, is the attribute `pareto_k` of that group; the chains' rates
    of acceptance are its `acceptance_rate`. observed_data, and prior with prior_predictive if asked
    for. A dimension has the name of its plate.

    Draws of a guide are independent, in one chain: R-hat and effective sample size say nothing of
    it, Pareto k does.

    Args:
        posterior: an `MCMC` that has run, or a guide: a program of the model's arguments, such as
            an autoguide after `SVI`.
        model: the program, its data observed.
        model_args: its arguments, and the guide's.
        model_kwargs: its keyword arguments, and the guide's.
        num_samples: draws of a guide; a run has its own number.
        num_prior: draws of the prior.
        dims: names of a site's own dimensions, where they are not to be those of its plates.
        coords: labels along a dimension, by its name.
        constant_data: arrays to keep beside the draws, by name.
        seed: of the draws; the global generator is left as it was.

    Returns:
        `arviz.InferenceData` under arviz 0.23, an `xarray.DataTree` under arviz 1.

    Raises:
        InputError: for a run without draws, a latent site that has none, a plate that draws a
            subsample, a program whose sites differ between draws, and names that cannot be stored.
    """
    checks.integer("num_samples", num_samples)
    checks.integer("num_prior", num_prior, 0)
    arguments, keywords = tuple(model_args), dict(model_kwargs or {})
    with torch.random.fork_rng(), evaluating(model), evaluating(posterior):
        torch.manual_seed(checks.seed(seed))
        if isinstance(posterior, MCMC):
            draws, stats, about = _of_run(posterior)
        else:
            draws, stats, about = _of_guide(posterior, num_samples, arguments, keywords)
        said = _Said.of(model, draws, arguments, keywords)
        prior = _prior(model, num_prior, arguments, keywords)
    check_names("model", said.dims, CONTAINERS)
    checks.options("dims", dims or {}, [*said.dims, *(constant_data or {})])
    stats["lp"] = said.log_joint
    if "log_q" in stats:
        stats["log_weight"] = said.log_joint - stats.pop("log_q")
        about["pareto_k"] = float(pareto_k(stats["log_weight"].reshape(-1, 1)))
    names = _Names(said.dims, dims or {})
    groups: dict[str, Variables] = {
        "posterior": names.drawn({**draws, **said.functions}),
        "sample_stats": {name: (SAMPLED, value.cpu().numpy()) for name, value in stats.items()},
        "log_likelihood": names.drawn(said.log_likelihood),
        "posterior_predictive": names.drawn(said.predicted),
        "observed_data": names.given(said.observed),
        "constant_data": names.given(constant_data or {}),
    }
    groups |= {group: names.drawn(values) for group, values in prior.items()}
    attributes = {
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
        "creation_library": "ppl_vae",
        "creation_library_version": __version__,
    }
    _check_coords(coords or {}, groups.values())
    sets = {name: labelled(each, attributes, coords) for name, each in groups.items() if each}
    sets["sample_stats"].attrs.update(about)
    return container(sets, attributes)


def _of_run(run: MCMC) -> tuple[Draws, Draws, dict[str, Any]]:
    """(draws (C, S, *), statistics (C, S), statistics of chains) of an MCMC run."""
    if run._samples is None:
        checks.refuse("posterior", "an MCMC without draws", "one that has run", "call its run()")
    draws = run.get_samples(group_by_chain=True)
    chains, size = next(iter(draws.values())).shape[:2]
    if size < 4:
        checks.refuse("draws of a chain", size, "at least 4, from which statistics can be made")
    said = run.diagnostics()
    stats, about = {}, {}
    if "divergences" in said:
        stats["diverging"] = torch.zeros(chains, size, dtype=torch.bool)
        for chain, places in enumerate(said["divergences"].values()):
            stats["diverging"][chain, places] = True
    if "acceptance rate" in said:
        about["acceptance_rate"] = [float(rate) for rate in said["acceptance rate"].values()]
    return draws, stats, about


def _of_guide(
    guide: Program, num_samples: int, arguments: Any, keywords: Any
) -> tuple[Draws, Draws, dict[str, Any]]:
    """(draws (1, S, *), log q (1, S) where the guide has a density, nothing) of a guide."""
    values, log_q = [], []
    for _ in range(num_samples):
        trace = poutine.trace(guide).get_trace(*arguments, **keywords)
        sites = _sample_sites(trace)
        shown = {n: s for n, s in sites.items() if not s["infer"].get("is_auxiliary")}
        values.append({name: site["value"] for name, site in shown.items()})
        log_q.append(torch.as_tensor(trace.log_prob_sum()).reshape(()))
    draws = _joined(values, 1)
    stats = {"log_q": torch.stack(log_q)[None]} if _has_density(sites) else {}
    return draws, stats, {}


def _has_density(sites: Mapping[str, Any]) -> bool:
    """Whether anything in a guide is random: an autoguide's Delta is a function of what an
    auxiliary site drew, a point estimate's of nothing.
    """
    return any(not isinstance(base_distribution(s["fn"]), dist.Delta) for s in sites.values())


@dataclass(frozen=True)
class _Said:
    """What a model says of draws (C, S, *): all by site, and dims those of plates and events."""

    log_joint: Tensor
    log_likelihood: Draws
    predicted: Draws
    functions: Draws
    observed: Draws
    dims: dict[str, tuple[Dims, Dims]]

    @staticmethod
    def of(model: Program, draws: Draws, arguments: Any, keywords: Any) -> "_Said":
        chains, size = next(iter(draws.values())).shape[:2]
        joint, likelihoods, functions, predicted = [], [], [], []
        for i in range(chains * size):
            values = {name: value[i // size, i % size] for name, value in draws.items()}
            at = poutine.condition(model, data=values)
            trace = poutine.trace(at).get_trace(*arguments, **keywords)
            trace.compute_log_prob()
            sites, seen = _sample_sites(trace), _observed(trace, draws)
            _check_all_drawn(sites, draws)
            joint.append(torch.as_tensor(trace.log_prob_sum()).reshape(()))
            likelihoods.append({name: _unscaled(site) for name, site in seen.items()})
            functions.append({n: s["value"] for n, s in sites.items() if _is_function(s)})
            anew = poutine.condition(poutine.uncondition(model), data=values)
            made: Any = poutine.trace(anew).get_trace(*arguments, **keywords).nodes
            predicted.append({name: made[name]["value"] for name in seen})
        return _Said(
            torch.stack(joint).reshape(chains, size),
            _joined(likelihoods, chains),
            _joined(predicted, chains),
            _joined(functions, chains),
            {name: site["value"] for name, site in seen.items()},
            {name: _dims(name, site) for name, site in sites.items()},
        )


def _prior(model: Program, size: int, arguments: Any, keywords: Any) -> dict[str, Draws]:
    """Draws of the prior and of data given them, (1, S, *)."""
    latents, data = [], []
    for _ in range(size):
        seen = _observed(poutine.trace(model).get_trace(*arguments, **keywords), {})
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*arguments, **keywords)
        sites = _sample_sites(trace)
        latents.append(
            {n: s["value"] for n, s in sites.items() if n not in seen and not _is_factor(s)}
        )
        data.append({name: sites[name]["value"] for name in seen})
    return {"prior": _joined(latents, 1), "prior_predictive": _joined(data, 1)} if size else {}


def _sample_sites(trace: poutine.Trace) -> dict[str, Any]:
    """Sample sites but for those of plates; `InputError` for a plate that draws a subsample."""
    sites: dict[str, Any] = {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }
    for site in sites.values():
        for frame in site["cond_indep_stack"]:
            if frame.full_size not in (None, frame.size):
                checks.refuse(
                    f"plate '{frame.name}'",
                    f"a subsample of {frame.size} of {frame.full_size}",
                    "all data, which every draw is about",
                    "call the program without subsample_size",
                )
    return sites


def _is_factor(site: Any) -> bool:
    return isinstance(base_distribution(site["fn"]), dist.Unit)


def _is_function(site: Any) -> bool:
    return bool(site["infer"].get("_deterministic"))


def _observed(trace: poutine.Trace, draws: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sites of data: observed, and neither drawn nor functions nor factors."""
    return {
        name: site
        for name, site in _sample_sites(trace).items()
        if site["is_observed"]
        and name not in draws
        and not _is_function(site)
        and not _is_factor(site)
    }


def _check_all_drawn(sites: Mapping[str, Any], draws: Mapping[str, Tensor]) -> None:
    for name, site in sites.items():
        if not site["is_observed"] and name not in draws:
            checks.refuse(
                "posterior",
                f"no draws of the model's site '{name}'",
                "draws of every latent site",
                "an index that was summed out is drawn by pyro.infer.infer_discrete",
            )


def _unscaled(site: Any) -> Tensor:
    """Log density of each cell of a site, as its mask leaves it and without a scale."""
    return scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])


def _joined(rows: Sequence[Draws], chains: int) -> Draws:
    """Values of C S runs of a program as (C, S, *)."""
    for row in rows:
        if row.keys() != rows[0].keys():
            checks.refuse(
                "model",
                f"sites that differ between draws: {', '.join(row.keys() ^ rows[0].keys())}",
                "the same sites in every run",
            )
    return {
        name: torch.stack([torch.as_tensor(row[name]) for row in rows]).unflatten(0, (chains, -1))
        for name in (rows[0] if rows else ())
    }


def _dims(name: str, site: Any) -> tuple[Dims, Dims]:
    """Names of a site's dimensions, (those of plates, those of the event): a plate's own name."""
    plates = {frame.dim: frame.name for frame in site["cond_indep_stack"]}
    batch, event = len(site["fn"].batch_shape), site["fn"].event_dim
    return (
        tuple(plates.get(i - batch, f"{name}_dim_{i}") for i in range(batch)),
        tuple(f"{name}_dim_{batch + i}" for i in range(event)),
    )


@dataclass(frozen=True)
class _Names:
    """Dimensions by site: `own` are what the user calls them."""

    sites: Mapping[str, tuple[Dims, Dims]]
    own: Mapping[str, Sequence[str]]

    def drawn(self, values: Mapping[str, Tensor]) -> Variables:
        """Values (C, S, *) with their dimensions."""
        return {
            name: ((*SAMPLED, *self._dims(name, value.dim() - 2)), value.cpu().numpy())
            for name, value in values.items()
        }

    def given(self, values: Mapping[str, Any]) -> Variables:
        """Values (*) with their dimensions."""
        arrays = {name: np.asarray(value) for name, value in values.items()}
        return {name: (self._dims(name, array.ndim), array) for name, array in arrays.items()}

    def _dims(self, name: str, count: int) -> Dims:
        """Of the first `count` dimensions: a log likelihood has those of plates alone."""
        names = tuple(f"{name}_dim_{i}" for i in range(count))
        batch, event = self.sites.get(name, ((), ()))
        found = (*batch, *event)
        # a site that is drawn has no plates to be named by where its draws were made without them
        if count in (len(batch), len(found)):
            names = found[:count]
        if name in self.own:
            given = tuple(self.own[name])
            if len(given) < count:
                checks.refuse(
                    f"dims of '{name}'", str(given), f"names of {count} dimensions", "name them all"
                )
            names = given[:count]
        for dim in names:
            if dim in self.sites or dim in CONTAINERS:
                checks.refuse(
                    f"dimensions of '{name}'",
                    f"'{dim}', which a site or the container has",
                    "names of their own",
                    f"give dims={{'{name}': [...]}}, or rename the plate",
                )
        return names


def _check_coords(coords: Mapping[str, Any], groups: Iterable[Variables]) -> None:
    """`InputError` for labels of no dimension, or of another number than it has."""
    sizes = {
        dim: size
        for variables in groups
        for dims, array in variables.values()
        for dim, size in zip(dims, array.shape)
    }
    checks.options("coords", coords, sizes)
    for dim, labels in coords.items():
        if len(labels) != sizes[dim]:
            checks.refuse(f"coords of '{dim}'", f"{len(labels)} labels", f"{sizes[dim]}")
