"""Functions of a user's own that a run calls between its epochs: to log, to draw, to stop.

Knows rows and random generators; knows nothing of how a run goes on. What a callback does to a
generator, to a row or to the mode of a module is undone, so that a run with callbacks takes the
very steps of one without.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ppl_vae import checks
from ppl_vae.generators import kept_generators
from ppl_vae.vae import VAE, evaluating

__all__ = ["Callback", "Event", "call_all", "checked_callbacks"]


@dataclass(frozen=True)
class Event:
    """What a callback is told.

    Args:
        kind: "start" (before the first step), "epoch" (after each epoch) or "end" (after the last
            one, with the parameters that the VAE keeps).
        row: the newest row of the history, in nats per datum, a copy of the callback's own; empty
            before the first epoch.
        vae: the VAE in training, here in evaluation mode.
    """

    kind: str
    row: dict[str, Any]
    vae: VAE


# What a callback returns is looked at after an epoch: True stops the run.
Callback = Callable[[Event], object]


def checked_callbacks(callbacks: object) -> tuple[Callback, ...]:
    """The callbacks, if each of them can be called; raises `InputError`."""
    if callable(callbacks) and not isinstance(callbacks, Iterable):
        checks.refuse("callbacks", "a function", "a list of functions", "use callbacks=[f]")
    if not isinstance(callbacks, Iterable) or isinstance(callbacks, str):
        checks.refuse("callbacks", repr(callbacks), "a list of functions")
    found = tuple(callbacks)
    for index, callback in enumerate(found):
        if not callable(callback):
            expected = "a function of one event"
            checks.refuse(f"callbacks[{index}]", type(callback).__name__, expected)
    return found


def call_all(callbacks: Iterable[Callback], kind: str, row: dict[str, Any], vae: VAE) -> bool:
    """Call each with an event of its own; whether one of them asked to stop."""
    asked = []
    for callback in callbacks:
        with kept_generators(), torch.enable_grad(), evaluating(vae):
            asked.append(callback(Event(kind, dict(row), vae)))
    return any(isinstance(answer, bool | np.bool_) and bool(answer) for answer in asked)
