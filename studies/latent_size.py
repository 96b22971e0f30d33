"""Do samples get worse, and images sharper, as report 001's latent grows from 2 to 10, 25 and 50?

The report looks at samples alone: realistic but alike at 2, degrading from 10 on, sharper with more
latents.
Prediction: the bound and log p(x) rise from 2 to about 20 and then stay (latents beyond 20 or so
are switched off by their KL), so larger latents neither help nor overfit; samples blur where the
aggregate posterior leaves gaps in the prior, so the distance of q(z) to p(z) grows with the latent.
How to read the figure: left, bound and log p(x) on held- out images with active units above; right,
means decoded from prior draws, a row a latent size. The report names no network or optimiser: ours
is one hidden layer of 200 units. "Not a digit" is the share of prior samples farther from their
nearest training image than 95 % of the reconstructions of test images are. `laptop`: 8 epochs, 200
test images for log p(x) with 500 draws each.
"""

import torch
from matplotlib.figure import Figure
from models import load, trained

from ppl_vae import log_likelihood, plots, study
from ppl_vae.evaluation import active_units

SIZES = [2, 10, 25, 50]
GRID = {
    "smoke": {"latent_size": SIZES, "epochs": [1], "draws": [10]},
    "laptop": {"latent_size": SIZES, "epochs": [8], "draws": [500]},
    "paper": {"latent_size": SIZES, "epochs": [200], "draws": [5000]},
}
SEEDS = {"laptop": 2}
TABLE = {
    "by": ["latent_size"],
    "value": ["bound", "log_likelihood", "active_units", "sharpness", "not_a_digit", "largest_k"],
}


def sharpness(images):
    """Mean squared difference of neighbouring pixels, relative to the images' variance: blur lowers
    it.
    """
    return ((images.diff(dim=-1) ** 2).mean() / images.var()).item()


def run(seed, latent_size, epochs, draws, scale):
    data = load("mnist", scale)
    vae, history = trained(
        data.train,
        seed,
        scale,
        data.validation,
        latent_size=latent_size,
        hidden_sizes=(200,),
        activation="relu",
        epochs=epochs,
        batch_size=200,
        learning_rate=f"linear:4e-3:2e-4:{epochs}",
    )
    estimate = log_likelihood(vae, data.test[:200], num_samples=draws, seed=seed)
    x, pictures = data.train[:5000].flatten(1), vae.sample(500, mean=True)
    far = [
        torch.cdist(images.flatten(1), x).min(1).values
        for images in (pictures, vae.reconstruct(data.test[:500]))
    ]
    return {
        "bound": history.rows[-1]["validation_lower_bound"],
        "log_likelihood": estimate.mean,
        "largest_k": estimate.pareto_k.median().item(),
        "active_units": int(active_units(vae, data.test).sum()),
        "sharpness": sharpness(pictures),
        "sharpness_of_data": sharpness(data.test),
        "not_a_digit": (far[0] > far[1].quantile(0.95)).double().mean().item(),
        "pictures": pictures[:12].mul(255).round().int(),
    }


def draw(rows):
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = sorted({row["latent_size"] for row in rows})
    for value, label in (
        ("bound", "lower bound, validation"),
        ("log_likelihood", "log p(x), 200 test images"),
    ):
        means = [study.mean_at(rows, value, latent_size=size) for size in sizes]
        left.errorbar(sizes, *zip(*means), marker="o", capsize=3, label=label)
    for size, (mean, _) in zip(sizes, means):
        active = study.mean_at(rows, "active_units", latent_size=size)[0]
        left.annotate(
            f"{active:g} active", (size, mean), (0, 8), textcoords="offset points", fontsize=8
        )
    left.set(xlabel="latent size", ylabel="nats an image", xlim=(0, 60), ymargin=0.1)
    left.legend(frameon=False, loc="lower right")
    tiles = [
        tile
        for size in sizes
        for tile in next(r for r in rows if r["latent_size"] == size)["pictures"]
    ]
    plots.image_grid(
        torch.tensor(tiles) / 255,
        columns=12,
        title=f"Prior samples, latent sizes {sizes}",
        axes=right,
    )
    return figure


def answer(rows):
    grow = study.paired_difference(rows, "latent_size", 50, 10, "log_likelihood")
    sharp = study.paired_difference(rows, "latent_size", 50, 2, "sharpness")
    odd = study.paired_difference(rows, "latent_size", 50, 10, "not_a_digit")
    return (
        '- "Quality degrades from 10 to 50": the share of odd samples changes by '
        f"{study.plus_minus(*odd)} "
        f"(**{'confirmed' if odd[0] > 2 * odd[1] else 'not shown'}**), "
        f"log p by {study.plus_minus(*grow)} nats.\n"
        '- "More latents, sharper images": sharpness from 2 to 50 changes by '
        f"{study.plus_minus(*sharp)} "
        f"(**{'confirmed' if sharp[0] > 2 * sharp[1] else 'refuted'}**)."
    )


if __name__ == "__main__":
    study.main()
