"""Does a deeper encoder help, and why does report 004's fourth hidden layer not learn?

The report's depth 4 ends at -204.44 nats (validation), exactly the model that gives every image the
training mean.

Prediction: under its weights N(0, 0.01^2) the encoder's features shrink by 0.01 sqrt(500) = 0.22 a
layer until nothing of x is left and q(z|x) is the prior: an initialisation that fails, not
vanishing gradients as such. Under N(0, 1/fan-in) depth 4 trains like the others.

How to read the figure: validation bound after training against depth, a line an initialisation, a
small mark a seed; the grey line is the mean image, crosses are the report at 1e8 samples.

`laptop`: 1.5e5 samples (the report: 1e8), so depth 2's late gain of 1.5 nats is out of reach; the
failure is not.
"""

import torch
from matplotlib.figure import Figure
from measures.panels import seed_marks
from measures.wording import told
from models import REPLICATION, load, trained

from ppl_vae import study
from ppl_vae.evaluation import active_units

REPORT = {
    1: -105.27,
    2: -103.75,
    3: -107.56,
    4: -204.44,
}  # validation bound at 1e8 samples, nats an image
GRID = {
    "smoke": {"depth": [1, 2, 4], "init": ["normal_0.01", "fan_in"], "epochs": [1]},
    "laptop": {"depth": [1, 2, 3, 4], "init": ["normal_0.01", "fan_in"], "epochs": [3]},
    "paper": {"depth": [1, 2, 3, 4], "init": ["normal_0.01", "fan_in"], "epochs": [2000]},
}
SEEDS = {"laptop": 2}
TABLE = {
    "by": ["depth", "init"],
    "value": ["validation_bound", "bound_of_mean_image", "kl", "active_units"],
}


def run(seed, depth, init, epochs, scale):
    data = load("mnist", scale)
    settings = {**REPLICATION, "hidden_sizes": (500,) * depth, "init": init}
    vae, history = trained(
        data.train,
        seed,
        scale,
        data.validation,
        latent_size=10,
        epochs=epochs,
        network_options={"decoder_hidden_sizes": [500]},
        **settings,
    )
    last = history.rows[-1]
    mean = data.train.mean(0).clamp(1e-6, 1 - 1e-6)
    mean_image = (
        torch.distributions.Bernoulli(mean, validate_args=False)
        .log_prob(data.validation)
        .flatten(1)
        .sum(1)
    )
    return {
        "validation_bound": last["validation_lower_bound"],
        "kl": last["validation_kl.z"],
        "active_units": int(active_units(vae, data.validation).sum()),
        "bound_of_mean_image": mean_image.mean().item(),
        "samples": last["samples"],
    }


def draw(rows):
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes, depths = figure.subplots(), sorted({row["depth"] for row in rows})
    for init, colour in (("normal_0.01", "#cc6677"), ("fan_in", "#332288")):
        own = [row for row in rows if row["init"] == init]
        groups = [[row for row in own if row["depth"] == depth] for depth in depths]
        seed_marks(axes, depths, groups, "validation_bound", color=colour, label=f"init {init}")
    axes.plot(depths, [REPORT[depth] for depth in depths], "x", color="0.3", label="report, 1e8")
    axes.axhline(rows[0]["bound_of_mean_image"], color="0.6", linewidth=0.9, label="mean image")
    axes.set(
        xticks=depths,
        xlabel="hidden layers of the encoder",
        ylabel="validation bound (nats an image)",
        title=f"After {rows[0]['samples']:.2g} samples, a mark a seed",
    )
    axes.legend(frameon=False, fontsize=8)
    return figure


def answer(rows):
    deepest = [row for row in rows if row["depth"] == 4]
    failed = [row for row in deepest if row["init"] == "normal_0.01"]
    gap = study.interval([row["validation_bound"] - row["bound_of_mean_image"] for row in failed])
    units = ", ".join(f"{row['active_units']}" for row in failed)
    cured = study.paired_difference(deepest, "init", "fan_in", "normal_0.01", "validation_bound")
    cure = study.paired_difference(
        rows, "init", "fan_in", "normal_0.01", "validation_bound", ["depth"]
    )
    lines = [
        f"- Depth 4 at N(0, 0.01^2) over the mean image's bound: {told(gap)}, with {units} active "
        f"units by seed: that it learns is **{study.verdict(gap, 'above')}**.",
        f"- Fan-in weights gain it {told(cured, 'nats', 'above')}; over all depths "
        f"{told(cure, 'nats', 'above')}.",
    ]
    for depth in sorted({row["depth"] for row in rows}):
        small, fan_in = (
            study.mean_at(rows, "validation_bound", depth=depth, init=init)
            for init in ("normal_0.01", "fan_in")
        )
        lines.append(
            f"- depth {depth}: report at 1e8 samples {REPORT[depth]}, ours at "
            f"{rows[0]['samples']:.2g}: {small} (0.01), {fan_in} (fan-in)"
        )
    deeper = study.paired_difference(
        [row for row in rows if row["init"] == "fan_in"], "depth", 2, 1, "validation_bound"
    )
    lines.append(
        f"- A second layer, fan-in weights: {told(deeper, 'nats', 'above')}; the report at 1e8 "
        f"samples {REPORT[2] - REPORT[1]:+.2f}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    study.main()
