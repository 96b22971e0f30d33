"""ppl-vae: variational autoencoders as Pyro programs.

The public names, gathered from the rooms they live in; nothing is defined here.
"""

__version__ = "0.1.0"

from ppl_vae.checkpoint import load, save
from ppl_vae.checks import InputError
from ppl_vae.datasets import load_data
from ppl_vae.diagnostics import to_elpd, to_inference_data
from ppl_vae.evaluation import log_likelihood, lower_bound
from ppl_vae.training import History, fit
from ppl_vae.vae import VAE, VAEConfig, build

__all__ = [
    "VAE",
    "History",
    "InputError",
    "VAEConfig",
    "build",
    "fit",
    "load",
    "load_data",
    "log_likelihood",
    "lower_bound",
    "save",
    "to_elpd",
    "to_inference_data",
]
