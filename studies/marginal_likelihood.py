"""Does AEVB train better models than wake-sleep and Monte Carlo EM, by log p(x), with few and with
many data?

Figure 3 of Auto-Encoding Variational Bayes: three latents, 100 hidden units, 1000 and 50000
training images. As there, pixels are grey levels under a Bernoulli, so what is called log p(x) is
the Bernoulli's score of grey levels and no density of the data.

Prediction: AEVB is ahead of wake-sleep at both sizes from the start; Monte Carlo EM keeps up with
1000 data and falls far behind with 50000, where each datum's chain is visited too seldom;
importance sampling and the paper's reciprocal estimator agree within a nat.

How to read the figure: test log p(x) after training by method and number of data, a small mark a
seed and a bar their mean; to the left by importance sampling, to the right, hollow, by the
reciprocal estimator; crosses are the paper's values at 60 million samples. Each model gets its
guide fitted anew, model fixed, before importance sampling, so that all are judged alike.

`laptop`: 2e5 samples (the paper: 6e7), at which neither levels nor leads are the paper's; log p(x)
of 60 test images.
"""

from matplotlib.figure import Figure
from measures.panels import seed_marks
from measures.wording import told
from models import REPLICATION, load, trained
from rivals import RIVALS

from ppl_vae import VAEConfig, build, fit, log_likelihood, study

REPORT = {
    (1000, "AEVB"): -143.2,
    (1000, "MCEM"): -141.6,
    (1000, "wake-sleep"): -144.8,
    (50000, "AEVB"): -138.1,
    (50000, "wake-sleep"): -140.8,
    (50000, "MCEM"): -150.4,
}  # test, nats, 60 million samples
AXES = {"method": ["AEVB", "wake-sleep", "MCEM"], "num_data": [1000, 50000]}
SIZES = {"smoke": (1000, 3), "laptop": (200_000, 60), "paper": (60_000_000, 1000)}
GRID = {
    scale: {**AXES, "num_samples": [n], "num_images": [images]}
    for scale, (n, images) in SIZES.items()
}
SEEDS = {"laptop": 2}
TABLE = {"by": ["num_data", "method"], "value": ["importance", "reciprocal", "gap", "largest_k"]}
MODEL = {"latent_size": 3, "hidden_sizes": (100,), "activation": "tanh", "init": "normal_0.01"}


def run(seed, method, num_data, num_samples, num_images, scale):
    data = load("mnist", scale)
    x, smoke = data.train[:num_data], scale == "smoke"
    if method == "AEVB":
        settings = {**REPLICATION, **MODEL, "learning_rate": 0.02}
        vae, _ = trained(x, seed, scale, epochs=max(1, num_samples // len(x)), **settings)
    else:
        vae = build(VAEConfig(tuple(x.shape[1:]), **MODEL), seed=seed)
        RIVALS[method](vae, x, num_samples, seed=seed)
    vae.model.requires_grad_(False)
    epochs = 1 if smoke else 40_000 // min(len(x), 10_000)  # the guide anew, 400 steps
    fit(
        vae,
        x[:10_000],
        epochs=epochs,
        learning_rate=f"linear:3e-3:3e-4:{epochs}",
        seed=seed,
        progress=False,
    )
    images, draws = data.test[:num_images], {} if not smoke else {"num_samples": 50}
    importance = log_likelihood(vae, images, seed=seed, **draws)
    chains = (
        {"num_temperatures": 5, "num_leapfrog": 3}
        if smoke
        else {"num_temperatures": 60, "num_leapfrog": 5}
    )
    reciprocal = log_likelihood(
        vae, images, 40 if smoke else 200, "reciprocal", seed, "off", **chains
    )
    return {
        "importance": importance.mean,
        "reciprocal": reciprocal.mean,
        "largest_k": importance.pareto_k.max().item(),
        "gap": (reciprocal.values - importance.values).mean().item(),
    }


ESTIMATORS = {"importance": (-0.12, "#332288"), "reciprocal": (0.12, "none")}


def draw(rows):
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    groups = [[r for r in rows if (r["num_data"], r["method"]) == place] for place in REPORT]
    for value, (shift, fill) in ESTIMATORS.items():
        places = [i + shift for i in range(len(REPORT))]
        looks = {"color": "#332288", "mfc": fill, "label": value}
        seed_marks(axes, places, groups, value, line="", **looks)
    axes.plot(range(len(REPORT)), list(REPORT.values()), "x", color="#cc6677", label="the paper")
    names = [f"{method}\nN = {num_data}" for num_data, method in REPORT]
    axes.set_xticks(range(len(REPORT)), names)
    axes.set(
        ylabel="log p(x), test (nats an image)",
        title="Left: importance sampling; right, hollow: reciprocal; crosses: the paper",
    )
    return figure


def answer(rows):
    apart = [row for row in rows if abs(row["gap"]) > 1]
    places = dict.fromkeys(f"{row['method']} of N = {row['num_data']}" for row in apart)
    lines = [
        f"Reciprocal and importance estimates agree within a nat in {len(rows) - len(apart)} of "
        f"{len(rows)} runs (apart: {', '.join(places) or 'none'}). Where they do not, Pareto k "
        "says that importance sampling is not to be trusted.",
        "",
    ]
    for num_data in (1000, 50000):
        own = [row for row in rows if row["num_data"] == num_data]
        for rival in RIVALS:
            sampled, reciprocal = (
                study.paired_difference(own, "method", "AEVB", rival, value) for value in ESTIMATORS
            )
            paper = REPORT[num_data, "AEVB"] - REPORT[num_data, rival]
            k = max(row["largest_k"] for row in own if row["method"] == rival)
            lines.append(
                f"- N = {num_data}: AEVB over {rival} {told(sampled, 'nats', 'above')} by "
                f"importance sampling, {told(reciprocal, 'nats', 'above')} by the reciprocal "
                f"estimator; paper {paper:+.1f}; largest Pareto k of {rival} {k:.1f}"
            )
    samples = rows[0]["num_samples"]
    lines += [
        "",
        f'The verdicts are on "AEVB is ahead" after {samples:.2g} samples, {samples / 6e7:.1%} of '
        f"the paper's, judged on {rows[0]['num_images']} images. Monte Carlo EM makes five updates "
        "a minibatch where AEVB makes one, which counts most so early.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
