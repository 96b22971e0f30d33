"""What every prior has to be.

Knows the public way of building, training, saving and loading a VAE; must not know how any prior is
written. The statistical checks fix their seeds; with others each would fail about once in ten
thousand runs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.checkpoint import load, save
from ppl_vae.cli import main
from ppl_vae.elbo import estimator_from
from ppl_vae.guides import LatentSite, latent_sites
from ppl_vae.handlers.enumeration import replayed_trace
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.handlers.own_parameters import users_program
from ppl_vae.protocols import InitialisedFromData
from ppl_vae.testing.given import as_argument, as_words, named_part
from ppl_vae.training import fit
from ppl_vae.training.objective import Objective
from ppl_vae.vae import VAE, VAEConfig, build

__all__ = ["LIMIT", "PriorBattery"]

LIMIT = 4.5  # standard errors: passed by chance by 7 of a million
PIXELS = (6,)


def pixels(num_data: int) -> Tensor:
    """Binary data, (num_data, 6), whose pixels depend on one another."""
    generator = torch.Generator().manual_seed(0)
    logits = (
        torch.randn(num_data, 2, generator=generator) @ torch.randn(2, 6, generator=generator) * 3
    )
    return (logits > 0).float()


def unpacked(sites: list[LatentSite], vector: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Real vectors (n, d) -> for each site its values on the site's support, and log |d value / d
    vector| (n,).
    """
    sizes = [site.unconstrained_shape.numel() for site in sites]
    result = {}
    for site, part in zip(sites, vector.split(sizes, -1)):
        part = part.reshape(-1, *site.unconstrained_shape)
        transform = biject_to(site.support)
        value = transform(part)
        jacobian = transform.log_abs_det_jacobian(part, value)
        result[site.name] = value, jacobian.reshape(len(part), -1).sum(-1)
    return result


def packed(sites: list[LatentSite], values: dict[str, Tensor]) -> Tensor:
    """The inverse: values of every site -> real vectors (n, d)."""
    parts = [biject_to(site.support).inv(values[site.name]) for site in sites]
    return torch.cat([part.reshape(len(part), -1) for part in parts], -1)


class PriorBattery:
    """What every prior passes: shapes under plates, draws that agree with the density, gradients,
    both estimators with one expectation, saving, recording, torch's own steps, the command line.

    `prior` is a name, a reference, a class, a function or an object, tried with these `options` and
    this `latent_size`.
    """

    prior: Any
    options: ClassVar[dict[str, Any]] = {}
    latent_size = 2
    compiled = False  # also compile a training step, about half a minute

    def vae(self, seed: int = 0) -> VAE:
        """A small VAE with this prior."""
        given = named_part(self, "prior")
        name: dict[str, Any] = {"prior": given} if isinstance(given, str) else {}
        config = VAEConfig(PIXELS, self.latent_size, (5,), prior_options=self.options, **name)
        return build(config, seed=seed, **as_argument(given, "prior"))

    def sites(self, vae: VAE) -> list[LatentSite]:
        """The sites a guide samples."""
        return latent_sites(vae.model.prior, self.latent_size)

    def draws(self, vae: VAE, size: int) -> dict[str, Tensor]:
        """Values of every site at `size` draws of the prior."""
        with local_parameters(), torch.no_grad(), pyro.plate("data", size):
            trace = poutine.trace(vae.model.prior).get_trace()
        nodes: dict[str, Any] = {site.name: trace.nodes[site.name] for site in self.sites(vae)}
        return {name: node["value"] for name, node in nodes.items()}

    def log_density(self, vae: VAE, values: dict[str, Tensor]) -> Tensor:
        """log p of all sites at values (n, *event_shape), (n,) nats, indices summed out."""
        sites = self.sites(vae)

        def at_values() -> None:
            for site in sites:
                pyro.sample(
                    site.name, dist.Delta(values[site.name], event_dim=len(site.event_shape))
                )

        with local_parameters(), torch.no_grad(), pyro.plate("data", len(values["z"])):
            trace = replayed_trace(vae.model.prior, poutine.trace(at_values).get_trace())
        found: dict[str, Any] = {s.name: trace.nodes[s.name]["fn"] for s in sites}
        return torch.stack([found[s.name].log_prob(values[s.name]) for s in sites]).sum(0)

    @pytest.mark.parametrize("plates", [(5,), (3, 5)], ids=str)
    def test_shapes_under_plates(self, plates: tuple[int, ...]) -> None:
        vae = self.vae()

        def program() -> Tensor:
            with pyro.plate_stack("plates", plates):
                return vae.model.prior()

        trace = poutine.trace(program).get_trace()
        for site in self.sites(vae):
            node: Any = trace.nodes[site.name]
            assert node["fn"].batch_shape == plates
            assert node["value"].shape == (*plates, *site.event_shape)
            assert node["fn"].log_prob(node["value"]).shape == plates
        assert trace.nodes["_RETURN"]["value"] is trace.nodes["z"]["value"]

    @pytest.fixture
    def double_precision(self) -> Iterator[None]:
        """A program's own literals in double precision too."""
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)

    @pytest.mark.usefixtures("double_precision")
    def test_samples_agree_with_the_density_region_by_region(self) -> None:
        """Eight regions' masses by counting 10000 draws, and by integrating the density over 30000
        of a broad proposal.

        One integral of the whole density would be 1 for a normalised density that is not the one
        sampled from.
        """
        vae = self.vae().double().eval()
        sites = self.sites(vae)
        torch.manual_seed(1)
        drawn = packed(sites, self.draws(vae, 10_000))
        centres, scale = drawn[:100], 0.5 * drawn.std(0)
        kernel = dist.StudentT(3.0, centres, scale).to_event(1)
        proposal = dist.MixtureSameFamily(
            dist.Categorical(logits=torch.zeros(100).to(drawn)), kernel
        )
        vector = proposal.sample((30_000,))
        parts = unpacked(sites, vector)
        log_p = self.log_density(vae, {name: value for name, (value, _) in parts.items()})
        weight = (
            log_p + sum(jacobian for _, jacobian in parts.values()) - proposal.log_prob(vector)
        ).exp()
        middle, radius = (
            drawn.median(0).values,
            ((drawn - drawn.median(0).values) / scale).norm(dim=-1).median(),
        )

        def regions(u: Tensor) -> Tensor:
            sign = (u > middle)[:, -2:].long() @ torch.tensor([1, 2])
            near = ((u - middle) / scale).norm(dim=-1) < radius
            return torch.nn.functional.one_hot(sign + 4 * near, 8).double()

        counted, integrated = regions(drawn), weight[:, None] * regions(vector)
        error = (counted.var(0) / len(drawn) + integrated.var(0) / len(vector)).sqrt()
        assert error.max() < 0.03, "the proposal is too poor for this prior"
        assert ((counted.mean(0) - integrated.mean(0)).abs() < LIMIT * error + 1e-12).all()

    @pytest.mark.parametrize("estimator", ["A", "B"])
    def test_gradient_reaches_every_parameter(self, estimator: str) -> None:
        vae = self.vae()
        with local_parameters():
            estimator_from(estimator).terms(vae.model, vae.guide, pixels(50)).mean_loss().backward()
        for name, parameter in vae.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name

    @pytest.mark.usefixtures("double_precision")
    def test_estimators_agree_in_expectation(self) -> None:
        """At 20000 draws of one datum; where no closed form is known both estimators are one and
        agree to the bit.
        """
        vae = self.vae().double().eval()
        x = pixels(1).double().expand(20_000, *PIXELS)
        bounds = []
        for estimator in "AB":
            torch.manual_seed(2)
            with local_parameters(), torch.no_grad():
                terms = estimator_from(estimator).terms(vae.model, vae.guide, x)
            bounds.append(terms.lower_bound)
        difference = bounds[0] - bounds[1]
        error = difference.std() / len(x) ** 0.5
        assert difference.mean().abs() <= LIMIT * error
        assert (error > 0) == any(kl.kind == "analytic" for kl in terms.kl.values())

    def test_saved_and_loaded_it_is_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trusted.json"))
        vae = self.vae(seed=3).eval()
        save(vae, tmp_path / "vae.safetensors")
        given = as_argument(named_part(self, "prior"), "prior")
        other = load(tmp_path / "vae.safetensors", **given)
        assert other.config == vae.config
        assert set(other.state_dict()) == set(vae.state_dict())
        assert all(
            torch.equal(value, vae.state_dict()[name]) for name, value in other.state_dict().items()
        )
        draws = []
        for one in (vae, other):
            torch.manual_seed(4)
            draws.append(one.sample(7))
        assert torch.equal(*draws)

    def fitted(self, compile: str) -> tuple[VAE, Any]:
        vae = self.vae()
        history = fit(vae, pixels(60), batch_size=20, epochs=4, compile=compile, progress=False)
        return vae, history

    def test_a_recorded_step_is_the_eager_step_to_the_bit(self) -> None:
        (eager, _), (recorded, history) = self.fitted("off"), self.fitted("record")
        assert history.tier == "record", (
            "the prior does something that cannot be recorded as one graph of tensors"
        )
        assert all(torch.equal(a, b) for a, b in zip(eager.parameters(), recorded.parameters()))
        start = self.vae().state_dict()
        moved = {name for name, p in recorded.named_parameters() if not torch.equal(p, start[name])}
        assert moved == {name for name, _ in recorded.named_parameters()}

    @pytest.mark.parametrize("compile", ["off", "record"])
    def test_a_step_is_that_of_torchs_optimiser(self, compile: str) -> None:
        """Two full batches: each coordinate moves by its own gradient, however it is laid out."""
        x, ours, theirs = pixels(20), self.vae(), self.vae().train()
        fit(ours, x, batch_size=20, epochs=2, compile=compile, progress=False)
        theirs.num_data = 20
        optimizer = torch.optim.Adam([p for p in theirs.parameters() if p.requires_grad], 1e-3)
        torch.manual_seed(0)
        program = users_program(theirs.model.prior)
        if isinstance(program, InitialisedFromData):
            program.start_from(x)
        for epoch in range(2):
            order = torch.randperm(20, generator=torch.Generator().manual_seed(epoch))
            optimizer.zero_grad()
            with local_parameters():
                loss, _ = Objective("B")(theirs.model, theirs.guide, x[order])
                loss.backward()
            optimizer.step()
        for (name, expected), found in zip(theirs.named_parameters(), ours.parameters()):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=name)

    @pytest.mark.filterwarnings(
        "ignore::DeprecationWarning"
    )  # torch's compiler warns of its own parts
    def test_a_compiled_step_is_the_eager_step_up_to_rounding(self) -> None:
        if not self.compiled:
            pytest.skip("set compiled = True")
        (eager, _), (compiled, history) = self.fitted("off"), self.fitted("inductor")
        if history.tier != "inductor":
            pytest.skip("no working compiler")
        for a, b in zip(eager.parameters(), compiled.parameters()):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)

    def test_on_the_command_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trusted.json"))
        given = named_part(self, "prior")
        if not isinstance(given, str):
            pytest.skip("what has no name cannot be typed")
        run = [
            *as_words(given, "prior", self.options),
            "--latent-size",
            str(self.latent_size),
            "--hidden-sizes",
            "5",
        ]
        fast = [
            "--epochs",
            "1",
            "--batch-size",
            "400",
            "--no-progress",
            "--out",
            str(tmp_path / "run"),
        ]
        assert main(["train", "--data", "digits", *run, *fast]) == 0
        vae = load(tmp_path / "run")
        assert dict(vae.config.prior_options) == self.options
        assert vae.sample(2).shape == (2, *vae.config.event_shape)
