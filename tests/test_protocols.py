"""Names of a user's own mean nothing by themselves; abilities are inherited. Closed forms first."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae import VAE, InputError, VAEConfig, build, fit
from ppl_vae.elbo import estimator_from, kl_report
from ppl_vae.guides.levels import MapHead
from ppl_vae.protocols import ImageLayers, InitialisedFromData, is_point
from tests.examples import pixels, tiny


def standard() -> Tensor:
    return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


class Named(nn.Module):
    """Every attribute that the library's own parts have means something else here."""

    map_shapes = "a name of my own"
    sites = encoder = init = weights = support = num_outputs = mean_field = transforms = 3

    def start_from(self, path: str) -> None:
        raise RuntimeError("my own method, which takes a path")

    def encode(self, text: str) -> None:
        raise RuntimeError("my own method, which takes a text")

    def stratified_rsample(self) -> None:
        raise RuntimeError("my own method")

    def forward(self) -> Tensor:
        return standard()


class NamedPosterior(Named):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> None:  # type: ignore[override]
        pyro.sample("z", dist.Normal(self.mean(x), 1.0).to_event(1))


@pytest.mark.parametrize("posterior", ["diagonal_normal", "ladder", "residual", NamedPosterior()])
def test_attributes_of_a_users_own_do_nothing(posterior: Any) -> None:
    named = isinstance(posterior, str)
    config = VAEConfig((6,), 2, (5,), posterior=posterior if named else "diagonal_normal")
    vae = build(config, prior=Named(), posterior=None if named else posterior, seed=0)
    fit(vae, pixels(40), epochs=1, progress=False)
    assert vae.encode(pixels(3)).isfinite().all()


def prior_of_names(
    latent_size: int,
    encode: int | None = None,
    encoder: int | None = None,
    sites: int | None = None,
    init: int | None = None,
    prior: int | None = None,
) -> Tensor:
    assert sum(given == 7 for given in (encode, encoder, sites, init, prior)) == 1
    return standard()


@pytest.mark.parametrize("name", ["encode", "encoder", "sites", "init", "prior"])
def test_an_argument_of_any_name_is_an_option_of_the_users_own(name: str) -> None:
    config = VAEConfig((6,), 2, (5,), posterior="iaf", prior_options={name: 7})
    fit(build(config, prior=prior_of_names, seed=0), pixels(40), epochs=1, progress=False)


def test_encode_averages_over_auxiliary_sites_whatever_the_class_is_called() -> None:
    """z | e ~ N(l(x) + 5 e, 1), e ~ N(0, 1): E[z|x] = l(x); 100 draws have error sqrt(26/100)."""

    class Own(NamedPosterior):
        mean_field = True

        def forward(self, x: Tensor) -> None:  # type: ignore[override]
            normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            e = pyro.sample("e", normal, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(self.mean(x) + 5 * e, 1.0).to_event(1))

    own, x = Own(), pixels(400)
    vae = tiny(None, own)
    torch.manual_seed(0)
    # 800 errors of standard deviation 0.51: their root mean square is within 15 % of it
    assert (vae.encode(x) - own.mean(x)).square().mean().sqrt().item() < 0.6


def test_a_normal_marked_as_a_point_keeps_its_kl() -> None:
    """KL(N(x, 1) || N(0, 1)) = |x|^2 / 2, whatever `infer` says; only a Delta is a point."""

    def own(x: Tensor) -> None:
        infer: Any = {"point": True, "ppl_point": True, "undrawn": True, "strata": torch.ones(1)}
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1), infer=infer)

    vae, x = tiny(None, own), pixels(40)
    assert kl_report(vae.model, vae.guide, x, "B") == {"z": "analytic"}
    kl = estimator_from("B", 3).terms(vae.model, vae.guide, x).kl["z"].value
    torch.testing.assert_close(kl, x[:, :2].square().sum(1) / 2)
    marked: Any = {"infer": {"ppl_point": True}, "fn": dist.Delta(torch.zeros(2)).to_event(1)}
    assert is_point(marked) and not is_point({**marked, "infer": {}})


class Started(InitialisedFromData):
    """What a `PyroModule` can inherit as well as an `nn.Module` can."""

    location: Any

    @torch.no_grad()
    def start_from(self, data: Tensor) -> None:
        self.location.copy_(data.mean(0)[:2])

    def forward(self) -> Tensor:
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        return pyro.sample("z", dist.Normal(self.location, scale).to_event(1))


class StartedModule(Started, nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.location = nn.Parameter(torch.zeros(2))


class StartedPyroModule(Started, PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.location = nn.Parameter(torch.zeros(2))


@pytest.mark.parametrize("kind", [StartedModule, StartedPyroModule])
def test_a_prior_that_inherits_it_is_shown_the_data(kind: Any) -> None:
    """Also under the owner of its `pyro.param`; a rate of 1e-12 leaves what the data set."""
    vae, x = tiny(kind), pixels(40)
    fit(vae, x, epochs=1, learning_rate=1e-12, progress=False)
    location = vae.get_parameter("model.prior.program.location")
    torch.testing.assert_close(location.detach(), x.mean(0)[:2])


class ImagePrior(nn.Module, ImageLayers):
    def __init__(self) -> None:
        super().__init__()
        self.map_shapes = {"z": (1, 1, 2)}

    def forward(self) -> Tensor:
        shift = pyro.param("shift", torch.zeros(2))
        return pyro.sample("z", dist.Normal(shift, 1.0).to_event(1))


def test_image_layers_are_found_by_inheritance_alone() -> None:
    config = VAEConfig((6,), 2, (4,), posterior="ladder")
    vae = build(config, prior=ImagePrior(), seed=0)
    assert any(isinstance(module, MapHead) for module in vae.guide.modules())
    plain = build(config, prior=Named(), seed=0)
    assert not any(isinstance(module, MapHead) for module in plain.guide.modules())


def test_a_users_distribution_with_a_name_of_ours_is_drawn_as_any() -> None:
    class Odd(dist.Normal):
        def stratified_rsample(self) -> None:
            raise RuntimeError("my own method")

        def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
            return Odd(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def own(x: Tensor) -> None:
        pyro.sample("z", Odd(x[:, :2], torch.ones(2)).to_event(1))

    vae = tiny(None, own)
    terms = estimator_from("A", 4).terms(vae.model, vae.guide, pixels(4))
    assert terms.log_likelihood.isfinite().all()


def test_a_posterior_that_is_not_amortised_is_refused() -> None:
    model = build(VAEConfig((6,), 2, (5,)), seed=0).model
    with pytest.raises(InputError, match=r"Pyro's AutoNormal.*an amortised program"):
        tiny(None, AutoNormal(model))
    with pytest.raises(InputError, match=r"Pyro's AutoNormal.*an amortised program"):
        tiny(None, AutoNormal)

    def fixed(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(torch.zeros(3, 2), 1.0).to_event(1))

    with pytest.raises(InputError, match=r"posterior: got .*expected a program for x of shape"):
        tiny(None, fixed)


def test_a_vae_is_made_of_a_model_and_a_guide() -> None:
    vae = tiny()
    with pytest.raises(InputError, match="model of a VAE: got function, expected a Model; use bui"):
        VAE(vae.config, standard, vae.guide)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="guide of a VAE: got Model, expected a Guide"):
        VAE(vae.config, vae.model, vae.model)  # type: ignore[arg-type]


def test_one_site_inside_the_plate_is_one_value_a_datum() -> None:
    """What the words say of a "global" scale: its draws differ between data."""

    def scaled() -> Tensor:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        return pyro.sample("z", dist.Normal(torch.zeros(2), scale[..., None]).to_event(1))

    vae = tiny(scaled)
    with torch.no_grad():
        trace = pyro.poutine.trace(vae.model).get_trace(pixels(5))
    values = trace.nodes["scale"]["value"]
    assert values.shape == (5,) and len(set(values.tolist())) == 5 and math.isfinite(values.sum())
