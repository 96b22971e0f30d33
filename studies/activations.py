"""Is ReLU fastest, tanh no worse in the end, and sigmoid slowest, lowest and a fifth dearer a step?

Prediction: after 1e6 samples ReLU leads tanh by about 14 nats and sigmoid trails by 20 (weights
N(0, 0.01^2) starve the saturating units at first); by 1e8 the report's own numbers are level, and
at N_z = 5 sigmoid is best on held-out data, so "sigmoid lowest in each case" does not hold there. A
step's time does not depend on the activation beyond a few
percent: matrix products dominate. How to read the figure: left, validation bound against samples,
crosses the report's values; right, time a step relative to tanh.
`laptop`: N_z = 10 and 5e5 samples (the report: 5, 10, 20 and 1e8).
"""

from matplotlib.figure import Figure
from measures.wording import told
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
        curves = [row["curve"] for row in own if row["activation"] == activation]
        for number, curve in enumerate(curves):
            samples, bounds = zip(*curve)
            label = activation if number == 0 else None
            left.plot(samples, bounds, color=colour, label=label)
        reported = REPORT[activation]
        left.plot(list(reported), list(reported.values()), "x", color=colour)
    left.set(
        xscale="log",
        xlabel="samples",
        ylabel="validation bound (nats an image)",
        title="A line a seed; crosses: the report",
    )
    left.legend(frameon=False)
    for place, (name, colour) in enumerate(COLOURS.items()):
        relative = [row["relative"] for row in relative_times(own) if row["activation"] == name]
        right.bar(place, sum(relative) / len(relative), color=colour)
        right.plot([place] * len(relative), relative, "o", color="0.2", markersize=4)
    right.set_xticks(range(len(COLOURS)), COLOURS)
    right.set(xlabel="activation", ylabel="time a step, tanh = 1", title="A mark a seed")
    return figure


def relative_times(rows):
    """The rows with their time a step over that of tanh at the same seed."""
    base = {row["seed"]: row["milliseconds_a_step"] for row in rows if row["activation"] == "tanh"}
    return [{**row, "relative": row["milliseconds_a_step"] / base[row["seed"]]} for row in rows]


def answer(rows):
    own = relative_times([row for row in rows if row["latent_size"] == 10])
    lines = []
    for name, side in (("relu", "above"), ("sigmoid", "below")):
        lead = study.paired_difference(own, "activation", name, "tanh", "validation_bound")
        time = study.paired_difference(own, "activation", name, "tanh", "relative")
        early, late = (REPORT[name][n] - REPORT["tanh"][n] for n in (1e6, 1e8))
        lines.append(
            f"- {name} over tanh after {own[0]['epochs'] * 50_000:.2g} samples: "
            f"{told(lead, 'nats', side)}; report {early:+.1f} at 1e6, {late:+.1f} at 1e8. Time a "
            f"step over tanh's, less 1: {told(time, '', 'above')}; report: sigmoid about +0.2."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
