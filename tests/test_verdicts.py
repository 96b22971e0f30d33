"""Each diagnostic in three states of q, exact, overconfident and conservative, with the right
verdict in each.

Knows the diagnostics and evaluation rooms and the ground truths; must not know how any check draws.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from truths import Q_SCALES, linear_gaussian

from ppl_vae import InputError, VAEConfig, build
from ppl_vae.diagnostics import (
    Calibration,
    Check,
    diagnose,
    nuts_reference,
    posterior_predictive_check,
    simulation_based_calibration,
)
from ppl_vae.diagnostics.calibration import _broken_ties
from ppl_vae.evaluation import inference_gaps

STATES = list(Q_SCALES)


class TestCalibration:
    @pytest.mark.parametrize("state", STATES)
    def test_coverage_of_central_intervals_is_known(self, state: str) -> None:
        """An interval z s wide either side covers P(|N(0,1)| < c z): 2000 simulations, within 5
        standard errors.
        """
        truth = linear_gaussian(state)
        found = simulation_based_calibration(truth.vae, 2000, seed=0)
        for probability in (0.5, 0.8, 0.95):
            normal = torch.distributions.Normal(0.0, 1.0)
            width = truth.q_scale * normal.icdf(torch.tensor((1 + probability) / 2))
            expected = (2 * normal.cdf(width) - 1).item()
            error = math.sqrt(expected * (1 - expected) / 2000) + 1 / 200
            assert (found.coverage(probability) - expected).abs().max() < 5 * error

    @pytest.mark.parametrize(
        ("state", "outside"), [("exact", False), ("overconfident", True), ("conservative", True)]
    )
    def test_ranks_leave_the_band_where_q_is_wrong(self, state: str, outside: bool) -> None:
        """The band is left by an exact q with probability 0.01 at most."""
        found = simulation_based_calibration(linear_gaussian(state).vae, seed=0)
        assert bool(found.deviation.max() > found.band()) == outside

    def test_a_biased_q_has_sloping_ranks(self) -> None:
        truth = linear_gaussian("exact")
        with torch.no_grad():
            truth.vae.guide.posterior.heads.bias[0] += truth.posterior_variance[0].sqrt()
        found = simulation_based_calibration(truth.vae, seed=0)
        assert found.uniform.mean(0)[0] < 0.3 and abs(found.uniform.mean(0)[1] - 0.5) < 0.06
        assert found.deviation[0] > found.band() > found.deviation[1]

    @pytest.mark.parametrize(
        ("prior", "options", "biases"),
        [
            ("sparse_beta", {"alpha": 0.3, "beta": 0.3}, [0.3, 0.3]),
            ("sparse_beta", {"alpha": 0.03, "beta": 0.03}, [0.03, 0.03]),
            ("sparse_beta", {"alpha": 0.02, "beta": 0.05}, [0.02, 0.05]),
        ],
    )
    def test_an_exact_q_stays_exact_where_draws_tie(
        self, prior: str, options: dict[str, float], biases: list[float]
    ) -> None:
        """Sparse codes pile up at the ends of (0, 1); left uncounted, ties move ranks by 0.25. An
        exact q leaves the band with probability 0.01 at most.
        """
        config = VAEConfig((4,), 1, (8,), prior=prior, prior_options=options)
        vae = build(config, seed=0)
        heads = vae.guide.posterior.heads
        with torch.no_grad():
            for parameter in (*vae.model.decoder.parameters(), heads.weight):
                parameter.zero_()
            heads.bias.copy_(torch.tensor(biases).sub(5e-3).expm1().log())  # softplus of it + 0.005
        first, same, other = (
            simulation_based_calibration(vae, num_simulations=1000, seed=seed) for seed in (1, 1, 2)
        )
        assert first.deviation.max() < first.band()
        assert torch.equal(first.ranks, same.ranks) and not torch.equal(first.ranks, other.ranks)

    def test_ties_are_broken_evenly_and_ranks_without_ties_are_counts(self) -> None:
        """4000 ranks among 0 + {0, ..., 3}: each share within five standard errors of 1/4."""
        torch.manual_seed(0)
        below, tied = torch.full((4000, 1), 2), torch.full((4000, 1), 3)
        shares = _broken_ties(below, tied).flatten().bincount(minlength=7) / 4000
        assert (shares[:2] == 0).all() and (shares[6:] == 0).all()
        assert (shares[2:6] - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 4000)
        assert torch.equal(_broken_ties(below, 0 * tied), below)

    def test_deviation_of_ranks_placed_by_hand(self) -> None:
        """Four values at 1/8, 3/8, 5/8, 7/8 are 1/8 from uniform; all at 7/8, 7/8."""
        ranks = torch.tensor([[0, 3], [1, 3], [2, 3], [3, 3]])
        found = Calibration(ranks, 3, ("a", "b"))
        assert found.deviation.tolist() == [0.125, 0.875]

    def test_ranks_every_site_and_no_index_that_is_summed_out(self) -> None:
        def prior() -> torch.Tensor:
            k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            s = pyro.sample("s", dist.LogNormal(torch.tensor([0.0, 1.0])[k], 0.5))
            return pyro.sample("z", dist.Normal(torch.zeros(2), s[..., None]).to_event(1))

        vae = build(
            VAEConfig(event_shape=(3,), latent_size=2, hidden_sizes=()), prior=prior, seed=0
        )
        found = simulation_based_calibration(vae, 20, 9, seed=0)
        assert found.names == ("s[0]", "z[0]", "z[1]") and found.ranks.shape == (20, 3)
        assert found.ranks.min() >= 0 and found.ranks.max() <= 9


class TestPosteriorPredictive:
    @pytest.mark.parametrize(
        ("state", "small"), [("exact", False), ("overconfident", True), ("conservative", True)]
    )
    def test_the_spread_between_data_shows_q_s_spread(self, state: str, small: bool) -> None:
        """Variance over data of a replicate is |W|^2 (1 - v^2 + c^2 v^2) + D s^2: within 3 % for
        1000 data.
        """
        truth = linear_gaussian(state)
        found = posterior_predictive_check(truth.vae, truth.draw(1000), seed=0)["between_data"]
        v = truth.posterior_variance
        expected = (
            truth.weight.square().sum(0) * (1 - v + truth.q_scale**2 * v)
        ).sum() + 5 * truth.scale**2
        assert found.replicated.mean() == pytest.approx(expected.item(), rel=0.03)
        assert (found.p_value < 0.01) == small

    def test_takes_statistics_of_the_user_s_own_and_blocks_do_not_matter(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        truth = linear_gaussian("exact")
        monkeypatch.setattr("ppl_vae.diagnostics.predictive.decoder_rows", lambda vae: 7)
        x = truth.draw(30)
        found = posterior_predictive_check(
            truth.vae, x, {"rows": lambda x: torch.tensor(len(x))}, 5, seed=0
        )
        assert found["rows"].observed == 30 and found["rows"].replicated.tolist() == [30] * 5
        assert found["rows"].p_value == 1


class TestInferenceGaps:
    @pytest.mark.parametrize("state", STATES)
    def test_what_a_refitted_q_gains_is_the_amortisation_gap(self, state: str) -> None:
        """The family holds the exact posterior, so KL(q || p) is amortisation alone; 0.1 nats is 3
        standard errors.
        """
        truth = linear_gaussian(state)
        found = inference_gaps(truth.vae, truth.draw(2), "quadrature", seed=0)
        assert found.approximation.abs().max() < 0.02
        assert (found.amortisation - truth.kl_to_posterior).abs().max() < 0.1

    def test_a_family_without_correlations_leaves_an_approximation_gap(self) -> None:
        """KL(best diagonal || N(m, S)) = -1/2 sum ln (S_jj S^-1_jj) summed: for correlation r, -1/2
        ln(1 - r^2).
        """
        truth = linear_gaussian("exact")
        rotation = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
        with torch.no_grad():
            truth.vae.model.decoder.network[0].weight.copy_(truth.weight @ rotation)
        x = truth.draw(2)
        precision = rotation.T @ (1 / truth.posterior_variance).diag() @ rotation
        expected = 0.5 * (precision.diag().log().sum() - precision.logdet())
        found = inference_gaps(truth.vae, x, "quadrature", seed=0)
        assert (found.approximation - expected).abs().max() < 0.05

    def test_leaves_the_guide_as_it_was(self) -> None:
        truth = linear_gaussian("conservative")
        before = {name: value.clone() for name, value in truth.vae.state_dict().items()}
        inference_gaps(truth.vae, truth.draw(1), "quadrature", num_steps=5, seed=0)
        assert all(
            torch.equal(value, before[name]) for name, value in truth.vae.state_dict().items()
        )
        assert all(p.grad is None for p in truth.vae.parameters())

    @pytest.mark.parametrize(
        ("field", "words"),
        [
            ({"posterior": "point"}, "a guide that is a point"),
            ({"weights": "mean_field"}, "Bayesian weights"),
        ],
    )
    def test_refuses_what_has_no_bound_of_one_datum(self, field: dict, words: str) -> None:
        vae = build(VAEConfig((4,), 2, (5,), **field), num_data=10)
        with pytest.raises(InputError, match=f"inference_gaps: got {words}"):
            inference_gaps(vae, torch.zeros(2, 4), "importance")


class TestNutsReference:
    @pytest.mark.parametrize("state", STATES)
    def test_says_how_far_q_is(self, state: str) -> None:
        """800 draws: means within 0.3 and log scales within 0.15 are over 5 standard errors at 500
        effective draws.
        """
        truth = linear_gaussian(state)
        x = truth.draw(2)
        found = nuts_reference(truth.vae, x, 200, 150, method="quadrature")
        assert found.draws.shape == (4, 200, 2, 2) and (found.r_hat < 1.05).all()
        assert (found.effective_sample_size > 200).all()
        scale = truth.posterior_variance.sqrt()
        assert (
            (found.draws.flatten(0, 1).mean(0) - truth.posterior_mean(x)) / scale
        ).abs().max() < 0.3
        assert (found.scale_error - math.log(truth.q_scale)).abs().max() < 0.15
        assert found.mean_error.abs().max() < 0.3
        assert (found.kl - truth.kl_to_posterior).abs().max() < 0.2

    def test_refuses_bayesian_weights_in_words(self) -> None:
        config = VAEConfig(event_shape=(3,), latent_size=1, hidden_sizes=(), weights="mean_field")
        with pytest.raises(InputError, match="Bayesian weights"):
            nuts_reference(build(config, seed=0), torch.zeros(1, 3))


class TestDiagnose:
    @pytest.mark.parametrize(
        ("state", "look"),
        [
            ("exact", set()),
            ("overconfident", {"gap", "pareto_k", "coverage", "calibration", "predictive"}),
            ("conservative", {"gap", "coverage", "calibration", "predictive"}),
        ],
    )
    def test_gives_the_right_verdict_in_each_state(self, state: str, look: set[str]) -> None:
        truth = linear_gaussian(state)
        found = diagnose(truth.vae, truth.draw(1000), seed=0)
        assert {check.name for check in found if check.verdict == "look"} == look
        coverage = next(check for check in found if check.name == "coverage")
        assert (state in coverage.meaning) == (state != "exact")

    def test_sees_collapsed_latents(self) -> None:
        """A decoder that ignores z and q = p: every other check passes, for the posterior is the
        prior.

        With other seeds one of the three predictive p-values is below 0.01 in one of thirty data
        sets."""
        torch.manual_seed(0)
        truth = linear_gaussian("exact")
        with torch.no_grad():
            truth.vae.model.decoder.network[0].weight.zero_()
            for parameter in truth.vae.guide.posterior.heads.parameters():
                parameter.zero_()
        found = {c.name: c.verdict for c in diagnose(truth.vae, truth.vae.sample(200))}
        assert found.pop("inactive_units") == "look" and set(found.values()) == {"pass"}

    def test_its_gap_is_the_kl_to_the_posterior_per_latent(self) -> None:
        truth = linear_gaussian("conservative")
        gap = next(check for check in diagnose(truth.vae, truth.draw(500)) if check.name == "gap")
        assert gap.value == pytest.approx(truth.kl_to_posterior.item() / 2, rel=0.05)

    def test_a_check_reads_as_one_line(self) -> None:
        check = Check("gap", 0.5, 0.25, "nats", "look", "why")
        assert str(check) == "look  gap: 0.5 nats (threshold 0.25): why"

    @pytest.mark.parametrize(("location", "verdict"), [(0.0, "look"), (10.0, "pass")])
    def test_sees_weights_of_which_nothing_was_learned(self, location: float, verdict: str) -> None:
        """q(theta) = p(theta) in one case; in the other every mean is ten standard deviations from
        0.
        """
        options = {"prior": "normal", "initial_scale": 1.0}
        config = VAEConfig(
            (5,), 2, (), likelihood="normal_shared", weights="mean_field", weights_options=options
        )
        vae = build(config, seed=0)
        with torch.no_grad():
            for factor in vae.guide.weights.factors:
                factor.location.copy_(location * factor.own_log_scale().exp())
        found = {check.name: check for check in diagnose(vae, torch.randn(20, 5), num_samples=100)}
        assert found["unsure_weights"].verdict == verdict
        assert found["unsure_weights"].value == float(verdict == "look")
