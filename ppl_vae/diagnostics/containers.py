"""Containers of arviz, of either of its versions: named arrays in, a tree of xarray's first.

arviz 1 takes an `xarray.DataTree` as it is, arviz 0.23 wants its own `InferenceData` made of the
same groups. The one file that imports arviz, which takes seconds: only who calls it pays. Knows
nothing of VAEs.
"""

import math
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import Tensor

if TYPE_CHECKING:
    from arviz import InferenceData
    from arviz.stats.stats_utils import ELPDData

__all__ = ["Container", "Dims", "container", "convergence", "elpd", "labelled", "tree"]

# what `to_inference_data` and its like return: with arviz 1 a DataTree, with arviz 0.23 the other
Container: TypeAlias = "xr.DataTree | InferenceData"
Dims: TypeAlias = tuple[str, ...]

SAMPLED = ("chain", "draw")
GOOD_K = 0.7


def arviz() -> ModuleType:
    """arviz, without the word on its next version that 0.23 has once a day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
        import arviz as az
    return az


def takes_trees() -> bool:
    """Whether the installed arviz is of version 1 or newer."""
    return int(arviz().__version__.partition(".")[0]) >= 1


def labelled(
    variables: Mapping[str, tuple[Dims, np.ndarray]],
    attributes: Mapping[str, Any],
    coords: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Arrays with named dimensions, each labelled 0, 1, ... where `coords` has no labels for it."""
    sizes = {
        dim: size for dims, array in variables.values() for dim, size in zip(dims, array.shape)
    }
    labels = {dim: np.arange(size) for dim, size in sizes.items()}
    given = {} if coords is None else coords
    labels |= {dim: np.asarray(given[dim]) for dim in sizes if dim in given}
    return xr.Dataset(dict(variables), labels, dict(attributes))


def tree(groups: Mapping[str, xr.Dataset], attributes: Mapping[str, Any]) -> xr.DataTree:
    """The groups as one tree, with attributes of its own."""
    found = xr.DataTree.from_dict(dict(groups))
    found.attrs = dict(attributes)
    return found


def container(groups: Mapping[str, xr.Dataset], attributes: Mapping[str, Any]) -> Container:
    """The groups as the installed arviz takes them."""
    if takes_trees():
        return tree(groups, attributes)
    return arviz().InferenceData(attrs=dict(attributes), **groups)


def elpd(values: Tensor, pareto_k: Tensor, num_samples: int) -> "ELPDData":
    """Log predictive densities as arviz's result of `loo`, whose effective number of parameters is
    0: nothing was left out.

    Args:
        values: log p(x_n), (N,) nats.
        pareto_k: of each value's importance weights, (N,); NaN where there are no weights, and the
            result then holds no k.
        num_samples: draws a datum.
    """
    pointwise = xr.DataArray(values.numpy(), dims=("datum",))
    weighted = not bool(pareto_k.isnan().all())
    k = xr.DataArray(pareto_k.numpy(), dims=("datum",)) if weighted else None
    size, total = len(values), values.sum().item()
    error = math.sqrt(size * values.var(correction=0).item())
    shared = {
        "n_samples": num_samples,
        "n_data_points": size,
        "warning": bool((pareto_k > GOOD_K).any()),
        "scale": "log",
        "good_k": GOOD_K,
    }
    if takes_trees():
        from arviz_stats.utils import ELPDDataLOO

        return ELPDDataLOO(elpd=total, se=error, p=0.0, elpd_i=pointwise, pareto_k=k, **shared)
    from arviz.stats.stats_utils import ELPDData

    # printed by place: the first three are where arviz has them
    fields = {"elpd_loo": total, "se": error, "p_loo": 0.0, **shared}
    fields["loo_i"] = pointwise.rename("loo_i")
    if k is not None:
        fields["pareto_k"] = k
    return ELPDData(data=list(fields.values()), index=list(fields))


def convergence(draws: np.ndarray) -> tuple[Tensor, Tensor]:
    """(rank-normalised R-hat, bulk effective sample size), each (N, U), of draws (C, S, N, U)."""
    dims = (*SAMPLED, "datum", "latent")
    found = convergence_of(labelled({"u": (dims, draws.astype(np.float64))}, {}))
    return torch.as_tensor(found[0]["u"].values), torch.as_tensor(found[1]["u"].values)


def convergence_of(draws: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """(rank-normalised R-hat, bulk effective sample size) of every variable."""
    az = arviz()
    # chains that never moved have an R-hat that is infinite
    with np.errstate(divide="ignore", invalid="ignore"):
        return az.rhat(draws), az.ess(draws)
