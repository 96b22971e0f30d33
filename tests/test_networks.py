"""Bodies and their initial parameters: shapes of any image, and the size of a signal after many
layers.

Knows `networks.py`; must not know Pyro.
"""

import math

import pytest
import torch
from torch import nn

from ppl_vae.checks import InputError
from ppl_vae.networks import (
    ACTIVATIONS,
    TRANSPOSED,
    decoder_network,
    encoder_network,
    fan_in,
    image_shape,
    initialize,
)


@pytest.mark.parametrize("event_shape", [(28, 28), (28, 20), (8, 8), (3, 32, 32), (3, 7, 9)])
@pytest.mark.parametrize(
    ("network", "options"), [("mlp", {}), ("conv", {}), ("conv", {"channels": (4, 4, 4)})]
)
@pytest.mark.parametrize("num_outputs", [1, 2])
def test_the_decoder_returns_events_of_the_shape_the_encoder_takes(
    event_shape, network, options, num_outputs
):
    encoder, size = encoder_network(network, event_shape, (7,), "relu", "fan_in", options)
    decoder = decoder_network(network, 3, num_outputs, event_shape, (7,), "relu", "fan_in", options)
    x, z = torch.randn(2, 4, *event_shape), torch.randn(2, 4, 3)
    assert encoder(x).shape == (2, 4, size) and size == 7
    assert decoder(z).shape == (2, 4, num_outputs, *event_shape)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_leading_dimensions_are_rows_like_any_other(network):
    """Draws of z over data, (L, M), give what the L M rows give one after the other."""
    decoder = decoder_network(network, 3, 1, (8, 8), (7,), "tanh", "fan_in", {}).eval()
    z = torch.randn(2, 4, 3)
    torch.testing.assert_close(decoder(z).flatten(0, 1), decoder(z.flatten(0, 1)))


def test_a_strided_convolution_sees_every_pixel():
    """The mirrored paddings lose no row or column of an odd or an even image."""
    encoder, _ = encoder_network("conv", (7, 10), (), "tanh", "fan_in", {"batch_norm": False})
    decoder = decoder_network("conv", 3, 1, (7, 10), (), "tanh", "fan_in", {"batch_norm": False})
    x = torch.randn(1, 7, 10, requires_grad=True)
    encoder(x).square().sum().backward()
    assert x.grad is not None and (x.grad != 0).all()
    outputs = decoder(torch.randn(50, 3))
    assert (outputs.var(0) > 0).all()


def test_no_hidden_layer_makes_a_linear_network():
    encoder, size = encoder_network("mlp", (2, 3), (), "tanh", "fan_in", {})
    decoder = decoder_network("mlp", 4, 1, (2, 3), (), "tanh", "fan_in", {})
    x, z = torch.randn(5, 2, 3), torch.randn(5, 4)
    assert size == 6 and torch.equal(encoder(x), x.reshape(5, 6)) and not list(encoder.parameters())
    torch.testing.assert_close(
        decoder(z + 2) - decoder(z), decoder(torch.full((5, 4), 2.0)) - decoder(torch.zeros(5, 4))
    )


def test_the_decoder_mirrors_the_encoder_unless_told_otherwise():
    sizes = {
        "mirrored": [(5, 3), (9, 5), (4, 9)],
        "given": [(11, 3), (4, 11)],
    }
    for name, options in (("mirrored", {}), ("given", {"decoder_hidden_sizes": (11,)})):
        network = decoder_network("mlp", 3, 1, (4,), (9, 5), "tanh", "fan_in", options)
        assert [
            tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Linear)
        ] == sizes[name]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_fan_in_keeps_the_signal_through_four_layers_and_the_small_normal_does_not(activation):
    """Root mean square of the features after four layers of 400; relative error of such a mean is
    below 0.2.
    """
    x = torch.randn(500, 400, generator=torch.Generator().manual_seed(0))
    signal = {}
    for init in ("fan_in", "normal_0.01"):
        torch.manual_seed(0)
        body, _ = encoder_network("mlp", (400,), (400,) * 4, activation, init, {})
        signal[init] = body(x).square().mean().sqrt().item()
    assert 0.25 < signal["fan_in"] < 1.5
    assert signal["normal_0.01"] < 0.01


def test_rectified_layers_keep_the_variance_exactly_up_to_sampling():
    """E[relu(W h)^2] = E[h^2] with gain sqrt(2), the encoder's last layer included."""
    torch.manual_seed(0)
    body, _ = encoder_network("mlp", (1000,), (1000, 1000), "relu", "fan_in", {})
    assert body(torch.randn(500, 1000)).square().mean().item() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(("init", "scale"), [("fan_in", 1 / 300**0.5), ("normal_0.01", 0.01)])
def test_initial_weights_have_the_stated_scale_and_biases_are_zero(init, scale):
    """30,000 weights: the relative error of their standard deviation is 0.4 % a sigma."""
    layer = initialize(nn.Linear(300, 100), init, "relu")
    assert layer.weight.std().item() == pytest.approx(scale, rel=0.03)
    assert layer.weight.mean().abs().item() < 4 * scale / 30_000**0.5
    assert not layer.bias.any()


def test_transposed_convolutions_count_the_taps_an_output_sees():
    """A stack of stride-2 transposed convolutions keeps the variance within a factor of two a
    layer.
    """
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.ConvTranspose2d(64, 64, 3, stride=2, padding=1, output_padding=1), nn.Tanh()
    )
    initialize(layers, "fan_in", "tanh")
    inside = layers[0](torch.randn(20, 64, 8, 8))[..., 2:-2, 2:-2]
    assert 0.5 < inside.square().mean().item() < 2.0


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_is_the_named_function(activation):
    network, _ = encoder_network("mlp", (3,), (2,), activation, "fan_in", {})
    x = torch.randn(4, 3)
    linear = next(m for m in network.modules() if isinstance(m, nn.Linear))
    named = ("silu", "softplus", "leaky_relu")
    functions = {name: getattr(nn.functional, name) for name in named}
    expected = functions.get(activation) or getattr(torch, activation)
    torch.testing.assert_close(network(x), expected(linear(x)))


def test_dropout_acts_in_training_only():
    network, _ = encoder_network("mlp", (50,), (50,), "tanh", "fan_in", {"dropout": 0.5})
    x = torch.randn(1, 50)
    assert (network(x) == 0).sum() > 5
    assert (network.eval()(x) == 0).sum() == 0


def test_a_minibatch_of_one_image_halved_to_one_pixel_is_normalised_by_the_running_moments():
    """The last, short minibatch: its own variance is 0, and torch's layer would raise. The moments
    stay.
    """
    encoder, _ = encoder_network("conv", (8, 8), (), "tanh", "fan_in", {"channels": (4, 4, 4)})
    x = torch.randn(20, 8, 8)
    encoder(x)
    last = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    before = last.running_mean.clone()
    assert encoder(x[:1]).isfinite().all() and torch.equal(last.running_mean, before)
    encoder(x)
    assert not torch.equal(last.running_mean, before)


@pytest.mark.parametrize("event_shape", [(16, 16, 3), (16, 16, 1), (28, 20, 4)])
def test_channels_that_come_last_are_refused_in_both_networks(event_shape):
    for make in (
        lambda: encoder_network("conv", event_shape, (7,), "relu", "fan_in", {}),
        lambda: decoder_network("conv", 3, 1, event_shape, (7,), "relu", "fan_in", {}),
        lambda: image_shape("prior 'nvae'", event_shape),
    ):
        with pytest.raises(InputError, match=r"whose channels come last.*x.permute\(0, 3, 1, 2\)"):
            make()


@pytest.mark.parametrize("event_shape", [(3, 16, 4), (1, 28, 1), (64, 2, 3), (8, 8), (3, 3, 3)])
def test_channels_that_come_first_are_taken_as_they_are(event_shape):
    assert image_shape("network 'conv'", event_shape) == (1, *event_shape)[-3:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("mpl", (3,), (2,), "tanh", "fan_in", {}),
            "network: got 'mpl', expected one of mlp, conv; did you mean 'mlp'?",
        ),
        (("mlp", (3,), (2,), "relU", "fan_in", {}), "did you mean 'relu'?"),
        (("mlp", (3,), (2,), "tanh", "fan-in", {}), "did you mean 'fan_in'?"),
        (("mlp", (3,), (2,), "tanh", "fan_in", {"drop": 0.1}), "did you mean 'dropout'?"),
        (("mlp", (3,), (2,), "tanh", "fan_in", {"dropout": 1.5}), "network_options.dropout"),
        (("conv", (3,), (2,), "tanh", "fan_in", {}), "use network='mlp'"),
        (("conv", (8, 8), (2,), "tanh", "fan_in", {"channels": (0,)}), "an integer >= 1"),
    ],
)
def test_a_bad_choice_is_refused_in_one_line(arguments, message):
    with pytest.raises(InputError) as error:
        encoder_network(*arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(7, 3),
        nn.Conv2d(6, 4, 3, stride=2),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.ConvTranspose1d(64, 5, 4, stride=2),
        nn.ConvTranspose2d(64, 5, 3, stride=2),
        nn.ConvTranspose2d(8, 4, 5, stride=3, groups=2),
        nn.ConvTranspose3d(4, 2, 3, stride=2),
    ],
)
def test_fan_in_is_the_mean_number_of_inputs_that_a_unit_sums(layer):
    """With weights and inputs of one, a unit's value counts its inputs; far from the edges, a
    transposed convolution's units differ by their place, and the mean over a period is meant."""
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    if isinstance(layer, nn.Linear):
        y = layer(torch.ones(1, 7))
    else:
        dims = layer.weight.dim() - 2
        y = layer(torch.ones(1, layer.in_channels, *[12] * dims))
        inner = slice(6, 12) if isinstance(layer, TRANSPOSED) else slice(1, -1)
        y = y[(slice(None), slice(None), *[inner] * dims)]
    assert fan_in(layer, layer.weight) == math.floor(y.mean().item())
