"""A normalising flow as prior."""

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae import checks

_checked = Distribution._validate_args
import zuko  # noqa: E402  this switches off the checks of every distribution in the process
from pyro.contrib.zuko import ZukoToPyro  # noqa: E402

Distribution.set_default_validate_args(_checked)

__all__ = ["Flow"]

KINDS = {"spline": zuko.flows.NSF, "affine": zuko.flows.MAF}


class FlowDistribution(ZukoToPyro):
    """A zuko flow as a Pyro distribution on R^n."""

    support = dist.constraints.real_vector

    def rsample(self, *args: Any, **kwargs: Any) -> Tensor:
        """Draws, by inverting f."""
        return self.dist.rsample(*args, **kwargs)

    def expand(self, *args: Any, **kwargs: Any) -> "FlowDistribution":
        """The same flow, batched."""
        return FlowDistribution(self.dist.expand(*args, **kwargs))


class Flow(nn.Module):
    """log p(z) = log N(f(z); 0, I) + log |det df/dz|, f autoregressive, z (*, latent_size).

    f_j is monotone in z_j given z_1 .. z_{j-1}. Training needs the density at the guide's draws,
    one pass through f in this direction; only sampling pays for inverting f coordinate by
    coordinate. f composes layers whose parameters come from masked networks; the order of
    coordinates is reversed after each layer.

    Args:
        latent_size: number of coordinates of z.
        kind: "spline" (rational-quadratic splines) or "affine" (affine maps).
        transforms: number of layers.
        hidden_sizes: widths of the hidden layers of each masked network.

    Source: Neural spline flows (2019), section 3; Variational lossy autoencoder (2017), section
        3.2.
    """

    def __init__(
        self,
        latent_size: int,
        kind: str = "affine",
        transforms: int = 3,
        hidden_sizes: tuple[int, ...] = (128,),
    ) -> None:
        super().__init__()
        family = KINDS[checks.choice("prior flow's kind", kind, KINDS)]
        layers = checks.integer("prior flow's transforms", transforms)
        sizes = checks.sizes("prior flow's hidden_sizes", hidden_sizes)
        self.flow = family(latent_size, transforms=layers, hidden_features=sizes)

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        return pyro.sample("z", FlowDistribution(self.flow()))
