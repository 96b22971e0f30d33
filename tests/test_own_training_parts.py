"""Estimators, optimisers and corruptions of a user's own: as objects, classes and references."""

from pathlib import Path

import pytest
import torch
from pyro.infer import Trace_ELBO

from ppl_vae import fit, load
from ppl_vae.checks import InputError
from ppl_vae.cli import main
from ppl_vae.elbo import MeanFieldELBO
from ppl_vae.training.objective import Objective
from tests.examples import pixels, tiny

QUIET = {"progress": False, "compile": "off", "epochs": 2, "batch_size": 10}
FILE = """
import torch
from ppl_vae.elbo import MeanFieldELBO

class Own(MeanFieldELBO):
    pass

def erased(x, level):
    return torch.where(torch.rand_like(x) < level, torch.full_like(x, 0.5), x)

class Steps(torch.optim.SGD):
    pass
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trust.json"))
    path = tmp_path / "parts.py"
    path.write_text(FILE)
    return path


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


def test_an_estimator_is_an_object_its_class_or_a_reference(file: Path) -> None:
    """The very run of estimator B, which it is; a class is made with the number of draws."""
    expected = tiny()
    fit(expected, pixels(40), estimator="B", num_particles=2, **QUIET)
    for given in (MeanFieldELBO(2), MeanFieldELBO, f"{file}:Own", "ppl_vae.elbo:MeanFieldELBO"):
        vae = tiny()
        draws = 1 if isinstance(given, MeanFieldELBO) else 2
        fit(vae, pixels(40), estimator=given, num_particles=draws, **QUIET)
        assert same(vae, expected), given
    assert isinstance(Objective(Trace_ELBO, 3).elbo, Trace_ELBO)
    assert Objective(Trace_ELBO, 3).elbo.num_particles == 3


def test_a_corruption_is_a_function_or_a_reference(file: Path) -> None:
    """A function that does what a built-in one does gives the very run; the guide alone sees it."""

    def masked(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.rand_like(x) < level, torch.zeros_like(x), x)

    named, own, other = tiny(), tiny(), tiny()
    options = {**QUIET, "corruption_level": 0.3}
    fit(named, pixels(40), corruption="masking", **options)
    fit(own, pixels(40), corruption=masked, **options)
    fit(other, pixels(40), corruption=f"{file}:erased", **options)
    assert same(named, own) and not same(named, other)
    with pytest.raises(InputError, match="corruption: got 'blur', expected one of"):
        fit(tiny(), pixels(40), corruption="blur", **options)


def test_an_optimiser_by_reference_is_the_class(file: Path) -> None:
    first, second, third = tiny(), tiny(), tiny()
    fit(first, pixels(40), optimizer=torch.optim.AdamW, **QUIET)
    fit(second, pixels(40), optimizer="torch.optim:AdamW", **QUIET)
    fit(third, pixels(40), optimizer=f"{file}:Steps", **QUIET)
    assert same(first, second) and not same(first, third)


def test_the_command_line_takes_references_and_goes_on_only_with_the_text_that_ran(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, words = tmp_path / "run", ["--no-progress", "--compile", "off"]
    options = ["--estimator", f"{file}:Own", "--optimizer", "torch.optim:AdamW"]
    options += ["--corruption", f"{file}:erased", "--corruption-level", "0.2"]
    arguments = ["train", "--out", str(run), "--epochs", "1", *options, *words]
    assert main(arguments) == 0
    assert main(["train", "--resume", str(run), "--epochs", "2", "--no-progress"]) == 0
    load(run)
    assert main(["evaluate", str(run), "--num-data", "20", "--num-samples", "10"]) == 0
    assert "estimator A" in capsys.readouterr().out
    file.write_text(FILE + "\nprint('changed')\n")
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--epochs", "3", "--no-progress"]) == 2
    out, error = capsys.readouterr()
    assert "changed" not in out and "trust" in error
    again = ["train", "--resume", str(run), "--epochs", "3", "--no-progress", "--trust-code"]
    assert main(again) in (0, 2)
