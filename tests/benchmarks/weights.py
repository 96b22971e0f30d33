"""What does a training step cost when the decoder's weights have a posterior?

Prints, for a model of 784-500-20 with minibatches of 100, one thread, rounds interleaved: process
CPU milliseconds a step, and its ratio to the step of the same model with point weights, for each
posterior over the weights and way to draw them; the median of the rounds, the ratio with its range.

    python tests/benchmarks/weights.py [--tiers record,inductor] [--rounds 7]
"""

import argparse
import itertools
import statistics
import time

import torch

from ppl_vae import VAEConfig, build
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.training.objective import Objective, StepValues, TrainingLoss
from ppl_vae.training.optimizers import FusedUpdate
from ppl_vae.training.step import RecordedStep

STEPS = 10  # of each kind in a round
METHODS = {
    "point": {},
    "mean_field, N(0, I), local": {"weights": "mean_field", "weights_options": {"prior": "normal"}},
    "mean_field, learned scales, local": {"weights": "mean_field"},
    "mean_field, learned scales, flipout": {
        "weights": "mean_field",
        "weights_options": {"estimator": "flipout"},
    },
    "mean_field, learned scales, naive": {
        "weights": "mean_field",
        "weights_options": {"estimator": "naive"},
    },
    "mean_field, scale mixture": {
        "weights": "mean_field",
        "weights_options": {"prior": "scale_mixture"},
    },
    "matrix_normal": {"weights": "matrix_normal", "weights_options": {"prior": "normal"}},
    "low_rank": {"weights": "low_rank", "weights_options": {"prior": "normal"}},
}


def step(tier: str, **config: object) -> RecordedStep:
    vae = build(VAEConfig((28, 28), 20, (500,), **config), num_data=10_000, seed=0).train()  # type: ignore[arg-type]
    update = FusedUpdate("adam", [p for p in vae.parameters() if p.requires_grad], 0.0)
    return RecordedStep(TrainingLoss(vae, Objective("B", 1)), update, tier)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiers", default="record,inductor")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    batches = itertools.repeat(torch.rand(100, 28, 28).round())
    with local_parameters():
        for tier in given.tiers.split(","):
            steps = {name: step(tier, **config) for name, config in METHODS.items()}
            rounds = [
                {name: milliseconds(each, batches) for name, each in steps.items()}
                for _ in range(given.rounds + 1)
            ][1:]  # the first round warms up
            for name in METHODS:
                ratios = sorted(each[name] / each["point"] for each in rounds)
                median = statistics.median(each[name] for each in rounds)
                print(
                    f"{tier:8}  {name:36} {median:7.2f} ms  {statistics.median(ratios):5.2f} "
                    "times the point's"
                    f" ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                    flush=True,
                )


def milliseconds(each: RecordedStep, batches: "itertools.repeat[torch.Tensor]") -> float:
    start = time.process_time()
    for _ in range(STEPS):
        each(batches, [StepValues()], [1e-3])
    return (time.process_time() - start) / STEPS * 1e3


if __name__ == "__main__":
    main()
