"""What model and guide share: a Pyro program over a plate of data.

Knows the plate and the parameter store; knows nothing of latents or networks.
"""

import contextlib
import itertools
from collections.abc import Mapping
from typing import Any

import pyro
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.handlers.kl_weight import DATA_PLATE
from ppl_vae.handlers.pyro_modules import name_pyro_modules

__all__ = ["DataProgram", "named"]

_counter = itertools.count()


def named(theta: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name begins with a prefix, under the rest of their name.

    Args:
        theta: tensors by name.
        prefix: what the names begin with.
    """
    return {
        name.removeprefix(prefix): value for name, value in theta.items() if name.startswith(prefix)
    }


class DataProgram(nn.Module):
    """Abstract program `forward(x)`, with its data plate and its parameters made known to Pyro.

    In training mode a batch stands for N data, so the plate scales by N/M; in evaluation mode, or
    while N is None, it stands for itself, so that NUTS or a lower bound on a few data is not
    tempered by N/M.

    Args:
        num_data: N, the number of training data; None while it is not known.
    """

    def __init__(self, num_data: int | None = None) -> None:
        super().__init__()
        self.num_data = num_data
        self.weights: Any = None  # p(theta) or q(theta), a program that returns {name: W}
        self._store_name = self._new_name()

    def _new_name(self) -> str:
        return f"{type(self).__name__.lower()}{next(_counter)}"

    def __setstate__(self, state: Any) -> None:
        """A copy (`copy.deepcopy`) has parameters of its own, so it needs a name of its own."""
        super().__setstate__(state)
        self._store_name = self._new_name()
        name_pyro_modules(self, self._store_name)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):
            name_pyro_modules(value, f"{self._store_name}.{name}")

    def data_plate(self, x: Tensor) -> pyro.plate:
        """The plate "data" over the rows of x, at dim -1: another plate there is refused by Pyro.

        Moved left of it, every datum would be counted once for each index of the other plate.

        Args:
            x: data (M, *event_shape).
        """
        size = self.num_data if self.training and self.num_data is not None else len(x)
        return pyro.plate(DATA_PLATE, size, subsample=x, dim=-1)

    def at_home(self) -> contextlib.AbstractContextManager[Any]:
        """Inside the block, tensors that a user's program makes are where the parameters are.

        That holds of those that are made without a device, as by `torch.zeros(3)`.
        """
        first = next(self.parameters(), None)
        if first is None or first.device.type == "cpu":
            return contextlib.nullcontext()
        return first.device

    def check_place(self) -> None:
        """Refuse, as Pyro does, another plate at dim -1, where a program opens its plate itself."""
        with poutine.block(), pyro.plate("place of the data", 1, dim=-1):
            pass

    def draw_weights(self, prefix: str) -> dict[str, Tensor]:
        """Sample all of theta, if there is any: to be called before the plate.

        Inside the plate of data a weight would be drawn for each datum, and its KL scaled by N/M.

        Args:
            prefix: which weights are returned, those whose name begins with it.

        Returns:
            The weights, under the rest of their name.
        """
        return {} if self.weights is None else named(self.weights(), prefix)

    def announce_parameters(self) -> None:
        """Tell handlers (stock `SVI`) of every parameter, under a name of this program's own.

        No other program in the process has that name. Silent where parameters are local to modules,
        as in our own training loop: one message a parameter is a tenth of a small model's step.
        """
        if not pyro.settings.get("module_local_params"):
            pyro.module(self._store_name, self)
