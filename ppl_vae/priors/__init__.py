"""Priors p(z): Pyro programs, one short class each.

A prior is any callable that runs inside the ambient data plate, samples the site "z" with event shape
`(latent_size,)` and returns it. It may sample further latent sites before it and own `nn.Parameter`s. It knows
nothing of data, likelihoods or guides, and needs no registration: "my_prior.py:Ring" names one in a user's file.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ppl_vae import checks
from ppl_vae.priors.standard_normal import StandardNormal
from ppl_vae.priors.user_code import is_reference, resolve

__all__ = ["PRIORS", "StandardNormal", "build_prior", "is_reference", "resolve"]

PRIORS: dict[str, type[nn.Module]] = {"standard_normal": StandardNormal}


def build_prior(prior: str | Callable[..., Any], options: Mapping[str, Any], **offers: Any) -> Callable[[], Any]:
    """The prior program for a name, a "file.py:Name" reference, a class, a function or a ready module.

    Classes, and functions that take arguments, are given `options` and those of `offers` (`latent_size`, ...) that
    their signature names. Raises `InputError` for an unknown name, option or reference.
    """
    if isinstance(prior, str):
        prior = resolve(prior) if is_reference(prior) else PRIORS[checks.choice("prior", prior, PRIORS)]
    if isinstance(prior, nn.Module):
        return _without_options(prior, options)
    if not callable(prior):
        checks.refuse(
            "prior", type(prior).__name__, "a callable, a PyroModule or a name", f"known: {', '.join(PRIORS)}"
        )
    return _given(prior, options, offers)


def _without_options(prior: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    checks.options(f"options of the ready-made prior {type(prior).__name__}", options, ())
    return prior


def _given(prior: Callable[..., Any], options: Mapping[str, Any], offers: Mapping[str, Any]) -> Callable[[], Any]:
    parameters = inspect.signature(prior).parameters
    name = getattr(prior, "__name__", type(prior).__name__)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        checks.options(f"option of prior {name}", options, [p for p in parameters if p not in offers])
    arguments = {**{k: v for k, v in offers.items() if k in parameters}, **options}
    required = [k for k, p in parameters.items() if p.default is p.empty and p.kind in (0, 1, 3) and k not in arguments]
    if required:
        checks.refuse(f"prior {name}", f"no value for {', '.join(required)}", "every argument without a default",
                      f"give it as --prior.{required[0]} or prior_options")  # fmt: skip
    if inspect.isclass(prior):
        return prior(**arguments)  # type: ignore[return-value]
    return (lambda: prior(**arguments)) if arguments else prior
