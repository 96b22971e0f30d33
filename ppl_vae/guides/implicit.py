"""The implicit guide: z from a network of x and noise, with a bound that stays valid by a model of
the noise given z.

Knows latent sites and an encoder network. It knows nothing of the model it will be used with.
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.guides.diagonal import site_distribution, split_heads
from ppl_vae.guides.sites import LatentSite
from ppl_vae.guides.vectors import to_vector, vector_size
from ppl_vae.networks import ACTIVATIONS, initialize, zeroed
from ppl_vae.protocols import Posterior

__all__ = ["ImplicitGuide"]


class ImplicitGuide(Posterior):
    """q(z|x) = integral of N(e; 0, I) prod_s q_s(z_s; g_s(h(x), e)) de, e (M, E) the noise.

    It has no closed form. The noise is an auxiliary site "noise", and r(e | z, x) = N(a,
    diag(b^2)), a network of h(x) and z, its reverse model, enters as the factor "reverse": for
    every r,

    log p(x) >= E[log p(x, z) - log q(z | e, x) - (log N(e; 0, I) - log r(e | z, x))],

    short of E_q[log p(x, z) - log q(z|x)] by the mean of KL(q(e | z, x) || r(e | z, x)); K draws in
    estimator "iwae" close that gap too. q_s is of the diagonal guide's family; g is linear heads on
    h(x) plus a network of h(x) and e that starts at 0, as r does at N(0, I), so training starts at
    the diagonal guide. A report's "kl.noise" and "kl.reverse" belong together: their sum is E[log
    N(e; 0, I) - log r(e | z, x)].

    Args:
        encoder: x (M, *event_shape) -> features h(x), (M, H).
        feature_size: H, the number of features.
        sites: the latent sites of the prior.
        init: initial weights of the heads and networks, as in `VAEConfig`.
        activation: of the networks' hidden layers, as in `VAEConfig`.
        noise_size: E; None is the number of coordinates of all sites.
        noise_hidden_size: width of the networks' hidden layers.

    Source: Hierarchical variational models (2016), equation 5; Semi-implicit variational inference
        (2018), section 2.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        sites: Sequence[LatentSite],
        init: str = "fan_in",
        activation: str = "relu",
        noise_size: int | None = None,
        noise_hidden_size: int = 100,
    ) -> None:
        super().__init__()
        self.encoder, self.sites = encoder, tuple(sites)
        taken = [site.name for site in sites if site.name in ("noise", "reverse")]
        if taken:
            checks.refuse(
                "posterior 'implicit'",
                f"a prior's site '{taken[0]}', the name of a site of the guide's own",
                "a prior without such a site",
                "rename the site",
            )
        size = sum(vector_size(site) for site in sites)
        noise = checks.integer(
            "posterior_options.noise_size", size if noise_size is None else noise_size
        )
        hidden = checks.integer("posterior_options.noise_hidden_size", noise_hidden_size)
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(noise), persistent=False)
        self.heads = initialize(nn.Linear(feature_size, 2 * size), init, "tanh")
        self.generator = _network(feature_size + noise, hidden, 2 * size, init, activation)
        self.reverse = _network(feature_size + size, hidden, 2 * noise, init, activation)

    @property
    def mean_field(self) -> bool:
        """False: q of every site depends on the noise drawn."""
        return False

    def forward(self, x: Tensor) -> None:
        """Sample the noise and every latent site, and put in the reverse model's log density.

        Args:
            x: data (M, *event_shape).
        """
        features = self.encoder(x)
        normal = dist.Normal(self.zero, 1.0, validate_args=False).to_event(1)
        noise = pyro.sample("noise", normal, infer={"is_auxiliary": True})
        values = []
        for site, part in self._parts(
            self.heads(features) + self.generator(_joined(features, noise))
        ):
            values.append(to_vector(site, pyro.sample(site.name, site_distribution(site, *part))))
        location, log_variance = self.reverse(_joined(features, *values)).chunk(2, -1)
        reverse = dist.Normal(location, (0.5 * log_variance).exp(), validate_args=False).to_event(1)
        pyro.factor("reverse", -reverse.log_prob(noise), has_rsample=True)

    def _parts(self, outputs: Tensor) -> zip:
        return zip(self.sites, split_heads(outputs, self.sites), strict=True)


def _network(inputs: int, hidden: int, outputs: int, init: str, activation: str) -> nn.Module:
    layers = nn.Linear(inputs, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, outputs)
    network = initialize(nn.Sequential(*layers), init, activation)
    zeroed(layers[-1])
    return network


def _joined(features: Tensor, *vectors: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(*(t.shape[:-1] for t in (features, *vectors)))
    return torch.cat([t.expand(*batch, t.shape[-1]) for t in (features, *vectors)], -1)
