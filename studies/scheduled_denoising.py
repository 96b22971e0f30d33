"""Does corrupting what the encoder sees help, and does lowering the level on a schedule help more?

Report 004, section 7.3, proposes noise that is lowered as training goes on, and says neither how
nor what it gains. The denoising bound keeps the clean x in the likelihood: a valid bound, but of
another q(z|x). The paper it follows (Denoising criterion, 2015) claims a better likelihood for
constant noise.

Prediction: constant noise costs bound and reconstruction, which a schedule that ends at 0 gives
back; log p(x) moves by less than its error over seeds, so the answer is no.

How to read the figure: each panel one measure on clean held-out images, a mark for each kind and
level, constant or lowered to 0 over the first half of the run, minus no noise at the same seed;
bars are Student's 95 % intervals: above 0 helps in the first two panels, below 0 in the third.

`laptop`: 15 epochs, salt and pepper alone of three kinds, 500 images with 1000 draws. So short a
run underfits, and what guards against overfitting has nothing to guard against.
"""

import torch
from matplotlib.figure import Figure
from measures.wording import told
from models import load, trained

from ppl_vae import log_likelihood, lower_bound, study
from ppl_vae.evaluation import reconstruction_error

KINDS = ["salt_and_pepper", "normal", "masking"]
SIZES = {"smoke": (2, 20, 20), "laptop": (15, 500, 1000), "paper": (500, 10_000, 5000)}
NONE = {"corruption": ["none"], "level": [0.0], "schedule": ["constant"]}
MEASURES = {
    "bound": "bound (nats)",
    "log_p": "log p(x) (nats)",
    "squared_error": "squared error an image",
}


def grid(levels, kinds=KINDS):
    return [NONE, {"corruption": kinds, "level": levels, "schedule": ["constant", "lowered"]}]


GRID = {
    "smoke": grid([0.1]),
    "laptop": grid([0.05, 0.15], KINDS[:1]),
    "paper": grid([0.05, 0.1, 0.15, 0.3]),
}
TABLE = {"by": ["corruption", "level", "schedule"], "value": list(MEASURES)}


def run(seed, corruption, level, schedule, scale):
    data, (epochs, images, draws) = load("mnist", scale), SIZES[scale]
    course = f"linear:{level}:0:{epochs / 2}" if schedule == "lowered" else level
    vae, _ = trained(
        data.train,
        seed,
        scale,
        latent_size=50,
        hidden_sizes=(200,),
        activation="tanh",
        epochs=epochs,
        batch_size=100,
        learning_rate=f"linear:1e-3:1e-4:{epochs}",
        binarization="dynamic",
        corruption=corruption,
        corruption_level=course,
    )
    x = torch.bernoulli(data.test, generator=torch.Generator().manual_seed(0))[:images]
    return {
        "log_p": log_likelihood(vae, x, num_samples=draws, seed=seed).mean,
        "bound": lower_bound(vae, x, num_particles=20, seed=seed).mean().item(),
        "squared_error": reconstruction_error(vae, x).mean().item(),
    }


def named(rows):
    """The rows with the name of their noise."""
    return [
        {**row, "noise": f"{row['corruption']} {row['level']:g}, {row['schedule']}"} for row in rows
    ]


def gains(rows):
    """{noise: {measure: the interval over seeds of its gain on no noise}}."""
    rows = named(rows)
    clean = next(row["noise"] for row in rows if row["corruption"] == "none")
    kinds = [noise for noise in dict.fromkeys(row["noise"] for row in rows) if noise != clean]
    return {
        noise: {m: study.paired_difference(rows, "noise", noise, clean, m) for m in MEASURES}
        for noise in kinds
    }


def draw(rows):
    figure = Figure(figsize=(11, 4), layout="constrained")
    found = gains(rows)
    for axes, (measure, label) in zip(figure.subplots(1, 3, sharey=True), MEASURES.items()):
        for place, (noise, gain) in enumerate(found.items()):
            colour = "#cc6677" if "lowered" in noise else "#332288"
            mean, half_width = gain[measure]
            axes.errorbar(mean, place, xerr=half_width, fmt="o", capsize=3, color=colour)
        axes.axvline(0, color="0.8", zorder=0)
        axes.set_xlabel(f"{label}, minus no noise")
        axes.set_yticks(range(len(found)), found)
    return figure


def answer(rows):
    lines = []
    for noise, gain in gains(rows).items():
        lines.append(
            f"- {noise}: log p(x) {told(gain['log_p'], 'nats', 'above')}, bound "
            f"{told(gain['bound'])}, squared error {told(gain['squared_error'], '')}"
        )
    noisy = [row for row in rows if row["corruption"] != "none"]
    for level in sorted({row["level"] for row in noisy}):
        here = [row for row in noisy if row["level"] == level]
        lowered = study.paired_difference(
            here, "schedule", "lowered", "constant", "log_p", ["corruption"]
        )
        lines.append(
            f"- At level {level:g} lowered over constant noise: log p(x) "
            f"{told(lowered, 'nats', 'above')}"
        )
    kinds = dict.fromkeys(row["corruption"] for row in noisy)
    missing = [kind for kind in KINDS if kind not in kinds]
    rest = f" Not run: {', '.join(missing)}." if missing else ""
    return (
        'Each minus no noise at the same seed; the verdicts are on "it helps".' + rest + "\n\n"
    ) + "\n".join(lines)


if __name__ == "__main__":
    study.main()
