"""Which of my data are outliers, at a known rate of false alarms?"""

# %% Train on the digits 0 to 8. The 9s are what nobody expects.
import torch
from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, load_data, log_likelihood
from ppl_vae.plots import Picture

data = load_data("digits", binarization="static")
known = data.train[data.train_labels != 9]
vae = build(VAEConfig(data.event_shape, 8, (200,), activation="silu"), seed=0)
fit(vae, known, epochs=quick(100, 1), progress=False)


# %% A threshold is a quantile of log p(x) of held-out data of the usual kind: data that were
# trained on look more likely than new ones, which would then raise too many alarms.
def score(x):
    return log_likelihood(vae, x, quick(1000, 10), seed=0).values


usual = score(data.validation[data.validation_labels != 9])
threshold = usual.quantile(0.05).item()

# %% On the test data: alarms for the usual digits, which should be 5 %, and for others. log p(x) is
# high for simple images whatever they show: blank ones are taken for good digits.
x, labels = data.test, data.test_labels
kinds = {
    "digits 0 to 8": score(x[labels != 9]),
    "9s": score(x[labels == 9]),
    "upside down": score(x[labels != 9].flip(1)),
    "noise": score(torch.bernoulli(torch.full((100, 8, 8), 0.5))),
    "blank": score(torch.zeros(1, 8, 8)),
}
for name, values in kinds.items():
    print(f"{name}: {(values < threshold).double().mean():.0%} called outliers")

figure = Picture(figsize=(5.4, 3.4), layout="constrained")
axes = figure.subplots()
for row, values in enumerate(kinds.values()):
    axes.scatter(values, row + 0.3 * (torch.rand(len(values)) - 0.5), s=5)
axes.set_yticks(range(len(kinds)), list(kinds))
axes.axvline(threshold, color="#cc6677", label="5 % of held-out digits are below")
axes.set(xlabel="log p(x) (nats)")
axes.legend(fontsize="small")
found = (kinds["upside down"] < threshold).double().mean().item()
finish("outliers", figure, "share of digits found when upside down", found)
