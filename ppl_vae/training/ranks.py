"""Several processes that train one model: which of them this is, whose rows are whose, and sums
over all.

Knows `torch.distributed`; knows nothing of models or runs. Every rank holds the same parameters and
takes its own rows of each minibatch, drawing its own noise; only rank 0 writes.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as torch_distributed
from torch import Tensor, nn

from ppl_vae import checks

__all__ = ["Ranks", "joined_ranks"]

T = TypeVar("T")
# How long a rank waits for another before it takes it for lost.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size` processes; by itself, rank 0 of 1."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Ranks":
        """The place in the default process group, if one was joined."""
        if not (torch_distributed.is_available() and torch_distributed.is_initialized()):
            return cls()
        return cls(torch_distributed.get_rank(), torch_distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def shard(self, index: Tensor) -> Tensor:
        """This rank's rows of a minibatch: every `size`-th, so that shards differ by one row at
        most.
        """
        return index[self.rank :: self.size]

    def check(self, num_data: int, batch_size: int) -> None:
        """No minibatch may be too short to give every rank a row; raises `InputError`."""
        shortest = min(num_data % batch_size or batch_size, batch_size)
        if shortest < self.size:
            checks.refuse(
                f"training on {self.size} ranks",
                f"a minibatch of {shortest}",
                "one row a rank at least",
                "choose another batch_size",
            )

    def agree(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        with self._together():
            torch_distributed.broadcast_object_list(values)
        return values[0]

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Make every rank's tensors rank 0's."""
        for tensor in tensors if self.size > 1 else ():
            with self._together():
                torch_distributed.broadcast(tensor.detach(), 0)

    def mean(
        self, report: Tensor, gradients: Sequence[Tensor], rows: int
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Report and gradients of the whole minibatch: means over ranks weighted by their rows, in
        one message.

        A loss in nats per datum that counts KL(theta) / N once on each rank has it once in the
        mean, too.
        """
        if self.size == 1:
            return report, gradients
        message = (
            torch.cat([report.new_ones(1), report, *(g.reshape(-1) for g in gradients)]) * rows
        )
        with self._together():
            torch_distributed.all_reduce(message)
        report, *flat = (message[1:] / message[0]).split(
            [len(report), *(g.numel() for g in gradients)]
        )
        return report, [part.view(g.shape) for part, g in zip(flat, gradients, strict=True)]

    def mean_buffers(self, module: nn.Module) -> None:
        """Average what each rank has seen of its own rows (running statistics) over the ranks."""
        for buffer in module.buffers() if self.size > 1 else ():
            if buffer.is_floating_point():
                with self._together():
                    torch_distributed.all_reduce(buffer)
                buffer /= self.size

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ConnectionError(
                f"rank {self.rank} of {self.size} lost another rank ({reason}); resume the run"
            ) from error


@contextlib.contextmanager
def joined_ranks(device: str | None) -> Iterator[Ranks]:
    """Join the process group that `torchrun` describes in the environment, for the block; by itself
    without one.

    Where training is on "cuda", each rank of a machine takes a GPU of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks.current()
        return
    on_gpu = device is not None and device.startswith("cuda")
    if on_gpu:
        _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
    torch_distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Ranks.current()
    finally:
        torch_distributed.destroy_process_group()


def _take_gpu(local_rank: int) -> None:
    """Make "cuda" mean the GPU of this rank, not the first one for all."""
    count = torch.cuda.device_count()
    if local_rank >= count:
        checks.refuse(
            f"training on rank {local_rank} of this machine",
            f"{count} GPUs",
            "one for each rank",
            "start fewer ranks with --nproc-per-node, or train with --device cpu",
        )
    torch.cuda.set_device(local_rank)
