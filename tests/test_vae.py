"""The pair of programs as a user meets it: build, encode, decode, sample, reconstruct, against the
exact posterior.

Knows `vae.py` and the linear-Gaussian truth; must not know estimators or training.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from ppl_vae.checks import InputError
from ppl_vae.vae import VAEConfig, build, evaluating
from tests.examples import PRIORS, pixels, tiny
from tests.truths import linear_gaussian


class TestAgainstTheExactPosterior:
    def test_encode_is_the_posterior_mean(self):
        truth = linear_gaussian("exact")
        x = truth.draw(5)
        torch.testing.assert_close(
            truth.vae.encode(x).double(), truth.posterior_mean(x), rtol=1e-5, atol=1e-5
        )

    def test_draws_have_the_posteriors_moments(self):
        """20,000 draws: means within 5 standard errors, variances within 8 %; fails by chance once
        in 10,000.
        """
        truth = linear_gaussian("exact")
        x = truth.draw(3)
        torch.manual_seed(0)
        z = truth.vae.encode(x, num_samples=20_000).double()
        assert z.shape == (20_000, 3, 2)
        error = truth.posterior_variance.sqrt() / math.sqrt(20_000)
        assert ((z.mean(0) - truth.posterior_mean(x)).abs() < 5 * error).all()
        torch.testing.assert_close(
            z.var(0), truth.posterior_variance.expand(3, 2), rtol=0.08, atol=0
        )

    def test_decode_is_the_linear_map_and_its_noise(self):
        truth = linear_gaussian("exact")
        z = torch.randn(4, 7, 2)
        x = truth.vae.decode(z)
        assert (x.batch_shape, x.event_shape) == ((4, 7), (5,))
        torch.testing.assert_close(
            x.mean.double(), z.double() @ truth.weight.T + truth.bias, rtol=1e-4, atol=1e-4
        )
        assert x.variance.sqrt().unique().item() == pytest.approx(truth.scale, rel=1e-5)

    def test_samples_have_the_marginals_moments(self):
        """x ~ N(b, W W' + s^2 I): 40,000 draws; covariances within 0.06, five standard errors of
        the largest.
        """
        truth = linear_gaussian("exact")
        torch.manual_seed(0)
        x = truth.vae.sample(40_000).double()
        covariance = truth.weight @ truth.weight.T + truth.scale**2 * torch.eye(
            5, dtype=torch.float64
        )
        torch.testing.assert_close(x.mean(0), truth.bias, rtol=0, atol=0.04)
        torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.06)
        means = truth.vae.sample(40_000, mean=True).double()
        torch.testing.assert_close(means.T.cov(), truth.weight @ truth.weight.T, rtol=0, atol=0.06)

    def test_reconstruct_is_the_mean_at_the_posterior_mean(self):
        truth = linear_gaussian("exact")
        x = truth.draw(5)
        expected = truth.posterior_mean(x) @ truth.weight.T + truth.bias
        torch.testing.assert_close(
            truth.vae.reconstruct(x).double(), expected, rtol=1e-4, atol=1e-4
        )

    def test_decode_is_differentiable_in_z(self):
        truth = linear_gaussian("exact")
        z = torch.zeros(2, requires_grad=True)
        (gradient,) = torch.autograd.grad(truth.vae.decode(z).mean[0], [z])
        torch.testing.assert_close(gradient.double(), truth.weight[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_posterior_mean_of_any_family_is_that_of_many_draws(prior):
    """100,000 draws: 6 standard errors, plus that of the 256 draws by which a simplex has to be
    averaged.
    """
    vae, x = tiny(PRIORS[prior], latent_size=3), pixels(3)
    torch.manual_seed(0)
    draws = vae.encode(x, num_samples=100_000)
    own = math.sqrt(1 / 256) if prior == "dirichlet" else 0.0
    error = draws.std(0) * math.hypot(1 / math.sqrt(100_000), own)
    assert ((vae.encode(x) - draws.mean(0)).abs() < 6 * error + 1e-5).all()


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_encodes_decodes_and_samples(prior):
    vae, x = tiny(PRIORS[prior]), pixels(3)
    assert vae.encode(x).shape == (3, 2) and vae.encode(x, num_samples=4).shape == (4, 3, 2)
    assert vae.sample(5).shape == (5, 6) and set(vae.sample(50).unique().tolist()) == {0.0, 1.0}
    assert vae.reconstruct(x).shape == (3, 6) and vae.sample(5, mean=True).shape == (5, 6)


class TestModes:
    def test_encode_decode_and_sample_evaluate_and_leave_each_modules_mode(self):
        vae = tiny(event_shape=(8, 8), network="conv").train()
        vae.guide.eval()
        modes = [m.training for m in vae.modules()]
        before = {n: v.clone() for n, v in vae.state_dict().items()}
        x = pixels(4, (8, 8))
        together, alone = vae.encode(x), torch.cat([vae.encode(row[None]) for row in x])
        torch.testing.assert_close(
            together, alone, rtol=1e-4, atol=1e-5
        )  # no statistics of the batch itself
        vae.sample(3), vae.reconstruct(x), vae.decode(torch.zeros(3, 2))
        assert [m.training for m in vae.modules()] == modes
        assert all(torch.equal(before[n], v) for n, v in vae.state_dict().items())

    def test_evaluating_puts_modes_back_after_an_error(self):
        vae = tiny().train()
        with pytest.raises(RuntimeError), evaluating(vae):
            assert not vae.model.training
            raise RuntimeError
        assert vae.model.training

    def test_a_batch_stands_for_num_data_in_training_and_for_itself_in_evaluation(self):
        vae, x = tiny(num_data=100), pixels(10)
        scales = []
        for mode in (True, False):
            vae.train(mode)
            trace = pyro.poutine.trace(vae.model).get_trace(x)
            scales.append(trace.nodes["x"]["scale"])
        assert scales == [10.0, 1.0]


class TestBuild:
    def test_a_seed_fixes_the_parameters_and_leaves_the_global_generator(self):
        state = torch.get_rng_state()
        first, again, other = tiny(seed=0), tiny(seed=0), tiny(seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        pairs = list(zip(first.parameters(), again.parameters(), other.parameters()))
        assert all(torch.equal(a, b) for a, b, _ in pairs) and not all(
            torch.equal(a, c) for a, _, c in pairs
        )

    def test_without_a_seed_the_global_generator_decides(self):
        torch.manual_seed(3)
        first = tiny(seed=None)
        torch.manual_seed(3)
        again = tiny(seed=None)
        assert all(map(torch.equal, first.parameters(), again.parameters()))

    def test_the_configuration_remembers_what_a_later_process_can_find(self, tmp_path, monkeypatch):
        assert tiny(PRIORS["laplace"]).config.prior == "tests.examples:laplace"
        assert tiny(lambda: PRIORS["laplace"](2)).config.prior == "custom"
        assert tiny().config.prior == "standard_normal"
        (tmp_path / "mine.py").write_text("from tests.examples import laplace\n")
        monkeypatch.chdir(tmp_path)
        vae = build(VAEConfig((6,), 2, (5,), prior="mine.py:laplace"))
        assert vae.config.prior == f"{tmp_path / 'mine.py'}:laplace"

    def test_options_reach_a_users_prior_and_latent_size_is_offered(self):
        def prior(latent_size, width, shift=0.0):
            return pyro.sample("z", dist.Normal(shift * torch.ones(latent_size), width).to_event(1))

        vae = build(
            VAEConfig((6,), 3, (5,), prior_options={"width": 0.1, "shift": 5.0}), prior=prior
        )
        with pyro.plate("draws", 1000):
            z = vae.model.prior()
        assert z.shape == (1000, 3) and abs(z.mean() - 5) < 0.02 and abs(z.std() - 0.1) < 0.01

    def test_a_copy_is_independent(self):
        vae = tiny()
        copied = copy.deepcopy(vae)
        with torch.no_grad():
            for p in copied.parameters():
                p.add_(1.0)
        assert not any(torch.equal(a, b) for a, b in zip(vae.parameters(), copied.parameters()))
        assert copied.encode(pixels(2)).shape == (2, 2)

    def test_a_configuration_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            tiny().config.latent_size = 3

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"event_shape": (6, 0)}, "event_shape[1]: got 0"),
            (
                {"event_shape": 6.0},
                "event_shape: got 6.0, expected a sequence of positive integers",
            ),
            ({"latent_size": True}, "latent_size: got True"),
            ({"hidden_sizes": "500"}, "hidden_sizes: got '500'"),
            ({"activation": "tan"}, "did you mean 'tanh'?"),
            ({"likelihood": "normal"}, "likelihood: got 'normal'"),
            ({"network": "cnn"}, "network: got 'cnn'"),
            ({"init": "he"}, "init: got 'he'"),
            ({"prior": "standard_norml"}, "did you mean 'standard_normal'?"),
            ({"posterior": "diagonal"}, "did you mean 'diagonal_normal'?"),
            ({"prior_options": ["a"]}, "prior_options: got ['a'], expected a mapping"),
            ({"network_options": {"droput": 0.1}}, "did you mean 'dropout'?"),
            (
                {"event_shape": (8, 8), "network": "conv", "network_options": {"batch_norm": "no"}},
                "batch_norm: got 'no'",
            ),
            (
                {"likelihood_options": {"mean": "sigmoid"}},
                "option of likelihood Bernoulli: got 'mean', expected no option",
            ),
        ],
    )
    def test_bad_fields_are_refused_in_one_line(self, fields, message):
        with pytest.raises(InputError) as error:
            tiny(**fields)
        assert message in str(error.value) and "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda vae: vae.encode(torch.zeros(3, 5)), "x's shape: got (3, 5), expected (N, 6)"),
            (lambda vae: vae.encode(torch.zeros(3, 6), num_samples=0), "num_samples: got 0"),
            (lambda vae: vae.encode(torch.full((3, 6), math.inf)), "NaN or infinite"),
            (
                lambda vae: vae.decode(torch.zeros(3)),
                "z's shape: got (3,), expected a tensor (*, 2), the latent_size",
            ),
            (lambda vae: vae.decode([0.0, 0.0]), "z's shape: got list, expected a tensor (*, 2)"),
            (lambda vae: vae.sample(0), "num_samples: got 0"),
            (lambda vae: vae.reconstruct([0.0] * 6), "expected a torch.Tensor"),
        ],
    )
    def test_bad_arguments_are_refused_in_one_line(self, call, message):
        with pytest.raises(InputError) as error:
            call(tiny())
        assert message in str(error.value) and "\n" not in str(error.value)


def test_bytes_are_pixels_everywhere():
    vae, x = tiny(), (pixels(3) * 255).to(torch.uint8)
    assert torch.equal(vae.encode(x), vae.encode(x.float() / 255))
    assert torch.equal(vae.reconstruct(x), vae.reconstruct(x.float() / 255))


def test_a_module_given_as_prior_is_part_of_the_model():
    class Shifted(nn.Module):
        def __init__(self, latent_size):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(latent_size))

        def forward(self):
            return pyro.sample("z", dist.Normal(self.shift, 1.0).to_event(1))

    vae = tiny(Shifted)
    assert "model.prior.shift" in dict(vae.named_parameters()) and vae.model.prior.shift.shape == (
        2,
    )


@pytest.mark.parametrize("posterior", ["diagonal_normal", "iaf", "implicit"])
def test_encode_holds_the_draws_of_a_bounded_number_of_data(
    posterior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = build(VAEConfig((4,), 2, (3,), posterior=posterior), seed=0)
    x, seen = torch.rand(1203, 4), []
    monkeypatch.setattr(vae.guide.posterior, "forward", _counted(vae.guide.posterior.forward, seen))
    torch.manual_seed(0)
    z = vae.encode(x)
    assert z.shape == (1203, 2) and seen == [500, 500, 203]
    torch.manual_seed(0)
    assert torch.equal(vae.encode(x[:500]), z[:500])


def _counted(
    forward: Callable[[torch.Tensor], Any], seen: list[int]
) -> Callable[[torch.Tensor], Any]:
    def counted(x: torch.Tensor) -> Any:
        seen.append(len(x))
        return forward(x)

    return counted


def opens_its_plate(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


@pytest.mark.parametrize("posterior", [None, opens_its_plate])
@pytest.mark.parametrize("part", ["model", "guide"])
def test_a_plate_of_ones_own_at_the_data_s_place_is_refused_and_left_of_it_is_right(
    part: str, posterior: Any
) -> None:
    """At dim -1 each datum would be counted once for each index; at -2 draws are a further dim."""
    vae, x = tiny(None, posterior), pixels(7)
    program = getattr(vae, part)
    site = "x" if part == "model" else "z"
    for size in (7, 1, 3):
        with pytest.raises(ValueError, match="collide at dim=-1"), pyro.plate("own", size, dim=-1):
            program(x)
    with pyro.plate("own", 4, dim=-2):
        trace = poutine.trace(program).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes[site]["log_prob"].expand(4, 7).numel() == 28


def test_encode_of_a_flow_over_several_sites_averages_its_own_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each of 100 draws of what z depends on it made 256 more: ten GiB for 180 digits."""
    shapes: list[Any] = []
    sample = dist.TransformedDistribution.sample

    def counted(self: Any, sample_shape: Any = ()) -> torch.Tensor:
        shapes.append(tuple(sample_shape))
        return sample(self, torch.Size(sample_shape))

    vae = build(VAEConfig((6,), 2, (5,), prior="two_level", posterior="iaf"), seed=0)
    monkeypatch.setattr(dist.TransformedDistribution, "sample", counted)
    assert vae.encode(torch.rand(7, 6)).shape == (7, 2) and (256,) not in shapes
