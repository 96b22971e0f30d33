"""What every way of sampling theta gives: draws of weights, and what the model predicts averaged
over them.

Knows a VAE whose weights are points, and importance sampling; knows nothing of how the draws came
about.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.inputs import Data
from ppl_vae.sampling.refined import Proposal, RefinedImportance
from ppl_vae.vae import VAE
from ppl_vae.weights import bayesian_pair

__all__ = ["WeightPosterior", "bayesian_vae", "check_alike", "point_vae", "program_of"]

ENCODER = "posterior."


def program_of(vae: VAE, name: str) -> nn.Module:
    """The program that a weight belongs to.

    Args:
        vae: the VAE.
        name: the weight's; "posterior..." belongs to the guide, "decoder..." and "prior..." to the
            model.
    """
    return vae.guide if name.startswith(ENCODER) else vae.model


def check_alike(subject: str, vaes: Sequence[VAE]) -> None:
    """Refuse VAEs whose tensors cannot stand in for each other.

    Args:
        subject: what the error is about.
        vaes: the VAEs.

    Raises:
        InputError: for no VAE, and for VAEs of different configurations.
    """
    if len(vaes) < 1 or any(vae.config != vaes[0].config for vae in vaes):
        checks.refuse(
            subject, f"{len(vaes)} VAEs of different configurations", "at least one VAE, all alike"
        )


def point_vae(vae: VAE) -> VAE:
    """A copy of the VAE with point weights, q(theta)'s mean where they were random.

    Args:
        vae: a VAE with Bayesian weights or with points.
    """
    new, theta = copy.deepcopy(vae), vae.guide.mean_weights()
    new.model.weights = new.guide.weights = None
    new.config = dataclasses.replace(vae.config, weights=None, weights_options={})
    for name, value in theta.items():
        path, _, attribute = name.rpartition(".")
        layer = program_of(new, name).get_submodule(path)
        layer.register_parameter(attribute, nn.Parameter(value.detach().clone()))
    return new.eval()


def bayesian_vae(vae: VAE, weights: str = "mean_field", **options: Any) -> VAE:
    """A copy of a VAE in which the weights are random, q(theta) centred on the values they had.

    Args:
        vae: a VAE with point weights.
        weights: the family of q(theta), the configuration's `weights`.
        **options: the configuration's `weights_options`.

    Raises:
        InputError: for a VAE with Bayesian weights, and for an unknown family or option.
    """
    if vae.config.weights is not None:
        checks.refuse(
            "vae",
            f"weights='{vae.config.weights}'",
            "weights that are points",
            "point_vae(vae) makes them so",
        )
    new = copy.deepcopy(vae)
    new.config = dataclasses.replace(vae.config, weights=weights, weights_options=options)
    new.model.weights, new.guide.weights = bayesian_pair(
        weights, options, new.model.decoder, new.guide.posterior
    )
    return new.eval()


@dataclass(frozen=True)
class WeightPosterior:
    """Draws of theta from p(theta | data), or from what stands for it.

    Args:
        vae: the VAE at point weights that the draws are put into.
        draws: {name: (C, S, *shape)}, C chains of S draws, named as the sites of Bayesian weights
            are ("decoder.network.0.weight").
        markov: whether the draws of a chain depend on each other, so that R-hat and effective
            sample size mean something.
        latents: {site: (C, S, N, *event)} of the training data, where they were sampled too.
    """

    vae: VAE
    draws: Mapping[str, Tensor]
    markov: bool
    latents: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(C, S): chains and draws of each."""
        chains, draws = next(iter(self.draws.values())).shape[:2]
        return chains, draws

    def __len__(self) -> int:
        return math.prod(self.shape)

    def thinned(self, num_draws: int) -> "WeightPosterior":
        """Some of the draws, evenly spaced in each chain.

        Args:
            num_draws: about how many, of all chains together.
        """
        chains, length = self.shape
        keep = torch.linspace(0, length - 1, max(1, min(length, num_draws // chains))).long()
        draws, latents = (
            {n: value[:, keep] for n, value in part.items()} for part in (self.draws, self.latents)
        )
        return dataclasses.replace(self, draws=draws, latents=latents)

    def models(self) -> Iterator[VAE]:
        """The VAE at each draw in turn, in evaluation mode: one object, whose weights change."""
        vae = copy.deepcopy(self.vae).eval()
        flat = {name: value.flatten(0, 1) for name, value in self.draws.items()}
        for i in range(len(self)):
            _put(vae, {name: value[i] for name, value in flat.items()})
            yield vae

    def mean_vae(self) -> VAE:
        """The VAE at the mean of the draws: a model of its own, for one-mode posteriors only."""
        vae = copy.deepcopy(self.vae).eval()
        _put(
            vae,
            {
                n: v.mean((0, 1)) if v.is_floating_point() else v[0, 0]
                for n, v in self.draws.items()
            },
        )
        return vae

    def log_likelihoods(
        self,
        x: Data,
        num_samples: int = 100,
        num_steps: int = 90,
        seed: int | None = 0,
        **options: Any,
    ) -> Tensor:
        """log p(x | theta_s), each by importance sampling with proposals refined for it and for x.

        Draws that share their encoder start from the proposal of the draw before.

        Args:
            x: data (N, *event_shape), a tensor, an array, a frame or a map-style data set.
            num_samples: K, draws of the latents for each datum and theta.
            num_steps: steps of Adam that refine the proposals.
            seed: of the draws; None uses the global generator.
            **options: further arguments of `RefinedImportance`.

        Returns:
            (C S, N) nats.

        Raises:
            InputError: for what is no data of this VAE, and for a bad value of an argument.
        """
        shared = not any(name.startswith(ENCODER) for name in self.draws)
        proposal: Proposal | None = None
        importance, values = None, []
        for vae in self.models():  # one object, so that its programs serve all draws
            importance = importance or RefinedImportance(vae, num_samples, num_steps, **options)
            value, refined = importance(x, proposal, seed)
            values.append(value)
            proposal = refined if shared else None
        return torch.stack(values)

    def predictive(self, x: Data, **options: Any) -> Tensor:
        """log p(x | data) = log 1/S sum_s p(x | theta_s), S all draws, (N,) nats.

        Args:
            x: data (N, *event_shape), a tensor, an array, a frame or a map-style data set.
            **options: further arguments of `log_likelihoods`.
        """
        return self.log_likelihoods(x, **options).logsumexp(0) - math.log(len(self))


@torch.no_grad()
def _put(vae: VAE, theta: Mapping[str, Tensor]) -> None:
    states = {name: program_of(vae, name).state_dict()[name] for name in theta}
    for name, value in theta.items():
        states[name].copy_(value)
