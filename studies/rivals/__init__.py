"""Other ways to train the same pair of programs, for comparison with AEVB: wake-sleep and Monte
Carlo EM.

Each function trains a VAE in place on x (N, *event_shape) for `num_samples` data taken in
minibatches, by AdaGrad, and knows the two programs and nothing of the study's question.
"""

from rivals.monte_carlo_em import monte_carlo_em
from rivals.wake_sleep import WakeSleep, wake_sleep

__all__ = ["RIVALS", "WakeSleep"]

RIVALS = {"wake-sleep": wake_sleep, "MCEM": monte_carlo_em}
