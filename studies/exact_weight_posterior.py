"""What does the exact posterior over all weights predict, and how far from it is every
approximation?

A decoder of one latent, three tanh units and four normal pixels of known scale, all weights N(0,
1): small enough that the No-U-Turn sampler covers (theta, z) and that log p(x|theta) is an integral
over one number. The data come from the model itself, at weights drawn from the prior, so the exact
predictive is the best there is on average. Prediction: it beats every point, most where data are
few; chains come nearest; mean-field, on one mode and too narrow across directions that the data
leave open, loses most. Read the figure: left, held-out predictive log p less the exact one; right,
the mean distance |log p - exact log p| an image, beside which "one chain of two" shows how well the
exact one is known. `laptop`: 20 and 80 data, two chains of 100 draws after 100, 2000 updates.
"""

from dataclasses import replace

from matplotlib.figure import Figure
from weight_methods.tiny import EXACT, drawn_data, posteriors, predictive

from ppl_vae import study

GRID = {
    "smoke": {"num_train": [5]},
    "laptop": {"num_train": [20, 80]},
    "paper": {"num_train": [10, 20, 40, 80, 160]},
}
SIZES = {"smoke": (2, 4, "off"), "laptop": (100, 2000, "record"), "paper": (2000, 20_000, "record")}
TABLE = {"by": ["num_train", "method"], "value": ["log_p", "less_than_exact", "distance"]}


def run(seed, num_train, scale):
    x, test = drawn_data(seed, num_train)
    found = {}
    for name, posterior in posteriors(x, seed, *SIZES[scale]):
        found[name] = predictive(posterior, test)
        if name == EXACT:
            first = {weight: draws[:1] for weight, draws in posterior.draws.items()}
            found["one chain of two"] = predictive(
                replace(posterior, draws=first, latents={}), test
            )
    exact = found[EXACT]
    return [
        {
            "method": name,
            "log_p": log_p.mean().item(),
            "less_than_exact": (log_p - exact).mean().item(),
            "distance": (log_p - exact).abs().mean().item(),
        }
        for name, log_p in found.items()
    ]


def draw(rows):
    methods, numbers = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("method", "num_train")
    )
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    labels = {
        "less_than_exact": "held-out log p less the exact posterior's",
        "distance": "mean distance from it",
    }
    for axes, (value, label) in zip(figure.subplots(1, 2), labels.items()):
        for i, n in enumerate(numbers):
            means, errors = zip(
                *(study.mean_at(rows, value, method=method, num_train=n) for method in methods)
            )
            heights = [y + 0.2 * i for y in range(len(methods))]
            axes.errorbar(means, heights, xerr=errors, fmt="o", ms=4, label=f"N = {n}")
        axes.axvline(0.0, color="grey", lw=0.5)
        axes.set(xlabel=f"{label} (nats)", ylim=(len(methods), -1))
        axes.set_yticks(range(len(methods)), methods)
        axes.legend(frameon=False)
    return figure


def answer(rows):
    lines = []
    for n in dict.fromkeys(row["num_train"] for row in rows):
        others = {row["method"] for row in rows} - {EXACT, "one chain of two"}
        far = {m: study.mean_at(rows, "less_than_exact", method=m, num_train=n) for m in others}
        ranked = sorted(far, key=lambda method: -far[method][0])
        told = ", ".join(f"{method} {study.plus_minus(*far[method])}" for method in ranked)
        apart = {m: study.mean_at(rows, "distance", method=m, num_train=n) for m in others}
        near = min(apart, key=lambda method: apart[method][0])
        lines.append(
            f"- N = {n}: held-out log p less that of the exact posterior, best first: {told} nats. "
            f"Nearest to it, image by image: {near}, {study.plus_minus(*apart[near])} nats away."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
