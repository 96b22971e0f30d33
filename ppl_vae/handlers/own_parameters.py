"""A user's program whose `pyro.param` statements are parameters of a module: they train, are saved and move as all do.

Knows Pyro's messages; knows nothing of priors or guides.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.nn import PyroModule
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_vae import checks

__all__ = ["OwnParameters", "with_own_parameters"]


def with_own_parameters(program: Callable[..., Any], trace: Trace, subject: str) -> Callable[..., Any]:
    """The program, with what `pyro.param` names in a `trace` of it made its own.

    `InputError` for a module announced by `pyro.module` that is no part of the program: nothing would train it.
    """
    found: dict[str, Any] = {n: site for n, site in trace.nodes.items() if site["type"] == "param"}
    parts = list(program.modules()) if isinstance(program, nn.Module) else []
    attributes = {m._pyro_get_fullname(n) for m in parts if isinstance(m, PyroModule)
                  for n in (*m._parameters, *m._pyro_params)}  # fmt: skip
    statements = {n: s for n, s in found.items() if n not in attributes and "$$$" not in n}  # as pyro.module names them
    own = {id(p) for m in parts for p in m._parameters.values()}
    for name in found:
        if "$$$" in name and id(found[name]["args"][1]) not in own:
            got = f"pyro.module('{name.partition('$$$')[0]}', ...) of a module that is not its own"
            checks.refuse(
                subject, got, "a program that owns its networks", "make it an nn.Module with the network inside"
            )
    if not statements:
        return program
    return OwnParameters(program, {n: (s["value"], s["kwargs"]["constraint"]) for n, s in statements.items()})


class OwnParameters(nn.Module):
    """A program and its parameters theta = t(u), u unconstrained, one for each `pyro.param` statement by its name."""

    def __init__(self, program: Callable[..., Any], found: Mapping[str, tuple[Tensor, Any]]) -> None:
        super().__init__()
        self.program = program
        self.transforms = {name: transform_to(constraint) for name, (_, constraint) in found.items()}
        with torch.no_grad():
            start = {name: self.transforms[name].inv(value).clone() for name, (value, _) in found.items()}
        self.unconstrained = nn.ParameterDict({_key(name): nn.Parameter(value) for name, value in start.items()})

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
        values = {name: t(self.unconstrained[_key(name)]) for name, t in self.transforms.items()}
        with _Values(values):
            return self.program(*args)


class _Values(Messenger):
    """Answers `pyro.param` statements from `values`, unseen by the handlers outside."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"], msg["stop"] = self.values[msg["name"]], True, True


def _key(name: str) -> str:
    return name.replace(".", "/")  # a module's parameters have no dots in their names
