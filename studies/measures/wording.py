"""Intervals and verdicts in words, as the answers of all studies tell them.

Knows intervals over seeds; must not know a study's question.
"""

from ppl_vae import study

__all__ = ["told"]


def told(found, unit="nats", predicted=None):
    """An interval with its sign and unit, and, given a prediction ("above" or "below" 0), the
    verdict.
    """
    sign = "+" if found.mean > 0 else ""
    text = f"{sign}{found} {unit}".rstrip()
    return text if predicted is None else f"{text} (**{study.verdict(found, predicted)}**)"
