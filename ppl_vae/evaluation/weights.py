"""Log importance weights of a guide for a model, and any block of evaluation as a recorded or compiled program.

Knows traces of the two programs and the recorder of training; knows nothing of how weights are averaged.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.func import functional_call

from ppl_vae.evaluation.rewrites import rewrite
from ppl_vae.handlers.enumeration import replayed_trace
from ppl_vae.handlers.kl_weight import in_data_plate
from ppl_vae.training.recorded import NotRecordable, compiled, lift_noise, record
from ppl_vae.vae import VAE

__all__ = ["LogWeights", "paired_traces", "program", "sites"]

log = logging.getLogger(__name__)
Traces = tuple[poutine.Trace, poutine.Trace]


def paired_traces(vae: VAE, x: Tensor, num_samples: int) -> Traces:
    """Traces of guide and model at S draws of every latent site for each row of x, with log densities (S, M).

    The guide runs under a plate of draws left of the data plate, so its encoder sees each row once. Bayesian weights
    are drawn anew for each cell of (S, M), by the handler that makes that cheap.
    """
    weights = vae.guide.weights
    noise = contextlib.ExitStack() if weights is None else weights.noise_handler()
    with noise, pyro.plate("draws", num_samples, dim=-2):
        guide = poutine.trace(vae.guide).get_trace(x)
    with noise, pyro.plate("draws", num_samples, dim=-2):
        model = replayed_trace(vae.model, guide, x)
    for site in (*sites(guide).values(), *sites(model).values()):
        site["log_prob"] = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
    return guide, model


def sites(trace: poutine.Trace) -> dict[str, Any]:
    """Sample sites of single data: sites of weights theta, outside the data plate, are not theirs."""
    return {name: site for name, site in trace.nodes.items()
            if site["type"] == "sample" and not site_is_subsample(site) and in_data_plate(site)}  # fmt: skip


class LogWeights(nn.Module):
    """log w_s(x) = log p(x|z_s) + log p(z_s) - log q(z_s|x), z_s ~ q(z|x); x (M, *event_shape) -> (S, M) nats."""

    def __init__(self, vae: VAE, num_samples: int) -> None:
        super().__init__()
        self.vae, self.num_samples = vae, num_samples

    def forward(self, x: Tensor) -> Tensor:
        """Log weights of S fresh draws for each row."""
        guide, model = paired_traces(self.vae, x, self.num_samples)
        log_p = sum(site["log_prob"] for site in sites(model).values())
        log_q = sum(site["log_prob"] for site in sites(guide).values())
        return (log_p - log_q).expand(self.num_samples, len(x))


def program(module: nn.Module, inputs: Sequence[Tensor], tier: str) -> Callable[..., Any]:
    """`module` for inputs of these shapes: itself (tier "off"), its recorded graph, or that graph compiled.

    Parameters and buffers are held by reference. What cannot be recorded runs as it is, with one logged line.
    """
    if tier == "off":
        return module
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    tensors = [t.detach() for t in state.values()]

    def run(*arguments: Tensor) -> Any:
        return functional_call(module, dict(zip(state, arguments)), arguments[len(state) :])

    try:
        graph = record(run, [*tensors, *inputs])
    except NotRecordable as error:
        log.warning("the programs cannot be recorded (%s); running them eagerly", error)
        return module
    noise = lift_noise(graph)
    block: Any = graph
    if tier == "inductor":
        with torch.random.fork_rng():
            block = compiled(rewrite(graph), [*tensors, *inputs, *(draw() for draw in noise)]) or graph
    return lambda *inputs: block(*tensors, *inputs, *[draw() for draw in noise])
