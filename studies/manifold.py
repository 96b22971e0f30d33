"""Is the centre of MNIST's manifold a 3, and does Frey's run from left to right profile?

Report 004 reads both off one picture each.

Prediction: what lies at the centre changes with the seed, since nothing in the model breaks the
symmetry of the latent plane; a direction of the Frey plane does follow the profile, but which one
is as arbitrary.

How to read the figure: decoder means on a grid of equal prior mass (z_1 to the right, z_2 upward),
one panel a seed. Measured: the class of the decoded centre by its nearest training image, how many
classes the grid shows, and for Frey the share of variance of left-right asymmetry (left half minus
right half) that is linear in z.

`laptop`: the report's networks and optimiser for 3 and 100 epochs; Frey's shuffled split. After 3
epochs the decoded centres are blurs, which a nearest neighbour calls some class.
"""

import torch
from matplotlib.figure import Figure
from models import FREY, REPLICATION, load, trained

from ppl_vae import plots, study

SETTINGS = {"mnist": REPLICATION, "frey_faces": FREY}
EPOCHS = {
    "smoke": {"mnist": 2, "frey_faces": 2},
    "laptop": {"mnist": 3, "frey_faces": 100},
    "paper": {"mnist": 2000, "frey_faces": 2000},
}
GRID = {
    scale: [{"data": [name], "epochs": [epochs]} for name, epochs in by.items()]
    for scale, by in EPOCHS.items()
}
SIDE = 10
SEEDS = {"laptop": 5}
TABLE = {
    "by": ["data"],
    "value": ["classes_shown", "asymmetry_explained", "validation_bound"],
}


def explained(z, y):
    """The share of the variance of y (N,) that a linear function of z (N, L) explains."""
    inputs = torch.cat([z, torch.ones(len(z), 1)], 1)
    residual = y - inputs @ torch.linalg.lstsq(inputs, y[:, None]).solution[:, 0]
    return 1 - (residual.var() / y.var()).item()


def run(seed, data, epochs, scale):
    images = load(data, scale)
    vae, history = trained(
        images.train, seed, scale, images.validation, latent_size=2, epochs=epochs, **SETTINGS[data]
    )
    pictures = vae.decode(plots.manifold_grid(SIDE)).mean.detach()
    row = {
        "validation_bound": history.rows[-1]["validation_lower_bound"],
        "pictures": (255 * pictures).round().int(),
        "centre_class": None,
        "classes_shown": None,
        "asymmetry_explained": None,
    }
    if data == "mnist":
        codes = torch.cat([pictures, vae.decode(torch.zeros(1, 2)).mean.detach()]).flatten(1)
        nearest = torch.cdist(codes, images.train[:10_000].flatten(1)).argmin(1)
        classes = images.train_labels[nearest]
        return {**row, "centre_class": classes[-1].item(), "classes_shown": len(classes.unique())}
    left, right = images.validation.chunk(2, -1)
    asymmetry = (left.flatten(1).mean(1) - right.flatten(1).mean(1)).double()
    return {
        **row,
        "asymmetry_explained": explained(vae.encode(images.validation).double(), asymmetry),
    }


def draw(rows):
    seeds = sorted({row["seed"] for row in rows})
    figure = Figure(figsize=(4.2 * len(seeds), 9.2), layout="constrained")
    panels = figure.subplots(2, len(seeds), squeeze=False)
    for line, data in zip(panels, SETTINGS):
        for axes, seed in zip(line, seeds):
            row = next(row for row in rows if (row["data"], row["seed"]) == (data, seed))
            plots.manifold(torch.tensor(row["pictures"]) / 255, SIDE, axes=axes)
            centre = "" if row["centre_class"] is None else f", centre: {row['centre_class']}"
            axes.set_title(f"{data}, seed {seed}{centre}")
    return figure


def answer(rows):
    digits = [row for row in rows if row["data"] == "mnist"]
    centres = ", ".join(str(row["centre_class"]) for row in digits)
    threes = sum(row["centre_class"] == 3 for row in digits)
    bound = study.mean_at(rows, "validation_bound", data="mnist")
    share = study.mean_at(rows, "asymmetry_explained", data="frey_faces")
    always = "confirmed" if threes == len(digits) else "refuted"
    samples = digits[0]["epochs"] * 50_000
    return (
        f"- MNIST's centre decodes to {centres} by seed; that it is always a 3 is **{always}** "
        f"after {samples:.2g} samples at a bound of {bound} nats (the report: 1e8 samples, -152).\n"
        f"- Frey: {share} of the variance of left-right asymmetry is linear in z: that some "
        f"direction follows the profile is **{study.verdict(share)}**, that it is more than half "
        f"of it **{study.verdict(share, 'above', 0.5)}**."
    )


if __name__ == "__main__":
    study.main()
