"""Noise of a recorded program, lifted to inputs.

It is drawn by the very operators that the eager program would call, in their order, so that a
recorded program draws the eager one's numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["Noise", "is_empty", "is_random", "lift_noise", "value_of"]

Noise = Callable[[], Tensor]


def lift_noise(graph: fx.GraphModule) -> list[Noise]:
    """Turn every random operator with constant arguments into an input.

    If one of them needs a value of the program (a gamma variate given its shape), all stay in the
    graph, so that the generator is used in the eager order.

    Args:
        graph: a recorded graph, which is changed.

    Returns:
        What draws the new inputs, in program order.
    """
    random = [node for node in graph.graph.nodes if is_random(node)]
    draws = [draw for draw in map(_draw, random) if draw is not None]
    if len(draws) < len(random):
        return []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for i, node in enumerate(random):
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise_{i}")
        last.meta = dict(node.meta)
        _replace(graph.graph, node, last)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return draws


def value_of(node: fx.Node) -> Any:
    """The shape and type of a node's tensor as recorded.

    Args:
        node: a node of a recorded graph.

    Returns:
        What the recorder kept of it; None for a node that is no single tensor.
    """
    value = node.meta["val"] if "val" in node.meta else node.meta.get("tensor_meta")
    return value if hasattr(value, "shape") else None


def is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers.

    Args:
        node: a node of a recorded graph.
    """
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(
        node.target, "tags", ()
    )


def is_empty(node: Any) -> bool:
    """Whether a node is fresh storage that nothing has been written to.

    Args:
        node: a node of a recorded graph, or one of a node's other arguments.
    """
    return isinstance(node, fx.Node) and "empty" in str(node.target)


def _draw(node: fx.Node) -> Noise | None:
    """What draws this node's value outside the graph; None if an argument is a value of the
    program.
    """
    target: Callable[..., Tensor] = node.target  # type: ignore[assignment]
    value = value_of(node)
    if value is None:  # several tensors, as of a GPU's dropout
        return None
    shape, dtype, device = tuple(value.shape), value.dtype, value.device
    first_is_storage = (bool(node.args) and is_empty(node.args[0])) or "like" in str(target)
    rest = node.args[1:] if first_is_storage else node.args
    if any(isinstance(argument, fx.Node) for argument in [*rest, *node.kwargs.values()]):
        return None
    if (
        first_is_storage
    ):  # an in-place draw into fresh storage, or one whose first argument only lends its shape
        return lambda: target(torch.empty(shape, dtype=dtype, device=device), *rest, **node.kwargs)
    return lambda: target(*node.args, **node.kwargs)


def _replace(graph: fx.Graph, node: fx.Node, placeholder: fx.Node) -> None:
    source = node.args[0] if node.args and is_empty(node.args[0]) else None
    node.replace_all_uses_with(placeholder)
    graph.erase_node(node)
    if isinstance(source, fx.Node):
        source.replace_all_uses_with(
            placeholder
        )  # an in-place draw is also seen through the tensor it filled
        graph.erase_node(source)
