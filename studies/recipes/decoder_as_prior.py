"""Can a trained decoder be the prior of another model?"""

# %% Train on whole digits.
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, load_data
from ppl_vae.diagnostics import from_pyro
from ppl_vae.plots import Picture

data = load_data("digits", binarization="dynamic")
vae = build(VAEConfig(data.event_shape, 5, (200,), activation="silu"), seed=0)
fit(vae, data, epochs=quick(80, 1), progress=False)

# %% Another model: of an image only the upper half was seen, through noise. `as_prior` is the
# decoder as a statement, its parameters fixed; its latent is the site "digit.z".
digit = vae.as_prior("digit")
truth = load_data("digits", binarization="none").test[3]
torch.manual_seed(0)
seen = truth[:4] + 0.1 * torch.randn(4, 8)


def model(y):
    image = digit()
    pyro.deterministic("image", image)
    pyro.sample("y", dist.Normal(image[:4], 0.1).to_event(2), obs=y)


# %% Its posterior by NUTS, and the draws in arviz's containers.
run = MCMC(NUTS(model), quick(400, 10), quick(200, 5), disable_progbar=True)
run.run(seen)
draws = from_pyro(run, model, (seen,))
images = torch.as_tensor(draws.posterior["image"].values[0])

# %% The lower half was never seen: its mean and spread come from the decoder alone.
pictures = {
    "truth": truth,
    "seen": torch.cat([seen, torch.full((4, 8), 0.5)]),
    "mean": images.mean(0),
    "standard deviation": images.std(0),
}
figure = Picture(figsize=(7, 2.2), layout="constrained")
for panel, (name, picture) in zip(figure.subplots(1, 4), pictures.items()):
    panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
    panel.set(title=name, xticks=[], yticks=[])
error = (images.mean(0) - truth)[4:].square().mean().sqrt().item()
finish("decoder_as_prior", figure, "root mean square error of the unseen half", error)
