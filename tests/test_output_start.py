"""Where the decoder's outputs start: at what the data say, whatever unit x is in.

Knows the package's face and the likelihoods; each start is held against the data's own moments.
"""

import math
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae import InputError, VAEConfig, build, fit, load, lower_bound, save
from ppl_vae.cli import main

QUIET = {"batch_size": 50, "progress": False}


def numbers(num_data: int = 300) -> Tensor:
    """Rows (N, 4) of two factors and noise, mean 0 and standard deviation 1 in each column."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(num_data, 2, generator=generator, dtype=torch.float64)
    loadings = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_data, 4, generator=generator, dtype=torch.float64)
    x = factors @ loadings + 0.3 * noise
    return (x - x.mean(0)) / x.std(0, correction=0)


def config(likelihood: str, event_size: int = 4, **fields: Any) -> VAEConfig:
    return VAEConfig((event_size,), 2, (10,), likelihood=likelihood, **fields)


def data_of(likelihood: str) -> Tensor:
    return (0.5 * numbers()).exp() if likelihood in ("log_normal", "positive") else numbers()


CASES = ["normal_shared", "normal_optimal", "normal_pixelwise", "student_t", "log_normal"]
TABLES = ["real", "positive"]


def settings(case: str) -> VAEConfig:
    if case in TABLES:
        return config("columns", likelihood_options={"columns": [case] * 4})
    return config(case)


@pytest.mark.parametrize(
    ("case", "compile"), [*((case, "off") for case in [*CASES, *TABLES]), ("real", "record")]
)
def test_a_run_is_the_same_in_any_unit(case: str, compile: str) -> None:
    """The bound of x in another unit u is lower by log u an entry; a shift changes nothing."""
    x = data_of(case)
    shifts = (0.0,) if x.min() > 0 else (0.0, 3.0)
    bounds = []
    for unit, shift in [(1.0, 0.0)] + [(u, s) for u in (1e-3, 1e6) for s in shifts]:
        vae = build(settings(case), seed=0)
        moved = (unit * (x + shift)).float()
        fit(vae, moved, epochs=3, compile=compile, **QUIET)
        bound = lower_bound(vae, moved, seed=0).mean().item()
        bounds.append(bound / 4 + math.log(unit))
    assert max(bounds) - min(bounds) < 2e-3


def test_columns_of_several_units_are_the_standardised_ones() -> None:
    x, positive = numbers(), data_of("log_normal")
    plain = torch.stack([x[:, 0], x[:, 1], positive[:, 2], positive[:, 3]], -1)
    units = torch.tensor([1e-3, 1e6, 1e6, 1e-3], dtype=torch.float64)
    options = {"columns": ["real", "real", "positive", "positive"]}
    bounds = []
    for moved in (plain, plain * units):
        vae = build(config("columns", likelihood_options=options), seed=0)
        fit(vae, moved.float(), epochs=3, compile="off", **QUIET)
        bounds.append(lower_bound(vae, moved.float(), seed=0).mean().item())
    assert bounds[1] + units.log().sum().item() == pytest.approx(bounds[0], abs=1e-2)


def started(given: VAEConfig, x: Tensor) -> Any:
    """The likelihood's distribution where the network's outputs are 0, shown the data."""
    vae = build(given, seed=0)
    vae.start_from(x)
    decoder = vae.model.decoder
    return decoder.likelihood.eval()(decoder.offset[None])


def counts() -> Tensor:
    torch.manual_seed(0)
    rates = torch.tensor([0.5, 20.0, 4e5])
    return dist.NegativeBinomial(2.0, probs=rates / (rates + 2.0)).sample((4000,))


class TestMoments:
    def test_counts(self) -> None:
        x = counts()
        for likelihood in ("poisson", "negative_binomial", "zero_inflated_negative_binomial"):
            q = started(config(likelihood, 3), x)
            torch.testing.assert_close(q.mean[0], x.mean(0), rtol=1e-3, atol=1e-3)
        q = started(config("negative_binomial", 3), x)
        torch.testing.assert_close(q.variance[0], x.var(0), rtol=2e-3, atol=1e-3)

    def test_numbers(self) -> None:
        x = numbers().float() * 7 + 100
        for likelihood in ("normal_shared", "normal_optimal"):
            q = started(config(likelihood), x)
            torch.testing.assert_close(q.mean[0], x.mean(0))
            assert q.stddev[0].max().item() == pytest.approx(7.0, rel=1e-4)
        q = started(config("normal_pixelwise"), x)
        assert q.stddev[0].min().item() == pytest.approx(7.0, rel=1e-3)
        torch.testing.assert_close(started(config("student_t"), x).mean[0], x.mean(0))

    def test_positive_numbers_and_shares(self) -> None:
        x = data_of("log_normal").float() * 1e5
        q = started(config("log_normal"), x).base_dist.base
        torch.testing.assert_close(q.loc[0], torch.zeros(4), rtol=0, atol=1e-5)
        torch.testing.assert_close(q.scale[0], x.log().std(0, correction=0), rtol=1e-3, atol=0)
        shares = torch.sigmoid(numbers().float())
        q = started(config("beta"), shares)
        torch.testing.assert_close(q.mean[0], shares.mean(0), rtol=1e-3, atol=0)
        variance = shares.var(0, correction=0)
        torch.testing.assert_close(q.variance[0], variance, rtol=1e-2, atol=0)

    def test_categories_and_grey_levels(self) -> None:
        torch.manual_seed(0)
        x = torch.multinomial(torch.tensor([0.1, 0.6, 0.3]), 2000, replacement=True)[:, None]
        q = started(config("categorical", 1, likelihood_options={"categories": 3}), x)
        shares = (torch.bincount(x[:, 0], minlength=3) + 0.5) / 2001.5
        torch.testing.assert_close(q.base_dist.probs[0, 0], shares)
        levels = torch.randint(80, 180, (500, 4), dtype=torch.uint8)
        q = started(config("discretized_logistic"), levels)
        torch.testing.assert_close(q.mean[0], (levels / 255).mean(0), rtol=1e-3, atol=1e-3)
        spread = (levels / 255).var(0).mean().sqrt().item()
        assert q.stddev[0].mean().item() == pytest.approx(spread, rel=1e-2)

    def test_bernoulli_pixels_only_if_asked(self) -> None:
        x = torch.rand(200, 4)
        assert build(config("bernoulli"), seed=0).model.decoder.offset is None
        q = started(config("bernoulli", output_start="data"), x)
        torch.testing.assert_close(q.mean[0], x.mean(0))

    def test_a_table(self) -> None:
        torch.manual_seed(0)
        columns = [1e4 + torch.randn(500), torch.rand(500).round(), counts()[:500, 1]]
        x = torch.stack([*columns, torch.randint(0, 3, (500,)).float()], -1)
        options = {"columns": ["real", "binary", "count", "categorical:3"]}
        q = started(config("columns", likelihood_options=options), x)
        torch.testing.assert_close(q.mean[0], x.mean(0), rtol=1e-3, atol=1e-2)
        variance = x.var(0)
        torch.testing.assert_close(q.variance[0], variance, rtol=1e-2, atol=1e-2)


def test_a_column_that_never_varies_starts_at_its_value() -> None:
    x = torch.cat([numbers().float()[:, :3], torch.full((300, 1), 7e5)], -1)
    vae = build(config("columns", likelihood_options={"columns": ["real"] * 4}), seed=0)
    fit(vae, x, epochs=2, compile="off", **QUIET)
    assert lower_bound(vae, x, seed=0).isfinite().all()


def test_of_many_data_every_kth_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    x = numbers().float()
    monkeypatch.setattr("ppl_vae.vae.START_ROWS", 100)
    vae = build(settings("normal_shared"), seed=0)
    vae.start_from(x)
    torch.testing.assert_close(vae.model.decoder.offset[0], x[::3].mean(0))


def test_entries_that_are_not_known_are_left_out() -> None:
    """NaN in half of a column: mean and unit are those of the other half."""
    x = numbers().float() * 3 + 5
    holes = x.clone()
    holes[::2, 1] = math.nan
    vae = build(settings("real"), seed=0)
    vae.start_from(holes)
    likelihood = vae.model.decoder.likelihood
    torch.testing.assert_close(likelihood.center[1], x[1::2, 1].mean())
    torch.testing.assert_close(likelihood.unit[1], x[1::2, 1].std(correction=0))
    torch.testing.assert_close(likelihood.center[0], x[:, 0].mean())


def test_a_resumed_run_is_the_whole_one_to_the_bit(tmp_path: Path) -> None:
    x = (1e6 * numbers()).float()
    whole, parts = (build(settings("real"), seed=0) for _ in range(2))
    fit(whole, x, epochs=4, compile="off", **QUIET)
    fit(parts, x, epochs=2, compile="off", checkpoint=tmp_path / "run", **QUIET)
    again = load(tmp_path / "run")
    fit(again, x, epochs=4, compile="off", checkpoint=tmp_path / "run", resume=True, **QUIET)
    states = whole.state_dict(), again.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_second_fit_goes_on_from_what_was_learned() -> None:
    x, vae = numbers().float(), build(settings("normal_shared"), seed=0)
    fit(vae, x, epochs=1, compile="off", **QUIET)
    before = vae.model.decoder.offset.clone(), vae.model.decoder.likelihood.log_scale.item()
    fit(vae, 100 * x, epochs=1, compile="off", **QUIET, learning_rate=1e-9)
    assert torch.equal(vae.model.decoder.offset, before[0])
    assert vae.model.decoder.likelihood.log_scale.item() == pytest.approx(before[1], abs=1e-5)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    x, vae = (1e3 * numbers()).float(), build(settings("real"), seed=0)
    fit(vae, x, epochs=1, compile="off", **QUIET)
    save(vae, tmp_path / "vae")
    again = load(tmp_path / "vae")
    assert torch.equal(lower_bound(vae, x, seed=0), lower_bound(again, x, seed=0))


def laplace(location: Tensor, raw_scale: Tensor) -> dist.TorchDistribution:
    return dist.Laplace(location, torch.nn.functional.softplus(raw_scale))


def test_ones_own_likelihood_is_in_units_of_the_data_if_asked() -> None:
    assert build(config("normal_unit"), likelihood=laplace).model.decoder.offset is None
    bounds = []
    for unit in (1.0, 1e6):
        x = (unit * numbers()).float()
        vae = build(config("normal_unit", output_start="data"), likelihood=laplace, seed=0)
        fit(vae, x, epochs=2, compile="off", **QUIET)
        bounds.append(lower_bound(vae, x, seed=0).mean().item() / 4 + math.log(unit))
    assert bounds[1] == pytest.approx(bounds[0], abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "built"),
    [
        ({"likelihood": "normal_shared", "likelihood_options": {"mean": "sigmoid"}}, False),
        ({"likelihood": "normal_shared", "likelihood_options": {"initial_scale": 0.3}}, False),
        ({"likelihood": "normal_shared", "output_start": "zero"}, False),
        ({"likelihood": "normal_shared", "weights": "mean_field"}, False),
        ({"likelihood": "normal_unit"}, False),
        ({"likelihood": "normal_shared"}, True),
        ({"likelihood": "normal_unit", "output_start": "data"}, True),
    ],
)
def test_which_models_start_from_the_data(fields: dict, built: bool) -> None:
    vae = build(VAEConfig((4,), 2, (5,), **fields), seed=0)
    assert (vae.model.decoder.offset is not None) == built


@pytest.mark.parametrize(
    ("fields", "parts", "words"),
    [
        ({"output_start": "date"}, {}, "did you mean 'data'"),
        ({"output_start": "data", "likelihood": "continuous_bernoulli"}, {}, "of numbers in any"),
        (
            {"output_start": "data", "likelihood": "normal_unit"},
            {"decoder": torch.nn.Linear(2, 4)},
            "with a decoder of your own",
        ),
    ],
)
def test_what_cannot_start_from_the_data_is_refused(fields: dict, parts: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(VAEConfig((4,), 2, (5,), **fields), **parts)


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    words = "train --data digits --binarization static --output-start data --epochs 1 --out "
    words += f"{tmp_path / 'run'} --latent-size 2 --hidden-sizes 5 --no-progress"
    assert main(words.split()) == 0
    vae = load(tmp_path / "run")
    assert vae.config.output_start == "data" and vae.model.decoder.started.item()
