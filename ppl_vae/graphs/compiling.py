"""Recorded programs compiled by inductor."""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from ppl_vae.graphs.rewrites import rewritten

__all__ = ["compiled"]

log = logging.getLogger(__name__)


def compiled(graph: fx.GraphModule, arguments: Sequence[Tensor]) -> Callable[..., Any] | None:
    """The graph compiled by inductor.

    Args:
        graph: a recorded graph, which stays as it is.
        arguments: examples of its inputs.

    Returns:
        A function of the graph's inputs; None, with one logged line, where there is no working
        compiler.
    """
    import torch._inductor

    graph = rewritten(
        graph
    )  # a copy, so that what runs without a compiler stays equal to the eager program bit by bit
    for node in graph.graph.nodes:
        # recording leaves values of its own mode there, which the compiler must not mix with its
        # own
        node.meta.clear()
    options = {"cpp_wrapper": True, "fallback_random": True}
    try:
        # what the compiler warns of is its own code, not the caller's
        with warnings.catch_warnings(action="ignore"), torch.no_grad(), torch.random.fork_rng():
            return torch._inductor.compile(graph, list(arguments), options=options)
    except Exception as error:
        log.warning(
            "compile='inductor' is not available (%s); running the recorded graph",
            str(error).splitlines()[0],
        )
        return None
