"""`pyro.param` in a user's prior or posterior: it trains, under its constraint, and is saved with
the rest.
"""

import copy
import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae import (
    InputError,
    VAEConfig,
    build,
    fit,
    load,
    log_likelihood,
    lower_bound,
    save,
)
from ppl_vae.handlers.own_parameters import check_owned

CONFIG = VAEConfig(
    (1,), 1, (), likelihood="normal_shared", likelihood_options={"initial_scale": 1.0}
)


def located(latent_size: int) -> Tensor:
    loc = pyro.param("z.loc", lambda: torch.full((latent_size,), 0.5))
    scale = pyro.param("z.scale", torch.full((latent_size,), 2.0), constraint=constraints.positive)
    return pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class Owner(nn.Module):
    """Announces its network by `pyro.module`, as some programs do, and has a `pyro.param`
    besides.
    """

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
    assert names == {"model.prior.z/loc_unconstrained", "model.prior.z/scale_unconstrained"}
    assert not any("z.loc" in name for name in pyro.get_param_store())


@pytest.mark.parametrize("compile", ["off", "record"])
def test_it_trains_to_the_maximum_of_the_bound(compile: str) -> None:
    """x = 5 + noise and a decoder that may be the identity: the location of the prior moves, and
    the scale stays positive; the bound rises by nats, which it would not if the prior stood still
    and the decoder with it."""
    x = 5 + 0.1 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    vae = build(CONFIG, prior=located, posterior=Owner(), seed=0)
    for parameter in vae.model.decoder.parameters():
        parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    bound = lower_bound(vae, x, num_particles=20, seed=0).mean()
    fit(vae, x, epochs=40, learning_rate=0.05, compile=compile, progress=False)
    moved = {
        name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {"model.prior.z/loc_unconstrained", "model.prior.z/scale_unconstrained"} <= moved
    assert {
        "guide.posterior.q_scale_unconstrained",
        "guide.posterior.program.network.weight",
    } <= moved
    assert lower_bound(vae, x, num_particles=20, seed=0).mean() > bound + 1


def test_it_is_saved_and_stock_svi_trains_it_too(tmp_path: Path) -> None:
    vae = build(CONFIG, prior=located, seed=0)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(torch.randn(10, 1))
    loc = vae.state_dict()["model.prior.z/loc_unconstrained"]
    assert loc.item() != 0.5
    save(vae, tmp_path / "it.safetensors")
    again = load(tmp_path / "it.safetensors", prior=located)
    assert torch.equal(again.state_dict()["model.prior.z/loc_unconstrained"], loc)


def test_the_users_own_program_and_all_it_has_is_within() -> None:
    own = Owner()
    vae = build(CONFIG, prior=located, posterior=own, seed=0)
    program = vae.guide.posterior.program
    assert isinstance(program, Owner) and program is not own  # a copy, of this VAE alone
    assert all(torch.equal(a, b) for a, b in zip(program.parameters(), own.parameters()))


def read_twice() -> Tensor:
    pyro.param("scale", torch.full((1,), 0.3), constraint=constraints.positive)
    return pyro.sample("z", dist.Normal(torch.zeros(1), pyro.param("scale")).to_event(1))


def test_a_second_statement_without_its_constraint_is_the_first_ones_parameter() -> None:
    vae = build(CONFIG, prior=read_twice, seed=0)
    vae.get_parameter("model.prior.scale_unconstrained").data.fill_(-3.0)
    q: dist.Independent = pyro.poutine.trace(vae.model.prior).get_trace().nodes["z"]["fn"]
    assert q.stddev.item() == pytest.approx(math.exp(-3.0))


def awkward() -> Tensor:
    names = ("values", "keys", "training", "type", "a.b", "a/b")
    total = sum(pyro.param(name, lambda: torch.randn(1)) for name in names)
    return pyro.sample("z", dist.Normal(total, 1.0).to_event(1))


class Drawn(Owner):
    def forward(self, x: Tensor) -> None:
        shift = pyro.param("shift", lambda: torch.randn(1))
        pyro.sample("z", dist.Normal(self.network(x) + shift, 1.0).to_event(1))


def test_any_name_will_do_and_each_is_drawn_by_itself() -> None:
    vae = build(CONFIG, prior=awkward, posterior=Drawn(), seed=0)
    values = {name: p.item() for name, p in vae.model.prior.named_parameters()}
    assert len(values) == len(set(values.values())) == 6
    assert vae.get_parameter("guide.posterior.shift_unconstrained").item() not in values.values()
    again = build(CONFIG, prior=awkward, seed=0).model.prior.named_parameters()
    assert values == {name: p.item() for name, p in again}


class Moody(Owner):
    """States another parameter in each mode, and normalises batches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: Tensor) -> None:
        shift = pyro.param("in_training" if self.training else "in_evaluation", torch.zeros(1))
        pyro.sample("z", dist.Normal(self.network(self.norm(x)) + shift, 1.0).to_event(1))


def test_what_either_mode_states_is_found_and_buffers_stay() -> None:
    vae = build(CONFIG, posterior=Moody, seed=0)
    names = {name for name, _ in vae.guide.posterior.named_parameters(recurse=False)}
    assert names == {"in_training_unconstrained", "in_evaluation_unconstrained"}
    assert vae.guide.posterior.program.norm.num_batches_tracked == 0


class Matrix(Owner):
    """Its own parameter has two dimensions, as a layer's weight has."""

    def forward(self, x: Tensor) -> None:
        scale = pyro.param("q_scales", torch.ones(1, 1), constraint=constraints.positive)
        pyro.sample("z", dist.Normal(self.network(x), scale[0]).to_event(1))


def test_no_weight_prior_is_put_on_it() -> None:
    config = dataclasses.replace(CONFIG, weights="mean_field", weights_options={"where": "all"})
    vae = build(config, prior=located, posterior=Matrix(), seed=0)
    fit(vae, torch.randn(50, 1), epochs=1, progress=False)
    assert "guide.posterior.q_scales_unconstrained" in vae.state_dict()
    assert set(vae.guide.mean_weights()) == {
        "decoder.network.0.weight",
        "posterior.program.network.weight",
    }


def test_a_run_resumes_to_the_bit_and_copies_are_independent(tmp_path: Path) -> None:
    x = torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
    how: dict[str, Any] = {"batch_size": 20, "progress": False, "compile": "record"}
    whole, halves = build(CONFIG, prior=located, seed=0), build(CONFIG, prior=located, seed=0)
    twin = copy.deepcopy(whole)
    before = twin.get_parameter("model.prior.z/loc_unconstrained").clone()
    fit(whole, x, epochs=4, **how)
    fit(halves, x, epochs=2, checkpoint=tmp_path / "run", **how)
    fit(halves, x, epochs=4, checkpoint=tmp_path / "run", resume=True, **how)
    assert all(
        torch.equal(value, halves.state_dict()[name]) for name, value in whole.state_dict().items()
    )
    assert torch.equal(twin.get_parameter("model.prior.z/loc_unconstrained"), before)


def indexed() -> Tensor:
    k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
    locations = pyro.param("locations", torch.tensor([[-1.0], [1.0]]))
    return pyro.sample("z", dist.Normal(locations[k], 1.0).to_event(1))


def test_a_table_that_an_index_looks_up_trains() -> None:
    vae = build(CONFIG, prior=indexed, seed=0)
    fit(vae, torch.randn(50, 1), epochs=2, progress=False)
    assert not torch.equal(
        vae.get_parameter("model.prior.locations_unconstrained"), torch.tensor([[-1.0], [1.0]])
    )


def test_a_name_in_both_programs_and_a_posterior_that_cannot_be_made_are_refused() -> None:
    class Same(Owner):
        def forward(self, x: Tensor) -> None:
            pyro.sample(
                "z", dist.Normal(self.network(x), pyro.param("z.scale", torch.ones(1))).to_event(1)
            )

    class Unmade(nn.Module):
        def __init__(self) -> None:
            self.location = nn.Parameter(torch.zeros(1))

    with pytest.raises(InputError, match=r"pyro.param 'z.scale', which the prior has too"):
        build(CONFIG, prior=located, posterior=Same())
    with pytest.raises(
        InputError, match=r"posterior Unmade: got AttributeError.*a class that can be made"
    ):
        build(CONFIG, posterior=Unmade)
    with pytest.raises(InputError, match="posterior: got Independent, expected a callable"):
        build(CONFIG, posterior=dist.Normal(torch.zeros(1), 1.0).to_event(1))


def test_importing_leaves_torch_s_checks_on() -> None:
    with pytest.raises(ValueError, match="constraint"):
        dist.Normal(0.0, -1.0)


class Sharp(nn.Module):
    """A module whose method is a program."""

    def __init__(self) -> None:
        super().__init__()
        self.location = nn.Parameter(torch.ones(1))

    def prior(self, scale: float = 0.5) -> Tensor:
        return pyro.sample("z", dist.Normal(self.location, scale).to_event(1))

    def posterior(self, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(self.location * x, 1.0).to_event(1))


def listed() -> nn.Module:
    """A module that holds another in a list, where torch does not find it."""
    own: Any = nn.Module()
    own.parts = [Sharp()]
    own.forward = lambda: own.parts[0].prior()
    return own


def closed_over() -> Any:
    location = torch.ones(1, requires_grad=True)
    return lambda: pyro.sample("z", dist.Normal(2 * location, 1.0).to_event(1))


def in_training_alone() -> nn.Module:
    strange, own = Sharp(), nn.Module()

    def forward() -> Tensor:
        location = strange.location if own.training else torch.zeros(1)
        return pyro.sample("z", dist.Normal(location, 1.0).to_event(1))

    own.forward = forward  # type: ignore[method-assign]
    return own


@pytest.mark.parametrize(
    "prior",
    [
        functools.partial(Sharp().prior, 0.5),
        Sharp().prior,
        lambda: Sharp.prior(SHARP),
        listed(),
        closed_over(),
        in_training_alone(),
    ],
    ids=["partial", "method", "closure", "list", "tensor", "in training"],
)
def test_a_parameter_that_no_part_has_is_refused_however_it_is_reached(prior: Any) -> None:
    with pytest.raises(InputError, match=r"model's site 'z': got a parameter of shape \(1,\)"):
        build(CONFIG, prior=prior, seed=0)


SHARP = Sharp()


def test_a_posterior_s_too_and_that_of_a_likelihood() -> None:
    with pytest.raises(InputError, match=r"posterior's site 'z': got a parameter of shape \(1,\)"):
        build(CONFIG, posterior=Sharp().posterior, seed=0)
    vae = build(CONFIG, seed=0)
    strange, x = nn.Parameter(torch.ones(1)), torch.ones(2, 1)
    vae.model.decoder.register_forward_hook(lambda *_: dist.Normal(strange, 1.0).to_event(1))
    with pytest.raises(InputError, match=r"model's site 'x': got a parameter of shape \(1,\)"):
        check_owned(vae, lambda: {"model": pyro.poutine.trace(vae.model).get_trace(x)})


def test_a_program_that_fails_with_gradients_is_one_line() -> None:
    class InPlace(Sharp):
        def forward(self) -> Tensor:
            self.location.mul_(2)
            return self.prior()

    with pytest.raises(InputError, match=r"programs that run with gradients|prior: got Runtime"):
        build(CONFIG, prior=InPlace(), seed=0)


def test_what_a_part_has_and_what_a_run_makes_is_not_refused() -> None:
    """A network that prior and posterior share, a detached constant and a gradient taken within."""
    shared, constant = Sharp(), torch.ones(1, requires_grad=True)

    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = shared

    class Prior(Holding):
        def forward(self) -> Tensor:
            with torch.enable_grad():
                inner = torch.ones(1, requires_grad=True)
                slope = torch.autograd.grad((inner**2).sum(), inner, create_graph=True)[0]
            location = self.shared.location + constant.detach() + 0 * slope
            return pyro.sample("z", dist.Normal(location, 1.0).to_event(1))

    class Posterior(Holding):
        def forward(self, x: Tensor) -> None:
            self.shared.posterior(x)

    vae = build(CONFIG, prior=Prior(), posterior=Posterior(), seed=0)
    fit(vae, torch.randn(20, 1), epochs=1, progress=False)
    assert vae.model.prior.shared is vae.guide.posterior.shared
    assert vae.model.prior.shared.location.item() != 1.0 == shared.location.item()


class Stated(PyroModule):
    """Pyro's own idiom: a site that is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.s = PyroSample(dist.LogNormal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self) -> Tensor:
        s = self.s
        return pyro.sample("z", dist.Normal(torch.zeros_like(s), s).to_event(1))


class Decorated(PyroModule):
    @PyroSample
    def s(self) -> Any:
        return dist.LogNormal(0.0, 1.0).expand([1]).to_event(1)

    def forward(self) -> Tensor:
        s: Any = self.s
        return pyro.sample("z", dist.Normal(torch.zeros_like(s), s).to_event(1))


class Nested(nn.Module):
    """Two modules that state a site of one name, read from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Stated(), Stated()

    def forward(self) -> Tensor:
        scale = self.first.s * self.second.s
        return pyro.sample("z", dist.Normal(torch.zeros_like(scale), scale).to_event(1))


def explicit(*names: str) -> Any:
    def prior() -> Tensor:
        lognormal = dist.LogNormal(0.0, 1.0).expand([1]).to_event(1)
        scale = math.prod(pyro.sample(name, lognormal) for name in names)
        return pyro.sample("z", dist.Normal(torch.zeros_like(scale), scale).to_event(1))

    return prior


@pytest.mark.parametrize(
    ("prior", "names"),
    [(Stated, ("s",)), (Decorated, ("s",)), (Nested, ("first.s", "second.s"))],
)
def test_a_site_that_is_an_attribute_is_that_of_the_written_out_program(
    prior: Any, names: tuple[str, ...], tmp_path: Path
) -> None:
    """Names, bound, log p(x) and training are those of the same prior in `pyro.sample`, to the
    bit; after saving and loading, in a VAE whose programs have other names, too.
    """
    x = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    found = []
    for program in (prior, explicit(*names)):
        vae = build(CONFIG, prior=program, seed=0)
        for part in (vae.model, vae.guide):
            sites = set(pyro.poutine.trace(part).get_trace(x).stochastic_nodes)
            assert sites - {"data"} == {*names, "z"}
        rows = fit(vae, x, epochs=2, seed=1, progress=False).rows
        save(vae, tmp_path / "it.safetensors")
        again = load(tmp_path / "it.safetensors", prior=program)
        columns = {key: value for key, value in rows[-1].items() if key != "seconds"}
        found.append((columns, log_likelihood(again, x, num_samples=50, seed=0).values))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_stock_svi_runs_a_prior_of_pyro_s_own_parameters_and_sites() -> None:
    class Both(Stated):
        def __init__(self) -> None:
            super().__init__()
            self.location = PyroParam(torch.zeros(1))

        def forward(self) -> Tensor:
            return pyro.sample("z", dist.Normal(self.location, self.s).to_event(1))

    vae, other = build(CONFIG, prior=Both, seed=0), build(CONFIG, prior=Both, seed=0)
    for each in (vae, other):
        SVI(each.model, each.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(
            torch.ones(9, 1)
        )
    name = "model.prior.program.location_unconstrained"
    assert vae.get_parameter(name).item() != 0
    assert vae.get_parameter(name) is not other.get_parameter(name)


def test_every_evaluation_looks_whether_the_sites_agree() -> None:
    """A guide exchanged after building: it lacks a site, or has one that the model lacks."""
    vae, x = build(CONFIG, prior=explicit("s"), seed=0), torch.randn(5, 1)
    lacking, more = build(CONFIG, seed=0), build(CONFIG, prior=explicit("s", "t"), seed=0)
    vae.guide = lacking.guide
    for evaluate in (lower_bound, log_likelihood):
        with pytest.raises(InputError, match="guide: got no site 's', which the model has"):
            evaluate(vae, x)
    vae.guide = more.guide
    for evaluate in (lower_bound, log_likelihood):
        with pytest.raises(InputError, match="guide: got a site 't' that the model lacks"):
            evaluate(vae, x)
