"""A sigmoid whose inverse is exact at what it made, however near 1 that was rounded.

Knows tensors only. In single precision 1 - z ends at 6e-8, a logit of 17: beyond it the logit of z
cannot be had from z. Two programs that share a draw, a guide that made it and a model that scores
it, have to see the one logit that it was made from.
"""

from typing import Any

from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import SigmoidTransform
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["RememberingSigmoid", "made_from", "remember", "remembered_unit_interval"]

# z -> the logit it was made from, as long as that z lives
_logits: Any = WeakTensorKeyDictionary()


def remember(value: Tensor, logit: Tensor) -> Tensor:
    """Keep that a value is the sigmoid of a logit.

    Args:
        value: z, (*).
        logit: u, (*), with z = sigmoid(u).

    Returns:
        `value` itself.
    """
    _logits[value] = logit
    return value


def made_from(value: Tensor) -> Tensor | None:
    """The logit that a tensor was made from.

    Args:
        value: z, (*), this very tensor.

    Returns:
        u, (*); None if a `RememberingSigmoid` did not make z.
    """
    return _logits.get(value)


class RememberingSigmoid(SigmoidTransform):
    """z = sigmoid(u), with an inverse that is exact at what any such map made.

    At such a z it is the u that z was made from, else log z - log(1 - z).
    """

    def _call(self, x: Tensor) -> Tensor:
        return remember(super()._call(x), x)

    def _inverse(self, y: Tensor) -> Tensor:
        logit = made_from(y)
        return super()._inverse(y) if logit is None else logit


class _RememberedUnitInterval(Constraint):
    """(0, 1), reached from the reals by a `RememberingSigmoid`."""

    def check(self, value: Tensor) -> Tensor:
        return constraints.unit_interval.check(value)


remembered_unit_interval = _RememberedUnitInterval()


@biject_to.register(_RememberedUnitInterval)
def _sigmoid(constraint: Constraint) -> RememberingSigmoid:
    return RememberingSigmoid()
