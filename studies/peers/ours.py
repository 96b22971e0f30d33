"""ppl-vae's own loop, without what it does before the first step and after the last."""

from collections.abc import Callable

from torch import Tensor

from peers import BATCH_SIZE, Workload
from ppl_vae import VAEConfig, build
from ppl_vae.training.loop import train_epoch
from ppl_vae.training.run import Run
from ppl_vae.training.settings import Settings
from ppl_vae.training.step import local_parameters


def trainer(w: Workload, x: Tensor, tier: str = "off", precision: str = "float32") -> Callable[[int], int]:
    """The epochs of `fit` at one tier of `compile`."""
    likelihood = "normal_pixelwise" if w.normal else "bernoulli"
    config = VAEConfig((w.data_size,), w.latent_size, w.hidden_sizes, w.activation, likelihood=likelihood)
    settings = Settings(
        estimator="B", num_particles=1, batch_size=BATCH_SIZE, epochs=10**6, kl_weight=1.0, weight_kl_weight=1.0,
        learning_rate=1e-3, optimizer="adam", weight_penalty=0.0, binarization="none", kl_balance=False, corruption="none",
        corruption_level=0.0, early_stopping=None, seed=0, compile=tier, precision=precision,
    )  # fmt: skip
    run = Run(build(config, num_data=len(x)), x, None, settings, None)
    run.start(resume=False)
    bar = run.bar(progress=False)

    def train(steps: int) -> int:
        done = 0
        while done < steps:
            with local_parameters():
                train_epoch(run, bar)
            done += run.num_batches
        return done

    return train
