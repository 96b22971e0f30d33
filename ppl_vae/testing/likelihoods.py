"""What every likelihood has to be.

Knows the public way of building, training, saving and loading a VAE; must not know how any
likelihood is written. The statistical checks fix their seeds; with others each would fail about
once in ten thousand runs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.checkpoint import load, save
from ppl_vae.cli import main
from ppl_vae.testing.given import as_argument, as_words, named_part
from ppl_vae.training import fit
from ppl_vae.vae import VAE, VAEConfig, build

__all__ = ["LIMIT", "LikelihoodBattery"]

LIMIT = 4.5  # standard errors: passed by chance by 7 of a million
POINTS = 200_001  # of a quadrature
ADDITIVE = 1e-6  # nats by which entries that are independent may differ from a sum
IN_A_NEW_PROCESS = """
import json, sys, torch
from ppl_vae import load
vae = load(sys.argv[1], trust_code=True)
torch.manual_seed(0)
draws = vae.sample(5)
print(json.dumps(vae.decode(torch.ones(5, 2)).log_prob(draws).tolist()))
"""


class LikelihoodBattery:
    """What every likelihood passes: normalised by quadrature or sums, draws that agree with the
    density, gradients against finite differences, recording, saving, the command line.

    `likelihood` is a name, a reference, a class, a function or an object, tried with these
    `options` on data of this `event_shape`. `values` are those that an entry of x can take, where
    the support does not say it: 0 and 1 under a Bernoulli that grey pixels are allowed under.
    """

    likelihood: Any
    options: ClassVar[dict[str, Any]] = {}
    event_shape: tuple[int, ...] = (3,)
    values: ClassVar[Sequence[float] | None] = None
    new_process = True  # also load in a new process, a few seconds

    def vae(self, seed: int = 0) -> VAE:
        """A small VAE with this likelihood."""
        given = named_part(self, "likelihood")
        name: dict[str, Any] = {"likelihood": given} if isinstance(given, str) else {}
        config = VAEConfig(self.event_shape, 2, (5,), likelihood_options=self.options, **name)
        return build(config, seed=seed, **as_argument(given, "likelihood"))

    def outputs(self, vae: VAE, *shape: int) -> Tensor:
        """Outputs of a decoder, (*shape, num_outputs, *event_shape), the same at each call."""
        generator = torch.Generator().manual_seed(3)
        maps = vae.model.decoder.likelihood.num_outputs, *self.event_shape
        drawn = 0.5 * torch.randn(maps, generator=generator, dtype=torch.float64)
        return drawn.expand(*shape, *maps).clone()

    def distribution(self, vae: VAE, *shape: int) -> dist.TorchDistribution:
        """p(x | outputs) in double precision, of batch shape `shape`."""
        return vae.double().eval().model.decoder.likelihood(self.outputs(vae, *shape))

    def data(self, num_data: int) -> Tensor:
        """Draws of the likelihood itself, (num_data, *event_shape), as data to train on."""
        torch.manual_seed(4)
        with torch.no_grad():
            return self.distribution(self.vae(), num_data).sample().float()

    def supports(self, vae: VAE) -> list[Constraint]:
        """Where each entry of a datum may lie, entries in the order of the flattened event."""
        support = vae.model.decoder.likelihood.support
        if isinstance(support, constraints.stack):
            return list(support.cseq)
        return [support] * int(np.prod(self.event_shape))

    @pytest.mark.parametrize("batch_shape", [(5,), (3, 5)], ids=str)
    def test_shapes(self, batch_shape: tuple[int, ...]) -> None:
        vae = self.vae()
        q = self.distribution(vae, *batch_shape)
        assert (q.batch_shape, q.event_shape) == (batch_shape, self.event_shape)
        x = q.sample()
        assert x.shape == (*batch_shape, *self.event_shape)
        assert q.log_prob(x).shape == batch_shape
        assert q.mean.shape == x.shape and q.mean.isfinite().all()
        assert q.expand((2, *batch_shape)).log_prob(x).shape == (2, *batch_shape)
        assert x.dtype == torch.float64, "draws are data, in the precision of the outputs"

    @torch.no_grad()
    def test_the_density_is_normalised(self) -> None:
        """Each entry by itself, the others held: what they add up to is the whole's mass where the
        entries are independent.
        """
        vae = self.vae()
        torch.manual_seed(5)
        q = self.distribution(vae)
        drawn = q.sample(torch.Size([500])).flatten(1)
        held, other = drawn[0], drawn[1]
        shape = (-1, *self.event_shape)

        def log_p(rows: Tensor) -> Tensor:
            return torch.cat([q.log_prob(part.reshape(shape)) for part in rows.split(20_000)])

        start = log_p(held[None])
        moved = held.repeat(len(held), 1)
        moved.diagonal().copy_(other)
        if ((log_p(moved) - start).sum() + start - log_p(other[None])).abs() > ADDITIVE:
            pytest.skip("entries that depend on each other; the draws are held against the density")
        mass = start.clone()
        for entry, support in enumerate(self.supports(vae)):
            points, log_widths = _points(support, drawn[:, entry], self.values)
            rows = held.repeat(len(points), 1)
            rows[:, entry] = points
            mass += (log_p(rows) - start + log_widths).logsumexp(0)
        assert mass.exp().item() == pytest.approx(1.0, abs=1e-4)

    @torch.no_grad()
    def test_draws_agree_with_the_density(self) -> None:
        """E_p[1{x in S} / (|S| p(x))] = 1 for any region S, here where each entry is in the middle
        half of its draws; |S| a volume, or a number of values.
        """
        vae = self.vae()
        torch.manual_seed(6)
        q = self.distribution(vae)
        x = q.sample(torch.Size([50_000]))
        rows, log_size = x.flatten(1), 0.0
        inside = torch.ones(len(x), dtype=torch.bool)
        for entry, support in enumerate(self.supports(vae)):
            column = rows[:, entry]
            low, high = column[:20_000].quantile(torch.tensor([0.25, 0.75]).to(column)).tolist()
            inside &= (column >= low) & (column <= high)
            values = _values(support, column, self.values)
            if values is None:
                log_size += np.log(high - low)
            else:
                log_size += np.log(((values >= low) & (values <= high)).sum().item())
        ratio = torch.where(inside, (-q.log_prob(x) - log_size).exp(), 0.0)
        error = ratio.std() / len(x) ** 0.5
        assert error < 0.1, "too few draws in the region"
        assert (ratio.mean() - 1).abs() < LIMIT * error + 1e-6

    def test_gradients_are_those_of_finite_differences(self) -> None:
        """Of log p(x) in the outputs and in the likelihood's own parameters."""
        vae = self.vae()
        torch.manual_seed(7)
        x = self.distribution(vae, 4).sample()
        head = vae.model.decoder.likelihood
        names = [name for name, _ in head.named_parameters()]

        def log_p(outputs: Tensor, *parameters: Tensor) -> Tensor:
            own = dict(zip(names, parameters, strict=True))
            q: Any = torch.func.functional_call(head, own, (outputs,))
            return q.log_prob(x)

        outputs = self.outputs(vae, 4).requires_grad_()
        own = [p.detach().clone().requires_grad_() for p in head.parameters()]
        assert torch.autograd.gradcheck(log_p, (outputs, *own), raise_exception=False)

    def test_a_recorded_step_is_the_eager_step_to_the_bit(self) -> None:
        x, fitted = self.data(60), {}
        for tier in ("off", "record"):
            vae = self.vae()
            history = fit(vae, x, batch_size=20, epochs=3, compile=tier, progress=False)
            assert history.tier == tier, (
                "the likelihood does something that cannot be recorded as one graph of tensors"
            )
            fitted[tier] = list(vae.parameters())
        assert all(torch.equal(a, b) for a, b in zip(fitted["off"], fitted["record"], strict=True))

    def test_saved_and_loaded_it_is_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In this process, and in a new one where a name or a reference finds it."""
        monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trusted.json"))
        vae = self.vae(seed=1)
        fit(vae, self.data(40), batch_size=20, epochs=1, compile="off", progress=False)
        save(vae, tmp_path / "vae")
        torch.manual_seed(0)
        draws = vae.sample(5)
        expected = vae.decode(torch.ones(5, 2)).log_prob(draws)
        given = as_argument(named_part(self, "likelihood"), "likelihood")
        again = load(tmp_path / "vae", **given)
        assert torch.equal(again.decode(torch.ones(5, 2)).log_prob(draws), expected)
        if vae.config.likelihood == "custom" or not self.new_process:
            return
        words = [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path / "vae")]
        paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(words, capture_output=True, text=True, env=paths)
        assert run.returncode == 0, run.stderr
        found = torch.tensor(json.loads(run.stdout))
        torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)

    def test_on_the_command_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trusted.json"))
        given = named_part(self, "likelihood")
        if not isinstance(given, str):
            pytest.skip("what has no name cannot be typed")
        np.save(tmp_path / "x.npy", self.data(100).numpy())
        words = ["train", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run")]
        words += as_words(given, "likelihood", self.options)
        words += ["--latent-size", "2", "--hidden-sizes", "5", "--epochs", "1", "--no-progress"]
        assert main(words) == 0
        assert load(tmp_path / "run").sample(2).shape == (2, *self.event_shape)


def _values(support: Constraint, drawn: Tensor, values: Sequence[float] | None) -> Tensor | None:
    """All values an entry can take, as far as they matter; None where it is a continuous number."""
    if values is not None:
        return torch.tensor(values, dtype=drawn.dtype)
    if not support.is_discrete:
        return None
    levels = torch.arange(256, dtype=drawn.dtype) / 255
    if support.check(levels).all():
        return levels
    whole = torch.arange(20 * drawn.max().item() + 1000, dtype=drawn.dtype)
    return whole[support.check(whole)]


def _points(
    support: Constraint, drawn: Tensor, values: Sequence[float] | None
) -> tuple[Tensor, Tensor]:
    """Points of an entry and the logarithms of their weights in a sum or an integral.

    A real number is u = c + s t / (1 - t^2), t in (-1, 1), c and s the middle and the spread of
    the draws; other continuous numbers are its image under the support's own transform.
    """
    found = _values(support, drawn, values)
    if found is not None:
        return found, torch.zeros_like(found)
    transform = torch.distributions.biject_to(support)
    u = transform.inv(drawn)
    spread = (u.quantile(0.75) - u.quantile(0.25)).item()
    t = torch.linspace(-1, 1, POINTS + 2, dtype=drawn.dtype)[1:-1]
    real = u.median() + spread * t / (1 - t.square())
    slope = spread * (1 + t.square()) / (1 - t.square()).square()
    width = 2 / (POINTS + 1)
    points = transform(real)
    log_weight = transform.log_abs_det_jacobian(real, points) + slope.log() + np.log(width)
    good = support.check(points) & points.isfinite() & log_weight.isfinite()
    return points[good], log_weight[good]
