"""Is ReLU fastest, tanh no worse in the end, and sigmoid slowest, lowest and a fifth dearer a step?

Prediction: after 1e6 samples ReLU leads tanh by about 14 nats and sigmoid trails by 20 (weights
N(0, 0.01^2) starve the saturating units at first); by 1e8 the report's own numbers are level, and
at N_z = 5 sigmoid is best on held-out data, so "sigmoid lowest in each case" does not hold there. A
step's time does not depend on the activation beyond a few
percent: matrix products dominate. How to read the figure: left, validation bound against samples,
crosses the report's values; right, time a step relative to tanh.
`laptop`: N_z = 10 and 5e5 samples (the report: 5, 10, 20 and 1e8).
"""

import torch
from matplotlib.figure import Figure
from models import REPLICATION, load, trained

from ppl_vae import study

REPORT = {
    "tanh": {1e6: -132.4, 1e8: -105.28},
    "relu": {1e6: -118.0, 1e8: -105.81},
    "sigmoid": {1e6: -151.4, 1e8: -106.12},
}  # validation bounds at N_z = 10
AXES = {"activation": list(REPORT)}
GRID = {
    "smoke": {**AXES, "latent_size": [10], "epochs": [1]},
    "laptop": {**AXES, "latent_size": [10], "epochs": [10]},
    "paper": {**AXES, "latent_size": [5, 10, 20], "epochs": [2000]},
}
SEEDS = {"laptop": 2}
TABLE = {
    "by": ["latent_size", "activation"],
    "value": ["training_bound", "validation_bound", "milliseconds_a_step"],
}
COLOURS = {"tanh": "#332288", "relu": "#cc6677", "sigmoid": "#44aa99"}


def run(seed, activation, latent_size, epochs, scale):
    data = load("mnist", scale)
    settings = {
        **REPLICATION,
        "activation": activation,
        "latent_size": latent_size,
        "epochs": epochs,
    }
    _, history = trained(data.train, seed, scale, data.validation, **settings)
    steps = -(-len(data.train) // REPLICATION["batch_size"])
    seconds = sorted(row["seconds"] for row in history.rows)[0]  # the least disturbed epoch
    return {
        "training_bound": history.rows[-1]["lower_bound"],
        "milliseconds_a_step": 1e3 * seconds / steps,
        "validation_bound": history.rows[-1]["validation_lower_bound"],
        "curve": [[row["samples"], row["validation_lower_bound"]] for row in history.rows],
    }


def draw(rows):
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    own = [row for row in rows if row["latent_size"] == 10]
    for activation, colour in COLOURS.items():
        curves = torch.tensor([row["curve"] for row in own if row["activation"] == activation])
        for curve in curves:
            left.plot(
                curve[:, 0],
                curve[:, 1],
                color=colour,
                label=activation if curve is curves[0] else None,
            )
        left.plot(
            list(REPORT[activation]),
            list(REPORT[activation].values()),
            "x",
            color=colour,
            label=activation,
        )
    left.set(
        xscale="log",
        xlabel="samples",
        ylabel="validation bound (nats an image)",
        title="Crosses: the report",
    )
    left.legend(frameon=False)
    times = {
        name: study.mean_at(own, "milliseconds_a_step", activation=name)[0] for name in COLOURS
    }
    right.bar(
        list(times), [time / times["tanh"] for time in times.values()], color=list(COLOURS.values())
    )
    right.set(title="Time a step, tanh = 1")
    return figure


def answer(rows):
    own, lines = [row for row in rows if row["latent_size"] == 10], []
    for name, claim in (("relu", "ahead"), ("sigmoid", "behind")):
        lead = study.paired_difference(own, "activation", name, "tanh", "validation_bound")
        time = study.paired_difference(own, "activation", name, "tanh", "milliseconds_a_step")
        base = study.mean_at(own, "milliseconds_a_step", activation="tanh")[0]
        early, late = (REPORT[name][n] - REPORT["tanh"][n] for n in (1e6, 1e8))
        right = "confirmed" if lead[0] * (1 if claim == "ahead" else -1) > 2 else "refuted"
        samples = own[0]["curve"][-1][0]
        lines.append(
            f"- {name} over tanh after {samples:.2g} samples: {study.plus_minus(*lead)} nats "
            "(report "
            f"{early:+.1f} at 1e6, {late:+.1f} at 1e8; {claim} early: **{right}**); time a step "
            f"{time[0] / base:+.0%} ± {time[1] / base:.0%} (report: sigmoid about +20 %)."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
