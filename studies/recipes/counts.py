"""My data are counts. Which likelihood?"""

# %% Counts of 30 kinds in 1500 samples, more spread out than Poisson: three groups, gamma noise.
import torch
from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, log_likelihood
from ppl_vae.plots import Picture

torch.manual_seed(0)
rates = 10 * torch.rand(3, 30).square()
noise = torch.distributions.Gamma(2.0, 2.0).sample((1500, 30))
x = torch.poisson(rates[torch.randint(3, (1500,))] * noise)
train, test = x[:1200], x[1200:]

# %% Counts are given as they are: no logarithm, no division. Two likelihoods, one budget.
fits = {}
for likelihood in ("poisson", "negative_binomial"):
    vae = build(VAEConfig((30,), 5, (64,), likelihood=likelihood), seed=0)
    fit(vae, train, epochs=quick(60, 1), progress=False)
    fits[likelihood] = vae

# %% Which one describes new counts better? The difference is in nats, sample by sample.
found = {name: log_likelihood(vae, test, quick(1000, 10), seed=0) for name, vae in fits.items()}
gain = found["negative_binomial"].values - found["poisson"].values

# %% Samples right of the line are better described by the negative binomial. With five latents the
# Poisson's own variance is made up for in part: what is left is what the likelihood lacks.
figure = Picture(figsize=(4.6, 3.2), layout="constrained")
axes = figure.subplots()
axes.hist(gain.clamp(-20, 60), bins=40, color="#332288")
axes.axvline(0, color="#cc6677")
axes.set(xlabel="log p(x), negative binomial minus Poisson (nats)", ylabel="held-out samples")
what = "negative binomial ahead of Poisson, nats a sample"
finish("counts", figure, what, gain.mean().item())
