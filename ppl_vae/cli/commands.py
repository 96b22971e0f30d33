"""What each subcommand does, once its arguments are read.

Knows the rooms of the library and a run's folder. Must not know how arguments are typed: it is
given their values.
"""

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae import __version__, checks, diagnostics
from ppl_vae.array_files import ARRAYS, file_kind
from ppl_vae.checkpoint import trusted_code
from ppl_vae.cli.figures import figures
from ppl_vae.cli.options import config_options
from ppl_vae.cli.parser import DRAWN
from ppl_vae.cli.report import check_table, evaluation_lines, evaluation_report, verdict
from ppl_vae.cli.run_folder import Record, RunFolder, fit_defaults, fresh_folder, shaped_data
from ppl_vae.datasets import SPLITS, Dataset, load_data
from ppl_vae.inputs import in_memory
from ppl_vae.training import History, fit
from ppl_vae.training.ranks import Ranks, joined_ranks
from ppl_vae.vae import VAE, VAEConfig, build

__all__ = ["demo", "diagnose", "evaluate", "sample", "train"]

PARTS = ("train", "validation", "test")
DATA_OPTIONS = {"data": "name", "split": "split", "binarization": "binarization"}
# Binarised, because grey pixels under a Bernoulli have no log p(x) to report.
DEMO = {
    "data": "digits",
    "binarization": "dynamic",
    "latent_size": 2,
    "hidden_sizes": (200, 200),
    "activation": "silu",
}
RESUME_OPTIONS = ("resume", "epochs", "device", "progress", "trust_code")


def train(given: Namespace) -> int:
    """Train a VAE into a new folder, or go on with the run in an old one."""
    values = {name: value for name, value in vars(given).items() if name != "command"}
    before = RunFolder(values["resume"]).record().fit if "resume" in values else {}
    with joined_ranks((before | values).get("device")) as ranks:
        run, history = _resume(values, ranks) if "resume" in values else _start(values, ranks)
    if ranks.first:
        print(f"{run.path}: {_summary(history)}")
        print(
            f"next: ppl-vae evaluate {run.path}, ppl-vae sample {run.path}, ppl-vae diagnose "
            f"{run.path}"
        )
    return 0


def _start(values: dict[str, Any], ranks: Ranks) -> tuple[RunFolder, History]:
    """Train in a folder of its own, which goes again if no checkpoint is reached."""
    source = {"name": "digits"} | {
        name: values[option] for option, name in DATA_OPTIONS.items() if option in values
    }
    fields = {
        option.name: values[option.name] for option in config_options() if option.name in values
    }
    arguments = fit_defaults() | {name: values[name] for name in fit_defaults() if name in values}
    data, vae = _data_and_vae(source, fields, arguments["seed"])
    source |= {
        f: getattr(data, f)
        for f in ("name", "split", "binarization", "checksum")
        if getattr(data, f)
    }
    if not data.grey:
        source["grey"] = False
    run = RunFolder(
        ranks.agree(values.get("out") or fresh_folder(Path("runs") / Path(data.name).stem))
    )
    if ranks.first:
        run.start(Record(vae.config, source, arguments))
    try:
        return run, _fit(run, vae, data, arguments, values.get("progress", True), resume=False)
    except BaseException:
        if ranks.first:
            run.remove_if_untrained()
        raise


def _data_and_vae(source: dict[str, Any], fields: dict[str, Any], seed: int) -> tuple[Dataset, VAE]:
    """The data, and a VAE of their shape, whose likelihood says what bytes in a file are."""
    arrays = source["name"] not in SPLITS and file_kind(str(source["name"])) in ARRAYS
    numbers = arrays and source.get("binarization", "none") == "none"
    data = load_data(**source, grey=not numbers)
    config = VAEConfig(**{"event_shape": data.event_shape, **fields})
    data = shaped_data(data, config.event_shape)
    vae = build(config, num_data=len(data.train), seed=seed)
    if numbers and vae.grey:
        data = shaped_data(load_data(**source), config.event_shape)
    return data, vae


def _resume(values: dict[str, Any], ranks: Ranks) -> tuple[RunFolder, History]:
    """Go on with a run, with the settings it was started with."""
    run = RunFolder(values["resume"])
    record = run.record()
    for name in values:
        if name not in RESUME_OPTIONS:
            flag = f"--{name.replace('_', '-')}"
            checks.refuse(
                flag,
                "a value together with --resume",
                "the run's own settings",
                "--epochs may be raised, and --device be another",
            )
    done = checks.integer(f"epochs of {run.path}", record.fit["epochs"])
    arguments = record.fit | {
        "epochs": checks.integer("--epochs", values.get("epochs", done), done)
    }
    if "device" in values:
        arguments["device"] = values["device"]
    vae, data = run.load(record, values.get("trust_code", False)), record.dataset()
    if ranks.first:
        run.write_record(dataclasses.replace(record, fit=arguments))
    own = [arguments[name] for name in ("estimator", "optimizer", "corruption")]
    names = [name for name in own if not name.startswith("renyi:")]
    with trusted_code(names, run.code(), values.get("trust_code", False)):
        history = _fit(run, vae, data, arguments, values.get("progress", True), resume=True)
    return run, history


def _fit(
    run: RunFolder, vae: VAE, data: Dataset, arguments: dict[str, Any], progress: bool, resume: bool
) -> History:
    rest = {name: value for name, value in arguments.items() if name != "validation"}
    held_out = arguments["validation"] or arguments["all_data"]
    validation = data.validation if held_out else None
    binarization = "dynamic" if data.binarization == "dynamic" else "none"
    return fit(
        vae,
        data.train,
        validation=validation,
        binarization=binarization,
        checkpoint=run.path,
        resume=resume,
        progress=progress,
        **rest,
    )


def _summary(history: History) -> str:
    last = history.rows[-1]
    held_out = (
        f" (held out {last['validation_lower_bound']:.2f})"
        if "validation_lower_bound" in last
        else ""
    )
    kinds = ", ".join(f"{site} {kind}" for site, kind in history.kl_kinds.items())
    seconds = sum(row["seconds"] for row in history.rows)
    stopped = (
        f"; {history.stopped}, parameters of epoch {history.best_epoch}" if history.stopped else ""
    )
    return (
        f"{last['epoch']} epochs in {seconds:.1f} s (steps: {history.tier}), lower bound "
        f"{last['lower_bound']:.2f}"
        f"{held_out} nats per datum, KL {kinds}{stopped}"
    )


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A run as the commands that look at it need it: x (N, *event_shape) and labels of the part
    asked for.
    """

    run: RunFolder
    record: Record
    vae: VAE
    part: str
    x: Any
    labels: Tensor | None

    def __str__(self) -> str:
        return f"{self.run.path}: {len(self.x)} {self.part} data of {self.record.data['name']}"

    def first(self, num_data: int | None) -> "_Loaded":
        """The same with the first `num_data` of the data only."""
        if num_data is None:
            return dataclasses.replace(self, x=in_memory("x", self.x))
        n = checks.integer("--num-data", num_data, 2)  # one datum has no variance between data
        return dataclasses.replace(
            self, x=self.x[:n], labels=None if self.labels is None else self.labels[:n]
        )


def _load(given: Namespace) -> _Loaded:
    run = RunFolder(given.run)
    record = run.record()
    if not run.has_checkpoint():
        checks.refuse(
            "run",
            f"{run.path}, without a checkpoint",
            "a trained one",
            f"ppl-vae train --resume {run.path}",
        )
    vae = _placed(run.load(record, given.trust_code), given)
    data = record.dataset()
    part = checks.choice("--part", given.part, PARTS)
    return _Loaded(run, record, vae, part, getattr(data, part), getattr(data, f"{part}_labels"))


def _placed(vae: VAE, given: Namespace) -> VAE:
    if given.device is not None:
        checks.moved("--device", vae, given.device)
    return vae


def sample(given: Namespace) -> int:
    """Write the figures of a run."""
    _write_figures(_load(given).first(given.num_data), given.seed)
    return 0


def evaluate(given: Namespace) -> int:
    """Print what a run is worth on held-out data, and write it to evaluation.json."""
    if given.prior_share is not None and given.method != "importance":
        checks.refuse(
            "--prior-share",
            f"a value together with --method {given.method}",
            "--method importance, whose samples it shares out",
        )
    num_samples = given.num_samples
    if num_samples is None and given.method == "importance":
        num_samples = 1000
    progress = getattr(given, "progress", True)
    loaded = _load(given).first(given.num_data)
    _evaluate(loaded, num_samples, given.seed, progress, given.prior_share, given.method)
    return 0


def diagnose(given: Namespace) -> int:
    """Print a verdict on the posterior; write posterior.nc, the figures of the checks and those of
    the run.
    """
    everything = _load(given)
    loaded = everything.first(given.num_data)
    found = diagnostics.examine(loaded.vae, loaded.x, checks.seed(given.seed, "--seed"))
    print(f"{loaded}\n", *check_table(found.checks), "", verdict(found.checks), "", sep="\n")
    print(*loaded.run.write_figures(diagnostics.examination_figures(found)), sep="\n")
    _write_posterior(loaded, given.num_samples, given.seed)
    _write_figures(everything.first(DRAWN), given.seed)
    return int(given.strict and any(check.verdict != "pass" for check in found.checks))


def demo(given: Namespace) -> int:
    """Train on the digits with two latents, then evaluate, diagnose and draw."""
    torch.set_num_threads(
        1
    )  # a step this small is slower on two, and many times slower where they have to wait
    out = given.out or fresh_folder(Path("runs") / "demo")
    progress = getattr(given, "progress", True)
    decay = f"linear:0.004:0:{given.epochs}"
    values = {
        "out": out,
        "epochs": given.epochs,
        "learning_rate": decay,
        "seed": given.seed,
        "progress": progress,
        "device": given.device,
    }
    run, history = _start(DEMO | values, Ranks())
    print(f"{out}: {_summary(history)}\n")
    record, vae = run.record(), _placed(run.load(run.record(), trust_code=False), given)
    data = record.dataset()
    loaded = _Loaded(run, record, vae, "test", data.test, data.test_labels)
    _evaluate(loaded, 1000, given.seed, progress=False)
    print("")
    _write_posterior(loaded, 500, given.seed)
    _write_figures(loaded, given.seed)
    return 0


def _evaluate(
    loaded: _Loaded,
    num_samples: int | None,
    seed: int,
    progress: bool,
    prior_share: float | None = None,
    method: str = "importance",
) -> None:
    estimator, num_particles = loaded.record.fit["estimator"], loaded.record.fit["num_particles"]
    if ":" in estimator and not estimator.startswith("renyi:"):
        estimator = "A"  # one of the user's own may keep no terms: its bound is judged by A
    report = evaluation_report(
        loaded.vae,
        loaded.x,
        estimator,
        num_particles,
        num_samples,
        seed,
        progress,
        prior_share,
        method,
    )
    print(f"{loaded}\n", *evaluation_lines(report), sep="\n")
    loaded.run.write_json(
        "evaluation.json", {"version": __version__, "part": loaded.part, **report}
    )


def _write_posterior(loaded: _Loaded, num_samples: int, seed: int) -> None:
    idata = diagnostics.to_inference_data(loaded.vae, loaded.x, num_samples, seed, loaded.labels)
    print(loaded.run.write_posterior(idata))


def _write_figures(loaded: _Loaded, seed: int) -> None:
    drawn = figures(
        loaded.vae, loaded.x, loaded.labels, loaded.run.history(), checks.seed(seed, "--seed")
    )
    print(*loaded.run.write_figures(drawn), sep="\n")
