"""What does it cost the bound to take matrix products in bfloat16?

Prediction: products lose about 2^-8 of relative precision while sums, densities and updates keep
single precision, so the validation bound, itself computed in single precision here, differs by less
than it does between two seeds. How to read the figure: validation bound by epoch, a line a seed and
precision; the colours should not be told apart. Speed is not measured here but in `training_speed`,
and only where the processor has such products. `laptop`: MNIST, 784-500-20, five epochs.
"""

from matplotlib.figure import Figure
from measures.wording import told
from models import load, trained

from ppl_vae import evaluation, study

GRID = {
    "smoke": {"precision": ["float32", "bfloat16"], "epochs": [1]},
    "laptop": {"precision": ["float32", "bfloat16"], "epochs": [5]},
    "paper": {"precision": ["float32", "bfloat16"], "epochs": [100]},
}
TABLE = {"by": ["precision"], "value": ["validation_bound"]}


def run(seed, precision, epochs, scale):
    data = load("mnist", scale)
    vae, history = trained(
        data.train, seed, scale, data.validation, latent_size=20, epochs=epochs, precision=precision
    )
    bound = evaluation.lower_bound(vae, data.validation).mean().item()
    return {
        "validation_bound": bound,
        "curve": [row["validation_lower_bound"] for row in history.rows],
    }


def draw(rows):
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        label = row["precision"] if row["seed"] == 0 else None
        colour, style = ("#cc6677", "--") if row["precision"] == "bfloat16" else ("#332288", "-")
        axes.plot(
            range(1, 1 + len(row["curve"])),
            row["curve"],
            color=colour,
            linestyle=style,
            label=label,
        )
    axes.set(xlabel="epoch", ylabel="validation bound (nats an image)")
    axes.legend(frameon=False)
    return figure


def answer(rows):
    change = study.paired_difference(rows, "precision", "bfloat16", "float32", "validation_bound")
    single = study.mean_at(rows, "validation_bound", precision="float32")
    spread = single.standard_error * single.seeds**0.5
    within = change.above(-spread) and change.below(spread)
    return (
        f"bfloat16 products change the validation bound by {told(change)} an image; one seed's "
        f"bound is {spread:.2g} nats from another's (standard deviation). That the change is less "
        f"is **{'confirmed' if within else 'not shown'}**; a cost is "
        f"**{'confirmed' if change.excludes() else 'not shown'}**."
    )


if __name__ == "__main__":
    study.main()
