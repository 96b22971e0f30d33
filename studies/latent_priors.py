"""Which learned prior raises log p(x) on dynamically binarised MNIST, at equal budget?

Nets of the published comparison (VAE with a VampPrior, 2018, table 1): two hidden layers of 300, 40
latents, M = 100. It reports -84.45 for N(0, I) and -82.43 for 500 pseudo-inputs after full
training.

Prediction: the gain is what N(0, I) pays for its distance to the average posterior,
KL(q(z) || p(z)), a nat or two from 40 latents; less from 10, where all latents are busy coding.
Vamp, which follows the encoder, gains most.

How to read the figure: left, log p(x) of held-out images by prior and latent size, a small mark a
seed; right, the gain over N(0, I), paired by seed, bars Student's 95 % intervals: a bar above 0 is
a gain. Importance sampling is judged by the share of images with Pareto k > 0.7, in the table:
where large, log p(x) is a lower bound and no more.

`laptop`: 15 epochs (published: over 1000), 300 images, 1000 draws.
"""

import torch
from matplotlib.figure import Figure
from measures.panels import seed_marks
from measures.wording import told
from models import load, trained

from ppl_vae import log_likelihood, lower_bound, study
from ppl_vae.evaluation import active_units

OPTIONS = {"gaussian_mixture": {"components": 500}, "vamp": {"components": 500}}
MAIN, MORE = (
    ["standard_normal", "gaussian_mixture", "vamp", "flow"],
    ["two_level", "laplace", "student_t"],
)
GRID = {
    "smoke": {
        "prior": MAIN + MORE,
        "latent_size": [3],
        "epochs": [1],
        "images": [20],
        "draws": [20],
    },
    "laptop": {
        "prior": MAIN,
        "latent_size": [10, 40],
        "epochs": [15],
        "images": [300],
        "draws": [1000],
    },
    "paper": {
        "prior": MAIN + MORE,
        "latent_size": [10, 40],
        "epochs": [1000],
        "images": [10_000],
        "draws": [5000],
    },
}
TABLE = {
    "by": ["prior", "latent_size"],
    "value": ["log_p", "k_above_0.7", "bound", "kl", "active_units"],
}
COLOURS = dict(
    zip(MAIN + MORE, ["0.35", "#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#aa4499"])
)


def run(seed, prior, latent_size, epochs, images, draws, scale):
    data = load("mnist", scale)
    vae, history = trained(
        data.train,
        seed,
        scale,
        prior=prior,
        prior_options=OPTIONS.get(prior, {}),
        latent_size=latent_size,
        hidden_sizes=(300, 300),
        activation="relu",
        epochs=epochs,
        batch_size=100,
        learning_rate=f"linear:1e-3:1e-4:{epochs}",
        binarization="dynamic",
        compile="off" if scale == "smoke" else "inductor",
    )
    x = torch.bernoulli(data.test, generator=torch.Generator().manual_seed(0))[:images]
    estimate = log_likelihood(vae, x, num_samples=draws, seed=seed)
    return {
        "log_p": estimate.mean,
        "k_above_0.7": (estimate.pareto_k > 0.7).double().mean().item(),
        "bound": lower_bound(vae, x, num_particles=10, seed=seed).mean().item(),
        "kl": sum(value for name, value in history.rows[-1].items() if name.startswith("kl.")),
        "active_units": int(active_units(vae, x).sum()),
    }


def gain(rows, prior, latent_size):
    """The interval over seeds of log p(x) above the standard normal's."""
    here = [row for row in rows if row["latent_size"] == latent_size]
    return study.paired_difference(here, "prior", prior, "standard_normal", "log_p")


def draw(rows):
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = list(dict.fromkeys(row["latent_size"] for row in rows))
    priors = list(dict.fromkeys(row["prior"] for row in rows))
    for number, prior in enumerate(priors):
        shift = (number - (len(priors) - 1) / 2) * 0.1
        places = [place + shift for place in range(len(sizes))]
        own = [row for row in rows if row["prior"] == prior]
        groups = [[row for row in own if row["latent_size"] == size] for size in sizes]
        looks = {"color": COLOURS[prior], "label": prior.replace("_", " ")}
        seed_marks(left, places, groups, "log_p", line="", **looks)
        if prior != "standard_normal":
            means, half_widths = zip(*(gain(rows, prior, size) for size in sizes))
            right.errorbar(places, means, half_widths, fmt="o", capsize=3, **looks)
    right.axhline(0, color="0.35", linewidth=0.9)
    left.set(
        ylabel="log p(x) (nats an image)",
        title=f"{rows[0]['images']} test images, {rows[0]['draws']} draws each, a mark a seed",
    )
    right.set(
        ylabel="gain over N(0, I) (nats an image)",
        title="Paired by seed, bars: Student's 95 %",
    )
    for axes in (left, right):
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set(xlabel="latent size", xlim=(-0.5, len(sizes) - 0.5))
    left.legend(frameon=False, fontsize=8)
    return figure


def answer(rows):
    cells = dict.fromkeys(
        (row["latent_size"], row["prior"]) for row in rows if row["prior"] != "standard_normal"
    )
    lines = [
        f"- {prior} above the standard normal, {size} latents: "
        f"{told(gain(rows, prior, size), 'nats', 'above')}"
        for size, prior in sorted(cells, reverse=True)
    ]
    k = [row["k_above_0.7"] for row in rows]
    lines += [
        "- published, full training, 40 latents: Vamp 2.02 nats above the standard normal",
        f"- Pareto k is above 0.7 on {min(k):.0%} to {max(k):.0%} of the images, by run: where it "
        "is, log p(x) is a lower bound",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
