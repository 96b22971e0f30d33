"""Does a posterior over the weights help a VAE's held-out likelihood, which method, and at what number of data?

Report 004 (section 6) placed a Normal over all weights and saw no learning; its code moves q(theta) by the KL alone,
reproduced here as the row "KL alone". Prediction: coded correctly every method learns; mean-field with N(0, I) loses to
points; averaging over good draws (chains, ensembles) wins by tenths of a nat where data are few, nothing where many.
Every setting with more than one value is chosen on 200 validation images, test data are looked at once. log_p is the
predictive log 1/S sum_s p(x|theta_s) by importance sampling with a proposal refined for each image, so an overfitted
encoder costs nothing there but does in `bound`; log_p_mean is the same at the posterior mean of theta. How to read the
figure: predictive log p less that of the early-stopped point VAE of the same seed, above 0 is better; below right, the
bound with KL(theta)/N against held-out log p over network sizes: do they pick the same? `laptop`: N of 100 and 1000.
"""

import torch
from matplotlib.figure import Figure
from models import load
from weight_methods import METHODS, POINTS, candidate
from weight_methods.gains import ahead_of_points, gain, gains_panel, widths_panel

from ppl_vae import lower_bound, study
from ppl_vae.sampling import refined_log_likelihood

MODELS = {"digits": {"latent_size": 10, "hidden_sizes": (50,)}, "binarized_mnist": {"hidden_sizes": (200,)},
          "frey_faces": {"hidden_sizes": (200,), "likelihood": "normal_shared",
                         "likelihood_options": {"mean": "sigmoid", "initial_scale": 0.2}}}  # fmt: skip
SIZES = {"smoke": (20, 20, 10), "laptop": (6000, 250, 40), "paper": (20_000, 1000, 90)}  # updates, images, refinements
WIDTHS = {"data": ["digits"], "num_train": [300], "method": [POINTS[1], "matrix-normal"], "hidden": [4, 16, 50, 150]}
MAIN = {"data": list(MODELS), "num_train": [100, 1000], "method": list(METHODS), "hidden": [None]}
GRID = {"smoke": [{**MAIN, "data": ["digits"], "num_train": [100]}, {**WIDTHS, "num_train": [100], "hidden": [4, 8]}],
        "laptop": [MAIN, WIDTHS], "paper": [{**MAIN, "num_train": [100, 300, 1000, 5000, None]}, WIDTHS]}  # fmt: skip
SEEDS = {"paper": 5}
TABLE = {"by": ["data", "num_train", "method", "hidden"],
         "value": ["log_p", "log_p_mean", "bound", "kl_weights", "objective", "ms"]}  # fmt: skip


def run(seed, data, num_train, method, hidden, scale):
    (steps, images, refinements), parts = SIZES[scale], load(data, scale)
    how = {"num_steps": refinements, "num_samples": 100}
    order = torch.randperm(len(parts.train), generator=torch.Generator().manual_seed(seed))[:num_train]
    binary = data != "frey_faces"
    x, validation, test = (
        t.gt(0.5).float() if binary else t for t in (parts.train[order], parts.validation, parts.test)
    )
    model, best = {**MODELS[data], **({"hidden_sizes": (hidden,)} if hidden else {})}, None
    for settings in METHODS[method]:
        posterior, row = candidate(x, validation[: min(200, images)], seed, scale, steps, {**model, **settings})
        score = posterior.thinned(10).predictive(validation[: min(200, images)], **how).mean().item()
        if best is None or score > best[0]:
            best = score, posterior, row, settings
    score, posterior, row, settings = best
    bounds = [lower_bound(vae, test[:images], num_particles=4, seed=0).mean() for vae in posterior.models()]
    alone = refined_log_likelihood(posterior.mean_vae(), test[:images], **how)[0].mean().item()
    return {**row, "log_p": posterior.predictive(test[:images], **how).mean().item(), "log_p_mean": alone,
            "bound": torch.stack(bounds).mean().item(), "validation_log_p": score, "chosen": str(settings)}  # fmt: skip


def draw(rows):
    *panels, widths = (figure := Figure(figsize=(13, 9), layout="constrained")).subplots(2, 2).flat
    for axes, data in zip(panels, MODELS):
        gains_panel(axes, rows, data)
    widths_panel(widths, rows)
    return figure


def answer(rows):
    places = dict.fromkeys((row["data"], row["num_train"]) for row in rows if row["hidden"] is None)
    lines = []
    for data, number in places:
        place = {"data": data, "num_train": number}
        ahead = ", ".join(ahead_of_points(rows, **place)) or "none"
        five = study.plus_minus(*gain(rows, "ensemble of 5", POINTS[0], **place))
        lines.append(f"- {data}, N = {number or 'all'}: over two standard errors ahead of both points: **{ahead}**; "
                     f"the ensemble of 5 gains {five} nats on early stopping.")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
