"""Half of my table is missing. How well can a VAE fill it in?"""

# %% Digits of 64 pixels, in [0, 1]; each pixel is missing with probability a half: NaN.
import torch
from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, impute, load_data
from ppl_vae.plots import Picture

data = load_data("digits")
torch.manual_seed(0)
complete = torch.cat([data.train, data.validation]).flatten(1)
test = data.test.flatten(1)
x, held_out = (
    each.masked_fill(torch.rand(each.shape) < 0.5, torch.nan) for each in (complete, test)
)
gone = held_out.isnan()

# %% Two models of the same latents: a linear one, which is probabilistic PCA, and a network. Both
# are trained on what was observed alone.
filled = {"mean of the pixel": x.nanmean(0).expand_as(test)}
for name, hidden in (("linear, as PCA", ()), ("network", (128,))):
    config = VAEConfig((64,), 10, hidden, likelihood="normal_shared", missing=True)
    vae = build(config, seed=0)
    fit(vae, x, epochs=quick(200, 1), learning_rate=3e-3, progress=False)
    draws = impute(vae, held_out, quick(50, 2), quick(1000, 10), seed=0)
    filled[name] = draws.mean(0)

# %% Root of the mean squared error of the missing pixels, the mean of the draws in their place.
error = {name: (value - test)[gone].square().mean().sqrt().item() for name, value in filled.items()}

# %% Above, digits with half of their pixels; below, filled in by the network; last, as they were.
figure = Picture(figsize=(5.2, 2.4), layout="constrained")
rows = held_out[:8].nan_to_num(0.5), torch.where(gone, filled["network"], held_out)[:8], test[:8]
for axes, image in zip(figure.subplots(3, 8).flat, torch.cat(rows)):
    axes.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    axes.set_axis_off()
figure.suptitle(", ".join(f"{name}: {value:.3f}" for name, value in error.items()), fontsize=8)
finish("gaps", figure, "root mean squared error of the missing pixels, network", error["network"])
