"""What holds around every test: one thread, no window system, one seed, no parameters, and
untouched global settings.

Knows the global settings of torch, numpy, Pyro and matplotlib; must not know any room of the
package.
"""

import signal
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pyro
import pytest
import torch

matplotlib.use("Agg")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so it is in a shell's background job, and in all its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)


def global_settings() -> dict[str, Any]:
    """Every process-wide setting that a library call must leave as it found it."""
    return {
        "torch default dtype": torch.get_default_dtype(),
        "torch default device": torch.get_default_device(),
        "torch number of threads": torch.get_num_threads(),
        "torch gradients enabled": torch.is_grad_enabled(),
        "torch deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch anomaly detection": torch.is_anomaly_enabled(),
        "torch float32 matmul precision": torch.get_float32_matmul_precision(),
        "numpy error handling": np.geterr(),
        **{f"pyro {name}": value for name, value in pyro.settings.get().items()},
        **{f"matplotlib {name}": value for name, value in matplotlib.rcParams.items()},
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> str:
    """ "name: old -> new" for each setting that differs, joined by semicolons; empty when none
    does.
    """
    names = [name for name in before if before[name] != after.get(name)]
    return "; ".join(f"{name}: {before[name]} -> {after.get(name)}" for name in names)


@pytest.fixture(autouse=True)
def untouched_global_settings() -> Iterator[None]:
    """Fail whoever changes a global setting; start seeded, so that no order of the tests changes a
    draw.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    before = global_settings()
    yield
    pyro.clear_param_store()
    difference = changed(before, global_settings())
    if difference:
        pytest.fail(f"a global setting was changed: {difference}")
