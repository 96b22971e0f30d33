"""Do VAEs reconstruct better than autoencoders and PCA, and is the posterior mean the code to
decode?

Report 004: the VAE wins at every size on MNIST, its mean beats averaged draws by "about 0.2 %",
Frey is left out. Its penalty counts the weight prior on every minibatch, against a data term 5 to 7
times smaller for the autoencoder.
Prediction: without a penalty the autoencoder, which optimises this very error, is at least level on
MNIST; averaged draws cost 0.2 % only at size 2 and more with size; on Frey PCA beats the reports'
autoencoders. How to read the figure: squared error an image (sum over pixels, held-out) against
code size, a line a method and penalty; crosses are the report's VAE and AE.
`laptop`: 3 epochs on MNIST and 100 on Frey's last 465 frames (the report: 1000 and more), Adam in
place of AdaGrad.
"""

import torch
from matplotlib.figure import Figure
from models import FREY, REPLICATION, load, trained

from ppl_vae import study
from ppl_vae.evaluation import reconstruction_error

REPORT = {
    "mnist": {"AE": {2: 37.140, 10: 19.041, 20: 14.774}, "VAE": {2: 33.077, 10: 12.728, 20: 8.268}},
    "frey_faces": {"AE": {2: 6.813, 10: 3.611, 20: 3.275}, "VAE": {2: 6.848, 10: 3.970, 20: 3.732}},
}
ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "init": "fan_in"}
SETTINGS = {"mnist": REPLICATION | ADAM, "frey_faces": FREY | ADAM}
SQUARES = {
    "likelihood": "normal_unit",
    "likelihood_options": {"mean": "sigmoid"},
    "posterior": "point",
}
EPOCHS = {"smoke": (1, 1), "laptop": (3, 100), "paper": (1000, 2000)}  # MNIST, Frey
PENALTIES = {"none": 0.0, "once": 1.0, "each minibatch": None}
USED = {"smoke": ["none"], "laptop": ["none", "each minibatch"], "paper": list(PENALTIES)}
AXES = {"latent_size": [2, 10, 20], "method": ["PCA", "AE", "VAE"]}
GRID = {
    scale: [
        {"data": [data], "epochs": [n], "penalty": USED[scale], **AXES}
        for data, n in zip(SETTINGS, epochs)
    ]
    for scale, epochs in EPOCHS.items()
}
SEEDS = {"laptop": 2}
TABLE = {
    "by": ["data", "latent_size", "method", "penalty"],
    "value": ["squared_error", "of_averaged_draws"],
}


def run(seed, data, latent_size, epochs, method, penalty, scale):
    images = load(data, scale, "ordered" if data == "frey_faces" else None)
    x, test = images.train, images.test[:2000]
    if method == "PCA":
        mean, basis = (
            x.flatten(1).mean(0),
            torch.linalg.eigh(x.flatten(1).T.cov()).eigenvectors[:, -latent_size:],
        )
        rest = (test.flatten(1) - mean) @ (torch.eye(len(basis)) - basis @ basis.T)
        return {"squared_error": rest.square().sum(1).mean().item(), "of_averaged_draws": None}
    weight = len(x) / 100 if penalty == "each minibatch" else PENALTIES[penalty]
    settings = SETTINGS[data] | (SQUARES if method == "AE" else {})
    vae, _ = trained(
        x, seed, scale, latent_size=latent_size, epochs=epochs, weight_penalty=weight, **settings
    )
    draws = torch.stack([vae.decode(vae.encode(test, 1)[0]).mean.detach() for _ in range(20)]).mean(
        0
    )
    return {
        "squared_error": reconstruction_error(vae, test).mean().item(),
        "of_averaged_draws": (test - draws).square().flatten(1).sum(1).mean().item(),
    }


def draw(rows):
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, data in zip(figure.subplots(1, 2), SETTINGS):
        for method, colour in (("PCA", "0.5"), ("AE", "#cc6677"), ("VAE", "#332288")):
            for penalty in sorted(
                {row["penalty"] for row in rows} if method != "PCA" else {"none"}, reverse=True
            ):
                own = [
                    row
                    for row in rows
                    if (row["data"], row["method"], row["penalty"]) == (data, method, penalty)
                ]
                means = [
                    study.mean_at(own, "squared_error", latent_size=size) for size in (2, 10, 20)
                ]
                style = {"none": "-", "once": ":"}.get(penalty, "--")
                axes.errorbar(
                    (2, 10, 20),
                    *zip(*means),
                    fmt=style,
                    color=colour,
                    label=f"{method}, penalty {penalty}",
                )
            axes.plot(*zip(*REPORT[data].get(method, {2: float("nan")}).items()), "x", color=colour)
        axes.set(
            title=data, xlabel="code size", ylabel="squared error an image", xticks=(2, 10, 20)
        )
    axes.legend()
    return figure


def answer(rows):
    plain, lines = [row for row in rows if row["penalty"] == "none"], []
    for data, size in [(data, size) for data in SETTINGS for size in (2, 10, 20)]:
        own = [row for row in plain if (row["data"], row["latent_size"]) == (data, size)]
        lead = study.paired_difference(own, "method", "AE", "VAE", "squared_error")
        mean, draws = (
            study.mean_at(own, v, method="VAE")[0] for v in ("squared_error", "of_averaged_draws")
        )
        pca = study.mean_at(own, "squared_error", method="PCA")[0]
        gap = REPORT[data]["AE"][size] - REPORT[data]["VAE"][size]
        verdict = "**confirmed**" if lead[0] * gap > 0 else "**refuted**"
        listed = (
            f"{study.plus_minus(*lead)}, report {gap:+.2f}: {verdict} in sign; PCA "
            f"{pca:.2f}, VAE {mean:.2f}"
        )
        lines.append(
            f"- {data}, size {size}: AE minus VAE {listed}; averaged draws {draws / mean - 1:+.1%}."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
