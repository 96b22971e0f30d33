"""`fit`: the training loop, from top to bottom.

Knows everything a run needs and nothing of what a step does inside: `step.py` and `recorded.py` give it gradients,
`optimizers.py` applies them, `state.py` remembers. The global generator is used inside a fork and left as it was.
"""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.checkpoint import CHECKPOINT, run_lock
from ppl_vae.objectives import Objective, kl_report
from ppl_vae.training.history import History
from ppl_vae.training.optimizers import Update
from ppl_vae.training.schedules import Constrained, Schedule
from ppl_vae.training.settings import Settings
from ppl_vae.training.state import RunState, restore_run, save_run
from ppl_vae.training.step import ObjectiveModule, Step, local_parameters
from ppl_vae.training.tiers import choose_tier, make_step
from ppl_vae.vae import VAE, evaluating

__all__ = ["fit"]

VALIDATION_ROWS = 1000


def fit(
    vae: VAE,
    data: Tensor,
    *,
    validation: Tensor | None = None,
    estimator: str = "B",
    num_particles: int = 1,
    batch_size: int = 100,
    epochs: int = 10,
    kl_weight: float | str | Schedule = 1.0,
    weight_kl_weight: float | str | Schedule = 1.0,
    learning_rate: float | str | Schedule = 1e-3,
    optimizer: str = "adam",
    weight_penalty: float = 0.0,
    binarization: str = "none",
    corruption: str = "none",
    corruption_level: float | str | Schedule = 0.0,
    early_stopping: int | None = None,
    seed: int = 0,
    compile: str = "auto",
    precision: str = "float32",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Train `vae` in place by maximising the evidence lower bound; leaves it in evaluation mode.

    loss = -mean_i[ E_q log p(x_i|z_i) - kl_weight KL(q(z_i|x_i) || p(z_i)) ] + weight_kl_weight KL(theta) / N
           + weight_penalty ||parameters||^2 / (2 N), in nats per datum.

    Args:
        vae: what `build` returns; its `num_data` becomes N = len(data).
        data: x, (N, *event_shape), float, or uint8 pixels, which are divided by 255 batch by batch.
        validation: held-out x, (V, *event_shape); its bound is computed each epoch with the same noise every time.
        estimator: "A" (every term sampled), "B" (closed-form KL where there is one), "iwae" (importance-weighted) or
            "dreg" (the same with doubly reparameterised gradients).
        num_particles: L, draws of z a datum.
        kl_weight, weight_kl_weight, learning_rate: a number, "linear:start:end:epochs" or a function of the epoch;
            kl_weight also "constrained:kl:20" (KL <= 20 nats) or "constrained:reconstruction:-90" (E_q log p >= -90).
        optimizer: "adam" or "adagrad".
        weight_penalty: lambda; 1 is the N(0, I) prior of Auto-Encoding Variational Bayes, counted once for all data.
        binarization: "dynamic" draws each pixel anew, x ~ Bernoulli(data), every time a datum is used.
        corruption: "salt_and_pepper", "normal" or "masking": corrupts what the guide sees of x.
        corruption_level: how much of it (`handlers.corruption`), a number or a schedule like the three above.
        early_stopping: epochs without a better validation bound after which to stop, at the best epoch's parameters.
        seed: fixes data order and noise; the global generator is left as it was.
        compile: "off" (eager Pyro), "record" (recorded graph), "inductor" (compiled graph) or "auto" (by the number of
            steps to run).
        precision: "float32", or "bfloat16" for matrix products alone, faster where the processor has them.
        checkpoint: the run's folder; every `checkpoint_every` epochs, and on Ctrl-C, the run's state is saved there.
        resume: go on from the folder's checkpoint; the result equals, bit for bit, that of a run never stopped.
        progress: show a progress bar.

    Returns the history. Raises `InputError` for bad values and `FloatingPointError` when the loss is not finite.
    """
    settings = Settings(estimator, num_particles, batch_size, epochs, kl_weight, weight_kl_weight, learning_rate,
                        optimizer, weight_penalty, binarization, corruption, corruption_level, early_stopping,
                        seed, compile, precision)  # fmt: skip
    data, validation = _checked(vae, data, validation, early_stopping, binarization)
    folder = None if checkpoint is None else Path(checkpoint)
    checks.integer("checkpoint_every", checkpoint_every)
    vae.num_data = len(data)
    run = Run(vae, data, validation, settings, folder)
    with run_lock(folder) if folder else contextlib.nullcontext(), torch.random.fork_rng():
        run.start(resume)
        with _deferred_interrupt() as interrupted, local_parameters(), run.bar(progress) as bar:
            while run.state.epoch < epochs and not run.state.history.stopped:
                run.epoch(bar, interrupted)
                if run.state.epoch % checkpoint_every == 0 or run.state.epoch == epochs or run.state.history.stopped:
                    run.save()
        return run.finish()


def _checked(
    vae: VAE, data: Tensor, validation: Tensor | None, early_stopping: int | None, binarization: str
) -> tuple[Tensor, Tensor | None]:
    shape = vae.config.event_shape
    support = getattr(vae.model.decoder.likelihood, "support", (-math.inf, math.inf))
    checks.data("data", data, shape)
    checks.inside("data", data, support, f"likelihood '{vae.config.likelihood}'")
    if binarization == "dynamic":
        checks.inside("data", data, (0.0, 1.0), "binarization 'dynamic'")
    if validation is not None:
        checks.inside(
            "validation", checks.data("validation", validation, shape), support, f"likelihood '{vae.config.likelihood}'"
        )
    if early_stopping is not None and validation is None:
        checks.refuse("early_stopping", early_stopping, "validation data to stop by", "pass validation=...")
    return data, validation


class Run:
    """One call of `fit`, or a loop somebody else drives: the pieces the loop works with, and the run's state."""

    def __init__(
        self, vae: VAE, data: Tensor, validation: Tensor | None, settings: Settings, folder: Path | None
    ) -> None:
        self.vae, self.data, self.validation, self.settings, self.folder = vae, data, validation, settings, folder
        self.objective = Objective(settings.estimator, settings.num_particles, settings.corruption)
        self.schedules = settings.schedules()
        decay = settings.weight_penalty / len(data)
        self.update = Update(settings.optimizer, [p for p in vae.parameters() if p.requires_grad], decay)
        self.device = self.update.parameters[0].device
        self.num_batches = math.ceil(len(data) / settings.batch_size)
        self.state = RunState()
        self._scheduled: tuple[list[Any], Tensor] = [], torch.empty(0)

    def start(self, resume: bool) -> None:
        """Seed, check the programs once with validation on, read the checkpoint if resuming, and make the step."""
        settings, file = self.settings, self.folder / CHECKPOINT if self.folder else None
        torch.manual_seed(settings.seed)
        first = self.batch(torch.arange(min(settings.batch_size, len(self.data))))
        with evaluating(self.vae):
            kinds = kl_report(self.vae.model, self.vae.guide, first, settings.estimator)
        if file and file.exists() and not resume:
            checks.refuse(
                f"run folder {self.folder}",
                "a run that is already there",
                "a new folder",
                "resume=True goes on with it",
            )
        torch.manual_seed(settings.seed)
        if resume and file and file.exists():
            self.state = restore_run(self.folder, self.vae, self.update, self.plain_settings())  # type: ignore[arg-type]
        if hasattr(self.vae.model.prior, "start_from"):
            self.vae.model.prior.start_from(self.data)
        history = self.state.history
        history.kl_kinds = kinds
        if isinstance(self.schedules["kl_weight"], Constrained):
            self.schedules["kl_weight"].memory = self.state.constraint
        started = bool(history.rows or self.state.batch)  # a resumed run keeps the tier it was started with
        tier = history.tier if started else choose_tier(settings.compile, self.num_batches * settings.epochs)
        self.vae.train()
        with local_parameters():
            module = ObjectiveModule(self.vae, self.objective, settings.precision)
            self.step: Step = make_step(module, self.update, tier, first, self.scheduled([0.0])[0])

    def plain_settings(self) -> dict[str, Any]:
        """What a checkpoint stores of the settings."""
        return {**self.settings.plain(), "num_data": len(self.data)}

    def batch(self, index: Tensor) -> Tensor:
        """The rows of `index`, as float, binarised anew where asked."""
        x = _floats(self.data[index.to(self.data.device)].to(self.device))
        return torch.bernoulli(x) if self.settings.binarization == "dynamic" else x

    def scheduled(self, epochs: Sequence[float]) -> Tensor:
        """The values that may change between steps, (len(epochs), 4), in the order of `SCHEDULED`."""
        kl, weight_kl, level = (self.schedules[name] for name in ("kl_weight", "weight_kl_weight", "corruption_level"))
        rows = [(kl(epoch), weight_kl(epoch), 1.0 / len(self.data), level(epoch)) for epoch in epochs]
        if rows != self._scheduled[0]:  # a tensor made anew only when a value is new
            self._scheduled = rows, torch.tensor(rows, device=self.device)
        return self._scheduled[1]

    def epoch(self, bar: tqdm, interrupted: list[bool]) -> None:
        """The rest of one pass over the data, then its row, validation and early stopping."""
        state, began = self.state, time.perf_counter()
        order = torch.randperm(len(self.data), generator=_order(self.settings.seed, state.epoch))
        batches = order.split(self.settings.batch_size)
        shown = max(1, self.num_batches // 10)
        self.vae.train()
        while state.batch < self.num_batches:
            call = self._next(batches)
            positions = [state.epoch + (state.batch + k) / self.num_batches for k in range(len(call))]
            rates = [self.schedules["learning_rate"](position) for position in positions]
            reports = self.step((self.batch(index) for index in call), self.scheduled(positions), rates)
            self._add(reports, [len(index) for index in call])
            if state.batch // shown > (state.batch - len(call)) // shown:
                bar.set_postfix(self._shown(), refresh=False)
            bar.update(len(call))
            if interrupted:
                state.seconds += time.perf_counter() - began
                self._interrupt()
        self._end_epoch(time.perf_counter() - began)

    def _next(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """The batches of the next call: as many as a step takes at once if they are all of one size, else one."""
        start, calls = self.state.batch, self.step.calls
        group = batches[start : start + calls]
        whole = len(group) == calls and start % calls == 0 and len(group[-1]) == len(group[0])
        return group if whole else batches[start : start + 1]

    def _add(self, reports: Tensor, sizes: list[int]) -> None:
        """Add a call's reports to the sums of the epoch; stop at a loss that is not finite."""
        state = self.state
        if self.device.type == "cpu" or state.batch % 100 == 0:  # each look at a GPU's values waits for it
            self._check_finite(reports)
        for report, size in zip(reports, sizes, strict=True):
            if isinstance(self.schedules["kl_weight"], Constrained):
                self.schedules["kl_weight"].observe(dict(zip(self.step.names, report.tolist(), strict=True)))
            state.sums = report * size if state.sums is None else state.sums.add_(report, alpha=size)
            state.rows += size
        state.batch += len(sizes)

    def _shown(self) -> dict[str, str]:
        means = self._means()
        kl = sum(value for name, value in means.items() if name.startswith("kl."))
        bound, reconstruction = means["lower_bound"], means["reconstruction"]
        return {"bound": f"{bound:.2f}", "reconstruction": f"{reconstruction:.2f}", "KL": f"{kl:.2f}"}

    def _means(self) -> dict[str, float]:
        assert self.state.sums is not None
        values = (self.state.sums / self.state.rows).tolist()
        return dict(zip(self.step.names[1:], values[1:], strict=True))

    def _check_finite(self, reports: Tensor) -> None:
        for k, report in enumerate(reports.tolist()):
            if math.isfinite(report[0]):
                continue
            terms = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.step.names, report, strict=True))
            saved = self.folder / CHECKPOINT if self.folder and (self.folder / CHECKPOINT).exists() else "none"
            raise FloatingPointError(
                f"loss not finite at epoch {self.state.epoch + 1}, batch {self.state.batch + k + 1}: {terms}; "
                f"last good checkpoint: {saved}; "
                "try a smaller learning_rate, KL warm-up, or a scale floor in the likelihood"
            )

    def _end_epoch(self, seconds: float) -> None:
        state = self.state
        position = float(state.epoch + 1)
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "samples": (state.epoch + 1) * len(self.data),
            **self._means(),
        }
        row |= {name: value(position) for name, value in self.schedules.items()}
        row["seconds"] = round(state.seconds + seconds, 3)
        if self.validation is not None:
            row |= {f"validation_{n}": v for n, v in self._validate(self.validation).items()}
        state.history.rows.append(row)
        state.history.tier = self.step.tier
        state.epoch, state.batch, state.rows, state.sums, state.seconds = state.epoch + 1, 0, 0, None, 0.0
        if self.settings.early_stopping is not None:
            self._consider_stopping(row["validation_lower_bound"])

    @torch.no_grad()
    def _validate(self, x: Tensor) -> dict[str, float]:
        """Means over held-out x in evaluation mode, with the same noise at every epoch."""
        sums: Tensor | float = 0.0
        scheduled = self.scheduled([float(self.state.epoch + 1)])[0]
        with torch.random.fork_rng(), evaluating(self.vae):
            torch.manual_seed(self.settings.seed)
            for rows in x.split(VALIDATION_ROWS):
                _, report = self.objective(
                    self.vae.model, self.vae.guide, _floats(rows.to(scheduled.device)), *scheduled.unbind()
                )
                sums = sums + torch.stack(list(report.values())) * len(rows)
        return dict(zip(report, (sums / len(x)).tolist(), strict=True))  # type: ignore[union-attr]

    def _consider_stopping(self, value: float) -> None:
        state = self.state
        if value > state.best_value:
            state.best_value, state.history.best_epoch = value, state.epoch
            state.best = {name: tensor.detach().clone() for name, tensor in self.vae.state_dict().items()}
        elif state.epoch - (state.history.best_epoch or 0) >= (self.settings.early_stopping or 0):
            state.history.stopped = f"no better validation bound for {self.settings.early_stopping} epochs"

    def save(self) -> None:
        """Write checkpoint and history, if the run has a folder."""
        if self.folder:
            save_run(self.folder, self.vae, self.update, self.state, self.plain_settings())
            self.state.history.write(self.folder / "history.csv")

    def _interrupt(self) -> None:
        self.save()
        where = f"; saved, resume with resume=True (ppl-vae train --resume {self.folder})" if self.folder else ""
        raise KeyboardInterrupt(f"stopped in epoch {self.state.epoch + 1} after batch {self.state.batch}{where}")

    def finish(self) -> History:
        """Put the best epoch's parameters back, if early stopping kept them, and leave training mode."""
        self.step.release()
        if self.state.best:
            self.vae.load_state_dict(self.state.best)
        self.vae.eval()
        return self.state.history

    def bar(self, progress: bool) -> tqdm:
        """The progress bar, in steps."""
        done = self.state.epoch * self.num_batches + self.state.batch
        total = self.settings.epochs * self.num_batches
        return tqdm(total=total, initial=done, disable=not progress, unit="step", mininterval=0.2, dynamic_ncols=True)


def _floats(x: Tensor) -> Tensor:
    """x as it is, or bytes as pixels in [0, 1]."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _order(seed: int, epoch: int) -> torch.Generator:
    """The data order of an epoch depends on the seed and the epoch alone, so a resumed run finds it again."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[list[bool]]:
    """Ctrl-C waits for the step in hand: the list is no longer empty once it was pressed. A second one is immediate."""
    pressed: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def note(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
