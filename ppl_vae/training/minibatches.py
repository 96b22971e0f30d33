"""Which rows make the minibatches of an epoch, and how rows that are not in memory are read.

Knows orders and sources of rows; knows nothing of models or steps. What a minibatch holds is a
function of the seed, the epoch and its number alone: a resumed run finds it again, in the middle of
an epoch, too, whatever number of processes read it.
"""

import contextlib
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ppl_vae import checks
from ppl_vae.generators import seeded_generators
from ppl_vae.inputs import Source, read_rows
from ppl_vae.permutation import KeyedPermutation
from ppl_vae.training.ranks import Ranks

__all__ = ["Minibatches", "Stream", "lost_readers_named"]

# Positions computed at once, more than a minibatch has: the cost of a call is spread over them.
COMPUTED = 2**13
# Rows of which an order is drawn as a whole, by 8 bytes a row; that of more is computed part by
# part.
LISTED = 2**24


class Minibatches:
    """The minibatches of one epoch, as numbers of rows in a random order.

    Args:
        num_data: N.
        batch_size: M; the last minibatch has what is left.
        seed, epoch: what the order is a function of.
    """

    def __init__(self, num_data: int, batch_size: int, seed: int, epoch: int) -> None:
        self.num_data, self.batch_size, self.epoch = num_data, batch_size, epoch
        key = seed * 1_000_003 + epoch
        self._listed: Tensor | None = None
        if num_data <= LISTED:
            self._listed = torch.randperm(num_data, generator=torch.Generator().manual_seed(key))
        else:
            self._permutation = KeyedPermutation(num_data, key)
            self._from, self._computed = 0, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        """The number of minibatches."""
        return -(-self.num_data // self.batch_size)

    def rows(self, start: int, stop: int) -> Tensor:
        """The rows at the positions from `start` to `stop` - 1 of the order."""
        if self._listed is not None:
            return self._listed[start:stop]
        stop = min(stop, self.num_data)
        if not self._from <= start <= stop <= self._from + len(self._computed):
            last = min(max(stop, start + COMPUTED), self.num_data)
            self._from = start
            self._computed = torch.from_numpy(self._permutation(np.arange(start, last)))
        return self._computed[start - self._from : stop - self._from]

    def __getitem__(self, number: int) -> Tensor:
        """The rows of one minibatch, (M,)."""
        start = number * self.batch_size
        return self.rows(start, start + self.batch_size)

    def next(self, start: int, calls: int) -> Sequence[Tensor]:
        """The minibatches of the next call: as many as a step takes at once if they are all of one
        size, else one.
        """
        whole = start % calls == 0 and (start + calls) * self.batch_size <= self.num_data
        return [self[start + k] for k in range(calls if whole else 1)]


class Stream:
    """A source whose minibatches are read as they are used, by processes of their own if asked.

    Args:
        source: a map-style data set.
        batch_size, seed: of the run.
        num_workers: processes that read ahead; 0 reads in the run itself.
        ranks: whose rows are read here.
    """

    def __init__(
        self, source: Source, batch_size: int, seed: int, num_workers: int, ranks: Ranks
    ) -> None:
        self._minibatches = _AllMinibatches(source, batch_size, seed, ranks)
        self._num_workers, self._seed = num_workers, seed
        self._batches: Iterator[Any] | None = None
        self._at = -1

    def read(self, epoch: int, number: int) -> Tensor:
        """The rows of a minibatch; quickest for the one after the last that was read."""
        place = epoch * self._minibatches.each + number
        if self._batches is None or place != self._at + 1:
            self._batches = iter(self._loader(place))
        self._at = place
        found = next(self._batches)
        if isinstance(found, checks.InputError):
            raise found
        return found

    def first(self, count: int) -> Tensor:
        """As many rows as can be read first, in the order of the first epoch."""
        return self._minibatches.first(count)

    def close(self) -> None:
        """Let the processes go."""
        self._batches = None

    def _loader(self, start: int) -> DataLoader:
        return DataLoader(
            self._minibatches,
            batch_size=None,
            sampler=_From(start),
            num_workers=self._num_workers,
            worker_init_fn=_leave_signals if self._num_workers else None,
            generator=torch.Generator().manual_seed(self._seed),
        )


@contextlib.contextmanager
def lost_readers_named() -> Iterator[None]:
    """`ConnectionError`, in one line, where a process that reads is ended from outside meanwhile.

    torch tells of it by a signal, wherever the run stands.
    """
    try:
        yield
    except RuntimeError as error:
        # one whose own code failed says so by itself
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ConnectionError(
            "a process that reads the data was ended, perhaps for want of memory; resume the run, "
            "with a smaller num_workers"
        ) from error


class _From:
    """The whole numbers from `start` on."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        place = self.start
        while True:
            yield place
            place += 1

    def __len__(self) -> int:
        return 2**62


class _AllMinibatches(TorchDataset[Any]):
    """Item k of it is minibatch k, counted over all epochs, read in one go."""

    def __init__(self, source: Source, batch_size: int, seed: int, ranks: Ranks) -> None:
        self.source, self.batch_size, self.seed, self.ranks = source, batch_size, seed, ranks
        self.num_data = len(source)  # type: ignore[arg-type]
        self._epoch = Minibatches(self.num_data, batch_size, seed, 0)
        self.each = len(self._epoch)

    def __getitem__(self, place: int) -> Any:
        """The minibatch; or why it cannot be read, whose words another process would wrap."""
        epoch, number = divmod(place, self.each)
        if epoch != self._epoch.epoch:
            self._epoch = Minibatches(self.num_data, self.batch_size, self.seed, epoch)
        index = self.ranks.shard(self._epoch[number])
        # what a data set draws, such as a random crop, is that of this minibatch
        drawn = np.random.SeedSequence([self.seed, place, self.ranks.rank]).generate_state(1)
        with seeded_generators(int(drawn[0])):
            try:
                return read_rows("data", self.source, index.numpy())
            except checks.InputError as error:
                return error

    def first(self, count: int) -> Tensor:
        """The first rows of the first epoch's order."""
        index = Minibatches(self.num_data, self.batch_size, self.seed, 0).rows(0, count)
        with seeded_generators(self.seed):
            return read_rows("data", self.source, index.numpy())


def _leave_signals(worker: Any) -> None:
    """In a process that reads: Ctrl-C and a lost terminal are the run's affair, which ends it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
