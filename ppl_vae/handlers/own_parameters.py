"""A user's program whose `pyro.param` statements are parameters of a module: they train, are saved
and move as all do.

Knows Pyro's messages; knows nothing of priors or guides.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_vae import checks
from ppl_vae.handlers.modes import in_mode

__all__ = ["OwnParameters", "with_own_parameters"]


def with_own_parameters(
    program: Callable[..., Any], run: Callable[[], Any], subject: str
) -> Callable[..., Any]:
    """The program, with what its `pyro.param` statements name made its own; `run` runs it once and
    leaves no trace.

    It is run in training and in evaluation mode. `InputError` for parameters of a module that is no
    part of the
    program: nothing would train them.
    """
    with _Statements() as found, _buffers_kept(program):
        for training in (True, False):
            with in_mode(program, training):
                run()
    parts = list(program.modules()) if isinstance(program, nn.Module) else []
    own = {id(p) for m in parts for p in m._parameters.values()}
    attributes = {
        m._pyro_get_fullname(n) for m in parts if isinstance(m, PyroModule) for n in m._pyro_params
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
    if not statements:
        return program
    # initial values were drawn from a fork of the generator: nothing is to draw the same numbers
    # again
    torch.manual_seed(int(torch.randint(2**62, ())))
    return OwnParameters(program, statements, subject)


class OwnParameters(nn.Module):
    """A program and its parameters theta = t(u), u unconstrained, one for each `pyro.param`
    statement.

    That of `pyro.param("a.b", ...)` is called "a/b_unconstrained".
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

    def __getattr__(self, name: str) -> Any:
        """Whatever else the program has is its face, as `start_from` of a prior."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "program":
                raise
            return getattr(self.program, name)

    def forward(self, *args: Any) -> Any:
        """Run the program."""
        with _Values({name: t(getattr(self, _key(name))) for name, t in self.transforms.items()}):
            return self.program(*args)


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
def _buffers_kept(program: Any) -> Iterator[None]:
    """Buffers, such as a batch norm's means, are after the block what they were before it."""
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
