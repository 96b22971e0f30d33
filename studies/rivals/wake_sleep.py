"""Wake-sleep: the model learns from codes of data, the guide from dreams of the model.

Knows Pyro programs; knows nothing of a bound, for the two phases share no objective.
"""

import torch
from pyro import poutine

from ppl_vae.handlers.modes import local_parameters

__all__ = ["WakeSleep", "wake_sleep", "wake_sleep_losses"]


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


class WakeSleep:
    """A run on x (N, *event_shape) that trains both programs of `vae` in place, each on its own
    loss, by AdaGrad.

    It may be left and gone on with: one that loads another's `state_dict` goes on as that one
    would have.
    """

    def __init__(self, vae, x, batch_size=100, learning_rate=0.02, seed=0):
        self.vae, self.x, self.batch_size = vae, x, batch_size
        self.optimizer = torch.optim.Adagrad(vae.parameters(), lr=learning_rate)
        self.generator_state = torch.Generator().manual_seed(seed).get_state()

    def train(self, num_samples):
        """As many steps as take `num_samples` data in minibatches."""
        self.vae.eval()  # a batch stands for itself
        with torch.random.fork_rng(), local_parameters():
            torch.set_rng_state(self.generator_state)
            for _ in range(num_samples // self.batch_size):
                batch = self.x[torch.randint(len(self.x), (self.batch_size,))]
                self.optimizer.zero_grad()
                sum(wake_sleep_losses(self.vae.model, self.vae.guide, batch)).backward()
                self.optimizer.step()
            self.generator_state = torch.get_rng_state()

    def state_dict(self):
        """All that the rest of the run depends on, the data aside."""
        return {
            "vae": self.vae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator_state,
        }

    def load_state_dict(self, state):
        """Go on from what `state_dict` gave."""
        self.vae.load_state_dict(state["vae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator_state = state["generator"]


def wake_sleep(vae, x, num_samples, batch_size=100, learning_rate=0.02, seed=0):
    """Train both programs, each on its own loss."""
    WakeSleep(vae, x, batch_size, learning_rate, seed).train(num_samples)
