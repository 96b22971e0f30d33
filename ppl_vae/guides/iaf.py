"""The inverse autoregressive flow guide: a Normal given x, pushed through autoregressive maps given
x.

Knows latent sites and an encoder network; the masked networks and the map itself are Pyro's. It
knows nothing of the model it will be used with.
"""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.guides.sites import LatentSite
from ppl_vae.guides.vectors import from_vector, to_vector, vector_size
from ppl_vae.networks import initialize
from ppl_vae.protocols import Posterior

__all__ = ["IAFGuide"]


class IAFGuide(Posterior):
    """q(u|x): u_0 = m(h) + exp(l(h)/2) e, then u_t = s_t u_(t-1) + (1 - s_t) m_t, t = 1..T.

    s_t = sigmoid(2 + a_t), and m_t and a_t at coordinate j see only the coordinates before j and
    the context h (M, H): the encoder's features and, for a prior of several sites, the sites
    before. The order is reversed from one map to the next. log q(u|x) = log N(u_0) - sum_t sum_j
    log s_tj, found in the one pass that makes the draw: scoring any other value would invert the
    maps coordinate by coordinate. A site of one coordinate has no maps.

    Args:
        encoder: x (M, *event_shape) -> features.
        feature_size: number of features.
        sites: the latent sites of the prior.
        init: initial weights of the heads of m and l, as in `VAEConfig`.
        num_flows: T, maps of each site.
        flow_hidden_size: width of the hidden layer of each map's masked network, at least the
            number of coordinates of the largest site.

    Source: Improving variational inference with inverse autoregressive flow (2016), equations 10 to
        14.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        sites: Sequence[LatentSite],
        init: str = "fan_in",
        num_flows: int = 2,
        flow_hidden_size: int = 100,
    ) -> None:
        super().__init__()
        self.encoder, self.sites = encoder, tuple(sites)
        checks.integer("posterior_options.num_flows", num_flows)
        checks.integer(
            "posterior_options.flow_hidden_size", flow_hidden_size, max(map(vector_size, sites))
        )
        self.heads, self.flows = nn.ModuleList(), nn.ModuleList()
        context = feature_size
        for site in sites:
            size = vector_size(site)
            self.heads.append(initialize(nn.Linear(context, 2 * size), init, "tanh"))
            self.flows.append(nn.ModuleList(_flows(size, context, num_flows, flow_hidden_size)))
            context += size

    def forward(self, x: Tensor) -> None:
        """Sample every latent site, in the prior's order.

        Args:
            x: data (M, *event_shape).
        """
        context = self.encoder(x)
        for i, site in enumerate(self.sites):
            value = pyro.sample(site.name, self._distribution(i, context))
            if i + 1 < len(self.sites):
                u = to_vector(site, value)
                context = torch.cat([context.expand(*u.shape[:-1], context.shape[-1]), u], -1)

    def _distribution(self, i: int, context: Tensor) -> dist.TorchDistribution:
        location, log_variance = self.heads[i](context).chunk(2, -1)
        base = dist.Normal(location, (0.5 * log_variance).exp(), validate_args=False).to_event(1)
        flows: Any = self.flows[i]
        maps = [_condition(flow, context) for flow in flows]
        flowed = dist.TransformedDistribution(base, maps, validate_args=False) if maps else base
        return from_vector(self.sites[i], flowed)


def _condition(flow: Any, context: Tensor) -> Any:
    conditioned = flow.condition(context)
    conditioned.arn.permutation = (
        flow.order
    )  # numbers: an inversion that indexes by a tensor cannot be recorded
    return conditioned


def _flows(size: int, context: int, num_flows: int, hidden_size: int) -> Sequence[nn.Module]:
    """The maps of one site, every other one in reversed order; none where there is no coordinate to
    look back at.
    """
    if size == 1:
        return []
    orders: list[Any] = [torch.arange(size), torch.arange(size).flip(0)]
    nets = [
        ConditionalAutoRegressiveNN(
            size, context, [hidden_size], permutation=orders[t % 2], nonlinearity=nn.ELU()
        )
        for t in range(num_flows)
    ]
    flows = [ConditionalAffineAutoregressive(net, stable=True) for net in nets]
    for t, flow in enumerate(flows):
        flow.order = orders[t % 2].tolist()
    return flows
