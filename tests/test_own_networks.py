"""Encoders and decoders of the user's own: modules, their classes or references.

Knows the package's face.
"""

from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae import InputError, VAEConfig, build, fit, load, log_likelihood, save
from ppl_vae.networks import initialize

CONFIG = VAEConfig((6,), latent_size=2, hidden_sizes=(8,))
SEQUENCES = VAEConfig((7, 3), latent_size=2, likelihood="normal_shared")
QUIET = {"epochs": 2, "batch_size": 20, "progress": False, "compile": "off"}
FILE = """
from torch import nn

class Encoder(nn.Sequential):
    def __init__(self, event_shape, width=5):
        super().__init__(nn.Linear(event_shape[0], width), nn.Tanh())

class Decoder(nn.Sequential):
    def __init__(self, latent_size, event_shape, width=5):
        super().__init__(nn.Linear(latent_size, width), nn.Tanh(), nn.Linear(width, *event_shape))
"""


class Recurrent(nn.Module):
    """A sequence (M, T, D) -> the last state of a GRU."""

    def __init__(self, event_shape: tuple[int, ...], width: int = 6) -> None:
        super().__init__()
        self.gru = nn.GRU(event_shape[-1], width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[1][-1]


class Unrolled(nn.Module):
    def __init__(self, latent_size: int, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.steps = event_shape[0]
        self.gru = nn.GRU(latent_size, 6, batch_first=True)
        self.head = nn.Linear(6, event_shape[1])

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.gru(z[:, None].expand(-1, self.steps, -1))[0])


class Direct(nn.Module):
    """Returns the distribution of x itself: a mean and a scale that depend on z."""

    def __init__(self, latent_size: int, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net = nn.Linear(latent_size, 2 * event_shape[0])

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        location, raw = self.net(z).chunk(2, -1)
        return dist.Normal(location, 0.1 + nn.functional.softplus(raw)).to_event(1)


def test_sequences_go_through_recurrent_networks_and_everything_else_follows() -> None:
    vae = build(SEQUENCES, encoder=Recurrent, decoder=Unrolled, seed=0)
    x = torch.randn(40, 7, 3)
    fit(vae, x, validation=x[:10], **QUIET)
    assert log_likelihood(vae, x[:4], 20, seed=0).values.isfinite().all()
    assert vae.sample(3).shape == (3, 7, 3) and vae.encode(x, 5).shape == (5, 40, 2)
    assert vae.decode(torch.zeros(2, 4, 2)).batch_shape == (2, 4)


@pytest.mark.parametrize("tier", ["off", "record"])
def test_the_librarys_own_networks_given_as_modules_are_the_same_vae(tier: str) -> None:
    """To the bit: the wrapper reshapes rows and nothing else."""
    plain = build(CONFIG, seed=0)
    body = {"encoder": plain.guide.posterior.encoder, "decoder": plain.model.decoder.network}
    given = build(CONFIG, **body, seed=0)
    given.guide.posterior.heads.load_state_dict(plain.guide.posterior.heads.state_dict())
    x = torch.bernoulli(torch.full((40, 6), 0.4), generator=torch.Generator().manual_seed(0))
    for vae in (plain, given):
        fit(vae, x, **{**QUIET, "compile": tier})
    theirs = [p for _, p in sorted(given.named_parameters(), key=lambda e: e[0].split(".")[-2:])]
    ours = [p for _, p in sorted(plain.named_parameters(), key=lambda e: e[0].split(".")[-2:])]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_an_object_is_copied_trained_and_saved(tmp_path: Path) -> None:
    own = initialize(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), "fan_in", "relu")
    start = own[0].weight.detach().clone()
    vae = build(CONFIG, encoder=own, seed=0)
    fit(vae, torch.rand(40, 6).round(), **QUIET)
    trained = vae.guide.posterior.encoder.module[0].weight
    assert torch.equal(own[0].weight, start) and not torch.equal(trained, start)
    save(vae, tmp_path / "vae")
    with pytest.raises(InputError, match=r"encoder: got 'custom'.*pass encoder="):
        load(tmp_path / "vae")
    again = load(tmp_path / "vae", encoder=own)
    assert torch.equal(again.guide.posterior.encoder.module[0].weight, trained)


def test_references_with_options_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trust.json"))
    (tmp_path / "nets.py").write_text(FILE)
    config = VAEConfig(
        (6,),
        latent_size=2,
        encoder=f"{tmp_path / 'nets.py'}:Encoder",
        encoder_options={"width": 9},
        decoder=f"{tmp_path / 'nets.py'}:Decoder",
    )
    vae = build(config, seed=0)
    assert vae.guide.posterior.encoder.feature_size == 9
    fit(vae, torch.rand(40, 6).round(), **QUIET, checkpoint=tmp_path / "run")
    again = load(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), again.parameters()))
    (tmp_path / "nets.py").write_text(FILE + "raise RuntimeError('was run')\n")
    with pytest.raises(InputError, match="not trained with here"):
        load(tmp_path / "run")


def test_a_decoder_may_return_the_distribution() -> None:
    config = VAEConfig((6,), latent_size=2, likelihood="decoder")
    vae, x = build(config, decoder=Direct, seed=0), 3 + torch.randn(40, 6)
    before = log_likelihood(vae, x, 50, seed=0).mean
    fit(vae, x, **{**QUIET, "epochs": 30, "learning_rate": 0.01})
    assert log_likelihood(vae, x, 50, seed=0).mean > before
    assert vae.sample(4).shape == (4, 6) and not vae.counts


def test_convolutions_take_any_number_of_leading_dimensions() -> None:
    """Which torch's own do not: rows are flattened and put back."""
    encoder = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 2, 3), nn.Flatten())
    decoder = nn.Sequential(
        nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)), nn.ConvTranspose2d(1, 1, 5), nn.Flatten(1, 2)
    )
    vae = build(VAEConfig((8, 8), latent_size=2), encoder=encoder, decoder=decoder, seed=0)
    x = torch.rand(20, 8, 8).round()
    fit(vae, x, num_particles=3, **QUIET)
    assert log_likelihood(vae, x, 20, seed=0).values.shape == (20,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": nn.Linear(5, 4)}, "encoder: got RuntimeError.*rows of shape"),
        ({"encoder": nn.Unflatten(1, (2, 3))}, r"encoder: got \(3, 2, 3\) for 3 data"),
        ({"decoder": nn.Linear(2, 7)}, r"decoder: got outputs \(3, 7\).*\(3, 1, 6\) or \(3, 6\)"),
        ({"decoder": Direct}, "likelihood='decoder' takes"),
        ({"decoder": nn.Linear(2, 6), "likelihood": "decoder"}, "Pyro distribution of x"),
        ({"encoder": len}, "encoder: got len, expected a torch.nn.Module"),
        ({"encoder": "mlp"}, "encoder: got 'mlp', expected 'file.py:Name'"),
        ({"encoder": torch.relu}, "expected a torch.nn.Module"),
    ],
)
def test_what_does_not_fit_is_refused_when_built(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(CONFIG, **options)


def test_options_without_a_network_of_ones_own_are_refused() -> None:
    with pytest.raises(InputError, match="encoder_options without an encoder of your own"):
        build(VAEConfig((6,), encoder_options={"width": 3}))
