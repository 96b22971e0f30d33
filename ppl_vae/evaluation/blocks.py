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

__all__ = ["as_float", "by_blocks", "check_missing", "checked", "decoder_rows", "evaluation"]


def checked(vae: VAE, x: Data, minimum_rows: int = 1) -> Tensor:
    """x as a tensor of data that the likelihood is defined on.

    Args:
        vae: the VAE whose data these are.
        x: a tensor, an array, a frame of numbers or a map-style data set.
        minimum_rows: the least N.

    Returns:
        x, (N, *event_shape).

    Raises:
        InputError: for what is no such data, with what makes it so.
    """
    return vae.checked(x, minimum_rows=minimum_rows)


def as_float(vae: VAE, x: Tensor) -> Tensor:
    """A block of x in the model's own dtype and on its device.

    Args:
        vae: the VAE whose data these are.
        x: data (M, *event_shape); bytes are grey levels, divided by 255, under a likelihood of
            these, else numbers.
    """
    return vae.as_float(x)


def check_missing(vae: VAE, subject: str) -> None:
    """`InputError` for a VAE whose data have no gaps."""
    if not vae.config.missing:
        expected = "one whose data may have gaps"
        checks.refuse(subject, "a VAE of complete data", expected, "use VAEConfig(missing=True)")


def decoder_rows(vae: VAE) -> int:
    """How many decoder rows (data times draws) a block has.

    On a processor they are few enough that the widest activation stays in cache, on a GPU few
    enough that it fits. 500 to 1000 rows of MNIST size are fastest among 50 to 50000; a small
    decoder takes more, so that a block is worth a call.

    Args:
        vae: the VAE; its widest layer, its device and its Bayesian weights count.
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
    """Evaluation mode, no gradients and parameters local to modules, inside the block.

    Args:
        vae: the VAE whose mode is set.
        seed: seeds a fork of the generator for the block's draws; None uses the global one.
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
    """Apply a function to every block of x and join the results along the data.

    Args:
        vae: the VAE whose data these are; it is in evaluation mode meanwhile.
        x: data (N, *event_shape), in any form that `checked` takes.
        function: a block (M, *event_shape) -> values (M, ...).
        draws: how many draws `function` makes for each datum, which makes blocks smaller.
        seed: of the draws; None uses the global generator.

    Returns:
        The values, (N, ...).

    Raises:
        InputError: for what is no data of this VAE.
    """
    size = max(1, decoder_rows(vae) // draws)
    with evaluation(vae, seed):
        return torch.cat([function(as_float(vae, rows)) for rows in checked(vae, x).split(size)])
