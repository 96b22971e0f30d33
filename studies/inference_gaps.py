"""How much of the bound's gap to log p(x) is the family of q, and how much is one encoder serving
all data?

log p(x) - L[q] = approximation gap (what the best q* of the family lacks) + amortisation gap (what
the encoder's q lacks of q*), 100 held-out binarised digits, ten latents, a decoder trained together
with each posterior. Inference suboptimality in variational autoencoders (2018) found amortisation
the larger part on MNIST and richer families to narrow both. Prediction: amortisation >
approximation for the diagonal Normal; the flow and the mixture narrow the approximation gap. How to
read the figure: nats per image, means over the digits with standard errors; the two parts stacked.
log p(x) is annealed (lower bounds, so gaps are, if anything, underestimated). `laptop`: 10 epochs.
"""

import torch
from matplotlib.figure import Figure
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


def draw(rows):
    figure, names = (
        Figure(figsize=(7, 4), layout="constrained"),
        list(dict.fromkeys(row["posterior"] for row in rows)),
    )
    axes = figure.subplots()
    below = [0.0] * len(names)
    for part, color in PARTS.items():
        heights = [study.mean_at(rows, part, posterior=name)[0] for name in names]
        errors = [study.mean_at(rows, f"{part}_error", posterior=name)[0] for name in names]
        axes.bar(
            names,
            heights,
            bottom=below,
            yerr=errors,
            color=color,
            label=f"{part} gap",
            width=0.6,
            capsize=3,
        )
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.set(ylabel="gap to log p(x) (nats per image)", xlabel="posterior")
    axes.legend(frameon=False)
    return figure


def answer(rows):
    diagonal, *richer = dict.fromkeys(row["posterior"] for row in rows)
    value = {
        (name, part): study.mean_at(rows, part, posterior=name)
        for name in (diagonal, *richer)
        for part in PARTS
    }
    larger = value[diagonal, "amortisation"][0] > value[diagonal, "approximation"][0]
    lines = [
        f"Of the gap of {diagonal}, amortisation is the **{'larger' if larger else 'smaller'}** "
        "part.",
        "",
    ]
    for name in (diagonal, *richer):
        parts = [study.plus_minus(*value[name, part]) for part in PARTS]
        lines.append(f"- {name}: approximation {parts[0]}, amortisation {parts[1]} nats per image")
    for name in richer:
        less = [study.paired_difference(rows, "posterior", diagonal, name, part) for part in PARTS]
        told = [study.plus_minus(*difference) for difference in less]
        lines.append(
            f"- {name} narrows the diagonal's gaps by {told[0]} (approximation) and {told[1]} "
            "(amortisation)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
