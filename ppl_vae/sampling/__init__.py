"""theta by sampling instead of fitting: chains, SWAG, ensembles, draws of q(theta), all giving one
`WeightPosterior`.

Knows trained VAEs; knows nothing of arviz or figures.
"""

from ppl_vae.sampling.fitted import ensemble, fitted, mixture
from ppl_vae.sampling.gradient import stochastic_gradient_hmc, swag
from ppl_vae.sampling.kernels import ConstantSteps, CyclicalSteps
from ppl_vae.sampling.nuts import nuts
from ppl_vae.sampling.posterior import WeightPosterior, bayesian_vae, point_vae
from ppl_vae.sampling.refined import refined_log_likelihood

__all__ = [
    "ConstantSteps",
    "CyclicalSteps",
    "WeightPosterior",
    "bayesian_vae",
    "ensemble",
    "fitted",
    "mixture",
    "nuts",
    "point_vae",
    "refined_log_likelihood",
    "stochastic_gradient_hmc",
    "swag",
]
