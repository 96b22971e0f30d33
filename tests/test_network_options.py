"""Gated layers, normalisation, leaky rectifiers and residual convolutions: closed forms, parameter
counts, and what training and evaluation make of them.

Knows `networks.py` and the package's face.
"""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ppl_vae import InputError, VAEConfig, build, fit, load, lower_bound
from ppl_vae.networks import GatedLinear, ResidualBlock, RowNorm, dense, encoder_network

QUIET = {"epochs": 2, "batch_size": 20, "progress": False}
OPTIONS = [
    ("mlp", {"gated": True}),
    ("mlp", {"normalization": "layer"}),
    ("mlp", {"normalization": "batch"}),
    ("mlp", {"gated": True, "normalization": "batch", "dropout": 0.1}),
    ("conv", {"channels": (3, 4), "residual_blocks": 2}),
    ("conv", {"channels": (3,), "residual_blocks": 1, "batch_norm": False}),
]


def images(num_data: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num_data, 8, 8, generator=generator).round()


def config(network: str, options: dict, **fields: object) -> VAEConfig:
    return VAEConfig((8, 8), 2, (6,), network=network, network_options=options, **fields)


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class TestClosedForms:
    def test_a_gated_layer(self) -> None:
        layer, x = GatedLinear(3, 4), torch.randn(2, 5, 3)
        h = x @ layer.linear.weight.T + layer.linear.bias
        gate = x @ layer.gate.weight.T + layer.gate.bias
        torch.testing.assert_close(layer(x), h / (1 + (-gate).exp()))

    def test_layer_normalisation(self) -> None:
        """Mean 0 and variance 1 over the units of each datum, before the activation."""
        linear, norm, _ = dense((3, 7), "tanh", normalization="layer")
        h = norm(linear(torch.randn(4, 5, 3)))
        torch.testing.assert_close(h.mean(-1), torch.zeros(4, 5), rtol=0, atol=1e-5)
        torch.testing.assert_close(h.var(-1, correction=0), torch.ones(4, 5), rtol=0, atol=1e-2)

    def test_batch_normalisation(self) -> None:
        """Over the data in training; over running means of theirs in evaluation."""
        linear, norm, _ = dense((3, 7), "tanh", normalization="batch")
        x = torch.randn(400, 3)
        h = norm(linear(x))
        torch.testing.assert_close(h.mean(0), torch.zeros(7), rtol=0, atol=1e-5)
        norm.eval()
        mean, variance = norm.running_mean, norm.running_var
        expected = (linear(x) - mean) / (variance + norm.eps).sqrt()
        torch.testing.assert_close(norm(linear(x)), expected)
        torch.testing.assert_close(norm(linear(x[:1])), expected[:1])

    def test_a_residual_block_of_zero_convolutions_is_the_identity(self) -> None:
        block, x = ResidualBlock(3, "relu", batch_norm=True), torch.randn(2, 3, 5, 4)
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        assert torch.equal(block(x), x)

    def test_a_leaky_rectifier_keeps_the_size_of_a_signal(self) -> None:
        """E[h^2] after twenty layers of 400 units, over ten draws of the weights."""
        torch.manual_seed(0)
        ratios = []
        for _ in range(10):
            sizes = (400,) * 20
            body, _ = encoder_network("mlp", (400,), sizes, "leaky_relu", "fan_in", {})
            x = torch.randn(100, 400)
            ratios.append(body(x).square().mean().item() / x.square().mean().item())
        assert 0.5 < math.exp(sum(map(math.log, ratios)) / 10) < 2.0
        (leaky,) = (m for m in dense((2, 2), "leaky_relu") if isinstance(m, nn.LeakyReLU))
        assert leaky(torch.tensor(-2.0)).item() == pytest.approx(-0.02)


class TestParameterCounts:
    def test_mlp(self) -> None:
        """64 inputs, 6 units: 390 weights and biases, twice that gated, two more a unit normed."""
        plain = 64 * 6 + 6
        for options, expected in (
            ({}, plain),
            ({"gated": True}, 2 * plain),
            ({"normalization": "layer"}, plain + 12),
            ({"normalization": "batch"}, plain + 12),
            ({"gated": True, "normalization": "batch"}, 2 * plain + 12),
        ):
            body, _ = encoder_network("mlp", (8, 8), (6,), "tanh", "fan_in", options)
            assert size(body) == expected

    @pytest.mark.parametrize("batch_norm", [True, False])
    def test_residual_convolutions(self, batch_norm: bool) -> None:
        """A block of C channels has two kernels of 9 C^2 + C, and where normed 4 C more."""
        vaes = [
            build(config("conv", {"channels": (3, 4), "batch_norm": batch_norm, **more}), seed=0)
            for more in ({}, {"residual_blocks": 2})
        ]
        block = sum(2 * (9 * c * c + c) + 4 * c * batch_norm for c in (3, 4))
        for part in ("model", "guide"):
            extra = size(getattr(vaes[1], part)) - size(getattr(vaes[0], part))
            assert extra == 2 * block


@pytest.mark.parametrize(("network", "options"), OPTIONS)
def test_a_recorded_step_is_the_eager_one(network: str, options: dict) -> None:
    fitted = {}
    for tier in ("off", "record"):
        vae = build(config(network, options, activation="leaky_relu"), seed=0)
        assert fit(vae, images(), **QUIET, compile=tier).tier == tier
        fitted[tier] = vae.state_dict()
    for name, value in fitted["off"].items():
        torch.testing.assert_close(value, fitted["record"][name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(("network", "options"), OPTIONS)
def test_a_saved_run_evaluates_as_it_did(network: str, options: dict, tmp_path: Path) -> None:
    """Statistics of batch normalisation are saved, and used in evaluation: a datum's bound is its
    own, whatever else is in its batch.
    """
    vae, x = build(config(network, options), seed=0), images()
    fit(vae, x, **QUIET, compile="off", checkpoint=tmp_path / "run")
    again = load(tmp_path / "run")
    assert torch.equal(lower_bound(vae, x, seed=0), lower_bound(again, x, seed=0))
    codes = again.encode(x)
    torch.testing.assert_close(again.encode(x[:1]), codes[:1], rtol=1e-4, atol=1e-5)
    norms = [m for m in vae.modules() if isinstance(m, RowNorm)]
    assert all(m.running_mean.abs().max() > 0 for m in norms)
    assert vae.sample(3).shape == (3, 8, 8)


def test_several_draws_a_datum_and_bayesian_weights_go_through() -> None:
    vae = build(config("mlp", {"gated": True}, weights="mean_field"), seed=0)
    history = fit(vae, images(), **QUIET, compile="off", num_particles=2)
    assert history.rows[-1]["kl_weights"] > 0


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        ("mlp", {"gated": 1}, "gated: got 1, expected True or False"),
        ("mlp", {"normalization": "bath"}, "did you mean 'batch'"),
        ("mlp", {"residual_blocks": 1}, "'residual_blocks', expected one of dropout"),
        ("conv", {"gated": True}, "'gated', expected one of channels"),
        ("conv", {"residual_blocks": -1}, "an integer >= 0"),
    ],
)
def test_what_a_network_has_not_is_refused(network: str, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(config(network, options))
