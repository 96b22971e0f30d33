"""Data with gaps: NaN is what was not observed.

Truth: the linear-Gaussian model, whose entries that were observed are Normal with the rows and
columns of the covariance that are theirs.
"""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae import (
    VAEConfig,
    build,
    fit,
    impute,
    load,
    load_data,
    log_likelihood,
    lower_bound,
    save,
)
from ppl_vae.checks import InputError
from ppl_vae.diagnostics import to_datatree
from ppl_vae.distributions import Incomplete, entry_log_prob
from ppl_vae.evaluation import reconstruction_error
from ppl_vae.vae import VAE

QUIET = {"progress": False, "compile": "off"}
SIZE = 5


def linear(seed: int = 0) -> tuple[VAE, Tensor, Tensor]:
    """A linear decoder with one latent of N(0, I) and Normal noise of scale 0.5: the VAE, the mean
    and the covariance of x.
    """
    config = VAEConfig(
        (SIZE,),
        2,
        (),
        likelihood="normal_shared",
        output_start="zero",
        missing=True,
    )
    vae = build(config, seed=seed)
    (layer,) = [m for m in vae.model.decoder.modules() if isinstance(m, torch.nn.Linear)]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
        scale = vae.decode(torch.zeros(1, 2)).base_dist.scale.flatten()[0]
    covariance = layer.weight @ layer.weight.T + scale**2 * torch.eye(SIZE)
    return vae, layer.bias.detach().double(), covariance.detach().double()


def with_gaps(num_data: int, mean: Tensor, covariance: Tensor, share: float = 0.4) -> Tensor:
    """Draws of the model with entries missing at random."""
    generator = torch.Generator().manual_seed(1)
    root = torch.linalg.cholesky(covariance)
    x = mean + torch.randn(num_data, SIZE, generator=generator).double() @ root.T
    gone = torch.rand(num_data, SIZE, generator=generator) < share
    return x.masked_fill(gone, math.nan).float()


def log_p(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """log N(x_observed; its mean and covariance) of each row."""
    values = []
    for row in x.double():
        known = ~row.isnan()
        if not known.any():
            values.append(torch.zeros((), dtype=torch.float64))
            continue
        part = torch.distributions.MultivariateNormal(mean[known], covariance[known][:, known])
        values.append(part.log_prob(row[known]))
    return torch.stack(values)


def test_log_p_of_what_was_observed_is_the_marginal() -> None:
    """By quadrature, which is exact: the guide has no say."""
    vae, mean, covariance = linear()
    x = with_gaps(30, mean, covariance)
    x[0] = math.nan  # nothing at all was observed
    found = log_likelihood(vae, x, method="quadrature", num_points=301)
    torch.testing.assert_close(found.values, log_p(x, mean, covariance), rtol=0, atol=2e-4)


def test_log_p_of_the_rest_given_some_is_the_conditional() -> None:
    vae, mean, covariance = linear()
    x = with_gaps(20, mean, covariance, share=0.2)
    given = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    found = log_likelihood(vae, x, method="quadrature", num_points=301, given=given)
    part = x.masked_fill(~given, math.nan)
    exact = log_p(x, mean, covariance) - log_p(part, mean, covariance)
    torch.testing.assert_close(found.values, exact, rtol=0, atol=4e-4)
    with pytest.raises(InputError, match=r"given: got torch\.float32 of shape"):
        log_likelihood(vae, x, given=given.float())


def test_imputations_have_the_conditional_mean_and_covariance() -> None:
    """20000 draws by 20000 proposals: five standard errors of a mean, 5 % of a variance."""
    vae, mean, covariance = linear()
    row = with_gaps(1, mean, covariance, 0.0)
    row[0, :2] = math.nan
    drawn = impute(vae, row, num_samples=20_000, num_proposals=20_000, seed=0)[:, 0].double()
    known = slice(2, None)
    gain = covariance[:2, known] @ torch.linalg.inv(covariance[known, known])
    expected = mean[:2] + gain @ (row[0, known].double() - mean[known])
    spread = covariance[:2, :2] - gain @ covariance[known, :2]
    assert torch.equal(drawn[:, known], row[0, known].double().expand(20_000, -1))
    errors = (drawn[:, :2].mean(0) - expected) / (spread.diagonal() / 1000).sqrt()
    assert errors.abs().max() < 5  # the proposals' own error counts as that of 1000 draws
    torch.testing.assert_close(drawn[:, :2].T.cov(), spread, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("estimator", ["A", "B", "iwae"])
@pytest.mark.parametrize("tier", ["off", "record"])
def test_training_reaches_the_model_from_what_was_observed(estimator: str, tier: str) -> None:
    """The bound of the observed entries ends within 0.15 nats of their log p under the truth."""
    _, mean, covariance = linear()
    x, held_out = (
        with_gaps(size, mean, covariance)[first:] for size, first in ((2000, 0), (2500, 2000))
    )
    config = VAEConfig((SIZE,), 2, (32,), likelihood="normal_shared", missing=True)
    vae = build(config, seed=1)
    options = {"compile": tier, "epochs": 40, "learning_rate": "linear:0.01:0.001:40"}
    history = fit(vae, x, validation=held_out, estimator=estimator, progress=False, **options)
    assert history.tier == tier
    truth = log_p(held_out, mean, covariance).mean().item()
    found = lower_bound(vae, held_out, seed=0).mean().item()
    assert truth - 0.3 < found < truth + 0.1
    assert log_likelihood(vae, held_out, 500, seed=0).mean > found - 0.02


def test_data_without_gaps_are_scored_as_ever() -> None:
    """The same parameters, the same data: log p does not know whether there could be gaps."""
    complete = build(VAEConfig((6,), 2, (8,), likelihood="poisson"), seed=0)
    gaps = build(VAEConfig((6,), 2, (8,), likelihood="poisson", missing=True), seed=0)
    gaps.model.load_state_dict(complete.model.state_dict())
    z, x = torch.randn(4, 2), torch.poisson(torch.full((4, 6), 3.0))
    filler = gaps.model.filler
    assert filler is not None
    expected = complete.decode(z).log_prob(x)
    torch.testing.assert_close(Incomplete(gaps.decode(z), filler).log_prob(x), expected)


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [
        ("bernoulli", {}),
        ("log_normal", {}),
        ("beta", {}),
        ("negative_binomial", {}),
        ("categorical", {"categories": 3}),
        ("columns", {"columns": ["real", "positive", "count", "binary", "categorical:3"]}),
    ],
)
def test_every_kind_of_entry_may_be_missing(likelihood: str, options: dict) -> None:
    """Gradients are finite, and an entry that is missing takes its own log p away."""
    config = VAEConfig(
        (5,), 2, (8,), likelihood=likelihood, likelihood_options=options, missing=True
    )
    vae = build(config, seed=0)
    z = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    x = vae.decode(z).sample().float()
    gone = x.clone()
    gone[:, 1] = math.nan
    assert vae.model.filler is not None
    scored = Incomplete(vae.decode(z), vae.model.filler)
    torch.testing.assert_close(
        scored.log_prob(x) - scored.log_prob(gone), entry_log_prob(vae.decode(z), x)[:, 1]
    )
    fit(vae, gone, epochs=2, batch_size=7, **QUIET)
    assert all(p.isfinite().all() for p in vae.parameters())
    assert impute(vae, gone, num_proposals=20, seed=0).isfinite().all()


def test_it_is_saved_loaded_resumed_and_diagnosed(tmp_path: Path) -> None:
    _, mean, covariance = linear()
    x = with_gaps(60, mean, covariance)
    config = VAEConfig((SIZE,), 2, (8,), likelihood="normal_shared", missing=True)
    whole, part = build(config, seed=0), build(config, seed=0)
    fit(whole, x, epochs=4, **QUIET)
    fit(part, x, epochs=2, checkpoint=tmp_path / "run", **QUIET)
    fit(part, x, epochs=4, checkpoint=tmp_path / "run", resume=True, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), part.parameters()))
    save(whole, tmp_path / "vae.safetensors")
    again = load(tmp_path / "vae.safetensors")
    first, second = (lower_bound(v, x, seed=0) for v in (whole, again))
    assert torch.equal(first, second) and first.isfinite().all()
    assert reconstruction_error(whole, x).isfinite().all()
    tree = to_datatree(whole, x[:5], num_samples=50)
    assert np.isnan(tree["observed_data"]["x"].values).sum() == x[:5].isnan().sum()
    assert np.isfinite(tree["log_likelihood"]["x"].values).all()


def test_the_command_line_takes_a_file_with_gaps(tmp_path: Path) -> None:
    _, mean, covariance = linear()
    np.save(tmp_path / "x.npy", with_gaps(80, mean, covariance).numpy())
    command = [sys.executable, "-m", "ppl_vae", "train", "--data", str(tmp_path / "x.npy")]
    command += ["--missing", "--likelihood", "normal_shared", "--epochs", "1", "--no-progress"]
    command += ["--latent-size", "2", "--out", str(tmp_path / "run"), "--split", "ordered"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_gaps_are_refused_where_they_are_not_told_of_and_where_a_scale_is_the_batch_s() -> None:
    x = torch.randn(10, SIZE)
    x[0, 0] = math.nan
    vae = build(VAEConfig((SIZE,), 2, (8,), likelihood="normal_shared"), seed=0)
    with pytest.raises(InputError, match=r"1 NaN .*missing=True"):
        fit(vae, x, **QUIET)
    with pytest.raises(InputError, match="impute: got a VAE of complete data"):
        impute(vae, x)
    with pytest.raises(InputError, match="missing: got likelihood 'normal_optimal'"):
        build(VAEConfig((SIZE,), 2, likelihood="normal_optimal", missing=True))


class Counting(torch.nn.Module):
    """An encoder of one's own that is told what was observed."""

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2 * event_shape[0], 6)

    def forward(self, x: Tensor, observed: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.cat([x, observed], -1)))


def test_an_encoder_of_ones_own_is_told_what_was_observed() -> None:
    _, mean, covariance = linear()
    config = VAEConfig((SIZE,), 2, (8,), likelihood="normal_shared", missing=True)
    vae = build(config, seed=0, encoder=Counting)
    fit(vae, with_gaps(40, mean, covariance), epochs=1, **QUIET)
    assert vae.encode(with_gaps(3, mean, covariance)).isfinite().all()


def test_images_with_gaps_under_conv() -> None:
    config = VAEConfig(
        (8, 8), 2, network="conv", network_options={"channels": (3, 4)}, missing=True
    )
    vae = build(config, seed=0)
    x = (torch.rand(20, 8, 8) < 0.5).float().masked_fill(torch.rand(20, 8, 8) < 0.3, math.nan)
    fit(vae, x, epochs=1, **QUIET)
    fit(vae, x, epochs=1, binarization="dynamic", **QUIET)
    assert lower_bound(vae, x, seed=0).isfinite().all()


@pytest.mark.parametrize("binarization", ["none", "static", "dynamic"])
def test_gaps_of_a_file_stay_gaps(tmp_path: Path, binarization: str) -> None:
    x = np.full((50, 4), 0.5)
    x[::2, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    data = load_data(str(tmp_path / "x.npy"), split="ordered", binarization=binarization)
    for part, first in ((data.train, 0), (data.validation, 40), (data.test, 45)):
        assert np.array_equal(part.isnan().numpy(), np.isnan(x[first : first + len(part)]))
    (tmp_path / "x.csv").write_text("a,b\n" + "1,\n" * 20)
    table = load_data(str(tmp_path / "x.csv"))
    assert table.train[:, 1].isnan().all() and (table.train[:, 0] == 1).all()
