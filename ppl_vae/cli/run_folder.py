"""A run's folder: where it is, what it was run with, and what is written into it.

config.json (data, `VAEConfig`, arguments of `fit`, version), history.csv and checkpoint.safetensors
(written by `fit`), evaluation.json, posterior.nc, figures/*.png. Every file appears whole or not at
all. Knows files and JSON; must not know what trains or draws.
"""

import csv
import dataclasses
import itertools
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae import __version__, checks
from ppl_vae.checkpoint import (
    CHECKPOINT,
    build_trusted,
    config_from_json,
    config_to_json,
    load,
    read_tensors,
    run_lock,
)
from ppl_vae.cli.options import fit_options
from ppl_vae.datasets import Dataset, load_data
from ppl_vae.files import parse_json, saved
from ppl_vae.vae import VAE, VAEConfig

__all__ = ["Record", "RunFolder", "fit_defaults", "fresh_folder", "shaped_data"]


@dataclass(frozen=True)
class Record:
    """What a run was started with: `data` as arguments of `load_data`, and those of `fit` in plain
    values.
    """

    config: VAEConfig
    data: dict[str, Any]
    fit: dict[str, Any]

    def dataset(self) -> Dataset:
        """The run's data, in the shape it was given."""
        return shaped_data(load_data(**{"name": "", **self.data}), self.config.event_shape)


def shaped_data(data: Dataset, event_shape: tuple[int, ...]) -> Dataset:
    """The same data with each datum reshaped; `InputError` if the number of values differs."""
    if data.event_shape == event_shape:
        return data
    if not isinstance(data.train, Tensor):
        hint = "save them in that shape"
        checks.refuse(
            "event_shape", str(event_shape), f"that of the files, {data.event_shape}", hint
        )
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    try:
        parts = {name: part.reshape(len(part), *event_shape) for name, part in parts.items()}
    except RuntimeError:
        checks.refuse(
            "event_shape", str(event_shape), f"as many values as the data's {data.event_shape}"
        )
    return dataclasses.replace(data, event_shape=event_shape, **parts)


def fit_defaults() -> dict[str, Any]:
    """The arguments of `fit` that a record holds, at their defaults; a progress bar is no setting
    of a run.
    """
    return {option.name: option.default for option in fit_options() if option.name != "progress"}


def fresh_folder(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that is not taken."""
    numbered = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    return next(folder for folder in itertools.chain([path], numbered) if not _taken(folder))


def _finite(value: Any) -> Any:
    """The same value with None for NaN and the infinities, which JSON has no words for."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _taken(folder: Path) -> bool:
    """Whether anything but hidden files is there."""
    return folder.exists() and (
        not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir())
    )


class RunFolder:
    """The folder of one run, at `path`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def start(self, record: Record) -> None:
        """Make the folder with its config.json; `InputError` if something is there or it cannot be
        made.
        """
        if _taken(self.path):
            again = f"choose another, or go on with it by train --resume {self.path}"
            checks.refuse("--out", f"{self.path}, which is not empty", "a new folder", again)
        try:
            self.write_record(record)
        except OSError as error:
            checks.refuse(
                "--out", f"{self.path} ({error.strerror})", "a folder that can be written"
            )

    def write_record(self, record: Record) -> None:
        """Write config.json, unless another process is at work in the folder."""
        config = config_to_json(record.config)
        with run_lock(self.path):
            self.write_json(
                "config.json",
                {"version": __version__, "data": record.data, "config": config, "fit": record.fit},
            )

    def remove_if_untrained(self) -> None:
        """Take back what `start` made, if no checkpoint was reached."""
        if not self.has_checkpoint():
            for name in ("config.json", ".lock"):
                (self.path / name).unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def has_checkpoint(self) -> bool:
        """Whether there are parameters to load."""
        return (self.path / CHECKPOINT).is_file()

    def record(self) -> Record:
        """What config.json says; `InputError` if it is missing or damaged."""
        file = self.path / "config.json"
        try:
            values = parse_json(file.read_bytes())
            config, data, arguments = (dict(values[part]) for part in ("config", "data", "fit"))
        except OSError:
            checks.refuse(
                "run",
                str(self.path),
                "the folder of a run, with its config.json",
                "see ppl-vae train --help",
            )
        except (ValueError, KeyError, TypeError):
            checks.refuse(
                f"{file}", "not what this library writes", "a JSON object with config, data and fit"
            )
        checks.options(
            f"data in {file}", data, ("name", "split", "binarization", "checksum", "grey")
        )
        checks.options(f"fit in {file}", arguments, fit_defaults())
        for option in fit_options():
            if option.annotation is bool and option.name in arguments:
                checks.truth(f"{option.name} in {file}", arguments[option.name])
        return Record(config_from_json(config), data, fit_defaults() | arguments)

    def load(self, record: Record, trust_code: bool) -> VAE:
        """The VAE as it was saved last; as it was at the start if it never was."""
        if self.has_checkpoint():
            return load(self.path, trust_code=trust_code)
        return build_trusted(record.config, trust_code=trust_code, seed=record.fit["seed"])

    def code(self) -> Any:
        """What the checkpoint says of the user's files that were run, path -> sha256; None without
        a checkpoint.
        """
        if not self.has_checkpoint():
            return None
        return read_tensors(self.path / CHECKPOINT)[1].get("code")

    def history(self) -> list[dict[str, str]]:
        """The rows of history.csv."""
        file = self.path / "history.csv"
        return (
            list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
            if file.exists()
            else []
        )

    def write_json(self, name: str, values: Mapping[str, Any]) -> Path:
        """Write a JSON file, in which a number that is not finite is null; returns its path."""
        with saved(self.path / name) as file:
            file.write(json.dumps(_finite(values), indent=1, allow_nan=False).encode())
        return self.path / name

    def write_figures(self, figures: Mapping[str, Figure]) -> list[Path]:
        """Write each figure as figures/NAME.png; returns the paths."""
        paths = []
        for name, figure in figures.items():
            paths.append(self.path / "figures" / f"{name}.png")
            with saved(paths[-1]) as file:
                figure.savefig(file, format="png")
        return paths

    def write_posterior(self, idata: Any) -> Path:
        """Write an arviz object as posterior.nc; returns its path."""
        path = self.path / "posterior.nc"
        with tempfile.TemporaryDirectory() as folder, saved(path) as file:
            whole = Path(folder) / path.name
            try:
                idata.to_netcdf(str(whole))
            except RuntimeError as error:  # as its library says it of a disk that is full
                raise OSError(f"{error} (a file in {folder})") from error
            file.write(whole.read_bytes())
        return path
