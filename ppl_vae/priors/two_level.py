"""A hierarchy of two levels as prior."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks

__all__ = ["TwoLevel"]


class TwoLevel(nn.Module):
    """p(z2) p(z|z2): z2 ~ N(0, I) (*, top_size), z ~ N(m(z2), diag(s(z2)^2)) (*, latent_size).

    Its marginal p(z) is a mixture of infinitely many Normals. The bound takes KL(q(z2|x) || p(z2))
    and the mean over z2 ~ q of KL(q(z|x) || p(z|z2)), both in closed form given z2. m and log s^2
    come from one layer of tanh units. Sites come top down, the order in which a ladder's guide
    visits them too.

    Args:
        latent_size: number of coordinates of z.
        top_size: number of coordinates of z2; None is `latent_size`.
        hidden_size: number of tanh units.
    """

    top: Tensor

    def __init__(
        self, latent_size: int, top_size: int | None = None, hidden_size: int = 100
    ) -> None:
        super().__init__()
        top = (
            latent_size
            if top_size is None
            else checks.integer("prior two_level's top_size", top_size)
        )
        hidden = checks.integer("prior two_level's hidden_size", hidden_size)
        self.network = nn.Sequential(
            nn.Linear(top, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent_size)
        )
        self.register_buffer("top", torch.zeros(top), persistent=False)

    def forward(self) -> Tensor:
        """Sample the sites "z2" and "z"."""
        z2 = pyro.sample("z2", dist.Normal(self.top, 1.0, validate_args=False).to_event(1))
        location, log_variance = self.network(z2).chunk(2, -1)
        return pyro.sample(
            "z", dist.Normal(location, (0.5 * log_variance).exp(), validate_args=False).to_event(1)
        )
