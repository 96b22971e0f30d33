"""A variational autoencoder as one writes it by hand in PyTorch, with one fused Adam: the base of
all ratios.
"""

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers import BATCH_SIZE, Workload

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


def layers(sizes: tuple[int, ...], activation: str) -> nn.Sequential:
    """Dense hidden layers."""
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(
        *[m for a, b in pairs for m in (nn.Linear(a, b), ACTIVATIONS[activation]())]
    )


class Encoder(nn.Module):
    """x -> mean and log-variance of q(z|x)."""

    def __init__(self, w: Workload) -> None:
        super().__init__()
        self.body = layers((w.data_size, *w.hidden_sizes), w.activation)
        self.mean, self.log_variance = (
            nn.Linear(w.hidden_sizes[-1], w.latent_size) for _ in range(2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.mean(h), self.log_variance(h)


class Decoder(nn.Module):
    """z -> logits, or mean and log-variance, of p(x|z)."""

    def __init__(self, w: Workload) -> None:
        super().__init__()
        self.body = layers((w.latent_size, *w.hidden_sizes[::-1]), w.activation)
        self.heads = nn.ModuleList(
            nn.Linear(w.hidden_sizes[0], w.data_size) for _ in range(1 + w.normal)
        )

    def forward(self, z: Tensor) -> list[Tensor]:
        h = self.body(z)
        return [head(h) for head in self.heads]


class HandWritten(nn.Module):
    """Both networks and the negated bound."""

    def __init__(self, w: Workload) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(w), Decoder(w)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x)
        outputs = self.decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)
        if len(outputs) == 1:
            return (
                F.binary_cross_entropy_with_logits(outputs[0], x, reduction="none").sum(-1) + kl
            ).mean()
        error = (x - outputs[0]) ** 2 * torch.exp(-outputs[1]) + outputs[1] + math.log(2 * math.pi)
        return (0.5 * error.sum(-1) + kl).mean()


def trainer(w: Workload, x: Tensor, compile: bool = False) -> Callable[[int], int]:
    """Eager PyTorch, or with the loss compiled by `torch.compile`."""
    module = HandWritten(w)
    loss_of = torch.compile(module) if compile else module
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)

    def train(steps: int) -> int:
        for i in range(steps):
            start = i * BATCH_SIZE % len(x)
            order = torch.randperm(len(x)) if start == 0 else order  # noqa: F821
            loss = loss_of(x[order[start : start + BATCH_SIZE]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        return steps

    return train
