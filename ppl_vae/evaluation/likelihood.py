"""log p(x) of each datum, by a ladder of methods, with what says whether to believe it.

Knows how log weights are averaged in bounded memory; how they are drawn is the methods' affair.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.evaluation.blocks import as_float, checked, decoder_rows, evaluation
from ppl_vae.evaluation.pareto import pareto_k_of_tail, tail_size
from ppl_vae.evaluation.weights import LogWeights, paired_traces, program, sites
from ppl_vae.training.tiers import TIERS
from ppl_vae.vae import VAE

__all__ = ["METHODS", "LogLikelihood", "RunningWeights", "log_likelihood"]

METHODS = ("importance",)
# compiling costs about 20 s cold and saves 1.5 ms a block of MNIST size; recording costs half a second
BLOCKS_WORTH_COMPILING, BLOCKS_WORTH_RECORDING = 15_000, 500


@dataclass(frozen=True)
class LogLikelihood:
    """Estimates of log p(x) in nats, signed.

    `values` (N,), with `pareto_k` (N,) and `monte_carlo_error` (N,), the
    standard error of each value over repetitions (delta method). `mean` and `standard_error` are over the data.
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
        return self.values.std().item() / math.sqrt(len(self.values)) if len(self.values) > 1 else math.nan

    def __repr__(self) -> str:
        """One line: what a person wants to read of it."""
        high = (self.pareto_k > 0.7).double().mean().item()
        return (f"LogLikelihood(mean={self.mean:.2f} ± {self.standard_error:.2f} nats, N={len(self.values)}, "
                f"method={self.method!r}, num_samples={self.num_samples}, pareto_k > 0.7: {high:.0%})")  # fmt: skip


class RunningWeights:
    """log mean_s w_s of M data from log weights that come in pieces, with the tail that Pareto k needs and no more."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples, self.tail = num_samples, tail_size(num_samples) + 1
        self.total = self.largest = torch.empty(0)

    def update(self, log_weights: Tensor) -> None:
        """Take in a further (S', M) log weights."""
        precise = log_weights.double()
        sums = torch.stack([precise.logsumexp(0), (2 * precise).logsumexp(0)])
        first = not len(self.total)
        self.total = sums if first else torch.logaddexp(self.total, sums)
        candidates = log_weights if first else torch.cat([self.largest, log_weights])
        self.largest = candidates.topk(min(self.tail, len(candidates)), dim=0).values

    def summary(self) -> Tensor:
        """(3, M): log p(x), Pareto k, Monte Carlo error sqrt(sum w^2 / (sum w)^2 - 1/S)."""
        total, squares = self.total
        error = ((squares - 2 * total).exp() - 1 / self.num_samples).clamp(min=0).sqrt()
        return torch.stack([total - math.log(self.num_samples), pareto_k_of_tail(self.largest), error])


@torch.no_grad()
def log_likelihood(
    vae: VAE,
    x: Tensor,
    num_samples: int = 5000,
    method: str = "importance",
    seed: int | None = None,
    compile: str = "auto",
    progress: bool = False,
) -> LogLikelihood:
    """log p(x) of each datum in nats, for any prior and guide, by running the two programs.

    importance: log 1/S sum_s p(x, z_s) / q(z_s|x), z_s ~ q(z|x): a lower bound in expectation, tight as S grows.

    Args:
        x: (N, *event_shape). num_samples: S, draws for each datum.
        seed: of the draws; None uses the global generator.
        compile: "off" (eager Pyro), "record", "inductor" (compiled) or "auto" (by the amount of work).
        progress: show a progress bar.

    Returns a `LogLikelihood` on the CPU, double precision. Raises `InputError`.
    Source: Importance weighted autoencoders (2015), equation 8; Auto-Encoding Variational Bayes (2013), section 5.
    """
    checks.choice("method", method, METHODS)
    checks.integer("num_samples", num_samples)
    checks.choice("compile", compile, TIERS)
    with evaluation(vae, seed):
        values, k, error = _importance(vae, checked(vae, x), num_samples, compile, progress)
    return LogLikelihood(values, k, error, method, num_samples)


def _importance(vae: VAE, x: Tensor, num_samples: int, tier: str, progress: bool) -> Tensor:
    """(3, N) summaries; blocks of one shape only, so that one recording serves them all."""
    _check_density(vae, x)
    first = as_float(vae, x[:1])
    rows = decoder_rows(vae)
    pieces = max(1, round(num_samples / rows))
    draws = math.ceil(num_samples / pieces)
    size = min(len(x), max(1, rows // draws))
    groups = x.split(size)
    block = program(LogWeights(vae, draws), first.expand(size, *x.shape[1:]).clone(), _tier(tier, len(groups) * pieces))
    results = []
    for group in tqdm(groups, disable=not progress, unit="block", desc="log p(x)", dynamic_ncols=True):
        weights = RunningWeights(num_samples)
        data = as_float(vae, group)
        padded = torch.cat([data, data[-1:].expand(size - len(data), *data.shape[1:])])
        for piece in range(pieces):
            weights.update(block(padded)[: num_samples - piece * draws, : len(data)])
        results.append(weights.summary().cpu())
    return torch.cat(results, 1)


def _check_density(vae: VAE, x: Tensor) -> None:
    guide, _ = paired_traces(vae, as_float(vae, x[:1]), 1)
    if any(site["infer"].get("point") for site in sites(guide).values()):
        checks.refuse("method", "'importance' with a point posterior, which has no density", "a posterior to draw from")


def _tier(wanted: str, blocks: int) -> str:
    if wanted != "auto":
        return wanted
    return "inductor" if blocks >= BLOCKS_WORTH_COMPILING else "record" if blocks >= BLOCKS_WORTH_RECORDING else "off"
