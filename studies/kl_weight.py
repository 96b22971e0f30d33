"""What does a KL weight of 1, 5, 10 or 40 do at two latents, and where does the model collapse?

Report 001 sees disentangling and poorer reconstructions above 1, entangling when too high.

Prediction: near collapse the decoder is log-linear in z, a Normal model with noise beta p(1 - p),
p the mean image; so a latent can grow out of the prior only while the weight is below the largest
eigenvalue of D^-1/2 Cov(x) D^-1/2, D = diag p(1 - p). Weights above it collapse, and what is called
disentangling at 40 is the loss of latents. A latent counts as collapsed below 0.05 nats of KL.

How to read the figure: left, KL of each latent against the weight, one mark a run and latent, the
predicted collapse a line; right, traversals from -3 to 3, two rows a weight (first seed).

The report's network is unknown: ours is one hidden layer of 200 units. Disentangling itself is not
measured. `laptop`: 5 epochs.
"""

import torch
from matplotlib.figure import Figure
from models import load, trained

from ppl_vae import plots, study
from ppl_vae.evaluation import reconstruction_error

REPORT = [1.0, 5.0, 10.0, 40.0]
GRID = {
    "smoke": {"kl_weight": REPORT, "epochs": [1]},
    "laptop": {"kl_weight": [*REPORT, 15.0, 20.0, 25.0, 30.0, 35.0], "epochs": [5]},
    "paper": {"kl_weight": [*REPORT, 15.0, 20.0, 25.0, 30.0, 35.0], "epochs": [100]},
}
SEEDS = {"laptop": 5}
COLLAPSED = 0.05
TABLE = {
    "by": ["kl_weight"],
    "value": ["kl_1", "kl_2", "squared_error", "bound", "predicted_collapse"],
}


def predicted_collapse(x):
    """The largest eigenvalue of D^-1/2 Cov(x) D^-1/2 over pixels that vary, D = diag p(1 - p)."""
    pixels = x.flatten(1).double()
    p = pixels.mean(0)
    varying = p * (1 - p) > 1e-4
    scaled = (pixels - p)[:, varying] / (p * (1 - p))[varying].sqrt()
    return torch.linalg.eigvalsh(scaled.T @ scaled / len(x))[-1].item()


def run(seed, kl_weight, epochs, scale):
    data = load("mnist", scale)
    vae, history = trained(
        data.train,
        seed,
        scale,
        data.validation,
        latent_size=2,
        hidden_sizes=(200,),
        activation="relu",
        kl_weight=kl_weight,
        epochs=epochs,
        batch_size=200,
        learning_rate=f"linear:4e-3:2e-4:{epochs}",
    )
    q = vae.guide.posterior.encode(data.validation).base_dist
    kl = (
        torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
        .mean(0)
        .sort(descending=True)
        .values
    )
    codes = plots.traversal_codes(torch.zeros(2), 9)
    return {
        "kl_1": kl[0].item(),
        "kl_2": kl[1].item(),
        "bound": history.rows[-1]["validation_lower_bound"],
        "squared_error": reconstruction_error(vae, data.validation).mean().item(),
        "predicted_collapse": predicted_collapse(data.train),
        "traversals": vae.decode(codes).mean.detach().mul(255).round().int(),
    }


def draw(rows):
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for j, fill in ((1, "#332288"), (2, "none")):
        left.plot(
            [row["kl_weight"] for row in rows],
            [row[f"kl_{j}"] for row in rows],
            "o",
            color="#332288",
            markerfacecolor=fill,
            label=f"latent {j}",
        )
    left.axvline(rows[0]["predicted_collapse"], color="#cc6677", label="predicted collapse")
    left.set(xscale="log", xlabel="KL weight", ylabel="KL of a latent (nats)")
    left.legend(frameon=False)
    shown = [row for row in rows if row["kl_weight"] in REPORT and row["seed"] == 0]
    tiles = torch.tensor([image for row in shown for image in row["traversals"]]) / 255
    plots.image_grid(
        tiles, columns=9, title="Traversals, weights 1, 5, 10, 40 from above", axes=right
    )
    return figure


def named(weight):
    return "none of these" if weight is None else f"{weight:g}"


def answer(rows):
    predicted = rows[0]["predicted_collapse"]
    weights = sorted({row["kl_weight"] for row in rows})
    lines = []
    for weight in weights:
        here = [row for row in rows if row["kl_weight"] == weight]
        gone = sum(row["kl_1"] < COLLAPSED for row in here)
        kls = " and ".join(str(study.mean_at(here, name)) for name in ("kl_1", "kl_2"))
        error = study.mean_at(here, "squared_error")
        lines.append(
            f"- weight {weight:g}: KL of the two latents {kls} nats, squared error {error}; both "
            f"latents lost in {gone} of {len(here)} runs"
        )
    right = [(row["kl_1"] < COLLAPSED) == (row["kl_weight"] > predicted) for row in rows]
    alive = max((row["kl_weight"] for row in rows if row["kl_1"] >= COLLAPSED), default=None)
    collapsed = min((row["kl_weight"] for row in rows if row["kl_1"] < COLLAPSED), default=None)
    # A threshold is known no better than the weights on either side of it.
    bracketed = None not in (alive, collapsed) and (
        0.9 * predicted < alive and collapsed < 1.1 * predicted
    )
    if not all(right):
        verdict = "refuted"
    else:
        verdict = "confirmed" if bracketed else "not shown"
    return "\n".join(
        [
            f"Predicted collapse: at weights above {predicted:.1f}. As predicted in "
            f"{sum(right)} of {len(rows)} runs: **{verdict}** as a sharp threshold for runs of "
            f"{rows[0]['epochs']} epochs. The largest weight that keeps a latent is "
            f"{named(alive)}, the smallest that loses both {named(collapsed)}. Whether longer "
            "training would move them is not known.",
            "",
            *lines,
        ]
    )


if __name__ == "__main__":
    study.main()
