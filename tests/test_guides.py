"""The amortised guide built from any prior: which family each site gets, and words for posteriors
that cannot be.

Knows guides and Pyro traces; must not know estimators or training. Bad priors have a file of their
own.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import biject_to

from ppl_vae.checks import InputError
from ppl_vae.elbo import estimator_from
from ppl_vae.guides import latent_sites
from ppl_vae.guides.moments import mean
from ppl_vae.guides.sites import base_distribution
from ppl_vae.vae import VAEConfig, build
from tests.examples import PRIORS, pixels, tiny


def guide_site(vae, name="z", x=None):
    return poutine.trace(vae.guide).get_trace(pixels(4) if x is None else x).nodes[name]["fn"]


@pytest.mark.parametrize(
    ("prior", "family"),
    [
        ("standard_normal", dist.Normal),
        ("laplace", dist.Laplace),
        ("beta", dist.Beta),
        ("gamma", dist.Gamma),
        ("log_normal", dist.LogNormal),
        ("dirichlet", dist.TransformedDistribution),
        ("mixture", dist.Normal),
    ],
)
def test_a_site_gets_the_priors_own_family_where_that_has_a_closed_form(prior, family):
    q = guide_site(tiny(PRIORS[prior]))
    assert (tuple(q.batch_shape), tuple(q.event_shape)) == ((4,), (2,))
    assert isinstance(base_distribution(q), family)


@pytest.mark.parametrize(
    ("support", "draw"),
    [
        ("unit", lambda n: dist.Uniform(torch.zeros(n), 1.0).to_event(1)),
        ("interval", lambda n: dist.Uniform(torch.full((n,), -2.0), 3.0).to_event(1)),
        ("positive", lambda n: dist.HalfCauchy(torch.ones(n)).to_event(1)),
        ("simplex", lambda n: dist.Dirichlet(torch.ones(n))),
        ("real", lambda n: dist.StudentT(5.0, torch.zeros(n), 1.0).to_event(1)),
        ("real vector", lambda n: dist.MultivariateNormal(torch.zeros(n), torch.eye(n))),
        ("lower bounds", lambda n: dist.Pareto(torch.arange(1.0, n + 1), 0.5).to_event(1)),
    ],
)
def test_draws_lie_in_the_support_and_the_density_is_normalised_by_its_jacobian(support, draw):
    """E_p[q/p] = 1 by importance sampling from the prior, within 5 %: a missing Jacobian is off by
    far more.
    """

    def prior(latent_size):
        return pyro.sample("z", draw(latent_size))

    vae, p = tiny(prior, seed=1), draw(2)
    assert tuple(guide_site(vae).batch_shape) == (4,)
    q = guide_site(vae, x=pixels(1))
    assert p.support.check(q.sample((500,))).all()
    torch.manual_seed(0)
    z = p.sample((200_000, 1))
    ratio = (q.log_prob(z)[:, 0] - p.log_prob(z[:, 0])).exp()
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.05)


def test_sites_are_read_from_the_prior_in_order_with_shape_and_support():
    sites = latent_sites(lambda: PRIORS["gamma_scale"](3), 3)
    assert [(s.name, tuple(s.event_shape), s.family) for s in sites] == [
        ("scale", (), dist.Gamma),
        ("z", (3,), dist.Normal),
    ]
    (site,) = latent_sites(lambda: PRIORS["dirichlet"](3), 3)
    assert tuple(site.event_shape) == (3,) and tuple(site.unconstrained_shape) == (2,)


def test_a_support_that_depends_on_another_site_is_refused():
    def prior():
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        return pyro.sample(
            "z", dist.Uniform(torch.zeros(2), top[..., None].expand(*top.shape, 2)).to_event(1)
        )

    with pytest.raises(
        InputError, match="site 'z': got a support that differs between data: upper_bound"
    ):
        latent_sites(prior, 2)


def test_reading_a_prior_leaves_generator_and_parameter_store_alone():
    def prior():
        pyro.param("stray", torch.zeros(1))
        return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    state = torch.get_rng_state()
    latent_sites(prior, 2)
    assert torch.equal(torch.get_rng_state(), state) and len(pyro.get_param_store()) == 0


def test_several_sites_are_sampled_in_the_priors_order_from_one_pass_of_the_encoder():
    vae = tiny(PRIORS["scale_then_z"])
    calls = []
    vae.guide.posterior.encoder.register_forward_hook(lambda *_: calls.append(1))
    nodes = poutine.trace(vae.guide).get_trace(pixels(4)).nodes
    assert [n for n, s in nodes.items() if s["type"] == "sample"] == ["data", "scale", "z"] and len(
        calls
    ) == 1
    assert vae.guide.posterior.heads.out_features == 2 * (1 + 2)


def test_heads_of_one_product_do_not_mix_sites():
    """Moving the bias of one site's output moves that site alone."""
    vae = tiny(PRIORS["scale_then_z"])
    before = [
        guide_site(vae, name).base_dist.loc if name == "z" else guide_site(vae, name).loc
        for name in ("scale", "z")
    ]
    with torch.no_grad():
        vae.guide.posterior.heads.bias[0] += 1.0
    after = [guide_site(vae, "scale").loc, guide_site(vae, "z").base_dist.loc]
    torch.testing.assert_close(after[0], before[0] + 1.0)
    torch.testing.assert_close(after[1], before[1])


@pytest.mark.parametrize("prior", ["standard_normal", "half_cauchy", "dirichlet", "scale_then_z"])
def test_a_point_posterior_is_a_point_in_the_support(prior):
    vae = build(VAEConfig((6,), 2, (5,), posterior="point"), prior=PRIORS[prior], seed=0)
    first, again = (vae.encode(pixels(4), num_samples=3) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(first[0], first[1])
    terms = estimator_from("B").terms(vae.model, vae.guide, pixels(4))
    assert all(kl.kind == "point" and not kl.value.any() for kl in terms.kl.values())


def test_the_mean_on_a_simplex_is_no_one_dimensional_quadrature():
    """200 means of 256 draws each: within 5 standard errors of the mean of a million draws."""
    q = dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 2.0).to_event(1), [biject_to(dist.constraints.simplex)]
    )
    torch.manual_seed(0)
    draws = q.sample((1_000_000,))
    error = draws.std(0) / math.sqrt(200 * 256)
    assert (
        (torch.stack([mean(q) for _ in range(200)]).mean(0) - draws.mean(0)).abs() < 5 * error
    ).all()


class Own(nn.Module):
    """A user's posterior; with `plate` a whole program."""

    def __init__(self, plate=None, sites=("z",), event_dims=1, shape=(2,)):
        super().__init__()
        self.linear = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, shape[0]))
        self.plate, self.sites, self.event_dims = plate, sites, event_dims

    def forward(self, x):
        with pyro.plate(self.plate, len(x)) if self.plate else poutine.block(hide=[]):
            for name in self.sites:
                pyro.sample(name, dist.Normal(self.linear(x), 1.0).to_event(self.event_dims))


class TestAUsersOwnPosterior:
    @pytest.mark.parametrize("plate", [None, "data"])
    def test_it_may_run_inside_the_plate_or_open_it(self, plate):
        vae, x = tiny(posterior=Own(plate), num_data=40), pixels(10)
        assert guide_site(vae, x=x).batch_shape == (10,)
        assert estimator_from("B", 3).terms(vae.model, vae.guide, x).lower_bound.shape == (10,)
        assert vae.encode(x).shape == (10, 2) and vae.config.posterior.endswith("custom")

    def test_trying_it_out_leaves_its_statistics_and_mode(self):
        posterior = Own().train()
        tiny(posterior=posterior)
        assert posterior.linear[0].num_batches_tracked.item() == 0 and posterior.linear[0].training

    @pytest.mark.parametrize(
        ("posterior", "message"),
        [
            (Own("rows"), "name a plate of data 'data'"),
            (
                Own(sites=("scale",)),
                "posterior: got no site z, expected every latent site of the prior",
            ),
            (Own(event_dims=0), "posterior: got ValueError"),
            (
                Own(shape=(3,)),
                "posterior's site 'z': got batch and event shape ((3,), (3,)), expected ((3,), "
                "(2,))",
            ),
            (lambda x: 1 / 0, "posterior: got ZeroDivisionError: division by zero"),
            (lambda x: None, "no site z"),
            (7, "posterior: got int, expected a callable"),
        ],
    )
    def test_a_bad_one_is_refused_in_one_line(self, posterior, message):
        with pytest.raises(InputError) as error:
            tiny(posterior=posterior)
        assert message in str(error.value) and "\n" not in str(error.value)

    def test_a_class_is_made_with_its_options_and_the_shapes_that_it_names(self):
        class Line(nn.Module):
            def __init__(self, event_shape, latent_size, width=3):
                super().__init__()
                self.net = nn.Sequential(
                    nn.Linear(*event_shape, width), nn.Linear(width, latent_size)
                )

            def forward(self, x):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

        vae = tiny(posterior=Line, posterior_options={"width": 4})
        assert vae.encode(pixels(3)).shape == (3, 2)
        assert vae.guide.posterior.net[0].weight.shape == (4, 6)
        with pytest.raises(
            InputError, match=r"posterior Line: got 'widht', .*did you mean 'width'"
        ):
            tiny(posterior=Line, posterior_options={"widht": 4})
        with pytest.raises(InputError, match="no class: got 'width', expected no option"):
            tiny(posterior=Own(), posterior_options={"width": 4})
