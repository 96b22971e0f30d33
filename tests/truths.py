"""Ground truths: models whose log p(x), posterior and KL terms are known exactly, shared by every
statistical test.

Knows `build` and the layout of the linear model's parameters; must not know any estimator, which it
is there to judge.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ppl_vae.vae import VAE, VAEConfig, build

__all__ = ["Q_SCALES", "LinearGaussian", "linear_gaussian", "probabilistic_pca_optimum"]

# posterior standard deviation of q over the exact one; importance weights under a scale factor c
# have tail index k = 1 - c^2, so the three states have k = 0 (constant weights), 0.84 and "bounded
# weights"
Q_SCALES = {"exact": 1.0, "overconfident": 0.4, "conservative": 2.0}


@dataclass(frozen=True)
class LinearGaussian:
    """A `VAE` with x = W z + b + s e, z ~ N(0, I_L), e ~ N(0, I_D), and q(z|x) = N(m(x), diag((c
    v)^2)).

    W (D, L) has orthogonal columns, so the exact posterior N(m(x), diag(v^2)) is diagonal,
    v_j^2 = 1 / (1 + |W_j|^2/s^2) and m_j(x) = v_j^2 W_j'(x - b) / s^2. Units: nats. All truths are
    in double precision.
    """

    vae: VAE
    weight: Tensor
    bias: Tensor
    scale: float
    q_scale: float

    @property
    def posterior_variance(self) -> Tensor:
        """v^2 (L,), the same for every x."""
        return 1 / (1 + self.weight.square().sum(0) / self.scale**2)

    def posterior_mean(self, x: Tensor) -> Tensor:
        """m(x), (N, L)."""
        return (x.double() - self.bias) @ self.weight * self.posterior_variance / self.scale**2

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; b, W W' + s^2 I), (N,)."""
        noise = self.scale**2 * torch.eye(len(self.bias), dtype=torch.float64)
        return MultivariateNormal(self.bias, self.weight @ self.weight.T + noise).log_prob(
            x.double()
        )

    @property
    def kl_to_posterior(self) -> Tensor:
        """KL(q(z|x) || p(z|x)) = L ((c^2 - 1)/2 - ln c), 0-dimensional, the same for every x."""
        c = torch.tensor(self.q_scale, dtype=torch.float64)
        return self.weight.shape[1] * ((c**2 - 1) / 2 - c.log())

    def kl_to_prior(self, x: Tensor) -> Tensor:
        """KL(q(z|x) || p(z)) = 1/2 sum_j [(c v_j)^2 + m_j^2 - 1 - ln (c v_j)^2], (N,)."""
        variance = self.q_scale**2 * self.posterior_variance
        return 0.5 * (variance + self.posterior_mean(x).square() - 1 - variance.log()).sum(-1)

    def lower_bound(self, x: Tensor) -> Tensor:
        """E_q[log p(x|z)] - KL(q || p(z)) = log p(x) - KL(q || p(z|x)), (N,)."""
        return self.log_likelihood(x) - self.kl_to_posterior

    def draw(self, num_data: int, seed: int = 0) -> Tensor:
        """Data from the model itself, (N, D) float32, from a generator of their own."""
        generator = torch.Generator().manual_seed(seed)
        z, e = (
            torch.randn(num_data, n, generator=generator, dtype=torch.float64)
            for n in self.weight.T.shape
        )
        return (z @ self.weight.T + self.bias + self.scale * e).float()


def linear_gaussian(
    q: str = "exact",
    latent_size: int = 2,
    event_size: int = 5,
    scale: float = 0.5,
    seed: int = 0,
    event_shape: tuple[int, ...] | None = None,
) -> LinearGaussian:
    """The linear-Gaussian VAE whose q is "exact", "overconfident" or "conservative"; in evaluation
    mode. Its data may be shaped as `event_shape`, of `event_size` numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(
        torch.randn(event_size, latent_size, generator=generator, dtype=torch.float64)
    ).Q
    weight = basis * torch.linspace(1.5, 0.8, latent_size, dtype=torch.float64)
    bias = torch.randn(event_size, generator=generator, dtype=torch.float64)
    config = VAEConfig(
        event_shape=event_shape or (event_size,),
        latent_size=latent_size,
        hidden_sizes=(),
        likelihood="normal_shared",
    )
    truth = LinearGaussian(build(config, seed=seed).eval(), weight, bias, scale, Q_SCALES[q])
    _set_parameters(truth)
    return truth


@torch.no_grad()
def _set_parameters(truth: LinearGaussian) -> None:
    decoder, heads = truth.vae.model.decoder, truth.vae.guide.posterior.heads
    decoder.network[0].weight.copy_(truth.weight)
    decoder.network[0].bias.copy_(truth.bias)
    decoder.likelihood.log_scale.fill_(math.log(truth.scale))
    variance = truth.posterior_variance
    to_mean = (truth.weight * variance / truth.scale**2).T
    heads.weight.copy_(torch.cat([to_mean, torch.zeros_like(to_mean)]))
    heads.bias.copy_(torch.cat([-to_mean @ truth.bias, (truth.q_scale**2 * variance).log()]))


def probabilistic_pca_optimum(x: Tensor, latent_size: int) -> float:
    """The highest mean log p(x) of any linear-Gaussian model, in nats per datum, reached by a
    linear VAE's bound too.

    -1/2 (D ln 2 pi + sum_{i<=q} ln lambda_i + (D - q) ln s^2 + D), lambda the eigenvalues of the
    covariance of x (N, D) in falling order, s^2 the mean of the discarded ones. Source:
    Probabilistic principal component analysis (1999), section 3.2; Don't blame the ELBO! (2019),
    section 4.
    """
    values = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)
    size, noise = len(values), values[latent_size:].mean()
    log_determinant = values[:latent_size].log().sum() + (size - latent_size) * noise.log()
    return -0.5 * (size * math.log(2 * math.pi) + log_determinant + size).item()
