"""Corruption of what a guide sees, and KL weights that meet a constraint.

Knows the linear-Gaussian truths; must not know how a handler reaches the guide. Statistical tests
fix their seeds.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from truths import linear_gaussian

from ppl_vae import InputError, VAEConfig, build, fit, load
from ppl_vae.elbo import estimator_from
from ppl_vae.handlers.corruption import CORRUPTIONS, Corruption, evidence
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.training.objective import Objective, StepValues
from ppl_vae.training.schedules import Constrained, schedule

LIMIT = 4.5  # standard errors: passed by chance by 7 of a million


def corrupted(kind: str, level: float, x: Tensor) -> Tensor:
    """What a guide would see of x."""
    with torch.random.fork_rng(), Corruption(kind, level):
        torch.manual_seed(0)
        return evidence(x)


class TestCorruption:
    """Counts of 40,000 pixels; each fails by chance less than once in 10,000 seeds."""

    def test_salt_and_pepper_sets_a_share_of_the_pixels_evenly_to_0_and_1(self) -> None:
        seen = corrupted("salt_and_pepper", 0.3, torch.full((200, 200), 0.5))
        for value, share in ((0.0, 0.15), (1.0, 0.15), (0.5, 0.7)):
            assert abs((seen == value).float().mean() - share) < LIMIT * math.sqrt(
                share * (1 - share) / 40_000
            )

    def test_masking_sets_a_share_to_0(self) -> None:
        seen = corrupted("masking", 0.3, torch.ones(200, 200))
        assert set(seen.unique().tolist()) == {0.0, 1.0}
        assert abs((seen == 0).float().mean() - 0.3) < LIMIT * math.sqrt(0.21 / 40_000)

    def test_normal_noise_has_the_deviation_asked_for(self) -> None:
        noise = corrupted("normal", 0.2, torch.ones(200, 200)) - 1
        assert abs(noise.mean()) < LIMIT * 0.2 / 200
        assert noise.std().item() == pytest.approx(0.2, rel=0.02)

    @pytest.mark.parametrize("kind", CORRUPTIONS)
    def test_level_0_is_no_corruption(self, kind: str) -> None:
        x = torch.rand(5, 4)
        assert torch.equal(corrupted(kind, 0.0, x), x)

    def test_without_the_handler_data_are_seen_as_they_are(self) -> None:
        x = torch.rand(5, 4)
        assert evidence(x) is x

    def test_the_bound_is_the_likelihood_less_the_exact_cost_of_the_noise(self) -> None:
        """Mean shift of q under noise of deviation c: KL = c^2/2 sum_j v_j^2 |W_j|^2 / s^4,
        exactly.

        4000 copies; fails by chance less than once in 10,000 seeds. Were the likelihood's x
        corrupted too, or the guide's left clean, the bound would be tens of standard errors away.
        """
        truth = linear_gaussian("exact")
        x, level = truth.draw(4), 0.3
        cost = (
            0.5
            * level**2
            * (truth.posterior_variance * truth.weight.square().sum(0)).sum()
            / truth.scale**4
        )
        truth.vae.train()
        with (
            torch.no_grad(),
            local_parameters(),
            torch.random.fork_rng(),
            Corruption("normal", level),
        ):
            torch.manual_seed(0)
            terms = estimator_from("A").terms(truth.vae.model, truth.vae.guide, x.repeat(4000, 1))
        gap = truth.log_likelihood(x) - terms.lower_bound.reshape(4000, 4)
        assert ((gap.mean(0) - cost) / (gap.std(0) / math.sqrt(len(gap)))).abs().max() < LIMIT

    def test_evaluation_sees_clean_data(self) -> None:
        truth = linear_gaussian("exact")
        x = truth.draw(4)
        with torch.no_grad(), local_parameters():
            objective = Objective("A", 1, "normal")
            programs = truth.vae.model, truth.vae.guide
            _, report = objective(*programs, x, StepValues(corruption_level=9.0))
        assert report["lower_bound"].item() == pytest.approx(
            truth.log_likelihood(x).mean().item(), abs=1e-4
        )


def pixels() -> Tensor:
    """Binary data, (60, 6), whose pixels depend on one another."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(60, 2, generator=generator) @ torch.randn(2, 6, generator=generator) > 0
    ).float()


def run(compile: str = "record", **settings: Any) -> tuple[Any, Any]:
    """(vae, history) of a small run."""
    vae = build(VAEConfig((6,), 2, (8,)), seed=0)
    return vae, fit(
        vae,
        pixels(),
        **{"batch_size": 20, "epochs": 3, **settings},
        compile=compile,
        progress=False,
    )


class TestScheduledDenoising:
    @pytest.mark.parametrize("kind", CORRUPTIONS)
    def test_a_recorded_run_follows_the_schedule_bit_for_bit(self, kind: str) -> None:
        settings = {"corruption": kind, "corruption_level": "linear:0.4:0:3"}
        (eager, first), (recorded, second) = (run(tier, **settings) for tier in ("off", "record"))
        assert [row["corruption_level"] for row in first.rows] == pytest.approx(
            [0.4 * 2 / 3, 0.4 / 3, 0.0]
        )
        states = eager.state_dict(), recorded.state_dict()
        assert second.tier == "record"
        assert [
            name for name in states[0] if not torch.equal(states[0][name], states[1][name])
        ] == []

    def test_a_level_changes_the_run_and_no_corruption_ignores_it(self) -> None:
        weights = [
            run(**settings)[0].model.decoder.network[0].weight
            for settings in (
                {},
                {"corruption_level": 0.4},
                {"corruption": "masking", "corruption_level": 0.4},
            )
        ]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_an_unknown_kind_is_refused(self) -> None:
        with pytest.raises(
            InputError, match=r"corruption.*one of salt_and_pepper, normal, masking"
        ):
            run(corruption="salt")


class TestConstrained:
    @pytest.mark.parametrize(("term", "bound"), [("kl", 0.7), ("reconstruction", -2.5)])
    def test_a_run_meets_its_constraint(self, term: str, bound: float) -> None:
        _, free = run(epochs=200, learning_rate=0.01)
        _, history = run(epochs=200, learning_rate=0.01, kl_weight=f"constrained:{term}:{bound}")
        name = "kl.z" if term == "kl" else "reconstruction"
        last = [sum(row[name] for row in each.rows[-20:]) / 20 for each in (free, history)]
        assert abs(last[0] - bound) > 0.3  # met by the constraint, not by chance
        assert last[1] == pytest.approx(bound, abs=0.1)

    def test_the_weight_rises_with_too_much_kl_and_with_too_good_a_reconstruction(self) -> None:
        for term, high, low in (("kl", 30.0, 10.0), ("reconstruction", -50.0, -150.0)):
            weights = []
            for value in (high, low):
                constraint = Constrained(term, 20.0 if term == "kl" else -100.0)
                for _ in range(100):
                    constraint.observe({"kl.z": value, "reconstruction": value})
                weights.append(constraint(0.0))
            assert weights[0] > 1 > weights[1]

    def test_a_resumed_run_equals_one_never_stopped(self, tmp_path: Path) -> None:
        settings = {"kl_weight": "constrained:kl:1", "learning_rate": 0.01}
        whole, _ = run(**settings, epochs=6)
        run(**settings, epochs=3, checkpoint=tmp_path)
        run(**settings, epochs=6, checkpoint=tmp_path, resume=True)
        states = whole.state_dict(), load(tmp_path).state_dict()
        assert [
            name for name in states[0] if not torch.equal(states[0][name], states[1][name])
        ] == []

    @pytest.mark.parametrize(
        "text", ["constrained", "constrained:kl", "constrained:kl:-1", "constrained:elbo:3"]
    )
    def test_a_constraint_without_a_term_and_a_bound_is_refused(self, text: str) -> None:
        with pytest.raises(
            InputError, match="'constrained:kl:NATS' or 'constrained:reconstruction:NATS'"
        ):
            schedule("kl_weight", text)

    def test_only_the_kl_weight_can_be_learned(self) -> None:
        with pytest.raises(InputError, match="learning_rate"):
            schedule("learning_rate", "constrained:kl:20")
