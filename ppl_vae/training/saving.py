"""How often a run is saved: by epochs, by steps or by the clock.

Knows texts and counts; knows nothing of what a save writes.
"""

import re
import time
from dataclasses import dataclass, field

from ppl_vae import checks

__all__ = ["EVERY_EPOCH", "Interval", "Saves", "interval"]

SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
SHORT = {"s": "second", "sec": "second", "min": "minute", "h": "hour"}
EXPECTED = "a number of epochs, or a text such as '5000 steps' or '10 minutes'"


@dataclass(frozen=True)
class Interval:
    """So many epochs, steps or seconds; `unit` is one of these three words."""

    amount: float
    unit: str


EVERY_EPOCH = Interval(1, "epochs")


def interval(value: object, subject: str = "checkpoint_every") -> Interval:
    """The interval that a number of epochs or a text stands for.

    Args:
        value: a whole number of epochs, or "2 epochs", "5000 steps", "90 seconds", "10 minutes",
            "2 hours"; units also in the singular, or as "s", "min", "h".
        subject: what to call it in an error.

    Raises:
        InputError: for anything else.
    """
    if not isinstance(value, str):
        return Interval(checks.integer(subject, value), "epochs")
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", value)
    if found is None:
        checks.refuse(subject, repr(value), EXPECTED)
    number, unit = float(found[1]), SHORT.get(found[2], found[2].removesuffix("s"))
    if unit in SECONDS:
        return Interval(checks.number(subject, number * SECONDS[unit], 0.0, True), "seconds")
    if unit not in ("epoch", "step"):
        checks.refuse(subject, repr(value), EXPECTED)
    if not number.is_integer():
        checks.refuse(subject, repr(value), f"a whole number of {unit}s")
    return Interval(checks.integer(subject, int(number)), f"{unit}s")


@dataclass
class Saves:
    """When a run is to be saved.

    Args:
        every: the interval between two saves.
        steps: those that were made before, of a resumed run.
    """

    every: Interval
    steps: int = 0
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin to count the time."""
        self.saved()

    def due(self, steps: int, epochs: int | None = None) -> bool:
        """Whether to save now.

        Args:
            steps: made so far, over all epochs.
            epochs: made so far, at the end of one; None inside.
        """
        if self.every.unit == "epochs":
            return epochs is not None and epochs % int(self.every.amount) == 0
        if self.every.unit == "steps":
            amount, before = int(self.every.amount), self.steps
            self.steps = steps
            return steps // amount > before // amount
        return time.monotonic() - self._last >= self.every.amount

    def saved(self) -> None:
        """Begin to count the time anew."""
        self._last = time.monotonic()
