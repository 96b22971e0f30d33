"""Likelihoods of categories, grey levels and tables of mixed columns, against what is written out.

Knows the package's face, the command line and scipy's distributions.
"""

import math
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from ppl_vae import InputError, VAEConfig, build, fit, load, load_data, log_likelihood
from ppl_vae.cli import main
from ppl_vae.diagnostics import to_inference_data
from ppl_vae.distributions import Codes, DiscretizedLogistic
from ppl_vae.likelihoods import build_likelihood

QUIET = {"epochs": 2, "batch_size": 20, "progress": False, "compile": "off"}
KINDS = ["real", "categorical:3", "positive", "count", "binary"]
LEVELS = torch.arange(256.0) / 255


def rows(num_data: int = 60) -> Tensor:
    """Rows of a table with these kinds of columns."""
    torch.manual_seed(0)
    columns = [
        torch.randn(num_data),
        torch.randint(0, 3, (num_data,)).float(),
        torch.rand(num_data) + 0.1,
        torch.poisson(torch.full((num_data,), 3.0)),
        torch.rand(num_data).round(),
    ]
    return torch.stack(columns, -1)


def table(seed: int = 0):
    options = {"columns": KINDS}
    config = VAEConfig((5,), 2, (8,), likelihood="columns", likelihood_options=options)
    return build(config, seed=seed)


def test_a_code_has_the_softmax_of_its_logit() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0])
    expected = logits.softmax(0)
    head = build_likelihood("categorical", (2,), {"categories": 3})
    outputs = torch.stack([logits, logits.flip(0)], -1)
    for first in range(3):
        for second in range(3):
            x = torch.tensor([float(first), float(second)])
            right = expected[first].log() + expected[2 - second].log()
            assert head(outputs).log_prob(x).item() == pytest.approx(right.item(), abs=1e-5)
    q = Codes(logits=logits)
    assert q.mean.item() == pytest.approx((expected[1] + 2 * expected[2]).item())
    assert q.variance.item() == pytest.approx(
        (expected[1] + 4 * expected[2]).item() - q.mean.item() ** 2, rel=1e-5
    )


@pytest.mark.parametrize(("location", "scale"), [(0.4, 0.05), (-0.3, 0.1), (1.2, 0.02), (0.5, 9.0)])
def test_grey_levels_have_the_logistic_of_their_interval(location: float, scale: float) -> None:
    """scipy's own distribution function, the first and the last level with the tails."""
    logistic = stats.logistic(location, scale)
    edges = (np.arange(1, 256) - 0.5) / 255
    below = np.concatenate([[0.0], logistic.cdf(edges), [1.0]])
    expected = np.diff(below)
    one = torch.tensor(1.0, dtype=torch.float64)
    q = DiscretizedLogistic(location * one, scale * one)
    found = q.log_prob(LEVELS.double()).exp()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-12)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-6)
    levels = np.arange(256) / 255
    assert q.mean.item() == pytest.approx((levels * expected).sum(), abs=1e-9)
    second = (levels**2 * expected).sum()
    assert q.variance.item() == pytest.approx(second - q.mean.item() ** 2, abs=1e-9)


def test_a_level_far_in_a_tail_keeps_its_logarithm() -> None:
    """There sigma(a) - sigma(b) is 0 in any precision; log P = a + log(1 - exp(b - a)) is not."""
    scale = torch.tensor(1e-4)
    value = torch.tensor(100 / 255)
    upper = (100.5 / 255 - 1.0) / 1e-4
    expected = upper + math.log(-math.expm1(-1 / 255 / 1e-4))
    found = DiscretizedLogistic(torch.tensor(1.0), scale).log_prob(value)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_bytes_and_their_shares_of_255_are_the_same_grey_levels() -> None:
    x = torch.randint(0, 256, (40, 3, 3), dtype=torch.uint8)
    config = VAEConfig((3, 3), 2, (8,), likelihood="discretized_logistic")
    found = [log_likelihood(build(config, seed=0), each, 20, seed=0) for each in (x, x / 255)]
    assert torch.equal(found[0].values, found[1].values)
    assert (found[0].values < 0).all()  # of a probability
    draws = build(config, seed=0).sample(50)
    assert torch.equal((draws * 255).round() / 255, draws)


def test_a_row_is_the_sum_of_its_columns() -> None:
    x = rows(7).double()
    head = build_likelihood("columns", (5,), {"columns": KINDS})
    maps = torch.randn(7, head.num_outputs, 5, dtype=torch.float64)
    first, second = maps[:, 0], maps[:, 1]
    scale = torch.nn.functional.softplus(second) + 1e-4
    codes = dist.Categorical(logits=maps[:, :3, 1])
    expected = (
        dist.Normal(first[:, 0], scale[:, 0]).log_prob(x[:, 0])
        + codes.log_prob(x[:, 1])
        + dist.LogNormal(first[:, 2], scale[:, 2]).log_prob(x[:, 2])
        + dist.NegativeBinomial(first[:, 3].exp(), logits=second[:, 3]).log_prob(x[:, 3])
        + dist.Bernoulli(logits=first[:, 4]).log_prob(x[:, 4])
    )
    q = head(maps)
    torch.testing.assert_close(q.log_prob(x), expected)
    assert q.mean.shape == q.variance.shape == (7, 5) and q.sample().shape == (7, 5)
    assert q.expand((4, 7)).log_prob(x).shape == (4, 7)
    torch.testing.assert_close(q.mean[:, 4], first[:, 4].sigmoid())
    assert head.support.check(q.sample((100,))).all()


@pytest.mark.parametrize("likelihood", ["categorical", "columns"])
@pytest.mark.parametrize("estimator", ["A", "B"])
def test_a_recorded_step_is_the_eager_one(likelihood: str, estimator: str) -> None:
    options = {"categories": 3} if likelihood == "categorical" else {"columns": KINDS}
    x = rows()
    if likelihood == "categorical":
        x = x[:, 1:2].expand(-1, 5).contiguous()
    config = VAEConfig((5,), 2, (8,), likelihood=likelihood, likelihood_options=options)
    fitted = {}
    for tier in ("off", "record"):
        vae = build(config, seed=0)
        history = fit(vae, x, **{**QUIET, "compile": tier, "estimator": estimator})
        assert history.tier == tier
        fitted[tier] = list(vae.parameters())
    assert all(torch.equal(a, b) for a, b in zip(fitted["off"], fitted["record"], strict=True))


def test_log_p_of_a_table_is_one_number_whatever_estimates_it() -> None:
    """Quadrature over two latents, importance sampling and annealing, within 0.05 nats a row."""
    vae, x = table(), rows()
    fit(vae, x, epochs=30, batch_size=20, learning_rate=0.01, progress=False, compile="record")
    exact = log_likelihood(vae, x[:5], method="quadrature", seed=0).values
    for method in ("importance", "annealed"):
        found = log_likelihood(vae, x[:5], 500, method=method, seed=0).values
        torch.testing.assert_close(found, exact, rtol=0, atol=0.05)


def test_what_a_column_cannot_hold_is_refused_by_its_name() -> None:
    for column, value, words in (
        (1, 3.0, r"column 1 .*outside whole numbers in \[0, 2\] from row 4"),
        (2, -1.0, "column 2 .*outside numbers above 0 from row 4"),
        (3, 0.5, "column 3 .*outside whole numbers of at least 0 from row 4"),
        (4, 2.0, r"column 4 .*outside \{0, 1\} from row 4"),
    ):
        x = rows()
        x[4, column] = value
        with pytest.raises(InputError, match=words):
            fit(table(), x, **QUIET)


def test_integer_tables_are_numbers_and_no_grey_levels() -> None:
    x = rows()
    x[:, 0] = x[:, 0].round().abs()
    x[:, 2] = x[:, 2].ceil()
    found = [log_likelihood(table(), x.to(kind), 20, seed=0).values for kind in KINDS_OF_NUMBERS]
    assert all(torch.equal(found[0], other) for other in found[1:])


KINDS_OF_NUMBERS = [torch.float32, torch.uint8, torch.int64]


@pytest.mark.parametrize(
    ("likelihood", "options", "shape", "words"),
    [
        ("categorical", {}, (3,), "categories: got none, expected the number of categories"),
        ("categorical", {"categories": 1}, (3,), "an integer >= 2"),
        ("columns", {}, (3,), "columns: got none, expected the kinds"),
        ("columns", {"columns": ["real"]}, (3,), r"1 kinds for event_shape \(3,\)"),
        ("columns", {"columns": ["real", "raal"]}, (2,), r"columns\[1\].*did you mean 'real'"),
        ("columns", {"columns": ["categorical:1"]}, (1,), "K >= 2"),
        ("columns", {"columns": ["real"] * 4}, (2, 2), "of a table"),
    ],
)
def test_what_cannot_be_built_is_refused(
    likelihood: str, options: dict, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words) as error:
        build(VAEConfig(shape, likelihood=likelihood, likelihood_options=options))
    assert "\n" not in str(error.value)


def test_predictive_draws_of_whole_numbers_are_integers() -> None:
    """Which `az.plot_ppc` needs to draw them as such; a table with a real column has floats."""
    config = VAEConfig((5,), 2, (8,), likelihood="poisson")
    x = rows()[:, 3:4].expand(-1, 5).contiguous()
    found = to_inference_data(build(config, seed=0), x[:4], 10)
    assert found.posterior_predictive.x.dtype == found.observed_data.x.dtype == np.int64
    mixed = to_inference_data(table(), rows(4), 10)
    assert mixed.posterior_predictive.x.dtype == np.float32
    whole = mixed.posterior_predictive.x.values[..., [1, 3, 4]]
    assert (whole == np.round(whole)).all() and whole.max() > 1


class TestCommandLine:
    @pytest.mark.parametrize(
        ("words", "maximum"),
        [("categorical --likelihood.categories 3", 2), ("poisson", 30), ("bernoulli", 255)],
    )
    def test_bytes_of_a_file_are_numbers_where_the_likelihood_counts(
        self, words: str, maximum: int, tmp_path: Path
    ) -> None:
        x = np.random.RandomState(0).randint(0, maximum + 1, (100, 4)).astype(np.uint8)
        np.save(tmp_path / "x.npy", x)
        run = str(tmp_path / "run")
        given = f"train --data {tmp_path / 'x.npy'} --split ordered --out {run} --epochs 2"
        given += f" --likelihood {words} --latent-size 2 --hidden-sizes 8 --no-progress"
        assert main(given.split()) == 0
        assert main(["evaluate", run, "--num-samples", "20", "--no-progress"]) == 0
        assert main(["train", "--resume", run, "--epochs", "3", "--no-progress"]) == 0
        largest = load(run).sample(200).max().item()
        assert largest == 1 if "bernoulli" in words else largest > 1

    def test_a_table(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", rows(100).numpy())
        run = str(tmp_path / "run")
        given = f"train --data {tmp_path / 'x.npy'} --out {run} --epochs 2 --no-progress"
        given += f" --likelihood columns --likelihood.columns {','.join(KINDS)} --latent-size 2"
        assert main(given.split()) == 0
        assert load(run).sample(3).shape == (3, 5)

    def test_binary_bytes_are_data_without_grey_levels(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.eye(20, dtype=np.uint8))
        with pytest.raises(InputError, match="all but black"):
            load_data(str(tmp_path / "x.npy"))
        data = load_data(str(tmp_path / "x.npy"), grey=False)
        assert data.train.max() == 1
