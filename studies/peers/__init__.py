"""The same three models in other hands, for `training_speed.py`: each module trains them its own
way.

A peer's `trainer(workload, x)` returns a function of the number of steps that takes at least that
many and returns how many it took, reading the loss at every step as a training loop does. Peers
know nothing of ppl-vae, but for `ours`.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BATCH_SIZE = 100


@dataclass(frozen=True)
class Workload:
    """A model's size: data (D), hidden layers, latents (L), activation, and a Normal or a Bernoulli
    likelihood.
    """

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

# variant -> the module that trains it, and the options it takes
VARIANTS = {
    "hand-written": ("hand_written", {}),
    "hand-written, torch.compile": ("hand_written", {"compile": True}),
    "Pyro's vae.py": ("pyro_recipe", {}),
    "pythae": ("pythae_trainer", {}),
    "NumPyro, jit a step": ("numpyro_svi", {}),
    "NumPyro, loop an epoch": ("numpyro_svi", {"loop": True}),
    "ours, off": ("ours", {"tier": "off"}),
    "ours, record": ("ours", {"tier": "record"}),
    "ours, inductor": ("ours", {"tier": "inductor"}),
    "ours, inductor, bfloat16": ("ours", {"tier": "inductor", "precision": "bfloat16"}),
}


def trainers(
    workload: str, x: Tensor, names: Iterable[str]
) -> Iterator[tuple[str, Callable[[int], int]]]:
    """The named variants whose packages and processor features are there; an absent one is named
    and skipped.
    """
    for name in names:
        module, options = VARIANTS[name]
        if "bfloat16" in name and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            print(f"skipped: {name} (nothing here computes bfloat16 products)")
            continue
        try:
            peer = importlib.import_module(f"peers.{module}")
        except ImportError as error:
            print(f"skipped: {name} ({error.name} is not installed; pip install 'ppl-vae[peers]')")
            continue
        yield name, peer.trainer(WORKLOADS[workload], x, **options)
