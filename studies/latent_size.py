"""Do samples get worse, and images sharper, as report 001's latent grows from 2 to 10, 25 and 50?

The report looks at samples alone: realistic but alike at 2, degrading from 10 on, sharper with more
latents.

Prediction: bound and score rise from 2 to about 20 and then stay (latents beyond 20 or so are
switched off by their KL), so larger latents neither help nor overfit; samples blur where the
aggregate posterior leaves gaps in the prior, so the distance of q(z) to p(z) grows with the latent.

Pixels are grey levels under a Bernoulli, as in the report: the score is its log density of grey
levels, by importance sampling, and no density of the data.

How to read the figure: left, bound and score on held-out images, a small mark a seed, with the
number of active units; right, means decoded from prior draws, a row a latent size.

The report names no network or optimiser: ours is one hidden layer of 200 units. "Not a digit" is
the share of prior samples farther from their nearest training image than 95 % of the
reconstructions of test images are. `laptop`: 8 epochs, 200 test images for the score with 500 draws
each.
"""

import torch
from matplotlib.figure import Figure
from measures.panels import seed_marks
from measures.wording import told
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
    "value": ["bound", "bernoulli_score", "active_units", "sharpness", "not_a_digit", "median_k"],
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
        "bernoulli_score": estimate.mean,
        "median_k": estimate.pareto_k.median().item(),
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
    by_size = [[row for row in rows if row["latent_size"] == size] for size in sizes]
    for value, label, colour in (
        ("bound", "lower bound, validation", "#332288"),
        ("bernoulli_score", "score, 200 test images", "#cc6677"),
    ):
        seed_marks(left, sizes, by_size, value, color=colour, label=label)
    for size, here in zip(sizes, by_size):
        active = study.mean_at(here, "active_units").mean
        place = (size, study.mean_at(here, "bernoulli_score").mean)
        left.annotate(f"{active:g} active", place, (0, 8), textcoords="offset points", fontsize=8)
    left.set(xlabel="latent size", ylabel="nats an image", xlim=(0, 60), ymargin=0.1)
    left.legend(frameon=False, loc="lower right")
    tiles = [tile for here in by_size for tile in here[0]["pictures"]]
    title = f"Prior samples, latent sizes {', '.join(map(str, sizes))} from above"
    plots.image_grid(torch.tensor(tiles) / 255, columns=12, title=title, axes=right)
    return figure


def answer(rows):
    score = study.paired_difference(rows, "latent_size", 50, 10, "bernoulli_score")
    later = study.paired_difference(rows, "latent_size", 50, 25, "bernoulli_score")
    sharp = study.paired_difference(rows, "latent_size", 50, 2, "sharpness")
    odd = study.paired_difference(rows, "latent_size", 50, 10, "not_a_digit")
    k = {size: study.mean_at(rows, "median_k", latent_size=size).mean for size in SIZES}
    listed = ", ".join(f"{value:.2f} at {size}" for size, value in k.items())
    return f"""- "Quality degrades from 10 to 50": the share of odd samples changes by
  {told(odd, "", "above")}.
- "More latents, sharper images": sharpness from 2 to 50 changes by {told(sharp, "", "above")}.
- The score changes by {told(score, "nats", "above")} from 10 to 50 and by {told(later)} from 25 to
  50. The median Pareto k is {listed}: above 0.7, the score is a lower bound only and the more so
  the higher k is, so that it stays level from 25 on is not shown."""


if __name__ == "__main__":
    study.main()
