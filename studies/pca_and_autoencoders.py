"""Are PCA, the linear autoencoder and the linear VAE one method, and what are their two-dimensional
codes worth?

Report 003 derives PCA = linear autoencoder and compares latent scatters by eye.

Prediction: the decoders of the linear autoencoder and of the linear VAE (unit variance) span the
plane of the first two principal components (largest angle below 2 degrees); as features non-linear
codes beat linear ones, all lose to raw pixels, and a VAE's are no better than an autoencoder's.

How to read the figure: above, codes of test digits by method, coloured by class; below, accuracy of
a nearest-neighbour (k = 5) and of a logistic classifier on each.

`laptop`: 15 epochs, non-linear networks 784-200-2.
"""

from math import degrees

import torch
from matplotlib.figure import Figure
from measures.wording import told
from models import load, trained
from scipy.linalg import subspace_angles
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from ppl_vae import plots, study

LINEAR, POINT = {"hidden_sizes": (), "likelihood": "normal_unit"}, {"posterior": "point"}
DEEP = {
    **LINEAR,
    "hidden_sizes": (200,),
    "activation": "relu",
    "likelihood_options": {"mean": "sigmoid"},
}
METHODS = {
    "PCA": None,
    "linear AE": LINEAR | POINT,
    "linear VAE": LINEAR,
    "AE": DEEP | POINT,
    "VAE": DEEP,
    "pixels": None,
}
GRID = {
    scale: {"method": list(METHODS), "epochs": [n]}
    for scale, n in (("smoke", 1), ("laptop", 15), ("paper", 50))
}
SEEDS = {"laptop": 5}
TABLE = {"by": ["method"], "value": ["angle_degrees", "squared_error", "neighbours", "logistic"]}


def coded(method, data, basis, seed, epochs, scale):
    """Codes of training and test images, reconstructed test images, the decoder's weights (D, 2) if
    it is linear.
    """
    x, test = data.train.flatten(1), data.test.flatten(1)
    if METHODS[method] is None:
        basis = basis if method == "PCA" else torch.eye(len(basis))
        codes = [(part - x.mean(0)) @ basis for part in (x, test)]
        return *codes, x.mean(0) + codes[1] @ basis.T, basis
    rate = (
        3e-2 if "linear" in method else 3e-3
    )  # eigenvalues 2 and 3 lie close: the plane takes large steps to find
    vae, _ = trained(
        data.train,
        seed,
        scale,
        latent_size=2,
        epochs=epochs,
        init="normal_0.01",
        batch_size=500,
        learning_rate=f"linear:{rate}:{rate / 300}:{epochs}",
        **METHODS[method],
    )
    weights = next(
        p.detach() for name, p in vae.model.decoder.named_parameters() if name.endswith("weight")
    )
    return (
        vae.encode(data.train),
        vae.encode(data.test),
        vae.reconstruct(data.test).flatten(1),
        weights,
    )


def run(seed, method, epochs, scale):
    data = load("mnist", scale)
    basis = torch.linalg.eigh(data.train.flatten(1).double().T.cov()).eigenvectors[:, -2:].float()
    train, test, reconstructed, weights = coded(method, data, basis, seed, epochs, scale)
    row = {
        "squared_error": (data.test.flatten(1) - reconstructed).square().sum(1).mean().item(),
        "angle_degrees": degrees(subspace_angles(basis, weights).max())
        if "linear" in method
        else None,
        "codes": test[:600, :2],
        "labels": data.test_labels[:600],
    }
    for name, classifier in (
        ("neighbours", KNeighborsClassifier(5)),
        ("logistic", LogisticRegression(max_iter=200)),
    ):
        fitted = classifier.fit(train[:5000], data.train_labels[:5000])
        row[name] = fitted.score(test[:2000], data.test_labels[:2000])
    return row


def draw(rows):
    figure = Figure(figsize=(15, 6), layout="constrained")
    grid = figure.add_gridspec(2, 5)
    for k, name in enumerate(list(METHODS)[:-1]):
        row = next(row for row in rows if row["method"] == name)
        axes = figure.add_subplot(grid[0, k])
        plots.latent_scatter(row["codes"], row["labels"], axes=axes)
        axes.set_title(name)
        axes.get_legend().set_visible(k == 4)
    axes = figure.add_subplot(grid[1, :], ylabel="test accuracy")
    axes.set_xticks(range(len(METHODS)), METHODS)
    for shift, name in ((-0.2, "neighbours"), (0.2, "logistic")):
        found = [study.mean_at(rows, name, method=method) for method in METHODS]
        places = [k + shift for k in range(len(METHODS))]
        heights = [interval.mean for interval in found]
        bars = [interval.half_width for interval in found]
        axes.bar(places, heights, 0.36, yerr=bars, label=name)
    axes.legend(loc="upper left", frameon=False)
    return figure


def answer(rows):
    lines = []
    for name in ("linear AE", "linear VAE"):
        angle = study.mean_at(rows, "angle_degrees", method=name)
        verdict = study.verdict(angle, "below", 2.0)
        lines.append(
            f"- {name}: largest angle to the principal plane {angle} degrees, predicted below 2 "
            f"(**{verdict}**)."
        )
    gains = [
        f"{told(study.paired_difference(rows, 'method', 'VAE', 'AE', name), '', 'above')} by a "
        f"{what} classifier"
        for name, what in (("neighbours", "nearest-neighbour"), ("logistic", "logistic"))
    ]
    lines.append(f"- That the VAE's latent is better than the autoencoder's: {', '.join(gains)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
