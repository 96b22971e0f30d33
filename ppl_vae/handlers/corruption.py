"""Corrupt what a guide sees of the data, and nothing else: denoising as a reinterpretation of the
guide.

Knows tensors and one effect, `evidence`; knows nothing of guides or likelihoods.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor

from ppl_vae import checks
from ppl_vae.parts.slot import Slot

__all__ = [
    "CORRUPTION",
    "CORRUPTIONS",
    "Corrupt",
    "Corruption",
    "SameEvidence",
    "corruption_from",
    "evidence",
    "highest_level",
]


@effectful(type="evidence")
def evidence(x: Tensor) -> Tensor:
    """The data that a guide conditions on; a handler may give it others.

    Args:
        x: data (M, *event_shape).
    """
    return x


def _salt_and_pepper(x: Tensor, level: float | Tensor) -> Tensor:
    u = torch.rand_like(x)
    return torch.where(u < level, (u < 0.5 * level).to(x.dtype), x)


def _normal(x: Tensor, level: float | Tensor) -> Tensor:
    return x + level * torch.randn_like(x)


def _masking(x: Tensor, level: float | Tensor) -> Tensor:
    return torch.where(torch.rand_like(x) < level, torch.zeros_like(x), x)


Corrupt = Callable[[Tensor, float | Tensor], Tensor]
CORRUPTIONS: dict[str, Corrupt] = {
    "salt_and_pepper": _salt_and_pepper,
    "normal": _normal,
    "masking": _masking,
}
# a probability, but for the scale of added noise
HIGHEST_LEVEL = {"salt_and_pepper": 1.0, "normal": math.inf, "masking": 1.0}
CORRUPTION = Slot("corruption", CORRUPTIONS)


def corruption_from(given: str | Corrupt) -> Corrupt:
    """What corrupts x: a function of x (M, *event_shape) and the level.

    Args:
        given: a name, "file.py:Name" or the function itself.

    Raises:
        InputError: for what is none.
    """
    found = CORRUPTION.find(given, None)
    if not callable(found):
        checks.refuse("corruption", repr(found), "a name, or a function of x and the level")
    return found


def highest_level(kind: object) -> float:
    """The highest level of a corruption; that of a function of one's own is not known.

    Args:
        kind: a name, or such a function.

    Returns:
        The level; infinite where it is not known.
    """
    return HIGHEST_LEVEL.get(kind, math.inf) if isinstance(kind, str) else math.inf


class Corruption(Messenger):
    """While training, the guide is given c ~ C(c|x) in place of x; the likelihood keeps x itself.

    bound = E_C(c|x) E_q(z|c) [log p(x|z) + log p(z) - log q(z|c)] <= log p(x), since q(z|c) is some
    density of z whatever c is.

    Args:
        kind: "salt_and_pepper" (each value is 0 or 1, evenly, with probability `level`), "normal"
            (noise of standard deviation `level` is added), "masking" (each value is 0 with
            probability `level`), "file.py:Name", or a function of x (M, *event_shape) and the level
            that draws c.
        level: a probability, or under "normal" a scale in units of x; a number, or a 0-dimensional
            tensor that may change between the steps of a recorded program.

    Raises:
        InputError: for an unknown kind, and for a number that is no such level.

    Source: Denoising criterion for variational auto-encoding framework (2015), section 3.
    """

    def __init__(self, kind: str | Corrupt, level: float | Tensor) -> None:
        super().__init__()
        self._corrupt, self.level = corruption_from(kind), level
        if not torch.is_tensor(level):
            checks.number("corruption level", level, 0.0, maximum=highest_level(kind))

    def _pyro_evidence(self, msg: Any) -> None:
        msg["value"], msg["done"] = self._corrupt(msg["args"][0], self.level), True


class SameEvidence(Messenger):
    """Give a guide at each further run what it conditioned on at the first.

    q(z|c) is then one density, not one a run.
    """

    def __enter__(self) -> Any:
        self._first: Tensor | None = None
        return super().__enter__()

    def _pyro_evidence(self, msg: Any) -> None:
        if self._first is not None:
            msg["value"], msg["done"], msg["stop"] = self._first, True, True

    def _pyro_post_evidence(self, msg: Any) -> None:
        self._first = msg["value"]
