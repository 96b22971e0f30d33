"""Codes as bits, and as vectors of two runs: what the study of binary codes measures them by.

Knows tensors of codes, (N, L); must not know priors, training or figures.
"""

import itertools
import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

__all__ = ["agreement", "entropy", "nearest"]


def entropy(bits):
    """The sum over coordinates of the entropy of each bit of `bits` (N, L): a bound on the bits a
    code needs.
    """
    share = bits.double().mean(0)
    return (torch.special.entr(share) + torch.special.entr(1 - share)).sum().item() / math.log(2)


def nearest(bits, known):
    """For each row of `bits` (N, L) the row of `known` (K, L) at the least Hamming distance, the
    first of several.
    """
    return torch.cdist(bits.float(), known.float(), p=1).argmin(1)


def agreement(rows, turned=False):
    """tr(A'BP) at the best signed permutation P by tr(A'BR) at the best rotation R, A and B two
    seeds' centred codes.

    1 where the seeds share their axes, whatever else they share; the ratios of all pairs of seeds.
    Pairs that have a seed in common are not independent, so there is no interval over them. With
    `turned`, each code is first put in a random basis: what axes that mean nothing agree by chance.
    """
    codes = [np.array(row["code"]) - np.mean(row["code"], 0) for row in rows]
    if turned:
        normals = [
            np.random.default_rng(i).normal(size=(code.shape[1],) * 2)
            for i, code in enumerate(codes)
        ]
        codes = [code @ np.linalg.qr(normal)[0] for code, normal in zip(codes, normals)]
    products = [a.T @ b for a, b in itertools.combinations(codes, 2)]
    return [
        np.abs(m[linear_sum_assignment(-np.abs(m))]).sum() / np.linalg.norm(m, "nuc")
        for m in products
    ]
