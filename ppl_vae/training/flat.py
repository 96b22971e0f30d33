"""Whole steps of a small model in one compiled call: gradients and optimiser together, several
steps in a row.

Knows graphs and the optimisers' formulas. In a model of a few thousand parameters a step is nothing
but calls, so parameters and optimiser state become flat vectors (the model's own tensors are views
of them), the update one kernel, and `CALLS` steps one call.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import Tensor

from ppl_vae.graphs import Noise, compiled, lift_noise, record
from ppl_vae.training.objective import StepValues
from ppl_vae.training.optimizers import FusedUpdate, clip_factor
from ppl_vae.training.step import RecordedGradients, RecordedStep, went_wrong

__all__ = ["SMALL", "FlatStep"]

SMALL = 50_000  # parameters up to which an update in the graph beats the fused kernel outside it
CALLS = 5  # steps a call: five take most of what ten do, and compile in half the time

Call = Callable[[Tensor, Iterator[Tensor], Tensor, Tensor], Tensor]


class FlatStep:
    """`CALLS` steps a call on batches of one shape, single steps on any other; both compiled
    whole.

    Args:
        step: the recorded step of the same model, which runs instead on a machine without a
            working compiler.
        update: the optimiser.
    """

    def __init__(self, step: RecordedStep, update: FusedUpdate) -> None:
        self.step, self.update = step, update
        self.names: list[str] = []
        self.tier, self.calls = "inductor", CALLS
        self.vectors = update.flatten()
        self._programs: dict[Hashable, Call] = {}
        self._singly = False

    def __call__(
        self,
        batches: Iterator[Tensor],
        values: Sequence[StepValues],
        learning_rates: Sequence[float],
    ) -> Tensor:
        """As many updates as there are learning rates."""
        if self._singly:
            return self._one_by_one(batches, values, learning_rates)
        x = next(batches)
        key = (len(values), x.shape, x.dtype, self.step.module.modes())
        if key not in self._programs:
            program = self._program(x, values, learning_rates)
            if program is None:
                self._fall_back()
                return self._one_by_one(itertools.chain([x], batches), values, learning_rates)
            self._programs[key] = program
        rates = torch.tensor(learning_rates)
        return self._programs[key](x, batches, torch.tensor(values), rates)

    def release(self) -> None:
        """Give every parameter and every part of the optimiser's state storage of its own again."""
        if not self._singly:
            self.update.unflatten()

    def _program(
        self, x: Tensor, values: Sequence[StepValues], learning_rates: Sequence[float]
    ) -> Call | None:
        calls, recorded = len(values), self.step.recording(x)
        self.names = recorded.names
        noise = lift_noise(recorded.graph)
        for node in recorded.graph.graph.nodes:
            node.meta.clear()
        whole = _unrolled(recorded, self.update, calls, self.step.module.max_gradient_norm)
        buffers = list(recorded.buffers.values())
        with torch.random.fork_rng():
            arguments = [
                *self.vectors,
                *buffers,
                *[x] * calls,
                torch.tensor(values),
                torch.tensor(learning_rates),
                *_drawn(noise * calls),
            ]
        program = compiled(record(whole, arguments), arguments)
        if program is None:
            return None

        def run(x: Tensor, batches: Iterator[Tensor], values: Tensor, rates: Tensor) -> Tensor:
            xs, drawn = [x], _drawn(noise)
            for _ in range(calls - 1):
                xs.append(next(batches))
                drawn += _drawn(noise)
            with torch.no_grad():
                (report,) = program(*self.vectors, *buffers, *xs, values, rates, *drawn)
            return report

        return run

    def _fall_back(self) -> None:
        # a recorded step keeps hold of the parameters' storage, so this comes first, and once
        self.release()
        self._singly = True
        self.step.tier = self.tier = "record"
        self.calls = 1

    def _one_by_one(
        self,
        batches: Iterator[Tensor],
        values: Sequence[StepValues],
        learning_rates: Sequence[float],
    ) -> Tensor:
        pairs = zip(values, learning_rates, strict=True)
        return torch.cat([self.step(batches, [value], [rate]) for value, rate in pairs])


def _drawn(noise: Sequence[Noise]) -> list[Tensor]:
    return [draw() for draw in noise]


def _unrolled(
    recorded: RecordedGradients, update: FusedUpdate, calls: int, max_norm: float | None
) -> Callable[..., tuple[Tensor]]:
    """(*vectors, *buffers, *batches, values, rates, *noise) -> reports (calls, R), vectors updated
    in place.

    Row k of `values` stands in for the buffers of that name at step k.
    """
    shapes = [p.shape for p in update.parameters]
    sizes = [p.numel() for p in update.parameters]
    names = list(recorded.buffers)

    def program(*arguments: Tensor) -> tuple[Tensor]:
        vectors, rest = list(arguments[: update.num_vectors]), arguments[update.num_vectors :]
        buffers, batches = dict(zip(names, rest)), rest[len(names) : len(names) + calls]
        values, rates, *noise = rest[len(names) + calls :]
        each = len(noise) // calls
        reports, wrong = [], torch.zeros((), dtype=torch.bool)
        for k in range(calls):
            flat = vectors[0].split(sizes)
            own = [part.view(shape) for part, shape in zip(flat, shapes, strict=True)]
            drawn = noise[k * each : (k + 1) * each]
            now = buffers | dict(zip(StepValues._fields, values[k].unbind(), strict=True))
            report, *gradients = recorded.graph(*own, *now.values(), batches[k], *drawn)
            gradient = torch.cat([g.reshape(-1) for g in gradients])
            norm = gradient.square().sum().sqrt()
            report = torch.cat([report, norm[None]])
            if max_norm is not None:
                gradient = gradient * clip_factor(norm, max_norm)
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
