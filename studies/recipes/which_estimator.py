"""Which estimator should I train with?"""

# %% A samples every term of the bound. B has the KL in closed form wherever there is one: the same
# expectation, most often less noise. "iwae" with K draws is another, tighter bound, at K times the
# cost of the decoder; "dreg" is the same bound with less noise in the encoder's gradient.
from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, load_data, log_likelihood
from ppl_vae.plots import Picture

data = load_data("digits", binarization="dynamic")
epochs = quick(40, 1)

# %% Bounds of different estimators are different quantities: compare log p(x), which is none of
# theirs. The same seed gives them the same initial weights and order of the data.
found = {}
for estimator, draws in (("A", 1), ("B", 1), ("B", 5), ("iwae", 5), ("dreg", 5)):
    vae = build(VAEConfig(data.event_shape, 5, (200,)), seed=0)
    run = {"estimator": estimator, "num_particles": draws}
    fit(vae, data, **run, epochs=epochs, progress=False)
    found[f"{estimator}, {draws}"] = log_likelihood(vae, data.test, quick(500, 10), seed=0)

# %% Differences datum by datum, so that how hard a digit is does not count. One seed each: a claim
# needs several (studies/estimators.py has them).
reference = found["B, 1"].values
figure = Picture(figsize=(5, 3.2), layout="constrained")
axes = figure.subplots()
for row, each in enumerate(found.values()):
    gain = each.values - reference
    error = 1.96 * gain.std() / len(gain) ** 0.5
    axes.errorbar(gain.mean(), row, xerr=error, fmt="o", color="#332288")
axes.set_yticks(range(len(found)), list(found))
axes.axvline(0, color="0.8")
axes.set(xlabel="log p(x) ahead of estimator B with 1 draw (nats)", ylabel="estimator, draws")
gain = (found["dreg, 5"].values - reference).mean().item()
finish("which_estimator", figure, "dreg with 5 draws ahead of B, nats", gain)
