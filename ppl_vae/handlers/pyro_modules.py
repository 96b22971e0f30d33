"""Names of Pyro's own modules: of their sample sites and parameters, wherever the module is held.

Knows `PyroModule`; knows nothing of priors or guides.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pyro
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import _Context
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import nn

__all__ = ["SiteNames", "has_pyro_samples", "in_context", "name_pyro_modules"]


def name_pyro_modules(part: Any, name: str = "") -> None:
    """Put the `PyroModule`s of a part under one name, whether or not parameters are local to them.

    Left as they are, two of them called `linear` in two programs would be one to Pyro's parameter
    store, and two with a `PyroSample` called `scale` would be one site.

    Args:
        part: a module; anything else has none of them.
        name: what the names of the modules begin with.
    """
    if not isinstance(part, nn.Module):
        return
    with pyro.settings.context(module_local_params=True):
        context = _Context()
    for path, module in part.named_modules():
        if isinstance(module, PyroModule):
            module._pyro_name = ".".join(filter(None, (name, path)))
            module._pyro_context = context


def has_pyro_samples(part: Any) -> bool:
    """Whether a part states sample sites as attributes (`PyroSample`).

    Args:
        part: a module; anything else states none.
    """
    return any(_sample_names(module) for _, module in _pyro_modules(part))


@contextlib.contextmanager
def in_context(part: Any) -> Iterator[None]:
    """One run of a part: an attribute that is a sample site is drawn once, whoever reads it.

    Without it a `PyroModule` that an `nn.Module` holds draws without a site when it is not called.

    Args:
        part: a module; anything else has no such attributes.
    """
    with contextlib.ExitStack() as stack:
        for _, module in _pyro_modules(part):
            stack.enter_context(module._pyro_context)
        yield


class SiteNames(Messenger):
    """Calls the site of a `PyroSample` by its path in the part: "inner.scale".

    The name that Pyro gives it begins with that of a program, which is another in each process.

    Args:
        part: the module that holds the `PyroSample`s.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def __enter__(self) -> Any:
        self._names = {
            f"{module._pyro_name}.{name}".removeprefix("."): f"{path}.{name}".removeprefix(".")
            for path, module in _pyro_modules(self.part)
            for name in _sample_names(module)
        }
        return super().__enter__()

    def _pyro_sample(self, msg: Message) -> None:
        msg["name"] = self._names.get(str(msg["name"]), msg["name"])


def _pyro_modules(part: Any) -> Iterator[tuple[str, PyroModule]]:
    modules = part.named_modules() if isinstance(part, nn.Module) else ()
    return ((path, module) for path, module in modules if isinstance(module, PyroModule))


def _sample_names(module: PyroModule) -> set[str]:
    """Names of a module's sample attributes; one that is a decorated method has yet to be read."""
    decorated = {
        name
        for kind in type(module).__mro__
        for name, value in vars(kind).items()
        if isinstance(value, PyroSample)
    }
    return decorated | set(module._pyro_samples)
