"""Measurements that one study alone needs: of a gradient's noise, of two samples' difference, of a
square filled.

Knows tensors and the objective; must not know a study's question.
"""

import torch

from ppl_vae.handlers.modes import local_parameters
from ppl_vae.training.objective import Objective

__all__ = ["coverage", "energy_test", "gradient_variance"]


def coverage(points):
    """Share of the unit square's 10 x 10 cells that hold one of `points` (n, 2); those outside
    count for nothing.
    """
    inside = points[((points >= 0) & (points < 1)).all(1)]
    return len((inside * 10).long().unique(dim=0)) / 100


def energy_test(a, b, permutations=200):
    """p-value of equal distributions: 2 E|a - b| - E|a - a'| - E|b - b'| against its permutations;
    a, b (n, L).

    Source: Energy statistics: a class of statistics based on distances (2013), section 6.
    """
    distances, sign = torch.cdist(torch.cat([a, b]), torch.cat([a, b])), torch.ones(2 * len(a))
    sign[
        len(a) :
    ] = -1  # s' D s has E|a - a'| and E|b - b'| with plus signs, E|a - b| with minus signs
    signs = torch.stack([sign, *(sign[torch.randperm(len(sign))] for _ in range(permutations))])
    statistics = -((signs @ distances) * signs).sum(1)
    return (statistics >= statistics[0]).double().mean().item()


def gradient_variance(vae, x, estimator, draws=20):
    """Sum over parameters of the variance of the gradient of the bound of one minibatch over draws
    of z.
    """
    parameters = list(vae.parameters())
    with local_parameters():
        losses = (Objective(estimator)(vae.model, vae.guide, x)[0] for _ in range(draws))
        gradients = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
            for loss in losses
        ]
    return torch.stack(gradients).var(0).sum().item()
