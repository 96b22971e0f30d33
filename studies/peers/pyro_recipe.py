"""The recipe of Pyro's own variational autoencoder example: `SVI`, `pyro.optim.Adam`, `Trace_ELBO`,
a `DataLoader`.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from peers import BATCH_SIZE, Workload
from peers.hand_written import Decoder, Encoder


def trainer(w: Workload, x: Tensor) -> Callable[[int], int]:
    """`SVI.step` on every batch of a shuffling loader."""
    encoder, decoder = Encoder(w), Decoder(w)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample(
                "z", dist.Normal(x.new_zeros(x.shape[0], w.latent_size), 1.0).to_event(1)
            )
            outputs = decoder(z)
            if w.normal:
                pyro.sample(
                    "x", dist.Normal(outputs[0], (0.5 * outputs[1]).exp()).to_event(1), obs=x
                )
            else:
                pyro.sample(
                    "x", dist.Bernoulli(logits=outputs[0], validate_args=False).to_event(1), obs=x
                )

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            mean, log_variance = encoder(x)
            pyro.sample("z", dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    loader = DataLoader(TensorDataset(x), BATCH_SIZE, shuffle=True)

    def train(steps: int) -> int:
        done = 0
        while done < steps:
            for (batch,) in loader:
                svi.step(batch)
                done += 1
        return done

    pyro.clear_param_store()
    return train
