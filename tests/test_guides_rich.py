"""Guides with dependent coordinates: exact gaps on toys, valid densities and gradients, and what
every guide must do.

Knows toys whose log p(x) is a sum over a grid or a formula; must not know how a guide is written
inside, but for `NormalMixture`, which is a distribution of its own. Statistical tests fix their
seeds and state their failure rate.
"""

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae import VAE, InputError, VAEConfig, build, fit, load, save
from ppl_vae.elbo import estimator_from
from ppl_vae.guides.full_normal import FullNormal
from ppl_vae.guides.mixture import NormalMixture
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.training.objective import Objective, StepValues

LIMIT = 4.5  # standard errors: passed by chance by 7 of a million
RICH = ("full_normal", "iaf", "mixture", "implicit", "ladder", "residual")
DENSITIES = (
    "full_normal",
    "iaf",
    "mixture",
)  # those whose q(z|x) has a density that can be evaluated anywhere
POINTS = torch.linspace(0.5, 2.5, 8)[:, None]


class Square(nn.Module):
    """z -> sum of z_j^2: the posterior of z given it has two modes, or a ring."""

    def forward(self, z: Tensor) -> Tensor:
        return z.square().sum(-1, keepdim=True).unsqueeze(-2)


class Total(nn.Module):
    """z -> sum of z_j: the posterior's coordinates are correlated."""

    def forward(self, z: Tensor) -> Tensor:
        return z.sum(-1, keepdim=True).unsqueeze(-2)


class Chain(nn.Module):
    """A user's own hierarchy of two lines: z_2 ~ N(0, 1), z ~ N(0.9 z_2, 0.6^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(1))

    def forward(self) -> Tensor:
        upper = pyro.sample("z_2", dist.Normal(self.zero, 1.0, validate_args=False).to_event(1))
        return pyro.sample("z", dist.Normal(0.9 * upper, 0.6, validate_args=False).to_event(1))


class Scaled(nn.Module):
    """A positive scale before z, so that a guide meets a site of another support."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(2))

    def forward(self) -> Tensor:
        scale = pyro.sample("scale", dist.Gamma(3.0 + self.zero[0], 3.0, validate_args=False))
        return pyro.sample(
            "z", dist.Normal(self.zero, scale.unsqueeze(-1), validate_args=False).to_event(1)
        )


def toy(
    decoder: nn.Module,
    posterior: str,
    latent_size: int,
    scale: float = 0.5,
    prior: Any = None,
    **options: Any,
) -> VAE:
    """x | z ~ N(decoder(z), scale^2) with fixed parameters, and a guide to be fitted to it."""
    config = VAEConfig(
        (1,),
        latent_size,
        (32,),
        likelihood="normal_shared",
        posterior=posterior,
        likelihood_options={"initial_scale": scale},
        posterior_options=options,
    )
    vae = build(config, prior=prior, seed=0)
    vae.model.decoder.network = decoder
    vae.model.requires_grad_(False)
    return vae.eval()


def log_likelihood(vae: VAE, x: Tensor) -> Tensor:
    """log p(x) under a standard normal prior, by a sum over a grid, (N,)."""
    line = torch.linspace(-5.0, 5.0, 301)
    size = vae.config.latent_size
    grid = torch.stack(torch.meshgrid(*[line] * size, indexing="ij"), -1).reshape(-1, size)
    log_prior = dist.Normal(0.0, 1.0).log_prob(grid).sum(-1) + size * math.log(line[1] - line[0])
    return torch.stack([(log_prior + vae.decode(grid).log_prob(row)).logsumexp(0) for row in x])


def bound(vae: VAE, x: Tensor, estimator: str = "A", num_particles: int = 4000) -> Tensor:
    """The bound of each row, averaged over many draws, (N,)."""
    with torch.no_grad(), local_parameters(), torch.random.fork_rng():
        torch.manual_seed(0)
        return estimator_from(estimator, num_particles).terms(vae.model, vae.guide, x).lower_bound


def fitted(vae: VAE, steps: int, num_particles: int = 4, estimator: str = "B") -> VAE:
    """The VAE with its guide fitted to `POINTS`, by steps of ten copies of each."""
    fit(
        vae,
        POINTS.repeat(100, 1),
        epochs=steps // 10,
        batch_size=80,
        num_particles=num_particles,
        compile="record",
        learning_rate=f"linear:0.02:0:{steps // 10}",
        estimator=estimator,
        progress=False,
    )
    return vae


def gap(vae: VAE, estimator: str = "A", num_particles: int = 4000) -> float:
    """Mean of log p(x) - L(x) over the points, nats."""
    return (
        (log_likelihood(vae, POINTS) - bound(vae, POINTS, estimator, num_particles)).mean().item()
    )


class TestExactGaps:
    """KL(q(z|x) || p(z|x)), known exactly: what the diagonal guide leaves, and how much of that
    each guide closes.
    """

    def test_a_correlated_posterior_is_left_to_the_diagonal_and_closed_by_full_and_flow(
        self,
    ) -> None:
        # p(z|x) has precision I + 11'/s^2; the best diagonal q has its diagonal: gap = (ln|diag P|
        # - ln|P|)/2
        precision = torch.eye(2) + 1 / 0.5**2
        left = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
        assert gap(fitted(toy(Total(), "diagonal_normal", 2), 400)) == pytest.approx(left, rel=0.05)
        assert gap(fitted(toy(Total(), "full_normal", 2), 600)) < 0.01 * left
        assert gap(fitted(toy(Total(), "iaf", 2), 600)) < 0.03 * left

    def test_of_two_modes_the_diagonal_guide_finds_one_and_the_others_both(self) -> None:
        left = gap(fitted(toy(Square(), "diagonal_normal", 1), 400))
        assert left == pytest.approx(math.log(2), abs=0.1)  # one of two equal modes, well apart
        assert gap(fitted(toy(Square(), "mixture", 1, num_components=2), 800)) < 0.15 * left
        # the implicit guide's own bound pays for the reverse model too, and mostly keeps to one
        # mode; draws close both
        assert gap(fitted(toy(Square(), "implicit", 1), 800, 8)) < left
        assert gap(fitted(toy(Square(), "implicit", 1), 800, 8, "iwae"), "iwae", 200) < 0.15 * left

    @pytest.mark.parametrize("posterior", ["ladder", "residual"])
    def test_top_down_guides_reach_the_posterior_of_a_linear_hierarchy(
        self, posterior: str
    ) -> None:
        # x = z + noise: p(z_2|x) is Normal, and p(z|z_2, x) the product of p(z|z_2) and N(x; z,
        # s^2)
        vae = fitted(toy(Total(), posterior, 1, prior=Chain(), batch_norm=False), 800)
        exact = dist.Normal(0.0, math.sqrt(0.9**2 + 0.6**2 + 0.5**2)).log_prob(POINTS).squeeze(-1)
        assert (exact - bound(vae, POINTS)).mean().item() < 0.01


class TestDensities:
    @pytest.mark.parametrize("posterior", DENSITIES)
    def test_q_integrates_to_one_and_its_draws_have_its_moments(self, posterior: str) -> None:
        vae = toy(Total(), posterior, 2)
        disturb(vae)
        with torch.no_grad(), local_parameters():
            line = torch.linspace(-12, 12, 801)
            grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 1, 2)
            q = poutine.trace(vae.guide).get_trace(POINTS[:1]).nodes["z"]["fn"]
            mass = q.log_prob(grid).exp() * (line[1] - line[0]) ** 2
            draws = vae.encode(POINTS[:1], num_samples=20_000)[:, 0]
        assert mass.sum().item() == pytest.approx(1.0, abs=2e-3)
        for moment in (lambda z: z, lambda z: z.square(), lambda z: z.prod(-1, keepdim=True)):
            exact = (
                (mass * moment(grid[:, 0])).sum(0)
                if mass.dim() > 1
                else (mass[:, None] * moment(grid[:, 0])).sum(0)
            )
            error = (moment(draws).mean(0) - exact) / (moment(draws).std(0) / math.sqrt(len(draws)))
            assert error.abs().max() < LIMIT + 1

    @pytest.mark.parametrize("posterior", DENSITIES)
    def test_the_density_found_with_a_draw_is_the_density_at_that_value(
        self, posterior: str
    ) -> None:
        vae = toy(Total(), posterior, 3)
        disturb(vae)
        with torch.no_grad(), local_parameters():
            site = poutine.trace(vae.guide).get_trace(POINTS).nodes["z"]
            at_draw = site["fn"].log_prob(site["value"])
            again = site["fn"].log_prob(site["value"].clone())
        torch.testing.assert_close(at_draw, again, atol=1e-4, rtol=1e-4)

    def test_a_flow_runs_each_of_its_networks_once_for_a_draw_and_its_density(self) -> None:
        vae = toy(Total(), "iaf", 3, num_flows=3)
        calls: list[int] = []
        for flow in vae.guide.posterior.flows[0]:
            flow.nn.register_forward_hook(lambda *_: calls.append(1))
        bound(vae, POINTS, num_particles=5)
        assert len(calls) == 3

    def test_the_closed_form_of_the_full_normal_is_that_of_torch(self) -> None:
        q = FullNormal(
            torch.randn(3, 2), scale_tril=torch.tensor([[0.7, 0.0], [0.4, 1.2]]).expand(3, 2, 2)
        )
        p = dist.Normal(torch.tensor([0.3, -0.2]), torch.tensor([0.5, 2.0])).to_event(1)
        same = dist.MultivariateNormal(p.mean, scale_tril=p.stddev.diag())
        reference = torch.distributions.kl_divergence(
            dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril), same
        )
        torch.testing.assert_close(torch.distributions.kl_divergence(q, p), reference)


def disturb(vae: VAE) -> None:
    """Random guide parameters, away from where they start."""
    generator = torch.Generator().manual_seed(1)
    for p in vae.guide.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=generator) / math.sqrt(p.shape[-1])


class TestMixtureGradients:
    def test_gradients_through_draws_are_those_of_the_expectation(self) -> None:
        """Against quadrature in two dimensions; fails by chance less than once in ten thousand
        seeds.
        """
        torch.manual_seed(0)
        logits = torch.randn(3, dtype=torch.float64, requires_grad=True)
        locations = (1.5 * torch.randn(3, 2, dtype=torch.float64)).requires_grad_()
        scales = (torch.rand(3, 2, dtype=torch.float64) + 0.3).requires_grad_()
        parameters = [logits, locations, scales]
        q = NormalMixture(logits.log_softmax(-1), locations, scales)
        line = torch.linspace(-8, 8, 801, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        exact = torch.autograd.grad(
            (q.log_prob(grid).exp() * some_function(grid)).sum() * 4e-4, parameters
        )
        parts = []
        for _ in range(20):
            q = NormalMixture(logits.log_softmax(-1), locations, scales)
            parts.append(torch.autograd.grad(some_function(q.rsample((4000,))).mean(), parameters))
        for reference, draws in zip(exact, zip(*parts)):
            values = torch.stack(draws)
            error = (values.mean(0) - reference) / (values.std(0) / math.sqrt(len(values)))
            assert error.abs().max() < LIMIT

    def test_strata_have_the_expectation_of_independent_draws(self) -> None:
        """Fails by chance less than once in ten thousand seeds; unweighted, a draw of each
        component is far off.
        """
        torch.manual_seed(0)
        parts = (
            torch.tensor([0.7, 0.1, 0.2]).log(),
            torch.tensor([[-2.0], [0.0], [3.0]]),
            torch.full((3, 1), 0.5),
        )
        assert (
            NormalMixture(*parts).expand((4, 500)).stratified_rsample() is None
        )  # no multiple of three components
        value, weights = NormalMixture(*parts).expand((3, 500)).stratified_rsample()
        estimate = (weights * value.squeeze(-1)).mean(0)
        assert abs(estimate.mean() - (0.7 * -2 + 0.2 * 3)) < LIMIT * estimate.std() / math.sqrt(
            len(estimate)
        )


def some_function(z: Tensor) -> Tensor:
    """A smooth function of two coordinates."""
    return (z[..., 0] - 0.3 * z[..., 1]).sin() + 0.2 * z.square().sum(-1) + 0.5 * z.prod(-1)


def small(posterior: str, program: Any = None, latent_size: int = 2, **fields: Any) -> VAE:
    """A small VAE of six binary pixels with disturbed parameters, in evaluation mode."""
    config = VAEConfig((6,), latent_size, (5,), posterior=posterior, **fields)
    vae = build(config, prior=program, seed=0).eval()
    disturb(vae)
    return vae


def pixels(num_data: int) -> Tensor:
    """Binary data, (num_data, 6)."""
    return torch.bernoulli(
        torch.full((num_data, 6), 0.4), generator=torch.Generator().manual_seed(0)
    )


PRIORS: dict[str, Any] = {"standard_normal": None, "chain": Chain, "scaled": Scaled}
PAIRS = [
    (posterior, prior)
    for posterior in RICH
    for prior in PRIORS
    if (posterior, prior) != ("residual", "scaled")
]


class TestBattery:
    """What every guide passes, with a plain prior, with a hierarchy, and with a site of another
    support.
    """

    def vae(self, posterior: str, prior: str) -> VAE:
        """A small VAE of that pair."""
        options = {"num_components": 3} if posterior == "mixture" else {}
        program = PRIORS[prior] and PRIORS[prior]()
        return small(posterior, program, 1 if prior == "chain" else 2, posterior_options=options)

    @pytest.mark.parametrize(("posterior", "prior"), PAIRS)
    def test_a_and_b_agree_in_expectation(self, posterior: str, prior: str) -> None:
        """60 blocks of 200 draws; fails by chance less than once in a thousand seeds over all
        pairs.
        """
        vae, x = self.vae(posterior, prior), pixels(4)
        means = []
        with torch.no_grad(), local_parameters(), torch.random.fork_rng():
            for estimator in "AB":
                torch.manual_seed(3)
                blocks = [
                    estimator_from(estimator, 200).terms(vae.model, vae.guide, x).lower_bound
                    for _ in range(60)
                ]
                means.append(torch.stack(blocks))
        error = (means[0] - means[1]).mean(0)
        spread = (means[0].var(0) + means[1].var(0)).div(60).sqrt().clamp(min=1e-6)
        assert (error / spread).abs().max() < LIMIT

    @pytest.mark.parametrize(("posterior", "prior"), PAIRS)
    def test_a_recorded_run_is_bit_equal_to_an_eager_one(self, posterior: str, prior: str) -> None:
        estimator = {"standard_normal": "dreg", "chain": "B", "scaled": "iwae"}[prior]
        runs = []
        for tier in ("off", "record"):
            vae = self.vae(posterior, prior)
            history = fit(
                vae,
                pixels(30),
                batch_size=10,
                epochs=2,
                compile=tier,
                progress=False,
                estimator=estimator,
                num_particles=3,
                kl_weight="linear:0.5:1:2",
            )
            assert history.tier == tier
            runs.append(vae.state_dict())
        assert [name for name in runs[0] if not torch.equal(runs[0][name], runs[1][name])] == []

    @pytest.mark.parametrize("posterior", RICH)
    def test_a_loaded_guide_is_the_saved_one(self, posterior: str, tmp_path: Path) -> None:
        fields = {"prior": "ladder", "prior_options": {"upper_sizes": [2, 1]}}
        vae = small(posterior, **fields)
        fit(vae, pixels(20), epochs=1, progress=False)
        save(vae, tmp_path / "vae.safetensors")
        draws = []
        for each in (vae, load(tmp_path / "vae.safetensors")):
            torch.manual_seed(0)
            draws.append(each.encode(pixels(3), num_samples=4))
        assert torch.equal(*draws)
        assert set(load(tmp_path / "vae.safetensors").state_dict()) == set(vae.state_dict())

    @pytest.mark.parametrize(("posterior", "prior"), PAIRS)
    def test_encode_is_the_mean_of_draws(self, posterior: str, prior: str) -> None:
        """Means of 100 or 256 draws are allowed for; fails by chance less than once in a thousand
        seeds.
        """
        vae = self.vae(posterior, prior)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            draws, mean = vae.encode(pixels(3), num_samples=20_000), vae.encode(pixels(3))
        assert ((mean - draws.mean(0)).abs() / (draws.std(0) / 10)).max() < LIMIT

    @pytest.mark.parametrize("posterior", RICH)
    def test_stock_svi_trains_it(self, posterior: str) -> None:
        vae = small(posterior, Chain(), 1)
        svi = pyro.infer.SVI(
            vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO()
        )
        before = {name: p.clone() for name, p in vae.guide.named_parameters()}
        for _ in range(2):
            assert math.isfinite(svi.step(pixels(10)))
        moved = [
            name for name, p in vae.guide.named_parameters() if not torch.equal(p, before[name])
        ]
        assert len(moved) > len(before) / 2

    @pytest.mark.parametrize("posterior", ["full_normal", "mixture"])
    def test_a_prior_can_be_made_of_it(self, posterior: str) -> None:
        vae = small(posterior, prior="vamp", prior_options={"components": 4})
        history = fit(vae, pixels(20), epochs=2, batch_size=10, compile="record", progress=False)
        assert history.tier == "record"
        q, z = vae.guide.posterior.encode(vae.model.prior.pseudo_inputs), torch.randn(7, 2)
        with (
            torch.no_grad(),
            local_parameters(),
            poutine.condition(data={"z": z}),
            pyro.plate("data", 7),
        ):
            p = poutine.trace(vae.model.prior).get_trace().nodes["z"]["fn"]
        torch.testing.assert_close(
            p.log_prob(z), q.log_prob(z[:, None]).logsumexp(-1) - math.log(4)
        )

    def test_a_kl_weight_weighs_every_part_of_an_implicit_guides_divergence(self) -> None:
        vae, weight = small("implicit"), torch.tensor(0.3)
        with local_parameters():
            loss, report = Objective("A")(vae.model, vae.guide, pixels(5), StepValues(weight))
        kl = sum(value for name, value in report.items() if name.startswith("kl."))
        assert loss.item() == pytest.approx(
            (weight * kl - report["reconstruction"]).item(), rel=1e-5
        )

    def test_top_down_guides_own_no_parameter_of_the_prior(self) -> None:
        vae = build(
            VAEConfig(
                (6,),
                2,
                (5,),
                prior="ladder",
                prior_options={"upper_sizes": [2]},
                posterior="ladder",
            )
        )
        guide = {id(p) for p in vae.guide.parameters()}
        assert not guide & {id(p) for p in vae.model.parameters()}


class TestRefusals:
    def test_the_residual_guide_wants_normal_vectors(self) -> None:
        with pytest.raises(
            InputError, match=r"posterior 'residual'.*'scale'.*use posterior='ladder'"
        ):
            build(VAEConfig((6,), 2, (5,), posterior="residual"), prior=Scaled())

    @pytest.mark.parametrize("posterior", ["ladder", "residual"])
    def test_top_down_guides_want_no_index(self, posterior: str) -> None:
        def two() -> Tensor:
            k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            return pyro.sample(
                "z", dist.Normal(k.float().unsqueeze(-1) - torch.zeros(2), 1.0).to_event(1)
            )

        with pytest.raises(InputError, match=r"a prior with the site 'k'"):
            build(VAEConfig((6,), 2, (5,), posterior=posterior), prior=two)

    @pytest.mark.parametrize(
        ("posterior", "options", "message"),
        [
            ("iaf", {"num_flow": 2}, "did you mean 'num_flows'"),
            ("iaf", {"num_flows": 0}, "an integer >= 1"),
            ("iaf", {"flow_hidden_size": 1}, "an integer >= 2"),
            ("mixture", {"num_components": 0}, "an integer >= 1"),
            ("implicit", {"noise_size": 0}, "an integer >= 1"),
            ("ladder", {"level_sizes": [3]}, "expected 0, the upper layers'"),
            ("diagonal_normal", {"num_components": 2}, "no option"),
        ],
    )
    def test_bad_options_are_one_line(self, posterior: str, options: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            build(VAEConfig((6,), 2, (5,), posterior=posterior, posterior_options=options))

    def test_residual_starts_at_the_prior(self) -> None:
        vae = build(VAEConfig((6,), 8, (5,), prior="ladder", posterior="residual"), seed=0).eval()
        terms = estimator_from("B").terms(vae.model, vae.guide, torch.zeros(3, 6))
        assert all(kl.value.abs().max() < 1e-5 for kl in terms.kl.values())

    def test_nvae_wants_images_that_fit(self) -> None:
        fields: dict[str, Any] = {
            "prior": "nvae",
            "posterior": "residual",
            "prior_options": {"halvings": [1, 2]},
        }
        with pytest.raises(InputError, match="a multiple of 16"):
            build(VAEConfig((8, 8), 15, (), network="conv", **fields))
        with pytest.raises(
            InputError,
            match=r"size of the encoder's features.*a multiple of the bottom layer's 4 x 4",
        ):
            build(VAEConfig((8, 8), 16, (30,), network="conv", **fields))
        for halvings in ([1, 3], [2, 1]):
            options = {"prior_options": {"halvings": halvings}}
            with pytest.raises(
                InputError,
                match=r"halvings: got .*expected each layer's the last one's, or one more",
            ):
                build(VAEConfig((8, 8), 16, (), network="conv", **{**fields, **options}))
        options = {"network_options": {"channels": [50]}, "posterior_options": {"level_sizes": [3]}}
        with pytest.raises(InputError, match=r"level_sizes.*none with image-shaped layers"):
            build(VAEConfig((8, 8), 16, (), network="conv", **fields, **options))
        build(
            VAEConfig((8, 8), 16, (), network="conv", network_options={"channels": [50]}, **fields)
        )  # odd groups
        with pytest.raises(InputError, match=r"prior 'nvae'.*expected an image"):
            build(VAEConfig((8,), 16, (30,), **fields))


class TestHierarchies:
    @pytest.mark.parametrize("posterior", ["ladder", "residual"])
    def test_an_image_hierarchy_trains_and_reports_every_layer(self, posterior: str) -> None:
        config = VAEConfig(
            (8, 8),
            16,
            (),
            network="conv",
            network_options={"channels": [8]},
            prior="nvae",
            prior_options={"halvings": [1, 1, 2], "channels": 8},
            posterior=posterior,
        )
        vae = build(config, seed=0)
        images = torch.bernoulli(
            torch.full((40, 8, 8), 0.3), generator=torch.Generator().manual_seed(0)
        )
        history = fit(vae, images, batch_size=20, epochs=2, progress=False, compile="record")
        assert history.tier == "record"
        assert list(history.kl_kinds.items()) == [
            ("z_3", "analytic"),
            ("z_2", "analytic"),
            ("z", "analytic"),
        ]
        assert history.rows[1]["lower_bound"] > history.rows[0]["lower_bound"]
        assert vae.sample(2).shape == (2, 8, 8)

    def test_a_residual_guide_of_zero_heads_is_the_prior(self) -> None:
        vae = small("residual", prior="ladder", prior_options={"upper_sizes": [3, 2]})
        for p in vae.guide.posterior.heads.parameters():
            p.data.zero_()
        with torch.no_grad(), local_parameters():
            terms = estimator_from("B").terms(vae.model, vae.guide, pixels(5))
        assert {
            name: kl.value.abs().max().item() < 1e-6 for name, kl in terms.kl.items()
        } == dict.fromkeys(("z_3", "z_2", "z"), True)

    def test_layers_of_the_ladder_prior_have_the_sizes_asked_for(self) -> None:
        vae = build(
            VAEConfig(
                (6,),
                7,
                (5,),
                prior="ladder",
                prior_options={"upper_sizes": [5, 3]},
                posterior="ladder",
            )
        )
        shapes = {site.name: tuple(site.event_shape) for site in vae.guide.posterior.sites}
        assert shapes == {"z_3": (3,), "z_2": (5,), "z": (7,)}

    def test_balanced_weights_spare_the_layers_that_say_little_until_warm_up_is_over(self) -> None:
        vae = small("residual", prior="ladder", prior_options={"upper_sizes": [3, 2]})
        x, losses = pixels(5), {}
        for weight in (0.5, 1.0):
            for balance in (False, True):
                torch.manual_seed(0)
                with torch.no_grad(), local_parameters():
                    objective = Objective("B", kl_balance=balance)
                    values = StepValues(kl_weight=torch.tensor(weight))
                    losses[weight, balance], report = objective(vae.model, vae.guide, x, values)
        kl = torch.stack([report[f"kl.{name}"] for name in ("z_3", "z_2", "z")])
        assert losses[1.0, False] == losses[1.0, True]
        expected = 0.5 * (kl.square().sum() / kl.mean() - kl.sum())
        assert (losses[0.5, True] - losses[0.5, False]).item() == pytest.approx(
            expected.item(), rel=1e-4
        )
