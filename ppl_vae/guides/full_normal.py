"""The full-covariance guide: one Normal over all latent coordinates of a datum, its Cholesky factor
from the encoder.

Knows latent sites and an encoder network. It knows nothing of the model it will be used with.
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import register_kl

from ppl_vae.guides.sites import LatentSite
from ppl_vae.guides.vectors import from_vector, to_vector, vector_size
from ppl_vae.networks import initialize
from ppl_vae.protocols import ClosedFormPosterior

__all__ = ["FullNormal", "FullNormalGuide"]


class FullNormal(dist.MultivariateNormal):
    """N(m, L L'), m (*, n), L (*, n, n) lower triangular.

    It is a type of its own, so that its KL can be registered.
    """


@register_kl(FullNormal, dist.Independent)
def _kl_to_diagonal(q: FullNormal, p: dist.Independent) -> Tensor:
    """KL(N(m, L L') || N(a, diag(s^2))) = sum_j [log(s_j/L_jj) + (sum_k L_jk^2 + (m_j - a_j)^2) /
    (2 s_j^2) - 1/2].
    """
    if not isinstance(p.base_dist, dist.Normal) or len(p.event_shape) != 1:
        raise NotImplementedError
    log_diagonal = q.scale_tril.diagonal(dim1=-2, dim2=-1).log()
    second_moment = q.scale_tril.square().sum(-1) + (q.loc - p.base_dist.loc).square()
    return (
        p.base_dist.scale.log() - log_diagonal + 0.5 * (second_moment / p.base_dist.scale**2 - 1)
    ).sum(-1)


class FullNormalGuide(ClosedFormPosterior):
    """q(u|x) = N(u; m(x), L(x) L(x)'), u (M, n) the unconstrained coordinates of all sites.

    L = diag(exp(l(x) / 2)) (I + A(x)), A strictly lower triangular: its noise in training is
    relative to each scale. A starts at 0, so training starts at the diagonal guide. Site by site,
    in the prior's order: with L in blocks, u_s | u_<s ~ N(m_s + L_s,<s e_<s, L_ss L_ss'), e_<s the
    standardised coordinates of the sites before. So KL(q || p) is closed for Normal sites. n (n +
    1) / 2 + n heads.

    Args:
        encoder: x (M, *event_shape) -> features (M, H).
        feature_size: H, the number of features.
        sites: the latent sites of the prior.
        init: initial weights of the heads of m and l, as in `VAEConfig`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        sites: Sequence[LatentSite],
        init: str = "fan_in",
    ) -> None:
        super().__init__()
        self.encoder, self.sites = encoder, tuple(sites)
        self.size = sum(vector_size(site) for site in sites)
        self.heads = initialize(nn.Linear(feature_size, 2 * self.size), init, "tanh")
        self.couplings = nn.Parameter(
            torch.zeros(self.size * (self.size - 1) // 2, feature_size + 1)
        )
        row, column = torch.tril_indices(self.size, self.size, -1)
        self.below: Tensor
        self.register_buffer("below", row * self.size + column, persistent=False)

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x) over a prior's one real site: what a prior may be made of."""
        location, tril = self.parameters_of(x)
        return FullNormal(location, scale_tril=tril, validate_args=False)

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m (M, n) and L (M, n, n) given x.

        Args:
            x: data (M, *event_shape).
        """
        features = self.encoder(x)
        location, log_variance = self.heads(features).chunk(2, -1)
        entries = nn.functional.linear(features, self.couplings[:, 1:], self.couplings[:, 0])
        flat = entries.new_zeros(*entries.shape[:-1], self.size**2).index_copy(
            -1, self.below, entries
        )
        scale = (0.5 * log_variance).exp()
        return location, scale.unsqueeze(-1) * flat.unflatten(
            -1, (self.size, self.size)
        ) + scale.diag_embed()

    def forward(self, x: Tensor) -> None:
        """Sample every latent site, in the prior's order.

        Args:
            x: data (M, *event_shape).
        """
        location, tril = self.parameters_of(x)
        noise, start = location[..., :0], 0
        for site in self.sites:
            end = start + vector_size(site)
            mean = location[..., start:end] + _apply(tril[..., start:end, :start], noise)
            block = tril[..., start:end, start:end]
            q = FullNormal(mean, scale_tril=block, validate_args=False)
            value = pyro.sample(site.name, from_vector(site, q))
            if end < self.size:
                residual = (to_vector(site, value) - mean).unsqueeze(-1)
                noise = _append(
                    noise, torch.linalg.solve_triangular(block, residual, upper=False).squeeze(-1)
                )
            start = end


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _append(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left.expand(*right.shape[:-1], left.shape[-1]), right], -1)
