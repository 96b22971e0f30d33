"""What can be believed of q(z|x) and log p(x): draws for arviz, and checks with a value, a threshold and a verdict.

Knows evaluation and arviz's containers (in `inference_data.py` alone); knows nothing of training runs or folders.
"""

from ppl_vae.diagnostics.inference_data import to_inference_data
from ppl_vae.diagnostics.verdicts import Check, diagnose

__all__ = ["Check", "diagnose", "to_inference_data"]
