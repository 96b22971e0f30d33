"""What does a posterior over the decoder's weights bring?"""

# %% 200 digits are few for a decoder with 14 000 weights. One fit has points for weights, the other
# q(theta), and its bound pays for what it says of them, once for all data.
from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, load_data, log_likelihood
from ppl_vae.plots import Picture

data = load_data("digits", binarization="static")
few, x = data.train[:200], data.test
fits, curves = {}, {}
for name, weights in (("points", None), ("q(theta)", "mean_field")):
    vae = build(VAEConfig(data.event_shape, 5, (200,), weights=weights), seed=0)
    history = fit(vae, few, validation=x, epochs=quick(1500, 2), batch_size=50, progress=False)
    fits[name], curves[name] = vae, history.to_frame()["validation_lower_bound"]

# %% Held-out log p(x) at the end:
found = {name: log_likelihood(vae, x, quick(500, 10), seed=0) for name, vae in fits.items()}
for name, each in found.items():
    print(name, each)

# %% The held-out bound, which for q(theta) counts KL(theta) / 200 as well. From some epoch on,
# points learn the noise of 200 digits, and q(theta) does not. Stopped at their best epoch, points
# are ahead here: what q(theta) spares is held-out data that say when to stop.
figure = Picture(figsize=(4.8, 3.4), layout="constrained")
axes = figure.subplots()
for name, curve in curves.items():
    axes.plot(curve, label=name)
best = max(curve.max() for curve in curves.values())
axes.set(xlabel="epoch", ylabel="held-out lower bound (nats)", ylim=(best - 25, best + 2))
axes.legend(title="weights of the decoder")
gain = found["q(theta)"].mean - found["points"].mean
finish("bayesian_decoder", figure, "q(theta) ahead of points, nats a digit", gain)
