"""The battery for priors must fail for a bad one: each prior here has one fault, and one check that
finds it.

Knows the battery's checks by name; must not know how they work.
"""

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae.testing import PriorBattery


class ProductDensity(dist.MixtureSameFamily):
    """Draws one component for the whole vector, but scores each coordinate by a mixture of its
    own.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        components = self.component_distribution.base_dist.log_prob(value[..., None, :])
        return (components.logsumexp(-2) - torch.tensor(2.0).log()).sum(-1)


class WrongDensity(nn.Module):
    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("locations", torch.tensor([[-1.5], [1.5]]).repeat(1, latent_size))

    def forward(self) -> Tensor:
        components = dist.Normal(self.locations, 1.0).to_event(1)
        return pyro.sample("z", ProductDensity(dist.Categorical(torch.ones(2)), components))


class UnusedParameter(nn.Module):
    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.location = nn.Parameter(torch.zeros(latent_size))

    def forward(self) -> Tensor:
        return pyro.sample("z", dist.Normal(self.location.detach(), 1.0).to_event(1))


class ForgottenTensor(nn.Module):
    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.location = torch.randn(
            latent_size
        )  # neither a parameter nor a buffer, so no file holds it

    def forward(self) -> Tensor:
        return pyro.sample("z", dist.Normal(self.location, 1.0).to_event(1))


class NumberFromTensor(nn.Module):
    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.location = nn.Parameter(torch.zeros(latent_size))

    def forward(self) -> Tensor:
        wide = self.location.sum().item() > 0
        return pyro.sample("z", dist.Normal(self.location, 2.0 if wide else 1.0).to_event(1))


FAULTS = {
    "WrongDensity": ("test_samples_agree_with_the_density_region_by_region", ()),
    "UnusedParameter": ("test_gradient_reaches_every_parameter", ("B",)),
    "NumberFromTensor": ("test_a_recorded_step_is_the_eager_step_to_the_bit", ()),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str) -> None:
    battery, (check, arguments) = PriorBattery(), FAULTS[name]
    battery.prior = f"{__file__}:{name}"
    with pytest.raises(AssertionError):
        getattr(battery, check)(*arguments)


def test_a_tensor_that_no_file_holds_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    battery = PriorBattery()
    battery.prior = f"{__file__}:ForgottenTensor"
    with pytest.raises(AssertionError):
        battery.test_saved_and_loaded_it_is_the_same(tmp_path, monkeypatch)
