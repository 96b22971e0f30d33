"""A prior that tells relevant dimensions from superfluous ones by a scale for each."""

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import get_plates
from torch import Tensor, nn

from ppl_vae import checks

__all__ = ["Relevance"]


class Relevance(nn.Module):
    """z_j ~ N(0, s_j^2), s_j^2 ~ InverseGamma(a, b) one for all data, z (*, latent_size).

    Automatic relevance determination: s is at its maximum a posteriori. The hyper-prior counts once
    for all N data, so each datum bears log p(s) / N, as a factor in training only: a trained s is
    then a constant of the model. A column w_j of the decoder's first layer has the effect s_j
    ||w_j||, which data alone cannot divide. Under w_j ~ N(0, I), `weight_penalty=1` in training,
    the best share of an effect c is s^2 near c^2 / (2a + 2), and a dimension without effect falls
    to the mode b / (a + 1): superfluous dimensions have the least scales.

    Args:
        latent_size: number of coordinates of z.
        shape: a, above 0.
        rate: b, above 0.

    Source: Bayesian PCA (1999), section 3, with scale and loading exchanged.
    """

    def __init__(self, latent_size: int, shape: float = 1.0, rate: float = 1e-4) -> None:
        super().__init__()
        self.shape = checks.number("prior relevance's shape", shape, 0.0, exclusive=True)
        self.rate = checks.number("prior relevance's rate", rate, 0.0, exclusive=True)
        self.log_scale = nn.Parameter(torch.zeros(latent_size))

    def forward(self) -> Tensor:
        """Sample the site "z"; in training add the datum's share of the hyper-prior."""
        num_data = [frame.full_size for frame in get_plates() if frame.name == "data"]
        if self.training and num_data:
            shape, rate = self.log_scale.new_tensor([self.shape, self.rate])
            hyper = dist.InverseGamma(shape, rate, validate_args=False)
            pyro.factor("relevance", hyper.log_prob((2 * self.log_scale).exp()).sum() / num_data[0])
        return pyro.sample(
            "z",
            dist.Normal(0.0 * self.log_scale, self.log_scale.exp(), validate_args=False).to_event(
                1
            ),
        )
