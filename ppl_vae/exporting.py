"""A trained VAE's two networks as files that need nothing but torch: q(z|x) and p(x|z) by moments.

Knows `torch.export`; knows nothing of training. What is exported is held against the VAE itself
before a file is written.
"""

import contextlib
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae import __version__, checks
from ppl_vae.checkpoint import config_to_json
from ppl_vae.files import saved
from ppl_vae.guides.moments import mean
from ppl_vae.handlers import call
from ppl_vae.parts.user_code import fault
from ppl_vae.protocols import ClosedFormPosterior
from ppl_vae.vae import VAE, evaluating

__all__ = ["export"]

ROWS = 3  # of the data that a program is read from; any number may be given to it
TOLERANCE = 1e-6


class _Encoder(nn.Module):
    """x -> mean and standard deviation of z under q(z|x)."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.posterior = vae.guide.posterior

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return _moments(self.posterior.encode(x))


class _Decoder(nn.Module):
    """z -> mean and standard deviation of x under p(x|z)."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder = vae.model.decoder
        self.names = list(vae.guide.mean_weights("decoder."))
        for i, value in enumerate(vae.guide.mean_weights("decoder.").values()):
            self.register_buffer(f"weight_{i}", value.detach().clone())

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        theta = {name: self.get_buffer(f"weight_{i}") for i, name in enumerate(self.names)}
        return _moments(call(self.decoder, theta, z))


def _moments(fn: Any) -> dict[str, Tensor]:
    found = {"mean": mean(fn)}
    with contextlib.suppress(NotImplementedError, AttributeError):  # a family may have none
        found["standard_deviation"] = fn.variance.sqrt()
    return found


@torch.no_grad()
def export(vae: VAE, folder: str | os.PathLike[str], onnx: bool = False) -> dict[str, Path]:
    """Write encoder.pt2 and decoder.pt2, programs of `torch.export`, and export.json, which says
    what goes in and comes out.

    `torch.export.load("encoder.pt2").module()(x)` is {"mean": E[z|x], "standard_deviation": ...},
    the mean that of `vae.encode(x)` within 1e-6; the decoder is z -> moments of x, the mean that of
    `vae.decode(z).mean`. Any number of rows; x is floating point, bytes divided by 255. Neither
    needs this library or Pyro.

    Args:
        vae: the pair of programs; Bayesian weights are at their posterior mean.
        folder: made if it is not there; files of these names in it are replaced.
        onnx: write encoder.onnx and decoder.onnx as well (pip install 'ppl-vae[onnx]').

    Returns:
        The files by their names.

    Raises:
        InputError: for a posterior whose moments have no closed form, a network that `torch.export`
            cannot read, and a program that does not say what the VAE says.
    """
    path = checks.path("folder", folder)
    if not isinstance(vae.guide.posterior, ClosedFormPosterior):
        checks.refuse(
            "posterior",
            f"'{vae.config.posterior}', whose moments have no closed form",
            "one that has, such as diagonal_normal",
            "the decoder alone is vae.model.decoder, which torch.export reads",
        )
    if vae.guide.mean_weights("posterior."):
        checks.refuse("weights", "Bayesian ones in the encoder", "those of the decoder alone")
    like = next(vae.parameters())
    # values between 0 and 1 are inside the support of pixels, counts and real numbers' networks
    x = torch.rand(ROWS, *vae.config.event_shape, dtype=like.dtype, device=like.device)
    z = torch.randn(ROWS, vae.config.latent_size, dtype=like.dtype, device=like.device)
    contents: dict[str, bytes] = {}
    inputs = {"encoder": x, "decoder": z}
    parts: dict[str, nn.Module] = {"encoder": _Encoder(vae), "decoder": _Decoder(vae)}
    # a check of a distribution's arguments is a branch on values, which a program cannot hold
    with torch.random.fork_rng(), evaluating(vae), pyro.validation_enabled(False):
        for name, part in parts.items():
            program = _program(name, part.eval(), inputs[name])
            _check(name, program, vae, inputs[name])
            contents[f"{name}.pt2"] = _bytes(program)
            if onnx:
                contents[f"{name}.onnx"] = _onnx(name, program)
    about = _about(vae, inputs)
    contents["export.json"] = json.dumps(about, indent=1).encode()
    path.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with saved(path / name) as file:
            file.write(content)
    return {name: path / name for name in contents}


def _program(name: str, part: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    rows = ({0: torch.export.Dim("rows")},)
    try:
        return torch.export.export(part, (example,), dynamic_shapes=rows)
    except Exception as error:
        checks.refuse(
            f"{name}'s network",
            fault(error),
            "one that torch.export reads",
            "branch on no value, and let nothing depend on the number of rows",
        )


def _check(name: str, program: torch.export.ExportedProgram, vae: VAE, example: Tensor) -> None:
    """The program's mean is the VAE's, for another number of rows than it was read from."""
    given = torch.cat([example, example.flip(0)])
    found = program.module()(given)["mean"]
    expected = vae.encode(given) if name == "encoder" else vae.decode(given).mean
    difference = ((found - expected).abs() / (1 + expected.abs())).max().item()
    if not difference <= TOLERANCE:
        checks.refuse(
            f"exported {name}",
            f"a mean that is off by {difference:.2g}",
            "that of the VAE",
            "a mean of draws has no program",
        )


def _bytes(program: torch.export.ExportedProgram) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _onnx(name: str, program: torch.export.ExportedProgram) -> bytes:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        checks.refuse("onnx", "no onnxscript", "it installed", "pip install 'ppl-vae[onnx]'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls what it is about to retire
            found = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:
        checks.refuse(f"{name} as ONNX", fault(error), "one that torch.onnx writes")
    assert found is not None
    return found.model_proto.SerializeToString()


def _about(vae: VAE, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """What goes in and what comes out, in plain data."""
    return {
        "library": f"ppl_vae {__version__}, torch {torch.__version__}",
        "config": config_to_json(vae.config),
        "precision": str(inputs["encoder"].dtype).removeprefix("torch."),
        "encoder": {"input": ["rows", *vae.config.event_shape], "output": "moments of z given x"},
        "decoder": {"input": ["rows", vae.config.latent_size], "output": "moments of x given z"},
    }
