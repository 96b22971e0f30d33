"""Effect handlers that reinterpret model and guide from outside, one idea a file. They know sites, never a VAE."""

from ppl_vae.handlers.kl_weight import KLWeight

__all__ = ["KLWeight"]
