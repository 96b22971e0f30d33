"""The rival trainers of `studies/`, held to a linear-Gaussian model whose posterior and optimum are
known.

Knows the studies' folder; must not know a study's question.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ppl_vae import VAE, VAEConfig, build

STUDIES = str(Path(__file__).parents[1] / "studies")


@pytest.fixture(autouse=True)
def studies_on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`rivals` imports as it does for a script of the folder, and leaves no trace."""
    monkeypatch.syspath_prepend(STUDIES)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("rivals", "measures"):
            del sys.modules[name]


def line(slope: float, exact: bool) -> VAE:
    """x = slope z + noise of variance 1 in one dimension; `exact` puts q(z|x) at the posterior."""
    vae = build(VAEConfig((1,), 1, (), likelihood="normal_unit"), seed=0)
    variance = 1 / (1 + slope**2)
    parameters = dict(vae.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            value.zero_()
            if "decoder" in name and value.dim() == 2:
                value.fill_(slope)
            elif exact and value.dim() == 2:  # heads: mean, log variance
                value.copy_(torch.tensor([[slope * variance], [0.0]]))
            elif exact and "posterior" in name:
                value.copy_(torch.tensor([0.0, math.log(variance)]))
    return vae


def data_of(slope: float, size: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return math.sqrt(1 + slope**2) * torch.randn(size, 1)


def test_at_the_true_model_and_posterior_both_phases_have_gradient_zero() -> None:
    """Each mean of 20000 scores is zero within five standard errors (failure rate below 1e-5)."""
    from rivals.wake_sleep import wake_sleep_losses

    vae, x = line(1.5, exact=True).eval(), data_of(1.5, 20_000)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wake, sleep = wake_sleep_losses(vae.model, vae.guide, x)
    gradients = torch.autograd.grad(wake + sleep, list(vae.parameters()))
    assert max(g.abs().max().item() for g in gradients) < 0.1
    off = line(1.5, exact=False).eval()  # q is the prior there: the sleep phase has to move it
    _, sleep = wake_sleep_losses(off.model, off.guide, x)
    moved = torch.autograd.grad(sleep, [p for p in off.guide.parameters() if p.dim() == 2])
    assert moved[0].abs().max() > 0.5


@pytest.mark.parametrize("name", ["wake-sleep", "MCEM"])
def test_a_rival_finds_the_slope_of_probabilistic_pca(name: str) -> None:
    """slope^2 = sample variance - 1, the maximum of the likelihood (seed fixed; tolerance four
    times its error).
    """
    from rivals import RIVALS

    x = data_of(1.5, 500)
    vae = line(0.5, exact=False)
    RIVALS[name](vae, x, 30_000, learning_rate=0.1)
    slope = next(p for n, p in vae.named_parameters() if "decoder" in n and p.dim() == 2).item()
    assert slope**2 + 1 == pytest.approx(x.var().item(), rel=0.15)


def test_a_run_of_wake_sleep_that_was_left_goes_on_as_if_it_had_not_been() -> None:
    from rivals import WakeSleep

    x = data_of(1.5, 500)
    whole, first, second = (WakeSleep(line(0.5, exact=False), x, seed=3) for _ in range(3))
    whole.train(4000)
    first.train(1500)
    second.load_state_dict(first.state_dict())
    torch.rand(1)  # other draws in between do not count
    second.train(2500)
    for expected, value in zip(whole.vae.parameters(), second.vae.parameters(), strict=True):
        assert torch.equal(expected, value)


def test_the_energy_test_tells_a_shift_and_keeps_its_level() -> None:
    """30 p-values of equal samples have mean 1/2 within 0.2 (failure rate 1.5e-4); a shift of one
    is always found.
    """
    from measures import energy_test

    with torch.random.fork_rng():
        torch.manual_seed(0)
        same = [energy_test(torch.randn(50, 2), torch.randn(50, 2), 99) for _ in range(30)]
        assert energy_test(torch.randn(50, 2) + 1, torch.randn(50, 2), 99) == 0.01
    assert abs(sum(same) / 30 - 0.5) < 0.2
