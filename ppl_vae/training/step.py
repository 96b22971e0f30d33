"""One training step, three ways: eager Pyro (the reference), the recorded graph, and the recorded
graph compiled.

Knows a training loss and an update; knows nothing of epochs, data sets or files. A step takes
batches one at a time from an iterator, so that whatever is drawn to make a batch comes before the
step's own noise.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, fx

from ppl_vae.graphs import compiled, lift_noise, record, record_twice, stateless
from ppl_vae.training.objective import StepValues, TrainingLoss
from ppl_vae.training.optimizers import Update, clipped, laid_out
from ppl_vae.training.ranks import Ranks

__all__ = ["EagerStep", "Gradients", "RecordedGradients", "RecordedStep", "Step"]

Gradients = Callable[[Tensor], tuple[Tensor, Sequence[Tensor]]]


class Step(Protocol):
    """`calls` consecutive updates; returns their reports, (calls, R) in nats per datum: the loss in
    column 0, in the last column the norm of its gradient.

    An update is made only where both are finite: a step that went wrong leaves the parameters, and
    what the optimiser remembers, as they were.
    """

    names: list[str]
    tier: str
    calls: int

    def __call__(
        self,
        batches: Iterator[Tensor],
        values: Sequence[StepValues],
        learning_rates: Sequence[float],
    ) -> Tensor:
        """Update the parameters in place, once a batch.

        Args:
            batches: x (M, *event_shape), as many as there are learning rates.
            values: the weights of KL terms and the level of corruption, by step.
            learning_rates: the optimiser's, by step.
        """

    def release(self) -> None:
        """Give the parameters back as ordinary tensors, each with storage of its own."""


def loss_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """d loss / d parameters, as an update takes them; 0 for a parameter the loss does not reach."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return laid_out(gradients, parameters)


def went_wrong(report: Tensor) -> Tensor:
    """Whether a report (R,) is that of a step whose loss or gradient is not finite, a truth
    value.
    """
    return ~torch.isfinite(report[0] + report[-1])


class EagerStep:
    """Handlers, programs and autograd run at every step."""

    tier, calls = "off", 1

    def __init__(self, module: TrainingLoss, update: Update, ranks: Ranks | None = None) -> None:
        self.module, self.update, self.ranks = module, update, ranks or Ranks()
        self.names: list[str] = []
        first = update.parameters[0]
        self.failed = torch.zeros((), device=first.device) if first.is_cuda else None

    def gradients(self, batch: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """(report (R - 1,), gradients) of this rank's rows; a parameter the loss does not reach has
        gradient 0.
        """
        parameters = self.update.parameters
        if not self.module.objective.is_differentiable:  # it only adds up gradients
            loss, gradients = self.module.gradients(batch, parameters)
            self.names = ["loss", "lower_bound"]
            return torch.stack([loss, -loss]), laid_out(gradients, parameters)
        loss, report = self.module(batch)
        self.names = ["loss", *report]
        return torch.stack([loss.detach(), *report.values()]), loss_gradients(loss, parameters)

    def mean_gradients(self, batch: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """(report (R,), gradients) of the rows of all ranks.

        The gradient's norm, whose squares are summed in the gradient's own precision, is infinite
        where the sums of an optimiser would be, too.
        """
        report, gradients = self.ranks.mean(*self.gradients(batch), rows=len(batch))
        norm = torch.stack(torch._foreach_norm(list(gradients))).square().sum().sqrt()
        return torch.cat([report, norm.to(report)[None]]), gradients

    def advance(
        self, batch: Tensor, learning_rate: float | Tensor, failed: Tensor | None
    ) -> Tensor:
        """One update unless it went wrong; its report (R,).

        On a GPU `failed` becomes 1 at the first step that went wrong, and no update is made from
        then on.
        """
        report, gradients = self.mean_gradients(batch)
        gradients = clipped(gradients, report[-1], self.module.max_gradient_norm)
        if failed is not None:
            torch.maximum(failed, went_wrong(report).to(failed), out=failed)
            self.update(gradients, learning_rate, failed)
        elif not went_wrong(report):
            self.update(gradients, learning_rate)
        return report

    def __call__(
        self,
        batches: Iterator[Tensor],
        values: Sequence[StepValues],
        learning_rates: Sequence[float],
    ) -> Tensor:
        """One update."""
        self.module.set(values[0])
        return self.advance(next(batches), learning_rates[0], self.failed)[None]

    def release(self) -> None:
        """Nothing to give back."""


class RecordedStep(EagerStep):
    """The gradients from a graph recorded once for each batch shape; `tier` "inductor" compiles it
    as well.
    """

    def __init__(
        self, module: TrainingLoss, update: Update, tier: str, ranks: Ranks | None = None
    ) -> None:
        super().__init__(module, update, ranks)
        self.tier = tier
        self._programs: dict[Hashable, Gradients] = {}
        self._recorded: dict[Hashable, RecordedGradients] = {}

    def check(self, batch: Tensor) -> None:
        """Record for batches like this one; raises `NotRecordable` where two recordings differ,
        too.
        """
        self._recorded = {self._key(batch): self.recording(batch, twice=True)}

    def recording(self, batch: Tensor, twice: bool = False) -> "RecordedGradients":
        """The gradients' graph for batches like this one, recorded before or now."""
        found = self._recorded.pop(self._key(batch), None)
        return found or record_gradients(self.module, self.update.parameters, batch, twice)

    def _key(self, batch: Tensor) -> Hashable:
        return batch.shape, batch.dtype, batch.device, self.module.modes()

    def gradients(self, batch: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The same numbers as `EagerStep.gradients`; records first where batch shape, dtype or a
        mode is new.
        """
        key = self._key(batch)
        if key not in self._programs:
            self._programs[key] = self._program(batch)
        return self._programs[key](batch)

    def _program(self, batch: Tensor) -> Gradients:
        graph, self.names, parameters, buffers = self.recording(batch)
        state, noise = [*parameters, *buffers.values()], lift_noise(graph)
        program: Callable[..., Any] | None = graph
        if self.tier == "inductor":
            with torch.random.fork_rng():
                program = compiled(graph, [*state, batch, *(draw() for draw in noise)])
        if program is None:
            self.tier, program = "record", graph

        def run(batch: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
            with torch.no_grad():
                report, *gradients = program(*state, batch, *[draw() for draw in noise])
            # a compiler lays its results out as it likes
            return report, laid_out(gradients, parameters)

        return run


class RecordedGradients(NamedTuple):
    """A graph (*parameters, *buffers, batch) -> (report, *gradients), and what it reads and writes
    by reference.
    """

    graph: fx.GraphModule
    names: list[str]  # of the report's columns
    parameters: list[Tensor]
    buffers: dict[str, Tensor]


def record_gradients(
    module: TrainingLoss, parameters: Sequence[Tensor], batch: Tensor, twice: bool = False
) -> RecordedGradients:
    """The loss's report and gradients as one graph.

    Raises `NotRecordable`, with `twice` also where two recordings differ, and `RuntimeError` where
    a KL weight was baked in as a number.
    """
    named = {id(p): name for name, p in module.named_parameters()}
    names, buffers = [named[id(p)] for p in parameters], dict(module.named_buffers())
    report_names: list[str] = []

    def program(*arguments: Tensor) -> tuple[Tensor, ...]:
        own = [p.detach().requires_grad_() for p in arguments[: len(names)]]
        state = {
            **dict(zip(names, own, strict=True)),
            **dict(zip(buffers, arguments[len(names) : -1], strict=True)),
        }
        loss, report = stateless(module, state, arguments[-1:])
        report_names[:] = ["loss", *report]
        return (torch.stack([loss.detach(), *report.values()]), *loss_gradients(loss, own))

    tensors = [p.detach() for p in parameters]
    arguments = [*tensors, *buffers.values(), batch]
    graph = record_twice(program, arguments, module) if twice else record(program, arguments)
    found = RecordedGradients(graph, report_names, tensors, buffers)
    _check_weights(found, batch)
    return found


def _check_weights(recorded: RecordedGradients, batch: Tensor) -> None:
    """Fail loudly where a KL term is in the loss and what weighs it is not read, but a number baked
    in.
    """
    graph, names, parameters, buffers = recorded
    arguments = [*parameters, *buffers.values(), batch]
    with torch.no_grad(), torch.random.fork_rng():
        report = graph(*(argument.clone() for argument in arguments))[0].tolist()
    terms = dict(zip(names, report, strict=True))
    read = _buffers_read(recorded)
    if any(value for name, value in terms.items() if name.startswith("kl.")):
        _check_read("kl_weight", read)
    if terms.get("kl_weights"):
        _check_read("weight_kl_weight", read)


def _check_read(name: str, read: set[str]) -> None:
    if name not in read:
        raise RuntimeError(f"the recorded step does not depend on {name}: baked in as a number")


def _buffers_read(recorded: RecordedGradients) -> set[str]:
    """The names of the buffers that the graph's output depends on."""
    nodes = recorded.graph.graph.nodes
    reached, waiting = set(), [node for node in nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        waiting += [source for source in node.all_input_nodes if source not in reached]
        reached |= set(node.all_input_nodes)
    inputs = [node for node in nodes if node.op == "placeholder"][len(recorded.parameters) :]
    return {name for name, node in zip(recorded.buffers, inputs, strict=False) if node in reached}
