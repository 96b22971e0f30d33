"""How far is importance-sampled log p(x) from what its matrix products alone would take?

Prints, for a model of 784-500-20 with 5000 draws a datum, one thread, rounds interleaved: process
CPU time of the two products of the decoder (single precision, the very shapes) over that of the
compiled block of log weights and its running sum; the median of the rounds with their range. 1
would be a decoder whose activations and likelihood cost nothing.

    python tests/benchmarks/log_likelihood.py
"""

import statistics
import time

import torch

from ppl_vae import VAEConfig, build
from ppl_vae.evaluation.blocks import decoder_rows
from ppl_vae.evaluation.running import RunningWeights
from ppl_vae.evaluation.weights import LogWeights, program
from ppl_vae.vae import evaluating

DRAWS, IMAGES, ROUNDS = 5000, 10, 9


def main() -> None:
    torch.set_num_threads(1)
    vae = build(VAEConfig((28, 28), latent_size=20, hidden_sizes=(500,), activation="tanh"), seed=0)
    pieces = max(1, round(DRAWS / decoder_rows(vae)))  # as `log_likelihood` cuts the draws
    rows, x = DRAWS // pieces, torch.bernoulli(torch.full((1, 28, 28), 0.2))
    z, first, second = torch.randn(rows, 20), torch.randn(20, 500), torch.randn(500, 784)
    ratios = []
    with evaluating(vae):
        block = program(LogWeights(vae, rows), [x], "inductor")
        for _ in range(ROUNDS + 1):
            start = time.process_time()
            for _ in range(IMAGES * pieces):
                (z @ first) @ second
            middle = time.process_time()
            for _ in range(IMAGES):
                weights = RunningWeights(DRAWS)
                for _ in range(pieces):
                    weights.update(block(x))
                weights.summary()
            ratios.append((middle - start) / (time.process_time() - middle))
    ratios = ratios[1:]  # the first round warms up
    print(
        f"products / log p(x) {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
        f"{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
