"""Run a prior as a guide: each latent site keeps its place in the program and takes another
distribution.

Knows sample sites only.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from ppl_vae import checks

__all__ = ["TopDown"]


class TopDown(Messenger):
    """q(z_s | z_<s, x) = rules[s](p(z_s | z_<s)), s the latent sites, z_<s drawn from q.

    The sites come in the prior's own order. The prior's conditional is computed at the guide's
    draws, so any prior is a hierarchy that a guide can follow, and the order of sites is the
    model's: estimator B's closed-form KL(q(z_s|z_<s, x) || p(z_s|z_<s)) is right.

    Args:
        rules: from the prior's distribution of a site to the guide's, by the name of the site.
    """

    def __init__(self, rules: Mapping[str, Callable[[Any], Any]]) -> None:
        super().__init__()
        self.rules = rules

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        if msg["name"] not in self.rules or msg["is_observed"]:
            checks.refuse(
                "posterior that runs the prior",
                f"a prior with the site '{msg['name']}'",
                "continuous latent sites alone",
                "use posterior='diagonal_normal'",
            )
        msg["fn"] = self.rules[msg["name"]](msg["fn"])
