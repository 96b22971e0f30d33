"""The terms of one estimate of the evidence lower bound, apart and per datum."""

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce

from torch import Tensor

__all__ = ["KL", "Terms", "total"]


@dataclass(frozen=True)
class KL:
    """One site's KL(q || p), unweighted, and the weight that it has in the loss.

    Args:
        value: KL(q || p) in nats; (*, M) for a latent of single data, a scalar for a site of theta.
        weight: what a handler weighs it by (`KLWeight`), without a unit.
        kind: how the estimator got it, one of the words of `kl_report`.
    """

    value: Tensor
    weight: float | Tensor
    kind: str

    @property
    def weighted(self) -> Tensor:
        """`weight * value`, in nats."""
        if isinstance(self.weight, float) and self.weight == 1.0:
            return self.value
        return self.weight * self.value


@dataclass(frozen=True)
class Terms:
    """The terms of one estimate of the evidence lower bound of M of N data.

    Args:
        log_likelihood: E_q[log p(x|z, theta)], (M,), in nats, signed.
        kl: KL by latent site, each (M,), in nats.
        weight_kl: KL by site of theta, scalars, in nats for all data, counted once.
        num_data: N, how many data the program's data plate stands for.
        draws: the same terms at each of K draws, (K, M), where the bound is importance-weighted.
        order: alpha of the importance-weighted bound.
    """

    log_likelihood: Tensor
    kl: dict[str, KL]
    weight_kl: dict[str, KL]
    num_data: int
    draws: "Terms | None" = None
    order: float = 0.0

    @property
    def lower_bound(self) -> Tensor:
        """E_q[log p(x|z)] - sum of KL(q(z|x) || p(z)), (M,) nats per datum, KL(theta) left out.

        With `draws`, 1/(1 - alpha) log(1/K sum_k exp((1 - alpha) of that)) over them.
        """
        return self._bound(lambda kl: kl.value)

    @property
    def weighted_bound(self) -> Tensor:
        """The same with every KL times its weight: what is maximised, datum by datum."""
        return self._bound(lambda kl: kl.weighted)

    def loss(self) -> Tensor:
        """The negated, weighted bound of all N data in nats, Pyro's convention.

        -N/M sum_i [log p(x_i|z_i) - sum_s w_s KL_s,i] + w_theta KL(theta)
        """
        return self.num_data * self.mean_loss()

    def mean_loss(self, num_data: int | None = None) -> Tensor:
        """`loss` divided by N: nats per datum.

        Args:
            num_data: N where it is not what the program's plate of data says, as for a few
                held-out data of a model trained on N.
        """
        loss = -self.weighted_bound.mean()
        if not self.weight_kl:
            return loss
        weight_kl = total(kl.weighted for kl in self.weight_kl.values())
        return loss + weight_kl / (num_data or self.num_data)

    def report(self, num_data: int | None = None) -> dict[str, Tensor]:
        """The unweighted terms to show, 0-dimensional, in nats per datum.

        Args:
            num_data: N where it is not what the program's plate of data says.
        """
        report = {
            "lower_bound": self.lower_bound.mean(),
            "reconstruction": self.log_likelihood.mean(),
        }
        report |= {f"kl.{name}": kl.value.mean() for name, kl in self.kl.items()}
        if self.weight_kl:
            weight_kl = total(kl.value for kl in self.weight_kl.values())
            weight_kl = weight_kl / (num_data or self.num_data)
            report["lower_bound"] = report["lower_bound"] - weight_kl
            report["kl_weights"] = weight_kl
        return {name: value.detach() for name, value in report.items()}

    def averaged(self, strata: Tensor | None) -> "Terms":
        """Terms (K, M) -> their means over the draws, each weighed by its stratum (K, M)."""
        kl = {name: replace(kl, value=_mean(kl.value, strata)) for name, kl in self.kl.items()}
        return replace(self, log_likelihood=_mean(self.log_likelihood, strata), kl=kl)

    def reweighed(self, weights: dict[str, Tensor]) -> "Terms":
        """The same terms with other weights of the latents' KL."""
        kl = {name: replace(kl, weight=weights[name]) for name, kl in self.kl.items()}
        return replace(self, kl=kl, draws=self.draws and self.draws.reweighed(weights))

    def _bound(self, term: Callable[[KL], Tensor]) -> Tensor:
        if self.draws is not None:
            powers = (1 - self.order) * self.draws._bound(term)
            return (powers.logsumexp(0) - math.log(len(powers))) / (1 - self.order)
        terms = [term(kl) for kl in self.kl.values() if kl.kind != "point"]
        return self.log_likelihood - total(terms) if terms else self.log_likelihood


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum of tensors, without the 0 that `sum` starts from: one operator less at every step."""
    return reduce(operator.add, terms)


def _mean(values: Tensor, strata: Tensor | None) -> Tensor:
    if strata is None:
        return values.mean(0)
    return (strata * values).mean(0)
