"""Pay for Pyro once: record the tensor program of a step under `make_fx` and run that.

Knows graphs and random operators; knows nothing of what the program computes. The recorded program is
(parameters, buffers, batch, scheduled, noise) -> (report, gradients). Noise is lifted to inputs and drawn by the very
operators the eager step would call, in their order, so the recorded step draws the eager step's numbers.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.training.step import SCHEDULED, EagerStep, ObjectiveModule, Step

__all__ = ["RecordedStep", "make_step", "record"]

log = logging.getLogger(__name__)
Noise = Callable[[], Tensor]


class NotRecordable(Exception):
    """The program cannot be kept as one static graph; the message says why."""


class RecordedStep:
    """A step whose Pyro programs were run once for each batch shape; in mode "inductor" the graph is compiled as well."""

    def __init__(self, module: ObjectiveModule, parameters: list[Tensor], tier: str) -> None:
        self.module, self.parameters, self.tier = module, parameters, tier
        self.names: list[str] = []
        self._programs: dict[Any, Callable[[Tensor, Tensor], tuple[list[Tensor], Tensor]]] = {}

    def __call__(self, batch: Tensor, scheduled: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients and report; records first where batch shape, dtype or any module's mode is new."""
        modes = tuple(m.training for m in self.module.modules())
        key = (batch.shape, batch.dtype, batch.device, modes)
        if key not in self._programs:
            self._programs[key] = self._record(batch, scheduled)
        return self._programs[key](batch, scheduled)

    def _record(self, batch: Tensor, scheduled: Tensor) -> Callable[[Tensor, Tensor], tuple[list[Tensor], Tensor]]:
        graph, self.names, state = record(self.module, self.parameters, batch, scheduled)
        noise = lift_noise(graph)
        _check_inputs(graph, len(state) + 1, self.names)
        program: Callable[..., Any] = graph
        if self.tier == "inductor":
            with torch.random.fork_rng(devices=[]):
                program = _compiled(graph, [*state, batch, scheduled, *(draw() for draw in noise)])
            if program is graph:
                self.tier = "record"

        def run(batch: Tensor, scheduled: Tensor) -> tuple[list[Tensor], Tensor]:
            with torch.no_grad():
                report, *gradients = program(*state, batch, scheduled, *[draw() for draw in noise])
            return gradients, report

        return run


def record(module: ObjectiveModule, parameters: list[Tensor], batch: Tensor, scheduled: Tensor
           ) -> tuple[fx.GraphModule, list[str], list[Tensor]]:  # fmt: skip
    """(graph, names of the report, state): one run of the programs as a graph over [*state, batch, scheduled].

    `state` holds the parameters, then all buffers, by reference. Neither the global generator nor any buffer is
    changed by recording. Raises `NotRecordable`.
    """
    named = {id(p): name for name, p in module.named_parameters()}
    names = [named[id(p)] for p in parameters]
    buffers = dict(module.named_buffers())
    report_names: list[str] = []

    def program(*arguments: Tensor) -> tuple[Tensor, ...]:
        own = [p.detach().requires_grad_() for p in arguments[: len(names)]]
        state = {**dict(zip(names, own, strict=True)), **dict(zip(buffers, arguments[len(names) : -2], strict=True))}
        loss, report = functional_call(module, state, arguments[-2:])
        report_names[:] = ["loss", *report]
        gradients = torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True)
        return (torch.stack([loss.detach(), *report.values()]), *gradients)

    state = [*(p.detach() for p in parameters), *buffers.values()]
    with torch.random.fork_rng(devices=[]):
        try:
            graph = make_fx(program)(*(t.clone() for t in state), batch.clone(), scheduled.clone())
        except (RuntimeError, NotImplementedError, torch.fx.proxy.TraceError) as error:
            raise NotRecordable(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return graph, report_names, state


def _is_random(node: fx.Node) -> bool:
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def lift_noise(graph: fx.GraphModule) -> list[Noise]:
    """Turn every random operator with constant arguments into an input; returns what draws them, in program order.

    If one of them needs a value of the program (a gamma variate given its shape), all stay in the graph, so that the
    order in which the generator is used remains the eager one.
    """
    random = [node for node in graph.graph.nodes if _is_random(node)]
    draws = [_draw(node) for node in random]
    if any(draw is None for draw in draws):
        return []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for i, node in enumerate(random):
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise_{i}")
        last.meta = dict(node.meta)
        _replace(graph.graph, node, last)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return draws  # type: ignore[return-value]


def _is_empty(node: Any) -> bool:
    return isinstance(node, fx.Node) and "empty" in str(node.target)


def _draw(node: fx.Node) -> Noise | None:
    """What draws this node's value outside the graph; None if an argument is a value of the program."""
    target, value = node.target, node.meta["val"] if "val" in node.meta else node.meta["tensor_meta"]
    filled = bool(node.args) and _is_empty(node.args[0])
    like = "like" in str(target)
    rest = node.args[1:] if filled or like else node.args
    if any(isinstance(a, fx.Node) for a in [*rest, *node.kwargs.values()]):
        return None
    shape, dtype, device = tuple(value.shape), value.dtype, value.device
    if filled or like:
        return lambda: target(torch.empty(shape, dtype=dtype, device=device), *rest, **node.kwargs)  # type: ignore[operator]
    return lambda: target(*node.args, **node.kwargs)  # type: ignore[operator]


def _replace(graph: fx.Graph, node: fx.Node, placeholder: fx.Node) -> None:
    source = node.args[0] if node.args and _is_empty(node.args[0]) else None
    node.replace_all_uses_with(placeholder)
    graph.erase_node(node)
    if isinstance(source, fx.Node):
        source.replace_all_uses_with(placeholder)  # an in-place draw is also seen through the tensor it filled
        graph.erase_node(source)


def _check_inputs(graph: fx.GraphModule, scheduled_position: int, names: list[str]) -> None:
    """A KL term whose weight is not an input of the graph was weighed by a number baked in: fail, loudly."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    used = bool(placeholders[scheduled_position].users)
    if any(name.startswith("kl.") for name in names) and not used:
        raise RuntimeError(f"the recorded step does not depend on {SCHEDULED}: a value was baked in as a number")


def _compiled(graph: fx.GraphModule, arguments: list[Tensor]) -> Callable[..., Any]:
    """The graph compiled by inductor, or the graph itself with one logged line where there is no working compiler."""
    import torch._inductor

    for node in graph.graph.nodes:
        node.meta.clear()  # recording leaves values of its own mode there, which the compiler must not mix with its own
    try:
        with torch.no_grad():
            return torch._inductor.compile(graph, arguments, options={"cpp_wrapper": True, "fallback_random": True})
    except Exception as error:
        log.warning("compile='inductor' is not available (%s); running the recorded graph", str(error).splitlines()[0])
        return graph


def make_step(module: ObjectiveModule, parameters: list[Tensor], tier: str, batch: Tensor, scheduled: Tensor) -> Step:
    """The step of the wanted tier, falling back to eager with one logged line where the programs cannot be recorded."""
    eager = EagerStep(module, parameters)
    if tier == "off":
        return eager
    step = RecordedStep(module, parameters, tier)
    try:
        with torch.random.fork_rng(devices=[]):
            record(module, parameters, batch, scheduled)
    except NotRecordable as error:
        log.warning("the programs cannot be recorded (%s); running them eagerly", error)
        return eager
    return step
