"""Keep the tensor program of a Python function, Pyro's handlers and all, as one graph, and compile
it.

Knows graphs and random operators; knows nothing of what a program computes. Noise is lifted to
inputs and drawn by the very operators the eager program would call, in their order, so that a
recorded program draws the eager one's numbers.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.training.rewrites import rewritten

__all__ = [
    "Noise",
    "NotRecordable",
    "changed_attributes",
    "compiled",
    "lift_noise",
    "plain_attributes",
    "record",
    "record_twice",
    "stateless",
]

log = logging.getLogger(__name__)
PLAIN = (bool, int, float, str)
Noise = Callable[[], Tensor]


class NotRecordable(Exception):
    """The program cannot be kept as one static graph; the message says why."""


def record(program: Callable[..., Any], arguments: Sequence[Tensor]) -> fx.GraphModule:
    """One run of `program` on copies of `arguments`, forward and backward alike, as a graph over
    them.

    Neither the global generator nor the arguments are changed. Python numbers and control flow are
    baked in. Raises `NotRecordable` where the program looks at a value (`.item()`, `if tensor:`) or
    cannot be traced.
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
    """`record`, for a program of `module` that has to be the same at every call.

    Raises `NotRecordable` as well where a second run gives another graph, or where a run changes a
    plain attribute of a module (a counter, a temperature): the graph would hold for good what the
    program changes from call to call, as it does with random numbers of Python or numpy.
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
    """What `module` gives for `arguments` with `state` in place of its parameters and buffers.

    Raises `NotRecordable` where it replaces a buffer (`self.count = self.count + 1`): a graph holds
    the tensor that was there, and would begin with it at every call.
    """
    given = dict(state)
    value = functional_call(module, state, tuple(arguments))
    replaced = sorted(name for name, tensor in given.items() if state[name] is not tensor)
    if replaced:
        raise NotRecordable(f"they replace {', '.join(replaced)}, which .copy_() would write to")
    return value


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The numbers, truth values and texts that the modules hold as attributes, alone or in lists
    and dictionaries, by dotted name.
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
    """The names whose values differ."""
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


def lift_noise(graph: fx.GraphModule) -> list[Noise]:
    """Turn every random operator with constant arguments into an input; returns what draws them, in
    program order.

    If one of them needs a value of the program (a gamma variate given its shape), all stay in the
    graph, so that the generator is used in the eager order.
    """
    random = [node for node in graph.graph.nodes if _is_random(node)]
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


def _simplified(graph: fx.GraphModule) -> fx.GraphModule:
    """Drop operators that change no bit: aliases, shapes a tensor already has, x + 0 and x * 1, and
    repetitions.

    Each costs a call at every step where nothing compiles the graph. A graph that writes to one of
    its inputs, or draws numbers, keeps those operators, and nothing is taken for a repetition
    across a write.
    """
    writes = any(_writes(node) for node in graph.graph.nodes if not _is_random(node))
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or _is_random(node) or _writes(node):
            continue
        same = _changes_nothing(node)
        if same is None and not writes and not _is_empty(node):
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
    if _value(node) is None or _value(source) is None or _value(source).dtype != _value(node).dtype:
        return None
    # a sum with 0 may lay its result out anew, and who takes the graph's outputs relies on how they
    # were laid out when it was recorded
    if _value(source).stride() != _value(node).stride():
        return None
    if name in ("aten.expand.default", "aten.view.default", "aten._unsafe_view.default"):
        return source if _value(source).shape == _value(node).shape else None
    neutral = {
        "aten.add.Tensor": 0,
        "aten.sub.Tensor": 0,
        "aten.mul.Tensor": 1,
        "aten.pow.Tensor_Scalar": 1,
    }
    same = name in neutral and not node.kwargs and isinstance(node.args[1], (int, float))
    return source if same and node.args[1] == neutral[name] else None


def _value(node: fx.Node) -> Any:
    """The shape and type of a node's tensor as recorded; None for a node that is no single
    tensor.
    """
    value = node.meta["val"] if "val" in node.meta else node.meta.get("tensor_meta")
    return value if hasattr(value, "shape") else None


def _is_random(node: fx.Node) -> bool:
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(
        node.target, "tags", ()
    )


def _is_empty(node: Any) -> bool:
    return isinstance(node, fx.Node) and "empty" in str(node.target)


def _draw(node: fx.Node) -> Noise | None:
    """What draws this node's value outside the graph; None if an argument is a value of the
    program.
    """
    target: Callable[..., Tensor] = node.target  # type: ignore[assignment]
    value = _value(node)
    shape, dtype, device = tuple(value.shape), value.dtype, value.device
    first_is_storage = (bool(node.args) and _is_empty(node.args[0])) or "like" in str(target)
    rest = node.args[1:] if first_is_storage else node.args
    if any(isinstance(argument, fx.Node) for argument in [*rest, *node.kwargs.values()]):
        return None
    if (
        first_is_storage
    ):  # an in-place draw into fresh storage, or one whose first argument only lends its shape
        return lambda: target(torch.empty(shape, dtype=dtype, device=device), *rest, **node.kwargs)
    return lambda: target(*node.args, **node.kwargs)


def _replace(graph: fx.Graph, node: fx.Node, placeholder: fx.Node) -> None:
    source = node.args[0] if node.args and _is_empty(node.args[0]) else None
    node.replace_all_uses_with(placeholder)
    graph.erase_node(node)
    if isinstance(source, fx.Node):
        source.replace_all_uses_with(
            placeholder
        )  # an in-place draw is also seen through the tensor it filled
        graph.erase_node(source)


def compiled(graph: fx.GraphModule, arguments: Sequence[Tensor]) -> Callable[..., Any] | None:
    """The graph compiled by inductor; None, with one logged line, where there is no working
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
