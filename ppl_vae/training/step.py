"""One training step as ordinary Pyro, and what any kind of step is: the eager reference that recorded steps equal.

Knows an objective and the two programs; knows nothing of epochs, data sets or files.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.objectives import Objective
from ppl_vae.vae import VAE

__all__ = ["SCHEDULED", "EagerStep", "ObjectiveModule", "Step", "local_parameters"]

# what may change between two steps, in the order in which a step takes it: 0-dimensional tensors, never numbers
SCHEDULED = ("kl_weight", "weight_kl_weight", "inverse_num_data")


class Step(Protocol):
    """(batch (M, *event_shape), scheduled (3,)) -> (gradients, report (R,) in nats per datum); report[0] is the loss."""

    names: list[str]
    tier: str

    def __call__(self, batch: Tensor, scheduled: Tensor) -> tuple[list[Tensor], Tensor]:
        """One estimate of the loss and its gradients; parameters are left as they are."""


@contextlib.contextmanager
def local_parameters() -> Iterator[None]:
    """Parameters belong to modules, not to Pyro's global store, and per-call checks are off, inside the block only."""
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        yield


class ObjectiveModule(nn.Module):
    """The objective of a VAE as one function of its parameters and buffers: what `functional_call` needs to swap them."""

    def __init__(self, vae: VAE, objective: Objective) -> None:
        super().__init__()
        self.vae, self.objective = vae, objective

    def forward(self, batch: Tensor, scheduled: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, report) for one batch."""
        return self.objective(self.vae.model, self.vae.guide, batch, *scheduled.unbind())


class EagerStep:
    """Handlers, programs and autograd run at every step."""

    tier = "off"

    def __init__(self, module: ObjectiveModule, parameters: list[Tensor]) -> None:
        self.module, self.parameters = module, parameters
        self.names: list[str] = []

    def __call__(self, batch: Tensor, scheduled: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients and report of this batch; a parameter the loss does not reach has gradient 0."""
        loss, report = self.module(batch, scheduled)
        self.names = ["loss", *report]
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
        return list(gradients), torch.stack([loss.detach(), *report.values()])
