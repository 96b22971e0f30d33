"""Everything a run has to remember so that a resumed one equals, bit for bit, one that was never
stopped.

Knows checkpoint files and generators; knows nothing of losses.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.checkpoint import (
    CHECKPOINT,
    load_state,
    model_header,
    read_tensors,
    remember_code,
    write_tensors,
)
from ppl_vae.training.history import History
from ppl_vae.training.optimizers import Update
from ppl_vae.vae import VAE

__all__ = ["OWN_ROWS", "RunState", "restore_run", "save_run"]

# Rows of the history that a checkpoint holds itself, the last ones: until a run is longer, it is
# whole without its history.csv, too, and no save writes all rows.
OWN_ROWS = 300


@dataclass
class RunState:
    """Where a run stands: `epoch` epochs and `batch` batches of the next one are done."""

    epoch: int = 0
    batch: int = 0
    rows: int = 0
    sums: Tensor | None = None
    seconds: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_value: float = -float("inf")
    constraint: dict[str, float] = field(default_factory=dict)
    history: History = field(default_factory=History)

    def add(self, report: Tensor, num_rows: int) -> None:
        """Count a batch whose report (R,), in nats per datum, is a mean over its rows."""
        if self.sums is None:
            self.sums = report * num_rows
        else:
            self.sums.add_(report, alpha=num_rows)
        self.rows += num_rows
        self.batch += 1

    def means(self) -> list[float]:
        """The reports' means over the data of this epoch so far."""
        assert self.sums is not None
        return (self.sums / self.rows).tolist()

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Count the epoch, whose row of the history this is, and begin the next one."""
        self.history.rows.append(row)
        self.epoch += 1
        self.batch, self.rows, self.sums, self.seconds = 0, 0, None, 0.0


def save_run(
    folder: Path,
    vae: VAE,
    update: Update,
    state: RunState,
    settings: dict[str, Any],
) -> None:
    """Write the run's one checkpoint file, atomically, with the last `OWN_ROWS` rows of the
    history.
    """
    tensors = dict(vae.state_dict())
    tensors |= {f"training/optimizer/{name}": t for name, t in update.state().items()}
    tensors |= {f"training/best/{name}": t for name, t in state.best.items()}
    tensors |= {f"training/average/{name}": t for name, t in _averages(vae, update).items()}
    tensors["training/generator"] = torch.get_rng_state()
    if next(vae.parameters()).is_cuda:
        tensors["training/generator_cuda"] = torch.cuda.get_rng_state()
    if state.sums is not None:
        tensors["training/sums"] = state.sums
    history = state.history
    run: dict[str, Any] = {
        "epoch": state.epoch,
        "batch": state.batch,
        "seen": state.rows,
        "seconds": state.seconds,
    }
    run |= {
        "best_value": state.best_value,
        "best_epoch": history.best_epoch,
        "constraint": state.constraint,
    }
    run |= {"stopped": history.stopped}
    first = max(0, len(history.rows) - OWN_ROWS)
    run |= {"rows": history.tail(first), "tier": history.tier}
    write_tensors(
        folder / CHECKPOINT, tensors, {**model_header(vae), "settings": settings, "run": run}
    )
    remember_code(vae)


def _averages(vae: VAE, update: Update) -> dict[str, Tensor]:
    """The parameters' moving averages, where they are kept, by the parameters' names."""
    names = {id(p): name for name, p in vae.named_parameters()}
    return {names[id(p)]: average for p, average in zip(update.parameters, update.averages)}


def restore_run(
    folder: Path, vae: VAE, update: Update, settings: dict[str, Any], history: Path
) -> RunState:
    """Put a run back to where `save_run` left it, with the rows in the file `history`.
    `InputError` if it was run with other settings.
    """
    tensors, header = read_tensors(folder / CHECKPOINT)
    run, before = header.get("run"), header.get("settings")
    if not isinstance(run, dict) or not isinstance(before, dict):
        checks.refuse(
            f"checkpoint in {folder}",
            "a saved VAE without a run's state",
            "a checkpoint written by fit",
        )
    changed = [k for k, v in settings.items() if before.get(k) != v and k != "epochs"]
    if changed:
        was = ", ".join(f"{k}={before.get(k)!r} (now {settings[k]!r})" for k in changed)
        checks.refuse(
            f"resuming {folder}", was, "the settings the run was started with (epochs may differ)"
        )
    try:
        _check_run(f"checkpoint in {folder}", run, settings)
        state = _restored(vae, update, tensors, run, folder)
        state.history.restore_rows(run["rows"], history)
        return state
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        checks.refuse(
            f"checkpoint in {folder}",
            f"an incomplete run's state ({error})",
            "a checkpoint written by fit",
            "the parameters alone may still be had with load",
        )


def _check_run(subject: str, run: dict[str, Any], settings: dict[str, Any]) -> None:
    """`InputError` unless a run's state, read from a file, is one that a run can be in."""
    epoch = checks.integer(f"{subject}: epoch", run["epoch"], 0)
    batch = checks.integer(f"{subject}: batch", run["batch"], 0)
    seen = checks.integer(f"{subject}: seen", run["seen"], 0)
    checks.number(f"{subject}: seconds", run["seconds"], 0.0)
    if batch * settings["batch_size"] >= settings["num_data"] + settings["batch_size"]:
        checks.refuse(f"{subject}: batch", batch, "one of an epoch's")
    if seen > settings["num_data"] or (seen == 0) != (batch == 0):
        checks.refuse(f"{subject}: seen", seen, f"the data of {batch} batches")
    _check_rows(f"{subject}: rows", run["rows"], epoch)


def _check_rows(subject: str, tail: Any, epoch: int) -> None:
    """`InputError` unless a tail of the history ends with the row of epoch `epoch`."""
    names = ("first", "columns", "values")
    if not isinstance(tail, dict) or any(name not in tail for name in names):
        checks.refuse(subject, type(tail).__name__, "rows of the history with their columns")
    first, columns, values = (tail[name] for name in names)
    checks.integer(f"{subject}: first", first, 0)
    lists = isinstance(columns, list) and isinstance(values, list)
    if not lists or first + len(values) != epoch or (values and "epoch" not in columns):
        checks.refuse(subject, "other rows", f"those up to epoch {epoch}")
    for offset, row in enumerate(values, start=first + 1):
        if not isinstance(row, list) or len(row) != len(columns):
            checks.refuse(subject, row, f"{len(columns)} values, one a column")
        if row[columns.index("epoch")] != offset:
            checks.refuse(subject, f"epoch {row[columns.index('epoch')]}", f"epoch {offset}")
        for name, value in zip(columns, row):
            if not isinstance(value, int | float | None):
                checks.refuse(f"{subject}: {name}", value, "a number")


def _restored(
    vae: VAE, update: Update, tensors: dict[str, Tensor], run: dict[str, Any], folder: Path
) -> RunState:
    parts: dict[str, dict[str, Tensor]] = {n: {} for n in ("optimizer", "best", "average", "model")}
    for name, tensor in tensors.items():
        group, _, rest = (
            name.removeprefix("training/").partition("/")
            if name.startswith("training/")
            else ("model", "", name)
        )
        parts.setdefault(group, {})[rest] = tensor
    load_state(vae, parts["model"], folder / CHECKPOINT)
    update.restore(parts["optimizer"])
    for name, average in _averages(vae, update).items():
        average.copy_(parts["average"][name])
    torch.set_rng_state(tensors["training/generator"])
    if "training/generator_cuda" in tensors:
        torch.cuda.set_rng_state(tensors["training/generator_cuda"])
    sums = tensors.get("training/sums")
    if sums is not None:  # they are added up where the steps are made
        sums = sums.to(update.parameters[0].device)
    return _run_state(run, parts["best"], sums)


def _run_state(run: dict[str, Any], best: dict[str, Tensor], sums: Tensor | None) -> RunState:
    history = History(tier=run["tier"], best_epoch=run["best_epoch"], stopped=run["stopped"])
    place = run["epoch"], run["batch"], run["seen"], sums, run["seconds"]
    return RunState(*place, best, run["best_value"], run["constraint"], history)
