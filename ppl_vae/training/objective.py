"""What a step of training minimises: an estimator of the bound under the handlers of the run."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO, RenyiELBO, TraceEnum_ELBO, TraceTMC_ELBO
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.elbo import ESTIMATOR, ESTIMATORS, BalancedELBO, TermwiseELBO, estimator_from
from ppl_vae.elbo.termwise import Program
from ppl_vae.handlers import KLWeight
from ppl_vae.handlers.corruption import CORRUPTION, Corrupt, Corruption, corruption_from
from ppl_vae.handlers.modes import evaluating
from ppl_vae.handlers.reduced_precision import BFloat16Products
from ppl_vae.parts.user_code import is_reference
from ppl_vae.vae import VAE

__all__ = ["Objective", "StepValues", "TrainingLoss", "corruption_text", "estimator_text"]


@dataclass(frozen=True)
class Objective:
    """The training objective, as one differentiable function.

    Args:
        estimator: a short name, or any `pyro.infer.ELBO`: an object, its class, or "file.py:Name".
        num_particles: K, draws of z a datum, of an estimator that is made here.
        corruption: "none", or what is done to the x that the guide sees: a name, a function of x
            and the level, or "file.py:Name".
        kl_balance: whether each layer of a hierarchy is weighed by its share of the KL.

    Raises:
        InputError: for bad values.
    """

    estimator: str | ELBO | type[ELBO] = "B"
    num_particles: int = 1
    corruption: str | Corrupt = "none"
    kl_balance: bool = False
    elbo: ELBO = field(init=False)
    corrupt: Corrupt | None = field(init=False)

    def __post_init__(self) -> None:
        """Check every field and make the estimator."""
        object.__setattr__(self, "elbo", self._made())
        none = isinstance(self.corruption, str) and self.corruption == "none"
        given = None if none else corruption_from(self.corruption)
        object.__setattr__(self, "corrupt", given)

    def _made(self) -> ELBO:
        elbo: Any = self.estimator
        if isinstance(elbo, str) and (elbo.startswith("renyi:") or not is_reference(elbo)):
            elbo = estimator_from(elbo, self.num_particles)
        elif isinstance(elbo, str):
            elbo = ESTIMATOR.find(elbo, None)
        if isinstance(elbo, type):
            elbo = ESTIMATOR.make(elbo, {"num_particles": self.num_particles})
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
        values: "StepValues | None" = None,
        num_data: int | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, report): the loss to minimise and the unweighted terms to show, all 0-dimensional,
        nats per datum.

        An estimator of Pyro's own reports its negated loss alone, in which the KL terms have their
        weights.

        Args:
            model: p(x, z).
            guide: q(z|x).
            x: a minibatch, (M, *event_shape).
            values: the weights of KL terms and the level of corruption; None is none of either.
            num_data: N where it is not what the program's plate of data says.
        """
        self._settle_nesting(model, guide, x)
        with self._handlers(values or StepValues()):
            if isinstance(self.elbo, TermwiseELBO):
                terms = self.elbo.terms(model, guide, x)
                return terms.mean_loss(num_data), terms.report(num_data)
            elbo: Any = self.elbo
            loss = elbo.differentiable_loss(model, guide, x) / (num_data or len(x))
        return loss, {"lower_bound": -loss.detach()}

    def gradients(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        values: "StepValues",
        num_data: int,
        leaves: Sequence[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """(loss, its gradients) of an estimator that only adds up gradients, in nats per datum.

        Args:
            model: p(x, z).
            guide: q(z|x).
            x: a minibatch, (M, *event_shape).
            values: the weights of KL terms and the level of corruption.
            num_data: N.
            leaves: the parameters.
        """
        before = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        elbo: Any = self.elbo
        self._settle_nesting(model, guide, x)
        with self._handlers(values):
            loss = elbo.loss_and_grads(model, guide, x)
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in leaves]
        for leaf, gradient in zip(leaves, before, strict=True):
            leaf.grad = gradient
        return torch.as_tensor(loss, device=x.device) / num_data, [
            gradient / num_data for gradient in found
        ]

    def _settle_nesting(self, model: Program, guide: Program, x: Tensor) -> None:
        """Let an estimator of Pyro's own count the plates by a run that leaves the generator, and
        what a module counts while training, as they were: it counts again where a run goes on.
        """
        elbo: Any = self.elbo
        counts = isinstance(elbo, TraceEnum_ELBO | TraceTMC_ELBO) or (
            elbo.vectorize_particles and elbo.num_particles > 1
        )
        if self.keeps_terms or not counts or elbo.max_plate_nesting < math.inf:
            return
        with torch.random.fork_rng(), torch.no_grad(), evaluating(model), evaluating(guide):
            elbo._guess_max_plate_nesting(model, guide, (x,), {})

    def _handlers(self, values: "StepValues") -> contextlib.ExitStack:
        entered = contextlib.ExitStack()
        entered.enter_context(KLWeight(values.kl_weight, weights=values.weight_kl_weight))
        if self.corrupt is not None:
            entered.enter_context(Corruption(self.corrupt, values.corruption_level))
        return entered


class StepValues(NamedTuple):
    """What may change between two steps: numbers, or 0-dimensional tensors that a recorded step
    reads.

    Args:
        kl_weight: beta, the weight of the latents' KL.
        weight_kl_weight: the weight of KL(theta).
        corruption_level: how much of x a guide in training mode does not see.
    """

    kl_weight: float | Tensor = 1.0
    weight_kl_weight: float | Tensor = 1.0
    corruption_level: float | Tensor = 0.0


class TrainingLoss(nn.Module):
    """The objective of a VAE as one function of its parameters and buffers, which
    `functional_call` can swap.

    The values that may change between steps are buffers, so that a recorded program reads them.

    Args:
        vae: the programs.
        objective: what is minimised.
        precision: "float32", or "bfloat16" for matrix products.
        max_gradient_norm: what the gradient's norm is cut off at; None is nothing.
        num_data: N; None is what the programs' plate of data says.
    """

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        precision: str = "float32",
        max_gradient_norm: float | None = None,
        num_data: int | None = None,
    ) -> None:
        super().__init__()
        self.vae, self.objective, self.precision = vae, objective, precision
        self.max_gradient_norm = max_gradient_norm
        self.num_data = num_data or vae.num_data
        device = next(vae.parameters()).device
        for name, value in zip(StepValues._fields, StepValues()):
            self.register_buffer(name, torch.tensor(value, device=device))
        self._set = StepValues()

    @property
    def values(self) -> StepValues:
        """The values as they stand, tensors."""
        return StepValues(*map(self.get_buffer, StepValues._fields))

    def set(self, values: StepValues) -> None:
        """Give the next step these values, numbers."""
        if values == self._set:  # on a GPU each is a call
            return
        for name, value in zip(StepValues._fields, values):
            self.get_buffer(name).fill_(value)
        self._set = values

    def forward(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, report) for one batch."""
        programs = self.vae.model, self.vae.guide
        with BFloat16Products() if self.precision == "bfloat16" else contextlib.nullcontext():
            return self.objective(*programs, batch, self.values, self.num_data)

    def gradients(self, batch: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(loss, its gradients) of an estimator that only adds up gradients."""
        programs = self.vae.model, self.vae.guide
        num_data = self.num_data or len(batch)
        return self.objective.gradients(*programs, batch, self.values, num_data, parameters)

    def modes(self) -> tuple[bool, ...]:
        """Training or evaluation, for every module: a recorded program is good for these alone."""
        return tuple(m.training for m in self.modules())


def corruption_text(corruption: str | Corrupt) -> str:
    """A corruption as a text, by which a resumed run is known to have the same one."""
    return str(CORRUPTION.reference(corruption, None))


def estimator_text(estimator: str | ELBO | type[ELBO]) -> str:
    """An estimator as a text, by which a resumed run is known to have the same one."""
    if isinstance(estimator, str | type):
        return str(ESTIMATOR.reference(estimator, None))
    plain = {
        name: value
        for name, value in sorted(vars(estimator).items())
        if isinstance(value, int | float | str | None) and name != "max_plate_nesting"
    }
    options = ", ".join(f"{name}={value!r}" for name, value in plain.items())
    kind = type(estimator)
    return f"{kind.__module__}.{kind.__qualname__}({options})"
