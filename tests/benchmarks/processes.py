"""What does a second process bring: to a study of 16 cells, and to the training of one model?

Prints, on a machine of two free cores, one thread a process:
- study: wall-clock seconds of 16 cells of about --cell-seconds each by one worker over those by
  two; the cells are trainings, and the workers' start and imports are counted. 2 would be perfect.
- training: data a second of two ranks with minibatches of 2 x --batch-size over those of one rank
  with --batch-size, so that each rank has the same rows a step; 2 would be perfect. From the
  epochs' own seconds, the first left out.
The smallest, median and largest ratio of the rounds, whose runs alternate. The defaults take about
20 minutes.

    python tests/benchmarks/processes.py [study|training|both] [--rounds 3] [--cell-seconds 10]
    [--batch-size 500]
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
STUDY = '''"""Does a second worker halve the time?"""

from matplotlib.figure import Figure
from ppl_vae import VAEConfig, build, fit, load_data, study

GRID = {{"cell": list(range(16))}}
SEEDS = {{"laptop": 1}}


def run(seed, cell):
    return {{"bound": train({epochs})}}


def train(epochs):
    data = load_data("digits")
    vae = build(VAEConfig(data.event_shape, 10, (300, 300)), seed=0)
    history = fit(vae, data.train, epochs=epochs, compile="off", progress=False)
    return history.rows[-1]["lower_bound"]


def draw(rows):
    return Figure()


if __name__ == "__main__":
    study.main()
'''
TRAIN = [
    "-m",
    "ppl_vae",
    "train",
    "--data",
    "mnist",
    "--binarization",
    "dynamic",
    "--latent-size",
    "20",
    "--hidden-sizes",
    "500",
    "--no-validation",
    "--no-progress",
    "--compile",
    "record",
    "--epochs",
    "4",
    "--checkpoint-every",
    "4",
]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begun


def cell_epochs(folder: Path, cell_seconds: float) -> int:
    """How many epochs take so long, from the times of 20 and of 120 in processes of their own."""
    (folder / "one.py").write_text(STUDY.format(epochs=1))
    trained = [
        seconds(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, {str(folder)!r}); from one import train; "
                f"import torch; torch.set_num_threads(1); train({epochs})",
            ]
        )
        for epochs in (20, 120)
    ]
    return max(1, round(cell_seconds * 100 / (trained[1] - trained[0])))


def study_seconds(folder: Path, script: Path, jobs: int) -> float:
    kept = tempfile.mkdtemp(dir=folder)
    where = ["--cache", f"{kept}/cache", "--results", f"{kept}/results"]
    return seconds([sys.executable, str(script), "--jobs", str(jobs), "--seeds", "1", *where])


def throughput(folder: Path, ranks: int, batch_size: int) -> float:
    """Data a second, all ranks together, after the first epoch."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        if ranks > 1
        else []
    )
    seconds(
        [
            sys.executable,
            *launcher,
            *TRAIN,
            "--batch-size",
            str(ranks * batch_size),
            "--out",
            str(run),
        ]
    )
    rows = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    return (float(rows[-1]["samples"]) - float(rows[0]["samples"])) / sum(
        float(row["seconds"]) for row in rows[1:]
    )


def say(subject: str, ratios: list[float]) -> None:
    print(
        f"{subject}: {min(ratios):.2f}, {statistics.median(ratios):.2f}, {max(ratios):.2f} "
        "(smallest, median, largest)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Two processes against one.")
    parser.add_argument("what", nargs="?", default="both", choices=("study", "training", "both"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cell-seconds", type=float, default=10.0)
    parser.add_argument("--batch-size", type=int, default=500)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if given.what != "training":
            script = folder / "cells.py"
            script.write_text(STUDY.format(epochs=cell_epochs(folder, given.cell_seconds)))
            ratios = [
                study_seconds(folder, script, 1) / study_seconds(folder, script, 2)
                for _ in range(given.rounds)
            ]
            say("study of 16 cells, time by 1 worker / time by 2", ratios)
        if given.what != "study":
            size = given.batch_size
            ratios = [
                throughput(folder, 2, size) / throughput(folder, 1, size)
                for _ in range(given.rounds)
            ]
            say(f"training, throughput of 2 ranks / of 1 at {size} rows a rank", ratios)


if __name__ == "__main__":
    main()
