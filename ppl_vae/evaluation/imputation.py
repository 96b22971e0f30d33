"""Entries that were not observed, drawn given those that were."""

import torch
from torch import Tensor

from ppl_vae import checks
from ppl_vae.distributions import Incomplete
from ppl_vae.evaluation.blocks import as_float, check_missing, checked, decoder_rows, evaluation
from ppl_vae.evaluation.weights import paired_traces, sites
from ppl_vae.inputs import Data
from ppl_vae.vae import VAE

__all__ = ["impute"]


def impute(
    vae: VAE,
    x: Data,
    num_samples: int = 1,
    num_proposals: int = 1000,
    seed: int | None = None,
) -> Tensor:
    """Draws of x given the entries that were observed, which stay as they are.

    x_rest ~ sum_k w_k p(x_rest|z_k), w_k proportional to p(x_observed, z_k) / q(z_k|x_observed),
    z_k ~ q: exact as the number of proposals K grows.

    Args:
        vae: built with `VAEConfig(missing=True)`.
        x: (N, *event_shape), NaN where nothing was observed.
        num_samples: S, draws of each datum.
        num_proposals: K.
        seed: of the draws; None uses the global generator.

    Returns:
        (S, N, *event_shape), in the precision of the parameters.

    Raises:
        InputError: for a VAE whose data have no gaps.

    Source: MIWAE: deep generative modelling and imputation of incomplete data sets (2019), section
    3.
    """
    check_missing(vae, "impute")
    checks.integer("num_samples", num_samples)
    checks.integer("num_proposals", num_proposals)
    tensor = checked(vae, x)
    size = max(1, decoder_rows(vae) // num_proposals)
    with evaluation(vae, seed):
        blocks = [as_float(vae, rows) for rows in tensor.split(size)]
        return torch.cat([_imputed(vae, b, num_samples, num_proposals) for b in blocks], 1)


def _imputed(vae: VAE, x: Tensor, num_samples: int, num_proposals: int) -> Tensor:
    """Draws (S, M, *event_shape) for one block (M, *event_shape)."""
    guide, model = paired_traces(vae, x, num_proposals)
    log_p = sum(site["log_prob"] for site in sites(model).values())
    log_q = sum(site["log_prob"] for site in sites(guide).values())
    weights = (log_p - log_q).expand(num_proposals, len(x))
    chosen = torch.distributions.Categorical(logits=weights.T).sample((num_samples,))  # (S, M)
    observed = model.nodes["x"]["fn"]
    assert isinstance(observed, Incomplete)
    drawn = observed.expand((num_proposals, len(x))).sample()
    complete = drawn[chosen, torch.arange(len(x), device=x.device)]
    return torch.where(x.isnan(), complete, x)
