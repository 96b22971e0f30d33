"""A generative model as a part of another Pyro program: its sites under names of their own.

Knows Pyro programs and modules; knows nothing of what the other program is.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pyro
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn

from ppl_vae.handlers.layers import call

__all__ = ["EmbeddedModel"]


class _Prefixed(Messenger):
    """Inside, each sample site is named "PREFIX.NAME"."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def _pyro_sample(self, msg: Message) -> None:
        msg["name"] = f"{self.prefix}.{msg['name']}"


class EmbeddedModel(nn.Module):
    """z ~ p(z), then E[x|z] or x ~ p(x|z), as a statement of another Pyro program.

    It is a copy, its parameters are fixed, and it is always in evaluation mode. Under a plate it is
    drawn once for each index.

    Args:
        prior: a program that samples the site "z", and maybe others, and returns it.
        decoder: a module z -> the distribution of x.
        theta: values of the decoder's parameters, by name, that stand in for its own.
        prefix: sites are named "PREFIX.z" and so on.
        noise: whether x is a site of its own, "PREFIX.x", rather than its mean.
    """

    def __init__(
        self,
        prior: Callable[[], Any],
        decoder: nn.Module,
        theta: Mapping[str, Tensor],
        prefix: str,
        noise: bool,
    ) -> None:
        super().__init__()
        # together, so that what both hold stays one
        self.prior, self.decoder = copy.deepcopy((prior, decoder))
        self.theta = {name: value.detach().clone() for name, value in theta.items()}
        self.prefix, self.noise = prefix, noise
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "EmbeddedModel":
        """Stays in evaluation mode: nothing of it is trained."""
        return super().train(False)

    def forward(self) -> Tensor:
        """Run it; x or its mean, (*plates, *event_shape)."""
        with _Prefixed(self.prefix), pyro.settings.context(module_local_params=True):
            given_z = call(self.decoder, self.theta, self.prior())
            return pyro.sample("x", given_z) if self.noise else given_z.mean
