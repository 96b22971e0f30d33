"""Which of two fits describes new data better, and how sure is that?"""

# %% Three priors, one budget.
import warnings

from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, load_data, log_likelihood, to_elpd
from ppl_vae.diagnostics.containers import arviz
from ppl_vae.plots import Picture

data = load_data("digits", binarization="dynamic")
found = {}
for prior in ("standard_normal", "gaussian_mixture", "vamp"):
    vae = build(VAEConfig(data.event_shape, 5, (200,), prior=prior), seed=0)
    fit(vae, data, epochs=quick(40, 1), progress=False)
    found[prior] = log_likelihood(vae, data.test, quick(500, 20), seed=0)

# %% `az.loo` of a VAE's draws says nothing: each datum has a latent of its own, which saw it.
# These data were held out: log p(x) is the predictive density, and `to_elpd` hands it to arviz.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a Pareto k above 0.7, which the figure's note says
    table = arviz().compare({name: to_elpd(each) for name, each in found.items()})
print(table)

# %% `dse` is the standard error of the difference over the data, not over seeds: what another run
# of the training would give, it does not know.
figure = Picture(figsize=(5.4, 2.6), layout="constrained")
axes = figure.subplots()
behind = -table["elpd_diff"].abs()
axes.errorbar(behind, range(len(table)), xerr=2 * table["dse"], fmt="o", color="#332288")
axes.set_yticks(range(len(table)), [name.replace("_", " ") for name in table.index])
axes.invert_yaxis()
axes.axvline(0, color="0.8")
axes.set(xlabel=f"nats behind the best on {len(data.test)} digits, two standard errors")
worst = behind.iloc[-1]
finish("compare_fits", figure, "the last of them behind the first, nats in all", worst)
