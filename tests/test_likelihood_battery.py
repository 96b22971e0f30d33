"""Every built-in likelihood and own ones pass the battery; each fault is found by one check.

Knows the battery's checks by name; must not know how they work.
"""

import math
from pathlib import Path
from typing import ClassVar

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae.likelihoods import LIKELIHOODS
from ppl_vae.testing import LikelihoodBattery

OPTIONS = {"categorical": {"categories": 4}}
TABLE = ["real", "positive", "count", "binary", "categorical:3"]
BUILT_IN = sorted(LIKELIHOODS.keys() - {"decoder", "columns", "bernoulli"})


def _battery(name: str) -> type[LikelihoodBattery]:
    members = {"likelihood": name, "options": OPTIONS.get(name, {}), "new_process": False}
    return type("Test_" + name, (LikelihoodBattery,), members)


globals().update({f"Test_{name}": _battery(name) for name in BUILT_IN})


class TestBernoulli(LikelihoodBattery):
    likelihood = "bernoulli"
    new_process = False
    values = (0.0, 1.0)


class TestColumns(LikelihoodBattery):
    likelihood = "columns"
    options: ClassVar = {"columns": TABLE}
    event_shape = (5,)


class TestImages(LikelihoodBattery):
    likelihood = "discretized_logistic"
    event_shape = (2, 2)
    new_process = False


def counts(log_total: Tensor, logits: Tensor, least: float = 1e-3) -> dist.TorchDistribution:
    return dist.NegativeBinomial(log_total.exp() + least, logits=logits)


class TestOwnFunction(LikelihoodBattery):
    likelihood = counts
    new_process = False
    options: ClassVar = {"least": 0.1}


class TestOwnFile(LikelihoodBattery):
    likelihood = f"{__file__}:counts"


class Correlated(nn.Module):
    """A normal whose entries depend on each other, with a parameter of its own."""

    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self, location: Tensor) -> dist.TorchDistribution:
        size = location.shape[-1]
        root = torch.ones(size, size).to(location).tril() * self.log_scale.exp()
        return dist.MultivariateNormal(location, scale_tril=root)


class TestOwnClass(LikelihoodBattery):
    likelihood = Correlated
    options: ClassVar = {"start": 0.8}


class TestOwnObject(LikelihoodBattery):
    likelihood = Correlated()


class Unnormalised(dist.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.1


class TooWide(dist.Normal):
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        return self.loc + 1.5 * (super().sample(sample_shape) - self.loc)


def unnormalised(location: Tensor) -> dist.TorchDistribution:
    return Unnormalised(location, 1.0)


def too_wide(location: Tensor) -> dist.TorchDistribution:
    return TooWide(location, 1.0)


def without_gradient(location: Tensor) -> dist.TorchDistribution:
    return dist.Normal(location.detach() + 0.0 * location, 1.0)


def looks_at_values(location: Tensor) -> dist.TorchDistribution:
    return dist.Normal(location, 2.0 if location.sum().item() > 0 else 1.0)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (unnormalised, "test_the_density_is_normalised"),
        (unnormalised, "test_draws_agree_with_the_density"),
        (too_wide, "test_draws_agree_with_the_density"),
        (without_gradient, "test_gradients_are_those_of_finite_differences"),
        (looks_at_values, "test_a_recorded_step_is_the_eager_step_to_the_bit"),
    ],
)
def test_a_fault_is_found(fault: object, check: str) -> None:
    battery = LikelihoodBattery()
    battery.likelihood = fault
    with pytest.raises(AssertionError):
        getattr(battery, check)()


def test_the_library_imports_without_pytest(tmp_path: Path) -> None:
    """And the batteries say what they need."""
    import subprocess
    import sys

    code = "import sys; sys.modules['pytest'] = None\nimport ppl_vae.cli\nimport ppl_vae.testing"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and "pip install 'ppl-vae[testing]'" in run.stderr.splitlines()[-1]
