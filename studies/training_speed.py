"""How fast is a training step of an ordinary Pyro pair, against the same model in other hands?

Prediction: compiled steps beat hand-written eager PyTorch with a fused Adam at every size, most where the model is
small; recorded steps equal it; eager Pyro is behind it. How to read the figure: a bar is the speed relative to
hand-written eager PyTorch (1, the line), the median over interleaved rounds of process CPU time, with their range.
"""

import statistics
import time

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
STEPS = {"mnist": 40, "frey": 80, "toy": 400}  # a round of each variant takes about a third of a second
SMOKE = ("hand-written", "Pyro's vae.py", "ours, off", "ours, record")


def run(seed, workload, threads, rounds, scale):
    """Interleaved rounds, A B C ... A B C ..., of process CPU time a step (with two threads: of wall time)."""
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
    ratios = {n: [base / s for base, s in zip(seconds["hand-written"], own, strict=True)] for n, own in seconds.items()}
    return [
        {"variant": name, "relative_speed": statistics.median(r), "lowest": min(r), "highest": max(r),
         "microseconds": 1e6 * statistics.median(seconds[name])}
        for name, r in ratios.items()
    ]  # fmt: skip


def draw(rows):
    cells = sorted({(row["workload"], row["threads"]) for row in rows})
    figure = Figure(figsize=(4.5 * len(cells), 4.5), layout="constrained")
    for axes, (workload, threads) in zip(figure.subplots(1, len(cells), squeeze=False)[0], cells, strict=True):
        own = [row for row in rows if (row["workload"], row["threads"]) == (workload, threads)]
        middle, low, high = ([row[k] for row in own] for k in ("relative_speed", "lowest", "highest"))
        error = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        axes.barh([row["variant"] for row in own], middle, xerr=error, color="0.6")
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set(xscale="log", xlabel="speed, hand-written = 1", title=f"{workload}, {threads} thread(s)")
    return figure


if __name__ == "__main__":
    study.main()
