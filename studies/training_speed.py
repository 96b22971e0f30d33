"""How fast is a training step of an ordinary Pyro pair, against the same model in other hands?

Prediction: compiled steps beat hand-written eager PyTorch with a fused Adam at every size, most
where the model is small; recorded steps equal it; eager Pyro is behind it. How to read the figure:
a bar is the speed relative to hand-written eager PyTorch (1, the line), the median over interleaved
rounds of process CPU time, with their range. bfloat16 pays only on processors that have its
products; others emulate them, which is slower than single precision.
"""

import itertools
import statistics
import time

import numpy as np
import torch
from matplotlib.figure import Figure
from peers import BATCH_SIZE, VARIANTS, WORKLOADS, trainers

from ppl_vae import study

GRID = {
    "smoke": {"workload": ["toy"], "threads": [1], "rounds": [1]},
    "laptop": {"workload": ["mnist", "frey", "toy"], "threads": [1, 2], "rounds": [5]},
    "paper": {"workload": ["mnist", "frey", "toy"], "threads": [1, 2], "rounds": [9]},
}
SEEDS = {"smoke": 1, "laptop": 1, "paper": 1}
TABLE = {"by": ["workload", "threads", "variant"], "value": "relative_speed"}
STEPS = {
    "mnist": 40,
    "frey": 80,
    "toy": 400,
}  # a round of each variant takes about a third of a second
SMOKE = ("hand-written", "Pyro's vae.py", "ours, off", "ours, record")


def run(seed, workload, threads, rounds, scale):
    """Interleaved rounds, A B C ... A B C ..., of process CPU time a step (with two threads: of
    wall time).
    """
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    x = torch.rand(4000, WORKLOADS[workload].data_size)
    variants, seconds = dict(trainers(workload, x, SMOKE if scale == "smoke" else VARIANTS)), {}
    for train in variants.values():
        train(4000 // BATCH_SIZE)  # recording and compiling are paid here
    for _ in range(rounds):
        for name, train in variants.items():
            start = clock()
            done = train(STEPS[workload] // (10 if scale == "smoke" else 1))
            seconds.setdefault(name, []).append((clock() - start) / done)
    torch.set_num_threads(1)
    ratios = {
        n: [base / s for base, s in zip(seconds["hand-written"], own, strict=True)]
        for n, own in seconds.items()
    }
    return [
        {
            "variant": name,
            "relative_speed": statistics.median(r),
            "lowest": min(r),
            "highest": max(r),
            "microseconds": 1e6 * statistics.median(seconds[name]),
        }
        for name, r in ratios.items()
    ]


def draw(rows):
    workloads, threads = (
        [w for w in WORKLOADS if any(r["workload"] == w for r in rows)],
        sorted({r["threads"] for r in rows}),
    )
    names = list(dict.fromkeys(row["variant"] for row in rows))[::-1]
    figure = Figure(figsize=(3 + 3.5 * len(workloads), 3.2 * len(threads)), layout="constrained")
    panels = figure.subplots(len(threads), len(workloads), squeeze=False, sharex="col", sharey=True)
    for axes, (count, workload) in zip(
        panels.flat, itertools.product(threads, workloads), strict=True
    ):
        own = [row for row in rows if (row["workload"], row["threads"]) == (workload, count)]
        middle, low, high = (
            np.array([row[k] for row in own]) for k in ("relative_speed", "lowest", "highest")
        )
        heights = [names.index(row["variant"]) for row in own]
        axes.barh(heights, middle, xerr=[middle - low, high - middle], color="0.7")
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set(xscale="log", title=f"{workload}, {count} thread{'s' * (count > 1)}")
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(
            ticks := [t for t in (0.25, 0.5, 1, 2, 4, 8) if t < 2 * high.max()],
            map(str, ticks),
            minor=False,
        )
        axes.minorticks_off()
    figure.supxlabel("speed, hand-written = 1")
    return figure


if __name__ == "__main__":
    study.main()
