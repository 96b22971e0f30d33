"""Data as the programs take it: checked, float, on the model's device, in blocks; and the mode they
run in.

Knows a VAE's data format; knows nothing of what is computed from a block.
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE, evaluating

__all__ = ["as_float", "by_blocks", "checked", "decoder_rows", "evaluation"]


def checked(vae: VAE, x: Data, minimum_rows: int = 1) -> Tensor:
    """x as a tensor (N, *event_shape) of data the likelihood is defined on; raises `InputError`."""
    return vae.checked(x, minimum_rows=minimum_rows)


def as_float(vae: VAE, x: Tensor) -> Tensor:
    """A block of x as the model's own dtype and device, grey levels of bytes divided by 255."""
    return vae.as_float(x)


def decoder_rows(vae: VAE) -> int:
    """Decoder rows (data times draws) a block: few enough on a processor that the widest activation
    stays in cache, on a GPU few enough that it fits.

    500 to 1000 rows of MNIST size are fastest among 50 to 50000; a small decoder takes more, so
    that a block is worth a call.
    """
    widest = max(math.prod(vae.config.event_shape), *vae.config.hidden_sizes, 1)
    if next(vae.parameters()).device.type != "cpu":
        return min(200_000, max(1, 2**28 // widest))  # a GiB the widest activation
    rows = min(20_000, max(1000, 800_000 // widest))
    weights = vae.guide.weights
    if weights is None or weights.estimator == "local":
        return rows
    return min(
        rows, max(1, 2**26 // sum(mean.numel() for mean in weights.mean().values()))
    )  # a theta for each draw


@contextlib.contextmanager
def evaluation(vae: VAE, seed: int | None = None) -> Iterator[None]:
    """Evaluation mode, no gradients, parameters local to modules; with `seed`, draws from a fork of
    the generator.
    """
    fork = contextlib.nullcontext() if seed is None else torch.random.fork_rng()
    with fork, evaluating(vae), local_parameters(), torch.no_grad():
        if seed is not None:
            torch.manual_seed(checks.seed(seed))
        yield


def by_blocks(
    vae: VAE,
    x: Data,
    function: Callable[[Tensor], Tensor],
    draws: int = 1,
    seed: int | None = None,
) -> Tensor:
    """`function`, which makes `draws` draws for each datum, of every block of x, joined along the
    data, (N, ...).
    """
    size = max(1, decoder_rows(vae) // draws)
    with evaluation(vae, seed):
        return torch.cat([function(as_float(vae, rows)) for rows in checked(vae, x).split(size)])
