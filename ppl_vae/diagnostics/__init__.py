"""What can be believed of q(z|x) and log p(x): draws for arviz, and checks with a value, a
threshold and a verdict.

Knows evaluation and arviz's containers (in `containers.py` alone); knows nothing of training
runs or folders.
"""

from ppl_vae.diagnostics.calibration import Calibration, simulation_based_calibration
from ppl_vae.diagnostics.figures import (
    calibration_figure,
    examination_figures,
    pareto_k_figure,
    predictive_figure,
    signal_to_noise_figure,
)
from ppl_vae.diagnostics.inference_data import to_datatree, to_elpd, to_inference_data
from ppl_vae.diagnostics.predictive import PredictiveCheck, posterior_predictive_check
from ppl_vae.diagnostics.pyro_runs import from_pyro
from ppl_vae.diagnostics.reference import NutsReference, nuts_reference
from ppl_vae.diagnostics.verdicts import Check, Checks, Examination, diagnose, examine
from ppl_vae.diagnostics.weight_posterior import weight_convergence, weights_to_inference_data
from ppl_vae.diagnostics.weights import (
    functional_spread,
    lower_bound_when_pruned,
    weight_signal_to_noise,
)

__all__ = [
    "Calibration",
    "Check",
    "Checks",
    "Examination",
    "NutsReference",
    "PredictiveCheck",
    "calibration_figure",
    "diagnose",
    "examination_figures",
    "examine",
    "from_pyro",
    "functional_spread",
    "lower_bound_when_pruned",
    "nuts_reference",
    "pareto_k_figure",
    "posterior_predictive_check",
    "predictive_figure",
    "signal_to_noise_figure",
    "simulation_based_calibration",
    "to_datatree",
    "to_elpd",
    "to_inference_data",
    "weight_convergence",
    "weight_signal_to_noise",
    "weights_to_inference_data",
]
