"""What a step of training minimises: an estimator of the bound under the handlers of the run."""

import contextlib
from dataclasses import dataclass, field

from torch import Tensor

from ppl_vae import checks
from ppl_vae.elbo import BalancedELBO, TermwiseELBO, estimator_from
from ppl_vae.elbo.termwise import Program
from ppl_vae.handlers import KLWeight
from ppl_vae.handlers.corruption import CORRUPTIONS, Corruption

__all__ = ["Objective"]


@dataclass(frozen=True)
class Objective:
    """The training objective, as one differentiable function.

    Args:
        estimator: a short name, or a `TermwiseELBO`.
        num_particles: K, draws of z a datum, for an estimator given by name.
        corruption: "none", or what is done to the x that the guide sees.
        kl_balance: whether each layer of a hierarchy is weighed by its share of the KL.

    Raises:
        InputError: for bad values.
    """

    estimator: str | TermwiseELBO = "B"
    num_particles: int = 1
    corruption: str = "none"
    kl_balance: bool = False
    elbo: TermwiseELBO = field(init=False)

    def __post_init__(self) -> None:
        """Check every field and make the estimator."""
        elbo = self.estimator
        if isinstance(elbo, str) or not isinstance(elbo, TermwiseELBO):
            elbo = estimator_from(str(elbo), self.num_particles)
        checks.choice("corruption", self.corruption, ("none", *CORRUPTIONS))
        object.__setattr__(self, "elbo", BalancedELBO(elbo) if self.kl_balance else elbo)

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
        may change between the steps of one recorded program.
        """
        corruption: contextlib.AbstractContextManager = contextlib.nullcontext()
        if self.corruption != "none":
            corruption = Corruption(self.corruption, corruption_level)
        with KLWeight(kl_weight, weights=weight_kl_weight), corruption:
            terms = self.elbo.terms(model, guide, x)
        return terms.mean_loss(inverse_num_data), terms.report(inverse_num_data)
