"""Weigh the KL terms of an evidence lower bound, in model and guide at once.

Knows sample sites only. Entered outside an estimator, it scales every unobserved site of both programs, so the two
estimators agree: a scale on the model alone is ignored by `TraceMeanField_ELBO`, which reads the guide's.
"""

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = ["DATA_PLATE", "KLWeight", "in_data_plate"]

DATA_PLATE = "data"


def in_data_plate(site: Any) -> bool:
    """Whether a site belongs to single data (latents z) rather than to all of them (weights theta)."""
    return any(frame.name == DATA_PLATE for frame in site["cond_indep_stack"])


class KLWeight(Messenger):
    """Multiply the KL terms of latents (or, with `weights=True`, of Bayesian weights) by `weight`, 0 included.

    bound = E_q[log p(x|z, theta)] - weight * KL(q(z|x) || p(z)) - KL(q(theta) || p(theta)) / N

    `weight` is a number or a 0-dimensional tensor. The site's `infer` keeps the weight and the scale without it, so
    that a report can give the KL itself in nats.

    >>> with KLWeight(0.5):
    ...     loss = Trace_ELBO().loss(vae.model, vae.guide, x)  # doctest: +SKIP
    """

    def __init__(self, weight: float | Tensor, weights: bool = False) -> None:
        super().__init__()
        self.weight, self.weights = weight, weights

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or in_data_plate(msg) == self.weights:
            return
        infer = msg["infer"]
        msg["infer"] = {
            **infer,
            "kl_weight": self.weight * infer.get("kl_weight", 1.0),
            "unweighted_scale": infer.get("unweighted_scale", msg["scale"]),
        }
        msg["scale"] = self.weight * msg["scale"]
