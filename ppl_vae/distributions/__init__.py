"""Distributions that torch and Pyro lack, or have with less precision than single floats hold.

Knows torch and Pyro's base classes alone; knows nothing of priors, guides or likelihoods.
"""

from ppl_vae.distributions.censored_beta import CensoredBeta
from ppl_vae.distributions.codes import Codes
from ppl_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from ppl_vae.distributions.discretized_logistic import DiscretizedLogistic, GreyLevels
from ppl_vae.distributions.in_units import InUnits
from ppl_vae.distributions.incomplete import Incomplete, entry_log_prob, fillers
from ppl_vae.distributions.logistic_sigmoid import LogisticSigmoid
from ppl_vae.distributions.remembered import RememberingSigmoid
from ppl_vae.distributions.table import Table
from ppl_vae.distributions.zero_inflated import ZeroInflatedNegativeBinomial

__all__ = [
    "CensoredBeta",
    "Codes",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "GreyLevels",
    "InUnits",
    "Incomplete",
    "LogisticSigmoid",
    "RememberingSigmoid",
    "Table",
    "ZeroInflatedNegativeBinomial",
    "entry_log_prob",
    "fillers",
]
