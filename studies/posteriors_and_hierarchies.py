"""What do a richer posterior, a tighter bound and a deeper hierarchy each gain in log p(x) on
binarised MNIST?

Two hidden layers of 200 tanh units and 50 latents (Importance weighted autoencoders, 2015), Adam, M
= 50, dynamic binarisation. Published after full training, nats: VAE -86.76, IWAE-50 -84.78, two
layers with IWAE-50 -82.90, ladder of five -81.74, convolutional with IAF -79.1, NVAE -78.0.
Prediction: diagonal < full covariance < flow < mixture or implicit, one layer < ladder, IWAE above
the bound at equal draws; by less after few epochs. How to read the figure: left, log p(x) of
held-out images by importance sampling (filled) and by annealing, which judges a decoder without its
guide, on a twelfth of them (open); right, KL of each layer, near 0 if collapsed. `laptop`: 10
epochs, half of them KL warm-up, 240 images, 1000 draws, 150 temperatures.
"""

import torch
from matplotlib.figure import Figure
from models import load, trained

from ppl_vae import log_likelihood, lower_bound, study

MLP = {"latent_size": 50, "hidden_sizes": (200, 200), "activation": "tanh"}
TWO = {
    **MLP,
    "latent_size": 100,
    "prior": "ladder",
    "posterior": "ladder",
    "prior_options": {"upper_sizes": (50,)},
}
LADDER = {"latent_size": 64, "hidden_sizes": (512, 512), "activation": "relu", "prior": "ladder"}
NVAE = {
    "latent_size": 196,
    "hidden_sizes": (),
    "activation": "silu",
    "network": "conv",
    "prior": "nvae",
    "posterior": "residual",
    "kl_balance": True,
}
FIVE, FIFTY = {"num_particles": 5}, {"num_particles": 50}
SYSTEMS = {
    "diagonal": MLP,
    "diagonal, 5 draws": MLP | FIVE,
    "full_normal": {**MLP, "posterior": "full_normal"},
    "iaf": {**MLP, "posterior": "iaf"},
    "implicit": {**MLP, "posterior": "implicit"},
    "mixture, 5 draws": {**MLP, "posterior": "mixture", "posterior_options": {"num_components": 5}}
    | FIVE,
    "iwae, 5 draws": {**MLP, "estimator": "dreg"} | FIVE,
    "implicit, iwae, 5 draws": {**MLP, "posterior": "implicit", "estimator": "dreg"} | FIVE,
    "two layers": TWO,
    "one layer, wide": {**LADDER, "prior": "standard_normal"},
    "ladder": {**LADDER, "posterior": "ladder"},
    "ladder, diagonal guide": LADDER,
    "iwae, 50 draws": {**MLP, "estimator": "dreg"} | FIFTY,
    "nvae": NVAE,
    "two layers, iwae, 50 draws": {**TWO, "estimator": "iwae"} | FIFTY,
}
SIZES = {
    "smoke": (1, 12, 20, 3, "off"),
    "laptop": (10, 240, 1000, 150, "auto"),
    "paper": (2000, 10_000, 5000, 5000, "auto"),
}
GRID = {"laptop": {"system": list(SYSTEMS)[:-4]}} | {
    scale: {"system": list(SYSTEMS)} for scale in ("smoke", "paper")
}
SEEDS = {"laptop": 2}
TABLE = {
    "by": ["system"],
    "value": ["log_p", "k_above_0.7", "annealed", "bound", "layers_in_use", "seconds"],
}


def run(seed, system, scale):
    (epochs, images, draws, temperatures, tier), data = SIZES[scale], load("mnist", scale)
    settings = SYSTEMS[system] | ({"latent_size": 4} if scale == "smoke" else {})  # of 8 x 8 pixels
    vae, history = trained(
        data.train,
        seed,
        scale,
        epochs=epochs,
        batch_size=50,
        binarization="dynamic",
        **settings,
        kl_weight=f"linear:0.1:1:{min(200, -(-epochs // 2))}",
        learning_rate=f"linear:1e-3:1e-4:{epochs}",
    )
    x = torch.bernoulli(data.test, generator=torch.Generator().manual_seed(0))[:images]
    estimate = log_likelihood(vae, x, num_samples=draws, seed=seed)
    annealed = log_likelihood(
        vae, x[: images // 12], 4, "annealed", seed, tier, num_temperatures=temperatures
    )
    layers = [value for name, value in history.rows[-1].items() if name.startswith("kl.z")]
    return {
        "log_p": estimate.mean,
        "annealed": annealed.mean,
        "bound": lower_bound(vae, x, seed=seed).mean().item(),
        "k_above_0.7": (estimate.pareto_k > 0.7).double().mean().item(),
        "layers": layers,
        "layers_in_use": sum(kl > 0.1 for kl in layers),
        "seconds": history.rows[-1]["seconds"],
    }


def draw(rows):
    left, right = Figure(figsize=(11, 4.6), layout="constrained").subplots(1, 2)
    systems = list(dict.fromkeys(row["system"] for row in rows))
    for name, fill in (("log_p", "#332288"), ("annealed", "none")):
        means, errors = zip(*(study.mean_at(rows, name, system=system) for system in systems))
        left.errorbar(
            means,
            range(len(systems)),
            xerr=errors,
            fmt="o",
            c="#332288",
            markerfacecolor=fill,
            label=name,
        )
    left.set(
        xlabel="log p(x) (nats an image)",
        ylim=(len(systems), -1),
        xlim=min(r["log_p"] for r in rows) - 10,
        yticks=range(len(systems)),
        yticklabels=systems,
    )
    for row in rows:
        right.plot(
            row["layers"],
            [systems.index(row["system"])] * len(row["layers"]),
            "|",
            ms=12,
            c="#cc6677",
        )
    right.set(xlabel="KL of a layer (nats)", xscale="symlog", yticks=[], ylim=left.get_ylim())
    return left.legend(frameon=False).figure


def answer(rows):
    pairs = [(a, "diagonal") for a in ("full_normal", "iaf", "implicit", "two layers")]
    pairs += [(f"{a}, 5 draws", "diagonal, 5 draws") for a in ("mixture", "iwae", "implicit, iwae")]
    gains = {
        p: study.paired_difference(rows, "system", *p, "log_p")
        for p in [*pairs, ("ladder", "one layer, wide")]
    }
    return "\n".join(
        f"- {a} over {b}: {study.plus_minus(*gain)} nats" for (a, b), gain in gains.items()
    )


if __name__ == "__main__":
    study.main()
