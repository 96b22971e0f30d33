"""A watch over a run's numbers: what is not finite stops the run before it is saved."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ppl_vae.training.optimizers import Update
from ppl_vae.training.state import RunState
from ppl_vae.vae import VAE

__all__ = ["Watch"]

# No optimiser moves a coordinate by more than a few learning rates at once, so that up to here one
# step takes no parameter of single precision beyond the largest number.
LARGEST_RATE = 1e35
# On a GPU each look at a value waits for it.
STEPS_BETWEEN_LOOKS = 100


class Watch:
    """Looks at losses, gradients and tensors, and raises `FloatingPointError` with the place.

    Args:
        vae: what is trained.
        update: the optimiser, whose tensors are watched, too.
        state: where the run stands.
        checkpoint: the file that is good for as long as nothing went wrong; None without a folder.
    """

    def __init__(self, vae: VAE, update: Update, state: RunState, checkpoint: Path | None) -> None:
        self.vae, self.update, self.state, self.checkpoint = vae, update, state, checkpoint
        self._waits = update.parameters[0].device.type != "cpu"
        self._unseen: list[Tensor] = []  # reports nobody has looked at, one a call of the step
        self._finite = set(self._finite_tensors())

    def add(self, names: Sequence[str], reports: Tensor) -> None:
        """Take in the reports (calls, R) of steps that are not counted yet."""
        self._unseen.append(reports)
        if not self._waits or self.state.batch % STEPS_BETWEEN_LOOKS == 0:
            self.look(names, len(reports))

    def look(self, names: Sequence[str], not_counted: int = 0) -> None:
        """Look at the reports nobody has looked at.

        Args:
            names: of a report's columns but the last, the norm of the gradient.
            not_counted: how many of them are of batches that the state does not count yet.
        """
        if not self._unseen:
            return
        reports, self._unseen = torch.cat(self._unseen).tolist(), []
        first = self.state.batch + not_counted - len(reports)
        for k, (*report, norm) in enumerate(reports, start=1):
            if math.isfinite(report[0]) and math.isfinite(norm):
                continue
            what = "gradient" if math.isfinite(report[0]) else "loss"
            terms = ", ".join(
                f"{name} {value:.4g}" for name, value in zip(names, report, strict=True)
            )
            self.fail(
                f"{what} not finite at {self._place(first + k)}: {terms}, norm of the gradient "
                f"{norm:.4g}; the step is not taken"
            )

    def check_rates(self, names: Sequence[str], rates: Sequence[float]) -> None:
        """Stop before a learning rate that takes parameters beyond the largest number."""
        for k, rate in enumerate(rates, start=1):
            if rate > LARGEST_RATE:
                self.look(names)
                place = self._place(self.state.batch + k)
                self.fail(f"learning rate {rate:g} at {place}; the step is not taken")

    def check_tensors(self) -> None:
        """Stop where a tensor that was finite at the start is not; a mask of infinities may be."""
        lost = self._finite - set(self._finite_tensors())
        if lost:
            self.fail(
                f"{', '.join(sorted(lost)[:3])} not finite after {self.state.epoch} epochs and "
                f"{self.state.batch} batches, which is not saved"
            )

    def fail(self, what: str) -> NoReturn:
        """Raise `FloatingPointError`, with the last good checkpoint and what to try."""
        saved = self.checkpoint if self.checkpoint and self.checkpoint.exists() else "none"
        raise FloatingPointError(
            f"{what}; last good checkpoint: {saved}; "
            "try a smaller learning_rate, KL warm-up, or a scale floor in the likelihood"
        )

    def _place(self, batch: int) -> str:
        return f"epoch {self.state.epoch + 1}, batch {batch}"

    def _finite_tensors(self) -> list[str]:
        """Names of those tensors of the model and the optimiser that have finite values alone."""
        tensors = {**self.vae.state_dict(), **self.update.state()}
        return [name for name, tensor in tensors.items() if torch.isfinite(tensor).all()]
