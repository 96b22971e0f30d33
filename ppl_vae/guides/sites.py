"""Read the latent sites of a prior from one run of it, and say in words what is wrong with a bad one.

Knows Pyro traces; knows nothing of networks or of how a guide will use a site.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch.distributions import biject_to

from ppl_vae import checks
from ppl_vae.handlers.kl_weight import DATA_PLATE

__all__ = ["LatentSite", "base_distribution", "latent_sites"]


@dataclass(frozen=True)
class LatentSite:
    """A latent site of the prior: its name, event shape, support and the family of its distribution."""

    name: str
    event_shape: torch.Size
    support: Any
    family: type

    @property
    def unconstrained_shape(self) -> torch.Size:
        """Event shape before `biject_to(support)`; differs from `event_shape` on a simplex, say."""
        return biject_to(self.support).inverse_shape(self.event_shape)


def base_distribution(fn: Any) -> Any:
    """The distribution under `to_event`, `expand` and `mask`."""
    while isinstance(fn, (dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return fn


def latent_sites(prior: Callable[[], Any], latent_size: int) -> list[LatentSite]:
    """The latent sites of `prior` in program order, "z" among them with event shape `(latent_size,)`.

    Raises `InputError` when the prior raises, has no site "z", or a site has the wrong shape, clashes or is discrete.
    """
    size = latent_size + 1  # no event size equals it, so a missing `.to_event(1)` cannot pass for a batch
    trace = _trace(prior, size)
    sites = {
        name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not site_is_subsample(site)
    }
    if "x" in sites:
        checks.refuse("prior", "a site named 'x'", "any name but the data's own", "rename the site")
    latents = {name: site for name, site in sites.items() if not site["is_observed"]}
    if "z" not in latents:
        checks.refuse(
            "prior", f"sites {', '.join(latents) or 'none'}", "a latent site named 'z'", "pyro.sample('z', ...)"
        )
    for name, site in latents.items():
        _check(name, site["fn"], size, latent_size)
    distributions: dict[str, Any] = {name: site["fn"] for name, site in latents.items()}
    return [LatentSite(n, d.event_shape, d.support, type(base_distribution(d))) for n, d in distributions.items()]


def _trace(prior: Callable[[], Any], size: int) -> poutine.Trace:
    def program() -> Any:
        with pyro.plate(DATA_PLATE, size):
            return prior()

    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), pyro.settings.context(module_local_params=True):
            return poutine.trace(program).get_trace()
    except checks.InputError:
        raise
    except Exception as error:
        checks.refuse("prior", f"{type(error).__name__}: {error}", "a program that runs inside a plate of data",
                      "give each site its event dimension with .to_event(1)")  # fmt: skip


def _check(name: str, fn: Any, size: int, latent_size: int) -> None:
    hint = "declare event dimensions with .to_event(1)"
    if name == "z" and tuple(fn.event_shape) != (latent_size,):
        checks.refuse("site 'z'", f"event shape {tuple(fn.event_shape)}", f"({latent_size},), the latent_size", hint)
    if tuple(fn.batch_shape) != (size,):
        expected = "the data plate's batch shape alone, one value a datum"
        checks.refuse(f"site '{name}'", f"batch shape {tuple(fn.batch_shape)} in a plate of {size}", expected, hint)
    if fn.support is not None and fn.support.is_discrete:
        checks.refuse(f"site '{name}'", f"discrete {type(base_distribution(fn)).__name__}", "a continuous distribution",
                      "use a relaxed one (RelaxedBernoulliStraightThrough, RelaxedOneHotCategorical) or a "
                      "MixtureSameFamily that sums the index out")  # fmt: skip
