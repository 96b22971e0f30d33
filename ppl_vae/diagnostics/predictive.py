"""Posterior predictive checks: is a stated statistic of the data like that of data replicated from
their latents?

Knows draws of the two programs and functions of a data set; knows nothing of arviz.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.evaluation.blocks import as_float, checked, decoder_rows, evaluation
from ppl_vae.evaluation.weights import paired_traces
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE

__all__ = ["STATISTICS", "PredictiveCheck", "posterior_predictive_check"]

Statistic = Callable[[Tensor], Tensor]


def between_data(x: Tensor) -> Tensor:
    """Sum over the event of the variance over the data, in squared units of x."""
    return x.flatten(1).var(0).sum()


def within_data(x: Tensor) -> Tensor:
    """Mean over the data of the standard deviation inside an event, in units of x."""
    return x.flatten(1).std(1, correction=0).mean()


STATISTICS: dict[str, Statistic] = {
    "mean": torch.mean,
    "between_data": between_data,
    "within_data": within_data,
}


@dataclass(frozen=True)
class PredictiveCheck:
    """A statistic of the data, `observed`, and of S replicated data sets, `replicated` (S,)."""

    observed: float
    replicated: Tensor

    @property
    def p_value(self) -> float:
        """Two-sided: twice the smaller share of replicates (and of the data themselves) beyond the
        observed value.
        """
        above = (int((self.replicated >= self.observed).sum()) + 1) / (len(self.replicated) + 1)
        below = (int((self.replicated <= self.observed).sum()) + 1) / (len(self.replicated) + 1)
        return min(1.0, 2 * min(above, below))


def posterior_predictive_check(
    vae: VAE,
    x: Data,
    statistics: Mapping[str, Statistic] | None = None,
    num_samples: int = 200,
    seed: int | None = None,
) -> dict[str, PredictiveCheck]:
    """T(x) against T(x~_s), x~_s,n ~ p(x|z), z ~ q(z|x_n), for each stated statistic T of a data
    set (N, *event_shape).

    Small p-values are evidence against model or q; since x is used twice, exact ones are near 1/2
    rather than uniform.
    Source: Posterior predictive assessment of model fitness via realized discrepancies (1996),
    section 2.
    """
    checks.integer("num_samples", num_samples)
    tensor = checked(vae, x, minimum_rows=2 if statistics is None else 1)
    if statistics is None:  # one of them is a variance between data
        statistics = STATISTICS
    replicated: dict[str, list[float]] = {name: [] for name in statistics}
    with evaluation(vae, seed):
        data = as_float(vae, tensor)
        gaps = data.isnan()  # 0 in the data and in every copy, so that both are judged alike
        data_or_0 = data.masked_fill(gaps, 0.0)
        for _ in range(num_samples):
            copy = torch.cat([_replicate(vae, rows) for rows in data.split(decoder_rows(vae))])
            for name, statistic in statistics.items():
                replicated[name].append(float(statistic(copy.masked_fill(gaps, 0.0))))
        return {
            name: PredictiveCheck(
                float(statistic(data_or_0)), torch.tensor(replicated[name], dtype=torch.float64)
            )
            for name, statistic in statistics.items()
        }


def _replicate(vae: VAE, x: Tensor) -> Tensor:
    likelihood: Any = paired_traces(vae, x, 1)[1].nodes["x"]["fn"]
    return likelihood.sample()[0]
