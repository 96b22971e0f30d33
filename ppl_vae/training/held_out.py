"""The bound of held-out data at the end of each epoch, and when it says to stop."""

import torch
from torch import Tensor

from ppl_vae.training.objective import Objective, StepValues
from ppl_vae.training.settings import Settings
from ppl_vae.training.state import RunState
from ppl_vae.training.watch import Watch
from ppl_vae.vae import VAE, evaluating

__all__ = ["EarlyStopping", "HeldOut"]

ROWS = 1000  # of held-out data at once


class HeldOut:
    """Means over held-out x in evaluation mode, with the same noise, and the same binary pixels, at
    every epoch.

    Args:
        vae: the programs.
        x: held-out data, (V, *event_shape).
        objective: the run's; where it keeps no terms, estimator A judges.
        settings: the run's.
        num_data: N, the number of training data.
    """

    def __init__(
        self, vae: VAE, x: Tensor, objective: Objective, settings: Settings, num_data: int
    ) -> None:
        self.vae, self.x, self.settings, self.num_data = vae, x, settings, num_data
        self.judge = objective if objective.keeps_terms else Objective("A")

    @torch.no_grad()
    def terms(self, values: StepValues) -> dict[str, float]:
        """The terms of the bound in nats per datum.

        Args:
            values: the weights of KL terms.
        """
        device = next(self.vae.parameters()).device
        # whatever the run's seed is: runs share held-out data
        drawn = torch.Generator(device).manual_seed(0)
        sums: Tensor | float = 0.0
        with torch.random.fork_rng(), evaluating(self.vae):
            torch.manual_seed(self.settings.seed)
            for rows in self.x.split(ROWS):
                batch = self.vae.as_float(rows)
                if self.settings.binarization == "dynamic":  # which leaves binary data as they are
                    batch = self.vae.binarized(batch, drawn)
                programs = self.vae.model, self.vae.guide
                _, report = self.judge(*programs, batch, values, self.num_data)
                sums = sums + torch.stack(list(report.values())) * len(rows)
        means: Tensor = sums / len(self.x)  # type: ignore[assignment]
        return dict(zip(report, means.tolist(), strict=True))


class EarlyStopping:
    """Stop when the held-out bound has not been better for `patience` epochs; keep the best
    epoch's tensors.
    """

    def __init__(self, vae: VAE, state: RunState, watch: Watch, patience: int) -> None:
        self.vae, self.state, self.watch, self.patience = vae, state, watch, patience

    def consider(self, bound: float) -> None:
        """Take in the held-out bound of the epoch that has just been counted, in nats per datum."""
        state = self.state
        if bound > state.best_value:
            self.watch.check_tensors()
            state.best_value, state.history.best_epoch = bound, state.epoch
            state.best = {
                name: tensor.detach().clone() for name, tensor in self.vae.state_dict().items()
            }
            return
        if state.epoch - (state.history.best_epoch or 0) < self.patience:
            return
        if state.history.best_epoch is None:
            self.watch.fail(
                f"validation bound {bound:.4g}, not finite in any of {state.epoch} epochs, so "
                "that early stopping has no best epoch"
            )
        state.history.stopped = f"no better validation bound for {self.patience} epochs"
