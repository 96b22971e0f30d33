"""Does balancing the KL terms keep the upper layers of a small NVAE-like hierarchy in use?

Report 002 names NVAE (2020), which warms the KL up and meanwhile weighs each layer's KL by its
share, lest layers die early. Here: four layers of image-shaped latents on MNIST (7 x 7, twice, and
4 x 4, twice), residual cells of 32 channels, binarised anew each epoch.

Predictions, after the warm-up: with balancing every layer has more than 0.1 nats of KL in every
run; with a plain warm-up the bottom layer takes most of it and at least one upper layer stays below
0.1; without a warm-up no fewer layers are lost than with a plain one; balancing raises the held-out
bound above the plain warm-up's; the hierarchy is ahead of one layer of the same bottom size, whose
prior is N(0, I). Published after 400 epochs: -78.0.

How to read the figure: left, KL of each layer at the end by system, from the bottom layer (z) up, a
mark a seed; right, held-out bound against epochs, a line a seed.

`laptop`: 5 epochs, three of them warm-up: 5000 steps, a hundredth of the published budget.
"""

import torch
from matplotlib.figure import Figure
from measures.panels import seed_marks
from measures.wording import told
from models import load, trained

from ppl_vae import lower_bound, study

IN_USE = 0.1  # nats
NVAE = {"prior": "nvae", "posterior": "residual"}
BALANCED, PLAIN, NONE, ONE = "balanced warm-up", "plain warm-up", "no warm-up", "one layer"
SYSTEMS = {
    BALANCED: {**NVAE, "kl_balance": True},
    PLAIN: NVAE,
    NONE: NVAE,
    ONE: {},
}
GRID = {
    scale: {"system": list(SYSTEMS), "epochs": [epochs]}
    for scale, epochs in (("smoke", 2), ("laptop", 5), ("paper", 400))
}
TABLE = {
    "by": ["system"],
    "value": ["kl_z", "kl_z_2", "kl_z_3", "kl_z_4", "layers_in_use", "bound"],
}
LAYERS = ["kl_z", "kl_z_2", "kl_z_3", "kl_z_4"]
COLOURS = dict(zip(SYSTEMS, ["#332288", "#cc6677", "#ddaa33", "0.4"]))


def run(seed, system, epochs, scale, scratch):
    data = load("mnist", scale)
    warm_up = max(1, 3 * epochs // 5)
    vae, history = trained(
        data.train,
        seed,
        scale,
        data.validation,
        latent_size=4 if scale == "smoke" else 196,
        hidden_sizes=(),
        activation="silu",
        network="conv",
        epochs=epochs,
        batch_size=50,
        binarization="dynamic",
        learning_rate=f"linear:2e-3:2e-4:{epochs}",
        kl_weight=1.0 if system == NONE else f"linear:0:1:{warm_up}",
        checkpoint=scratch,
        resume=True,
        **SYSTEMS[system],
    )
    x = torch.bernoulli(data.test, generator=torch.Generator().manual_seed(0))
    last = history.rows[-1]
    layers = {name: last.get(f"kl.{name.removeprefix('kl_')}") for name in LAYERS}
    return {
        **layers,
        "layers_in_use": sum(kl is not None and kl > IN_USE for kl in layers.values()),
        "bound": lower_bound(vae, x, num_particles=5, seed=seed).mean().item(),
        "curve": [[row["epoch"], row["validation_lower_bound"]] for row in history.rows],
    }


def draw(rows):
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    systems = list(dict.fromkeys(row["system"] for row in rows))
    for number, system in enumerate(systems):
        own = [row for row in rows if row["system"] == system]
        colour = COLOURS[system]
        for layer, name in enumerate(LAYERS):
            place = layer + 0.15 * (number - 1.5)
            label = system if layer == 0 else None
            if own[0][name] is not None:
                seed_marks(left, [place], [own], name, line="", color=colour, label=label)
        for row in own:
            epochs, bounds = zip(*row["curve"])
            right.plot(epochs, bounds, color=colour, linewidth=0.9)
    left.axhline(IN_USE, color="0.5", linestyle=":", linewidth=0.9)
    left.set_xticks(range(len(LAYERS)), ["z, bottom", "z_2", "z_3", "z_4, top"])
    left.set(ylabel="KL (nats an image)", title="Dotted: 0.1 nats, in use above")
    left.set_yscale("symlog", linthresh=0.01)
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize="small")
    right.set(xlabel="epoch", ylabel="bound on held-out images (nats)", title="A line a seed")
    return figure


def answer(rows):
    at = {system: [row for row in rows if row["system"] == system] for system in SYSTEMS}
    lines = []
    for system in (BALANCED, PLAIN, NONE):
        used = ", ".join(str(row["layers_in_use"]) for row in at[system])
        kls = ", ".join(str(study.mean_at(at[system], name)) for name in LAYERS)
        lines.append(f"- {system}: layers in use by run {used} of 4; KL from the bottom up {kls}.")
    whole = all(row["layers_in_use"] == 4 for row in at[BALANCED])
    lost = all(row["layers_in_use"] < 4 for row in at[PLAIN])
    lines += [
        f"- Every layer in use with balancing: **{'confirmed' if whole else 'refuted'}**.",
        f"- A layer lost with a plain warm-up: **{'confirmed' if lost else 'refuted'}**.",
    ]
    for claim, first, second, value, side in (
        ("layers in use, no warm-up less plain", NONE, PLAIN, "layers_in_use", "below"),
        ("bound, balanced less plain", BALANCED, PLAIN, "bound", "above"),
        ("bound, balanced less one layer", BALANCED, ONE, "bound", "above"),
    ):
        found = study.paired_difference(rows, "system", first, second, value)
        unit = "" if value == "layers_in_use" else "nats"
        lines.append(f"- {claim}: {told(found, unit, side)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
