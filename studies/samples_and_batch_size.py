"""Do more draws of z a datum, or another batch size, give report 004's Frey model a better bound?

The report's heat map (L = 1..8, M = 20, 60, 100, 140; one run a cell) is best on test at L = 2, M =
100. Prediction: L has no effect beyond the noise of seeds at M = 100; at equal epochs small batches
win on training data because they make more updates, and the order of M turns or vanishes at equal
updates; the film's last frames (the report's test set) are far below a random split whatever L and
M. How to read the figure: rows are splits; columns, bounds at equal epochs and at equal updates;
held-out bound against L, a line a batch size, error bars over seeds. `laptop`: L 1, 2, 8 and M 20,
100; 40 epochs (the report: 2000); updates equal those of M = 100.
"""

from matplotlib.figure import Figure
from models import FREY, load, trained
from scipy.stats import t

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


def draw(rows):
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    particles = sorted({row["num_particles"] for row in rows})
    for line, split in zip(panels, ("ordered", "shuffled")):
        for axes, budget in zip(line, ("epochs", "updates")):
            for size in sorted({row["batch_size"] for row in rows if row["budget"] == budget}):
                means = [
                    study.mean_at(
                        rows,
                        "test_bound",
                        split=split,
                        budget=budget,
                        batch_size=size,
                        num_particles=n,
                    )
                    for n in particles
                ]
                axes.errorbar(particles, *zip(*means), marker="o", capsize=3, label=f"M = {size}")
            axes.set(
                title=f"{split} split, equal {budget}",
                xlabel="L, draws of z a datum",
                ylabel="test bound (nats)",
            )
            axes.legend(frameon=False)
    return figure


def answer(rows):
    most, own = (
        max(row["num_particles"] for row in rows),
        [row for row in rows if row["budget"] == "epochs"],
    )
    lines = []
    for split in ("ordered", "shuffled"):
        at_100 = [row for row in own if (row["batch_size"], row["split"]) == (100, split)]
        gain = study.paired_difference(at_100, "num_particles", most, 1, "test_bound")
        two = study.paired_difference(at_100, "num_particles", 2, 1, "test_bound")
        by_budget = [
            study.paired_difference(
                [r for r in rows if (r["budget"], r["split"]) == (budget, split)],
                "batch_size",
                20,
                100,
                "test_bound",
                ["num_particles"],
            )
            for budget in ("epochs", "updates")
        ]
        sure = (
            two[0] > t.ppf(0.975, len({row["seed"] for row in rows}) - 1) * two[1]
        )  # few seeds: Student's t
        verdict = "confirmed" if sure else "not shown"
        lines.append(
            f"- {split}: at M = 100, L = {most} over 1 {study.plus_minus(*gain)}, L = 2 over 1 "
            f"{study.plus_minus(*two)} nats (report +45.7 from one run: **{verdict}**); M = 20 "
            "over 100 "
            f"{study.plus_minus(*by_budget[0])} at equal epochs, "
            f"{study.plus_minus(*by_budget[1])} at equal updates."
        )
    split = study.paired_difference(
        own, "split", "shuffled", "ordered", "test_bound", ["batch_size", "num_particles"]
    )
    return "\n".join([*lines, f"- shuffled over ordered split: {study.plus_minus(*split)} nats."])


if __name__ == "__main__":
    study.main()
