"""Draws of any Pyro program in arviz's containers, held against conjugate models.

Knows `from_pyro`, Pyro and closed forms; must not know VAEs, but for one that is a Pyro program.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_versions import az, dataset, groups
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor
from truths import linear_gaussian

from ppl_vae.checks import InputError
from ppl_vae.diagnostics import from_pyro

pytestmark = [pytest.mark.arviz, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

Y = torch.tensor([[0.3, 1.2], [-0.4, 0.8], [1.9, 2.2], [0.1, -0.6]])


def groups_model(y: Tensor) -> Tensor:
    """mu_g ~ N(0, 1), y_ng ~ N(mu_g, 1): mu_g | y ~ N(sum_n y_ng / (N + 1), 1 / (N + 1))."""
    with pyro.plate("group", y.shape[1], dim=-1):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * mu, event_dim=0)
        with pyro.plate("row", len(y), dim=-2):
            return pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def exact_guide(y: Tensor) -> None:
    with pyro.plate("group", y.shape[1], dim=-1):
        pyro.sample("mu", dist.Normal(y.sum(0) / (len(y) + 1), (len(y) + 1) ** -0.5))


def log_evidence(y: Tensor) -> float:
    covariance = torch.eye(len(y)) + 1
    joint = dist.MultivariateNormal(torch.zeros(len(y)), covariance)
    return joint.log_prob(y.T).sum().item()


@pytest.fixture(scope="module")
def run() -> MCMC:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on one processor chains run one after the other
        pyro.set_rng_seed(0)
        found = MCMC(NUTS(groups_model), 100, warmup_steps=60, num_chains=2, disable_progbar=True)
        found.run(Y)
    return found


class TestGuide:
    def test_an_exact_guide_s_weights_are_the_evidence(self) -> None:
        data = from_pyro(exact_guide, groups_model, (Y,), num_samples=50)
        weights = data.sample_stats["log_weight"]
        assert weights.shape == (1, 50)
        assert np.allclose(weights, log_evidence(Y), atol=1e-4)
        assert data.sample_stats.attrs["pareto_k"] == 0.0

    def test_moments_densities_and_names(self) -> None:
        """Moments of 1000 draws within 5 standard errors, p < 1e-5; densities are recomputed."""
        data = from_pyro(exact_guide, groups_model, (Y,), num_samples=1000)
        mu = data.posterior["mu"]
        assert mu.dims == ("chain", "draw", "group")
        assert np.allclose(mu.mean(("chain", "draw")), Y.sum(0) / 5, atol=5 * 0.45 / 31)
        assert np.array_equal(data.posterior["twice"], 2 * mu)
        found = data.log_likelihood["y"]
        assert found.dims == ("chain", "draw", "row", "group")
        values = torch.tensor(mu.values)[:, :, None]
        assert np.allclose(found, dist.Normal(values, 1.0).log_prob(Y), atol=1e-5)
        drawn = data.posterior_predictive["y"]
        assert drawn.dims == found.dims
        assert np.allclose(drawn.var(("chain", "draw")), 1 + 1 / 5, rtol=0.23)
        assert np.array_equal(data.observed_data["y"], Y)
        assert "diverging" not in data.sample_stats

    def test_prior_labels_and_constants(self, tmp_path: Path) -> None:
        """Variance of 500 prior predictive draws is 2 within five standard errors, 32 %."""
        data = from_pyro(
            exact_guide,
            groups_model,
            model_kwargs={"y": Y},
            num_samples=5,
            num_prior=500,
            coords={"group": ["a", "b"]},
            constant_data={"size": [10, 20]},
            dims={"size": ["group"]},
        )
        assert data.posterior["mu"].sel(group="b").shape == (1, 5)
        assert data.constant_data["size"].sel(group="b").item() == 20
        assert np.allclose(data.prior["mu"].var(("chain", "draw")), 1, rtol=0.32)
        assert np.allclose(data.prior_predictive["y"].var(("chain", "draw")), 2, rtol=0.32)
        data.to_netcdf(str(tmp_path / "draws.nc"))
        read = az.from_netcdf(str(tmp_path / "draws.nc"))
        assert all(dataset(read, g).equals(dataset(data, g)) for g in groups(data))

    def test_autoguides_and_points(self) -> None:
        """An autoguide's Delta is a function of its draws; a point estimate has no density."""
        guide = AutoNormal(groups_model, init_scale=5**-0.5)
        guide(Y)
        with torch.no_grad():
            guide.locs.mu.copy_(Y.sum(0) / 5)
        data = from_pyro(guide, groups_model, (Y,), num_samples=20)
        assert set(data.posterior.data_vars) == {"mu", "twice"}
        assert np.allclose(data.sample_stats["log_weight"], log_evidence(Y), atol=1e-4)
        point = from_pyro(AutoDelta(groups_model), groups_model, (Y,), num_samples=3)
        assert set(point.sample_stats.data_vars) == {"lp"}

    def test_masks_scales_and_factors(self) -> None:
        """What a mask leaves out counts nothing, a scale is no part of one datum's likelihood."""
        mask = torch.tensor([True, False, True])

        def model(y: Tensor) -> None:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("pull", z)
            with pyro.plate("row", 3), pyro.poutine.scale(scale=2.0), pyro.poutine.mask(mask=mask):
                pyro.sample("y", dist.Normal(z, 1.0), obs=y)

        def guide(y: Tensor) -> None:
            pyro.sample("z", dist.Normal(0.0, 1.0))

        y = torch.tensor([0.5, 1.0, 2.0])
        data = from_pyro(guide, model, (y,), num_samples=4)
        z = torch.tensor(data.posterior["z"].values)[..., None]
        each = dist.Normal(z, 1.0).log_prob(y) * mask
        assert np.allclose(data.log_likelihood["y"], each, atol=1e-5)
        total = dist.Normal(0.0, 1.0).log_prob(z[..., 0]) + z[..., 0] + 2 * each.sum(-1)
        assert np.allclose(data.sample_stats["lp"], total, atol=1e-5)
        assert set(data.observed_data.data_vars) == {"y"}

    def test_the_pair_of_a_vae_is_such_a_pair(self) -> None:
        truth = linear_gaussian("exact")
        x = truth.draw(6)
        data = from_pyro(truth.vae.guide, truth.vae.model, (x,), num_samples=10)
        assert data.posterior["z"].dims == ("chain", "draw", "data", "z_dim_1")
        total = truth.log_likelihood(x).sum().item()
        assert np.allclose(data.sample_stats["log_weight"], total, atol=1e-3)

    def test_a_seed_fixes_it_and_the_global_generator_stays(self) -> None:
        state = torch.get_rng_state()
        first, second, other = (
            from_pyro(exact_guide, groups_model, (Y,), num_samples=3, seed=s) for s in (0, 0, 1)
        )
        assert np.array_equal(first.posterior["mu"], second.posterior["mu"])
        assert not np.array_equal(first.posterior["mu"], other.posterior["mu"])
        assert torch.equal(state, torch.get_rng_state())


class TestRun:
    def test_draws_and_statistics_are_the_run_s(self, run: MCMC) -> None:
        """Means of 200 draws within 0.2, about five standard errors."""
        data = from_pyro(run, groups_model, (Y,))
        mu = data.posterior["mu"]
        assert np.array_equal(mu, run.get_samples(group_by_chain=True)["mu"])
        assert np.allclose(mu.mean(("chain", "draw")), Y.sum(0) / 5, atol=0.2)
        assert data.sample_stats["diverging"].dtype == bool
        assert int(data.sample_stats["diverging"].sum()) == 0
        assert len(data.sample_stats.attrs["acceptance_rate"]) == 2
        assert "log_weight" not in data.sample_stats
        assert float(az.rhat(data)["mu"].max()) < 1.1

    def test_divergences_stand_where_they_were(self, run: MCMC) -> None:
        """Neal's funnel diverges; the places are those that the run names."""

        def funnel() -> None:
            v = pyro.sample("v", dist.Normal(0.0, 3.0))
            pyro.sample("w", dist.Normal(0.0, (v / 2).exp()).expand([5]).to_event(1))

        pyro.set_rng_seed(0)
        found = MCMC(
            NUTS(funnel, step_size=1.0, adapt_step_size=False),
            60,
            warmup_steps=0,
            disable_progbar=True,
        )
        found.run()
        places = found.diagnostics()["divergences"]["chain 0"]
        data = from_pyro(found, funnel)
        assert places
        assert np.flatnonzero(data.sample_stats["diverging"][0]).tolist() == sorted(set(places))
        assert groups(data) == {"posterior", "sample_stats"}

    @pytest.mark.filterwarnings("ignore:Estimated shape parameter")
    def test_arviz_takes_it(self, run: MCMC) -> None:
        data = from_pyro(run, groups_model, (Y,))
        assert len(az.summary(data, var_names=["mu"])) == 2
        found = az.loo(data, pointwise=True)
        assert found["pareto_k"].shape == Y.shape


def local(y: Tensor) -> None:
    with pyro.plate("row", len(y), subsample_size=2) as rows:
        pyro.sample("y", dist.Normal(torch.zeros(2), 1.0), obs=y[rows, 0])


def with_index(y: Tensor) -> None:
    k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    mu = pyro.sample("mu", dist.Normal(k, 1.0).expand([2]).to_event(1))
    pyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y.mean(0))


def named_sample(y: Tensor) -> None:
    pyro.sample("sample", dist.Normal(0.0, 1.0))


def plate_named_draw(y: Tensor) -> None:
    with pyro.plate("draw", 2):
        pyro.sample("mu", dist.Normal(0.0, 1.0))


def guide_of_mu(y: Tensor) -> None:
    pyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))


class TestRefused:
    @pytest.mark.parametrize(
        ("guide", "model", "options", "words"),
        [
            (exact_guide, local, {}, "plate 'row': got a subsample of 2 of 4"),
            (guide_of_mu, with_index, {}, "no draws of the model's site 'k'"),
            (named_sample, named_sample, {}, "a site named 'sample'"),
            (plate_named_draw, plate_named_draw, {}, "'draw', which a site or the container has"),
            (exact_guide, groups_model, {"dims": {"m": ["a"]}}, "did you mean 'mu'"),
            (exact_guide, groups_model, {"dims": {"y": ["a"]}}, "names of 2 dimensions"),
            (exact_guide, groups_model, {"coords": {"group": ["a"]}}, "1 labels, expected 2"),
            (exact_guide, groups_model, {"coords": {"groups": ["a"]}}, "did you mean 'group'"),
            (exact_guide, groups_model, {"num_samples": 0}, "num_samples"),
        ],
    )
    def test_in_words(self, guide: Any, model: Any, options: Any, words: str) -> None:
        options = {"num_samples": 2, **options}
        with pytest.raises(InputError, match=words):
            from_pyro(guide, model, (Y,), **options)

    def test_a_run_that_has_not_run(self) -> None:
        with pytest.raises(InputError, match="MCMC without draws"):
            from_pyro(MCMC(NUTS(groups_model), 10), groups_model, (Y,))

    def test_a_program_that_branches(self) -> None:
        def model(y: Tensor) -> None:
            mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if mu[0] > 0:
                pyro.deterministic("above", mu)
            pyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y[0])

        with pytest.raises(InputError, match="sites that differ between draws: above"):
            from_pyro(guide_of_mu, model, (Y,), num_samples=30)
