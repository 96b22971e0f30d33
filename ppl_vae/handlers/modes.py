"""Training and evaluation mode of a program, and Pyro's own settings, for a while.

Knows torch modules; knows nothing of what a program does in a mode.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pyro
from torch import nn

__all__ = ["evaluating", "in_mode", "local_parameters"]

VALIDATION = (
    "validate_distributions_pyro",
    "validate_distributions_torch",
    "validate_infer",
    "validate_poutine",
)


def evaluating(program: Any) -> contextlib.AbstractContextManager[None]:
    """Evaluation mode inside the block.

    Args:
        program: a module, each part of which has its own mode again afterwards; a function has no
            modes.
    """
    return in_mode(program, False)


@contextlib.contextmanager
def in_mode(program: Any, training: bool) -> Iterator[None]:
    """One mode for a module's whole tree inside the block, each part's own after it.

    Args:
        program: a module; a function has no modes.
        training: training mode rather than evaluation mode.
    """
    modes = [(m, m.training) for m in program.modules()] if isinstance(program, nn.Module) else []
    for m, _ in modes:
        m.training = training
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


@contextlib.contextmanager
def local_parameters() -> Iterator[None]:
    """Inside the block, parameters belong to modules, not to Pyro's global store.

    Checks at each call are off there.
    """
    # each restored to its own value, which `validation_enabled` does not do
    off = {name: False for name in VALIDATION}
    with pyro.settings.context(module_local_params=True, **off):
        yield
