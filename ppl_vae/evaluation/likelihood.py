"""log p(x) of each datum, by a ladder of methods, with what says whether to believe it.

Knows the methods by name; how each draws and weighs is its own file's affair.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.evaluation.annealed import annealed
from ppl_vae.evaluation.blocks import check_missing, checked, evaluation
from ppl_vae.evaluation.importance import importance
from ppl_vae.evaluation.quadrature import quadrature
from ppl_vae.evaluation.reciprocal import reciprocal
from ppl_vae.graphs import TIERS
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE

__all__ = ["METHODS", "LogLikelihood", "log_likelihood"]

# name -> (function, draws for each datum where none are asked for, its own options)
METHODS: dict[str, tuple[Callable[..., Tensor], int, tuple[str, ...]]] = {
    "importance": (importance, 5000, ("prior_share",)),
    "annealed": (annealed, 16, ("num_temperatures", "num_leapfrog")),
    "reciprocal": (reciprocal, 1000, ("num_temperatures", "num_leapfrog")),
    "quadrature": (quadrature, 1, ("num_points",)),
}


@dataclass(frozen=True)
class LogLikelihood:
    """Estimates of log p(x) in nats, signed.

    `mean` and `standard_error` are over the data.

    Args:
        values: log p(x) of each datum, (N,) nats.
        pareto_k: Pareto k of each datum's weights, (N,).
        monte_carlo_error: the standard error of each value over repetitions, (N,) nats (delta
            method; for quadrature the difference to half as many points).
        method: the name of the method.
        num_samples: S, draws (chains) for each datum.
    """

    values: Tensor
    pareto_k: Tensor
    monte_carlo_error: Tensor
    method: str
    num_samples: int

    @property
    def mean(self) -> float:
        """Mean of `values`, nats per datum."""
        return self.values.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard deviation of `values` over the data, divided by sqrt(N); NaN for one datum."""
        return (
            self.values.std().item() / math.sqrt(len(self.values))
            if len(self.values) > 1
            else math.nan
        )

    def __repr__(self) -> str:
        """One line: what a person wants to read of it."""
        share = f"pareto_k > 0.7: {(self.pareto_k > 0.7).double().mean().item():.0%}"
        share = "too few draws for pareto_k" if self.pareto_k.isinf().all() else share
        return (
            f"LogLikelihood(mean={self.mean:.2f} ± {self.standard_error:.2f} nats, "
            f"N={len(self.values)}, "
            f"method={self.method!r}, num_samples={self.num_samples}, {share})"
        )


def log_likelihood(
    vae: VAE,
    x: Data,
    num_samples: int | None = None,
    method: str = "importance",
    seed: int | None = None,
    compile: str = "auto",
    progress: bool = False,
    given: Tensor | None = None,
    **options: Any,
) -> LogLikelihood:
    """log p(x) of each datum in nats, for any prior and guide, by running the two programs.

    Where data may have gaps (`VAEConfig(missing=True)`) it is that of the entries observed; with
    `given`, log p(rest | given) = log p(rest, given) - log p(given), each by the same method, with
    the error of the difference and the larger Pareto k of the two.

    importance: 5000 draws; a lower bound in expectation, right where Pareto k < 0.7 and no mode is
        missed. k cannot see a mode that no draw reached, so `prior_share` of the draws come from
        the prior, the others from the guide; None is 0.1, or 0 where the guide has sites of its
        own.
    annealed: 16 chains from the prior to the posterior in `num_temperatures` steps of Hamiltonian
        Monte Carlo with `num_leapfrog` steps each; knows nothing of the guide, so it judges it. A
        lower bound in expectation. Where x lies far in the tails of a heavy-tailed prior, chains
        that are short for it state an error several times too small, at a Pareto k that looks
        good: take more temperatures until the value stays.
    reciprocal: 1000 draws of the posterior by the same chains; an upper bound in expectation, for
        few latents.
    quadrature: exact up to its grid of `num_points` a side, for one or two latents.

    Args:
        vae: the VAE.
        x: data (N, *event_shape), a tensor, an array, a frame or a map-style data set.
        num_samples: S, draws (chains) for each datum; None is the number above.
        method: "importance", "annealed", "reciprocal" or "quadrature".
        seed: of the draws; None uses the global generator.
        compile: "off" (eager Pyro), "record", "inductor" (compiled) or "auto" (by the amount of
            work).
        progress: whether to show a progress bar.
        given: (N, *event_shape), true for the entries that are given; None gives none.
        **options: the method's own, named above.

    Returns:
        A `LogLikelihood` on the CPU, double precision.

    Raises:
        InputError: for a bad value of an argument, for an option that the method does not have, and
            for what the method cannot be used with.

    Source: see the functions `importance`, `annealed`, `reciprocal` and `quadrature`.
    """
    if given is not None:
        settings = {"method": method, "seed": seed, "compile": compile, "progress": progress}
        return _of_the_rest(vae, x, given, num_samples=num_samples, **settings, **options)
    function, default, known = METHODS[checks.choice("method", method, METHODS)]
    size = default if num_samples is None else checks.integer("num_samples", num_samples)
    checks.choice("compile", compile, TIERS)
    shared = [
        name
        for name in inspect.signature(log_likelihood).parameters
        if name not in ("vae", "x", "given", "options")
    ]
    checks.options(f"option of method '{method}'", options, [*known, *shared])
    for name in options.keys() - {"prior_share"}:
        checks.integer(name, options[name])
    with evaluation(vae, seed):
        values, k, error = function(vae, checked(vae, x), size, compile, progress, **options)
    return LogLikelihood(values, k, error, method, size)


def _of_the_rest(vae: VAE, x: Data, given: Tensor, **settings: Any) -> LogLikelihood:
    """log p(rest | given); see `log_likelihood`."""
    check_missing(vae, "given")
    whole = vae.as_float(checked(vae, x))
    if not torch.is_tensor(given) or given.shape != whole.shape or given.dtype != torch.bool:
        got = type(given).__name__
        if torch.is_tensor(given):
            got = f"{given.dtype} of shape {tuple(given.shape)}"
        checks.refuse("given", got, f"truth values of the data's shape {tuple(whole.shape)}")
    part = whole.masked_fill(~given.to(whole.device), torch.nan)
    first, second = (log_likelihood(vae, rows, **settings) for rows in (whole, part))
    errors = first.monte_carlo_error, second.monte_carlo_error
    return replace(
        first,
        values=first.values - second.values,
        pareto_k=torch.maximum(first.pareto_k, second.pareto_k),
        monte_carlo_error=torch.hypot(*errors),
    )
