"""A user's program as owner of all that it trains: its `pyro.param` statements become parameters of
a module, and a parameter that no part has is refused.

Knows Pyro's messages and autograd's graph; knows nothing of priors or guides.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_vae import checks
from ppl_vae.handlers.modes import in_mode
from ppl_vae.handlers.pyro_modules import (
    SiteNames,
    has_pyro_samples,
    in_context,
    name_pyro_modules,
)

__all__ = ["OwnParameters", "check_owned", "stated", "users_program", "with_own_parameters"]


def with_own_parameters(
    program: Callable[..., Any], run: Callable[[], Any], subject: str
) -> Callable[..., Any]:
    """The program, with what its `pyro.param` statements name made its own.

    Its `PyroSample`s are named by their place in it.

    Args:
        program: a user's program, a function or a module.
        run: runs it once and leaves no trace; it is run in training and in evaluation mode.
        subject: what an error is about.

    Returns:
        The program itself, if it states nothing of the kind, else an `OwnParameters`.

    Raises:
        InputError: for parameters of a module that is no part of the program, since nothing would
            train them.
    """
    name_pyro_modules(program)
    with _Statements() as found, buffers_kept(program), in_context(program):
        for training in (True, False):
            with in_mode(program, training):
                run()
    parts = list(program.modules()) if isinstance(program, nn.Module) else []
    own = {id(p) for m in parts for p in m._parameters.values()}
    attributes = {
        f"{m._pyro_name}.{n}".removeprefix(".")
        for m in parts
        if isinstance(m, PyroModule)
        for n in m._pyro_params
    }
    statements = {}
    for name, (value, constraint, start) in found.first.items():
        if name in attributes or id(start) in own:
            continue
        if start is None or isinstance(
            start, nn.Parameter
        ):  # as `pyro.module` and a PyroModule state theirs
            got, hint = (
                f"the parameter '{name}' of a module that is not its own",
                "make it an nn.Module that has it",
            )
            checks.refuse(subject, got, "a program that owns its networks", hint)
        statements[name] = value, constraint
    if not statements and not has_pyro_samples(program):
        return program
    if statements:
        # initial values were drawn from a fork of the generator: nothing is to draw the same
        # numbers again
        torch.manual_seed(int(torch.randint(2**62, ())))
    return OwnParameters(program, statements, subject)


class OwnParameters(nn.Module):
    """A program and its parameters theta = t(u), u unconstrained.

    There is one for each `pyro.param` statement; that of `pyro.param("a.b", ...)` is called
    "a/b_unconstrained". The user's own program, with all its attributes, is `program`.

    Args:
        program: the user's program.
        statements: the initial value and the constraint of each statement, by its name.
        subject: what an error is about.

    Raises:
        InputError: for an initial value on the edge of its constraint.
    """

    def __init__(
        self,
        program: Callable[..., Any],
        statements: Mapping[str, tuple[Tensor, Any]],
        subject: str = "program",
    ) -> None:
        super().__init__()
        self.program = program
        self.transforms = {
            name: transform_to(constraint) for name, (_, constraint) in statements.items()
        }
        for name, (value, constraint) in statements.items():
            u = self.transforms[name].inv(value.detach()).clone()
            if not torch.isfinite(u).all():
                checks.refuse(
                    f"{subject}'s pyro.param '{name}'",
                    "a value on the edge of its constraint",
                    f"one inside: {constraint}",
                )
            self.register_parameter(_key(name), nn.Parameter(u))

    def forward(self, *args: Any) -> Any:
        """Run the program.

        Args:
            *args: what it is called with.
        """
        values = {name: t(getattr(self, _key(name))) for name, t in self.transforms.items()}
        with _Values(values), contextlib.ExitStack() as stack:
            if isinstance(self.program, nn.Module):
                stack.enter_context(SiteNames(self.program))
                stack.enter_context(in_context(self.program))
            return self.program(*args)


def users_program(program: Any) -> Any:
    """The program as the user wrote it.

    Args:
        program: that program, or the `OwnParameters` made of it.
    """
    return program.program if isinstance(program, OwnParameters) else program


def stated(program: Any) -> set[str]:
    """The names of the `pyro.param` statements that became parameters of a program.

    Args:
        program: a user's program, or the `OwnParameters` made of it.
    """
    return set(program.transforms) if isinstance(program, OwnParameters) else set()


def check_owned(owner: nn.Module, run: Callable[[], Mapping[str, poutine.Trace]]) -> None:
    """Refuse a site whose density or value depends on a parameter that the owner lacks.

    A tensor that requires a gradient, is found at two runs and is no parameter of the owner would
    neither be trained nor saved, however the program reaches it. One that is made within a run is
    none.

    Args:
        owner: the module that is to have all parameters.
        run: runs the owner's programs once, with gradients, and returns their traces by the name of
            the program.

    Raises:
        InputError: for such a site.
    """
    own = {id(parameter) for parameter in owner.parameters()}
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), buffers_kept(owner):
        for training in (True, False):
            with in_mode(owner, training):
                first, second = _leaves_by_site(run()), _leaves_by_site(run())
            again = {id(leaf) for leaves in second.values() for leaf in leaves}
            for (program, site), leaves in first.items():
                strange = [leaf for leaf in leaves if id(leaf) in again and id(leaf) not in own]
                if strange:
                    shape = tuple(strange[0].shape)
                    checks.refuse(
                        f"{program}'s site '{site}'",
                        f"a parameter of shape {shape} that is no part of the program: it would "
                        "neither be trained nor saved",
                        "programs that own their parameters",
                        "make it an attribute of the nn.Module that is given, a pyro.param, or a "
                        "constant with .detach()",
                    )


def _leaves_by_site(
    traces: Mapping[str, poutine.Trace],
) -> dict[tuple[str, str], list[Tensor]]:
    found = {}
    for program, trace in traces.items():
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not site_is_subsample(site):
                fn: Any = site["fn"]
                found[program, str(name)] = _leaves([site["value"], fn.log_prob(site["value"])])
    return found


def _leaves(tensors: Sequence[Any]) -> list[Tensor]:
    """The tensors that autograd's graph of these ends in."""
    leaves = [t for t in tensors if torch.is_tensor(t) and t.requires_grad and t.grad_fn is None]
    ahead: list[Any] = [t.grad_fn for t in tensors if torch.is_tensor(t)]
    seen: set[Any] = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            leaves.append(node.variable)
        ahead += [following for following, _ in node.next_functions]
    return leaves


class _Statements(Messenger):
    """The first statement of each parameter: name -> (value, constraint, initial value or None)."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, tuple[Tensor, Any, Any]] = {}

    def _pyro_post_param(self, msg: Any) -> None:
        start = msg["args"][1] if len(msg["args"]) > 1 else None
        self.first.setdefault(msg["name"], (msg["value"], msg["kwargs"]["constraint"], start))


class _Values(Messenger):
    """Answers `pyro.param` statements from `values`, unseen by the handlers outside."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"], msg["stop"] = self.values[msg["name"]], True, True


@contextlib.contextmanager
def buffers_kept(program: Any) -> Iterator[None]:
    """Buffers, such as a batch norm's means, are after the block what they were before it.

    Args:
        program: a module; a function has no buffers.
    """
    buffers = [(b, b.clone()) for b in program.buffers()] if isinstance(program, nn.Module) else []
    try:
        yield
    finally:
        for b, value in buffers:
            if not torch.equal(b, value):  # an expanded one stays as it is, and takes no copy
                b.detach().copy_(value)


def _key(name: str) -> str:
    # a parameter's name has no dots
    return f"{name.replace('/', '//').replace('.', '/')}_unconstrained"
