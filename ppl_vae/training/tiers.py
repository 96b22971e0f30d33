"""Which kind of step a run takes.

Knows the kinds and what they cost; knows nothing of data. The choice depends on the settings alone,
never on a clock, so that two runs of one seed are the same run.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ppl_vae.graphs import NotRecordable, tier_by_work
from ppl_vae.training.flat import SMALL, FlatStep
from ppl_vae.training.objective import StepValues, TrainingLoss
from ppl_vae.training.optimizers import FusedUpdate, Update
from ppl_vae.training.ranks import Ranks
from ppl_vae.training.step import EagerStep, RecordedStep, Step

__all__ = ["choose_tier", "make_step"]

log = logging.getLogger(__name__)
# compiling costs about 30 s cold and saves 0.5 to 1 ms a step; recording costs half a second and
# saves about as much
STEPS_WORTH_COMPILING, STEPS_WORTH_RECORDING = 40_000, 500


def choose_tier(compile: str, num_steps: int) -> str:
    """The tier that `compile` names; "auto" weighs what a tier costs once against the steps it will
    run.
    """
    return tier_by_work(compile, num_steps, STEPS_WORTH_RECORDING, STEPS_WORTH_COMPILING)


def make_step(module: TrainingLoss, update: Update, tier: str, batch: Tensor, ranks: Ranks) -> Step:
    """The step of a tier; eager, with one logged line, where the programs cannot be recorded."""
    if tier == "off":
        return EagerStep(module, update, ranks)
    if not module.objective.keeps_terms:
        name = type(module.objective.elbo).__name__
        log.warning("%s looks at values, so its steps are not recorded; running them eagerly", name)
        return EagerStep(module, update, ranks)
    recorded = RecordedStep(module, update, tier, ranks)
    try:
        recorded.check(batch)
    except NotRecordable as error:
        log.warning("the programs cannot be recorded (%s); running them eagerly", error)
        return EagerStep(module, update, ranks)
    if not isinstance(update, FusedUpdate):  # the update of any other is made outside a graph
        return recorded
    if batch.is_cuda:
        return CapturedStep(recorded)
    small = sum(p.numel() for p in update.parameters) <= SMALL
    # the ranks meet between gradients and update, so a step of several ranks cannot be compiled
    # whole
    if tier == "inductor" and small and ranks.size == 1:
        return FlatStep(recorded, update)
    return recorded


class CapturedStep:
    """On a GPU, recorded program and fused optimiser as one CUDA graph, captured at the third batch
    of one shape and replayed.

    The noise is drawn inside the graph by a generator the graph advances. Batches of another shape
    run without a graph. The kernel itself passes over the update of a step that went
    wrong, and over all after it; the loop sees their reports later, since to look at each would be
    to wait for the device at every step.
    """

    calls, warm_up = 1, 2

    def __init__(self, step: RecordedStep) -> None:
        self.step, self.tier, self.names = step, step.tier, step.names
        self._seen: Counter[torch.Size] = Counter()
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(
        self,
        batches: Iterator[Tensor],
        values: Sequence[StepValues],
        learning_rates: Sequence[float],
    ) -> Tensor:
        """One update."""
        x = next(batches)
        self.step.module.set(values[0])
        if self._graph is None and self._seen[x.shape] >= self.warm_up:
            self._capture(x)
        if self._graph is None or x.shape != self._x.shape:
            self._seen[x.shape] += 1
            report = self._beside(x, values, learning_rates)
            self.names = self.step.names
            return report
        self._x.copy_(x)
        self._rate.fill_(learning_rates[0])
        self._graph.replay()
        return self._report.clone()

    def _beside(
        self, x: Tensor, values: Sequence[StepValues], learning_rates: Sequence[float]
    ) -> Tensor:
        """A step on a stream of its own, where a capture wants what runs before it to have been."""
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            report = self.step(iter([x]), values, learning_rates)
        here.wait_stream(beside)
        return report

    def _capture(self, x: Tensor) -> None:
        self._x, self._rate = x.clone(), x.new_zeros(())
        graph = torch.cuda.CUDAGraph()
        # of several ranks, another thread watches over their messages and calls the driver, too
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            report = self.step.advance(self._x, self._rate, self.step.failed)
            self._report = report[None]
        self._graph = graph

    def release(self) -> None:
        """Drop the graph."""
        self._graph = None
