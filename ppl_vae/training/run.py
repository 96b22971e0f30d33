"""One run of training: its pieces and its state, for a loop to drive.

Knows data, schedules, rows, validation and where a run is saved; knows nothing of what a step does
inside or of the order in which a loop calls it.
"""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.checkpoint import CHECKPOINT
from ppl_vae.elbo import ImportanceWeightedELBO, TermwiseELBO, coupling_modules, kl_report
from ppl_vae.files import remove_unfinished, side_matter
from ppl_vae.handlers.own_parameters import users_program
from ppl_vae.protocols import InitialisedFromData
from ppl_vae.terminal import Stream
from ppl_vae.training.history import History, HistoryFile
from ppl_vae.training.objective import Objective
from ppl_vae.training.optimizers import update_of
from ppl_vae.training.ranks import Ranks
from ppl_vae.training.recorded import changed_attributes, plain_attributes
from ppl_vae.training.schedules import Constrained
from ppl_vae.training.settings import Settings
from ppl_vae.training.state import OWN_ROWS, RunState, restore_run, save_run
from ppl_vae.training.step import SCHEDULED, ObjectiveModule, Step, local_parameters
from ppl_vae.training.tiers import choose_tier, make_step
from ppl_vae.vae import VAE, evaluating

__all__ = ["Run"]

log = logging.getLogger(__name__)
VALIDATION_ROWS = 1000
# No optimiser moves a coordinate by more than a few learning rates at once, so that up to here one
# step takes no parameter of single precision beyond the largest number.
LARGEST_RATE = 1e35
HISTORY = "history.csv"


class Run:
    """One call of `fit`, or a loop somebody else drives: the pieces the loop works with, and the
    run's state.
    """

    def __init__(
        self,
        vae: VAE,
        data: Tensor,
        validation: Tensor | None,
        settings: Settings,
        folder: Path | None,
    ) -> None:
        self.vae, self.data, self.validation, self.settings, self.folder = (
            vae,
            data,
            validation,
            settings,
            folder,
        )
        self.objective = Objective(
            settings.estimator, settings.num_particles, settings.corruption, settings.kl_balance
        )
        self.schedules = settings.schedules()
        decay = settings.weight_penalty / len(data)
        self.update = update_of(
            settings.optimizer, [p for p in vae.parameters() if p.requires_grad], decay
        )
        self._history_file = HistoryFile((folder or Path()) / HISTORY)
        self.device = self.update.parameters[0].device
        if (
            self.device.type != "cpu"
        ):  # resident as they are, bytes as bytes: each minibatch is gathered there
            self.data = data.to(self.device)
        self.num_batches = math.ceil(len(data) / settings.batch_size)
        self.ranks, self.state = Ranks.current(), RunState()
        self.ranks.check(len(data), settings.batch_size)
        self._scheduled: tuple[list[Any], Tensor] = [], torch.empty(0)
        self._told = False
        self._unseen: list[Tensor] = []  # reports nobody has looked at yet, one a call of the step

    def start(self, resume: bool) -> None:
        """Seed, check the programs once with validation on, read the checkpoint if resuming, and
        make the step.
        """
        for name in (CHECKPOINT, HISTORY) if self.folder and self.ranks.first else ():
            remove_unfinished(self.folder / name)  # type: ignore[operator]
        settings, file = self.settings, self.folder / CHECKPOINT if self.folder else None
        torch.manual_seed(settings.seed)
        first = self.batch(torch.arange(min(settings.batch_size, len(self.data))))
        weights = self.vae.guide.weights is not None
        self.objective.check(settings.batch_size, len(self.data), weights)
        kinds = self._kl_kinds(first)
        if file and file.exists() and not resume:
            checks.refuse(
                f"run folder {self.folder}",
                "a run that is already there",
                "a new folder",
                "resume=True goes on with it",
            )
        torch.manual_seed(settings.seed)
        if resume and file and file.exists():
            self.state = restore_run(
                file.parent, self.vae, self.update, self.plain_settings(), file.parent / HISTORY
            )
        history = self.state.history
        history.kl_kinds = kinds
        started = bool(history.rows or self.state.batch)
        prior = users_program(self.vae.model.prior)
        if isinstance(prior, InitialisedFromData) and not started:
            prior.start_from(self.data)
        self._finite_names = set(self._finite_tensors())
        self._say_what_bounds_nothing()
        self.ranks.copy_first([*self.vae.parameters(), *self.vae.buffers()])
        if isinstance(self.schedules["kl_weight"], Constrained):
            if not self.objective.keeps_terms:
                checks.refuse(
                    "kl_weight",
                    f"a constraint under {type(self.objective.elbo).__name__}",
                    "an estimator of ppl_vae.elbo, which keeps the terms apart",
                )
            self.schedules["kl_weight"].memory = self.state.constraint
        # a resumed run keeps the tier it was started with
        tier = (
            history.tier
            if started
            else choose_tier(settings.compile, self.num_batches * settings.epochs)
        )
        self.vae.train()
        with local_parameters():
            module = ObjectiveModule(self.vae, self.objective, settings.precision)
            self.step: Step = make_step(
                module, self.update, tier, first, self.scheduled([0.0])[0], self.ranks
            )
        self._recorded_with = plain_attributes(self.vae)

    def _kl_kinds(self, first: Tensor) -> dict[str, str]:
        """How the estimator gets each site's KL; an estimator of Pyro's own does not tell."""
        elbo = self.objective.elbo
        if not isinstance(elbo, TermwiseELBO):
            return {}
        with evaluating(self.vae):
            return kl_report(self.vae.model, self.vae.guide, first, elbo)

    def plain_settings(self) -> dict[str, Any]:
        """What a checkpoint stores of the settings."""
        return {**self.settings.plain(), "num_data": len(self.data)}

    def batch(self, index: Tensor) -> Tensor:
        """This rank's rows of `index`, as float, binarised anew where asked."""
        x = self.vae.as_float(self.data[self.ranks.shard(index).to(self.data.device)])
        return torch.bernoulli(x) if self.settings.binarization == "dynamic" else x

    def begin_epoch(self) -> None:
        """Training mode; and for all ranks but the first, noise of their own that a resumed run
        draws again.
        """
        self.vae.train()
        if not self.ranks.first:
            torch.manual_seed(
                ((self.settings.seed + 1) * 1_000_003 + self.state.epoch) * 4096 + self.ranks.rank
            )

    def scheduled(self, epochs: Sequence[float]) -> Tensor:
        """The values that may change between steps, (len(epochs), 4), in the order of
        `SCHEDULED`.
        """
        kl, weight_kl, level = (
            self.schedules[name] for name in ("kl_weight", "weight_kl_weight", "corruption_level")
        )
        rows = [
            (kl(epoch), weight_kl(epoch), 1.0 / len(self.data), level(epoch)) for epoch in epochs
        ]
        if rows != self._scheduled[0]:  # checked, and a tensor made anew, only when a value is new
            for name, value in zip(SCHEDULED, rows[0], strict=True):
                checks.number(
                    f"{name} at epoch {epochs[0]:g}",
                    value,
                    0.0,
                    maximum=self.settings.highest(name),
                )
            self._scheduled = rows, torch.tensor(rows, device=self.device)
        return self._scheduled[1]

    def learning_rates(self, epochs: Sequence[float]) -> list[float]:
        """The learning rate at each of these times."""
        schedule = self.schedules["learning_rate"]
        rates = [checks.number("learning_rate", schedule(epoch), 0.0) for epoch in epochs]
        for k, rate in enumerate(rates):
            if rate > LARGEST_RATE:
                self._check_reports()
                batch = self.state.batch + k + 1
                self._fail(f"learning rate {rate:g} at {self._place(batch)}; the step is not taken")
        return rates

    def add(self, reports: Tensor, sizes: list[int]) -> None:
        """Add a call's reports to the sums of the epoch; stop at a step that went wrong."""
        state = self.state
        self._unseen.append(reports)
        # each look at a GPU's values waits for it
        if self.device.type == "cpu" or state.batch % 100 == 0:
            self._check_reports(len(sizes))
        for report, size in zip(reports[:, :-1], sizes, strict=True):
            if isinstance(self.schedules["kl_weight"], Constrained):
                self.schedules["kl_weight"].observe(
                    dict(zip(self.step.names, report.tolist(), strict=True))
                )
            state.sums = (
                report * size if state.sums is None else state.sums.add_(report, alpha=size)
            )
            state.rows += size
        state.batch += len(sizes)
        state.history.tier = self.step.tier  # what runs, where another was asked for

    def shown(self) -> dict[str, str]:
        """What the progress bar shows of the epoch so far, in nats per datum."""
        means = self._means()
        shown = {"bound": f"{means['lower_bound']:.2f}"}
        if self.objective.keeps_terms:
            kl = sum(value for name, value in means.items() if name.startswith("kl."))
            shown |= {"reconstruction": f"{means['reconstruction']:.2f}", "KL": f"{kl:.2f}"}
        return shown

    def _means(self) -> dict[str, float]:
        assert self.state.sums is not None
        values = (self.state.sums / self.state.rows).tolist()
        return dict(zip(self.step.names[1:], values[1:], strict=True))

    def _check_reports(self, running: int = 0) -> None:
        """Look at the reports nobody has looked at; the last `running` are of batches not counted
        yet.
        """
        if not self._unseen:
            return
        reports, self._unseen = torch.cat(self._unseen).tolist(), []
        first = self.state.batch + running - len(reports)
        for k, (*report, norm) in enumerate(reports, start=1):
            if math.isfinite(report[0]) and math.isfinite(norm):
                continue
            what = "gradient" if math.isfinite(report[0]) else "loss"
            terms = ", ".join(
                f"{name} {value:.4g}" for name, value in zip(self.step.names, report, strict=True)
            )
            self._fail(
                f"{what} not finite at {self._place(first + k)}: {terms}, norm of the gradient "
                f"{norm:.4g}; the step is not taken"
            )

    def _place(self, batch: int) -> str:
        return f"epoch {self.state.epoch + 1}, batch {batch}"

    def _fail(self, what: str) -> NoReturn:
        saved = self.folder / CHECKPOINT if self.folder else None
        raise FloatingPointError(
            f"{what}; last good checkpoint: {saved if saved and saved.exists() else 'none'}; "
            "try a smaller learning_rate, KL warm-up, or a scale floor in the likelihood"
        )

    def _finite_tensors(self) -> list[str]:
        """Names of those tensors of the model and the optimiser that have finite values alone."""
        tensors = {**self.vae.state_dict(), **self.update.state()}
        return [name for name, tensor in tensors.items() if torch.isfinite(tensor).all()]

    def _check_tensors(self) -> None:
        """Stop where a tensor that was finite at the start is not; a mask of infinities may be."""
        lost = self._finite_names - set(self._finite_tensors())
        if lost:
            self._fail(
                f"{', '.join(sorted(lost)[:3])} not finite after {self.state.epoch} epochs and "
                f"{self.state.batch} batches, which is not saved"
            )

    def end_epoch(self, seconds: float) -> None:
        """Write the epoch's row, validate, and see whether to stop."""
        state = self.state
        self._check_reports()
        self._tell_of_changes()
        self.ranks.mean_buffers(self.vae)
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
        state.epoch, state.batch, state.rows, state.sums, state.seconds = (
            state.epoch + 1,
            0,
            0,
            None,
            0.0,
        )
        if self.settings.early_stopping is not None:
            self._consider_stopping(row["validation_lower_bound"])

    def _tell_of_changes(self) -> None:
        """Say once what a recorded program does not see: attributes somebody changed since then."""
        now = plain_attributes(self.vae)
        changed = changed_attributes(self._recorded_with, now)
        self._recorded_with = now
        if changed and self.step.tier != "off" and not self._told:
            self._told = True
            log.warning(
                "%s changed after the programs were recorded, which has no effect on them; "
                "compile='off' runs them anew at each step",
                ", ".join(changed),
            )

    @torch.no_grad()
    def _validate(self, x: Tensor) -> dict[str, float]:
        """Means over held-out x in evaluation mode, with the same noise, and the same binary
        pixels, at every epoch.
        """
        drawn = torch.Generator(self.device).manual_seed(
            0
        )  # whatever the run's seed is: runs share held-out data
        sums: Tensor | float = 0.0
        scheduled = self.scheduled([float(self.state.epoch + 1)])[0]
        judge = self.objective if self.objective.keeps_terms else Objective("A")
        with torch.random.fork_rng(), evaluating(self.vae):
            torch.manual_seed(self.settings.seed)
            for rows in x.split(VALIDATION_ROWS):
                batch = self.vae.as_float(rows)
                if (
                    self.settings.binarization == "dynamic"
                ):  # once and for all, like binary data, which this leaves
                    batch = torch.bernoulli(batch, generator=drawn)
                _, report = judge(self.vae.model, self.vae.guide, batch, *scheduled.unbind())
                sums = sums + torch.stack(list(report.values())) * len(rows)
        return dict(zip(report, (sums / len(x)).tolist(), strict=True))  # type: ignore[union-attr]

    def _consider_stopping(self, value: float) -> None:
        state = self.state
        if value > state.best_value:
            self._check_tensors()
            state.best_value, state.history.best_epoch = value, state.epoch
            state.best = {
                name: tensor.detach().clone() for name, tensor in self.vae.state_dict().items()
            }
        elif state.epoch - (state.history.best_epoch or 0) >= (self.settings.early_stopping or 0):
            if state.history.best_epoch is None:
                self._fail(
                    f"validation bound {value:.4g}, not finite in any of {state.epoch} epochs, so "
                    "that early stopping has no best epoch"
                )
            state.history.stopped = (
                f"no better validation bound for {self.settings.early_stopping} epochs"
            )

    def save(self) -> None:
        """Write checkpoint and history, if the run has a folder; of several ranks, the first
        writes.
        """
        self._check_reports()
        self._check_tensors()
        if self.folder and self.ranks.first:
            rows, file = self.state.history.rows, self._history_file
            if len(rows) - file.num_rows > OWN_ROWS:  # more than the checkpoint itself will hold
                file.write(rows)
            save_run(self.folder, self.vae, self.update, self.state, self.plain_settings())
            with side_matter("the history is in the checkpoint alone"):
                file.write(rows)

    def interrupt(self) -> None:
        """Save, and raise the `KeyboardInterrupt` that says how to go on."""
        self.save()
        where = (
            f"; saved, resume with resume=True (ppl-vae train --resume {self.folder})"
            if self.folder
            else ""
        )
        raise KeyboardInterrupt(
            f"stopped in epoch {self.state.epoch + 1} after batch {self.state.batch}{where}"
        )

    def _say_what_bounds_nothing(self) -> None:
        if not isinstance(self.objective.elbo, ImportanceWeightedELBO):
            return
        self.vae.train()
        coupling = coupling_modules(self.vae.model, self.vae.guide)
        if coupling:
            log.warning(
                "%s couples the data of a batch: the training column 'lower_bound' bounds no "
                "log p(x) under this estimator; validation and evaluation do",
                ", ".join(coupling),
            )

    def finish(self) -> History:
        """Put the best epoch's parameters back, if early stopping kept them, and leave training
        mode.
        """
        self.step.release()
        if self.state.best:
            self.vae.load_state_dict(self.state.best)
        self.vae.eval()
        return self.state.history

    def bar(self, progress: bool) -> tqdm:
        """The progress bar, in steps."""
        done = self.state.epoch * self.num_batches + self.state.batch
        total = self.settings.epochs * self.num_batches
        compiles = self.step.tier == "inductor"
        return tqdm(
            file=Stream(sys.stderr),
            desc="compiling the step, up to a minute" if compiles else None,
            total=total,
            initial=done,
            disable=not (progress and self.ranks.first),
            unit="step",
            mininterval=0.2,
            dynamic_ncols=True,
        )
