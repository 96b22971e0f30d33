"""Reduced precision: matrix products in bfloat16, everything else as it was."""

import pytest
import torch
from torch.nn import functional as F

from ppl_vae import VAEConfig, build
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.handlers.reduced_precision import BFloat16Products
from ppl_vae.training import fit
from ppl_vae.training.objective import Objective, TrainingLoss
from ppl_vae.training.optimizers import FusedUpdate
from ppl_vae.training.step import EagerStep, RecordedStep

CONFIG = VAEConfig((6,), latent_size=2, hidden_sizes=(16,))


def exact(size: int, seed: int) -> torch.Tensor:
    """Small integers over 8: every product of two is exact in bfloat16."""
    return torch.randint(-8, 9, (size, size), generator=torch.Generator().manual_seed(seed)) / 8


def test_products_of_numbers_bfloat16_holds_are_exact_and_the_bias_keeps_its_precision():
    x, weight, bias = exact(8, 0), exact(8, 1), torch.tensor([1 / 3] * 8)
    with BFloat16Products():
        y = F.linear(x, weight, bias=bias)
    assert y.dtype == torch.float32
    rounded = (x @ weight.T).to(torch.bfloat16).float()
    assert torch.equal(y, rounded + bias)
    assert torch.equal(
        F.linear(x, weight, bias), torch.addmm(bias, x, weight.T)
    )  # and outside nothing changes


def test_convolutions_are_rounded_too():
    x, kernel, bias = torch.rand(2, 3, 5, 5), torch.rand(4, 3, 3, 3), torch.rand(4)
    with BFloat16Products():
        y = F.conv2d(x, kernel, bias, stride=2)
    full = F.conv2d(x, kernel, bias, stride=2)
    assert y.dtype == torch.float32
    assert 0 < (y - full).abs().max() < 2**-6 * full.abs().max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_recorded_step_equals_the_eager_one(precision):
    vae = build(CONFIG, seed=0, num_data=40)
    module = TrainingLoss(vae, Objective(), precision)
    update = FusedUpdate("adam", list(vae.parameters()), 0.0)
    x = torch.rand(10, 6)
    results = []
    with local_parameters(), torch.random.fork_rng():
        for step in (EagerStep(module, update), RecordedStep(module, update, "record")):
            torch.manual_seed(1)
            report, gradients = step.gradients(x)
            results.append([report, *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_run_in_bfloat16_ends_near_one_in_single_precision_but_not_at_it():
    x = (torch.rand(200, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    bounds = {}
    for precision in ("float32", "bfloat16"):
        history = fit(
            build(CONFIG, seed=0), x, epochs=20, precision=precision, progress=False, compile="off"
        )
        bounds[precision] = history.rows[-1]["lower_bound"]
    assert bounds["float32"] != bounds["bfloat16"]
    assert abs(bounds["float32"] - bounds["bfloat16"]) < 0.05
