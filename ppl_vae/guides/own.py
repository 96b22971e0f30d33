"""A posterior of the user's own: run once, to see how it is to be run and to say in words what is wrong with it.

Knows Pyro traces and latent sites; knows nothing of networks or of the model.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.guides.sites import LatentSite
from ppl_vae.handlers.kl_weight import DATA_PLATE

__all__ = ["opens_data_plate"]


def opens_data_plate(posterior: Any, sites: Sequence[LatentSite], event_shape: tuple[int, ...]) -> bool:
    """Whether the program opens the plate "data" itself; `InputError` unless it samples each of `sites` given x."""
    if not callable(posterior):
        checks.refuse("posterior", type(posterior).__name__, "a callable, a PyroModule or a name")
    x = torch.zeros(3, *event_shape)
    opens = DATA_PLATE in _nodes(posterior, x, contextlib.nullcontext())
    nodes = _nodes(posterior, x, contextlib.nullcontext() if opens else pyro.plate(DATA_PLATE, len(x)))
    missing = [site.name for site in sites if site.name not in nodes]
    if missing:
        checks.refuse(
            "posterior", f"no site {', '.join(missing)}", "every latent site of the prior", "sample it given x"
        )
    for site in sites:
        _check_shapes(site, nodes[site.name]["fn"], len(x))
    return opens


def _check_shapes(site: LatentSite, q: Any, num_rows: int) -> None:
    got, expected = (tuple(q.batch_shape), tuple(q.event_shape)), ((num_rows,), tuple(site.event_shape))
    if got != expected:
        hint = f"declare event dimensions with .to_event(1); name a plate of data '{DATA_PLATE}'"
        checks.refuse(f"posterior's site '{site.name}'", f"batch and event shape {got}", f"{expected}", hint)


def _nodes(program: Callable[[Tensor], Any], x: Tensor, plate: Any) -> Any:
    """The sites of one run, which leaves the generator, buffers and Pyro's parameter store as they were."""
    modes = {m: m.training for m in program.modules()} if isinstance(program, nn.Module) else {}
    try:
        for module in modes:
            module.training = False
        with torch.random.fork_rng(devices=[]), torch.no_grad(), pyro.get_param_store().scope(), plate:
            return poutine.trace(program).get_trace(x).nodes
    except Exception as error:
        checks.refuse("posterior", f"{type(error).__name__}: {error}", f"a program for x of shape {tuple(x.shape)}")
    finally:
        for module, mode in modes.items():
            module.training = mode
