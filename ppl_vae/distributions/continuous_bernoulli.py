"""The continuous Bernoulli distribution from its logits, right at logits of any size.

Knows torch and Pyro's base class alone. torch's own distribution clamps its probabilities before it
normalises, so that it is no density beyond a logit of 15.9 in single precision.
"""

from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["ContinuousBernoulli"]

# log((e^l - 1) / l) = l/2 + sum_n c_n l^(2n), c_n = B_2n / (2n (2n)!), B_2n the Bernoulli numbers
SERIES = (
    1 / 24,
    -1 / 2880,
    1 / 181_440,
    -1 / 9_676_800,
    1 / 479_001_600,
    -691 / 15_692_092_416_000,
)
SERIES_BELOW = 0.5  # there six terms are right to 1e-15, while closed forms lose digits


def _polynomial(squares: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """sum_n c_n s^n, n from 0, by Horner's rule."""
    total = torch.full_like(squares, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * squares + coefficient
    return total


class ContinuousBernoulli(TorchDistribution):
    """p(x) = e^(l x) l / (e^l - 1) on [0, 1]: Bernoulli's objective, normalised.

    Everything is written in a = |l|, with y = x for l < 0 and y = 1 - x for l > 0, so that nothing
    overflows; near l = 0 series take the place of quotients of small numbers.

    Args:
        logits: l, (*), any real numbers.
        validate_args: whether arguments and values are checked; None is the class's setting.

    Source: The continuous Bernoulli: fixing a pervasive error in variational autoencoders (2019),
        section 3.
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: None = None) -> "ContinuousBernoulli":
        """The same distribution at a larger batch shape."""
        return ContinuousBernoulli(self.logits.expand(batch_shape), self._validate_args)

    def _sizes(self, series_below: float) -> tuple[Tensor, Tensor]:
        """(where |l| is small, |l| or 1 there): the 1 keeps what `where` drops finite."""
        size = self.logits.abs()
        near = size < series_below
        return near, torch.where(near, 1.0, size)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p = -a y - log((1 - e^-a) / a), nats; near 0, (x - 1/2) l - sum_n c_n l^(2n)."""
        if self._validate_args:
            self._validate_sample(value)
        near, a = self._sizes(SERIES_BELOW)
        y = torch.where(self.logits > 0, 1 - value, value)
        far = -a * y - (-torch.expm1(-a)).log() + a.log()
        squares = torch.where(near, self.logits, 0.0).square()
        series = (value - 0.5) * self.logits - squares * _polynomial(squares, SERIES)
        return torch.where(near, series, far)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - e^-l) - 1 / l, (*); near 0, 1/2 + sum_n 2n c_n l^(2n-1)."""
        near, a = self._sizes(SERIES_BELOW)
        decay = torch.exp(-a)
        falling = 1 / a - decay / (1 - decay)
        small = torch.where(near, self.logits, 0.0)
        coefficients = tuple(2 * (n + 1) * c for n, c in enumerate(SERIES))
        series = 0.5 + small * _polynomial(small.square(), coefficients)
        return torch.where(near, series, torch.where(self.logits > 0, 1 - falling, falling))

    @property
    def variance(self) -> Tensor:
        """1 / l^2 - 1 / (4 sinh(l/2)^2), (*); near 0, sum_n 2n (2n-1) c_n l^(2n-2)."""
        near, a = self._sizes(SERIES_BELOW)
        decay = torch.exp(-a)
        far = 1 / a.square() - decay / (1 - decay).square()
        squares = torch.where(near, self.logits, 0.0).square()
        coefficients = tuple((2 * n + 2) * (2 * n + 1) * c for n, c in enumerate(SERIES))
        return torch.where(near, _polynomial(squares, coefficients), far)

    def cdf(self, value: Tensor) -> Tensor:
        """(1 - e^(-a y)) / (1 - e^-a), or one minus it for l > 0; near 0, x - l x (1 - x) / 2."""
        near, a = self._sizes(torch.finfo(self.logits.dtype).eps ** 0.5)
        value = value.clamp(0.0, 1.0)
        y = torch.where(self.logits > 0, 1 - value, value)
        below = torch.expm1(-a * y) / torch.expm1(-a)
        series = value - self.logits * value * (1 - value) / 2
        return torch.where(near, series, torch.where(self.logits > 0, 1 - below, below))

    def icdf(self, value: Tensor) -> Tensor:
        """y = -log(1 - v (1 - e^-a)) / a, v = u for l < 0 and 1 - u for l > 0.

        Near 0, log(1 + u (e^l - 1)) / l is the series of a coin's cumulants k_n: k_1 + k_2 l / 2 +
        k_3 l^2 / 6 + k_4 l^3 / 24, k_2 = u (1 - u), k_3 = k_2 (1 - 2 u), k_4 = k_2 (1 - 6 k_2).
        """
        near, a = self._sizes(torch.finfo(self.logits.dtype).eps ** 0.25)
        v = torch.where(self.logits > 0, 1 - value, value)
        y = (-torch.log1p(v * torch.expm1(-a)) / a).clamp(0.0, 1.0)
        small, spread = torch.where(near, self.logits, 0.0), value * (1 - value)
        coefficients = (0.5, (1 - 2 * value) / 6, (1 - 6 * spread) / 24)
        cumulants = coefficients[0] + small * (coefficients[1] + small * coefficients[2])
        series = value + spread * small * cumulants
        return torch.where(near, series, torch.where(self.logits > 0, 1 - y, y))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by the quantile function, (*sample_shape, *)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        # of u = 0 the logarithm is infinite at large logits, and with it the gradient
        return self.icdf(uniform.clamp(min=torch.finfo(uniform.dtype).eps / 2))

    def entropy(self) -> Tensor:
        """-E log p(x) = -log p(E x), (*) nats, since log p is linear in x."""
        return -self.log_prob(self.mean)
