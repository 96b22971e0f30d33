"""ppl-vae's own loop, without what it does before the first step and after the last."""

import dataclasses
import inspect
from collections.abc import Callable

from torch import Tensor

from peers import BATCH_SIZE, Workload
from ppl_vae import VAEConfig, build, fit
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.training.loop import train_epoch
from ppl_vae.training.run import Run
from ppl_vae.training.settings import Settings


def trainer(
    w: Workload, x: Tensor, tier: str = "off", precision: str = "float32"
) -> Callable[[int], int]:
    """The epochs of `fit` at one tier of `compile`."""
    likelihood = "normal_pixelwise" if w.normal else "bernoulli"
    config = VAEConfig(
        (w.data_size,),
        w.latent_size,
        w.hidden_sizes,
        w.activation,
        likelihood=likelihood,
        output_start="zero",
    )
    defaults = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
    chosen = defaults | {
        "batch_size": BATCH_SIZE,
        "epochs": 10**6,
        "compile": tier,
        "precision": precision,
    }
    settings = Settings(
        **{field.name: chosen[field.name] for field in dataclasses.fields(Settings)}
    )
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
