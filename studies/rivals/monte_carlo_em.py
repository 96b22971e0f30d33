"""Monte Carlo EM: codes drawn from the posterior by Hamiltonian Monte Carlo, weights fitted to
them.

Knows the joint density and chains; the guide stays as it is. Chains persist, one a datum, from
visit to visit.
"""

import torch

from ppl_vae.evaluation.density import LogDensity
from ppl_vae.evaluation.hamiltonian import Chains
from ppl_vae.handlers.modes import local_parameters

__all__ = ["monte_carlo_em"]

LEAPFROG_STEPS, WEIGHT_UPDATES = 10, 5


def monte_carlo_em(vae, x, num_samples, batch_size=100, learning_rate=0.02, seed=0):
    """One transition of ten leapfrog steps for each datum of a minibatch, then five weight updates
    at those codes.

    E: u_i ~ a kernel that keeps p(u|x_i); M: theta <- theta + rate grad mean_i log p(x_i|u_i).
    Source: Auto-Encoding Variational Bayes (2013), appendix E (step sizes are tuned to 0.65
    acceptance, not 0.9).
    """
    vae.eval()
    density, one = LogDensity(vae, "MCEM"), torch.ones(())
    optimizer = torch.optim.Adagrad(vae.model.parameters(), lr=learning_rate)
    with torch.random.fork_rng(), local_parameters():
        torch.manual_seed(seed)
        u, step_sizes = density.prior_draws(1, len(x)), torch.full((len(x),), 0.1)
        for _ in range(num_samples // batch_size):
            rows = torch.randint(len(x), (batch_size,)).unique()
            chains = Chains(density, x[rows], u[:, rows], LEAPFROG_STEPS, "off")
            chains.step_size = step_sizes[rows]
            chains.adapt(chains.transition(one))
            u[:, rows], step_sizes[rows] = chains.state.u, chains.step_size
            for _ in range(WEIGHT_UPDATES):
                optimizer.zero_grad()
                (-density(u[:, rows], x[rows])[1].mean()).backward()
                optimizer.step()
