"""Intervals and verdicts in words, as the answers of all studies tell them.

Knows intervals over seeds; must not know a study's question.
"""

from ppl_vae import study

__all__ = ["all_of", "told", "within"]


def told(found, unit="nats", predicted=None):
    """An interval with its sign and unit, and, given a prediction ("above" or "below" 0), the
    verdict.
    """
    sign = "+" if found.mean > 0 else ""
    text = f"{sign}{found} {unit}".rstrip()
    return text if predicted is None else f"{text} (**{study.verdict(found, predicted)}**)"


def within(found, value, margin):
    """The verdict on the prediction that the mean is within `margin` of `value`."""
    if found.seeds < 2:
        return "no verdict"
    if found.above(value - margin) and found.below(value + margin):
        return "confirmed"
    outside = found.below(value - margin) or found.above(value + margin)
    return "refuted" if outside else "not shown"


def all_of(verdicts):
    """The verdict on several claims made as one: one that is refuted refutes it, and all have to be
    confirmed to confirm it.
    """
    said = set(verdicts)
    if said == {"confirmed"}:
        return "confirmed"
    return next((word for word in ("no verdict", "refuted") if word in said), "not shown")
