"""The variational mixture of posteriors as prior (VampPrior)."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.protocols import InitialisedFromData, MadeOfPosterior

__all__ = ["Vamp"]


class Vamp(nn.Module, MadeOfPosterior, InitialisedFromData):
    """p(z) = (1/K) sum_k q(z|u_k), u_k learned pseudo-inputs, q the guide's own encoder.

    The bound is largest in p(z) at the average posterior (1/N) sum_i q(z|x_i); with K < N
    pseudo-inputs in place of the data it neither overfits nor costs N terms.

    Args:
        event_shape: shape of a datum; u is (K, *event_shape).
        encode: q(z|x) of the guide, whose parameters stay its own: registered once.
        components: K, number of pseudo-inputs.
        start: "data", by which a fit copies rows of its data into u before the first step, or
            "random".

    Source: VAE with a VampPrior (2018), section 3.
    """

    logits: Tensor
    started: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        encode: Callable[[Tensor], dist.TorchDistribution],
        components: int = 500,
        start: str = "data",
    ) -> None:
        super().__init__()
        shape = (checks.integer("prior vamp's components", components), *event_shape)
        self.encode, self.start = (
            encode,
            checks.choice("prior vamp's start", start, ("data", "random")),
        )
        self.pseudo_inputs = nn.Parameter(0.5 + 0.1 * torch.randn(shape))
        self.register_buffer("logits", torch.zeros(components), persistent=False)
        self.register_buffer("started", torch.tensor(start == "random"))

    @torch.no_grad()
    def start_from(self, data: Tensor) -> None:
        """Copy random rows of data into the pseudo-inputs, if nothing was learned yet."""
        if not self.started:
            rows = data[torch.randint(len(data), (len(self.pseudo_inputs),)).to(data.device)].to(
                self.pseudo_inputs
            )
            self.pseudo_inputs.copy_(rows / 255 if data.dtype == torch.uint8 else rows)
            self.started.fill_(
                True
            )  # a second fit, or a resumed one, goes on from what was learned

    def forward(self) -> Tensor:
        """Sample the site "z"."""
        weights = dist.Categorical(logits=self.logits, validate_args=False)
        return pyro.sample(
            "z",
            dist.MixtureSameFamily(weights, self.encode(self.pseudo_inputs), validate_args=False),
        )
