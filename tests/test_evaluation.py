"""Bounds and likelihoods against models whose values are known exactly.

Knows the evaluation room and the ground truths; must not know how blocks are recorded inside.
"""

import math
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.func import functional_call
from truths import Q_SCALES, LinearGaussian, linear_gaussian

from ppl_vae import InputError, VAEConfig, build, log_likelihood, lower_bound
from ppl_vae.evaluation import active_units, reconstruction_error
from ppl_vae.evaluation.blocks import decoder_rows
from ppl_vae.evaluation.pareto import pareto_k, tail_size
from ppl_vae.evaluation.running import RunningWeights
from ppl_vae.evaluation.weights import LogWeights
from ppl_vae.graphs import record
from ppl_vae.graphs.rewrites import bernoulli_log_prob, rewritten
from ppl_vae.handlers.modes import local_parameters

STATES = list(Q_SCALES)


@pytest.fixture(params=STATES)
def truth(request: pytest.FixtureRequest) -> LinearGaussian:
    return linear_gaussian(request.param)


class TestLowerBound:
    @pytest.mark.parametrize("estimator", ["A", "B"])
    def test_is_unbiased_in_each_state_of_q(self, truth: LinearGaussian, estimator: str) -> None:
        """400 data x 100 draws, 5 standard errors of the mean over data: fails for a right code
        with p < 1e-6.
        """
        x = truth.draw(400)
        difference = lower_bound(truth.vae, x, estimator, 100, seed=0) - truth.lower_bound(x)
        assert difference.abs().max() > 0 and difference.shape == (400,)
        assert abs(difference.mean()) < 5 * difference.std() / math.sqrt(400) + 1e-5

    def test_a_is_log_p_without_noise_at_the_exact_posterior_and_b_is_not(self) -> None:
        truth = linear_gaussian("exact")
        x = truth.draw(50)
        errors = {
            e: lower_bound(truth.vae, x, e, seed=0) - truth.log_likelihood(x) for e in ("A", "B")
        }
        assert errors["A"].abs().max() < 1e-4
        assert errors["B"].std() > 0.1

    def test_belongs_to_the_datum_in_evaluation_mode_whatever_the_number_of_data(
        self,
    ) -> None:
        truth = linear_gaussian("exact")
        x = truth.draw(7)
        truth.vae.train().num_data = 1000
        assert torch.allclose(
            lower_bound(truth.vae, x, "A", seed=0).double(), truth.log_likelihood(x), atol=1e-4
        )
        assert all(m.training for m in truth.vae.modules())

    def test_blocks_do_not_change_what_a_datum_gets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        truth = linear_gaussian("exact")
        x = truth.draw(10)
        monkeypatch.setattr("ppl_vae.evaluation.blocks.decoder_rows", lambda vae: 3)
        assert torch.allclose(
            lower_bound(truth.vae, x, "A").double(), truth.log_likelihood(x), atol=1e-4
        )

    def test_without_a_seed_uses_the_global_generator_and_with_one_leaves_it(self) -> None:
        truth = linear_gaussian("conservative")
        x = truth.draw(5)
        first, second = lower_bound(truth.vae, x), lower_bound(truth.vae, x)
        state = torch.get_rng_state()
        assert not torch.equal(first, second)
        assert torch.equal(lower_bound(truth.vae, x, seed=3), lower_bound(truth.vae, x, seed=3))
        assert torch.equal(state, torch.get_rng_state())

    @pytest.mark.parametrize(
        "bad", [{"estimator": "C"}, {"num_particles": 0}, {"x": torch.zeros(3, 4)}]
    )
    def test_refuses_bad_values_in_one_line(self, bad: dict) -> None:
        truth = linear_gaussian("exact")
        with pytest.raises(InputError) as error:
            lower_bound(truth.vae, **({"x": truth.draw(3)} | bad))
        assert "\n" not in str(error.value)


class TestImportanceSampling:
    @pytest.mark.parametrize("state", ["exact", "conservative"])
    def test_finds_log_p_where_weights_are_bounded(self, state: str) -> None:
        """z-scores of 200 data, mean within 5/sqrt(200) of 0 and spread within 25 % of 1: fails by
        chance p < 1e-4.
        """
        truth = linear_gaussian(state)
        x = truth.draw(200)
        found = log_likelihood(truth.vae, x, 2000, seed=0, prior_share=0.0)
        assert (found.pareto_k < 0.5).all()
        if state == "exact":
            assert (found.values - truth.log_likelihood(x)).abs().max() < 1e-4
        else:
            z = (found.values - truth.log_likelihood(x)) / found.monte_carlo_error
            assert abs(z.mean()) < 5 / math.sqrt(200) and abs(z.std() - 1) < 0.25

    def test_says_where_an_overconfident_q_makes_it_wrong(self) -> None:
        """The tail index is 1 - c^2 = 0.84 by arithmetic; the median over 200 data is within 0.1 of
        it.
        """
        truth = linear_gaussian("overconfident")
        x = truth.draw(200)
        found = log_likelihood(truth.vae, x, 5000, seed=0, prior_share=0.0)
        assert abs(found.pareto_k.median() - (1 - Q_SCALES["overconfident"] ** 2)) < 0.1
        assert (found.values - truth.log_likelihood(x)).mean() < -0.02
        assert "pareto_k > 0.7: 8" in repr(found)

    def test_a_tenth_of_the_draws_are_the_prior_s_unless_it_is_said_otherwise(self) -> None:
        """Under an overconfident q weights have infinite variance, and log p(x) is 0.02 nats and
        more too low; those of the mixture are at most ten times p(x|z).
        """
        truth = linear_gaussian("overconfident")
        x = truth.draw(200)
        found = log_likelihood(truth.vae, x, 5000, seed=0)
        again = log_likelihood(truth.vae, x, 5000, seed=0, prior_share=0.1)
        assert torch.equal(found.values, again.values)
        assert abs((found.values - truth.log_likelihood(x)).mean()) < 0.01

    def test_says_so_where_draws_are_too_few_for_pareto_k(self) -> None:
        truth = linear_gaussian("overconfident")
        for draws in (1, 5):
            found = log_likelihood(truth.vae, truth.draw(4), draws, seed=0)
            assert found.pareto_k.isinf().all() and "too few draws for pareto_k" in repr(found)
            assert bool(found.monte_carlo_error.isnan().all()) == (draws == 1)

    @pytest.mark.parametrize("num_samples", [1, 7, 750, 1301])
    def test_any_number_of_draws_is_exactly_that_many(
        self, num_samples: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At the exact posterior every weight is p(x): a draw too many or too few would shift log p
        by its share.
        """
        truth = linear_gaussian("exact")
        x = truth.draw(11)
        monkeypatch.setattr("ppl_vae.evaluation.importance.decoder_rows", lambda vae: 500)
        found = log_likelihood(truth.vae, x, num_samples, seed=0, prior_share=0.0)
        assert torch.allclose(found.values, truth.log_likelihood(x), atol=1e-4)

    def test_recorded_equals_eager_and_leaves_everything_as_it_was(self) -> None:
        truth = linear_gaussian("conservative")
        x = truth.draw(20)
        truth.vae.train()
        state = torch.get_rng_state()
        eager, recorded = (
            log_likelihood(truth.vae, x, 1000, seed=1, compile=tier) for tier in ("off", "record")
        )
        assert torch.equal(eager.values, recorded.values)
        assert truth.vae.training and torch.equal(state, torch.get_rng_state())

    def test_what_is_compiled_agrees_with_eager_whichever_forms_it_computes(
        self, monkeypatch: Any
    ) -> None:
        """Bernoulli pixels, tanh and biases are computed in other forms there: within 1e-5 of
        eager, relatively.
        """
        monkeypatch.setattr(
            "ppl_vae.evaluation.weights.compiled", lambda graph, arguments: rewritten(graph)
        )
        vae = build(VAEConfig(event_shape=(4, 16), latent_size=2, hidden_sizes=(8,)), seed=0)
        with torch.no_grad():
            vae.model.decoder.network[2].weight.mul_(20)
        x = torch.rand(2, 4, 16, generator=torch.Generator().manual_seed(0))
        found = [
            log_likelihood(vae, x, 50, seed=0, compile=tier).values for tier in ("off", "inductor")
        ]
        assert torch.allclose(*found, rtol=1e-5) and not torch.equal(*found)

    def test_a_recorded_block_draws_fresh_noise_each_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Were the noise baked in, every piece of draws would be the first one again."""
        truth = linear_gaussian("conservative")
        monkeypatch.setattr("ppl_vae.evaluation.importance.decoder_rows", lambda vae: 50)
        seen: list[torch.Tensor] = []
        update = RunningWeights.update
        monkeypatch.setattr(
            RunningWeights, "update", lambda self, w: (seen.append(w.clone()), update(self, w))[1]
        )
        log_likelihood(truth.vae, truth.draw(1), 100, seed=1, compile="record")
        assert len(seen) == 2 and not (seen[0] == seen[1]).any()

    def test_several_sites_one_of_them_positive(self) -> None:
        """s ~ LogNormal, z ~ N(0, s^2), x ~ N(W z + b, I): log p(x) by quadrature over s.

        Mean z-score of 50 data within 5 / sqrt(50), fails by chance p < 1e-6.
        """

        def prior() -> torch.Tensor:
            s = pyro.sample("s", dist.LogNormal(torch.zeros(1), 0.5).to_event(1))
            return pyro.sample("z", dist.Normal(torch.zeros(2), s).to_event(1))

        config = VAEConfig(
            event_shape=(3,), latent_size=2, hidden_sizes=(), likelihood="normal_unit"
        )
        vae = build(config, prior=prior, seed=0)
        with torch.no_grad(), torch.random.fork_rng():
            vae.guide.posterior.heads.weight.zero_()
            vae.guide.posterior.heads.bias.copy_(
                torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0, 2.0])
            )  # q wider than p(z|x)
            torch.manual_seed(0)
            x = vae.sample(50)
        layer = vae.model.decoder.network[0]
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        scales = torch.tensor(0.5 * nodes).exp()
        product = (layer.weight @ layer.weight.T).detach().double()
        covariance = scales[:, None, None] ** 2 * product + torch.eye(3, dtype=torch.float64)
        given_s = dist.MultivariateNormal(layer.bias.detach().double(), covariance).log_prob(
            x.double()[:, None]
        )
        exact = (given_s + torch.tensor(weights / weights.sum()).log()).logsumexp(1)
        found = log_likelihood(vae, x, 20_000, seed=0)
        z = (found.values - exact) / found.monte_carlo_error
        assert abs(z.mean()) < 5 / math.sqrt(50) and abs(z.std() - 1) < 0.5

    def test_mean_and_standard_error_are_over_the_data(self) -> None:
        truth = linear_gaussian("exact")
        x = truth.draw(100)
        found, exact = log_likelihood(truth.vae, x, 10, seed=0), truth.log_likelihood(x)
        assert found.mean == pytest.approx(exact.mean().item(), abs=1e-4)
        assert found.standard_error == pytest.approx(exact.std().item() / 10, rel=1e-3)
        assert math.isnan(log_likelihood(truth.vae, x[:1], 10).standard_error)

    def test_refuses_a_point_posterior(self) -> None:
        vae = build(
            VAEConfig(event_shape=(3,), latent_size=2, hidden_sizes=(), posterior="point"), seed=0
        )
        with pytest.raises(InputError, match="point"):
            log_likelihood(vae, torch.zeros(2, 3))

    def test_takes_bytes_and_refuses_what_the_likelihood_is_not_defined_on(self) -> None:
        vae = build(VAEConfig(event_shape=(3,), latent_size=2, hidden_sizes=()), seed=0)
        pixels = torch.tensor([[0, 255, 255]], dtype=torch.uint8)
        found = [log_likelihood(vae, x, 10, seed=0).values for x in (pixels, pixels / 255)]
        assert torch.equal(*found)
        with pytest.raises(InputError, match="outside"):
            log_likelihood(vae, torch.full((1, 3), 2.0))


class TestParetoK:
    @pytest.mark.parametrize("num_samples", [25, 100, 1000, 5000])
    @pytest.mark.parametrize("shape", [-0.4, 0.3, 0.9])
    def test_equals_arviz_for_each_datum(self, num_samples: int, shape: float) -> None:
        rng = np.random.default_rng(num_samples)
        uniform = rng.uniform(size=(num_samples, 6))
        log_weights = np.log1p(((1 - uniform) ** -shape - 1) / shape) + rng.normal(size=6) * 50
        expected = az.psislw(log_weights.T.copy())[1]
        assert np.allclose(pareto_k(torch.tensor(log_weights)).numpy(), expected, atol=1e-8)

    def test_ties_with_the_cutoff_are_left_out_as_arviz_does(self) -> None:
        log_weights = torch.randn(
            400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        for column in (0, 2):
            ordered = log_weights[:, column].argsort(descending=True)
            log_weights[ordered[60 - 10 * column : 62], column] = log_weights[ordered[60], column]
        assert np.allclose(
            pareto_k(log_weights).numpy(), az.psislw(log_weights.T.numpy().copy())[1], atol=1e-8
        )

    def test_is_one_datum_s_own_whatever_the_batch(self) -> None:
        log_weights = torch.randn(1000, 40, generator=torch.Generator().manual_seed(0)) * 3
        together = pareto_k(log_weights)
        assert torch.equal(
            together, torch.cat([pareto_k(log_weights[:, i : i + 1]) for i in range(40)])
        )

    @pytest.mark.parametrize("batch", [1, 10, 100])
    def test_of_the_programs_does_not_grow_with_the_batch(self, batch: int) -> None:
        """Twenty data with the same k = 0.84 in batches of different size: medians agree with it
        within 0.15.
        """
        truth = linear_gaussian("overconfident")
        k = torch.cat(
            [
                log_likelihood(truth.vae, rows, 1000, seed=i, prior_share=0.0).pareto_k
                for i, rows in enumerate(truth.draw(max(20, batch)).split(batch))
            ]
        )
        assert abs(k.median() - 0.84) < 0.15

    def test_pieces_of_draws_give_what_all_at_once_do(self) -> None:
        log_weights = (
            torch.randn(1003, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            * 2
        )
        running = RunningWeights(1003)
        for piece in log_weights.split(100):
            running.update(piece)
        values, k, error = running.summary()
        w = log_weights.exp()
        assert torch.allclose(values, w.mean(0).log())
        assert torch.allclose(k, pareto_k(log_weights))
        assert torch.allclose(error, w.std(0, correction=0) / w.mean(0) / math.sqrt(1003))
        assert len(running.largest) == tail_size(1003) + 1

    def test_is_zero_for_equal_weights_and_unknown_for_too_few(self) -> None:
        assert pareto_k(torch.full((100, 2), -3.0)).tolist() == [0.0, 0.0]
        assert pareto_k(torch.arange(10.0)[:, None]).tolist() == [math.inf]


def test_a_block_on_a_gpu_is_as_small_as_images_are_large() -> None:
    """Never more than 2^26 numbers in the widest activation; a device without memory stands in."""
    for shape, rows in (((784,), 200_000), ((3, 512, 512), 341), ((2**14, 2**13), 2)):
        vae = torch.nn.Linear(1, 1, device="meta")
        vae.config = VAEConfig(shape, 2, (5,))  # type: ignore[assignment]
        assert decoder_rows(vae) == rows  # type: ignore[arg-type]


class TestRewrites:
    def test_a_product_of_factors_holds_the_sum_of_their_logarithms(self) -> None:
        """Logits so large either way that a naive product of exponentials overflows."""
        logits = torch.linspace(-200, 200, 1600).repeat(3, 1)
        x = torch.rand(3, 1600, generator=torch.Generator().manual_seed(0))
        expected = -torch.nn.functional.binary_cross_entropy_with_logits(
            logits.double(), x.double(), reduction="none"
        )
        found = bernoulli_log_prob(logits, x, [3, 1600], 16)
        assert torch.allclose(found.double(), expected.sum(-1), rtol=1e-6)

    def test_each_form_is_put_in_where_it_belongs(self) -> None:
        vae = build(VAEConfig(event_shape=(4, 16), latent_size=2, hidden_sizes=(8,)), seed=0)
        module, x = LogWeights(vae, 5), torch.zeros(1, 4, 16)
        state = dict(module.named_parameters()) | dict(module.named_buffers())
        with torch.no_grad(), local_parameters():
            graph = record(
                lambda *t: functional_call(module, dict(zip(state, t)), t[-1]), [*state.values(), x]
            )
        before, after = (
            [str(node.target) for node in each.graph.nodes] for each in (graph, rewritten(graph))
        )
        forms = [
            sum(f"function {form} " in name for name in after)
            for form in ("tanh", "addmm", "bernoulli_log_prob")
        ]
        assert forms == [2, 4, 1]
        assert not any("cross_entropy" in name for name in after)
        assert any(
            "cross_entropy" in name for name in before
        )  # what runs without a compiler is left as it was


class TestMeasures:
    def test_reconstruction_error_of_mean_and_draws(self) -> None:
        """||x - W m - b||^2, plus the trace of W (c v)^2 W' over draws: 1 % for 200 data x 2000
        draws is 5 sigma.
        """
        truth = linear_gaussian("conservative")
        x = truth.draw(200)
        residual = (x - truth.posterior_mean(x) @ truth.weight.T - truth.bias).square().sum(1)
        spread = truth.q_scale**2 * (truth.weight.square().sum(0) * truth.posterior_variance).sum()
        assert torch.allclose(reconstruction_error(truth.vae, x).double(), residual, rtol=1e-4)
        sampled = reconstruction_error(truth.vae, x, 2000, seed=0).double().mean()
        assert sampled == pytest.approx((residual.mean() + spread).item(), rel=0.01)

    def test_active_units_are_those_whose_posterior_mean_moves_with_x(self) -> None:
        truth = linear_gaussian("exact", latent_size=3)
        x = truth.draw(300)
        with torch.no_grad():
            truth.vae.guide.posterior.heads.weight[1] *= 0.05
        assert active_units(truth.vae, x).tolist() == [True, False, True]
        variance = truth.posterior_mean(x).var(0)
        assert active_units(truth.vae, x, threshold=variance[0].item() * 1.01).tolist() == [
            False,
            False,
            False,
        ]
