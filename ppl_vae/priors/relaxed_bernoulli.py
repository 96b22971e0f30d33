"""The relaxed Bernoulli prior: a binary code that gradients pass through."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks

__all__ = ["RelaxedBernoulli"]


class RelaxedBernoulli(nn.Module):
    """z_j = sigmoid(l_j / t), l_j logistic: a coin relaxed to (0, 1), t = `temperature`, z (*,
    latent_size).

    l_j > 0 is a fair coin's toss, and as t goes to 0 z_j goes to its outcome: P(z_j > c) =
    sigmoid(-t logit(c)). The guide pushes a Normal through the sigmoid, and KL is sampled. In
    single precision 1 - z_j ends at 6e-8, a logit of 17, beyond which lies a mass sigmoid(-17 t):
    temperatures below 0.2 ask for double precision.
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
        relaxed = dist.RelaxedBernoulli(self.temperature, logits=self.logits, validate_args=False)
        return pyro.sample("z", relaxed.to_event(1))
