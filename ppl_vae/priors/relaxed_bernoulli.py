"""The relaxed Bernoulli prior: a binary code that gradients pass through."""

import pyro
import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.distributions import LogisticSigmoid

__all__ = ["RelaxedBernoulli"]


class RelaxedBernoulli(nn.Module):
    """z_j = sigmoid(l_j / t), l_j logistic: a coin relaxed to (0, 1), z (*, latent_size).

    l_j > 0 is a fair coin's toss, and as t goes to 0 z_j goes to its outcome: P(z_j > c) =
    sigmoid(-t logit(c)). The guide pushes a Normal through the sigmoid, and KL is sampled. Both
    densities are taken at the logit a draw was made from: in single precision z_j itself ends at a
    logit of 17, beyond which lies a mass sigmoid(-17 t), 3 % at t = 0.2.

    Args:
        latent_size: number of coordinates of z.
        temperature: t, above 0.

    Source: The concrete distribution (2017), section 3.1.
    """

    temperature: Tensor
    logits: Tensor

    def __init__(self, latent_size: int, temperature: float = 0.5) -> None:
        super().__init__()
        value = checks.number(
            "prior relaxed_bernoulli's temperature", temperature, 0.0, exclusive=True
        )
        self.register_buffer("temperature", torch.tensor(value), persistent=False)
        self.register_buffer("logits", torch.zeros(latent_size), persistent=False)

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        relaxed = LogisticSigmoid(self.temperature, self.logits, validate_args=False)
        return pyro.sample("z", relaxed.to_event(1))
