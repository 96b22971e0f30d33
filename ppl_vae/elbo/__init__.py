"""Estimators of the evidence lower bound, as subclasses of Pyro's own.

`SampledELBO` is estimator A (`pyro.infer.Trace_ELBO`), `MeanFieldELBO` estimator B
(`pyro.infer.TraceMeanField_ELBO`). Each works in `pyro.infer.SVI`, as `elbo(model, guide)` with an
optimiser of torch, and in `fit(estimator=...)`.
"""

from ppl_vae.elbo.balanced import BalancedELBO
from ppl_vae.elbo.doubly_reparameterized import DoublyReparameterizedELBO
from ppl_vae.elbo.importance_weighted import ImportanceWeightedELBO, coupling_modules
from ppl_vae.elbo.mean_field import MeanFieldELBO
from ppl_vae.elbo.report import ESTIMATOR, ESTIMATORS, estimator_from, kl_report
from ppl_vae.elbo.sampled import SampledELBO
from ppl_vae.elbo.terms import KL, Terms
from ppl_vae.elbo.termwise import TermwiseELBO, TermwiseModule

__all__ = [
    "ESTIMATOR",
    "ESTIMATORS",
    "KL",
    "BalancedELBO",
    "DoublyReparameterizedELBO",
    "ImportanceWeightedELBO",
    "MeanFieldELBO",
    "SampledELBO",
    "Terms",
    "TermwiseELBO",
    "TermwiseModule",
    "coupling_modules",
    "estimator_from",
    "kl_report",
]
