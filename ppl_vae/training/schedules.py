"""Values that change while a run goes on: KL weights and learning rates as functions of the epoch.

Knows numbers only.
"""

import bisect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ppl_vae import checks

__all__ = ["Constrained", "Linear", "Schedule", "Stages", "schedule", "text"]

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Linear:
    """start + (end - start) * min(1, t / epochs), t the epochs trained so far, with their fraction.

    `Linear(0.0, 1.0, 10)` is KL warm-up over ten epochs; written "linear:0:1:10" on the command
    line.
    """

    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        """Check the three numbers; raises `InputError`."""
        for name in ("start", "end"):
            checks.number(f"{name} of a linear schedule", getattr(self, name))
        checks.number("epochs of a linear schedule", self.epochs, 0.0, exclusive=True)

    def __call__(self, epoch: float) -> float:
        """The value after `epoch` epochs."""
        return self.start + (self.end - self.start) * min(1.0, epoch / self.epochs)

    def __str__(self) -> str:
        return f"linear:{_exact(self.start)}:{_exact(self.end)}:{_exact(self.epochs)}"


@dataclass(frozen=True)
class Stages:
    """values[k] from epochs[k - 1] on until epochs[k] epochs are done, the last value for ever.

    `Stages((1e-3, 1e-4), (50,))` is 1e-3 for 50 epochs, then 1e-4; written "stages:1e-3:50:1e-4".
    """

    values: tuple[float, ...]
    epochs: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the numbers; raises `InputError`."""
        if len(self.values) != len(self.epochs) + 1:
            got = f"{len(self.values)} values and {len(self.epochs)} epochs between them"
            checks.refuse("stages", got, "one value more than epochs")
        for value in self.values:
            checks.number("value of a stage", value)
        before = 0.0
        for epoch in self.epochs:
            before = checks.number("epoch at which a stage ends", epoch, before, exclusive=True)

    def __call__(self, epoch: float) -> float:
        """The value after `epoch` epochs."""
        return self.values[bisect.bisect_right(self.epochs, epoch)]

    def __str__(self) -> str:
        parts = [f"{self.values[0]!r}"]
        for epoch, value in zip(self.epochs, self.values[1:], strict=True):
            parts += [_exact(epoch), f"{value!r}"]
        return f"stages:{':'.join(parts)}"


@dataclass(frozen=True)
class Constant:
    """The same value at every epoch."""

    value: float

    def __call__(self, epoch: float) -> float:
        """The value."""
        return self.value

    def __str__(self) -> str:
        return f"{self.value!r}"


class Constrained:
    """A KL weight learned alongside, so that a term of the bound meets a constraint.

    "constrained:kl:20": max E_q[log p(x|z)] subject to KL <= 20 nats has the Lagrangian E_q[log p]
    - w (KL - 20), whose multiplier w rises while KL is too large. "constrained:reconstruction:-90":
    min KL subject to E_q[log p] >= -90 has KL - m (E_q[log p] + 90): the same loss up to a factor
    with w = 1 / m, which rises while the reconstruction is better than it has to be. With c a
    moving average of the term, b its bound and e = (c - b) / |b| cut off at 1, after each step v <-
    v + RATE e, and ln w = v + DAMPING e: the second term keeps w from overshooting.
    Source: Taming VAEs (2018), section 2.2.
    """

    RATE, DAMPING, MEMORY = 0.02, 2.0, 0.9

    def __init__(self, term: str, bound: float) -> None:
        self.term, self.bound = term, bound
        self.memory: dict[str, float] = {}  # the run's, which saves it

    def __call__(self, epoch: float) -> float:
        """w as it stands."""
        return math.exp(
            self.memory.get("log_weight", 0.0) + self.DAMPING * self.memory.get("error", 0.0)
        )

    def observe(self, report: Mapping[str, float]) -> None:
        """Take in the terms of one step, in nats per datum."""
        kl = sum(value for name, value in report.items() if name.startswith("kl."))
        value = kl if self.term == "kl" else report["reconstruction"]
        average = self.MEMORY * self.memory.get("average", value) + (1 - self.MEMORY) * value
        error = min(max((average - self.bound) / max(abs(self.bound), 1.0), -1.0), 1.0)
        log_weight = self.memory.get("log_weight", 0.0) + self.RATE * error
        self.memory.update(
            average=average, error=error, log_weight=min(max(log_weight, -15.0), 15.0)
        )

    def __str__(self) -> str:
        return f"constrained:{self.term}:{_exact(self.bound)}"


def _exact(number: float) -> str:
    """The shortest text that is this number: two schedules of one text are the same."""
    return repr(float(number)).removesuffix(".0")


def schedule(subject: str, value: float | str | Schedule, maximum: float = math.inf) -> Schedule:
    """A number, "linear:start:end:epochs", "stages:value:epoch:value" or a callable of the epoch ->
    a schedule; `InputError` otherwise.

    Numbers are at least 0 and at most `maximum`; what a callable returns is for its caller to
    check.
    """
    if isinstance(value, str):
        return _parse(subject, value, maximum)
    if callable(value):
        return value
    return Constant(checks.number(subject, value, 0.0, maximum=maximum))


def text(schedule: Schedule) -> str:
    """What a checkpoint keeps of a schedule: its text; a function's without its address, which is
    another next time.
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(schedule))


def _parse(subject: str, text: str, maximum: float) -> Schedule:
    kind, *parts = text.split(":")
    if kind == "constrained":
        return _constrained(subject, text, parts)
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if kind == "linear" and len(numbers) == 3 and numbers[2] > 0:
        start, end = (checks.number(subject, n, 0.0, maximum=maximum) for n in numbers[:2])
        return Linear(start, end, checks.number(subject, numbers[2], 0.0, exclusive=True))
    if kind == "stages" and len(numbers) >= 3 and len(numbers) % 2 == 1:
        values = [checks.number(subject, n, 0.0, maximum=maximum) for n in numbers[::2]]
        return Stages(tuple(values), tuple(numbers[1::2]))
    try:
        return Constant(checks.number(subject, float(text), 0.0, maximum=maximum))
    except checks.InputError:
        raise
    except ValueError:
        checks.refuse(
            subject,
            repr(text),
            "a number, 'linear:start:end:epochs' or 'stages:value:epoch:value'",
            "for example linear:0:1:10, or stages:1e-3:50:1e-4",
        )


def _constrained(subject: str, text: str, parts: list[str]) -> Constrained:
    try:
        term, bound = parts
        value = float(bound)
    except ValueError:
        term, value = "", math.nan
    good = subject == "kl_weight" and term in ("kl", "reconstruction") and math.isfinite(value)
    if not good or (term == "kl" and value <= 0):
        checks.refuse(
            subject,
            repr(text),
            "kl_weight='constrained:kl:NATS' or 'constrained:reconstruction:NATS'",
            "for example constrained:kl:20",
        )
    return Constrained(term, value)
