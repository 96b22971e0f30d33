"""Draws in arviz's containers, and each diagnostic in three states of q: exact, overconfident,
conservative.

Knows the diagnostics room and the ground truths; must not know how blocks are cut inside.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pytest
import torch
from arviz_versions import (
    NEW,
    az,
    dataset,
    elpd,
    groups,
    loo_pit,
    pareto_k,
    predictive_figure,
)
from torch.distributions import MultivariateNormal, Normal
from truths import Q_SCALES, LinearGaussian, linear_gaussian

import ppl_vae
from ppl_vae import VAEConfig, build, log_likelihood, to_inference_data
from ppl_vae.checks import InputError
from ppl_vae.diagnostics import to_datatree, to_elpd

pytestmark = [
    pytest.mark.arviz,
    # arviz 0.23 calls what newer matplotlib and pandas are about to retire
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
# arviz 1 cuts the tail off at another draw
K_TOLERANCE = 0.05 if NEW else 1e-3
STATES = list(Q_SCALES)


@pytest.fixture(params=STATES)
def truth(request: pytest.FixtureRequest) -> LinearGaussian:
    return linear_gaussian(request.param, scale=2.0)


class TestInferenceData:
    def test_holds_draws_of_q_and_what_the_programs_say_of_them(
        self, truth: LinearGaussian
    ) -> None:
        """Densities are recomputed from the draws; moments of 4000 draws within 5 standard errors,
        p < 1e-4.
        """
        x = truth.draw(6)
        data = to_inference_data(truth.vae, x, 4000)
        z = torch.tensor(data.posterior["z"].values)[0].double()
        assert data.posterior["z"].dims == ("chain", "draw", "datum", "latent")
        scale = truth.q_scale * truth.posterior_variance.sqrt()
        error = (z.mean(0) - truth.posterior_mean(x)) / scale * math.sqrt(4000)
        assert error.abs().max() < 5
        assert torch.allclose(z.std(0), scale.expand(6, 2), rtol=0.06)
        normal = torch.distributions.Normal
        log_x = normal(z @ truth.weight.T + truth.bias, truth.scale).log_prob(x.double()).sum(-1)
        log_z = normal(0.0, 1.0).log_prob(z).sum(-1)
        log_q = normal(truth.posterior_mean(x), scale).log_prob(z).sum(-1)
        expected = {"lp": log_x + log_z, "log_weight": log_x + log_z - log_q}
        for name, value in expected.items():
            assert np.allclose(data.sample_stats[name].values[0], value, atol=1e-3)
        assert np.allclose(data.log_likelihood["x"].values[0], log_x, atol=1e-3)
        weights = data.sample_stats["log_weight"].values[0].T.astype(float)
        if truth.q_scale != 1:
            assert np.allclose(data.sample_stats["pareto_k"], pareto_k(weights.T), atol=K_TOLERANCE)

    def test_blocks_of_data_and_of_draws_fill_every_cell_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        truth = linear_gaussian("exact")
        x = truth.draw(7)
        for rows in (3, 20):
            monkeypatch.setattr(
                "ppl_vae.diagnostics.draws.decoder_rows", lambda vae, rows=rows: rows
            )
            monkeypatch.setattr("ppl_vae.diagnostics.draws.MOST_PREDICTED", 5 * 7 * 5)
            data = to_inference_data(truth.vae, x, 8)
            assert np.allclose(
                data.sample_stats["log_weight"].values[0], truth.log_likelihood(x), atol=1e-4
            )
            assert data.posterior_predictive["x"].shape == (1, 5, 7, 5)
            z = torch.tensor(data.posterior["z"].values[0, :5])
            residual = (
                torch.tensor(data.posterior_predictive["x"].values[0])
                - truth.vae.decode(z).mean.detach()
            )
            assert residual.std().item() == pytest.approx(truth.scale, rel=0.2)

    def test_a_factor_of_the_guide_is_no_draw(self) -> None:
        vae = build(VAEConfig((6,), 2, (5,), posterior="implicit"), seed=0)
        idata = to_inference_data(vae, torch.zeros(3, 6), 20)
        assert set(idata.posterior.data_vars) == {"noise", "z"}
        assert az.plot_forest(idata) is not None

    def test_prior_draws_are_the_model_s_own(self) -> None:
        """Variance of 20000 prior predictive draws is |W_d|^2 + s^2 within 5 %, five standard
        errors.
        """
        truth = linear_gaussian("exact")
        data = to_inference_data(truth.vae, truth.draw(2), 20_000)
        assert data.prior["z"].dims == ("chain", "draw", "latent")
        assert np.allclose(data.prior["z"].std(("chain", "draw")), 1, atol=0.03)
        variance = truth.weight.square().sum(1) + truth.scale**2
        assert np.allclose(data.prior_predictive["x"].var(("chain", "draw")), variance, rtol=0.05)

    def test_groups_attributes_and_netcdf_round_trip(self, tmp_path: Path) -> None:
        truth = linear_gaussian("conservative")
        x = truth.draw(4)
        data = to_inference_data(truth.vae, x, 20, seed=7, labels=[3, 1, 4, 1])
        data.to_netcdf(str(tmp_path / "posterior.nc"))
        read = az.from_netcdf(str(tmp_path / "posterior.nc"))
        assert groups(read) == {
            "posterior",
            "sample_stats",
            "log_likelihood",
            "posterior_predictive",
            "prior",
            "prior_predictive",
            "observed_data",
            "constant_data",
        }
        for group in groups(data):
            assert dataset(read, group).identical(dataset(data, group)), group
        assert json.loads(read.attrs["config"])["latent_size"] == 2
        assert (read.attrs["seed"], read.attrs["inference_library_version"]) == (
            7,
            ppl_vae.__version__,
        )
        assert np.array_equal(read.observed_data["x"], x) and read.constant_data[
            "labels"
        ].values.tolist() == [
            3,
            1,
            4,
            1,
        ]

    def test_as_a_data_tree(self) -> None:
        truth = linear_gaussian("exact")
        tree, data = (f(truth.vae, truth.draw(3), 5) for f in (to_datatree, to_inference_data))
        assert set(tree.children) == groups(data)
        for group in tree.children:
            assert tree[group].to_dataset().identical(dataset(data, group)), group
        assert tree.attrs == data.attrs

    def test_a_seed_fixes_it_and_the_global_generator_stays(self) -> None:
        truth = linear_gaussian("conservative")
        state = torch.get_rng_state()
        first, second, other = (
            to_inference_data(truth.vae, truth.draw(3), 10, seed=s) for s in (0, 0, 1)
        )
        posteriors = [dataset(found, "posterior") for found in (first, second, other)]
        assert posteriors[0].equals(posteriors[1]) and not posteriors[0].equals(posteriors[2])
        assert torch.equal(state, torch.get_rng_state())

    def test_events_of_any_shape_and_a_point_posterior_without_weights(self) -> None:
        vae = build(
            VAEConfig(event_shape=(2, 3), latent_size=2, hidden_sizes=(4,), posterior="point"),
            seed=0,
        )
        data = to_inference_data(vae, torch.zeros(5, 2, 3), 6)
        assert data.posterior_predictive["x"].dims == (
            "chain",
            "draw",
            "datum",
            "x_dim_0",
            "x_dim_1",
        )
        assert (
            np.isnan(data.sample_stats["log_weight"]).all()
            and np.isfinite(data.sample_stats["lp"]).all()
        )


@pytest.fixture(scope="module")
def data() -> Any:
    truth = linear_gaussian("exact", scale=4.0)
    return truth, to_inference_data(truth.vae, truth.draw(20), 4000)


class TestArvizItself:
    def test_summary(self, data: Any) -> None:
        truth, found = data
        mean = (
            az.summary(found, var_names=["z"], kind="stats", round_to="none")["mean"]
            .to_numpy()
            .reshape(20, 2)
        )
        assert np.allclose(mean, truth.posterior_mean(truth.draw(20)), atol=0.1)

    def test_loo_of_exact_posterior_draws_is_log_p(self, data: Any) -> None:
        truth, found = data
        assert elpd(az.loo(found)) == pytest.approx(
            truth.log_likelihood(truth.draw(20)).sum().item(), abs=0.5
        )

    def test_compare_prefers_the_model_that_made_the_data(self, data: Any) -> None:
        truth, found = data
        wrong = linear_gaussian("exact", scale=4.0, seed=5)
        table = az.compare(
            {"right": found, "wrong": to_inference_data(wrong.vae, truth.draw(20), 4000)}
        )
        assert table.index[0] == "right" and table.loc["wrong", "elpd_diff"] != 0

    def test_compare_takes_held_out_likelihoods(self, data: Any) -> None:
        """The difference of two exact likelihoods, summed over 20 data, is what the table says."""
        truth, wrong = data[0], linear_gaussian("exact", scale=4.0, seed=5)
        x = truth.draw(20)
        found = {
            n: to_elpd(log_likelihood(t.vae, x, 100, seed=0, prior_share=0.0))
            for n, t in (("a", truth), ("b", wrong))
        }
        table = az.compare(found, **({"round_to": "none"} if NEW else {}))
        difference = (truth.log_likelihood(x) - wrong.log_likelihood(x)).sum().item()
        column = "elpd" if NEW else "elpd_loo"
        assert table.loc["a", column] - table.loc["b", column] == pytest.approx(
            difference, abs=1e-3
        )

    @pytest.mark.parametrize(
        "draw",
        [
            lambda d: az.plot_khat(
                to_elpd(
                    log_likelihood(linear_gaussian("overconfident").vae, torch.zeros(9, 5), 500)
                )
            ),
            predictive_figure,
            lambda d: predictive_figure(d, "prior"),
            lambda d: az.plot_khat(az.loo(d, pointwise=True)),
            lambda d: az.plot_forest(d, var_names=["z"], coords={"datum": [0, 1]}),
            lambda d: az.plot_pair(d, var_names=["z"], coords={"datum": [0]}),
        ],
    )
    def test_figures(self, data: Any, draw: Any) -> None:
        draw(data[1])
        assert any(axes.has_data() for axes in plt.gcf().axes)
        plt.close("all")

    def test_what_loo_means_is_said_where_it_reads(self, data: Any) -> None:
        """A datum's own latent saw the datum: the attribute is there, and for entries says more."""
        truth, found = data
        assert "means nothing" in found.log_likelihood.attrs["loo"]
        assert "means nothing" in found.log_likelihood["x"].attrs["loo"]
        entries = to_inference_data(truth.vae, truth.draw(2), 5, unit="entry")
        assert entries.log_likelihood.attrs["loo"].startswith("leaves out one entry")

    def test_quadrature_has_no_pareto_k(self, data: Any) -> None:
        truth, x = data[0], data[0].draw(20)
        found = to_elpd(log_likelihood(truth.vae, x, method="quadrature"))
        weighted = to_elpd(log_likelihood(truth.vae, x, 100, seed=0, prior_share=0.0))
        assert "Pareto" not in str(found) and "Pareto" in str(weighted)
        table = az.compare({"a": found, "b": weighted})
        assert abs(table["elpd_diff"]).max() < 0.02

    @pytest.mark.parametrize("event_shape", [(5,), (1, 5), (5, 1, 1)])
    def test_loo_pit_of_images_is_the_conditional_of_each_entry(
        self, event_shape: tuple[int, ...]
    ) -> None:
        """x_d given the other entries is Normal, so the transform is known. Of 4000 draws it is
        within 0.05, six standard errors at the worst of 40 entries, p < 1e-6.
        """
        truth = linear_gaussian("exact", scale=2.0, event_shape=event_shape)
        x = truth.draw(8)
        found = to_inference_data(truth.vae, x.reshape(-1, *event_shape), 4000, unit="entry")
        assert found.log_likelihood["x"].shape == (1, 4000, 8, *event_shape)
        joint = MultivariateNormal(
            truth.bias, truth.weight @ truth.weight.T + 4 * torch.eye(5, dtype=torch.float64)
        )
        precision, residual = joint.precision_matrix, x.double() - truth.bias
        variance = 1 / precision.diagonal()
        z = (residual @ precision) * variance / variance.sqrt()
        expected = Normal(0.0, 1.0).cdf(z)
        assert (loo_pit(found).reshape(8, 5) - expected).abs().max() < 0.05
        total = (Normal(0.0, 1.0).log_prob(z) - variance.log() / 2).sum().item()
        assert elpd(az.loo(found)) == pytest.approx(total, abs=0.5)

    def test_entries_that_do_not_fit_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ppl_vae.diagnostics.draws.MOST_PREDICTED", 5 * 7 * 5)
        truth = linear_gaussian("exact")
        with pytest.raises(InputError, match="at most 5 draws"):
            to_inference_data(truth.vae, truth.draw(7), 6, unit="entry")
        with pytest.raises(InputError, match="unit"):
            to_inference_data(truth.vae, truth.draw(7), 5, unit="pixel")


@pytest.mark.parametrize("name", ["chain", "draw", "datum", "sample", "metric", "model", "column"])
def test_a_site_of_a_name_that_containers_have_is_refused_when_built(name: str) -> None:
    def prior() -> torch.Tensor:
        pyro.sample(name, pyro.distributions.Normal(0.0, 1.0))
        return pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(InputError, match=f"a site named '{name}'"):
        build(VAEConfig((3,), 2), prior=prior)


def test_arviz_is_loaded_without_a_word(tmp_path: Path) -> None:
    """0.23 announces its next version once a day, by a folder that is new here."""
    code = "from ppl_vae.diagnostics.containers import arviz; arviz()"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error::FutureWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
