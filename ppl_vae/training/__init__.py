"""Training by stochastic variational inference: one visible loop (`loop.py`) over steps of three
tiers.

Knows estimators, optimisers, schedules and checkpoints; knows nothing of evaluation, figures or the
command line.
"""

from ppl_vae.training.callbacks import Event
from ppl_vae.training.history import History
from ppl_vae.training.loop import fit
from ppl_vae.training.schedules import Linear, Stages

__all__ = ["Event", "History", "Linear", "Stages", "fit"]
