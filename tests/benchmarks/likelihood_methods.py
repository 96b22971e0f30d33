"""Do the ways to log p(x) agree on a trained model of MNIST with two latents, where quadrature is
exact?

Trains 784-300-2 on dynamically binarised MNIST, then prints for each method, over held-out images:
the mean difference from quadrature in nats with its standard error over images, that mean in
standard errors of the estimates' own Monte Carlo errors, the share of images more than three of
their errors away, and processor seconds. The defaults take about three minutes.

    python tests/benchmarks/likelihood_methods.py [--images 20] [--epochs 8]
"""

import argparse
import time
from typing import Any

import torch

from ppl_vae import VAEConfig, build, fit, load_data, log_likelihood

METHODS: dict[str, dict[str, Any]] = {
    "importance, 5000 draws of q": {"num_samples": 5000},
    "importance, half of 20000 draws from p(z)": {"num_samples": 20_000, "prior_share": 0.5},
    "annealed, 16 chains, 300 temperatures": {
        "method": "annealed",
        "num_samples": 16,
        "num_temperatures": 300,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("mnist", binarization="dynamic")
    vae, x = build(VAEConfig((28, 28), 2, (300,)), seed=0), data.test[: given.images]
    fit(
        vae,
        data.train,
        binarization="dynamic",
        epochs=given.epochs,
        compile="record",
        progress=False,
    )
    exact = log_likelihood(vae, x, method="quadrature", num_points=250)
    print(f"quadrature: {exact.mean:.3f} nats")
    for name, how in METHODS.items():
        start = time.process_time()
        found = log_likelihood(vae, x, seed=1, **how)
        seconds = time.process_time() - start
        difference = found.values - exact.values
        error = (found.monte_carlo_error.square() + exact.monte_carlo_error.square()).sqrt()
        spread, pooled = difference.std() / len(x) ** 0.5, error.square().sum().sqrt() / len(x)
        far = (difference.abs() > 3 * error).double().mean()
        print(
            f"{name}: {difference.mean():+.3f} ± {spread:.3f} nats, "
            f"{difference.mean() / pooled:+.1f} errors; "
            f"{far:.0%} of images beyond three; {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
