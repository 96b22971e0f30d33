"""The rows that a run trains on, as the step takes them: from memory, or read as they are used."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_vae import checks
from ppl_vae.inputs import Source
from ppl_vae.training.minibatches import Minibatches, Stream
from ppl_vae.training.ranks import Ranks
from ppl_vae.training.settings import Settings
from ppl_vae.vae import VAE

__all__ = ["TrainingData"]

# Rows of a data set that is not in memory that a prior may start from.
SHOWN = 10_000


class TrainingData:
    """The data of one run and this rank's share of each minibatch.

    Args:
        vae: says what bytes are, and where the rows go.
        source: x (N, *event_shape), or a map-style data set of N rows.
        settings: of the run.
        ranks: whose rows are handed out here.
        num_workers: processes that read ahead from a data set.
    """

    def __init__(
        self, vae: VAE, source: Source, settings: Settings, ranks: Ranks, num_workers: int
    ) -> None:
        self.vae, self.settings, self.ranks = vae, settings, ranks
        self.num_data = len(source)  # type: ignore[arg-type]
        self._tensor: Tensor | None = None
        self._stream: Stream | None = None
        if isinstance(source, Tensor):
            # resident as they are, bytes as bytes: each minibatch is gathered there
            self._tensor = source.to(next(vae.parameters()).device)
        else:
            sizes = settings.batch_size, settings.seed
            self._stream = Stream(source, *sizes, num_workers, ranks)

    def __len__(self) -> int:
        """N."""
        return self.num_data

    def minibatches(self, epoch: int) -> Minibatches:
        """Which rows make the minibatches of an epoch."""
        return Minibatches(self.num_data, self.settings.batch_size, self.settings.seed, epoch)

    def batches(self, epoch: int, number: int, call: Sequence[Tensor]) -> Iterator[Tensor]:
        """This rank's rows of consecutive minibatches, as float, binarised anew where asked.

        Args:
            epoch: the one they are of.
            number: of the first of them.
            call: the rows of each, as `minibatches` gives them.
        """
        for place, index in enumerate(call, start=number):
            if self._stream is None:
                yield self._as_trained(self._rows(index))
            else:
                yield self._as_trained(self._checked(self._stream.read(epoch, place)))

    def first_batch(self) -> Tensor:
        """A minibatch to check the programs with."""
        size = min(self.settings.batch_size, self.num_data)
        if self._stream is None:
            return self._as_trained(self._rows(torch.arange(size)))
        return self._as_trained(self._checked(self.ranks.shard(self._stream.first(size))))

    def shown(self) -> Tensor:
        """The data that networks and a prior may start from: all, or many of those that are not in
        memory.
        """
        data = self._tensor if self._stream is None else self._stream.first(SHOWN)
        assert data is not None
        # to who starts from them bytes are grey levels
        return data if self.vae.grey or data.dtype != torch.uint8 else data.int()

    def close(self) -> None:
        """Let go of what reads the data."""
        if self._stream is not None:
            self._stream.close()

    def _rows(self, index: Tensor) -> Tensor:
        assert self._tensor is not None
        return self._tensor[self.ranks.shard(index).to(self._tensor.device)]

    def _checked(self, rows: Tensor) -> Tensor:
        """Rows that nobody has looked at; `InputError` where they are no data."""
        subject = "a minibatch of data"
        found = self.vae.checked(rows, subject)
        if self.settings.binarization == "dynamic":
            checks.inside(subject, found, constraints.unit_interval, "binarization 'dynamic'")
        return found

    def _as_trained(self, rows: Tensor) -> Tensor:
        x = self.vae.as_float(rows)
        return self.vae.binarized(x) if self.settings.binarization == "dynamic" else x
