"""A posterior of the user's own: run once, to see how it is to be run and to say in words what is
wrong with it.

Knows Pyro traces and latent sites; knows nothing of networks or of the model.
"""

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae import checks
from ppl_vae.guides.sites import LatentSite, check_names, check_unmasked
from ppl_vae.handlers.enumeration import check_agreement
from ppl_vae.handlers.kl_weight import DATA_PLATE
from ppl_vae.handlers.modes import evaluating
from ppl_vae.handlers.own_parameters import with_own_parameters
from ppl_vae.parts.user_code import fault, is_program

__all__ = ["own_posterior"]


def own_posterior(
    posterior: Any, sites: Sequence[LatentSite], event_shape: tuple[int, ...]
) -> tuple[Any, bool]:
    """A posterior of the user's own, run once, as owner of its parameters.

    Args:
        posterior: the program, or a class of such.
        sites: the latent sites of the prior.
        event_shape: shape of a datum.

    Returns:
        The program, and whether it opens the plate "data" itself.

    Raises:
        InputError: unless it samples each of the sites given x.
    """
    if not is_program(posterior):
        checks.refuse("posterior", type(posterior).__name__, "a callable, a PyroModule or a name")
    if isinstance(posterior, AutoGuide) or inspect.isclass(posterior):
        kind = posterior if inspect.isclass(posterior) else type(posterior)
        checks.refuse(
            "posterior",
            f"Pyro's {kind.__name__}, which has one q(z) for each datum it was first run on",
            "an amortised program, q(z|x) as a function of x",
            "use posterior='diagonal_normal', or write posterior(x)",
        )
    x = torch.zeros(3, *event_shape)
    with evaluating(posterior):
        opens = DATA_PLATE in _trace(posterior, x, False).nodes
    owner = with_own_parameters(posterior, lambda: _trace(posterior, x, not opens), "posterior")
    with evaluating(owner):
        # twice the rows: what is no function of x for any number of data is seen here
        for rows in (x, torch.zeros(6, *event_shape)):
            _check(_trace(owner, rows, not opens), sites, len(rows))
    return owner, opens


def _check(trace: poutine.Trace, sites: Sequence[LatentSite], num_rows: int) -> None:
    nodes: dict[str, Any] = {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }
    missing = [site.name for site in sites if site.name not in nodes]
    if missing:
        checks.refuse(
            "posterior",
            f"no site {', '.join(missing)}",
            "every latent site of the prior",
            "sample it given x",
        )
    check_names("posterior", nodes)
    for site in sites:
        if nodes[site.name]["is_observed"]:
            checks.refuse(
                f"posterior's site '{site.name}'",
                "a value that is observed or deterministic",
                "a distribution given x",
                "pyro.sample it without obs",
            )
        _check_shapes(site, nodes[site.name]["fn"], num_rows)
        check_unmasked(site.name, nodes[site.name])
    check_agreement(trace, {site.name for site in sites})


def _check_shapes(site: LatentSite, q: Any, num_rows: int) -> None:
    got, expected = (
        (tuple(q.batch_shape), tuple(q.event_shape)),
        ((num_rows,), tuple(site.event_shape)),
    )
    if got != expected:
        hint = f"declare event dimensions with .to_event(1); name a plate of data '{DATA_PLATE}'"
        checks.refuse(
            f"posterior's site '{site.name}'", f"batch and event shape {got}", f"{expected}", hint
        )


def _trace(program: Callable[[Tensor], Any], x: Tensor, in_plate: bool) -> poutine.Trace:
    """One run, which leaves the generator and Pyro's parameter store as they were."""
    plate = pyro.plate(DATA_PLATE, len(x), dim=-1) if in_plate else contextlib.nullcontext()
    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
            pyro.get_param_store().scope(),
            plate,
        ):
            return poutine.trace(program).get_trace(x)
    except (Exception, SystemExit) as error:
        checks.refuse("posterior", fault(error), f"a program for x of shape {tuple(x.shape)}")
