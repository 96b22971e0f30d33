"""What if training is interrupted?"""

# %% With a folder for checkpoints, Ctrl-C, SIGTERM, a crash or a power cut lose at most an epoch,
# and the run ends with a line on how to go on. Here a run that was to have 10 epochs stands in.
import tempfile

from recipe import finish, quick

from ppl_vae import VAEConfig, build, fit, load, load_data
from ppl_vae.plots import Picture

data = load_data("digits", binarization="dynamic")
config = VAEConfig(data.event_shape, 5, (200,))
folder = tempfile.mkdtemp()
done, epochs = quick((10, 40), (1, 3))
fit(build(config, seed=0), data, checkpoint=folder, epochs=done, progress=False)

# %% In this process or another: `load` reads the parameters, and `resume=True` the state of the
# optimiser and of the noise. On the command line: ppl-vae train --resume FOLDER.
vae = load(folder)
resumed = fit(vae, data, checkpoint=folder, resume=True, epochs=epochs, progress=False)

# %% The result is that of a run that was never stopped, to the bit.
whole = build(config, seed=0)
history = fit(whole, data, epochs=epochs, progress=False)
pairs = zip(vae.parameters(), whole.parameters(), strict=True)
difference = max((a - b).abs().max().item() for a, b in pairs)

figure = Picture(figsize=(4.8, 3.2), layout="constrained")
axes = figure.subplots()
axes.plot(history.to_frame()["lower_bound"], color="0.7", linewidth=5, label="never stopped")
axes.plot(resumed.to_frame()["lower_bound"], color="#332288", label="stopped and resumed")
axes.axvline(done, color="#cc6677", linestyle="--", label="stopped")
axes.set(xlabel="epoch", ylabel="lower bound (nats)")
axes.legend()
finish("resume", figure, "largest difference of a parameter", difference)
