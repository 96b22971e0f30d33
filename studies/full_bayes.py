"""Does a posterior over the weights help a VAE's held-out likelihood, which method, and at what
number of data?

Report 004 (section 6) placed a Normal over all weights and saw no learning; its code moves q(theta)
by the KL alone, the row "KL alone".

Prediction: coded correctly every method learns; mean-field with N(0, I) loses to points; averaging
over good draws (chains, ensembles) wins by tenths of a nat where data are few.

Settings with more than one value are chosen on 200 validation images; test images, the first 250,
are for the table alone. log_p: 1/S sum_s p(x|theta_s), its log by importance sampling with a
proposal refined for each image, so an overfitted encoder costs nothing there but does in `bound`;
`_mean`: at the posterior mean of theta. "KL alone" starts from a point after half the updates.

How to read the figure: gains in log_p over the early-stopped point, above 0 is better, bars are
Student's 95 % intervals; methods of five times the updates stand apart, below. Last, over network
sizes: do the bound with KL(theta)/N and held-out log p pick the same?

`laptop` is thinned: N = 300 (1000 too for digits with N(0, I)), no Frey faces, fewer methods on
MNIST, 50 hidden units, 3000 updates, at most 3 candidates but five decays.
"""

import torch
from matplotlib.figure import Figure
from models import load
from weight_methods import CHECK, DRAWS, FITTED, METHODS, POINTS, candidate, candidates
from weight_methods.gains import gains_panel, gains_table, learning, verdict, widths_panel

from ppl_vae import lower_bound, study
from ppl_vae.sampling import refined_log_likelihood

MODELS = {
    "digits": {"latent_size": 10},
    "binarized_mnist": {},
    "frey_faces": {
        "likelihood": "normal_shared",
        "likelihood_options": {"mean": "sigmoid", "initial_scale": 0.2},
    },
}
ERRORS = (
    "It covers other training data drawn from the training set, initialisations and noise, not "
    "other test images: every seed has the same."
)
# updates, hidden units, test images, refinements of a proposal, draws of z
SIZES = {
    "smoke": (4, 5, 10, 2, 5),
    "laptop": (3000, 50, 250, 40, 100),
    "paper": (20_000, 200, 1000, 90, 100),
}
WIDTHS = {
    "data": ["digits"],
    "num_train": [300],
    "method": ["matrix-normal", POINTS[1]],
    "hidden": [4, 16, 50, 150],
}
MAIN = {
    "data": list(MODELS),
    "num_train": [100, 300, 1000, 5000, None],
    "method": list(METHODS),
    "hidden": [None],
}
DIGITS, MNIST = (
    {**MAIN, "data": [name], "num_train": [300]} for name in ("digits", "binarized_mnist")
)
GRID = {
    "smoke": [DIGITS, {**WIDTHS, "hidden": [4, 8]}],
    "paper": [MAIN, WIDTHS],
    "laptop": [
        {**DIGITS, "method": DRAWS},
        {**MNIST, "method": DRAWS[:-1]},
        {**DIGITS, "num_train": [1000], "method": CHECK},
        {**DIGITS, "method": FITTED},
        WIDTHS,
        {**MNIST, "method": FITTED[:4]},
    ],
}
TABLE = {
    "by": ["data", "num_train", "method", "hidden"],
    "value": ["log_p", "log_p_mean", "bound", "bound_mean", "kl_weights", "objective", "ms"],
}


def run(seed, data, num_train, method, hidden, scale):
    steps, units, images, refinements, num_samples = SIZES[scale]
    how, parts = {"num_steps": refinements, "num_samples": num_samples}, load(data, scale)
    how["compile"] = "off" if scale == "smoke" else "record"
    order = torch.randperm(len(parts.train), generator=torch.Generator().manual_seed(seed))[
        :num_train
    ]
    binary = data != "frey_faces"
    x, validation, test = (
        t.gt(0.5).float() if binary else t
        for t in (parts.train[order], parts.validation[: min(200, images)], parts.test[:images])
    )
    model, best = {**MODELS[data], "hidden_sizes": (hidden or units,)}, None
    for settings in candidates(method, scale):
        posterior, row = candidate(x, validation, seed, scale, steps, {**model, **settings})
        score = posterior.thinned(10).predictive(validation, **how).mean().item()
        if best is None or score > best[0]:
            best = score, posterior, row, settings
    score, posterior, row, settings = best
    bounds = [lower_bound(vae, test, num_particles=4, seed=0).mean() for vae in posterior.models()]
    row |= {
        "log_p": posterior.predictive(test, **how).mean().item(),
        "bound": torch.stack(bounds).mean().item(),
    }
    if "ensemble" not in method:  # the mean of several modes is no model
        mean = posterior.mean_vae()
        row["log_p_mean"] = refined_log_likelihood(mean, test, **how)[0].mean().item()
        row["bound_mean"] = lower_bound(mean, test, num_particles=4, seed=0).mean().item()
    return {**row, "validation_log_p": score, "chosen": str(settings)}


def draw(rows):
    names = list(dict.fromkeys(row["data"] for row in rows if row["hidden"] is None))
    sized = any(row["hidden"] for row in rows)
    figure = Figure(figsize=(5 * (len(names) + sized), 6), layout="constrained")
    panels = figure.subplots(1, len(names) + sized, squeeze=False)[0]
    for axes, data in zip(panels, names):
        gains_panel(axes, rows, data)
    if sized:
        widths_panel(panels[-1], rows)
    return figure


def answer(rows):
    return "\n\n".join([verdict(rows), learning(rows), gains_table(rows)])


if __name__ == "__main__":
    study.main()
