"""One run of training: its pieces and its state, for a loop to drive.

Knows data, rows and where a run is saved; knows nothing of what a step does inside or of the order
in which a loop calls it.
"""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.checkpoint import CHECKPOINT
from ppl_vae.elbo import ImportanceWeightedELBO, TermwiseELBO, coupling_modules, kl_report
from ppl_vae.files import remove_unfinished, side_matter
from ppl_vae.graphs import changed_attributes, plain_attributes
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.handlers.own_parameters import users_program
from ppl_vae.inputs import Source
from ppl_vae.protocols import InitialisedFromData
from ppl_vae.terminal import Stream
from ppl_vae.training.callbacks import Callback, call_all
from ppl_vae.training.held_out import EarlyStopping, HeldOut
from ppl_vae.training.history import History, HistoryFile
from ppl_vae.training.minibatches import Minibatches
from ppl_vae.training.objective import Objective, TrainingLoss
from ppl_vae.training.optimizers import averaged, update_of, use_averages
from ppl_vae.training.ranks import Ranks
from ppl_vae.training.saving import EVERY_EPOCH, Interval, Saves
from ppl_vae.training.scheduled import Schedules
from ppl_vae.training.settings import Settings
from ppl_vae.training.state import OWN_ROWS, RunState, restore_run, save_run
from ppl_vae.training.step import Step
from ppl_vae.training.tiers import choose_tier, make_step
from ppl_vae.training.training_data import TrainingData
from ppl_vae.training.watch import Watch
from ppl_vae.vae import VAE, evaluating

__all__ = ["Run"]

log = logging.getLogger(__name__)
HISTORY = "history.csv"
# Rows of a data set that is not in memory that a prior may start from.
SHOWN = 10_000


class Run:
    """One call of `fit`, or a loop somebody else drives: the pieces the loop works with, and the
    run's state.

    Args:
        vae: what is trained.
        data: x, (N, *event_shape), or a map-style data set.
        validation: held-out x, (V, *event_shape), or None.
        settings: what a resumed run has to agree on.
        folder: where the run is saved, or None.
        num_workers: processes that read ahead from a data set.
        every: how often the run is saved.
    """

    schedules: Schedules
    watch: Watch
    step: Step

    def __init__(
        self,
        vae: VAE,
        data: Source,
        validation: Tensor | None,
        settings: Settings,
        folder: Path | None,
        num_workers: int = 0,
        every: Interval = EVERY_EPOCH,
    ) -> None:
        self.vae, self.settings, self.folder = vae, settings, folder
        self.ranks, self.state = Ranks.current(), RunState()
        self.data = TrainingData(vae, data, settings, self.ranks, num_workers)
        self.ranks.check(len(self.data), settings.batch_size)
        self.num_batches = math.ceil(len(self.data) / settings.batch_size)
        self.objective = Objective(
            settings.estimator, settings.num_particles, settings.corruption, settings.kl_balance
        )
        trained = [p for p in vae.parameters() if p.requires_grad]
        decay = settings.weight_penalty / len(self.data)
        options, average = settings.optimizer_options, settings.parameter_average
        self.update = update_of(settings.optimizer, trained, decay, options, average)
        self.held_out = None
        if validation is not None:
            self.held_out = HeldOut(vae, validation, self.objective, settings, len(self.data))
        self._saves = Saves(every)
        self._checkpoint = folder / CHECKPOINT if folder else None
        self._history_file = HistoryFile((folder or Path()) / HISTORY)
        self._told = False

    def start(self, resume: bool) -> None:
        """Seed, check the programs once with validation on, read the checkpoint if resuming, and
        make the step.
        """
        settings = self.settings
        if self.folder and self.ranks.first:
            for name in (CHECKPOINT, HISTORY):
                remove_unfinished(self.folder / name)
        torch.manual_seed(settings.seed)
        first = self.data.first_batch()
        weights = self.vae.guide.weights is not None
        self.objective.check(settings.batch_size, len(self.data), weights)
        kinds = self._kl_kinds(first)
        found = self._checkpoint is not None and self._checkpoint.exists()
        if found and not resume:
            checks.refuse(
                f"run folder {self.folder}",
                "a run that is already there",
                "a new folder",
                "resume=True goes on with it",
            )
        torch.manual_seed(settings.seed)
        if found:
            self._restore()
        self._saves.steps = self.steps
        self.state.history.kl_kinds = kinds
        started = bool(self.state.history.rows or self.state.batch)
        if not started:
            self._start_from_data()
        self._make_pieces()
        self._say_what_bounds_nothing()
        self._say_what_is_emulated()
        self.ranks.copy_first([*self.vae.parameters(), *self.vae.buffers()])
        # a resumed run keeps the tier it was started with
        tier = self.state.history.tier
        if not started:
            tier = choose_tier(settings.compile, self.num_batches * settings.epochs)
        self.vae.train()
        with local_parameters():
            loss = TrainingLoss(
                self.vae, self.objective, settings.precision, settings.max_gradient_norm
            )
            self.step = make_step(loss, self.update, tier, first, self.ranks)
        self._recorded_with = plain_attributes(self.vae)

    def _restore(self) -> None:
        assert self.folder is not None
        settings, history = self.plain_settings(), self.folder / HISTORY
        self.state = restore_run(self.folder, self.vae, self.update, settings, history)

    def _start_from_data(self) -> None:
        """Show the data to the networks and the prior, before the first step."""
        data = self.data.shown()
        self.vae.start_from(data)
        prior = users_program(self.vae.model.prior)
        if isinstance(prior, InitialisedFromData):
            prior.start_from(data)

    def _make_pieces(self) -> None:
        """What stands on the run's state, once that is read."""
        state, settings = self.state, self.settings
        self.schedules = Schedules(settings, state.constraint)
        if self.schedules.constraint and not self.objective.keeps_terms:
            checks.refuse(
                "kl_weight",
                f"a constraint under {type(self.objective.elbo).__name__}",
                "an estimator of ppl_vae.elbo, which keeps the terms apart",
            )
        self.watch = Watch(self.vae, self.update, state, self._checkpoint)
        self._stopping = None
        if settings.early_stopping is not None:
            self._stopping = EarlyStopping(self.vae, state, self.watch, settings.early_stopping)

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

    def minibatches(self) -> Minibatches:
        """Those of the epoch that is at work."""
        return self.data.minibatches(self.state.epoch)

    def begin_epoch(self) -> None:
        """Training mode."""
        self.vae.train()

    def _begin_step(self) -> None:
        """For all ranks but the first, noise of their own that a resumed run draws again, from the
        middle of an epoch, too.
        """
        if not self.ranks.first:
            place = [self.settings.seed, self.steps, self.ranks.rank]
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def take(self, index: Sequence[Tensor]) -> None:
        """One call of the step, on these rows of the data batch by batch."""
        state = self.state
        epochs = [state.epoch + (state.batch + k) / self.num_batches for k in range(len(index))]
        values, rates = self.schedules.values(epochs), self.schedules.learning_rates(epochs)
        self.watch.check_rates(self.step.names, rates)
        self._begin_step()
        batches = self.data.batches(state.epoch, state.batch, index)
        reports = self.step(batches, values, rates)
        self.watch.add(self.step.names, reports)
        for report, rows in zip(reports[:, :-1], index, strict=True):
            self.schedules.observe(self.step.names, report)
            state.add(report, len(rows))
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
        return dict(zip(self.step.names[1:], self.state.means()[1:], strict=True))

    def end_epoch(self, seconds: float) -> None:
        """Write the epoch's row, validate, and see whether to stop."""
        state = self.state
        self.watch.look(self.step.names)
        self._tell_of_changes()
        self.ranks.mean_buffers(self.vae)
        position = float(state.epoch + 1)
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "samples": (state.epoch + 1) * len(self.data),
            **self._means(),
            **self.schedules.row(position),
            "seconds": round(state.seconds + seconds, 3),
        }
        if self.held_out is not None:
            (values,) = self.schedules.values([position])
            with averaged(self.update):
                terms = self.held_out.terms(values)
            row |= {f"validation_{name}": value for name, value in terms.items()}
        state.end_epoch(row)
        if self._stopping:
            with averaged(self.update):
                self._stopping.consider(row["validation_lower_bound"])

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

    def save(self) -> None:
        """Write checkpoint and history, if the run has a folder; of several ranks, the first
        writes.
        """
        self.watch.look(self.step.names)
        self.watch.check_tensors()
        if self.folder and self.ranks.first:
            rows, file = self.state.history.rows, self._history_file
            if len(rows) - file.num_rows > OWN_ROWS:  # more than the checkpoint itself will hold
                file.write(rows)
            save_run(self.folder, self.vae, self.update, self.state, self.plain_settings())
            with side_matter("the history is in the checkpoint alone"):
                file.write(rows)
        self._saves.saved()

    @property
    def going_on(self) -> bool:
        """Whether there are epochs left to train."""
        return self.state.epoch < self.settings.epochs and not self.state.history.stopped

    def tell(self, callbacks: Sequence[Callback], kind: str) -> bool:
        """Call the callbacks, on the first rank; whether one of them asked to stop.

        One that raises ends the run by its own exception, once the epoch is saved.
        """
        if not callbacks:
            return False
        stop, rows = False, self.state.history.rows
        if self.ranks.first:
            try:
                stop = call_all(callbacks, kind, rows[-1] if rows else {}, self.vae)
            except BaseException:
                if kind == "epoch":
                    with side_matter("the epoch before a callback's exception is not saved"):
                        self.save()
                raise
        return self.ranks.agree(stop)

    @property
    def steps(self) -> int:
        """Those made so far, over all epochs."""
        return self.state.epoch * self.num_batches + self.state.batch

    def save_is_due(self, epochs: int | None = None) -> bool:
        """Whether it is time to save, after so many epochs or, for None, inside one."""
        return self.folder is not None and self._saves.due(self.steps, epochs)

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

    def _say_what_is_emulated(self) -> None:
        device = self.update.parameters[0].device.type
        emulated = device == "cpu" and not torch.cpu._is_avx512_bf16_supported()
        if self.settings.precision == "bfloat16" and emulated:
            log.warning(
                "this processor has no products in bfloat16, so that they are slower than in "
                "float32, not faster"
            )

    def finish(self) -> History:
        """Put the best epoch's parameters back, if early stopping kept them, or their moving
        averages, and leave training mode.
        """
        self.step.release()
        if self.state.best:
            self.vae.load_state_dict(self.state.best)
        else:
            use_averages(self.update)
        self.vae.eval()
        return self.state.history

    def bar(self, progress: bool) -> tqdm:
        """The progress bar, in steps."""
        total = self.settings.epochs * self.num_batches
        compiles = self.step.tier == "inductor"
        return tqdm(
            file=Stream(sys.stderr),
            desc="compiling the step, up to a minute" if compiles else None,
            total=total,
            initial=self.steps,
            disable=not (progress and self.ranks.first),
            unit="step",
            mininterval=0.2,
            dynamic_ncols=True,
        )
