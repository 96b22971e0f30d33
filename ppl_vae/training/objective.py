"""What a step of training minimises: an estimator of the bound under the handlers of the run."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.infer import ELBO, RenyiELBO
from torch import Tensor

from ppl_vae import checks
from ppl_vae.elbo import ESTIMATORS, BalancedELBO, TermwiseELBO, estimator_from
from ppl_vae.elbo.termwise import Program
from ppl_vae.handlers import KLWeight
from ppl_vae.handlers.corruption import CORRUPTIONS, Corruption

__all__ = ["Objective", "estimator_text"]


@dataclass(frozen=True)
class Objective:
    """The training objective, as one differentiable function.

    Args:
        estimator: a short name, or any `pyro.infer.ELBO`.
        num_particles: K, draws of z a datum, for an estimator given by name.
        corruption: "none", or what is done to the x that the guide sees.
        kl_balance: whether each layer of a hierarchy is weighed by its share of the KL.

    Raises:
        InputError: for bad values.
    """

    estimator: str | ELBO = "B"
    num_particles: int = 1
    corruption: str = "none"
    kl_balance: bool = False
    elbo: ELBO = field(init=False)

    def __post_init__(self) -> None:
        """Check every field and make the estimator."""
        object.__setattr__(self, "elbo", self._made())
        checks.choice("corruption", self.corruption, ("none", *CORRUPTIONS))

    def _made(self) -> ELBO:
        elbo = self.estimator
        if isinstance(elbo, str):
            elbo = estimator_from(elbo, self.num_particles)
        elif not isinstance(elbo, ELBO):
            checks.refuse(
                "estimator",
                repr(elbo),
                f"one of {', '.join(ESTIMATORS)}, or a pyro.infer.ELBO",
                "give an object, as in estimator=pyro.infer.Trace_ELBO()",
            )
        elif self.num_particles not in (1, elbo.num_particles):
            checks.refuse(
                "num_particles",
                self.num_particles,
                f"{elbo.num_particles}, the estimator's own",
                "give it to the estimator alone",
            )
        if not self.kl_balance:
            return elbo
        if not isinstance(elbo, TermwiseELBO):
            checks.refuse(
                "kl_balance",
                f"with {type(elbo).__name__}, which keeps no terms apart",
                "an estimator of ppl_vae.elbo",
            )
        return BalancedELBO(elbo)

    @property
    def keeps_terms(self) -> bool:
        """Whether the terms of the bound are known, and a step of it can be recorded."""
        return isinstance(self.elbo, TermwiseELBO)

    @property
    def is_differentiable(self) -> bool:
        """Whether the estimator returns its loss; some of Pyro's own only add up gradients."""
        return self.keeps_terms or hasattr(self.elbo, "differentiable_loss")

    def check(self, batch_size: int, num_data: int, has_bayesian_weights: bool) -> None:
        """Refuse what would make the bound of an estimator of Pyro's own wrong.

        Args:
            batch_size: M, data a minibatch.
            num_data: N, data in all.
            has_bayesian_weights: whether weights theta are random.
        """
        if self.keeps_terms:
            return
        name = type(self.elbo).__name__
        if isinstance(self.elbo, RenyiELBO) and batch_size < num_data:
            checks.refuse(
                f"estimator {name}",
                f"minibatches of {batch_size} of {num_data} data",
                "all data at each step, since it has the scale N/M inside the logarithm",
                "use ppl_vae.elbo.ImportanceWeightedELBO, a bound of each datum",
            )
        if isinstance(self.elbo, RenyiELBO) and has_bayesian_weights:
            checks.refuse(f"estimator {name}", "Bayesian weights", "latents of single data")

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        kl_weight: Tensor,
        weight_kl_weight: Tensor,
        inverse_num_data: Tensor,
        corruption_level: float | Tensor = 0.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, report): the loss to minimise and the unweighted terms to show, all 0-dimensional,
        nats per datum.

        `kl_weight` weighs the latents' KL, `weight_kl_weight` KL(theta), `inverse_num_data` is 1/N,
        `corruption_level` how much of x a guide in training mode does not see: tensors, since each
        may change between the steps of one recorded program. An estimator of Pyro's own reports
        its negated loss alone, in which the KL terms have their weights.
        """
        with self._handlers(kl_weight, weight_kl_weight, corruption_level):
            if isinstance(self.elbo, TermwiseELBO):
                terms = self.elbo.terms(model, guide, x)
                return terms.mean_loss(inverse_num_data), terms.report(inverse_num_data)
            elbo: Any = self.elbo
            loss = elbo.differentiable_loss(model, guide, x) * inverse_num_data
        return loss, {"lower_bound": -loss.detach()}

    def gradients(
        self, model: Program, guide: Program, x: Tensor, scheduled: Tensor, leaves: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """(loss, its gradients) of an estimator that only adds up gradients, in nats per datum.

        Args:
            model: p(x, z).
            guide: q(z|x).
            x: a minibatch, (M, *event_shape).
            scheduled: (4,), what may change between steps, as a call takes it.
            leaves: the parameters.
        """
        kl_weight, weight_kl_weight, inverse_num_data, level = scheduled.unbind()
        before = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        elbo: Any = self.elbo
        with self._handlers(kl_weight, weight_kl_weight, level):
            loss = elbo.loss_and_grads(model, guide, x)
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in leaves]
        for leaf, gradient in zip(leaves, before, strict=True):
            leaf.grad = gradient
        return loss * inverse_num_data, [gradient * inverse_num_data for gradient in found]

    def _handlers(
        self, kl_weight: Tensor, weight_kl_weight: Tensor, corruption_level: float | Tensor
    ) -> contextlib.ExitStack:
        entered = contextlib.ExitStack()
        entered.enter_context(KLWeight(kl_weight, weights=weight_kl_weight))
        if self.corruption != "none":
            entered.enter_context(Corruption(self.corruption, corruption_level))
        return entered


def estimator_text(estimator: str | ELBO) -> str:
    """An estimator as a text, by which a resumed run is known to have the same one."""
    if isinstance(estimator, str):
        return estimator
    plain = {
        name: value
        for name, value in sorted(vars(estimator).items())
        if isinstance(value, int | float | str | None) and name != "max_plate_nesting"
    }
    options = ", ".join(f"{name}={value!r}" for name, value in plain.items())
    kind = type(estimator)
    return f"{kind.__module__}.{kind.__qualname__}({options})"
