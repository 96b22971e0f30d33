"""Wake-sleep: the model learns from codes of data, the guide from dreams of the model.

Knows Pyro programs; knows nothing of a bound, for the two phases share no objective.
"""

import torch
from pyro import poutine

from ppl_vae.handlers.modes import local_parameters

__all__ = ["wake_sleep", "wake_sleep_losses"]


def wake_sleep_losses(model, guide, x):
    """(wake, sleep) in nats per datum: -log p(x, z) at z ~ q(z|x), and -log q(z|x') at (z, x') ~ p.

    x (M, *event_shape). Draws carry no gradient, so each loss reaches one program only.
    Source: The wake-sleep algorithm for unsupervised neural networks (1995).
    """
    with torch.no_grad():
        codes = poutine.trace(guide).get_trace(x)
        dream = poutine.trace(poutine.uncondition(model)).get_trace(x)
    wake = poutine.trace(poutine.replay(model, codes)).get_trace(x)
    sleep = poutine.trace(poutine.replay(guide, dream)).get_trace(dream.nodes["x"]["value"])
    return -wake.log_prob_sum() / len(x), -sleep.log_prob_sum() / len(x)


def wake_sleep(vae, x, num_samples, batch_size=100, learning_rate=0.02, seed=0):
    """Train both programs, each on its own loss."""
    vae.eval()  # a batch stands for itself
    optimizer = torch.optim.Adagrad(vae.parameters(), lr=learning_rate)
    with torch.random.fork_rng(), local_parameters():
        torch.manual_seed(seed)
        for _ in range(num_samples // batch_size):
            batch = x[torch.randint(len(x), (batch_size,))]
            optimizer.zero_grad()
            sum(wake_sleep_losses(vae.model, vae.guide, batch)).backward()
            optimizer.step()
