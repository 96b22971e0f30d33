"""The mixture guide: several Normals for each datum, with gradients through draws of their mixture.

Knows latent sites and an encoder network. It knows nothing of the model it will be used with.
"""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.guides.sites import LatentSite
from ppl_vae.guides.vectors import from_vector, to_vector, vector_size
from ppl_vae.networks import initialize, zeroed
from ppl_vae.protocols import ClosedFormPosterior, StratifiedDraws

__all__ = ["MixtureGuide", "NormalMixture"]


class NormalMixture(dist.TorchDistribution, StratifiedDraws):
    """q(z) = sum_k w_k N(z; m_k, diag(s_k^2)), batch shape (*,), event shape (n,).

    A draw is made by picking a component, yet has valid pathwise gradients with respect to every
    parameter: any field v with div(q v) = -dq/dparameter moves the mixture as the parameter does.
    For m_k and s_k that is v = r_k(z) and r_k(z) e_k, r_k the posterior probability of component k
    at z and e_k = (z - m_k) / s_k. For the weights it is the implicit v = -(dF/dz)^-1 dF/dw,
    F_j(z_j | z_<j) = sum_k P(k | z_<j) Phi(e_kj) the conditional distribution function: unbiased,
    but of large variance where components lie apart, so estimators draw stratum by stratum where
    they can.

    Args:
        log_weights: log w, normalised, (*, K).
        locations: m, (*, K, n).
        scales: s, (*, K, n).

    Source: Pathwise derivatives for multivariate distributions (2018), section 5; Implicit
        reparameterization gradients (2018), section 4.
    """

    has_rsample = True
    arg_constraints = {}  # noqa: RUF012
    support = dist.constraints.real_vector

    def __init__(self, log_weights: Tensor, locations: Tensor, scales: Tensor) -> None:
        batch_shape = torch.broadcast_shapes(log_weights.shape[:-1], locations.shape[:-2])
        self.log_weights = log_weights.expand(*batch_shape, -1)
        self.locations, self.scales = (t.expand(*batch_shape, -1, -1) for t in (locations, scales))
        super().__init__(batch_shape, locations.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "NormalMixture":
        """The same distribution for a larger batch."""
        shape = torch.Size(batch_shape)
        parts = (self.log_weights, 1), (self.locations, 2), (self.scales, 2)
        return NormalMixture(*(t.expand(*shape, *t.shape[-n:]) for t, n in parts))

    @property
    def mean(self) -> Tensor:
        """sum_k w_k m_k, (*, n)."""
        return (self.log_weights.exp().unsqueeze(-1) * self.locations).sum(-2)

    @property
    def variance(self) -> Tensor:
        """sum_k w_k (s_k^2 + m_k^2) - mean^2, (*, n)."""
        second_moment = self.scales.square() + self.locations.square()
        return (self.log_weights.exp().unsqueeze(-1) * second_moment).sum(-2) - self.mean.square()

    def component_log_probs(self, value: Tensor) -> Tensor:
        """log N(z_j; m_kj, s_kj^2), (*, K, n).

        Args:
            value: z, (*, n).
        """
        e = (value.unsqueeze(-2) - self.locations) / self.scales
        return -0.5 * (e.square() + math.log(2 * math.pi)) - self.scales.log()

    def responsibilities(self, value: Tensor) -> Tensor:
        """log P(k | z), (*, K).

        Args:
            value: z, (*, n).
        """
        return (self.log_weights + self.component_log_probs(value).sum(-1)).log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z), (*,)."""
        return (self.log_weights + self.component_log_probs(value).sum(-1)).logsumexp(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw, differentiable in the weights, means and scales."""
        wide = self.expand((*sample_shape, *self.batch_shape)) if sample_shape else self
        with torch.no_grad():
            gumbel = -(-torch.rand_like(wide.log_weights).log()).log()
            value = wide._draw((wide.log_weights + gumbel).argmax(-1))
        return value + _zero(wide._component_motion(value)) + _zero(wide._weight_motion(value))

    def stratified_rsample(self) -> tuple[Tensor, Tensor] | None:
        """Draws of a batch (L, M), the l-th from component l mod K, differentiable through it.

        The gradient is that of the component's own mean and scale.

        Returns:
            The draws, (L, M, n), and their weights K w_k, (L, M); None where L is no multiple of K.
        """
        num_components = self.log_weights.shape[-1]
        if len(self.batch_shape) < 2 or self.batch_shape[0] % num_components:
            return None
        k = torch.arange(self.batch_shape[0], device=self.log_weights.device) % num_components
        k = k.reshape(-1, *(1,) * (len(self.batch_shape) - 1)).expand(self.batch_shape)
        weights = self.log_weights.gather(-1, k.unsqueeze(-1)).squeeze(-1).exp() * num_components
        return self._draw(k), weights

    def _draw(self, k: Tensor) -> Tensor:
        """m_k + s_k e for components k (*,)."""
        k = k[..., None, None].expand(*self.batch_shape, 1, *self.event_shape)
        location, scale = (t.gather(-2, k).squeeze(-2) for t in (self.locations, self.scales))
        return location + scale * torch.randn_like(location)

    def _component_motion(self, value: Tensor) -> Tensor:
        """sum_k r_k (m_k + e_k s_k), r and e held fixed: where z goes when the components move or
        widen.
        """
        with torch.no_grad():
            r = self.responsibilities(value).exp().unsqueeze(-1)
            e = (value.unsqueeze(-2) - self.locations) / self.scales
        return (r * (self.locations + e * self.scales)).sum(-2)

    def _weight_motion(self, value: Tensor) -> Tensor:
        """-(dF/dz)^-1 F(w), (dF/dz) and Phi held fixed: where z goes when mass passes between
        components.
        """
        with torch.no_grad():
            log_probs = self.component_log_probs(value)
            before = log_probs.cumsum(-1) - log_probs
            e = (value.unsqueeze(-2) - self.locations) / self.scales
            distribution = torch.special.ndtr(e)
            jacobian = self._jacobian(log_probs, before, distribution, -e / self.scales)
        f = ((self.log_weights.unsqueeze(-1) + before).softmax(-2) * distribution).sum(-2)
        return -torch.linalg.solve_triangular(jacobian, f.unsqueeze(-1), upper=False).squeeze(-1)

    def _jacobian(
        self, log_probs: Tensor, before: Tensor, distribution: Tensor, slope: Tensor
    ) -> Tensor:
        """dF_j/dz_i, (*, n, n) lower triangular; `slope` (*, K, n) is d log N(z_i; k) / dz_i."""
        log_w = (self.log_weights.unsqueeze(-1) + before).log_softmax(-2)
        w = log_w.exp()
        wf = w * distribution
        cross = torch.einsum("...kj,...ki->...ji", wf - w * wf.sum(-2, keepdim=True), slope)
        # a density of 0 in single precision would make the solve divide by it
        density = (
            (log_w + log_probs).logsumexp(-2).exp().clamp(min=torch.finfo(w.dtype).tiny ** 0.5)
        )
        return cross.tril(-1) + density.diag_embed()


def _zero(t: Tensor) -> Tensor:
    """0 with the gradient of t."""
    return t - t.detach()


class MixtureGuide(ClosedFormPosterior):
    """q(u|x) = sum_k w_k(x) prod_sites N(u_s; m_ks(x), diag(s_ks(x)^2)), all from features of x.

    The component is shared by a prior's sites: q(u_s | u_<s, x) has the weights P(k | u_<s, x), so
    every site has a density of its own and no index is sampled.

    Args:
        encoder: x (M, *event_shape) -> features (M, H).
        feature_size: H, the number of features.
        sites: the latent sites of the prior.
        init: initial weights of the heads of m and s, as in `VAEConfig`.
        num_components: K, number of components.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        sites: Sequence[LatentSite],
        init: str = "fan_in",
        num_components: int = 4,
    ) -> None:
        super().__init__()
        self.encoder, self.sites = encoder, tuple(sites)
        self.num_components = checks.integer("posterior_options.num_components", num_components)
        self.sizes = [vector_size(site) for site in sites]
        self.heads = initialize(
            nn.Linear(feature_size, 2 * num_components * sum(self.sizes)), init, "tanh"
        )
        self._start_alike_but_apart()
        self.weight_head = zeroed(nn.Linear(feature_size, num_components))

    @torch.no_grad()
    def _start_alike_but_apart(self) -> None:
        """Heads of one component, which a decoder can follow, and means in opposite pairs a unit of
        length away.

        Components that start together end in one mode; a decoder learns slowly from as many codes
        as components.
        """
        weight, bias = (t.data.view(2, self.num_components, -1) for t in self.heads.parameters())
        weight.copy_(weight[:, :1])
        means = bias[0]
        half = nn.functional.normalize(
            torch.randn_like(means[: (self.num_components + 1) // 2]), dim=-1
        )
        means.copy_(torch.cat([half, -half])[: self.num_components])

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x) over a prior's one real site: what a prior may be made of."""
        log_weights, (location,), (log_variance,) = self.parameters_of(x)
        return NormalMixture(log_weights, location, (0.5 * log_variance).exp())

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
        """log w (M, K), and for each site means and log variances (M, K, n), given x.

        Args:
            x: data (M, *event_shape).
        """
        features = self.encoder(x)
        outputs = self.heads(features).unflatten(-1, (2, self.num_components, -1))
        locations, log_variances = (part.split(self.sizes, -1) for part in outputs.unbind(-3))
        return self.weight_head(features).log_softmax(-1), locations, log_variances

    def forward(self, x: Tensor) -> None:
        """Sample every latent site, in the prior's order.

        Args:
            x: data (M, *event_shape).
        """
        log_weights, locations, log_variances = self.parameters_of(x)
        for site, location, log_variance in zip(self.sites, locations, log_variances, strict=True):
            q = NormalMixture(log_weights, location, (0.5 * log_variance).exp())
            value = pyro.sample(site.name, from_vector(site, q))
            log_weights = q.responsibilities(to_vector(site, value))
