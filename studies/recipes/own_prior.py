"""How do I give a VAE a prior of my own?"""

# %% A prior is a Pyro program that samples "z". It may sample other sites first: here a direction,
# around which z lies near a ring. The guide for both sites follows from these lines.
import pyro
import pyro.distributions as dist
import torch
from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, load_data, log_likelihood
from ppl_vae.plots import Picture


def ring(latent_size, radius=3.0):
    u = pyro.sample("direction", dist.Normal(0.0, 1.0).expand([latent_size]).to_event(1))
    on_ring = radius * u / u.norm(dim=-1, keepdim=True)
    return pyro.sample("z", dist.Normal(on_ring, 1.0).to_event(1))


# %% Give it to `build`. Everything else is as with a built-in prior.
data = load_data("digits", binarization="dynamic")
vae = build(VAEConfig(data.event_shape, 2, (200, 200)), prior=ring, seed=0)
history = fit(vae, data, epochs=quick(40, 1), progress=False)
print(history.kl_kinds)  # how the bound got each site's KL

# %% Where the posterior puts the digits, over draws of the prior.
with torch.no_grad(), pyro.plate("draws", 2000):
    z = vae.model.prior()
codes = vae.encode(data.test)

figure = Picture(figsize=(4.6, 4), layout="constrained")
axes = figure.subplots()
axes.scatter(*z.T, s=2, color="0.8", label="prior")
dots = axes.scatter(*codes.T, s=10, c=data.test_labels, cmap="tab10", label="codes of digits")
figure.colorbar(dots, ticks=range(10), label="digit")
axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
axes.legend(loc="upper right")

# %% What it is worth on held-out digits. A k above 0.7 says that a value may be too low.
found = log_likelihood(vae, data.test, quick(1000, 10), seed=0)
print(found)
finish("own_prior", figure, "log p(x) of held-out digits, nats", found.mean)
