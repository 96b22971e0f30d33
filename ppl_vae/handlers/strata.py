"""Draw a mixture's components evenly over the particles of an estimate, and weigh each draw by its
component.

Knows sample sites only: any distribution that inherits `StratifiedDraws`. Entered outside an
estimator by the estimator itself; whoever runs a guide without it gets independent draws.
"""

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.protocols import StratifiedDraws

__all__ = ["Strata", "stratum_weights"]


class Strata(Messenger):
    """Take the first mixture's draws one component a particle: particle l from component l mod K.

    E_q[f(z)] = (1/L) sum_l v_l f(z_l) with v_l = K w_k(l), k(l) = l mod K, exact over components,
    so the weights' gradient is not left to the rare draws that fall between them. The site's
    `infer["ppl_strata"]` keeps v, (L, M). Only the first mixture of a program is so drawn, and only
    where L is a multiple of K.

    Source: Automatic differentiation variational inference with mixture families (2020), section 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self._taken = False

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if self._taken or msg["is_observed"] or not isinstance(fn, StratifiedDraws):
            return
        found = fn.stratified_rsample()
        if found is not None:
            msg["value"], weights = found
            msg["infer"] = {**msg["infer"], "ppl_strata": weights}
            self._taken = True


def stratum_weights(trace: Any) -> Tensor | None:
    """The weights v of a guide's draws.

    Args:
        trace: a trace of the guide.

    Returns:
        v, (L, M); None if the draws are independent, each of weight 1.
    """
    found = [
        node["infer"]["ppl_strata"]
        for node in trace.nodes.values()
        if "ppl_strata" in node.get("infer", {})
    ]
    return found[0] if found else None
