"""The same three models in other hands, for `training_speed.py`: each module trains them its own way.

A peer's `trainer(workload, x)` returns a function of the number of steps that takes at least that many and returns how
many it took, reading the loss at every step as a training loop does. Peers know nothing of ppl-vae, but for `ours`.
"""

from dataclasses import dataclass

BATCH_SIZE = 100


@dataclass(frozen=True)
class Workload:
    """A model's size: data (D), hidden layers, latents (L), activation, and a Normal or a Bernoulli likelihood."""

    data_size: int
    hidden_sizes: tuple[int, ...]
    latent_size: int
    activation: str
    normal: bool


WORKLOADS = {
    "mnist": Workload(784, (500,), 20, "tanh", False),
    "frey": Workload(560, (200,), 10, "tanh", True),
    "toy": Workload(2, (30, 30), 2, "relu", True),
}
