"""Effect handlers that reinterpret model and guide from outside, one idea a file. They know sites,
never a VAE.
"""

from ppl_vae.handlers.flipout import Flipout
from ppl_vae.handlers.kl_weight import KLWeight
from ppl_vae.handlers.layers import LayerCall, WeightLayers, call
from ppl_vae.handlers.local_reparameterization import LocalReparameterization

__all__ = ["Flipout", "KLWeight", "LayerCall", "LocalReparameterization", "WeightLayers", "call"]
