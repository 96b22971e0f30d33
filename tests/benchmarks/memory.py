"""What do log p(x) and draws for arviz of ten thousand images cost, in processor time and memory?

Prints, for a model of 784-HIDDEN-20 on 10,000 images the size of MNIST's, one thread: process CPU
seconds of one call and the most memory that the process has held, its libraries (about half a GB)
included. One function a process, since the peak is the process's. The defaults take minutes; time
is proportional to the draws and about so to hidden units, and with the draws kept memory does not
depend on hidden units.

    python tests/benchmarks/memory.py log_likelihood|to_inference_data [--num-samples 1000]
    [--hidden 500]
"""

import argparse
import resource
import time

import torch

from ppl_vae import VAEConfig, build, log_likelihood, to_inference_data

FUNCTIONS = {"log_likelihood": log_likelihood, "to_inference_data": to_inference_data}
IMAGES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("function", choices=FUNCTIONS)
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--posterior", default="diagonal_normal")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = VAEConfig(
        (28, 28), latent_size=20, hidden_sizes=(given.hidden,), posterior=given.posterior
    )
    vae, x = build(config, seed=0), torch.bernoulli(torch.full((IMAGES, 28, 28), 0.2))
    start = time.process_time()
    found = FUNCTIONS[given.function](vae, x, num_samples=given.num_samples, seed=0)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux
    print(
        f"{vars(given)}: {seconds:.1f} CPU seconds, {peak:.2f} GiB at most, result "
        f"{type(found).__name__}"
    )


if __name__ == "__main__":
    main()
