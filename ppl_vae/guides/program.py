"""What model and guide share: a Pyro program over a plate of data.

Knows the plate and the parameter store; knows nothing of latents or networks.
"""

import itertools
from typing import Any

import pyro
from torch import Tensor, nn

from ppl_vae.handlers.kl_weight import DATA_PLATE

__all__ = ["DataProgram"]

_counter = itertools.count()


class DataProgram(nn.Module):
    """Abstract program `forward(x)`, x (M, *event_shape), with its data plate and its parameters made known to Pyro.

    In training mode a batch stands for `num_data` data, so the plate scales by N/M; in evaluation mode, or while
    `num_data` is None, it stands for itself, so that NUTS or a lower bound on a few data is not tempered by N/M.
    """

    def __init__(self, num_data: int | None = None) -> None:
        super().__init__()
        self.num_data = num_data
        self._store_name = self._new_name()

    def _new_name(self) -> str:
        return f"{type(self).__name__.lower()}{next(_counter)}"

    def __setstate__(self, state: Any) -> None:
        """A copy (`copy.deepcopy`) has parameters of its own, so it needs a name of its own."""
        super().__setstate__(state)
        self._store_name = self._new_name()

    def data_plate(self, x: Tensor) -> pyro.plate:
        """The plate "data" over the rows of x."""
        size = self.num_data if self.training and self.num_data is not None else len(x)
        return pyro.plate(DATA_PLATE, size, subsample=x)

    def announce_parameters(self) -> None:
        """Tell handlers (stock `SVI`) of every parameter, under a name that no other program in the process has.

        Silent where parameters are local to modules, as in our own training loop: one message a parameter is a tenth
        of a small model's step.
        """
        if not pyro.settings.get("module_local_params"):
            pyro.module(self._store_name, self)
