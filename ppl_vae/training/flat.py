"""Whole steps of a small model in one compiled call: gradients and optimiser together, several
steps in a row.

Knows graphs and the optimisers' formulas. In a model of a few thousand parameters a step is nothing
but calls, so parameters and optimiser state become flat vectors (the model's own tensors are views
of them), the update one kernel, and `CALLS` steps one call.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ppl_vae.training.optimizers import FusedUpdate
from ppl_vae.training.recorded import Noise, compiled, lift_noise, record
from ppl_vae.training.step import ObjectiveModule, RecordedStep, record_gradients, went_wrong

__all__ = ["SMALL", "FlatStep"]

SMALL = (
    50_000  # parameters up to which an update inside the graph beats the fused kernel outside it
)
CALLS = 5  # steps a call: five take most of what ten do, and compile in half the time


class FlatStep:
    """`CALLS` steps a call on batches of one shape, single steps on any other; both compiled
    whole.
    """

    def __init__(self, module: ObjectiveModule, update: FusedUpdate) -> None:
        self.module, self.update = module, update
        self.names: list[str] = []
        self.tier, self.calls = "inductor", CALLS
        self.vectors = update.flatten()
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._recorded: RecordedStep | None = (
            None  # what runs instead on a machine without a working compiler
        )

    def __call__(
        self, batches: Iterator[Tensor], scheduled: Tensor, learning_rates: Sequence[float]
    ) -> Tensor:
        """As many updates as there are learning rates."""
        if self._recorded is not None:
            return self._singly(self._recorded, batches, scheduled, learning_rates)
        rates = torch.tensor(learning_rates)
        x = next(batches)
        key = (len(rates), x.shape, x.dtype, self.module.modes())
        program = (
            self._programs[key]
            if key in self._programs
            else self._program(len(rates), x, scheduled, rates)
        )
        if program is None:
            return self._singly(
                self._fall_back(), itertools.chain([x], batches), scheduled, learning_rates
            )
        self._programs[key] = program
        return program(x, batches, scheduled, rates)

    def release(self) -> None:
        """Give every parameter and every part of the optimiser's state storage of its own again."""
        if self._recorded is None:
            self.update.unflatten()

    def _program(
        self, calls: int, x: Tensor, scheduled: Tensor, rates: Tensor
    ) -> Callable[..., Any] | None:
        graph, self.names, state = record_gradients(
            self.module, self.update.parameters, x, scheduled[0]
        )
        noise, buffers = lift_noise(graph), state[len(self.update.parameters) :]
        for node in graph.graph.nodes:
            node.meta.clear()
        whole = _unrolled(graph, self.update, len(buffers), calls)
        with torch.random.fork_rng():
            arguments = [
                *self.vectors,
                *buffers,
                *[x] * calls,
                scheduled,
                rates,
                *_drawn(noise * calls),
            ]
        program = compiled(record(whole, arguments), arguments)
        if program is None:
            return None

        def run(x: Tensor, batches: Iterator[Tensor], scheduled: Tensor, rates: Tensor) -> Tensor:
            xs, drawn = [x], _drawn(noise)
            for _ in range(calls - 1):
                xs.append(next(batches))
                drawn += _drawn(noise)
            with torch.no_grad():
                (report,) = program(*self.vectors, *buffers, *xs, scheduled, rates, *drawn)
            return report

        return run

    def _fall_back(self) -> RecordedStep:
        # a recorded step keeps hold of the parameters' storage, so this comes first, and once
        self.release()
        self._recorded = RecordedStep(self.module, self.update, "record")
        self.tier, self.calls = "record", 1
        return self._recorded

    def _singly(
        self,
        step: RecordedStep,
        batches: Iterator[Tensor],
        scheduled: Tensor,
        learning_rates: Sequence[float],
    ) -> Tensor:
        return torch.cat(
            [step(batches, s[None], [r]) for s, r in zip(scheduled, learning_rates, strict=True)]
        )


def _drawn(noise: Sequence[Noise]) -> list[Tensor]:
    return [draw() for draw in noise]


def _unrolled(
    graph: fx.GraphModule, update: FusedUpdate, num_buffers: int, calls: int
) -> Callable[..., tuple[Tensor]]:
    """(*vectors, *buffers, *batches, scheduled, rates, *noise) -> reports (calls, R), vectors
    updated in place.
    """
    shapes = [p.shape for p in update.parameters]
    sizes = [p.numel() for p in update.parameters]

    def program(*arguments: Tensor) -> tuple[Tensor]:
        vectors, rest = list(arguments[: update.num_vectors]), arguments[update.num_vectors :]
        buffers, batches = rest[:num_buffers], rest[num_buffers : num_buffers + calls]
        scheduled, rates, *noise = rest[num_buffers + calls :]
        each = len(noise) // calls
        reports, wrong = [], torch.zeros((), dtype=torch.bool)
        for k in range(calls):
            own = [
                part.view(shape)
                for part, shape in zip(vectors[0].split(sizes), shapes, strict=True)
            ]
            drawn = noise[k * each : (k + 1) * each]
            report, *gradients = graph(*own, *buffers, batches[k], scheduled[k], *drawn)
            gradient = torch.cat([g.reshape(-1) for g in gradients])
            report = torch.cat([report, gradient.square().sum().sqrt()[None]])
            updated = update.formula(vectors, gradient, rates[k])
            wrong = wrong | went_wrong(report)  # and those after it are not made, either
            vectors = [
                torch.where(wrong, before, after)
                for after, before in zip(updated, vectors, strict=True)
            ]
            reports.append(report)
        for old, new in zip(arguments, vectors, strict=False):
            old.copy_(new)
        return (torch.stack(reports),)

    return program
