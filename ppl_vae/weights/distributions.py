"""Normal distributions over a weight tensor, with a closed KL to a factorised Normal that touches
the tensor rarely.

Knows linear algebra on one tensor; knows nothing of layers, priors or guides. Covariances are never
formed: what a dense layer needs of them is the covariance of its outputs at given inputs,
`output_covariance`.
"""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import lazy_property

__all__ = ["CenteredNormal", "LogScaleNormal", "LowRankNormal", "MatrixNormal"]


class LogScaleNormal(dist.Normal):
    """N(loc, exp(log_scale)^2) entry by entry: a Normal that keeps its log-scale.

    So nothing takes a logarithm again. A plate that repeats it repeats views, so its variance is
    computed once however many particles there are.

    Args:
        loc: the means, (*W).
        log_scale: logarithms of the standard deviations, (*W).
        scale: exp(log_scale), where it is known; None computes it.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, scale: Tensor | None = None) -> None:
        self.log_scale = log_scale
        super().__init__(loc, log_scale.exp() if scale is None else scale, validate_args=False)

    @lazy_property
    def variance(self) -> Tensor:
        """exp(2 log_scale)."""
        return (2 * self.log_scale).exp()

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogScaleNormal":
        """The same distribution for every element of a batch."""
        loc, log_scale, scale, variance = (
            t.expand(batch_shape) for t in (self.loc, self.log_scale, self.scale, self.variance)
        )
        new = LogScaleNormal(loc, log_scale, scale)
        new.variance = variance
        return new


class CenteredNormal(dist.Normal):
    """N(0, scale^2) over a tensor of a given shape.

    Args:
        scale: the standard deviations, broadcastable to the shape and kept as they are.
        shape: the shape.
    """

    def __init__(self, scale: Tensor, shape: Any) -> None:
        self.own_scale = scale
        super().__init__(
            torch.zeros_like(scale).expand(shape), scale.expand(shape), validate_args=False
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CenteredNormal":
        """The same distribution for every element of a batch."""
        return CenteredNormal(self.own_scale, batch_shape)


@register_kl(LogScaleNormal, CenteredNormal)
def _kl_log_scale_centered(q: LogScaleNormal, p: CenteredNormal) -> Tensor:
    """(s^2 + m^2) / (2 t^2) - log s + log t - 1/2 for N(m, s^2) and N(0, t^2), entry by entry."""
    square = torch.addcmul(q.variance, q.loc, q.loc)
    return square * (0.5 / p.own_scale.square()) + ((p.own_scale.log() - 0.5) - q.log_scale)


class CorrelatedNormal(TorchDistribution):
    """Abstract: W ~ N(loc, S), S over the D entries of W; expands over batches for free.

    Args:
        loc: the mean, (*W), which is the event shape.
        batch_shape: how often W is drawn.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = True

    def __init__(self, loc: Tensor, batch_shape: torch.Size = torch.Size()) -> None:  # noqa: B008
        self.loc = loc
        super().__init__(batch_shape, loc.shape, validate_args=False)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        """The real tensors of W's shape."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """loc, (*batch, *W)."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CorrelatedNormal":
        """The same distribution for every element of a batch."""
        new = self.__new__(type(self))
        new.__dict__.update(self.__dict__)
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """loc + deviation, (*sample, *batch, *W)."""
        return self.loc + self.deviation(torch.Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """-1/2 [(W - loc)' S^-1 (W - loc) + log det S + D log 2 pi], (*batch,)."""
        size = self.loc.numel() * math.log(2 * math.pi)
        return -0.5 * (self.mahalanobis(value - self.loc) + self.log_determinant() + size)

    def kl_to(self, loc: Tensor, scale: Tensor) -> Tensor:
        """KL(N(self.loc, S) || prod_e N(loc_e, scale_e^2)), (*batch,) nats.

        Args:
            loc: the means, (*batch, *W).
            scale: the standard deviations, (*batch, *W).
        """
        terms = (self.variance + (self.loc - loc).square()) / scale.square() + 2 * scale.log() - 1
        dims = tuple(range(-len(self.event_shape), 0))
        return 0.5 * (terms.sum(dims) - self.log_determinant()).expand(self.batch_shape)


class MatrixNormal(CorrelatedNormal):
    """W = loc + diag(row_scale) E L', E standard normal: rows are independent.

    Cov(W_i) = row_scale_i^2 L L', C the product of the trailing sizes of W.

    Args:
        loc: (R, *C).
        row_scale: (R,).
        factor: L, (C, C), lower triangular.

    Source: Structured and Efficient Variational Deep Learning with Matrix Gaussian Posteriors
        (2016), section 3.
    """

    def __init__(self, loc: Tensor, row_scale: Tensor, factor: Tensor) -> None:
        self.row_scale, self.factor = row_scale, factor
        super().__init__(loc)

    @property
    def variance(self) -> Tensor:
        """Each entry's variance, the shape of W."""
        return torch.outer(self.row_scale.square(), self.factor.square().sum(-1)).reshape(
            self.event_shape
        )

    def deviation(self, shape: torch.Size) -> Tensor:
        """Draws of W - loc, (*shape, *W).

        Args:
            shape: how many draws.
        """
        noise = self.loc.new_empty(*shape, len(self.row_scale), len(self.factor)).normal_()
        return (self.row_scale[:, None] * (noise @ self.factor.mT)).reshape(
            *shape, *self.event_shape
        )

    def mahalanobis(self, deviation: Tensor) -> Tensor:
        """Sum of squares of the noise that gives a deviation, (*batch,).

        Args:
            deviation: W - loc, (*batch, *W).
        """
        batch = deviation.shape[: deviation.dim() - len(self.event_shape)]
        rows = deviation.reshape(*batch, *self.row_scale.shape, -1) / self.row_scale[:, None]
        noise = torch.linalg.solve_triangular(self.factor, rows.mT, upper=False)
        return noise.square().sum((-2, -1))

    def log_determinant(self) -> Tensor:
        """log det S = 2 C sum log row_scale + 2 R sum log diag L."""
        rows, columns = len(self.row_scale), len(self.factor)
        return (
            2 * columns * self.row_scale.log().sum() + 2 * rows * self.factor.diagonal().log().sum()
        )

    def output_covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """Cov((W a)_i, (W b)_i) = row_scale_i^2 (L'a).(L'b) for a dense W, (*, R).

        Args:
            a: one input, (*, C).
            b: the other input, (*, C).
        """
        return ((a @ self.factor) * (b @ self.factor)).sum(
            -1, keepdim=True
        ) * self.row_scale.square()


class LowRankNormal(CorrelatedNormal):
    """W = loc + scale * e + sum_k f_k U_k, e and f standard normal: S = diag(scale^2) + U U'.

    Args:
        loc: (*W).
        scale: (*W).
        factors: U, (K, *W).

    Source: Variational Bayes with Gaussian low-rank plus diagonal covariance, as in Slang: Fast
        Structured Covariance Approximations for Bayesian Deep Learning (2018), section 3.
    """

    def __init__(self, loc: Tensor, scale: Tensor, factors: Tensor) -> None:
        self.scale, self.factors = scale, factors
        super().__init__(loc)

    @property
    def variance(self) -> Tensor:
        """Each entry's variance, the shape of W."""
        return self.scale.square() + self.factors.square().sum(0)

    def deviation(self, shape: torch.Size) -> Tensor:
        """Draws of W - loc, (*shape, *W).

        Args:
            shape: how many draws.
        """
        shared = self.loc.new_empty(*shape, len(self.factors)).normal_()
        own = self.loc.new_empty(*shape, *self.event_shape).normal_()
        return self.scale * own + torch.tensordot(shared, self.factors, 1)

    def _inner(self) -> tuple[Tensor, Tensor]:
        """(G, C): G = U / scale, (K, D), and the Cholesky factor of I + G G'."""
        whitened = (self.factors / self.scale).flatten(1)
        inner = whitened @ whitened.mT + torch.eye(
            len(whitened), dtype=whitened.dtype, device=whitened.device
        )
        return whitened, torch.linalg.cholesky(inner)

    def mahalanobis(self, deviation: Tensor) -> Tensor:
        """d' S^-1 d by Woodbury's identity, (*batch,).

        Args:
            deviation: d = W - loc, (*batch, *W).
        """
        whitened, cholesky = self._inner()
        own = (deviation / self.scale).flatten(-len(self.event_shape))
        shared = torch.linalg.solve_triangular(
            cholesky, (own @ whitened.mT).unsqueeze(-1), upper=False
        )
        return own.square().sum(-1) - shared.square().sum((-2, -1))

    def log_determinant(self) -> Tensor:
        """log det S = 2 sum log scale + log det(I + G G')."""
        return 2 * self.scale.log().sum() + 2 * self._inner()[1].diagonal().log().sum()

    def output_covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """The part of Cov((W a)_i, (W b)_i) that is independent between outputs, (*, R).

        It is sum_j scale_ij^2 a_j b_j.

        Args:
            a: one input, (*, C).
            b: the other input, (*, C).
        """
        return torch.nn.functional.linear(a * b, self.scale.square())

    def shared_outputs(self, a: Tensor) -> Tensor:
        """U_k a, the outputs that the k-th shared draw multiplies, (*, R, K).

        Args:
            a: an input, (*, C).
        """
        return torch.einsum("...c,krc->...rk", a, self.factors)


@register_kl(CorrelatedNormal, dist.Independent)
def _kl_correlated_independent(q: CorrelatedNormal, p: Any) -> Tensor:
    if not isinstance(p.base_dist, dist.Normal):
        raise NotImplementedError
    return q.kl_to(p.base_dist.loc, p.base_dist.scale)
