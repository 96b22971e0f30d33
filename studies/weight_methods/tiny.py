"""A VAE so small that its posterior over all weights can be sampled as it is, and what else stands
for that posterior.

Knows the package's sampling room; must not know what is asked of the posteriors.
"""

import math

import torch

from ppl_vae import VAEConfig, build, fit
from ppl_vae.handlers import call
from ppl_vae.sampling import (
    ConstantSteps,
    bayesian_vae,
    ensemble,
    fitted,
    nuts,
    stochastic_gradient_hmc,
    swag,
)

__all__ = ["EXACT", "drawn_data", "posteriors", "predictive"]

EXACT = "exact (NUTS)"
PRIOR = {"prior": "normal", "biases": True}
FAMILIES = {"mean-field": "mean_field", "matrix-normal": "matrix_normal", "low rank": "low_rank"}
SCALE = 0.3  # standard deviation of the pixels' noise, known


def untrained(seed):
    """x in R^4 from one latent through three tanh units: 22 weights and biases N(0, 1)."""
    options = {"likelihood": "normal_shared", "likelihood_options": {"initial_scale": SCALE}}
    vae = build(VAEConfig((4,), 1, (3,), **options), seed=seed)
    vae.model.decoder.likelihood.log_scale.requires_grad_(False)
    return vae


def drawn_data(seed, num_train, num_test=300):
    """(train, test) of the model at weights drawn from their prior, so the exact predictive is the
    best there is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = bayesian_vae(untrained(seed), **PRIOR)
        theta = {
            name.removeprefix("decoder."): value for name, value in vae.model.weights().items()
        }
        return (
            call(vae.model.decoder, theta, torch.randn(num_train + num_test, 1))
            .sample()
            .split([num_train, num_test])
        )


@torch.no_grad()
def predictive(posterior, x):
    """log 1/S sum_s p(x|theta_s), (N,) nats, p(x|theta) by the rectangle rule over z: 0.02 apart,
    p(x, z) is smooth.
    """
    z = torch.linspace(-6.0, 6.0, 601)[:, None]
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z) + math.log(0.02)
    values = [
        (vae.decode(z[:, None]).log_prob(x) + log_prior).logsumexp(0)
        for vae in posterior.thinned(100).models()
    ]
    return torch.stack(values).logsumexp(0) - math.log(len(values))


def posteriors(x, seed, draws, steps, tier):
    """(name, posterior): the exact one first, then each approximation of it."""
    how = {"epochs": steps, "batch_size": len(x), "seed": seed, "progress": False, "compile": tier}
    points = [untrained(seed + 1000 * i) for i in range(5)]
    for vae in points:
        fit(vae, x, weight_penalty=1.0, learning_rate=5e-3, **how)
    yield (
        EXACT,
        nuts(bayesian_vae(points[0], **PRIOR), x, draws, draws, 2, max_tree_depth=6, seed=seed),
    )
    yield "point, MAP", ensemble(points[:1])
    yield "ensemble of 5", ensemble(points)
    for name, family in FAMILIES.items():
        vae = bayesian_vae(points[0], family, **PRIOR)
        fit(vae, x, learning_rate=5e-3, **how)
        yield name, fitted(vae, 100, seed)
    chain = {
        **PRIOR,
        "batch_size": len(x),
        "seed": seed,
        "compile": tier,
        "num_draws": min(100, steps),
    }
    kernel = ConstantSteps(0.005, 0.05, burn_in=steps // 2, thin=max(1, steps // 100))
    yield "SGHMC", stochastic_gradient_hmc(points[0], x, kernel=kernel, **chain)
    kernel = ConstantSteps(0.005, temperature=0.0, burn_in=steps // 4, thin=max(1, steps // 80))
    yield "SWAG", swag(points[0], x, kernel=kernel, **{**chain, "batch_size": 5})
