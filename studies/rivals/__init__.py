"""Other ways to train the same pair of programs, for `marginal_likelihood.py`: wake-sleep and Monte
Carlo EM.

Each function trains a VAE in place on x (N, *event_shape) for `num_samples` data taken in
minibatches, by AdaGrad, and knows the two programs and nothing of the study's question.
"""

from rivals.monte_carlo_em import monte_carlo_em
from rivals.wake_sleep import wake_sleep

__all__ = ["RIVALS"]

RIVALS = {"wake-sleep": wake_sleep, "MCEM": monte_carlo_em}
