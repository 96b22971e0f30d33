"""Are PCA, the linear autoencoder and the linear VAE one method, and what are their two-dimensional codes worth?

Report 003 derives PCA = linear autoencoder and compares an autoencoder's and a VAE's latent scatter by eye. Prediction:
the decoders of the linear autoencoder and of the linear VAE (unit variance) span the plane of the first two principal
components (largest angle below 2 degrees); as features, non-linear codes beat linear ones, all lose to raw pixels, and
a VAE's codes are no better than an autoencoder's. How to read the figure: above, codes of test digits by method,
coloured by class; below, accuracy of a nearest-neighbour (k = 5) and of a logistic classifier on each method's codes.
`laptop`: 8 epochs, non-linear networks 784-200-2; classifiers on 5000 codes, tested on 2000.
"""

import torch
from matplotlib.figure import Figure
from models import load, trained
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from ppl_vae import plots, study

LINEAR = {"hidden_sizes": (), "likelihood": "normal_unit"}
DEEP = {**LINEAR, "hidden_sizes": (200,), "activation": "relu", "likelihood_options": {"mean": "sigmoid"}}
METHODS = {"PCA": None, "linear AE": {**LINEAR, "posterior": "point"}, "linear VAE": LINEAR,
           "AE": {**DEEP, "posterior": "point"}, "VAE": DEEP, "pixels": None}  # fmt: skip
GRID = {scale: {"method": list(METHODS), "epochs": [n]} for scale, n in (("smoke", 1), ("laptop", 8), ("paper", 50))}
TABLE = {"by": ["method"], "value": ["angle_degrees", "squared_error", "neighbours", "logistic"]}


def coded(method, data, basis, seed, epochs, scale):
    """Codes of training and test images, reconstructed test images, the decoder's weights (D, 2) if it is linear."""
    parts = data.train.flatten(1), data.test.flatten(1)
    if method == "pixels":
        return *parts, parts[1], None
    if method == "PCA":
        codes = [(x - parts[0].mean(0)) @ basis for x in parts]
        return *codes, parts[0].mean(0) + codes[1] @ basis.T, basis
    vae, _ = trained(data.train, seed, scale, latent_size=2, epochs=epochs, batch_size=250,
                     learning_rate=f"linear:1e-2:3e-5:{epochs}", **METHODS[method])  # fmt: skip
    weights = next(p.detach() for name, p in vae.model.decoder.named_parameters() if name.endswith("weight"))
    plane = weights if "linear" in method else None
    return vae.encode(data.train), vae.encode(data.test), vae.reconstruct(data.test).flatten(1), plane


def run(seed, method, epochs, scale):
    data = load("mnist", scale)
    basis = torch.linalg.eigh(data.train.flatten(1).double().T.cov()).eigenvectors[:, -2:].float()
    train, test, reconstructed, plane = coded(method, data, basis, seed, epochs, scale)
    cosine = None if plane is None else torch.linalg.svdvals(basis.T @ torch.linalg.qr(plane).Q).min().clamp(max=1)
    row = {"angle_degrees": None if cosine is None else cosine.acos().rad2deg().item(),
           "squared_error": (data.test.flatten(1) - reconstructed).square().sum(1).mean().item(),
           "codes": test[:600, :2], "labels": data.test_labels[:600]}  # fmt: skip
    for name, classifier in (("neighbours", KNeighborsClassifier(5)), ("logistic", LogisticRegression(max_iter=200))):
        fitted = classifier.fit(train[:5000], data.train_labels[:5000])
        row[name] = fitted.score(test[:2000], data.test_labels[:2000])
    return row


def draw(rows):
    figure = Figure(figsize=(15, 6), layout="constrained")
    grid = figure.add_gridspec(2, 5)
    for k, name in enumerate(list(METHODS)[:-1]):
        axes, row = figure.add_subplot(grid[0, k]), next(row for row in rows if row["method"] == name)
        plots.latent_scatter(row["codes"], row["labels"], axes=axes)
        axes.set_title(name)
    axes = figure.add_subplot(grid[1, :], ylabel="test accuracy")
    for shift, name in ((-0.2, "neighbours"), (0.2, "logistic")):
        means, errors = zip(*(study.mean_at(rows, name, method=method) for method in METHODS))
        places = [k + shift for k in range(len(METHODS))]
        axes.bar(places, means, 0.36, label=name, yerr=[e if e == e else 0 for e in errors])
    axes.set_xticks(range(len(METHODS)), METHODS)
    axes.legend(frameon=False, loc="upper left")
    return figure


def answer(rows):
    angles = [study.mean_at(rows, "angle_degrees", method=name) for name in ("linear AE", "linear VAE")]
    listed = " and ".join(study.plus_minus(*angle) for angle in angles)
    by = study.paired_difference(rows, "method", "VAE", "AE", "neighbours")
    return (f"- One method: the decoders of linear AE and linear VAE leave the principal plane by {listed} degrees "
            f"(**{'confirmed' if max(angles)[0] < 2 else 'refined'}**).\n- VAE codes over AE codes, nearest "
            f"neighbours: {study.plus_minus(*by)} (\"the AE's latent is the worse\": "
            f"**{'confirmed' if by[0] > 2 * by[1] else 'refuted'}**).")  # fmt: skip


if __name__ == "__main__":
    study.main()
