"""A bound whose KL terms are balanced over the sites of a hierarchy while it warms up."""

from typing import Any

import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.elbo.doubly_reparameterized import DoublyReparameterizedELBO
from ppl_vae.elbo.terms import KL, Terms
from ppl_vae.elbo.termwise import Program, TermwiseELBO

__all__ = ["BalancedELBO"]


class BalancedELBO(TermwiseELBO):
    """Another bound with each site's weight times its share KL_s / (mean of KL_s over sites).

    The share is held fixed, and counts only while the site's own weight is below 1: during warm-up
    a layer that says little is pulled to its prior less than one that says much, so that none
    collapses before it is of use.

    Args:
        elbo: the bound to balance.

    Raises:
        InputError: for a doubly reparameterised bound, whose gradient needs one KL weight for all
            sites, and for a guide with auxiliary sites, each but a part of one KL.

    Source: NVAE: a deep hierarchical variational autoencoder (2020), appendix A.
    """

    def __init__(self, elbo: TermwiseELBO) -> None:
        if isinstance(elbo, DoublyReparameterizedELBO):
            checks.refuse(
                "estimator",
                "'dreg' with kl_balance",
                "one KL weight for all sites",
                "use estimator 'iwae'",
            )
        super().__init__(elbo.num_particles)
        self.balanced = elbo

    def divergence(self, q: Any, p: Any) -> KL:
        """That of the bound that is balanced."""
        return self.balanced.divergence(q, p)

    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Terms:
        """The terms of the bound that is balanced, each KL with its new weight."""
        terms = self.balanced.terms(model, guide, *args, **kwargs)
        parts = [name for name, kl in terms.kl.items() if kl.kind == "auxiliary"]
        if parts:
            checks.refuse(
                "kl_balance",
                f"the guide's own sites {', '.join(parts)}, each but a part of one KL",
                "a guide of the prior's sites",
                "leave it out, or use another posterior",
            )
        return terms.reweighed(_shares(terms))


def _shares(terms: Terms) -> dict[str, Tensor]:
    means = [kl.value.mean().detach().clamp(min=1e-2) for kl in terms.kl.values()]
    shares = torch.stack(means) / torch.stack(means).mean()
    return {
        name: torch.where(torch.as_tensor(kl.weight) < 1, share, torch.ones_like(share)) * kl.weight
        for (name, kl), share in zip(terms.kl.items(), shares.unbind(), strict=True)
    }
