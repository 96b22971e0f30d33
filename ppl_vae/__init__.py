"""ppl-vae: variational autoencoders as Pyro programs.

The public names, gathered from the rooms they live in; nothing is defined here. A room is loaded
when a name of its own is first asked for, so that the command can handle its signals before.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ppl_vae.checkpoint import load, save
    from ppl_vae.checks import InputError
    from ppl_vae.datasets import load_data
    from ppl_vae.diagnostics import to_elpd, to_inference_data
    from ppl_vae.evaluation import impute, log_likelihood, lower_bound
    from ppl_vae.exporting import export
    from ppl_vae.training import History, fit
    from ppl_vae.vae import VAE, VAEConfig, build

__all__ = [
    "VAE",
    "History",
    "InputError",
    "VAEConfig",
    "build",
    "export",
    "fit",
    "impute",
    "load",
    "load_data",
    "log_likelihood",
    "lower_bound",
    "save",
    "to_elpd",
    "to_inference_data",
]

_ROOMS = {
    "checkpoint": ("load", "save"),
    "checks": ("InputError",),
    "datasets": ("load_data",),
    "diagnostics": ("to_elpd", "to_inference_data"),
    "exporting": ("export",),
    "evaluation": ("impute", "log_likelihood", "lower_bound"),
    "training": ("History", "fit"),
    "vae": ("VAE", "VAEConfig", "build"),
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"ppl_vae.{name}")
    for room, names in _ROOMS.items():
        if name in names:
            value = getattr(importlib.import_module(f"ppl_vae.{room}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'ppl_vae' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
