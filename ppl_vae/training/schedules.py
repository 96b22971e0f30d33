"""Values that change while a run goes on: KL weights and learning rates as functions of the epoch.

Knows numbers only.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ppl_vae import checks

__all__ = ["Linear", "Schedule", "schedule"]

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Linear:
    """start + (end - start) * min(1, t / epochs), t the epochs trained so far, with their fraction.

    `Linear(0.0, 1.0, 10)` is KL warm-up over ten epochs; written "linear:0:1:10" on the command line.
    """

    start: float
    end: float
    epochs: float

    def __call__(self, epoch: float) -> float:
        """The value after `epoch` epochs."""
        return self.start + (self.end - self.start) * min(1.0, epoch / self.epochs)

    def __str__(self) -> str:
        return f"linear:{self.start:g}:{self.end:g}:{self.epochs:g}"


@dataclass(frozen=True)
class Constant:
    """The same value at every epoch."""

    value: float

    def __call__(self, epoch: float) -> float:
        """The value."""
        return self.value

    def __str__(self) -> str:
        return f"{self.value!r}"


def schedule(subject: str, value: float | str | Schedule, minimum: float = 0.0) -> Schedule:
    """A number, "linear:start:end:epochs" or a callable of the epoch -> a schedule; `InputError` otherwise."""
    if isinstance(value, str):
        return _parse(subject, value, minimum)
    if callable(value):
        return value
    return Constant(checks.number(subject, value, minimum))


def _parse(subject: str, text: str, minimum: float) -> Schedule:
    kind, *parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if kind == "linear" and len(numbers) == 3 and numbers[2] > 0:
        return Linear(*(checks.number(subject, n, minimum) for n in numbers))
    try:
        return Constant(checks.number(subject, float(text), minimum))
    except checks.InputError:
        raise
    except ValueError:
        checks.refuse(subject, repr(text), "a number or 'linear:start:end:epochs'", "for example linear:0:1:10")
