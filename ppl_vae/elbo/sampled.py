"""Estimator A: every term at draws of the guide."""

from typing import Any

from pyro.infer import Trace_ELBO

from ppl_vae.elbo.terms import KL
from ppl_vae.elbo.termwise import TermwiseELBO, sampled_kl

__all__ = ["SampledELBO"]


class SampledELBO(TermwiseELBO, Trace_ELBO):
    """Estimator A: log p(x|z) - [log q(z|x) - log p(z)], every term at draws z ~ q(z|x).

    Equal to `pyro.infer.Trace_ELBO` for guides that can be reparameterised.

    Args:
        num_particles: K, draws of z a datum, averaged.

    Raises:
        InputError: where the bound would be wrong (`TermwiseELBO`).

    Source: Auto-Encoding Variational Bayes (2013), equation 6.

    >>> from pyro.infer import SVI
    >>> from pyro.optim import Adam
    >>> import torch
    >>> from ppl_vae import VAEConfig, build
    >>> vae = build(VAEConfig((4,), latent_size=2, hidden_sizes=(8,)), seed=0)
    >>> svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), SampledELBO())
    >>> loss = svi.step(torch.rand(10, 4))
    """

    def divergence(self, q: Any, p: Any) -> KL:
        """log q(z|x) - log p(z) at the draw, in nats."""
        return sampled_kl(q, p)
