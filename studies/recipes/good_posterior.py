"""Is my posterior good?"""

# %% Two fits: a diagonal Normal, and one with a flow on top.
from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, load_data
from ppl_vae.diagnostics import calibration_figure, examine, pareto_k_figure
from ppl_vae.plots import Picture

data = load_data("digits", binarization="dynamic")
x = data.test[: quick(180, 10)]
examined = {}
for posterior in ("diagonal_normal", "iaf"):
    vae = build(VAEConfig(data.event_shape, 2, (200, 200), posterior=posterior), seed=0)
    fit(vae, data, epochs=quick(80, 1), progress=False)
    examined[posterior] = examine(vae, x, num_samples=quick(1000, 50))
    print(posterior, examined[posterior], sep="\n")

# %% Pareto k, datum by datum, asks whether q(z|x) is as wide as p(z|x) where q has drawn. It cannot
# see a mode that no draw reached.
# Calibration asks whether the z that made an x lies inside q(z|x) as often as q says. It is about
# data that the model makes, not about yours, and an average over all: two errors may cancel.
# Neither says that the model is right: the predictive check asks that.

# %% On the left the share of data above 0.7 is what to look at; on the right, who leaves the band.
figure = Picture(figsize=(8.6, 3.6), layout="constrained")
panels = figure.subplots(1, 3)
pareto_k_figure(examined["diagonal_normal"].pareto_k, axes=panels[0])
pareto_k_figure(examined["iaf"].pareto_k, axes=panels[0])
for line, label in zip(panels[0].lines, ("diagonal", "0.7", "flow", "_same")):
    line.set_label(label)
panels[0].lines[2].set_color("#44aa99")
panels[0].legend()
for panel, (name, found) in zip(panels[1:], examined.items()):
    calibration_figure(found.calibration, axes=panel)
    panel.set(title=name.replace("_", " "))
high = (examined["diagonal_normal"].pareto_k > 0.7).double().mean().item()
finish("good_posterior", figure, "share of data with k above 0.7, diagonal", high)
