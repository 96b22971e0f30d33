"""Does a table larger than one wants in memory stream from its shards in flat memory, and does the
reading keep up with the steps?

Writes a table of mixed columns (real, positive, counts, binary) as shards of .npy files, trains on
them for one epoch, and prints: resident memory early in the run and at most, what of it is the
process's own (anonymous) and not pages of the files, the share of time spent in the steps, and rows
a second. With 1e7 rows of 20 columns the table has 800 MB.

    python tests/benchmarks/streaming.py [--rows 10000000] [--num-workers 0] [--folder FOLDER]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppl_vae import VAEConfig, build, fit
from ppl_vae.datasets import map_data
from ppl_vae.training.training_data import TrainingData

KINDS = ["real"] * 5 + ["positive"] * 5 + ["count"] * 5 + ["binary"] * 5
COLUMNS, SHARD = len(KINDS), 500_000
MIB = 2**20


def memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def write(folder: Path, rows: int) -> None:
    """Shards of a table: five columns each of real numbers, positive ones, counts and bits."""
    for number, start in enumerate(range(0, rows, SHARD)):
        random = np.random.default_rng(number)
        size = min(SHARD, rows - start)
        x = random.standard_normal((size, COLUMNS), dtype=np.float32)
        x[:, 5:10] = np.exp(x[:, 5:10])
        x[:, 10:15] = random.poisson(np.exp(x[:, :5]))
        x[:, 15:] = x[:, 15:] > 0
        np.save(folder / f"{number:05}.npy", x)


class Watched:
    """Memory at every hundredth step, and the time a run waits for its rows."""

    def __init__(self) -> None:
        self.waited, self.steps = 0.0, 0
        self.resident: list[int] = []
        self.own: list[int] = []
        batches = TrainingData.batches

        def noted(
            data: TrainingData, epoch: int, number: int, call: Sequence[Tensor]
        ) -> Iterator[Tensor]:
            found = batches(data, epoch, number, call)
            while True:
                began = time.perf_counter()
                rows = next(found, None)
                self.waited += time.perf_counter() - began
                if rows is None:
                    return
                self.steps += 1
                if self.steps % 100 == 0:
                    self.resident.append(memory("VmRSS"))
                    self.own.append(memory("RssAnon"))
                yield rows

        TrainingData.batches = noted  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of shards to keep; read if it has them")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.glob("*.npy")):
            write(folder, given.rows)
        table = map_data(folder)
        config = VAEConfig(
            (COLUMNS,),
            latent_size=5,
            hidden_sizes=(given.hidden,),
            likelihood="columns",
            likelihood_options={"columns": KINDS},
        )
        vae, watched = build(config, seed=0), Watched()
        history = fit(
            vae,
            table,
            batch_size=given.batch_size,
            epochs=1,
            num_workers=given.num_workers,
            compile="record",
            progress=False,
        )
    seconds = history.rows[-1]["seconds"]
    print(f"{len(table)} rows of {COLUMNS} columns, {watched.steps} steps of {given.batch_size}")
    for name, values in (("resident", watched.resident), ("own", watched.own)):
        first, most = values[0] / MIB, max(values) / MIB
        print(f"{name} memory: {first:.0f} MiB after 100 steps, {most:.0f} MiB at most")
    share, speed = 1 - watched.waited / seconds, len(table) / seconds
    print(f"{seconds:.1f} s, {share:.1%} of it in the steps, {speed:.0f} rows a second")


if __name__ == "__main__":
    main()
