"""Distributions that torch and Pyro lack, or have with less precision than single floats hold.

Knows torch and Pyro's base classes alone; knows nothing of priors, guides or likelihoods.
"""

from ppl_vae.distributions.censored_beta import CensoredBeta
from ppl_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from ppl_vae.distributions.logistic_sigmoid import LogisticSigmoid
from ppl_vae.distributions.remembered import RememberingSigmoid

__all__ = ["CensoredBeta", "ContinuousBernoulli", "LogisticSigmoid", "RememberingSigmoid"]
