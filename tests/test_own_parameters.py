"""`pyro.param` in a user's prior or posterior: it trains, under its constraint, and is saved with the rest."""

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae import VAEConfig, build, fit, load, lower_bound, save

CONFIG = VAEConfig((1,), 1, (), likelihood="normal_shared", likelihood_options={"initial_scale": 1.0})


def located(latent_size: int) -> Tensor:
    loc = pyro.param("z.loc", lambda: torch.full((latent_size,), 0.5))
    scale = pyro.param("z.scale", torch.full((latent_size,), 2.0), constraint=constraints.positive)
    return pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class Owner(nn.Module):
    """Announces its network by `pyro.module`, as some programs do, and has a `pyro.param` besides."""

    mean_field = True

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> None:
        pyro.module("network", self.network)
        scale = pyro.param("q_scale", torch.ones(1), constraint=constraints.positive)
        pyro.sample("z", dist.Normal(self.network(x), scale).to_event(1))


def test_the_program_is_what_it_was() -> None:
    vae = build(CONFIG, prior=located, seed=0)
    prior = pyro.poutine.trace(vae.model.prior).get_trace()
    assert [name for name in prior.nodes if name in ("z", "z.loc", "z.scale")] == ["z"]
    q: dist.Independent = prior.nodes["z"]["fn"]
    assert q.mean.item() == 0.5 and q.stddev.item() == pytest.approx(2.0)
    names = {name for name, _ in vae.named_parameters() if "prior" in name}
    assert names == {"model.prior.unconstrained.z/loc", "model.prior.unconstrained.z/scale"}
    assert not any("z.loc" in name for name in pyro.get_param_store())


@pytest.mark.parametrize("compile", ["off", "record"])
def test_it_trains_to_the_maximum_of_the_bound(compile: str) -> None:
    """x = 5 + noise and a decoder that may be the identity: the location of the prior moves, and the scale stays
    positive; the bound rises by nats, which it would not if the prior stood still and the decoder with it."""
    x = 5 + 0.1 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    vae = build(CONFIG, prior=located, posterior=Owner(), seed=0)
    for parameter in vae.model.decoder.parameters():
        parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    bound = lower_bound(vae, x, num_particles=20, seed=0).mean()
    fit(vae, x, epochs=40, learning_rate=0.05, compile=compile, progress=False)
    moved = {name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert {"model.prior.unconstrained.z/loc", "model.prior.unconstrained.z/scale"} <= moved
    assert {"guide.posterior.unconstrained.q_scale", "guide.posterior.program.network.weight"} <= moved
    assert lower_bound(vae, x, num_particles=20, seed=0).mean() > bound + 1


def test_it_is_saved_and_stock_svi_trains_it_too(tmp_path: Path) -> None:
    vae = build(CONFIG, prior=located, seed=0)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(torch.randn(10, 1))
    loc = vae.state_dict()["model.prior.unconstrained.z/loc"]
    assert loc.item() != 0.5
    save(vae, tmp_path / "it.safetensors")
    again = load(tmp_path / "it.safetensors", prior=located)
    assert torch.equal(again.state_dict()["model.prior.unconstrained.z/loc"], loc)


def test_whatever_else_the_program_has_is_still_there() -> None:
    vae = build(CONFIG, prior=located, posterior=Owner(), seed=0)
    assert vae.guide.posterior.mean_field is True
    with pytest.raises(AttributeError):
        _ = vae.guide.posterior.nothing_of_the_kind


def test_importing_leaves_torch_s_checks_on() -> None:
    with pytest.raises(ValueError, match="constraint"):
        dist.Normal(0.0, -1.0)
