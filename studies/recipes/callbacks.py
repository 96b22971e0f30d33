"""Callbacks of `fit` for TensorBoard, MLflow, Weights & Biases and optuna.

    from studies.recipes.callbacks import tensorboard

    fit(vae, data, callbacks=[tensorboard("runs/tensorboard")])

Each needs the package it writes to, which the library does not: without it, one line says what to
install. Copy what you use.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from ppl_vae import checks
from ppl_vae.training import Event
from ppl_vae.training.callbacks import Callback

__all__ = ["mlflow", "optuna_pruning", "tensorboard", "weights_and_biases"]


def tensorboard(folder: str) -> Callback:
    """Write each epoch's numbers, by their names, as scalars of TensorBoard.

    Args:
        folder: where `tensorboard --logdir` looks.
    """
    _package("tensorboard", "tensorboard")
    writer = _package("torch.utils.tensorboard", "tensorboard").SummaryWriter(folder)

    def write(event: Event) -> None:
        if event.kind == "epoch":
            for name, value in _numbers(event.row).items():
                writer.add_scalar(name, value, event.row["epoch"])
        if event.kind == "end":
            writer.close()

    return write


def mlflow() -> Callback:
    """Log each epoch's numbers as metrics of MLflow's current run, the configuration as its
    parameters.
    """
    package = _package("mlflow", "mlflow")

    def log(event: Event) -> None:
        if event.kind == "start":
            package.log_params(vars(event.vae.config))
        if event.kind == "epoch":
            # a metric's name may hold letters, digits and _-./: and blanks
            package.log_metrics(_numbers(event.row), step=event.row["epoch"])

    return log


def weights_and_biases(**options: Any) -> Callback:
    """Log each epoch's numbers to a run of Weights & Biases.

    Args:
        options: those of `wandb.init`, such as project="vae", mode="offline".
    """
    package = _package("wandb", "wandb")
    run = package.init(**options)

    def log(event: Event) -> None:
        if event.kind == "start":
            run.config.update(vars(event.vae.config))
        if event.kind == "epoch":
            run.log(_numbers(event.row), step=event.row["epoch"])
        if event.kind == "end":
            run.finish()

    return log


def optuna_pruning(trial: Any, column: str = "validation_lower_bound") -> Callback:
    """End a trial of optuna, a study that maximises `column`, where its pruner says so.

    The exception ends the run; what it had reached is saved if it has a checkpoint. A trial that
    is to keep the run's history returns `trial.should_prune()` instead, which stops it.

    Args:
        trial: optuna's, as the objective is given it.
        column: of the history, higher is better.
    """
    package = _package("optuna", "optuna")

    def prune(event: Event) -> None:
        if event.kind != "epoch":
            return
        if column not in event.row:
            checks.refuse("column", column, f"one of {', '.join(event.row)}")
        trial.report(event.row[column], event.row["epoch"])
        if trial.should_prune():
            raise package.TrialPruned(f"after epoch {event.row['epoch']}")

    return prune


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What a plot against the epoch is made of."""
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


def _package(name: str, distribution: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        checks.refuse(
            f"the callback for {distribution}",
            f"no package {distribution} ({error})",
            "it installed",
            f"pip install {distribution}",
        )
