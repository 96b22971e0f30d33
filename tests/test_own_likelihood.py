"""A likelihood of the user's own: a function of the decoder's maps, or a module of that form.

Knows the package's face; what is built in of that form is held against the density written out.
"""

import math
import subprocess
import sys
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae import InputError, VAEConfig, build, fit, load, log_likelihood, save
from ppl_vae.likelihoods import build_likelihood

CONFIG = VAEConfig((5,), latent_size=2, hidden_sizes=(8,))
QUIET = {"epochs": 2, "batch_size": 20, "progress": False, "compile": "off"}
COUNTS = """
import pyro.distributions as dist

def counts(log_total, logits, least=1e-3):
    return dist.NegativeBinomial(log_total.exp() + least, logits=logits)
"""


def counts(log_total: Tensor, logits: Tensor) -> dist.TorchDistribution:
    return dist.NegativeBinomial(log_total.exp(), logits=logits)


class Scaled(nn.Module):
    """A module that owns a parameter of its own."""

    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self, location: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(location, self.log_scale.exp())


def drawn(num_data: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rates = 3 + 2 * torch.randn(num_data, 1, generator=generator).abs()
    return torch.poisson(rates.expand(num_data, 5), generator=generator)


@pytest.mark.parametrize("given", [counts, "poisson", "negative_binomial"])
def test_counts_are_trained_evaluated_and_drawn_as_whole_numbers(given: object) -> None:
    vae, x = build(CONFIG, likelihood=given, seed=0), drawn()
    bounds = [row["lower_bound"] for row in fit(vae, x, **{**QUIET, "epochs": 30}).rows]
    assert bounds[-1] > bounds[0]
    found = log_likelihood(vae, x[:5], 200, seed=0).values
    assert (found < 0).all()  # the logarithm of a probability
    draws = vae.sample(50)
    assert torch.equal(draws, draws.round()) and (draws >= 0).all()
    assert vae.counts and vae.reconstruct(x[:3]).shape == (3, 5)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int64, torch.float32])
def test_counts_of_any_type_are_the_same_counts(kind: torch.dtype) -> None:
    """Bytes are no grey levels under a likelihood of whole numbers: nothing is divided by 255."""
    vae, x = build(CONFIG, likelihood=counts, seed=0), drawn()
    fit(vae, x.to(kind), **QUIET)
    other = build(CONFIG, likelihood=counts, seed=0)
    fit(other, x, **QUIET)
    for name, parameter in vae.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name))
    torch.testing.assert_close(
        log_likelihood(vae, x.to(kind), 20, seed=1).values,
        log_likelihood(other, x, 20, seed=1).values,
    )


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.full((3, 5), 0.5), "outside whole numbers of at least 0 from row 0 on"),
        (-torch.ones(3, 5), "outside whole numbers of at least 0"),
        (torch.full((3, 5), math.nan), "NaN"),
    ],
)
def test_what_is_no_count_is_refused(x: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(build(CONFIG, likelihood=counts), x, **QUIET)


def test_a_module_trains_a_parameter_of_its_own_and_is_saved_and_loaded(tmp_path: Path) -> None:
    given = Scaled()
    vae, x = build(CONFIG, likelihood=given, seed=0), torch.randn(60, 5)
    fit(vae, x, **QUIET)
    own = vae.get_parameter("model.decoder.likelihood.program.log_scale")
    assert own.item() != given.log_scale.item() == pytest.approx(math.log(0.5))
    save(vae, tmp_path / "vae")
    with pytest.raises(InputError, match=r"likelihood: got 'custom'.*pass likelihood="):
        load(tmp_path / "vae")
    again = load(tmp_path / "vae", likelihood=Scaled())
    assert torch.equal(again.get_parameter("model.decoder.likelihood.program.log_scale"), own)


@pytest.mark.parametrize("tier", ["off", "record"])
def test_a_recorded_step_takes_it_as_an_eager_one_does(tier: str) -> None:
    x, vae, eager = drawn(), build(CONFIG, likelihood=counts, seed=0), None
    eager = build(CONFIG, likelihood=counts, seed=0)
    assert fit(vae, x, **{**QUIET, "compile": tier}).tier == tier
    fit(eager, x, **QUIET)
    for name, parameter in vae.named_parameters():
        assert torch.equal(parameter, eager.get_parameter(name))


class TestReference:
    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trust.json"))
        (tmp_path / "mine.py").write_text(COUNTS)
        return f"{tmp_path / 'mine.py'}:counts"

    def test_it_is_found_again_in_another_process(self, file: str, tmp_path: Path) -> None:
        config = VAEConfig((5,), 2, (8,), likelihood=file, likelihood_options={"least": 0.01})
        vae = build(config, seed=0)
        fit(vae, drawn(), **QUIET)
        save(vae, tmp_path / "vae")
        code = f"from ppl_vae import load; print(load({str(tmp_path / 'vae')!r}).sample(2).shape)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.stdout == "torch.Size([2, 5])\n", run.stderr

    def test_a_text_that_was_not_trained_with_is_not_run(self, file: str, tmp_path: Path) -> None:
        vae = build(VAEConfig((5,), 2, (8,), likelihood=file), seed=0)
        save(vae, tmp_path / "vae")
        (tmp_path / "mine.py").write_text(COUNTS + "raise RuntimeError('was run')\n")
        with pytest.raises(InputError, match="not trained with here"):
            load(tmp_path / "vae")

    def test_the_command_line_takes_it(self, file: str, tmp_path: Path) -> None:
        import numpy as np

        from ppl_vae.cli import main

        np.save(tmp_path / "counts.npy", drawn().numpy())
        run = str(tmp_path / "run")
        words = f"train --data {tmp_path / 'counts.npy'} --out {run} --likelihood {file}"
        words += " --likelihood.least 0.01 --latent-size 2 --hidden-sizes 8 --epochs 2"
        assert main([*words.split(), "--no-progress"]) == 0
        assert main(["evaluate", run, "--num-samples", "20", "--no-progress"]) == 0
        assert load(run).sample(3).shape == (3, 5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: dist.Poisson(1.0), "without arguments"),
        (lambda rate: rate, "got a torch.Tensor, expected a Pyro distribution"),
        (lambda rate: torch.distributions.Poisson(rate.exp()), "import pyro.distributions"),
        (lambda rate: dist.Poisson(rate.exp().sum(-1)), r"shape \(3,\) for 3 data"),
        (lambda rate: dist.Poisson(rate.oops), "AttributeError.*oops"),
        (3, "likelihood: got int, expected one of bernoulli"),
        ("poison", "did you mean 'poisson'"),
    ],
)
def test_what_is_no_likelihood_is_refused_when_built(given: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(CONFIG, likelihood=given)


def test_the_documented_moments_are_those_of_the_draws() -> None:
    """Negative binomial: mean m = exp(log_total + logits), variance m (1 + exp(logits)). A tenth of
    a per cent of 400,000 draws' standard errors; fixed seed.
    """
    outputs = torch.tensor([[0.7], [0.3]])
    q = build_likelihood("negative_binomial", (1,), {})(outputs)
    mean = math.exp(1.0)
    assert q.mean.item() == pytest.approx(mean, rel=1e-5)
    assert q.variance.item() == pytest.approx(mean * (1 + math.exp(0.3)), rel=1e-5)
