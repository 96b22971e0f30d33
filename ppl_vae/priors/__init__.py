"""Priors p(z): Pyro programs, one short class each.

A prior is any callable that runs inside the ambient data plate, samples the site "z" with event
shape `(latent_size,)` and returns it. It may sample further latent sites before it and own
parameters; an index before "z" marked `infer={"enumerate": "parallel"}` is summed out. Every site
is inside the plate, so it is one value a datum: what all data share, a global scale say, is a
parameter. A class that inherits `protocols.InitialisedFromData` is shown the training data before
the first step. It knows nothing of likelihoods or guides, and needs no registration:
"my_prior.py:Ring" names one in a user's file.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ppl_vae import checks
from ppl_vae.parts.slot import Slot
from ppl_vae.parts.user_code import is_program, made
from ppl_vae.priors.binary_mixture import BinaryMixture
from ppl_vae.priors.flow import Flow
from ppl_vae.priors.gaussian_mixture import GaussianMixture
from ppl_vae.priors.ladder import Ladder
from ppl_vae.priors.laplace import Laplace
from ppl_vae.priors.nvae import NVAE
from ppl_vae.priors.relaxed_bernoulli import RelaxedBernoulli
from ppl_vae.priors.relevance import Relevance
from ppl_vae.priors.sparse_beta import SparseBeta
from ppl_vae.priors.standard_normal import StandardNormal
from ppl_vae.priors.student_t import StudentT
from ppl_vae.priors.two_level import TwoLevel
from ppl_vae.priors.vamp import Vamp
from ppl_vae.protocols import MadeOfPosterior

__all__ = ["PRIOR", "PRIORS", "build_prior", "made_of_posterior"]

PRIORS: dict[str, type[nn.Module]] = {
    "standard_normal": StandardNormal,
    "laplace": Laplace,
    "student_t": StudentT,
    "sparse_beta": SparseBeta,
    "binary_mixture": BinaryMixture,
    "relaxed_bernoulli": RelaxedBernoulli,
    "gaussian_mixture": GaussianMixture,
    "vamp": Vamp,
    "flow": Flow,
    "relevance": Relevance,
    "two_level": TwoLevel,
    "ladder": Ladder,
    "nvae": NVAE,
}


PRIOR = Slot("prior", PRIORS, ("latent_size", "event_shape", "encode"))


def build_prior(prior: Any, options: Mapping[str, Any], **offers: Any) -> Callable[[], Any]:
    """The prior as a program without arguments.

    Classes, and functions that take arguments, are given `options` and those of `offers` that their
    signature names.

    Args:
        prior: a name, "file.py:Name", a class, a function or a ready module.
        options: the user's.
        offers: `latent_size` and `event_shape` (of x); for a class that inherits `MadeOfPosterior`
            `encode` too, the guide's own q(z|x) as a function of x.

    Raises:
        InputError: for what is no program, and for an unknown option.
    """
    prior = PRIOR.find(prior, "")
    if isinstance(prior, nn.Module):
        return PRIOR.without_options(prior, options)
    if not is_program(prior):
        checks.refuse(
            "prior",
            type(prior).__name__,
            "a callable, a PyroModule or a name",
            f"such as lambda: pyro.sample('z', distribution); known: {', '.join(PRIORS)}",
        )
    arguments = PRIOR.arguments(prior, options, offers)
    _check_required(prior, arguments)
    if inspect.isclass(prior):
        return made("prior", prior, **arguments)
    return functools.partial(prior, **arguments) if arguments else prior


def made_of_posterior(prior: Any) -> bool:
    """Whether a prior is a class that the guide's own q(z|x) is handed to.

    Args:
        prior: a class, a function or a module.
    """
    return inspect.isclass(prior) and issubclass(prior, MadeOfPosterior)


def _check_required(prior: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    name = getattr(prior, "__name__", type(prior).__name__)
    parameters = inspect.signature(prior).parameters
    required = [
        k
        for k, p in parameters.items()
        if p.default is p.empty and p.kind in (0, 1, 3) and k not in arguments
    ]
    if required:
        hint = (
            f"a prior is given no data; a constant is --prior.{required[0]} or an entry of "
            "prior_options"
        )
        if "encode" in required:
            hint = "a class that inherits ppl_vae.protocols.MadeOfPosterior is given encode"
        checks.refuse(
            f"prior {name}",
            f"no value for {', '.join(required)}",
            "every argument without a default",
            hint,
        )
