"""Training and evaluation mode of a program, for a while.

Knows torch modules; knows nothing of what a program does in a mode.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["evaluating", "in_mode"]


def evaluating(program: Any) -> contextlib.AbstractContextManager[None]:
    """Evaluation mode inside the block."""
    return in_mode(program, False)


@contextlib.contextmanager
def in_mode(program: Any, training: bool) -> Iterator[None]:
    """That mode for a module's whole tree inside the block, each part's own after it; a function
    has no modes.
    """
    modes = [(m, m.training) for m in program.modules()] if isinstance(program, nn.Module) else []
    for m, _ in modes:
        m.training = training
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
