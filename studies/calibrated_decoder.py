"""Which way of setting a Normal decoder's scale gives the best bound, log p(x) and samples, and at
what cost?

Report 002 names the choices and compares none. Convolutional nets on grey MNIST in [0, 1],
densities per image in nats. Published (Calibrated decoders, 2020, MNIST bounds on -log p / FID):
unit 740/60, KL weight tuned -796/53, shared scale -896/32, per pixel -2895/132.

Prediction: unit variance blurs; a KL weight of 2 s^2 with unit variance equals the shared scale s
in gradient, so it matches its samples but not its density; shared and optimal agree; per pixel has
by far the best bound, since it models constant background pixels, and the worst samples.

How to read the figure: left, log p(x) of held-out images by importance sampling, a mark a seed;
middle, share of samples near the data (precision) against share of data near the samples (recall),
by the k = 3 nearest neighbours in pixels of equally many images, held-out data in grey; right,
samples, a row a decoder in the order of the left panel.

`laptop`: 5 epochs, 400 images, 200 draws; the shared scale starts at 0.3, since Adam moves log s by
1e-3 a step.
"""

import torch
from matplotlib.figure import Figure
from measures.panels import seed_marks
from measures.wording import told
from models import load, trained

from ppl_vae import log_likelihood, lower_bound, plots, study

ZERO = {"output_start": "zero"}  # as the reports' networks start, for each decoder alike
UNIT, PIXELWISE = {"likelihood": "normal_unit"}, {"likelihood": "normal_pixelwise", **ZERO}
DECODERS = {
    "unit": UNIT,
    "unit, KL weight 0.1": UNIT | {"kl_weight": 0.1},
    "unit, KL weight 0.02": UNIT | {"kl_weight": 0.02},
    "shared": {"likelihood": "normal_shared", "likelihood_options": {"initial_scale": 0.3}},
    "optimal": {"likelihood": "normal_optimal", **ZERO},
    "per pixel": PIXELWISE,
    "per pixel, floor 0.1": {**PIXELWISE, "likelihood_options": {"scale_floor": 0.1}},
}
COLOURS = dict(
    zip(DECODERS, ["#882255", "#cc6677", "#ddaa33", "#332288", "#88ccee", "#117733", "#44aa99"])
)
SIZES = {"smoke": (1, 50, 20), "laptop": (5, 400, 200), "paper": (200, 5000, 5000)}
GRID = {"decoder": list(DECODERS)}
SEEDS = {"laptop": 3}
TABLE = {
    "by": ["decoder"],
    "value": ["bound", "log_p", "k_above_0.7", "scale", "precision", "recall", "seconds"],
}


def covered(points, by, k=3):
    """The share of `points` (N, D) nearer to some point of `by` than its k-th nearest there
    (Improved precision and recall metric for assessing generative models, 2019, equation 1)."""
    radius = torch.cdist(by, by).kthvalue(k + 1).values  # the nearest is the point itself
    return (torch.cdist(points, by) <= radius).any(1).double().mean().item()


def run(seed, decoder, scale):
    (epochs, images, draws), data = SIZES[scale], load("mnist", scale)
    vae, history = trained(
        data.train,
        seed,
        scale,
        latent_size=20,
        hidden_sizes=(128,),
        network="conv",
        activation="relu",
        epochs=epochs,
        batch_size=100,
        **DECODERS[decoder],
        learning_rate=f"linear:1e-3:1e-4:{epochs}",
    )
    x, other = data.test[:images], data.validation[:images]
    estimate = log_likelihood(vae, x, num_samples=draws, seed=seed)
    samples, scales = vae.sample(images, mean=True), vae.decode(vae.encode(x)).base_dist.scale
    real, made, held_out = (each.flatten(1) for each in (x, samples, other))
    return {
        "log_p": estimate.mean,
        "k_above_0.7": (estimate.pareto_k > 0.7).double().mean().item(),
        "bound": lower_bound(vae, x, num_particles=10, seed=seed).mean().item(),
        "scale": scales.mean().item(),
        "precision": covered(made, real),
        "recall": covered(real, made),
        "real_precision": covered(held_out, real),
        "real_recall": covered(real, held_out),
        "seconds": sum(row["seconds"] for row in history.rows),
        "samples": samples[:10].mul(255).round().int(),
    }


def draw(rows):
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    decoders = list(dict.fromkeys(row["decoder"] for row in rows))
    for place, decoder in enumerate(decoders):
        here = [row for row in rows if row["decoder"] == decoder]
        colour = COLOURS[decoder]
        seed_marks(left, [place], [here], "log_p", line="", across=True, color=colour)
        # The three unit scales differ by tens of nats, which the axis of thousands does not show.
        mean = study.mean_at(here, "log_p").mean
        left.annotate(f"{mean:.0f}", (mean, place), (6, 6), textcoords="offset points", fontsize=8)
        recall = [row["recall"] for row in here]
        precision = [row["precision"] for row in here]
        middle.plot(recall, precision, "o", c=colour, label=decoder)
    held_out = (rows[0]["real_recall"], rows[0]["real_precision"])
    middle.plot(*held_out, "s", c="0.6", label="held-out data")
    left.set(xlabel="log p(x) (nats)", ylim=(len(decoders) - 0.5, -0.7), xmargin=0.12)
    left.set_yticks(range(len(decoders)), decoders)
    middle.set(xlabel="recall", ylabel="precision")
    middle.legend(frameon=False, fontsize=7)
    first = [row for row in rows if row["seed"] == 0]
    tiles = torch.tensor([image for row in first for image in row["samples"]]) / 255
    title = "Samples, decoders from above as on the left"
    plots.image_grid(tiles.clamp(0, 1), columns=10, title=title, axes=right)
    return figure


def answer(rows):
    def gain(better, base, value):
        return study.paired_difference(rows, "decoder", better, base, value)

    agree = gain("shared", "optimal", "log_p")
    lines = [
        "- Density, shared over unit variance: "
        f"{told(gain('shared', 'unit', 'log_p'), 'nats', 'above')}; per pixel over shared: "
        f"{told(gain('per pixel', 'shared', 'log_p'), 'nats', 'above')}.",
        f'- "Shared and optimal agree": shared over optimal {told(agree)}, so '
        f"**{'refuted' if agree.excludes() else 'not shown'}** after so few epochs.",
        "- A KL weight of 0.02 at unit variance against the shared scale: precision "
        f"{told(gain('unit, KL weight 0.02', 'shared', 'precision'), '')}, recall "
        f"{told(gain('unit, KL weight 0.02', 'shared', 'recall'), '')}, density "
        f"{told(gain('unit, KL weight 0.02', 'shared', 'log_p'), 'nats', 'below')}.",
        '- "Per pixel has the worst samples": recall over the shared scale '
        f"{told(gain('per pixel', 'shared', 'recall'), '', 'below')}; precision "
        f"{told(gain('per pixel', 'shared', 'precision'), '')}, which blur raises.",
    ]
    k = {
        decoder: study.mean_at(rows, "k_above_0.7", decoder=decoder).mean
        for decoder in dict.fromkeys(row["decoder"] for row in rows)
    }
    trusted = [decoder for decoder, share in k.items() if share < 0.5]
    least = min(share for decoder, share in k.items() if decoder not in trusted)
    lines.append(
        f"- Pareto k is above 0.7 on at least {least:.0%} of the images for all decoders but "
        f"{', '.join(trusted)}: their log p(x) is a lower bound only, and how far below the value "
        "is not measured here, so differences between them may be the estimate's."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
