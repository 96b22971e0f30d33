"""pythae's `BaseTrainer` on its `VAE`, with the networks of `hand_written`.

Its decoder has a fixed variance, so where the others have two output heads (toy, frey) it has one
and less to do.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor

from peers import BATCH_SIZE, Workload
from peers.hand_written import Decoder, Encoder


class _Encoder(BaseEncoder):
    def __init__(self, w: Workload) -> None:
        super().__init__()
        self.net = Encoder(w)

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.net(x)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class _Decoder(BaseDecoder):
    def __init__(self, w: Workload) -> None:
        super().__init__()
        self.net = Decoder(w)

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)[0]))


def trainer(w: Workload, x: Tensor) -> Callable[[int], int]:
    """`train_step`, which is an epoch, as often as it takes."""
    loss = "mse" if w.normal else "bce"
    config = VAEConfig((w.data_size,), w.latent_size, reconstruction_loss=loss)
    vae = VAE(config, _Encoder(w), _Decoder(w))
    settings = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        learning_rate=1e-3,
        per_device_train_batch_size=BATCH_SIZE,
        no_cuda=True,
    )
    engine = BaseTrainer(vae, BaseDataset(x, torch.ones(len(x))), training_config=settings)
    engine.prepare_training()

    def train(steps: int) -> int:
        done = 0
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar a call
            while done < steps:
                engine.train_step(epoch=1)
                done += len(x) // BATCH_SIZE
        return done

    return train
