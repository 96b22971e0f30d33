"""A bad prior is met by one line that says what was got, what was expected and what to try.

Knows the words of errors; must not know where they are raised.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae import VAEConfig, build, log_likelihood, to_inference_data
from ppl_vae.checks import InputError
from ppl_vae.priors import PRIORS
from ppl_vae.protocols import MadeOfPosterior
from tests.examples import pixels, tiny

normal = dist.Normal(torch.zeros(2), 1.0)


def message(prior: Any = None, **fields: Any) -> str:
    """The one line that building with this prior ends in."""
    with pytest.raises(InputError) as caught:
        tiny(prior, **fields)
    text = str(caught.value)
    assert "\n" not in text
    assert ": got " in text
    assert ", expected " in text
    return text


def no_z() -> Tensor:
    return pyro.sample("code", normal.to_event(1))


def no_site() -> Tensor:
    return torch.zeros(2)


def wrong_event_shape() -> Tensor:
    return pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))


def scalar() -> Tensor:
    return pyro.sample("z", dist.Normal(0.0, 1.0))


def not_an_event() -> Tensor:
    return pyro.sample("z", normal)


def outside_the_batch() -> Tensor:
    with pyro.plate("own", 4, dim=-2):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    return pyro.sample("z", dist.Normal(torch.zeros(2), scale[0, ..., None]).to_event(1))


def clash() -> Tensor:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0 + x[..., None].abs()).to_event(1))


def angles() -> Tensor:
    return pyro.sample("z", dist.VonMises(torch.zeros(2), 1.0).to_event(1))


def on_a_sphere() -> Tensor:
    return pyro.sample("z", dist.ProjectedNormal(torch.ones(2)))


def discrete_z() -> Tensor:
    return pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1))


def unmarked_index() -> Tensor:
    k = pyro.sample("k", dist.Categorical(torch.ones(3)))
    return pyro.sample("z", dist.Normal(torch.eye(3)[k][..., :2], 1.0).to_event(1))


def endless_index() -> Tensor:
    k = pyro.sample("k", dist.Poisson(1.0), infer={"enumerate": "parallel"})
    return pyro.sample("z", dist.Normal(torch.zeros(2), 1 + k[..., None]).to_event(1))


def index_in_the_plates_place() -> Tensor:
    k = pyro.sample("k", dist.Categorical(torch.ones(4)), infer={"enumerate": "parallel"})
    scales = torch.tensor([1.0 + float(value) for value in k])
    return pyro.sample("z", dist.Normal(torch.zeros(2), scales[..., None]).to_event(1))


def no_return() -> None:
    pyro.sample("z", normal.to_event(1))


def returns_another_value() -> Tensor:
    return 2 * pyro.sample("z", normal.to_event(1))


def factor() -> Tensor:
    z = pyro.sample("z", normal.to_event(1))
    pyro.factor("penalty", -z.abs().sum(-1))
    return z


def negative_scale() -> Tensor:
    return pyro.sample("z", dist.Normal(torch.zeros(2), -1.0).to_event(1))


def misspelt() -> Tensor:
    return pyro.sample("z", dist.Normal(torch.zeros(latent_siz), 1.0).to_event(1))  # type: ignore[name-defined]  # noqa: F821


def a_scale_without_a_dimension() -> Tensor:
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    return pyro.sample("z", dist.Normal(torch.zeros(2), scale).to_event(1))


network = nn.Linear(1, 2)


def anothers_network() -> Tensor:
    pyro.module("network", network)
    return pyro.sample("z", dist.Normal(network(torch.ones(1)), 1.0).to_event(1))


pyro_network = PyroModule[nn.Linear](1, 2)


def anothers_pyro_module() -> Tensor:
    return pyro.sample("z", dist.Normal(pyro_network(torch.ones(1)), 1.0).to_event(1))


def on_the_edge() -> Tensor:
    share = pyro.param("share", torch.tensor([1.0, 0.0]), constraint=dist.constraints.simplex)
    return pyro.sample("z", dist.Normal(share, 1.0).to_event(1))


class Unmade(nn.Module):
    def __init__(self) -> None:
        self.loc = nn.Parameter(torch.zeros(2))


def raises() -> Tensor:
    raise ZeroDivisionError("half a prior")


def needs(sharpness: float) -> Tensor:
    return pyro.sample("z", dist.Normal(torch.zeros(2), sharpness).to_event(1))


def chain() -> Tensor:
    z_0 = pyro.sample("z_0", dist.Normal(0.0, 1.0))
    z_1 = pyro.sample("z_1", dist.Normal(0.8 * z_0, 1.0))
    return torch.stack([z_0, z_1], -1)


def delta_z() -> Tensor:
    return pyro.sample("z", dist.Delta(chain(), event_dim=1))


def deterministic_z() -> Tensor:
    return pyro.deterministic("z", chain(), event_dim=1)


def delta_before_z() -> Tensor:
    twice = pyro.sample("twice", dist.Delta(2 * pyro.sample("s", dist.LogNormal(0.0, 1.0))))
    return pyro.sample("z", dist.Normal(torch.zeros(2), twice[..., None]).to_event(1))


BAD: dict[Callable[..., Any], tuple[str, ...]] = {
    no_z: ("got sites code", "a latent site named 'z'", "pyro.sample('z', ...)"),
    no_site: ("got sites none", "a latent site named 'z'"),
    wrong_event_shape: (
        "site 'z': got event shape (5,)",
        "(2,), the latent_size",
        "make z of 2 numbers",
    ),
    no_return: ("got no return value", "end it with 'return z'"),
    returns_another_value: ("a return value that is not that of its site 'z'",),
    factor: ("the observed site 'penalty'", "leave out pyro.factor"),
    negative_scale: ("satisfy the constraint", "(test_prior_errors.py, line "),
    misspelt: ("NameError: name 'latent_siz' is not defined (test_prior_errors.py, line ",),
    a_scale_without_a_dimension: (".unsqueeze(-1)",),
    anothers_network: (
        "'network$$$weight' of a module that is not its own",
        "make it an nn.Module",
    ),
    anothers_pyro_module: ("the parameter 'weight' of a module that is not its own",),
    on_the_edge: ("pyro.param 'share': got a value on the edge of its constraint",),
    Unmade: (
        "prior Unmade: got AttributeError: cannot assign parameters",
        "a class that can be made",
    ),
    delta_z: ("site 'z': got a Delta, a function of other sites", "a density"),
    deterministic_z: ("site 'z': got a deterministic function of others",),
    delta_before_z: ("site 'twice': got a Delta",),
    scalar: ("site 'z': got event shape ()", ".to_event(1)"),
    not_an_event: ("plate", "site z", ".to_event(1)"),
    outside_the_batch: ("site 'scale': got batch shape (4, 3)", "one value a datum"),
    clash: ("a site named 'x'", "rename the site"),
    angles: ("site 'z': got VonMises", "one turn of the real line", "take its direction"),
    on_a_sphere: ("site 'z': got ProjectedNormal, whose support", "a posterior of your own"),
    discrete_z: ("site 'z': got discrete Bernoulli", "RelaxedBernoulliStraightThrough"),
    unmarked_index: (
        "site 'k': got discrete Categorical",
        "relaxed",
        "infer={'enumerate': 'parallel'}",
    ),
    endless_index: ("site 'k': got discrete Poisson", "relaxed"),
    index_in_the_plates_place: ("all values of k at once", "locations[k]"),
    raises: ("ZeroDivisionError: half a prior", "a program that runs inside a plate of data"),
    needs: ("no value for sharpness", "--prior.sharpness"),
}


@pytest.mark.parametrize("prior", BAD, ids=lambda prior: prior.__name__)
def test_a_bad_program_is_met_by_one_line(prior: Callable[..., Any]) -> None:
    text = message(prior)
    assert [words for words in BAD[prior] if words not in text] == [], text


def test_a_distribution_is_no_program() -> None:
    assert "got Independent, expected a callable" in message(normal.to_event(1))


def test_hints_about_shapes_are_for_errors_of_shape_alone() -> None:
    assert all(
        "to_event" not in message(prior) for prior in (negative_scale, misspelt, raises, factor)
    )


def test_a_prior_that_is_no_program() -> None:
    assert "got int, expected a callable, a PyroModule or a name" in message(3)


def test_a_name_near_a_known_one_is_suggested() -> None:
    assert "did you mean 'laplace'?" in message("laplase")


def test_an_option_near_a_known_one_is_suggested() -> None:
    text = message("vamp", prior_options={"component": 3})
    assert "option of prior Vamp: got 'component', expected one of components, start" in text
    assert "did you mean 'components'?" in text


OPTIONS = {
    "laplace": {"scale": 0.0},
    "student_t": {"degrees_of_freedom": -1},
    "sparse_beta": {"alpha": 1.0},
    "binary_mixture": {"scale": "wide"},
    "relaxed_bernoulli": {"temperature": 0},
    "gaussian_mixture": {"components": 0},
    "vamp": {"start": "zeros"},
    "flow": {"kind": "radial"},
    "relevance": {"rate": -1.0},
    "two_level": {"top_size": 0},
}


@pytest.mark.parametrize("prior", OPTIONS)
def test_a_bad_value_of_an_option_is_named(prior: str) -> None:
    (option, value), *_ = OPTIONS[prior].items()
    text = message(prior, prior_options=OPTIONS[prior])
    assert f"prior {prior}'s {option}: got " in text
    assert str(value) in text


def test_a_ready_module_takes_no_options() -> None:
    text = message(PRIORS["laplace"](2), prior_options={"scale": 2.0})
    assert "options of the ready-made prior Laplace: got 'scale', expected no option" in text


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    text = message(f"{tmp_path / 'ring.py'}:Ring")
    assert f"prior's file: got no file {tmp_path / 'ring.py'}" in text


def test_a_name_that_is_not_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ring.py"
    file.write_text("def Ring():\n    pass\n")
    text = message(f"{file}:Rong")
    assert "got no 'Rong'" in text
    assert "did you mean 'Ring'?" in text


def test_a_file_that_raises(tmp_path: Path) -> None:
    file = tmp_path / "ring.py"
    file.write_text("radius = 1 / 0\n")
    assert "ring.py: got ZeroDivisionError: division by zero" in message(f"{file}:Ring")


def test_a_module_that_is_not_there() -> None:
    assert "use 'file.py:Name' for a file" in message("no_such_package.priors:Ring")


class Borrower(nn.Module, MadeOfPosterior):
    """Takes the guide's encoder, but has a site besides z."""

    def __init__(self, encode: Any) -> None:
        super().__init__()

    def forward(self) -> Tensor:
        pyro.sample("z2", dist.Normal(0.0, 1.0))
        return pyro.sample("z", normal.to_event(1))


def test_a_prior_made_of_the_guide_has_z_alone() -> None:
    assert "sites z2, z, expected one site, a real 'z'" in message(Borrower)


@pytest.mark.parametrize("posterior", ["point", "iaf"])
def test_a_prior_made_of_the_guide_needs_its_density_in_closed_form(posterior: str) -> None:
    with pytest.raises(InputError) as caught:
        build(VAEConfig((6,), prior="vamp", posterior=posterior))
    expected = "expected one with q(z|x) in closed form: diagonal_normal"
    assert f"posterior with prior 'vamp': got {posterior}, {expected}" in str(caught.value)


def test_a_prior_made_of_the_guide_needs_an_encoder_of_points() -> None:
    with pytest.raises(
        InputError, match=r"weights_options.where with prior 'vamp': got 'all', expected 'decoder'"
    ):
        build(VAEConfig((6,), prior="vamp", weights="mean_field", weights_options={"where": "all"}))


def test_a_prior_made_of_the_guide_cannot_use_a_posterior_of_the_users_own() -> None:
    def own(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    with pytest.raises(InputError, match="posterior with prior 'vamp': got custom"):
        tiny("vamp", own)


@pytest.mark.parametrize(
    "name",
    ["latent", "chain", "draw", "datum", "draws", "particles", "x", "z_dim_0", "a/b"],
)
def test_a_name_that_plates_or_containers_have_is_refused_when_built(name: str) -> None:
    def prior() -> Tensor:
        scale = pyro.sample(name, dist.LogNormal(0.0, 1.0))
        return pyro.sample("z", dist.Normal(torch.zeros(2), scale[..., None]).to_event(1))

    def posterior(x: Tensor) -> None:
        own = dist.Normal(torch.zeros(len(x)), 1.0)
        pyro.sample(name, own, infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    assert f"a site named '{name}'" in message(prior)
    with pytest.raises(InputError, match=f"posterior: got a site named '{name}'"):
        tiny(None, posterior)


def test_a_name_of_the_implicit_guide_s_own_is_refused_with_it_alone() -> None:
    def prior() -> Tensor:
        scale = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        return pyro.sample("z", dist.Normal(torch.zeros(2), scale[..., None]).to_event(1))

    tiny(prior)
    with pytest.raises(InputError, match="posterior 'implicit': got a prior's site 'noise'"):
        build(VAEConfig((6,), 2, (5,), posterior="implicit"), prior=prior)


@pytest.mark.arviz
@pytest.mark.parametrize("name", ["s", "a.b", "z_0", "dim_0", "scale of all", "kl.z", "weights"])
def test_any_other_name_reaches_the_containers(name: str, tmp_path: Path) -> None:
    def prior() -> Tensor:
        scale = pyro.sample(name, dist.LogNormal(0.0, 1.0))
        return pyro.sample("z", dist.Normal(torch.zeros(2), scale[..., None]).to_event(1))

    data = to_inference_data(tiny(prior), pixels(5), num_samples=3)
    assert name in data.posterior.data_vars and name in data.prior.data_vars
    data.to_netcdf(str(tmp_path / "draws.nc"))


def test_an_observed_or_deterministic_z_of_a_posterior_is_refused() -> None:
    def posterior(x: Tensor) -> None:
        pyro.deterministic("z", x[:, :2], event_dim=1)

    with pytest.raises(InputError, match="posterior's site 'z': got a value that is observed or"):
        tiny(None, posterior)


def test_a_site_that_the_prior_lacks_is_refused_when_built() -> None:
    def posterior(x: Tensor) -> None:
        pyro.sample("e", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    with pytest.raises(InputError, match=r"guide: got a site 'e' that the model lacks.*is_auxil"):
        tiny(None, posterior)


@pytest.mark.parametrize("prior", [angles, on_a_sphere])
def test_a_posterior_of_ones_own_may_have_the_sites_that_no_map_reaches(
    prior: Callable[[], Tensor],
) -> None:
    """Its draws are where the prior's are; chains and grids on the real numbers are not."""

    def posterior(x: Tensor) -> None:
        at = torch.ones(len(x), 2)
        pyro.sample(
            "z",
            dist.ProjectedNormal(at)
            if prior is on_a_sphere
            else dist.VonMises(at, 1.0).to_event(1),
        )

    vae = tiny(prior, posterior)
    assert log_likelihood(vae, pixels(3), num_samples=50).values.isfinite().all()
    with pytest.raises(InputError, match="method='importance'"):
        log_likelihood(vae, pixels(3), num_samples=4, method="annealed")
    with pytest.raises(InputError, match="method='importance'"):
        log_likelihood(vae, pixels(3), method="quadrature")
