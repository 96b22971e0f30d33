"""Do more draws of z a datum, or another batch size, give report 004's Frey model a better bound?

The report's heat map (L = 1..8, M = 20, 60, 100, 140; one run a cell) is best on test at L = 2, M =
100.

Prediction: L has no effect beyond the noise of seeds at M = 100; at equal epochs small batches win
on training data because they make more updates, and the order of M turns or vanishes at equal
updates; the film's last frames (the report's test set) are far below a random split whatever L and
M.

How to read the figure: rows are splits; columns, bounds at equal epochs and at equal updates;
held-out bound against L, a line a batch size, a small mark a seed; crosses, above left, are the
report's after 2000 epochs.

`laptop`: L 1, 2, 8 and M 20, 100; 40 epochs (the report: 2000); updates equal those of M = 100.
"""

from matplotlib.figure import Figure
from measures.panels import seed_marks
from measures.wording import told
from models import FREY, load, trained

from ppl_vae import study

REPORT = {
    (1, 20): 651.5,
    (2, 20): 729.0,
    (8, 20): 631.2,
    (1, 100): 733.1,
    (2, 100): 778.8,
    (8, 100): 747.5,
}  # test
GRID = {
    "smoke": {
        "num_particles": [1, 2],
        "batch_size": [20, 100],
        "split": ["ordered", "shuffled"],
        "epochs": [5],
    },
    "laptop": {
        "num_particles": [1, 2, 8],
        "batch_size": [20, 100],
        "split": ["ordered", "shuffled"],
        "epochs": [40],
    },
    "paper": {
        "num_particles": [1, 2, 3, 4, 5, 6, 7, 8],
        "batch_size": [20, 60, 100, 140],
        "split": ["ordered", "shuffled"],
        "epochs": [2000],
    },
}
SEEDS = {"laptop": 2}
TABLE = {
    "by": ["split", "budget", "batch_size", "num_particles"],
    "value": ["training_bound", "test_bound"],
}


def run(seed, num_particles, batch_size, split, epochs, scale):
    data = load("frey_faces", scale, split)
    settings = {
        **FREY,
        "latent_size": 10,
        "batch_size": batch_size,
        "num_particles": num_particles,
        "epochs": epochs,
    }
    _, history = trained(data.train[:1500], seed, scale, data.test, **settings)
    at = {
        "epochs": epochs,
        "updates": max(1, round(epochs * batch_size / 100)),
    }  # M <= 100: an earlier epoch
    return [
        {
            "budget": budget,
            "training_bound": history.rows[epoch - 1]["lower_bound"],
            "test_bound": history.rows[epoch - 1]["validation_lower_bound"],
        }
        for budget, epoch in at.items()
        if epoch <= epochs
    ]


COLOURS = {20: "#332288", 60: "#88ccee", 100: "#cc6677", 140: "#ddaa33"}


def draw(rows):
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    particles = sorted({row["num_particles"] for row in rows})
    for line, split in zip(panels, ("ordered", "shuffled")):
        for axes, budget in zip(line, ("epochs", "updates")):
            own = [row for row in rows if (row["split"], row["budget"]) == (split, budget)]
            for size in sorted({row["batch_size"] for row in own}):
                here = [row for row in own if row["batch_size"] == size]
                groups = [[r for r in here if r["num_particles"] == n] for n in particles]
                looks = {"color": COLOURS[size], "label": f"M = {size}"}
                seed_marks(axes, particles, groups, "test_bound", **looks)
                if (split, budget) == ("ordered", "epochs"):
                    reported = {n: REPORT[n, m] for n, m in REPORT if m == size}
                    axes.plot(list(reported), list(reported.values()), "x", color=COLOURS[size])
            axes.set(
                title=f"{split} split, equal {budget}",
                xlabel="L, draws of z a datum",
                ylabel="test bound (nats)",
            )
            axes.legend(frameon=False)
    return figure


def answer(rows):
    most = max(row["num_particles"] for row in rows)
    own = [row for row in rows if row["budget"] == "epochs"]
    lines = []
    for split in ("ordered", "shuffled"):
        at_100 = [row for row in own if (row["batch_size"], row["split"]) == (100, split)]
        gain = study.paired_difference(at_100, "num_particles", most, 1, "test_bound")
        two = study.paired_difference(at_100, "num_particles", 2, 1, "test_bound")
        smaller = {}
        for budget in ("epochs", "updates"):
            here = [row for row in rows if (row["budget"], row["split"]) == (budget, split)]
            smaller[budget] = study.paired_difference(
                here, "batch_size", 20, 100, "test_bound", ["num_particles"]
            )
        lines.append(
            f"- {split}: at M = 100, L = 2 over 1 {told(two, 'nats', 'above')}, report +45.7 from "
            f"one run; L = {most} over 1 {told(gain)}. M = 20 over 100 "
            f"{told(smaller['epochs'], 'nats', 'above')} at equal epochs, "
            f"{told(smaller['updates'])} at equal updates."
        )
    split = study.paired_difference(
        own, "split", "shuffled", "ordered", "test_bound", ["batch_size", "num_particles"]
    )
    lines.append(f"- shuffled over ordered split: {told(split, 'nats', 'above')}.")
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
