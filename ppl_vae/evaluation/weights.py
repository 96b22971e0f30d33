"""Log importance weights of a guide for a model, and any block of evaluation as a recorded or
compiled program.

Knows traces of the two programs and the recorder of training; knows nothing of how weights are
averaged.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.distributions.remembered import made_from, remember
from ppl_vae.graphs import NotRecordable, compiled, lift_noise, record_twice, stateless
from ppl_vae.handlers.enumeration import replayed_trace
from ppl_vae.handlers.kl_weight import in_data_plate
from ppl_vae.vae import VAE

__all__ = ["LogWeights", "paired_traces", "program", "sites"]

log = logging.getLogger(__name__)
Traces = tuple[poutine.Trace, poutine.Trace]


def paired_traces(vae: VAE, x: Tensor, num_samples: int, from_prior: int = 0) -> Traces:
    """Traces of guide and model at S draws of every latent site for each row of x.

    The guide runs under a plate of draws left of the data plate, so its encoder sees each row once.
    Bayesian weights are drawn anew for each cell of (S, M), by the handler that makes that cheap.

    Args:
        vae: the VAE.
        x: data (M, *event_shape), of the model's dtype and device.
        num_samples: S, draws for each row.
        from_prior: how many of the draws, the last ones, are the prior's instead of the guide's.

    Returns:
        The traces of guide and model, each site with its log density (S, M).

    Raises:
        InputError: with draws from the prior, where the guide has sites of its own.
    """
    weights = vae.guide.weights
    noise = contextlib.ExitStack() if weights is None else weights.noise_handler()
    with noise, pyro.plate("draws", num_samples, dim=-2):
        guide = poutine.trace(vae.guide).get_trace(x)
        if from_prior:
            _put_prior_draws(vae, guide, x, from_prior)
            guide = poutine.trace(poutine.replay(vae.guide, trace=guide)).get_trace(x)
    with noise, pyro.plate("draws", num_samples, dim=-2):
        model = replayed_trace(vae.model, guide, x)
    for site in (*sites(guide).values(), *sites(model).values()):
        site["log_prob"] = scale_and_mask(
            site["fn"].log_prob(site["value"]), site["scale"], site["mask"]
        )
    return guide, model


def _put_prior_draws(vae: VAE, guide: poutine.Trace, x: Tensor, count: int) -> None:
    """Replace the last `count` values of each site by the prior's, inside the plate of draws."""
    with pyro.plate("data", len(x), dim=-1):
        prior: Any = poutine.trace(vae.model.draw_latents).get_trace().nodes
    for name, site in sites(guide).items():
        if name not in prior:
            checks.refuse(
                "prior_share", f"the guide's own site '{name}'", "sites of the prior alone", "use 0"
            )
        site["value"] = _joined(site["value"], prior[name]["value"], count)


def _joined(first: Tensor, last: Tensor, count: int) -> Tensor:
    """`first` (S, M, *event) with its last `count` rows replaced by those of `last`, logits that
    draws were made from included.
    """
    rows = torch.cat([first.expand(last.shape)[:-count], last[-count:]])
    first_logit, last_logit = made_from(first), made_from(last)
    if first_logit is None or last_logit is None:
        return rows
    return remember(rows, _joined(first_logit, last_logit, count))


def sites(trace: poutine.Trace) -> dict[str, Any]:
    """Sample sites of single data, by name.

    Sites of weights theta, outside the data plate, are not theirs.

    Args:
        trace: a trace of the guide or of the model.
    """
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and in_data_plate(site)
    }


class LogWeights(nn.Module):
    """log w_s(x) = log p(x|z_s) + log p(z_s) - log r(z_s|x), z_s ~ r.

    r = q(z|x), or the mixture (1 - a) q(z|x) + a p(z) with a S draws of the prior: its weights are
    bounded by p(x|z) / a, whatever q misses.

    Args:
        vae: the VAE.
        num_samples: S, draws for each datum.
        from_prior: a S, how many of them are the prior's.
    """

    def __init__(self, vae: VAE, num_samples: int, from_prior: int = 0) -> None:
        super().__init__()
        self.vae, self.num_samples, self.from_prior = vae, num_samples, from_prior

    def forward(self, x: Tensor) -> Tensor:
        """Log weights of S fresh draws for each row.

        Args:
            x: data (M, *event_shape), of the model's dtype and device.

        Returns:
            Log weights (S, M), nats.
        """
        guide, model = paired_traces(self.vae, x, self.num_samples, self.from_prior)
        log_p = {name: site["log_prob"] for name, site in sites(model).items()}
        proposal = sum(site["log_prob"] for site in sites(guide).values())
        log_likelihood, log_prior = log_p.pop("x"), sum(log_p.values())
        if self.from_prior:
            share = self.from_prior / self.num_samples
            proposal = torch.logaddexp(proposal + math.log1p(-share), log_prior + math.log(share))
        return (log_prior + log_likelihood - proposal).expand(self.num_samples, len(x))


def program(module: nn.Module, inputs: Sequence[Tensor], tier: str) -> Callable[..., Any]:
    """`module` for inputs of these shapes: itself, its recorded graph or that graph compiled.

    Parameters and buffers are held by reference. What cannot be recorded runs as it is, with one
    logged line.

    Args:
        module: what to run.
        inputs: examples of its inputs.
        tier: "off" (itself), "record" (its recorded graph) or "inductor" (that graph compiled).

    Returns:
        A function of inputs of these shapes.
    """
    if tier == "off":
        return module
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    tensors = [t.detach() for t in state.values()]

    def run(*arguments: Tensor) -> Any:
        return stateless(module, dict(zip(state, arguments)), arguments[len(state) :])

    try:
        graph = record_twice(run, [*tensors, *inputs], module)
    except NotRecordable as error:
        log.warning("the programs cannot be recorded (%s); running them eagerly", error)
        return module
    noise = lift_noise(graph)
    block: Any = graph
    if tier == "inductor":
        with torch.random.fork_rng():
            block = compiled(graph, [*tensors, *inputs, *(draw() for draw in noise)]) or graph
    return lambda *inputs: block(*tensors, *inputs, *[draw() for draw in noise])
