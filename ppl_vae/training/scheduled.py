"""What changes with the epoch in one run: weights of KL terms, corruption, learning rate."""

from collections.abc import Sequence

from torch import Tensor

from ppl_vae import checks
from ppl_vae.training.objective import StepValues
from ppl_vae.training.schedules import Constrained
from ppl_vae.training.settings import Settings

__all__ = ["Schedules"]


class Schedules:
    """The schedules of a run, each value checked when it is a new one.

    Args:
        settings: the run's, with a schedule by name.
        memory: what a constrained KL weight remembers, which the run's checkpoint keeps.
    """

    def __init__(self, settings: Settings, memory: dict[str, float]) -> None:
        self.by_name = settings.schedules()
        self._settings = settings
        self._checked: StepValues | None = None
        weight = self.by_name["kl_weight"]
        self.constraint = weight if isinstance(weight, Constrained) else None
        if self.constraint:
            self.constraint.memory = memory

    def values(self, epochs: Sequence[float]) -> list[StepValues]:
        """What each step is given, by its time in epochs.

        Raises:
            InputError: for a schedule's value out of range.
        """
        return [self._values(epoch) for epoch in epochs]

    def _values(self, epoch: float) -> StepValues:
        values = StepValues(*(self.by_name[name](epoch) for name in StepValues._fields))
        if values == self._checked:
            return values
        checked = [
            checks.number(
                f"{name} at epoch {epoch:g}", value, 0.0, maximum=self._settings.highest(name)
            )
            for name, value in zip(values._fields, values, strict=True)
        ]
        self._checked = StepValues(*checked)
        return self._checked

    def learning_rates(self, epochs: Sequence[float]) -> list[float]:
        """The learning rate at each of these times."""
        rate = self.by_name["learning_rate"]
        return [checks.number("learning_rate", rate(epoch), 0.0) for epoch in epochs]

    def row(self, epoch: float) -> dict[str, float]:
        """Every value at a time, for the history."""
        return {name: value(epoch) for name, value in self.by_name.items()}

    def observe(self, names: Sequence[str], report: Tensor) -> None:
        """Let a constrained weight take in the terms of one step, in nats per datum."""
        if self.constraint:
            self.constraint.observe(dict(zip(names, report.tolist(), strict=True)))
