"""Is log p(x) of a VAE trained on digits a score that finds what is no digit?

Report 002 names anomaly detection among the uses. Binarised MNIST against binarised Frey faces in a
dark frame and held-out digits spoilt in six ways, by three scores, high for digits: log p(x) by
importance sampling, the bound, and the ratio log p(x) - log p_0(x) to a background model trained on
digits with a fifth of their pixels drawn anew (Likelihood ratios for out-of-distribution detection,
2019). Prediction: the bound ranks as log p(x) does; both find noise and faces and miss what is
simpler than a digit, blank or half masked (area below 0.5); the ratio finds those. How to read the
figure: left, area under the receiver operating characteristic, 1 perfect and 0.5 chance, a mark a
seed; right, an image of each kind. `laptop`: 10 epochs, 1000 images, 200 draws.
"""

import torch
from matplotlib.figure import Figure
from measures.wording import told
from models import load, trained
from sklearn.metrics import roc_auc_score

from ppl_vae import log_likelihood, lower_bound, study
from ppl_vae.handlers.corruption import Corruption, evidence

SIZES = {"smoke": (2, 40, 20), "laptop": (10, 1000, 200), "paper": (200, 10_000, 1000)}
GRID = {"latent_size": [20]}
SCORES = {"log_p": "#332288", "bound": "#88ccee", "ratio": "#cc6677"}
KINDS = ["faces", "salt and pepper", "noise", "half masked", "thinned", "turned", "blank"]
TABLE = {"by": ["kind"], "value": list(SCORES)}


def corrupted(x, kind, level):
    with Corruption(kind, level):
        return evidence(x)


def anomalies(digits, other):
    """Images of each of `KINDS`, as many as digits."""
    noise, columns = (
        torch.bernoulli(digits.mean(0).expand_as(digits)),
        torch.arange(digits.shape[-1]),
    )
    half = digits * (columns >= len(columns) // 2)
    pepper, thinned = corrupted(digits, "salt_and_pepper", 0.1), corrupted(digits, "masking", 0.5)
    return dict(
        zip(KINDS, (other, pepper, noise, half, thinned, digits.flip(-2), torch.zeros_like(digits)))
    )


def scores(vae, background, x, draws, seed):
    log_p, log_p0 = (
        log_likelihood(each, x, num_samples=draws, seed=seed).values for each in (vae, background)
    )
    return {
        "log_p": log_p,
        "bound": lower_bound(vae, x, num_particles=10, seed=seed),
        "ratio": log_p - log_p0,
    }


def run(seed, latent_size, scale):
    (epochs, images, draws), data, faces = (
        SIZES[scale],
        load("mnist", scale),
        load("frey_faces", scale).train,
    )
    faces = torch.nn.functional.pad(faces, [(data.train.shape[-1] - faces.shape[-1]) // 2] * 2)
    x, digits, other = (torch.bernoulli(part) for part in (data.train, data.test, faces))
    how = {
        "latent_size": latent_size,
        "hidden_sizes": (400,),
        "activation": "relu",
        "epochs": epochs,
    }
    vae, background = (
        trained(each, seed, scale, **how)[0] for each in (x, corrupted(x, "salt_and_pepper", 0.2))
    )
    normal = scores(vae, background, digits[:images], draws, seed)
    truth, rows = torch.cat([torch.ones(images), torch.zeros(images)]), []
    for kind, odd in anomalies(digits[-images:], other[:images]).items():
        found = scores(vae, background, odd, draws, seed)
        areas = {
            name: roc_auc_score(truth, torch.cat([normal[name], found[name]])) for name in SCORES
        }
        rows.append({"kind": kind, "example": odd[0].int(), **areas})
    return rows


def draw(rows):
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))
    axes = left.subplots()
    for number, (name, colour) in enumerate(SCORES.items()):
        places = [KINDS.index(row["kind"]) + 0.15 * number for row in rows]
        axes.plot([row[name] for row in rows], places, "o", c=colour, label=name)
    axes.axvline(0.5, color="0.8", zorder=0)
    axes.set_yticks(range(len(KINDS)), KINDS)
    axes.set_xlabel("area under the curve, digits against each kind")
    axes.legend()
    examples = {row["kind"]: row["example"] for row in rows if row["seed"] == 0}
    for panel, kind in zip(right.subplots(2, 4).flat, [*KINDS, None]):
        panel.set_axis_off()
        if kind is not None:
            image = torch.tensor(examples[kind]).squeeze()
            panel.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            panel.set_title(kind, fontsize=8)
    return figure


def listed(areas):
    """Kinds with the area of each, in words."""
    return ", ".join(f"{kind} {area}" for kind, area in areas.items()) or "none"


def answer(rows):
    lines = []
    for name in SCORES:
        areas = {kind: study.mean_at(rows, name, kind=kind) for kind in KINDS}
        found = {kind: area for kind, area in areas.items() if area.above(0.5)}
        fooled = {kind: area for kind, area in areas.items() if area.below(0.5)}
        rest = {kind: area for kind, area in areas.items() if kind not in found | fooled}
        lines.append(
            f"- {name}: better than chance at {listed(found)}; worse than chance at "
            f"{listed(fooled)}; neither shown at {listed(rest)}"
        )
    ratio = study.interval([row["ratio"] - row["log_p"] for row in rows if row["kind"] == "blank"])
    lines.append(f"- the ratio over log_p at blank images: area {told(ratio, '', 'above')}")
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
