"""The settings of a run: the arguments of `fit` that a resumed run has to agree on.

Knows names and bounds; knows nothing of what a run does with them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO

from ppl_vae import checks
from ppl_vae.graphs import TIERS
from ppl_vae.handlers.corruption import Corrupt, highest_level
from ppl_vae.training.objective import corruption_text, estimator_text
from ppl_vae.training.optimizers import optimizer_text
from ppl_vae.training.schedules import Schedule, schedule, text

__all__ = ["Settings"]

BINARIZATIONS = ("none", "dynamic")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """The arguments of a run, as `fit` documents them: what a resumed run has to agree on."""

    estimator: str | ELBO | type[ELBO]
    num_particles: int
    batch_size: int
    epochs: int
    kl_weight: float | str | Schedule
    weight_kl_weight: float | str | Schedule
    learning_rate: float | str | Schedule
    optimizer: Any
    weight_penalty: float
    binarization: str
    kl_balance: bool
    corruption: str | Corrupt
    corruption_level: float | str | Schedule
    early_stopping: int | None
    seed: int
    compile: str
    precision: str
    optimizer_options: Mapping[str, Any] | None = None
    max_gradient_norm: float | None = None
    parameter_average: float | None = None

    def __post_init__(self) -> None:
        """Check every field, numbers of numpy made Python's; raises `InputError`."""
        for name in ("num_particles", "batch_size", "epochs"):
            object.__setattr__(self, name, checks.integer(name, getattr(self, name)))
        object.__setattr__(self, "seed", checks.seed(self.seed))
        object.__setattr__(
            self, "weight_penalty", checks.number("weight_penalty", self.weight_penalty, 0.0)
        )
        checks.truth("kl_balance", self.kl_balance)
        checks.choice("binarization", self.binarization, BINARIZATIONS)
        checks.choice("compile", self.compile, TIERS)
        checks.choice("precision", self.precision, PRECISIONS)
        if self.optimizer_options is not None:
            checks.options("optimizer_options", self.optimizer_options, None)
        for name, most in (("max_gradient_norm", math.inf), ("parameter_average", 1.0)):
            value = getattr(self, name)
            if value is not None:
                value = checks.number(name, value, 0.0, exclusive=True, maximum=most)
                object.__setattr__(self, name, value)
        if self.parameter_average == 1.0:
            checks.refuse("parameter_average", 1.0, "a decay below 1, such as 0.999")
        if self.early_stopping is not None:
            object.__setattr__(
                self, "early_stopping", checks.integer("early_stopping", self.early_stopping)
            )

    def schedules(self) -> dict[str, Schedule]:
        """What changes with the epoch, by name."""
        names = ("kl_weight", "weight_kl_weight", "learning_rate", "corruption_level")
        return {name: schedule(name, getattr(self, name), self.highest(name)) for name in names}

    def highest(self, name: str) -> float:
        """The highest value that what changes with the epoch may take."""
        return highest_level(self.corruption) if name == "corruption_level" else math.inf

    def plain(self) -> dict[str, Any]:
        """The fields as JSON values, schedules by their text."""
        schedules = {name: text(value) for name, value in self.schedules().items()}
        texts = {
            "estimator": estimator_text(self.estimator),
            "optimizer": optimizer_text(self.optimizer),
            "corruption": corruption_text(self.corruption),
        }
        options = json.loads(json.dumps(self.optimizer_options or None, default=repr))
        return {**vars(self), **texts, **schedules, "optimizer_options": options}
