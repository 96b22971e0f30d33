"""How binary do codes get under sparse Beta, Gaussian pairs and relaxed Bernoulli priors, and what
does a bit cost?

Report 004, section 7.1, proposes the first two: codes truncated to bits compress, and permutations
of z replace rotations as the symmetry. Prediction: a Beta guide follows its prior to 95 % of
coordinates (draws of q) within 0.05 of {0, 1} at some nats of log p(x) against N(0, I), and
truncation then costs little; narrow pairs strand a Normal q at the peak it starts near; a diagonal
guide picks axes even under N(0, I), so binary priors add little there. How to read the
figure: left, log p(x) against the share of binary coordinates, wide to narrow, N(0, I) a line;
middle, log p(x|z) of truncated against whole codes; right, how far two seeds share their axes (1:
up to a signed permutation), hollow: in random bases, so by chance. N(0, I) is cut to its signs,
decoded at +-0.8.
"""

import torch
from matplotlib.figure import Figure
from models import load, trained
from models.codes import agreement, entropy, nearest

from ppl_vae import log_likelihood, study

OPTION = {
    "sparse_beta": ["alpha", "beta"],
    "binary_mixture": ["scale"],
    "relaxed_bernoulli": ["temperature"],
}
WIDTHS = {
    "standard_normal": [0],
    "sparse_beta": [0.5, 0.1, 0.01],
    "binary_mixture": [0.2, 0.1, 0.02],
}
WIDTHS |= {"relaxed_bernoulli": [1.0, 0.5, 0.2]}
SIZES = {
    "smoke": (5, 1, 20),
    "laptop": (50, 10, 1000),
    "paper": (50, 500, 5000),
}  # latents, epochs, draws
GRID = {
    scale: [
        {
            "prior": [prior],
            "width": widths,
            "latent_size": [latents],
            "epochs": [epochs],
            "draws": [draws],
        }
        for prior, widths in WIDTHS.items()
    ]
    for scale, (latents, epochs, draws) in SIZES.items()
}


def run(seed, prior, width, latent_size, epochs, draws, scale):
    data = load("mnist", scale)
    vae, _ = trained(
        data.train,
        seed,
        scale,
        prior=prior,
        prior_options=dict.fromkeys(OPTION.get(prior, []), width),
        latent_size=latent_size,
        hidden_sizes=(300, 300),
        activation="relu",
        epochs=epochs,
        batch_size=100,
        learning_rate=f"linear:1e-3:1e-4:{epochs}",
        kl_weight=f"linear:0:1:{max(1, epochs // 2)}",
        binarization="dynamic",
        compile="off" if scale == "smoke" else "inductor",
    )
    x = torch.bernoulli(data.test, generator=torch.Generator().manual_seed(0))[:500]
    estimate = log_likelihood(vae, x, num_samples=draws, seed=seed)
    middle, low, high = (0.0, -0.8, 0.8) if prior == "standard_normal" else (0.5, 0.0, 1.0)
    code, z = vae.encode(x), vae.encode(x, num_samples=1)[0]
    bits, near = code > middle, nearest(code > middle, vae.encode(data.train[:10_000]) > middle)
    return {
        "binary": torch.minimum((z - low).abs(), (z - high).abs()).lt(0.05).double().mean().item(),
        "log_p": estimate.mean,
        "k_above_0.7": (estimate.pareto_k > 0.7).double().mean().item(),
        "bits": entropy(bits),
        "from_code": vae.decode(code).log_prob(x).mean().item(),
        "from_bits": vae.decode(torch.where(bits, high, low)).log_prob(x).mean().item(),
        "hamming_accuracy": (data.train_labels[near] == data.test_labels[: len(x)])
        .double()
        .mean()
        .item(),
        "code": code[:300].numpy().round(3),
    }


def draw(rows):
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for prior, colour in zip(WIDTHS, ("0.35", "#332288", "#cc6677", "#117733")):
        looks, here = (
            {"color": colour, "marker": "o"},
            [row for row in rows if row["prior"] == prior],
        )
        widths, drawn = (
            list(dict.fromkeys(r["width"] for r in here)),
            ("binary", "log_p", "from_code", "from_bits"),
        )
        at = {
            name: [study.mean_at(here, name, width=width)[0] for width in widths] for name in drawn
        }
        left.plot(at["binary"], at["log_p"], **looks) if any(widths) else left.axhline(
            at["log_p"][0], color=colour
        )
        middle.plot(at["from_code"], at["from_bits"], label=prior.replace("_", " "), **looks)
        for width in widths:
            ours, name = (
                [row for row in here if row["width"] == width],
                f"{prior.replace('_', ' ')} {width or ''}",
            )
            right.errorbar(name, *agreement(ours), capsize=3, **looks)
            right.errorbar(name, *agreement(ours, turned=True), capsize=3, mfc="none", **looks)
    left.set(xlabel="share of coordinates within 0.05 of {0, 1}", ylabel="log p(x) (nats an image)")
    middle.set(xlabel="log p(x|z), z the posterior mean", ylabel="log p(x|z), z truncated to bits")
    right.set(ylabel="axes shared by two seeds", ylim=(0, 1))
    right.tick_params(axis="x", rotation=90)
    return middle.legend(frameon=False, fontsize=8).figure


def answer(rows):
    normal, lines, say = (
        [row for row in rows if row["prior"] == "standard_normal"],
        [],
        study.plus_minus,
    )
    for prior, width in dict.fromkeys((row["prior"], row["width"]) for row in rows):
        mine = [row for row in rows if (row["prior"], row["width"]) == (prior, width)]
        cost = (
            study.paired_difference(mine + normal, "prior", prior, normal[0]["prior"], "log_p")
            if width
            else (0, 0)
        )
        binary, own, chance = (
            study.mean_at(mine, "binary"),
            agreement(mine),
            agreement(mine, turned=True),
        )
        verdict = "over" if binary[0] >= 0.95 else "under"
        lines.append(
            f"- {prior} {width}: binary {say(*binary)} (**{verdict} 95 %**), log p(x) "
            f"{say(*cost)} from "
            f"that of N(0, I), axes shared {say(*own)}, by chance {say(*chance)}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
