"""Stochastic-gradient Hamiltonian Monte Carlo on theta, and SWAG, which is what its path without
noise leaves.

Knows a trained VAE with point weights, its prior p(theta) and minibatch gradients of its bound.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import checks
from ppl_vae.evaluation.blocks import as_float, checked
from ppl_vae.graphs import record
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.sampling.kernels import ConstantSteps, Kernel
from ppl_vae.sampling.noise import TOLERATED, GradientNoise
from ppl_vae.sampling.posterior import WeightPosterior, check_alike, point_vae, program_of
from ppl_vae.training.objective import Objective, TrainingLoss
from ppl_vae.training.optimizers import FusedUpdate
from ppl_vae.training.step import EagerStep, RecordedStep
from ppl_vae.vae import VAE
from ppl_vae.weights import WeightPrior, chosen_weights

__all__ = ["stochastic_gradient_hmc", "swag"]

log = logging.getLogger(__name__)
ALONGSIDE = ("guide", "nothing")
MEASURED_EVERY = 1000  # steps


def stochastic_gradient_hmc(
    start: VAE | Sequence[VAE],
    data: Tensor,
    *,
    num_draws: int = 20,
    num_chains: int = 1,
    kernel: Kernel | None = None,
    prior: str = "normal",
    where: str = "decoder",
    biases: bool = False,
    batch_size: int = 100,
    alongside: str = "guide",
    learning_rate: float = 1e-3,
    seed: int = 0,
    compile: str = "record",
    **prior_options: float,
) -> WeightPosterior:
    """Draws of theta ~ p(theta | data)^(1 / temperature), by gradients of minibatches.

    v <- (1 - a) v - e g(theta) + sqrt(2 a e T / N - e^2 V) noise,   theta <- theta + v,
    g = grad[-mean_batch L(x; theta) - log p(theta) / N], L the evidence lower bound in nats, by
    which the guide bounds the likelihood of each minibatch, a the friction, e the step size, T the
    temperature, V the variance of g over minibatches, weight by weight, measured every 1000 steps.
    Correct for small e, about a B / (10 N) for batches of B: a line is logged where noise that V
    cannot make up for leaves draws too wide by more than 5 %.

    Args:
        start: a trained VAE, or one for each chain, alike in all of the model that is not sampled.
            Of Bayesian weights the posterior mean is the start, and their own p(theta), learned
            scales as they are, stands in place of `prior`, `where` and `biases`.
        data: x, (N, *event_shape).
        num_draws: S, draws of each chain.
        num_chains: C, chains that start at one VAE; a sequence of VAEs gives one chain each.
        kernel: `ConstantSteps(...)` or `CyclicalSteps(...)`; None is `ConstantSteps()`.
        prior: the name of p(theta), as in `VAEConfig.weights_options`.
        where: which weights are sampled, as in `VAEConfig.weights_options`.
        biases: whether their layers' biases are sampled, too.
        batch_size: B, data of each minibatch.
        alongside: what follows theta by Adam: "guide" (the encoder, so that the bound stays tight)
            or "nothing". Other parameters of the model stay as they are.
        learning_rate: of that Adam.
        seed: of batches and noise; chain i uses seed + i.
        compile: "off" or "record".
        **prior_options: of p(theta), as in `VAEConfig.weights_options`.

    Returns:
        A `WeightPosterior` of draws (C, S, *shape).

    Raises:
        InputError: for a bad value of an argument, for VAEs that differ in what is not sampled, and
            for a prior with sites besides the weights.
        FloatingPointError: where a chain leaves the region in which the bound is finite.

    Source: Stochastic gradient Hamiltonian Monte Carlo (2014), equation 15.
    """
    checks.integer("num_draws", num_draws)
    checks.integer("num_chains", num_chains)
    checks.choice("alongside", alongside, ALONGSIDE)
    starts = list(start) if isinstance(start, Sequence) else [start] * num_chains
    priors = [_prior_of(vae, prior, where, biases, prior_options) for vae in starts]
    chains = [
        _Chain(vae, density, data, batch_size, alongside, learning_rate, compile)
        for vae, density in zip(starts, priors)
    ]
    _check_rest(chains)
    kept = []
    for i, chain in enumerate(chains):
        with torch.random.fork_rng(), local_parameters():
            torch.manual_seed(checks.integer("seed", seed, 0) + i)
            kept.append(chain.run(kernel or ConstantSteps(), num_draws))
    draws = {name: torch.stack([values[name] for values in kept]) for name in kept[0]}
    return WeightPosterior(chains[0].vae.eval(), draws, markov=True)


def _check_rest(chains: "Sequence[_Chain]") -> None:
    """Draws of all chains are put into the first one's VAE, so the rest of the model has to be the
    same in each.
    """
    check_alike("start", [chain.vae for chain in chains])
    first, *others = (chain.vae.model.state_dict() for chain in chains)
    rest = first.keys() - set(chains[0].names)
    for name in sorted(rest):
        if any(not torch.equal(state[name], first[name]) for state in others):
            got = f"VAEs that differ in {name}, which is not sampled"
            checks.refuse(
                "start",
                got,
                "VAEs that differ in theta alone",
                "sample from each, then join by mixture([...])",
            )


def _prior_of(
    vae: VAE, prior: str, where: str, biases: bool, options: Mapping[str, float]
) -> WeightPrior:
    if vae.model.weights is not None:
        return vae.model.weights
    return WeightPrior(
        chosen_weights(where, biases, vae.model.decoder, vae.guide.posterior), prior, **options
    )


class _Chain:
    """One chain: a VAE of its own, the weights that move by sampling and the parameters that follow
    by Adam.
    """

    def __init__(
        self,
        vae: VAE,
        prior: WeightPrior,
        data: Tensor,
        batch_size: int,
        alongside: str,
        learning_rate: float,
        compile: str,
    ) -> None:
        self.vae, self.batch_size, self.learning_rate = (
            point_vae(vae).train(),
            batch_size,
            learning_rate,
        )
        self.data = checked(self.vae, data)
        self.vae.num_data = len(data)
        self.names = [weight.name for weight in prior.weights]
        self.theta = [program_of(self.vae, name).get_parameter(name) for name in self.names]
        followers = list(self.vae.guide.posterior.parameters()) if alongside == "guide" else []
        self.followers = [p for p in followers if not any(p is t for t in self.theta)]
        module = TrainingLoss(self.vae, Objective("B", 1))
        everything = [*self.theta, *self.followers]
        update = FusedUpdate("adam", everything, 0.0)
        self.step = (
            EagerStep(module, update) if compile == "off" else RecordedStep(module, update, compile)
        )
        self.follow = FusedUpdate("adam", self.followers, 0.0) if self.followers else None
        self.prior_gradient = _gradient_of(prior, self.names, self.theta)
        self.warned = False

    def run(self, kernel: Kernel, num_draws: int) -> dict[str, Tensor]:
        """The draws kept, {name: (S, *shape)}."""
        velocity, kept = [torch.zeros_like(p) for p in self.theta], []
        noise, since = GradientNoise(len(self.data), kernel.friction), MEASURED_EVERY
        for move in kernel.moves(num_draws):
            if move.temperature and since >= MEASURED_EVERY:
                self._measure(noise, kernel, num_draws)
                since = 0
            since += 1
            gradients = self.gradients()
            with torch.no_grad():
                for v, g in zip(velocity, gradients):
                    v.mul_(1 - kernel.friction).add_(g, alpha=-move.step_size)
                if move.temperature:
                    for v, scale in zip(velocity, noise.injected(move.step_size, move.temperature)):
                        v.addcmul_(torch.randn_like(v), scale)
                for p, v in zip(self.theta, velocity):
                    p.add_(v)
            if move.keep:
                kept.append([p.detach().clone() for p in self.theta])
        return {name: torch.stack(values) for name, values in zip(self.names, zip(*kept))}

    def _measure(self, noise: GradientNoise, kernel: Kernel, num_draws: int) -> None:
        """Measure the gradients' noise at the present weights, and say once where it is too much
        for draws that are kept.

        The chain's own random numbers and the model's running statistics stay as they are.
        """
        buffers = [buffer.clone() for buffer in self.vae.buffers()]
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, ())))
            noise.measure(lambda: self._gradients()[: len(self.theta)])
        with torch.no_grad():
            for buffer, before in zip(self.vae.buffers(), buffers):
                buffer.copy_(before)
        kept = {(m.step_size, m.temperature) for m in kernel.moves(num_draws) if m.keep}
        worst = max(kept - {(e, 0.0) for e, _ in kept}, key=lambda m: noise.excess(*m))
        excess = noise.excess(*worst)
        if excess <= TOLERATED or self.warned:
            return
        self.warned = True
        share = noise.tolerable(*worst) / worst[0]
        log.warning(
            "noise of minibatch gradients makes the chain %.3g times as warm as asked for, along "
            "that noise, and draws too wide; within %.0f %%: step_size=%.2g; else take a larger "
            "batch_size or friction",
            1 + excess,
            100 * TOLERATED,
            kernel.step_size * share,
        )

    def gradients(self) -> list[Tensor]:
        """g(theta), weight by weight; the parameters that follow take their own step."""
        gradients = self._gradients()
        if self.follow:
            self.follow(gradients[len(self.theta) :], self.learning_rate)
        priors = self.prior_gradient(*(p.detach() for p in self.theta))
        return [g - p / len(self.data) for g, p in zip(gradients, priors)]

    def _gradients(self) -> Sequence[Tensor]:
        """Gradients of the bound of a fresh minibatch, of theta and of the parameters that
        follow.
        """
        index = torch.randint(len(self.data), (min(self.batch_size, len(self.data)),))
        if self.batch_size >= len(self.data):
            index = torch.arange(len(self.data))
        batch = as_float(self.vae, self.data[index])
        report, gradients = self.step.gradients(batch)
        if not torch.isfinite(report[0]):
            raise FloatingPointError(
                "the chain left the region where the bound is finite; try a smaller step_size"
            )
        return gradients


def _gradient_of(
    prior: WeightPrior, names: Sequence[str], theta: Sequence[Tensor]
) -> Callable[..., Any]:
    """grad log p(theta), recorded. Raises `InputError` for a prior with sites of its own besides
    the weights.
    """

    def gradient(*values: Tensor) -> Any:
        with torch.enable_grad():
            own = [value.detach().requires_grad_() for value in values]
            trace = poutine.trace(poutine.condition(prior, dict(zip(names, own)))).get_trace()
            if len(trace.stochastic_nodes):
                checks.refuse(
                    "prior",
                    f"further sites {', '.join(trace.stochastic_nodes)}",
                    "sites of weights alone",
                    "use another prior, or sample it with nuts",
                )
            return torch.autograd.grad(torch.as_tensor(trace.log_prob_sum()), own)

    with local_parameters():
        return record(gradient, [p.detach() for p in theta])


def swag(
    start: VAE,
    data: Tensor,
    *,
    num_draws: int = 20,
    num_snapshots: int = 30,
    rank: int = 20,
    scale: float = 0.5,
    kernel: Kernel | None = None,
    seed: int = 0,
    **options: Any,
) -> WeightPosterior:
    """Draws from a Normal fitted to the path of stochastic gradient descent.

    theta = m + sqrt(scale) [diag(s) e + D f / sqrt(K - 1)], e and f standard normal: m and s^2 mean
    and variance of the snapshots, D the deviations of the last K of them. With scale = 1/2 the
    diagonal and the low-rank part give half the variance each. The path has a constant step size
    and is that of `stochastic_gradient_hmc` at temperature 0.

    Args:
        start: a trained VAE.
        data: x, (N, *event_shape).
        num_draws: S, draws of theta.
        num_snapshots: snapshots of the path.
        rank: K, how many of the last snapshots give the low-rank part, at most all of them.
        scale: what the fitted variances are multiplied by, the diagonal's and the low-rank part's.
        kernel: the steps of the path; None is `ConstantSteps(temperature=0.0, burn_in=500,
            thin=50)`.
        seed: of batches and draws.
        **options: further arguments of `stochastic_gradient_hmc`.

    Returns:
        A `WeightPosterior` of draws (1, S, *shape).

    Raises:
        InputError: for what `stochastic_gradient_hmc` refuses.

    Source: A simple baseline for Bayesian uncertainty in deep learning (2019), section 3.
    """
    kernel = kernel or ConstantSteps(temperature=0.0, burn_in=500, thin=50)
    path = stochastic_gradient_hmc(
        start, data, num_draws=num_snapshots, kernel=kernel, seed=seed, **options
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shared = torch.randn(num_draws, min(rank, num_snapshots))
        draws = {
            name: _around(value.flatten(0, 1), shared, scale)[None]
            for name, value in path.draws.items()
        }
    return WeightPosterior(path.vae, draws, markov=False)


def _around(snapshots: Tensor, shared: Tensor, scale: float) -> Tensor:
    """Draws (S, *shape) of one weight around its snapshots (T, *shape), `shared` (S, K) the same
    for all weights.
    """
    mean = snapshots.mean(0)
    last = (snapshots - mean)[-shared.shape[1] :] / math.sqrt(max(1, shared.shape[1] - 1))
    own = snapshots.std(0, correction=0) * torch.randn(
        len(shared), *mean.shape, dtype=mean.dtype, device=mean.device
    )
    return mean + math.sqrt(scale) * (own + torch.tensordot(shared.to(mean), last, 1))
