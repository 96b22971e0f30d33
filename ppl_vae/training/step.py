"""One training step, three ways: eager Pyro (the reference), the recorded graph, and the recorded
graph compiled.

Knows an objective, the two programs and an update; knows nothing of epochs, data sets or files. A
step takes batches one at a time from an iterator, so that whatever is drawn to make a batch comes
before the step's own noise.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor, fx, nn

from ppl_vae.handlers.reduced_precision import BFloat16Products
from ppl_vae.training.objective import Objective
from ppl_vae.training.optimizers import Update, laid_out
from ppl_vae.training.ranks import Ranks
from ppl_vae.training.recorded import compiled, lift_noise, record, record_twice, stateless
from ppl_vae.vae import VAE

__all__ = [
    "SCHEDULED",
    "EagerStep",
    "Gradients",
    "ObjectiveModule",
    "RecordedStep",
    "Step",
    "local_parameters",
]

# what may change between two steps, in the order in which a program takes it: tensors, never
# numbers
SCHEDULED = ("kl_weight", "weight_kl_weight", "inverse_num_data", "corruption_level")

Gradients = Callable[[Tensor, Tensor], tuple[Tensor, Sequence[Tensor]]]
VALIDATION = (
    "validate_distributions_pyro",
    "validate_distributions_torch",
    "validate_infer",
    "validate_poutine",
)


class Step(Protocol):
    """`calls` consecutive updates; returns their reports, (calls, R) in nats per datum: the loss in
    column 0, in the last column the norm of its gradient.

    An update is made only where both are finite: a step that went wrong leaves the parameters, and
    what the optimiser remembers, as they were. `batches` gives x (M, *event_shape), `scheduled`
    (calls, 4) the values named by `SCHEDULED`.
    """

    names: list[str]
    tier: str
    calls: int

    def __call__(
        self, batches: Iterator[Tensor], scheduled: Tensor, learning_rates: Sequence[float]
    ) -> Tensor:
        """Update the parameters in place, once a batch."""

    def release(self) -> None:
        """Give the parameters back as ordinary tensors, each with storage of its own."""


@contextlib.contextmanager
def local_parameters() -> Iterator[None]:
    """Parameters belong to modules, not to Pyro's global store, and per-call checks are off, inside
    the block only.
    """
    off = {
        name: False for name in VALIDATION
    }  # each restored to its own value, which `validation_enabled` does not do
    with pyro.settings.context(module_local_params=True, **off):
        yield


class ObjectiveModule(nn.Module):
    """The objective of a VAE as one function of its parameters and buffers, which `functional_call`
    can swap.
    """

    def __init__(self, vae: VAE, objective: Objective, precision: str = "float32") -> None:
        super().__init__()
        self.vae, self.objective, self.precision = vae, objective, precision

    def forward(self, batch: Tensor, scheduled: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, report) for one batch."""
        with BFloat16Products() if self.precision == "bfloat16" else contextlib.nullcontext():
            return self.objective(self.vae.model, self.vae.guide, batch, *scheduled.unbind())

    def modes(self) -> tuple[bool, ...]:
        """Training or evaluation, for every module: a recorded program is good for these alone."""
        return tuple(m.training for m in self.modules())


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

    def __init__(self, module: ObjectiveModule, update: Update, ranks: Ranks | None = None) -> None:
        self.module, self.update, self.ranks = module, update, ranks or Ranks()
        self.names: list[str] = []
        first = update.parameters[0]
        self.failed = torch.zeros((), device=first.device) if first.is_cuda else None

    def gradients(self, batch: Tensor, scheduled: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """(report (R - 1,), gradients) of this rank's rows; a parameter the loss does not reach has
        gradient 0.
        """
        if not self.module.objective.is_differentiable:
            return self._added_up(batch, scheduled)
        loss, report = self.module(batch, scheduled)
        self.names = ["loss", *report]
        gradients = loss_gradients(loss, self.update.parameters)
        return torch.stack([loss.detach(), *report.values()]), gradients

    def _added_up(self, batch: Tensor, scheduled: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The same of an estimator that returns no loss to differentiate."""
        vae, parameters = self.module.vae, self.update.parameters
        objective = self.module.objective
        loss, gradients = objective.gradients(vae.model, vae.guide, batch, scheduled, parameters)
        self.names = ["loss", "lower_bound"]
        return torch.stack([loss, -loss]), laid_out(gradients, parameters)

    def mean_gradients(self, batch: Tensor, scheduled: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """(report (R,), gradients) of the rows of all ranks.

        The gradient's norm, whose squares are summed in the gradient's own precision, is infinite
        where the sums of an optimiser would be, too.
        """
        report, gradients = self.ranks.mean(*self.gradients(batch, scheduled), rows=len(batch))
        norm = torch.stack(torch._foreach_norm(list(gradients))).square().sum().sqrt()
        return torch.cat([report, norm.to(report)[None]]), gradients

    def advance(
        self, batch: Tensor, scheduled: Tensor, learning_rate: float | Tensor, failed: Tensor | None
    ) -> Tensor:
        """One update unless it went wrong; its report (R,).

        On a GPU `failed` becomes 1 at the first step that went wrong, and no update is made from
        then on.
        """
        report, gradients = self.mean_gradients(batch, scheduled)
        if failed is not None:
            torch.maximum(failed, went_wrong(report).to(failed), out=failed)
            self.update(gradients, learning_rate, failed)
        elif not went_wrong(report):
            self.update(gradients, learning_rate)
        return report

    def __call__(
        self, batches: Iterator[Tensor], scheduled: Tensor, learning_rates: Sequence[float]
    ) -> Tensor:
        """One update."""
        return self.advance(next(batches), scheduled[0], learning_rates[0], self.failed)[None]

    def release(self) -> None:
        """Nothing to give back."""


class RecordedStep(EagerStep):
    """The gradients from a graph recorded once for each batch shape; `tier` "inductor" compiles it
    as well.
    """

    def __init__(
        self, module: ObjectiveModule, update: Update, tier: str, ranks: Ranks | None = None
    ) -> None:
        super().__init__(module, update, ranks)
        self.tier = tier
        self._programs: dict[Any, Gradients] = {}
        self._checked: dict[Any, Any] = {}

    def check(self, batch: Tensor, scheduled: Tensor) -> None:
        """Record for batches like this one; raises `NotRecordable` where two recordings differ,
        too.
        """
        recorded = record_gradients(
            self.module, self.update.parameters, batch, scheduled, twice=True
        )
        self._checked = {self._key(batch): recorded}

    def _key(self, batch: Tensor) -> Any:
        return batch.shape, batch.dtype, batch.device, self.module.modes()

    def gradients(self, batch: Tensor, scheduled: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The same numbers as `EagerStep.gradients`; records first where batch shape, dtype or a
        mode is new.
        """
        key = self._key(batch)
        if key not in self._programs:
            self._programs[key] = self._program(batch, scheduled)
        return self._programs[key](batch, scheduled)

    def _program(self, batch: Tensor, scheduled: Tensor) -> Gradients:
        recorded = self._checked.pop(self._key(batch), None)
        if recorded is None:
            recorded = record_gradients(self.module, self.update.parameters, batch, scheduled)
        graph, self.names, state = recorded
        noise = lift_noise(graph)
        program: Callable[..., Any] | None = graph
        if self.tier == "inductor":
            with torch.random.fork_rng():
                program = compiled(graph, [*state, batch, scheduled, *(draw() for draw in noise)])
        if program is None:
            self.tier, program = "record", graph

        def run(batch: Tensor, scheduled: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
            with torch.no_grad():
                report, *gradients = program(*state, batch, scheduled, *[draw() for draw in noise])
            return report, gradients

        return run


def record_gradients(
    module: ObjectiveModule,
    parameters: Sequence[Tensor],
    batch: Tensor,
    scheduled: Tensor,
    twice: bool = False,
) -> Any:
    """(graph, names of the report, state): (*state, batch, scheduled) -> (report, *gradients) as
    one graph.

    `state` holds the parameters, then all buffers, by reference: the graph reads and writes the
    model's own. Raises `NotRecordable`, with `twice` also where two recordings differ, and
    `RuntimeError` where a KL weight was baked in as a number.
    """
    named = {id(p): name for name, p in module.named_parameters()}
    names, buffers = [named[id(p)] for p in parameters], dict(module.named_buffers())
    report_names: list[str] = []

    def program(*arguments: Tensor) -> tuple[Tensor, ...]:
        own = [p.detach().requires_grad_() for p in arguments[: len(names)]]
        state = {
            **dict(zip(names, own, strict=True)),
            **dict(zip(buffers, arguments[len(names) : -2], strict=True)),
        }
        loss, report = stateless(module, state, arguments[-2:])
        report_names[:] = ["loss", *report]
        gradients = loss_gradients(loss, own)
        return (torch.stack([loss.detach(), *report.values()]), *gradients)

    state = [*(p.detach() for p in parameters), *buffers.values()]
    arguments = [*state, batch, scheduled]
    graph = record_twice(program, arguments, module) if twice else record(program, arguments)
    _check_inputs(graph, report_names, arguments)
    return graph, report_names, state


def _check_inputs(graph: fx.GraphModule, names: list[str], arguments: Sequence[Tensor]) -> None:
    """Fail loudly where a KL term is in the loss and what weighs it is no input of the graph, but a
    number baked in.
    """
    with torch.no_grad(), torch.random.fork_rng():
        report = graph(*(argument.clone() for argument in arguments))[0].tolist()
    terms = dict(zip(names, report, strict=True))
    needed = (
        {"kl_weight"}
        if any(value for name, value in terms.items() if name.startswith("kl."))
        else set()
    )
    needed |= set(SCHEDULED[1:3]) if terms.get("kl_weights") else set()
    missing = needed - {SCHEDULED[index] for index in _indices_used(graph, len(arguments) - 1)}
    if missing:
        raise RuntimeError(
            f"the recorded step does not depend on {', '.join(missing)}: baked in as a number"
        )


def _indices_used(graph: fx.GraphModule, position: int) -> set[int]:
    """Which parts of the unbound placeholder at `position` the graph's output depends on."""
    scheduled = [node for node in graph.graph.nodes if node.op == "placeholder"][position]
    reached, waiting = set(), [node for node in graph.graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        waiting += [source for source in node.all_input_nodes if source not in reached]
        reached |= set(node.all_input_nodes)
    parts = [part for unbound in scheduled.users for part in unbound.users if part in reached]
    return {part.args[1] for part in parts}
