"""How much of the bound's gap to log p(x) is q's family, how much one encoder for all data?

log p(x) - L[q] = approximation gap (what the best q* of the family lacks) + amortisation gap (what
the encoder's q lacks of q*), 100 held-out binarised digits, ten latents, a decoder trained together
with each posterior. Inference suboptimality in variational autoencoders (2018) found amortisation
the larger part on MNIST and richer families to narrow both.

Prediction: amortisation > approximation for the diagonal Normal; the flow and the mixture narrow
the approximation gap.

How to read the figure: nats per image, the two parts stacked, means over seeds and digits; bars are
Student's 95 % intervals over seeds and digits.

log p(x) is annealed and so a lower bound, which makes the approximation gap too small; q* is found
in a limited number of steps, which moves some of it to the amortisation gap. `laptop`: 10 epochs,
100 temperatures, 150 steps for q*.
"""

import torch
from matplotlib.figure import Figure
from measures.wording import told
from models import load, trained

from ppl_vae import study
from ppl_vae.evaluation import inference_gaps

POSTERIORS = ["diagonal_normal", "full_normal", "iaf", "mixture"]
OPTIONS = {"mixture": {"posterior_options": {"num_components": 5}, "num_particles": 5}}
GRID = {
    "smoke": {
        "posterior": POSTERIORS,
        "epochs": [1],
        "images": [2],
        "temperatures": [5],
        "steps": [5],
    },
    "laptop": {
        "posterior": POSTERIORS,
        "epochs": [10],
        "images": [100],
        "temperatures": [100],
        "steps": [150],
    },
    "paper": {
        "posterior": POSTERIORS,
        "epochs": [1000],
        "images": [1000],
        "temperatures": [5000],
        "steps": [2000],
    },
}
SEEDS = {"laptop": 2}
TABLE = {"by": ["posterior"], "value": ["log_p", "bound", "approximation", "amortisation"]}
ERRORS = (
    "In the table it covers another initialisation, order of the data and noise; where the answer "
    "says so, other images too. Every seed has the same images."
)
PARTS = {"approximation": "#332288", "amortisation": "#ddcc77"}


def run(seed, posterior, epochs, images, temperatures, steps, scale):
    data = load("mnist", scale)
    vae, _ = trained(
        data.train,
        seed,
        scale,
        epochs=epochs,
        batch_size=100,
        binarization="dynamic",
        latent_size=10,
        hidden_sizes=(200,),
        posterior=posterior,
        learning_rate=f"linear:2e-3:1e-4:{epochs}",
        **OPTIONS.get(posterior, {}),
    )
    x = torch.bernoulli(data.test, generator=torch.Generator().manual_seed(0))[:images]
    gaps = inference_gaps(vae, x, seed=seed, num_temperatures=temperatures, num_steps=steps)
    return {
        "log_p": gaps.log_likelihood.mean().item(),
        "bound": gaps.amortised.mean().item(),
        **{part: getattr(gaps, part).mean().item() for part in PARTS},
        **{f"{part}_error": getattr(gaps, part).std().item() / images**0.5 for part in PARTS},
    }


def gap(rows, part, posterior):
    """The interval of a part of the gap, over seeds and images."""
    images = study.mean_at(rows, f"{part}_error", posterior=posterior).mean
    return study.mean_at(rows, part, posterior=posterior).with_data_error(images)


def draw(rows):
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(row["posterior"] for row in rows))
    below = [0.0] * len(names)
    for part, color in PARTS.items():
        found = [gap(rows, part, name) for name in names]
        heights = [interval.mean for interval in found]
        looks = {"color": color, "label": f"{part} gap", "width": 0.6, "capsize": 3}
        bars = [interval.half_width for interval in found]
        axes.bar(names, heights, bottom=below, yerr=bars, **looks)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.set(
        ylabel="gap to log p(x) (nats per image)",
        xlabel="posterior",
        title="Bars: 95 %, over seeds and images",
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    return figure


def answer(rows):
    diagonal, *richer = dict.fromkeys(row["posterior"] for row in rows)
    here = [row for row in rows if row["posterior"] == diagonal]
    larger = study.interval([row["amortisation"] - row["approximation"] for row in here])
    lines = [
        f"- Of the gap of {diagonal}, amortisation less approximation is "
        f"{told(larger, 'nats', 'above')}, over seeds."
    ]
    for name in (diagonal, *richer):
        parts = ", ".join(f"{part} {gap(rows, part, name)}" for part in PARTS)
        lines.append(f"- {name}: {parts} nats per image, over seeds and images")
    for name in richer:
        less = [study.paired_difference(rows, "posterior", diagonal, name, part) for part in PARTS]
        lines.append(
            f"- {name} narrows the diagonal's approximation gap by "
            f"{told(less[0], 'nats', 'above')} and its amortisation gap by "
            f"{told(less[1], 'nats', 'above')}, over seeds"
        )
    missing = [name for name in POSTERIORS if name not in (diagonal, *richer)]
    if missing:
        lines.append(f"- Not run, so nothing is said of them: {', '.join(missing)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
