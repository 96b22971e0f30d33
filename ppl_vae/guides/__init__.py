"""Amortised guides q(z | x), built from any prior by tracing it once.

A guide here runs inside the ambient data plate, as a prior does: `posterior(x)` samples every
latent site of the prior. It knows sites and an encoder network; it knows nothing of decoders,
likelihoods or estimators.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pyro.infer.autoguide import AutoGuide

from ppl_vae import checks
from ppl_vae.guides.diagonal import DiagonalGuide
from ppl_vae.guides.full_normal import FullNormalGuide
from ppl_vae.guides.iaf import IAFGuide
from ppl_vae.guides.implicit import ImplicitGuide
from ppl_vae.guides.ladder import LadderGuide
from ppl_vae.guides.mixture import MixtureGuide
from ppl_vae.guides.own import own_posterior
from ppl_vae.guides.point import PointGuide
from ppl_vae.guides.program import DataProgram
from ppl_vae.guides.residual import ResidualGuide
from ppl_vae.guides.sites import LatentSite, latent_sites, owner
from ppl_vae.parts.slot import Slot
from ppl_vae.protocols import Posterior

__all__ = [
    "POSTERIOR",
    "POSTERIORS",
    "DataProgram",
    "LatentSite",
    "build_own_posterior",
    "build_posterior",
    "latent_sites",
    "owner",
]

POSTERIORS: dict[str, type[Posterior]] = {
    "diagonal_normal": DiagonalGuide,
    "full_normal": FullNormalGuide,
    "iaf": IAFGuide,
    "mixture": MixtureGuide,
    "implicit": ImplicitGuide,
    "ladder": LadderGuide,
    "residual": ResidualGuide,
    "point": PointGuide,
}


POSTERIOR = Slot(
    "posterior",
    POSTERIORS,
    (
        "encoder",
        "feature_size",
        "sites",
        "prior",
        "init",
        "activation",
        "event_shape",
        "latent_size",
    ),
)


def build_posterior(name: str, options: Mapping[str, Any], **offers: Any) -> Posterior:
    """The guide of a name.

    Args:
        name: one of `POSTERIORS`.
        options: the user's.
        **offers: what the guide may ask for by the names of its signature: encoder, sites, prior
            and so on.

    Raises:
        InputError: for an unknown name or option.
    """
    kind = POSTERIOR.find(None, name)
    return kind(**POSTERIOR.arguments(kind, options, offers))


def build_own_posterior(
    posterior: Any,
    options: Mapping[str, Any],
    sites: Sequence[LatentSite],
    event_shape: tuple[int, ...],
    latent_size: int,
) -> tuple[Any, bool]:
    """A posterior of the user's own as owner of its parameters, and whether it opens the plate
    "data" itself.

    A class is given `options` and those of `event_shape` (of x) and `latent_size` that its
    signature names. Raises `InputError` for what is no q(z|x), and for an unknown option.
    """
    if inspect.isclass(posterior) and not issubclass(posterior, AutoGuide):
        offers = {"event_shape": event_shape, "latent_size": latent_size}
        posterior = POSTERIOR.make(posterior, options, **offers)
    else:
        checks.options("posterior_options of your own posterior, no class", options, ())
    return own_posterior(posterior, sites, event_shape)
