"""Likelihoods p(x|z): a decoder's outputs -> the Pyro distribution of x.

The simplest form is a function with one argument a map of the decoder's, each (*, *event_shape):

    def negative_binomial(log_total, logits):
        return dist.NegativeBinomial(log_total.exp(), logits=logits)

Its number of arguments is the number of maps, the support of x is the distribution's own, and
arguments with a default are options. A module with `forward(self, ...)` of that form may own
parameters. It knows nothing of latents, priors or guides, and needs no registration:
"my_likelihood.py:negative_binomial" names one in a user's file.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ppl_vae import checks
from ppl_vae.likelihoods import functions
from ppl_vae.likelihoods.columns import Columns
from ppl_vae.likelihoods.discrete import Categorical, DiscretizedLogistic
from ppl_vae.likelihoods.own import DecoderDistribution, FunctionLikelihood
from ppl_vae.likelihoods.pixels import (
    Bernoulli,
    ContinuousBernoulli,
    NormalOptimal,
    NormalPixelwise,
    NormalShared,
    NormalUnit,
    PixelLikelihood,
)
from ppl_vae.parts.slot import Slot
from ppl_vae.parts.user_code import is_program

__all__ = [
    "LIKELIHOOD",
    "LIKELIHOODS",
    "DecoderDistribution",
    "FunctionLikelihood",
    "Likelihood",
    "PixelLikelihood",
    "build_likelihood",
]

Likelihood = PixelLikelihood | FunctionLikelihood | DecoderDistribution

LIKELIHOODS: dict[str, Callable[..., Any]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "normal_unit": NormalUnit,
    "normal_shared": NormalShared,
    "normal_optimal": NormalOptimal,
    "normal_pixelwise": NormalPixelwise,
    "student_t": functions.student_t,
    "log_normal": functions.log_normal,
    "beta": functions.beta,
    "poisson": functions.poisson,
    "negative_binomial": functions.negative_binomial,
    "zero_inflated_negative_binomial": functions.zero_inflated_negative_binomial,
    "categorical": Categorical,
    "discretized_logistic": DiscretizedLogistic,
    "columns": Columns,
    "decoder": DecoderDistribution,
}
LIKELIHOOD = Slot("likelihood", LIKELIHOODS, ("event_shape",))


def build_likelihood(
    likelihood: Any, event_shape: tuple[int, ...], options: Mapping[str, Any]
) -> Likelihood:
    """The likelihood as a module.

    Args:
        likelihood: a name, "file.py:Name", a class, a function or a module.
        event_shape: that of a datum.
        options: of a class's constructor, or arguments of a function that have a default.

    Raises:
        InputError: for what is no likelihood, and for an unknown option.
    """
    likelihood = LIKELIHOOD.find(likelihood, "")
    if not is_program(likelihood):
        checks.refuse(
            "likelihood",
            type(likelihood).__name__,
            f"one of {', '.join(LIKELIHOODS)}, or a function of the decoder's outputs",
        )
    start = functions.STARTS.get(likelihood) if inspect.isfunction(likelihood) else None
    if inspect.isclass(likelihood):
        likelihood = LIKELIHOOD.make(likelihood, options, event_shape=event_shape)
    elif isinstance(likelihood, nn.Module):
        LIKELIHOOD.without_options(likelihood, options)
    else:
        _check_options(likelihood, options)
        likelihood = functools.partial(likelihood, **options) if options else likelihood
    if isinstance(likelihood, PixelLikelihood | DecoderDistribution):
        return likelihood
    return FunctionLikelihood(likelihood, event_shape, start)


def _check_options(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.default is not p.empty]
    checks.options(f"option of likelihood {function.__name__}", options, known)
