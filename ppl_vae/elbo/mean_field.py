"""Estimator B: closed-form KL wherever there is one."""

import contextlib
from collections.abc import Mapping
from typing import Any

from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

from ppl_vae import checks
from ppl_vae.elbo.sampled import SampledELBO
from ppl_vae.elbo.terms import KL
from ppl_vae.handlers.kl_weight import unweighted_scale

__all__ = ["MeanFieldELBO"]


class MeanFieldELBO(SampledELBO, TraceMeanField_ELBO):
    """Estimator B: log p(x|z) - KL(q(z|x) || p(z)), the KL in closed form wherever there is one.

    Equal to `pyro.infer.TraceMeanField_ELBO`. A site whose pair of families has no registered
    `kl_divergence` is sampled as under A; `kl_report` says which.

    Args:
        num_particles: K, draws of z a datum, averaged.

    Raises:
        InputError: where the bound would be wrong: besides what A refuses, guide sites in another
            order than the model's, for which a closed-form KL is not the KL of the joint.

    Source: Auto-Encoding Variational Bayes (2013), equation 7.
    """

    def divergence(self, q: Any, p: Any) -> KL:
        """KL(q || p) in closed form, in nats; sampled where there is none."""
        with contextlib.suppress(NotImplementedError):
            value = kl_divergence(q["fn"], p["fn"])
            value = scale_and_mask(value, scale=unweighted_scale(q), mask=q["mask"])
            return KL(value, q.get("kl_weight", 1.0), "analytic")
        return super().divergence(q, p)

    def _check_sites(
        self, model_trace: poutine.Trace, latent: Mapping[str, Any], kl: Mapping[str, KL]
    ) -> None:
        if all(term.kind != "analytic" for term in kl.values()):
            return
        model_order = [name for name in model_trace.nodes if name in latent]
        guide_order = [name for name in latent if name in model_trace.nodes]
        if model_order != guide_order:
            checks.refuse(
                "estimator B",
                f"guide sites in the order {', '.join(guide_order)}",
                f"the model's order, {', '.join(model_order)} (its mean-field condition)",
                "use estimator A or sample the guide's sites top-down",
            )
