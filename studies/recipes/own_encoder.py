"""How do I use a network of my own?"""

# %% An encoder takes x (rows, *event_shape) and returns features (rows, any number). A decoder
# takes z (*, latent_size) and returns the likelihood's outputs, (*, *event_shape).
import torch
from recipe import finish, quick
from torch import nn

from ppl_vae import VAEConfig, build, fit, load_data, lower_bound
from ppl_vae.plots import Picture


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


torch.manual_seed(0)
encoder = nn.Sequential(
    nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 16, 3, stride=2, padding=1), Residual(16), nn.Flatten()
)

# %% It stands in for the library's. The decoder stays a multilayer perceptron.
data = load_data("digits", binarization="dynamic")
config = VAEConfig(data.event_shape, 8, (200,), activation="silu")
own, plain = build(config, encoder=encoder, seed=0), build(config, seed=0)
histories = {
    name: fit(vae, data, epochs=quick(60, 2), progress=False)
    for name, vae in (("residual convolutions", own), ("200 units", plain))
}

# %% The held-out bound, epoch by epoch.
figure = Picture(figsize=(4.6, 3.4), layout="constrained")
axes = figure.subplots()
for name, history in histories.items():
    axes.plot(history.to_frame()["validation_lower_bound"], label=name)
axes.set(xlabel="epoch", ylabel="held-out lower bound (nats)")
axes.legend()
bound = lower_bound(own, data.test, num_particles=10, seed=0).mean().item()
finish("own_encoder", figure, "bound with the own encoder, nats", bound)
