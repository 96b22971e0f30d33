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
from measures.wording import told
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


def named(prior, width):
    """A prior with its width, as the figure names it."""
    return f"{prior.replace('_', ' ')} {width or ''}".strip()


def draw(rows):
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for prior, colour in zip(WIDTHS, ("0.35", "#332288", "#cc6677", "#117733")):
        here = [row for row in rows if row["prior"] == prior]
        widths = list(dict.fromkeys(row["width"] for row in here))
        at = {
            name: [study.mean_at(here, name, width=width).mean for width in widths]
            for name in ("binary", "log_p", "from_code", "from_bits")
        }
        looks = {"color": colour, "marker": "o"}
        if prior == "standard_normal":
            left.axhline(at["log_p"][0], color=colour)
        else:
            left.plot(at["binary"], at["log_p"], **looks)
            for width, place in zip(widths, zip(at["binary"], at["log_p"])):
                left.annotate(f"{width:g}", place, (5, 4), textcoords="offset points", fontsize=8)
        middle.plot(at["from_code"], at["from_bits"], label=prior.replace("_", " "), **looks)
        for width in widths:
            ours = [row for row in here if row["width"] == width]
            for turned, fill in ((False, colour), (True, "none")):
                shares = agreement(ours, turned)
                right.plot([named(prior, width)] * len(shares), shares, "o", c=colour, mfc=fill)
    left.set(
        xlabel="share of coordinates within 0.05 of {0, 1}",
        ylabel="log p(x) (nats an image)",
        title="Marked by the prior's width",
    )
    middle.set(xlabel="log p(x|z), z the posterior mean", ylabel="log p(x|z), z truncated to bits")
    middle.legend(frameon=False, fontsize=8)
    right.set(ylabel="axes shared by two seeds, a mark a pair", ylim=(0, 1))
    right.tick_params(axis="x", rotation=90)
    return figure


def shared_axes(rows):
    """How far pairs of seeds share their axes and by chance, in words; nothing for one seed, or
    where the codes were not kept.
    """
    if len(rows) < 2 or any("code" not in row for row in rows):
        return ""
    own, chance = agreement(rows), agreement(rows, turned=True)
    return (
        f"; axes shared by pairs of seeds from {min(own):.2f} to {max(own):.2f}, by chance from "
        f"{min(chance):.2f} to {max(chance):.2f}"
    )


def answer(rows):
    normal = [row for row in rows if row["prior"] == "standard_normal"]
    lines = []
    for prior, width in dict.fromkeys((row["prior"], row["width"]) for row in rows):
        mine = [row for row in rows if (row["prior"], row["width"]) == (prior, width)]
        binary = study.mean_at(mine, "binary")
        reached = study.verdict(binary, "above", 0.95)
        cost = ""
        if prior != "standard_normal":
            difference = study.paired_difference(
                mine + normal, "prior", prior, "standard_normal", "log_p"
            )
            cost = f"; log p(x) over that of N(0, I) {told(difference)}"
        lines.append(
            f"- {named(prior, width)}: binary {binary} (95 % of coordinates: **{reached}**){cost}"
            f"{shared_axes(mine)}"
        )
    k = [row["k_above_0.7"] for row in rows]
    lines += [
        "",
        f"Pareto k is above 0.7 on {min(k):.0%} to {max(k):.0%} of the images, by run, so every "
        "log p(x) is a lower bound by importance sampling that may lie lower for one prior than "
        "for another: what binary codes cost is open.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
