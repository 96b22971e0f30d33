"""How do I use a trained encoder or decoder where this library is not installed?"""

# %% Train, then write both networks as programs of torch alone.
import tempfile

import torch
from recipe import finish, quick

from ppl_vae import VAEConfig, build, export, fit, load_data
from ppl_vae.plots import Picture

data = load_data("digits", binarization="dynamic")
vae = build(VAEConfig(data.event_shape, 10, (200,), activation="silu"), seed=0)
fit(vae, data, epochs=quick(80, 1), progress=False)
files = export(vae, tempfile.mkdtemp())
print(*files, sep="\n")  # export.json says what goes in and comes out; onnx=True adds two .onnx

# %% From here on nothing but torch is needed, in any process: moments of z given x, of x given z.
encoder = torch.export.load(files["encoder.pt2"]).module()
decoder = torch.export.load(files["decoder.pt2"]).module()
x = data.test[:10]
z = encoder(x)["mean"]
images = decoder(z)["mean"].detach()

# %% They say what the VAE says.
difference = max(
    (z - vae.encode(x)).abs().max().item(), (images - vae.reconstruct(x)).abs().max().item()
)
figure = Picture(figsize=(7, 1.9), layout="constrained")
rows = figure.subplots(2, len(x))
for pictures, panels, name in ((x, rows[0], "digit"), (images, rows[1], "program")):
    for picture, panel in zip(pictures, panels):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
        panel.set(xticks=[], yticks=[])
    panels[0].set(ylabel=name)
finish("export_networks", figure, "largest difference from encode and reconstruct", difference)
