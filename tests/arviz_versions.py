"""What is asked differently of arviz 0.23 and of arviz 1, so that a test reads the same under both.

Knows arviz; must not know this package.
"""

import warnings
from typing import Any

import numpy as np
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az

NEW = int(az.__version__.partition(".")[0]) >= 1


def groups(data: Any) -> set[str]:
    """The names of a container's groups."""
    return set(data.children) if NEW else set(data.groups())


def dataset(data: Any, group: str) -> Any:
    """A group as a data set."""
    return data[group].to_dataset() if NEW else data[group]


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """arviz's k of each column of weights (S, N), (N,)."""
    rows = np.array(log_weights, dtype=float).T.copy()
    if not NEW:
        return az.psislw(rows)[1]
    from arviz_stats.base import array_stats

    # it is given log likelihoods, whose weights are their reciprocals
    return array_stats.psislw(-rows, axis=-1)[1]


def elpd(found: Any) -> float:
    """The expected log predictive density that `az.loo` found."""
    return found.elpd if NEW else found.elpd_loo


def predictive_figure(data: Any, group: str = "posterior") -> Any:
    """Draws of x against the data."""
    if NEW:
        return az.plot_ppc_dist(data, group=f"{group}_predictive", num_samples=20)
    return az.plot_ppc(data, group=group, num_pp_samples=20)


def loo_pit(data: Any) -> torch.Tensor:
    """The probability integral transform of each entry of x, that entry left out."""
    found = az.loo_pit(data)["x"].values if NEW else az.loo_pit(data, y="x")
    return torch.as_tensor(np.asarray(found))
