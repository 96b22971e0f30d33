"""How fast is a training step of an ordinary Pyro pair, against the same model in other hands?

Prediction: compiled steps beat hand-written eager PyTorch with a fused Adam at every size, most
where the model is small; recorded steps equal it; eager Pyro is behind it.

How to read the figure: a bar is the speed relative to hand-written eager PyTorch (1, the line), the
median over interleaved rounds of process CPU time, with their range; this library's bars are dark.

bfloat16 pays only on processors that have its products; others emulate them, which is slower than
single precision.
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


TICKS = (0.25, 0.5, 1, 2, 4, 8)


def draw(rows):
    workloads = [name for name in WORKLOADS if any(row["workload"] == name for row in rows)]
    threads = sorted({row["threads"] for row in rows})
    names = list(dict.fromkeys(row["variant"] for row in rows))[::-1]
    figure = Figure(figsize=(3 + 3.5 * len(workloads), 3.2 * len(threads)), layout="constrained")
    panels = figure.subplots(len(threads), len(workloads), squeeze=False, sharex="col", sharey=True)
    for axes, (count, workload) in zip(panels.flat, itertools.product(threads, workloads)):
        own = [row for row in rows if (row["workload"], row["threads"]) == (workload, count)]
        middle = np.array([row["relative_speed"] for row in own])
        low = np.array([row["lowest"] for row in own])
        high = np.array([row["highest"] for row in own])
        heights = [names.index(row["variant"]) for row in own]
        colours = ["#332288" if row["variant"].startswith("ours") else "0.75" for row in own]
        axes.barh(heights, middle, xerr=[middle - low, high - middle], color=colours, ecolor="0.3")
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set(xscale="log", title=f"{workload}, {count} thread{'s' * (count > 1)}")
        axes.set_yticks(range(len(names)), names)
        ticks = [tick for tick in TICKS if tick < 2 * high.max()]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    figure.supxlabel("speed, hand-written = 1; dark: this library")
    return figure


def answer(rows):
    lines = []
    for workload, threads in dict.fromkeys((row["workload"], row["threads"]) for row in rows):
        own = {
            row["variant"]: row["relative_speed"]
            for row in rows
            if (row["workload"], row["threads"]) == (workload, threads)
        }
        ours = own.get("ours, inductor", own["ours, record"])
        faster = {
            name: speed
            for name, speed in own.items()
            if speed > ours and not name.startswith("ours")
        }
        listed = ", ".join(f"{name} ({speed:.2f})" for name, speed in faster.items())
        pyro = ours / own["Pyro's vae.py"]
        lines.append(
            f"- {workload}, threads: {threads}: our fastest step {ours:.2f} times hand-written, "
            f"{pyro:.1f} times Pyro's own example; faster than ours: {listed or 'none'}."
        )
    return "\n".join([*lines, "", "One process a setting: medians over rounds, not over machines."])


if __name__ == "__main__":
    study.main()
