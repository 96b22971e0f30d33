"""Keep the tensor program of a Python function, Pyro's handlers and all, as one graph.

Knows graphs and random operators; knows nothing of what a program computes.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.graphs.noise import is_empty, is_random, value_of

__all__ = [
    "NotRecordable",
    "changed_attributes",
    "plain_attributes",
    "record",
    "record_twice",
    "stateless",
]

PLAIN = (bool, int, float, str)


class NotRecordable(Exception):
    """The program cannot be kept as one static graph; the message says why."""


def record(program: Callable[..., Any], arguments: Sequence[Tensor]) -> fx.GraphModule:
    """One run of a program on copies of its arguments, forward and backward alike, as a graph.

    Neither the global generator nor the arguments are changed. Python numbers and control flow are
    baked in.

    Args:
        program: a function of tensors.
        arguments: what it is run on.

    Returns:
        A graph over the arguments.

    Raises:
        NotRecordable: where the program looks at a value (`.item()`, `if tensor:`) or cannot be
            traced.
    """
    devices = {a.device for a in arguments if a.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            return _simplified(make_fx(program)(*(a.clone() for a in arguments)))
        except (RuntimeError, NotImplementedError, fx.proxy.TraceError) as error:
            raise NotRecordable(_reason(error)) from error


def _reason(error: Exception) -> str:
    if "aten._local_scalar_dense" in str(error):
        return "they look at a tensor's value, as .item() and `if tensor:` do"
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def record_twice(
    program: Callable[..., Any], arguments: Sequence[Tensor], module: nn.Module
) -> fx.GraphModule:
    """`record`, for a program of a module that has to be the same at every call.

    Args:
        program: a function of tensors.
        arguments: what it is run on.
        module: the module whose program it is.

    Returns:
        A graph over the arguments.

    Raises:
        NotRecordable: as `record` does, and where a second run gives another graph, or where a run
            changes a plain attribute of a module (a counter, a temperature): the graph would hold
            for good what the program changes from call to call, as it does with random numbers of
            Python or numpy.
    """
    before = plain_attributes(module)
    first, second = record(program, arguments), record(program, arguments)
    changed = changed_attributes(before, plain_attributes(module))
    if changed:
        raise NotRecordable(f"they change {', '.join(changed)} from call to call")
    if _content(first) != _content(second):
        raise NotRecordable("numbers that are no tensors of the program change from call to call")
    return second


def stateless(module: nn.Module, state: dict[str, Tensor], arguments: Sequence[Tensor]) -> Any:
    """What a module gives with other tensors in place of its parameters and buffers.

    Args:
        module: the module.
        state: the tensors, by the names of the parameters and buffers.
        arguments: what the module is called with.

    Raises:
        NotRecordable: where it replaces a buffer (`self.count = self.count + 1`): a graph holds the
            tensor that was there, and would begin with it at every call.
    """
    given = dict(state)
    value = functional_call(module, state, tuple(arguments))
    replaced = sorted(name for name, tensor in given.items() if state[name] is not tensor)
    if replaced:
        raise NotRecordable(f"they replace {', '.join(replaced)}, which .copy_() would write to")
    return value


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The numbers, truth values and texts that modules hold, alone or in lists and dictionaries.

    Args:
        module: the module, whose parts count as well.

    Returns:
        Copies of the attributes, by dotted name.
    """
    return {
        f"{prefix}.{name}".removeprefix("."): copy.deepcopy(value)
        for prefix, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, PLAIN) or (name[:1] != "_" and _all_plain(value))
    }


def _all_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_all_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_all_plain, value))
    return isinstance(value, PLAIN)


def changed_attributes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names whose values differ, sorted.

    Args:
        before: values by name.
        after: values by name.
    """
    return sorted(
        name
        for name in before.keys() | after.keys()
        if repr(before.get(name)) != repr(after.get(name))
    )


def _content(graph: fx.GraphModule) -> list[Sequence[Any]]:
    """Every operator of the graph with its arguments, and every constant with its bytes."""
    content: list[Sequence[Any]] = []
    for node in graph.graph.nodes:
        content.append((node.name, str(node.target), repr(node.args), repr(node.kwargs)))
        constant = getattr(graph, str(node.target)) if node.op == "get_attr" else None
        if isinstance(constant, Tensor):
            kept = constant.detach().resolve_conj().resolve_neg()
            # an expanded constant has one number for many, and no bytes for each of them
            own = kept.cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
            content.append((constant.shape, own.view(torch.uint8).numpy().tobytes()))
    return content


def _simplified(graph: fx.GraphModule) -> fx.GraphModule:
    """Drop operators that change no bit: aliases, shapes a tensor already has, x + 0 and x * 1, and
    repetitions.

    Each costs a call at every step where nothing compiles the graph. A graph that writes to one of
    its inputs, or draws numbers, keeps those operators, and nothing is taken for a repetition
    across a write.
    """
    writes = any(_writes(node) for node in graph.graph.nodes if not is_random(node))
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or is_random(node) or _writes(node):
            continue
        same = _changes_nothing(node)
        if same is None and not writes and not is_empty(node):
            key = (node.target, repr(node.args), repr(sorted(node.kwargs.items())))
            same = seen.setdefault(key, node)
        if same is not None and same is not node:
            node.replace_all_uses_with(same)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _changes_nothing(node: fx.Node) -> fx.Node | None:
    """The argument that a node passes through unchanged, bit by bit; None if it may change
    anything.
    """
    name, source = str(node.target), node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if name in ("aten.detach.default", "aten.alias.default"):
        return source
    if name == "aten.t.default" and str(source.target) == name:
        return source.args[0] if isinstance(source.args[0], fx.Node) else None
    if (
        value_of(node) is None
        or value_of(source) is None
        or value_of(source).dtype != value_of(node).dtype
    ):
        return None
    # a sum with 0 may lay its result out anew, and who takes the graph's outputs relies on how they
    # were laid out when it was recorded
    if value_of(source).stride() != value_of(node).stride():
        return None
    if name in ("aten.expand.default", "aten.view.default", "aten._unsafe_view.default"):
        return source if value_of(source).shape == value_of(node).shape else None
    neutral = {
        "aten.add.Tensor": 0,
        "aten.sub.Tensor": 0,
        "aten.mul.Tensor": 1,
        "aten.pow.Tensor_Scalar": 1,
    }
    same = name in neutral and not node.kwargs and isinstance(node.args[1], (int, float))
    return source if same and node.args[1] == neutral[name] else None
