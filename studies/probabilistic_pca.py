"""Does a VAE describe held-out Frey faces better than probabilistic PCA with as many latents?

Report 004 compares its VAEs with autoencoders only; several are worse than PCA. Probabilistic PCA
is the linear VAE at its optimum, in closed form: log p(x) exact, nothing to tune. The VAE differs
in its two nets (200 tanh units each) and keeps the noise, one learned scale for all pixels;
settings and when to stop were chosen on validation data. Shuffled split, so held-out faces lie
between known ones; densities of 560 pixels in [0, 1] (x / 255), nats. Prediction: the faces lie on
a curved sheet, so the VAE wins at every size, by most at few latents. How to read the figure: left,
mean log p(x) of 200 test faces against q: probabilistic PCA, the VAE's lower bound (which can only
be too low) and importance sampling; right, VAE minus probabilistic PCA, and what annealing adds to
the bound on the first 20 faces, where Pareto k says that importance sampling is not to be trusted.
`laptop`: at most 250 epochs.
"""

from matplotlib.figure import Figure
from measures.panels import seed_marks
from measures.wording import told
from models import load, trained
from sklearn.decomposition import PCA

from ppl_vae import log_likelihood, lower_bound, study

SETTINGS = {
    "hidden_sizes": (200,),
    "activation": "tanh",
    "batch_size": 50,
    "likelihood": "normal_shared",
    "likelihood_options": {"initial_scale": 0.1},
}
SIZES = {"smoke": (2, 20, 4, 2), "laptop": (250, 1000, 20, 200), "paper": (1000, 5000, 200, 1000)}
GRID = {"latent_size": [2, 5, 10, 20]}
MEASURES = {"pca": "0.5", "bound": "#332288", "importance": "#88ccee"}
TABLE = {
    "by": ["latent_size"],
    "value": ["bound", "importance", "k_above_0.7", "annealed_gain", "training_bound"],
}


def run(seed, latent_size, scale):
    (epochs, draws, faces, temperatures), data = SIZES[scale], load("frey_faces", scale, "shuffled")
    train, validation, test = (
        part.flatten(1).double() for part in (data.train, data.validation, data.test)
    )
    pca = PCA(latent_size).fit(train)
    vae, history = trained(
        data.train,
        seed,
        scale,
        data.validation,
        latent_size=latent_size,
        **SETTINGS,
        epochs=epochs,
        learning_rate=f"linear:3e-3:1e-4:{epochs}",
        early_stopping=max(2, epochs // 5),
    )
    x, few = data.test, data.test[:faces]
    estimate = log_likelihood(vae, x, num_samples=draws, seed=seed)
    annealed = log_likelihood(vae, few, 4, "annealed", seed=seed, num_temperatures=temperatures)
    bound = lower_bound(vae, x, num_particles=100, seed=seed)
    return {
        "pca": pca.score(test),
        "pca_validation": pca.score(validation),
        "validation_bound": max(r["validation_lower_bound"] for r in history.rows),
        "bound": bound.mean().item(),
        "importance": estimate.mean,
        "k_above_0.7": (estimate.pareto_k > 0.7).double().mean().item(),
        "annealed_gain": annealed.mean - bound[:faces].mean().item(),
        "epochs": len(history.rows),
        "training_bound": lower_bound(vae, data.train, num_particles=10, seed=seed).mean().item(),
        "over_pca": bound.mean().item() - pca.score(test),
    }


def draw(rows):
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = sorted({row["latent_size"] for row in rows})
    groups = [[row for row in rows if row["latent_size"] == size] for size in sizes]
    for name, colour in MEASURES.items():
        seed_marks(left, sizes, groups, name, color=colour, label=name.replace("_", " "))
    for name, colour in (("over_pca", "#332288"), ("annealed_gain", "#cc6677")):
        seed_marks(right, sizes, groups, name, color=colour, label=name.replace("_", " "))
    left.set(xlabel="latents q", ylabel="log p(x) of test faces (nats a face)", xticks=sizes)
    right.set(xlabel="latents q", ylabel="nats a face", xticks=sizes)
    right.axhline(0, c="0.7", lw=1)
    for axes in (left, right):
        axes.legend(frameon=False)
    return figure


def answer(rows):
    sizes = sorted({row["latent_size"] for row in rows})
    gains = {size: study.mean_at(rows, "over_pca", latent_size=size) for size in sizes}
    lines = []
    for size, gain in gains.items():
        pca = study.mean_at(rows, "pca", latent_size=size).mean
        lines.append(
            f"- q = {size}: bound over probabilistic PCA ({pca:.0f}) {told(gain, 'nats', 'above')}"
        )
    fewest, *others = sizes
    leads = {
        size: study.paired_difference(rows, "latent_size", fewest, size, "over_pca")
        for size in others
    }
    if any(lead.below() for lead in leads.values()):
        largest = "refuted"
    else:
        largest = "confirmed" if all(lead.above() for lead in leads.values()) else "not shown"
    listed = ", ".join(f"{told(lead, '')} (q = {size})" for size, lead in leads.items())
    lines.append(
        f"- The lead at the fewest latents less that at more: {listed} nats; that it is the "
        f"largest is **{largest}**."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
