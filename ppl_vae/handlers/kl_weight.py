"""Weigh the KL terms of an evidence lower bound, in model and guide at once.

Knows sample sites only. Entered outside an estimator, it scales every unobserved site of both
programs, so the two estimators agree: a scale on the model alone is ignored by
`TraceMeanField_ELBO`, which reads the guide's.
"""

from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = ["DATA_PLATE", "KLWeight", "in_data_plate", "unweighted_log_prob", "unweighted_scale"]

DATA_PLATE = "data"


def in_data_plate(site: Any) -> bool:
    """Whether a site belongs to single data (latents z) rather than to all of them (weights theta).

    Args:
        site: a site of a trace, or a message.
    """
    return any(frame.name == DATA_PLATE for frame in site["cond_indep_stack"])


def unweighted_scale(site: Any) -> float | Tensor:
    """A site's scale without the data plate's N/M and without a KL weight; almost always 1.

    Args:
        site: a site of a trace.
    """
    scale = site.get("unweighted_scale", site["scale"])
    for frame in site["cond_indep_stack"]:
        if frame.full_size is not None and frame.full_size != frame.size:
            scale = scale * frame.size / frame.full_size
    return scale


def unweighted_log_prob(site: Any, value: Tensor | None = None) -> Tensor:
    """log p of a site's value without a KL weight, (*batch_shape,) nats.

    Args:
        site: a site of a trace.
        value: another value to take in place of the site's, of its shape; None takes the site's.
    """
    value = site["value"] if value is None else value
    return scale_and_mask(
        site["fn"].log_prob(value), scale=unweighted_scale(site), mask=site["mask"]
    )


class KLWeight(Messenger):
    """Multiply the KL terms of a bound by weights, 0 included.

    bound = E_q[log p(x|z, theta)] - weight * KL(q(z|x) || p(z)) - weights * KL(q(theta) ||
    p(theta)) / N

    A site keeps its weight and the scale without it, so that a report can give the KL itself in
    nats: beside its `infer`, which replay hands on from the guide's site to the model's.

    Args:
        weight: of the KL terms of latents, a number or a 0-dimensional tensor.
        weights: of the KL terms of Bayesian weights, a number or a 0-dimensional tensor.

    >>> import torch
    >>> from pyro.infer import Trace_ELBO
    >>> from ppl_vae import VAEConfig, build
    >>> vae = build(VAEConfig((4,), latent_size=2, hidden_sizes=(8,)), seed=0)
    >>> with KLWeight(0.5):
    ...     loss = Trace_ELBO().loss(vae.model, vae.guide, torch.rand(10, 4))
    """

    def __init__(self, weight: float | Tensor, weights: float | Tensor = 1.0) -> None:
        super().__init__()
        self.weight, self.weights = weight, weights

    def _pyro_sample(self, msg: Any) -> None:
        factor = msg["infer"].get(
            "is_auxiliary"
        )  # a guide's factor is part of log q, though it counts as observed
        if (msg["is_observed"] and not factor) or site_is_subsample(msg):
            return
        weight, before = self.weight if in_data_plate(msg) else self.weights, msg.get("kl_weight")
        msg.setdefault("unweighted_scale", msg["scale"])
        msg["kl_weight"] = weight if before is None else weight * before
        msg["scale"] = weight * msg["scale"]
