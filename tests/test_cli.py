"""The command line: every option arrives, every bad value is one line and status 2, a run is never
lost or overwritten.

Knows the commands and a run's folder from outside. Nothing here is statistical. Other processes are
started where one process cannot show it: a user's own code, an interrupt, `python -m`.
"""

import csv
import dataclasses
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray

from ppl_vae import (
    VAEConfig,
    __version__,
    build,
    diagnostics,
    fit,
    load,
    load_data,
    log_likelihood,
    lower_bound,
)
from ppl_vae.checkpoint import read_tensors
from ppl_vae.cli import commands, main, options
from ppl_vae.cli.explain import TERMS, explanation
from ppl_vae.cli.parser import METHODS, make_parser, parse
from ppl_vae.evaluation.likelihood import METHODS as LIBRARY_METHODS

ROOT = Path(__file__).parents[1]
QUICK = ["--hidden-sizes", "16", "--latent-size", "2", "--no-progress"]

# two sites, one of them positive: a scale for each datum times a Normal
MY_PRIOR = """
import pyro
import pyro.distributions as dist
import torch


class Scaled(torch.nn.Module):
    def __init__(self, latent_size, spread=0.5):
        super().__init__()
        self.latent_size, self.spread = latent_size, spread

    def forward(self):
        scale = pyro.sample("scale", dist.LogNormal(0.0, self.spread))
        loc = torch.zeros(self.latent_size)
        return pyro.sample("z", dist.Normal(loc, scale[..., None]).to_event(1))
"""


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trusted.json"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Do a command that must succeed; what it printed."""

    def call(*argv: str) -> str:
        assert main(argv) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return call


def subprocess_run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ppl_vae", *argv], capture_output=True, text=True, timeout=120
    )


def history(folder: str) -> list[dict[str, str]]:
    with open(Path(folder) / "history.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parameters(folder: str, **trust: bool) -> dict[str, torch.Tensor]:
    return load(folder, **trust).state_dict()


def subparsers() -> dict[str, Any]:
    return next(a for a in make_parser()._actions if isinstance(a.choices, dict)).choices  # type: ignore[return-value]


class TestOptions:
    def test_every_field_of_the_config_has_a_flag_that_arrives(self) -> None:
        examples = {
            "event_shape": ("64", (64,)),
            "latent_size": ("3", 3),
            "hidden_sizes": ("7,5", (7, 5)),
        }
        for field in dataclasses.fields(VAEConfig):
            if isinstance(field.default, bool):
                assert getattr(parse(["train", f"--{field.name}"]), field.name) is True
                assert getattr(parse(["train", f"--no-{field.name}"]), field.name) is False
                continue
            if field.name.endswith("_options"):
                flag, text, value = (
                    f"--{field.name[:-8]}.some-name",
                    "32,0.5,a",
                    {"some_name": (32, 0.5, "a")},
                )
            else:
                flag, (text, value) = (
                    f"--{field.name.replace('_', '-')}",
                    examples.get(field.name, ("name", "name")),
                )
            assert getattr(parse(["train", flag, text]), field.name) == value
            assert getattr(parse(["train", f"{flag}={text}"]), field.name) == value

    def test_every_argument_of_fit_has_a_flag_that_arrives(self) -> None:
        of_the_run = {
            "vae": None,
            "data": "--data",
            "binarization": "--binarization",
            "checkpoint": "--out",
            "resume": "--resume",
            "callbacks": None,
            "optimizer_options": "--optimizer.NAME",
        }
        flags = {
            flag for action in subparsers()["train"]._actions for flag in action.option_strings
        }
        for parameter in inspect.signature(fit).parameters.values():
            flag = of_the_run.get(parameter.name, f"--{parameter.name.replace('_', '-')}")
            assert flag is None or flag in flags
            if parameter.name in of_the_run:
                continue
            if parameter.annotation is bool or parameter.name == "validation":
                assert getattr(parse(["train", f"--no-{flag[2:]}"]), parameter.name) is False
            else:
                value = getattr(parse(["train", flag, "3"]), parameter.name)
                kinds = {parameter.annotation, *typing.get_args(parameter.annotation)}
                is_text = str in kinds and not kinds & {int, float}
                assert value == ("3" if is_text else 3)

    def test_a_new_field_appears_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        newer = dataclasses.make_dataclass(
            "Newer", [("weights", str | None, None)], bases=(VAEConfig,), frozen=True
        )
        monkeypatch.setattr(options, "VAEConfig", newer)
        assert parse(["train", "--weights", "mean_field"]).weights == "mean_field"
        assert parse(["train", "--weights", "none"]).weights is None

    def test_help_says_of_each_option_what_it_means_and_its_default(self) -> None:
        for name, parser in subparsers().items():
            text = " ".join(parser.format_help().split())
            for action in parser._actions:
                if action.option_strings and action.dest != "help":
                    assert action.option_strings[0] in text, name
                    assert re.search(r"\w.* \(default: .+\)$", action.help), (
                        f"{name} {action.option_strings}"
                    )
        assert "--batch-size N M, data a step (default: 100)" in " ".join(
            subparsers()["train"].format_help().split()
        )

    def test_defaults_are_those_of_the_library(self, run: Callable[..., str]) -> None:
        run("train", "--epochs", "1", "--no-progress", "--out", "run")
        assert load("run").config == VAEConfig(event_shape=(8, 8))
        settings = read_tensors(Path("run/checkpoint.safetensors"))[1]["settings"]
        for name in (
            "estimator",
            "num_particles",
            "batch_size",
            "optimizer",
            "weight_penalty",
            "seed",
            "compile",
        ):
            assert settings[name] == inspect.signature(fit).parameters[name].default

    def test_values_reach_the_config_and_the_run(self, run: Callable[..., str]) -> None:
        words = """train --out run --no-progress --event-shape 64 --latent-size 3
            --hidden-sizes 7,5 --activation relu --network.dropout 0.25 --init normal_0.01
            --likelihood normal_shared --likelihood.mean sigmoid --likelihood.initial-scale=0.5
            --estimator A --num-particles 2 --batch-size 500 --epochs 1 --kl-weight linear:0:1:2
            --learning-rate 0.002 --optimizer adagrad --weight-penalty 0.5 --early-stopping 3
            --seed 4 --compile off"""
        run(*words.split())
        assert load("run").config == VAEConfig(
            event_shape=(64,),
            latent_size=3,
            hidden_sizes=(7, 5),
            activation="relu",
            init="normal_0.01",
            likelihood="normal_shared",
            network_options={"dropout": 0.25},
            likelihood_options={"mean": "sigmoid", "initial_scale": 0.5},
        )
        settings = read_tensors(Path("run/checkpoint.safetensors"))[1]["settings"]
        given = {
            "estimator": "A",
            "num_particles": 2,
            "batch_size": 500,
            "epochs": 1,
            "kl_weight": "linear:0:1:2",
            "learning_rate": "0.002",
            "optimizer": "adagrad",
            "weight_penalty": 0.5,
            "early_stopping": 3,
            "seed": 4,
            "compile": "off",
        }
        assert given.items() <= settings.items()

    def test_the_seed_fixes_the_initial_weights(self, run: Callable[..., str]) -> None:
        run("train", *QUICK, "--learning-rate", "0", "--epochs", "1", "--seed", "4", "--out", "run")
        initial = build(load("run").config, seed=4).state_dict()
        assert all(torch.equal(value, initial[name]) for name, value in parameters("run").items())


class TestHelp:
    def test_each_command_shows_examples_that_are_read(self) -> None:
        for name, parser in {"": make_parser(), **subparsers()}.items():
            examples = re.findall(r"^  ppl-vae (.*?)(?:  .*| && .*)?$", parser.epilog, re.MULTILINE)
            assert examples, name
            for example in examples:
                assert name in parse(example.split()).command.__name__

    def test_options_stand_in_groups(self) -> None:
        for name in ("train", "evaluate", "sample", "diagnose"):
            titles = {group.title for group in subparsers()[name]._action_groups}
            assert len(titles) >= 4, name

    def test_methods_are_the_library_s(self) -> None:
        assert tuple(LIBRARY_METHODS) == METHODS

    def test_every_term_is_explained_in_plain_text(self) -> None:
        for term in TERMS:
            text = explanation(term)
            assert len(text.splitlines()) > 2 and "`" not in text and ">>>" not in text, term
        assert "closed form" in explanation("estimator-b")
        assert "0.7" in explanation("Pareto k")

    def test_a_word_of_two_meanings_shows_both(self) -> None:
        both = explanation("ladder")
        assert "priors.ladder" in both and "guides.ladder" in both

    def test_explain_lists_its_words(self, run: Callable[..., str]) -> None:
        words = run("explain").split()
        assert {"pareto-k", "estimator-a", "vamp", "active-units"} < set(words)

    @pytest.mark.parametrize("words", ["--version", "--help", "evaluate --help", "tarin"])
    def test_it_answers_without_the_libraries(self, words: str) -> None:
        code = (
            f"import sys\nsys.argv = ['ppl-vae', *{words.split()!r}]\n"
            "from ppl_vae.__main__ import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "heavy = {'torch', 'pyro', 'numpy', 'matplotlib', 'arviz', 'xarray', 'scipy'}\n"
            "print('loaded:', sorted(heavy & sys.modules.keys()))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "loaded: []"


class TestBadValues:
    @pytest.mark.parametrize(
        "command",
        [
            "",
            "tarin",
            "train --latent-size 0",
            "train --latent-size two",
            "train --hidden-sizes 3,x",
            "train --batch-size -1",
            "train --num-particles 1.5",
            "train --kl-weight heavy",
            "train --learning-rate nan",
            "train --activation tan",
            "train --estimator C",
            "train --compile fast",
            "train --data mnits",
            "train --data digits --split ordered",
            "train --binarization both",
            "train --event-shape 3,3",
            "train --prior nowhere.py:Name",
            "train --prior.components 3",
            "train --prior.components",
            "train --prior. 3",
            "train --no-such-option 3",
            "train --likelihood.mean",
            "train --early-stopping 3 --no-validation",
            "train --likelihood",
            "train --resume nowhere",
            "evaluate nowhere",
            "evaluate . --method importnace",
            "evaluate . --prior-share 0.1 --method annealed",
            "explain pareto-j",
            "evaluate",
            "sample nowhere --num-data 0",
            "demo --epochs 0",
            "demo --seed -1",
        ],
    )
    def test_a_bad_value_is_one_line_and_status_2(
        self, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(command.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"ppl-vae: [^\n]+\n", err)
        assert not list(Path("runs").glob("*")), "a run that could not start leaves no folder"

    def test_a_near_miss_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["train", "--activation", "tan"])
        assert "did you mean 'tanh'?" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("command", "meant"),
        [
            ("tarin", "train"),
            ("eval run", "evaluate"),
            ("d", "did you mean"),
            ("sample run --num-dta 3", "--num-data"),
            ("evaluate run --ps 0.1", "--prior-share"),
            ("train --prio.radius 3", "--prior.radius"),
            ("train --latentsize 3", "--latent-size"),
            ("explain actve-units", "active-units"),
        ],
    )
    def test_a_mistyped_command_or_option_is_named(
        self, command: str, meant: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(command.split()) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert (f"did you mean '{meant}'?" in err) == (meant != "did you mean")

    def test_a_file_without_a_name_says_which_names_it_has(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The file is read, not run."""
        Path("mine.py").write_text(
            "raise SystemExit\n\ndef a(): ...\n\nclass B: ...\ndef _c(): ..."
        )
        assert main(["train", "--prior", "mine.py"]) == 2
        assert "it has mine.py:a, mine.py:B" in capsys.readouterr().err
        assert main(["train", "--posterior", "gone.py"]) == 2
        assert "a file that can be read" in capsys.readouterr().err

    def test_a_file_where_the_folder_should_be(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("file").touch()
        assert main(["train", "--out", "file/run"]) == 2
        assert main(["train", "--out", "file"]) == 2
        assert capsys.readouterr().err.count("\n") == 2

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"config": 3}', '{"config": {}, "data": {"path": 3}, "fit": {}}']
    )
    def test_a_config_file_that_is_none(
        self, text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("config.json").write_text(text)
        assert main(["sample", "."]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_a_loss_that_is_not_finite_is_one_line_and_status_1(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = [
            "train",
            *QUICK,
            "--likelihood",
            "normal_pixelwise",
            "--learning-rate",
            "1e30",
            "--out",
            "run",
        ]
        assert main([*command, "--epochs", "50"]) == 1
        assert re.fullmatch(
            r"ppl-vae: FloatingPointError: loss not finite[^\n]+\n", capsys.readouterr().err
        )


class TestRun:
    def test_a_run_folder_holds_its_settings_history_and_checkpoint(
        self, run: Callable[..., str]
    ) -> None:
        out = run("train", *QUICK, "--epochs", "2", "--binarization", "dynamic")
        folder = Path("runs/digits")
        record = json.loads((folder / "config.json").read_text())
        assert record["data"] == {"name": "digits", "split": "shuffled", "binarization": "dynamic"}
        assert (record["version"], record["fit"]["epochs"], record["config"]["latent_size"]) == (
            __version__,
            2,
            2,
        )
        assert [row["epoch"] for row in history(str(folder))] == ["1", "2"]
        assert (
            read_tensors(folder / "checkpoint.safetensors")[1]["settings"]["binarization"]
            == "dynamic"
        )
        assert "z analytic" in out
        assert "ppl-vae evaluate runs/digits" in out

    def test_it_is_never_overwritten(
        self, run: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("train", *QUICK, "--epochs", "1")
        before = parameters("runs/digits")
        assert main(["train", *QUICK, "--out", "runs/digits", "--seed", "1"]) == 2
        assert "--resume" in capsys.readouterr().err
        run("train", *QUICK, "--epochs", "1", "--seed", "1")
        assert sorted(p.name for p in Path("runs").iterdir()) == ["digits", "digits-2"]
        assert all(
            torch.equal(value, before[name]) for name, value in parameters("runs/digits").items()
        )
        Path("mine").mkdir()
        Path("mine/config.json").write_text("{}")
        assert main(["train", *QUICK, "--out", "mine"]) == 2
        assert Path("mine/config.json").read_text() == "{}"

    def test_resumed_it_equals_one_that_was_never_stopped(self, run: Callable[..., str]) -> None:
        command = [
            "train",
            *QUICK,
            "--activation",
            "relu",
            "--binarization",
            "dynamic",
            "--seed",
            "3",
        ]
        run(*command, "--epochs", "4", "--out", "whole")
        run(*command, "--epochs", "2", "--out", "parts")
        run("train", "--resume", "parts", "--epochs", "4", "--no-progress")
        whole = parameters("whole")
        assert all(torch.equal(value, whole[name]) for name, value in parameters("parts").items())
        assert json.loads(Path("parts/config.json").read_text()) == json.loads(
            Path("whole/config.json").read_text()
        )
        assert len(history("parts")) == 4

    def test_resumed_it_takes_no_other_settings(
        self, run: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("train", *QUICK, "--epochs", "2", "--out", "run")
        for words in (
            ["--seed", "3"],
            ["--epochs", "1"],
            ["--prior.radius", "2"],
            ["--out", "other"],
        ):
            assert main(["train", "--resume", "run", *words]) == 2
            assert words[0].split(".")[0] in capsys.readouterr().err

    def test_killed_before_its_first_checkpoint_it_starts_again(
        self, run: Callable[..., str]
    ) -> None:
        run("train", *QUICK, "--epochs", "1", "--out", "whole")
        Path("cut").mkdir()
        Path("cut/config.json").write_bytes(Path("whole/config.json").read_bytes())
        assert main(["evaluate", "cut"]) == 2
        run("train", "--resume", "cut", "--no-progress")
        whole = parameters("whole")
        assert all(torch.equal(value, whole[name]) for name, value in parameters("cut").items())

    def test_interrupted_it_is_saved_and_goes_on(self, run: Callable[..., str]) -> None:
        words = ["train", *QUICK, "--epochs", "200", "--compile", "off", "--out", "run"]
        process = subprocess.Popen(
            [sys.executable, "-m", "ppl_vae", *words], stderr=subprocess.PIPE, text=True
        )
        while not Path("run/history.csv").exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
        assert process.returncode == 130
        assert re.fullmatch(
            r"ppl-vae: stopped in epoch \d+[^\n]*\(ppl-vae train --resume run\)\n", err
        )
        done = len(history("run"))
        assert 1 <= done < 200
        values = json.loads(Path("run/config.json").read_text())
        values["fit"]["epochs"] = done + 2  # so that the rest is short
        Path("run/config.json").write_text(json.dumps(values))
        run("train", "--resume", "run", "--no-progress")
        assert [int(row["epoch"]) for row in history("run")] == list(range(1, done + 3))


@pytest.mark.parametrize("estimator", ["A", "B"])
def test_a_users_prior_trains_samples_loads_in_another_process_and_resumes(
    estimator: str, run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    program = MY_PRIOR[MY_PRIOR.index("class") :].strip().splitlines()
    assert sum(bool(line) for line in program) <= 12
    Path("my_prior.py").write_text(MY_PRIOR)
    other = subprocess_run(
        "train",
        *QUICK,
        "--prior",
        "my_prior.py:Scaled",
        "--prior.spread",
        "0.4",
        "--estimator",
        estimator,
        "--epochs",
        "2",
        "--out",
        "run",
    )
    assert (other.returncode, other.stderr) == (0, "")
    assert f"scale {'analytic' if estimator == 'B' else 'sampled'}" in other.stdout
    assert load("run").model.prior.spread == 0.4
    assert "manifold.png" in run("sample", "run")
    assert {"scale", "z"} == set(json.loads(evaluated(run, "run"))["kl"])
    run("train", "--resume", "run", "--epochs", "3", "--no-progress")
    assert len(history("run")) == 3
    Path("my_prior.py").write_text(MY_PRIOR + "# edited\n")
    assert main(["sample", "run"]) == 2
    assert "--trust-code" in capsys.readouterr().err
    run("sample", "run", "--trust-code")


def test_the_worked_example_of_a_users_prior(run: Callable[..., str]) -> None:
    """z lies as far from 0 as the option says."""
    ring = [
        "--prior",
        f"{ROOT}/studies/priors/ring.py:ring",
        "--prior.radius",
        "4",
        "--prior.width",
        "0.01",
    ]
    run("train", *QUICK, *ring, "--epochs", "1", "--out", "run")
    with torch.no_grad():
        assert load("run").model.prior().norm().item() == pytest.approx(4.0, abs=0.05)


def evaluated(run: Callable[..., str], folder: str, *words: str) -> str:
    run("evaluate", folder, "--num-samples", "50", "--no-progress", *words)
    return (Path(folder) / "evaluation.json").read_text()


class TestLookingAtARun:
    @pytest.fixture
    def folder(self, run: Callable[..., str]) -> str:
        run("train", *QUICK, "--epochs", "3", "--binarization", "static", "--out", "run")
        return "run"

    def test_evaluate_writes_and_prints_what_the_library_says(
        self, folder: str, run: Callable[..., str]
    ) -> None:
        report = json.loads(
            evaluated(run, folder, "--part", "validation", "--num-data", "40", "--seed", "5")
        )
        vae, x = load(folder), load_data("digits", binarization="static").validation[:40]
        bound = lower_bound(vae, x, seed=5).double()
        likelihood = log_likelihood(vae, x, 50, seed=5)
        assert report["lower_bound"]["mean"] == pytest.approx(bound.mean().item())
        assert report["lower_bound"]["standard_error"] == pytest.approx(
            bound.std().item() / 40**0.5
        )
        assert report["log_likelihood"]["mean"] == pytest.approx(likelihood.mean)
        assert report["log_likelihood"]["standard_error"] == pytest.approx(
            likelihood.standard_error
        )
        assert report["pareto_k"]["largest"] == pytest.approx(likelihood.pareto_k.max().item())
        assert report["kl"]["z"]["kind"] == "analytic"
        out = run(
            "evaluate",
            folder,
            "--part",
            "validation",
            "--num-data",
            "40",
            "--seed",
            "5",
            "--num-samples",
            "50",
        )
        assert (
            f"{likelihood.mean:.2f} ± {likelihood.standard_error:.2f} nats per datum (50 "
            "importance samples)" in out
        )

    @pytest.mark.parametrize("method", METHODS)
    def test_evaluate_by_each_method(
        self, folder: str, method: str, run: Callable[..., str]
    ) -> None:
        """What is written is what the library says; quadrature has no Pareto k to show."""
        words = ("--num-data", "3", "--num-samples", "8", "--method", method, "--no-progress")
        out = run("evaluate", folder, *words)
        report = json.loads((Path(folder) / "evaluation.json").read_text())
        x = load_data("digits", binarization="static").test[:3]
        share = {name: report[name] for name in ("prior_share",) if name in report}
        found = log_likelihood(load(folder), x, 8, method, seed=0, **share)
        assert report["log_likelihood"]["mean"] == pytest.approx(found.mean, abs=1e-4)
        assert report["method"] == method
        assert ("Pareto k" in out) == (method != "quadrature")
        side = {"reciprocal": "an upper bound", "quadrature": "half as many points"}
        assert side.get(method, "a lower bound") in out

    def test_a_plain_autoencoder_s_likelihood_by_a_method_that_asks_no_posterior(
        self, run: Callable[..., str]
    ) -> None:
        run("train", *QUICK, "--posterior", "point", "--epochs", "1", "--out", "run")
        words = ("--num-data", "2", "--method", "quadrature", "--no-progress")
        out = run("evaluate", "run", *words)
        assert "log p(x)" in out and "lower bound  " not in out

    def test_each_command_takes_a_device(self, folder: str, run: Callable[..., str]) -> None:
        few = ("--num-data", "4", "--device", "cpu", "--no-progress")
        run("sample", folder, *few)
        run("evaluate", folder, *few, "--num-samples", "5")
        run("diagnose", folder, *few, "--num-samples", "5")
        run("train", "--resume", folder, "--epochs", "4", "--device", "cpu:0", "--no-progress")
        assert json.loads(Path(folder, "config.json").read_text())["fit"]["device"] == "cpu:0"

    @pytest.mark.parametrize("command", ["sample", "evaluate", "diagnose", "train --resume"])
    def test_a_device_that_is_not_there_is_one_line(
        self, folder: str, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*command.split(), folder, "--device", "cdua"]) == 2
        assert "device: got cdua, expected one this machine has" in capsys.readouterr().err

    def test_numbers_of_grey_pixels_under_a_bernoulli_are_marked(
        self, folder: str, run: Callable[..., str]
    ) -> None:
        """Trap 15: they are an objective, and must not be read beside those of binarised data."""
        run("train", *QUICK, "--epochs", "1", "--out", "grey")
        few = ("--num-data", "10", "--num-samples", "10", "--no-progress")
        assert "grey pixels" in run("evaluate", "grey", *few) and "grey pixels" not in run(
            "evaluate", folder, *few
        )

    def test_the_bound_evaluated_is_the_one_trained(self, run: Callable[..., str]) -> None:
        run(
            "train",
            *QUICK,
            "--estimator",
            "iwae",
            "--num-particles",
            "7",
            "--epochs",
            "1",
            "--out",
            "run",
        )
        report = json.loads(evaluated(run, "run"))
        bound = lower_bound(load("run"), load_data("digits").test, "iwae", 7, seed=0)
        assert report["lower_bound"]["mean"] == pytest.approx(bound.double().mean().item())

    def test_a_plain_autoencoder_has_no_bound(self, run: Callable[..., str]) -> None:
        run("train", *QUICK, "--posterior", "point", "--epochs", "1", "--out", "run")
        report = json.loads(evaluated(run, "run"))
        assert "log_likelihood" not in report
        assert report["kl"]["z"] == {"kind": "point", "nats": 0.0}

    def test_diagnose_writes_draws_and_figures(self, folder: str, run: Callable[..., str]) -> None:
        out = run("diagnose", folder, "--num-data", "20", "--num-samples", "30")
        with xarray.open_dataset(
            "run/posterior.nc", group="posterior", engine="h5netcdf"
        ) as posterior:
            assert posterior["z"].shape == (1, 30, 20, 2)
        assert "pareto_k" in out
        drawn = {"pareto_k", "calibration", "predictive_checks", "latent_scatter"}
        assert all(f"{name}.png" in out for name in drawn) and "signal_to_noise.png" not in out
        assert (
            drawn <= {path.stem for path in Path("run/figures").iterdir()} and "checks pass" in out
        )

    def test_diagnose_shows_what_is_known_of_random_weights(self, run: Callable[..., str]) -> None:
        run("train", *QUICK, "--weights", "mean_field", "--epochs", "1", "--out", "run")
        out = run("diagnose", "run", "--num-data", "20", "--num-samples", "10")
        assert "unsure_weights" in out and Path("run/figures/signal_to_noise.png").is_file()

    @pytest.mark.parametrize(("verdict", "status"), [("look", 1), ("pass", 0)])
    def test_strict_turns_a_failed_check_into_status_1(
        self, folder: str, verdict: str, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check = diagnostics.Check("name", 1.0, 2.0, "unit", verdict, "meaning")
        draws = torch.zeros(3, 2, dtype=torch.long)
        found = diagnostics.Examination(
            [check], torch.zeros(3), diagnostics.Calibration(draws, 9, ("a", "b")), {}, {}
        )
        monkeypatch.setattr(diagnostics, "examine", lambda *args, **options: found)
        monkeypatch.setattr(diagnostics, "examination_figures", lambda found: {})
        monkeypatch.setattr(commands, "figures", lambda *args: {})
        command = ["diagnose", folder, "--num-data", "20", "--num-samples", "10"]
        assert main(command) == 0
        assert main([*command, "--strict"]) == status

    @pytest.mark.parametrize(
        ("words", "names"),
        [
            (
                [],
                "interpolations latent_scatter manifold prior_samples reconstructions "
                "training_curves traversals",
            ),
            (["--latent-size", "3", "--event-shape", "64"], "latent_scatter training_curves"),
            (
                ["--data", "uniform_square", "--likelihood", "normal_shared"],
                "latent_scatter prior_samples reconstructions training_curves",
            ),
        ],
    )
    def test_sample_draws_what_fits_the_data(
        self, words: list[str], names: str, run: Callable[..., str]
    ) -> None:
        run("train", *QUICK, *words, "--epochs", "1", "--out", "run")
        run("sample", "run", "--num-data", "50")
        assert sorted(path.stem for path in Path("run/figures").iterdir()) == names.split()

    def test_the_same_seed_draws_the_same_figures(self, run: Callable[..., str]) -> None:
        run(
            "train",
            *QUICK,
            "--data",
            "uniform_square",
            "--likelihood",
            "normal_unit",
            "--epochs",
            "1",
            "--out",
            "run",
        )
        pictures = []
        for seed in ("1", "1", "2"):
            run("sample", "run", "--num-data", "50", "--seed", seed)
            pictures.append(Path("run/figures/prior_samples.png").read_bytes())
        assert pictures[0] == pictures[1] != pictures[2]


def test_the_demo_shows_everything_and_names_its_files(run: Callable[..., str]) -> None:
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/notes.txt").write_text("mine")
    out = run("demo", "--epochs", "2", "--no-progress")
    for words in ("lower bound", "log p(x)", "Pareto k", "analytic"):
        assert words in out
    files = [Path(line) for line in out.splitlines() if line.startswith("runs/demo-2/")]
    assert {"manifold.png", "training_curves.png", "posterior.nc"} < {file.name for file in files}
    assert all(file.stat().st_size > 0 for file in files)
    assert [path.name for path in Path("runs/demo").iterdir()] == ["notes.txt"]


def test_python_m_is_the_command() -> None:
    done = subprocess_run("--version")
    assert (done.returncode, done.stdout) == (0, f"ppl-vae {__version__}\n")
    assert not os.listdir()


class TestReadme:
    TEXT = (ROOT / "README.md").read_text(encoding="utf-8")

    def test_its_commands_are_read(self) -> None:
        commands = re.findall(r"^    ppl-vae (.*?)(?:  #.*)?$", self.TEXT, flags=re.MULTILINE)
        assert len(commands) >= 6
        for command in commands:
            parse(command.split())

    def test_its_program_runs(self) -> None:
        program = re.findall(r"```python\n(.*?)```", self.TEXT, flags=re.DOTALL)[0]
        short = program.replace("epochs=50", "epochs=1, progress=False").replace(
            "num_samples=1000", "num_samples=20"
        )
        done = subprocess.run(
            [sys.executable, "-c", short], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("{'direction': 'analytic', 'z': 'analytic'}")
        assert Path("ring.safetensors").exists()
