"""The random generators of Python, numpy and torch, kept as they are around somebody else's code.

Knows global generators and nothing else.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["kept_generators", "seeded_generators"]


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """The generators after the block, those of GPUs included, are as they were before it."""
    with _host_kept(), torch.random.fork_rng():
        yield


@contextlib.contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """The generators of the processor start from `seed`, a whole number below 2^32, inside the
    block and are as they were after it. No GPU is touched: a forked process could not.
    """
    with _host_kept(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        yield


@contextlib.contextmanager
def _host_kept() -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
