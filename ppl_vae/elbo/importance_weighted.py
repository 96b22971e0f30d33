"""Importance-weighted bounds, and Rényi's, for each datum by itself."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyro import poutine
from pyro.infer import RenyiELBO
from torch import nn

from ppl_vae import checks
from ppl_vae.elbo.sampled import SampledELBO
from ppl_vae.elbo.terms import KL, Terms
from ppl_vae.handlers.kl_weight import in_data_plate
from ppl_vae.handlers.strata import stratum_weights
from ppl_vae.protocols import CouplesData

__all__ = ["ImportanceWeightedELBO", "coupling_modules"]


class ImportanceWeightedELBO(SampledELBO, RenyiELBO):
    """1/(1 - alpha) log(1/K sum_k (p(x, z_k) / q(z_k|x))^(1 - alpha)), for each datum by itself.

    With alpha = 0 the importance-weighted bound, which tends to log p(x) as K grows; K = 1 is
    estimator A. Otherwise a variational Rényi bound, which tends to log p(x) minus the Rényi
    divergence of order alpha from q(z|x) to p(z|x); alpha = 1 would be A. `pyro.infer.RenyiELBO`
    has the plate's scale N/M inside the logarithm, and so is no bound on a minibatch; here a
    minibatch and its scale leave it one. Where the model couples the data of a batch in training
    (`coupling_modules`), its training value is that of a plug-in objective and bounds no log p(x).

    Args:
        num_particles: K, draws of z a datum.
        alpha: the order, at least 0 and not 1; below 0 draws give no bound.

    Raises:
        InputError: for another alpha, and for Bayesian weights, which all data share.

    Sources: Importance weighted autoencoders (2015), equation 8; Rényi divergence variational
    inference (2016), equation 14.
    """

    def __init__(self, num_particles: int = 2, alpha: float = 0.0) -> None:
        super().__init__(num_particles)
        if not (0 <= checks.number("alpha", alpha) < math.inf) or alpha == 1:
            checks.refuse("alpha", alpha, "an order of at least 0, not 1", "1 is SampledELBO")
        self.alpha = alpha

    def _combined(self, terms: Terms, guide_trace: poutine.Trace) -> Terms:
        if self.num_particles == 1:
            return terms
        strata = stratum_weights(guide_trace)
        each = terms
        if strata is not None:  # the power is of p / q, not of the stratum
            log_strata = strata.log() / (1 - self.alpha)
            each = replace(terms, log_likelihood=terms.log_likelihood + log_strata)
        return replace(terms.averaged(strata), draws=each, order=self.alpha)

    def _check_sites(
        self, model_trace: poutine.Trace, latent: Mapping[str, Any], kl: Mapping[str, KL]
    ) -> None:
        shared = [name for name, site in latent.items() if not in_data_plate(site)]
        if shared:
            checks.refuse(
                "importance-weighted bound",
                f"Bayesian weights {', '.join(shared)}",
                "latents of single data",
                "use estimator A or B",
            )


def coupling_modules(model: nn.Module, guide: nn.Module) -> list[str]:
    """What makes a datum's density depend on the others of its batch, in words.

    Batch normalisation and whatever inherits `CouplesData`, in training mode, in the model alone.
    """
    of_guide = set(guide.modules())
    found = set()
    for module in model.modules():
        if module in of_guide or not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            found.add("batch normalisation")
        elif isinstance(module, CouplesData):
            found.add(type(module).__name__)
    return sorted(found)
