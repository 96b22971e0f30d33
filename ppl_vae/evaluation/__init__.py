"""What a trained pair of programs is worth: bounds, log p(x), reconstruction error, active units.

Knows the two programs, estimators and the recorder of training; knows nothing of arviz, figures or
files. Everything runs in evaluation mode, without gradients of parameters, in blocks of bounded
memory.
"""

from ppl_vae.evaluation.annealed import BidirectionalGap, bidirectional_gap
from ppl_vae.evaluation.gaps import InferenceGaps, inference_gaps
from ppl_vae.evaluation.imputation import impute
from ppl_vae.evaluation.likelihood import LogLikelihood, log_likelihood
from ppl_vae.evaluation.measures import active_units, lower_bound, reconstruction_error

__all__ = [
    "BidirectionalGap",
    "InferenceGaps",
    "LogLikelihood",
    "active_units",
    "bidirectional_gap",
    "impute",
    "inference_gaps",
    "log_likelihood",
    "lower_bound",
    "reconstruction_error",
]
