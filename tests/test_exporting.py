"""Networks as files that need torch alone, and a generative model inside another program.

Knows `export` and `VAE.as_prior` from outside; ground truths are linear and Gaussian.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from torch import Tensor, nn
from truths import linear_gaussian

from ppl_vae import InputError, VAEConfig, build, export

LOADED = """
import sys, torch
x, z = torch.load("x.pt"), torch.load("z.pt")
encoder, decoder = (torch.export.load(f"out/{n}.pt2").module() for n in ("encoder", "decoder"))
torch.save([encoder(x), decoder(z)], "found.pt")
assert not {"ppl_vae", "pyro"} & sys.modules.keys()
"""


class TestExport:
    @pytest.mark.parametrize(
        "config",
        [
            VAEConfig((6,), 2, (5,)),
            VAEConfig((1, 8, 8), 3, (8,), network="conv", likelihood="continuous_bernoulli"),
            VAEConfig((3, 2), 2, (5,), posterior="full_normal", likelihood="normal_pixelwise"),
            VAEConfig((6,), 2, (5,), posterior="mixture", likelihood="poisson"),
            VAEConfig((6,), 2, (5,), weights="mean_field"),
        ],
        ids=lambda config: f"{config.network}-{config.posterior}-{config.likelihood}",
    )
    def test_moments_are_the_vae_s_in_a_process_without_it(
        self, config: VAEConfig, tmp_path: Path
    ) -> None:
        vae = build(config, seed=0)
        files = export(vae, tmp_path / "out")
        assert set(files) == {"encoder.pt2", "decoder.pt2", "export.json"}
        x, z = torch.rand(7, *config.event_shape).round(), torch.randn(1, config.latent_size)
        torch.save(x, tmp_path / "x.pt")
        torch.save(z, tmp_path / "z.pt")
        command = [sys.executable, "-c", LOADED]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        encoded, decoded = torch.load(tmp_path / "found.pt")
        assert torch.allclose(encoded["mean"], vae.encode(x), atol=1e-6)
        fn = vae.decode(z)
        assert torch.allclose(decoded["mean"], fn.mean, atol=1e-6)
        if "standard_deviation" in decoded:
            assert torch.allclose(decoded["standard_deviation"], fn.variance.sqrt(), atol=1e-5)

    def test_moments_of_a_linear_model_are_known(self, tmp_path: Path) -> None:
        truth = linear_gaussian("exact")
        export(truth.vae, tmp_path)
        found = torch.export.load(tmp_path / "encoder.pt2").module()(truth.draw(4))
        assert torch.allclose(
            found["mean"].double(), truth.posterior_mean(truth.draw(4)), atol=1e-5
        )
        sd = truth.posterior_variance.sqrt().float()
        assert torch.allclose(found["standard_deviation"], sd.expand(4, 2), atol=1e-5)
        about = json.loads((tmp_path / "export.json").read_text())
        assert about["encoder"]["input"] == ["rows", 5] and about["config"]["latent_size"] == 2

    @pytest.mark.parametrize("posterior", ["iaf", "ladder", "implicit"])
    def test_a_posterior_without_closed_moments_is_refused(
        self, posterior: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="whose moments have no closed form"):
            export(build(VAEConfig((6,), 2, (5,), posterior=posterior)), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_network_that_branches_on_values_is_refused(self, tmp_path: Path) -> None:
        class Branching(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x if x.sum() > 0 else -x

        with pytest.raises(InputError, match=r"encoder's network: got .* one that torch.export"):
            export(build(VAEConfig((6,), 2), encoder=Branching()), tmp_path / "out")

    def test_onnx_without_its_packages_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(InputError, match=r"pip install 'ppl-vae\[onnx\]'"):
            export(build(VAEConfig((6,), 2, (5,))), tmp_path, onnx=True)

    def test_onnx_says_the_same(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
        vae = build(VAEConfig((6,), 2, (5,)), seed=0)
        files = export(vae, tmp_path, onnx=True)
        session = runtime.InferenceSession(str(files["encoder.onnx"]))
        x = torch.rand(5, 6)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        assert torch.allclose(torch.as_tensor(found), vae.encode(x), atol=1e-5)


class TestAsPrior:
    def test_nuts_in_another_model_finds_the_exact_posterior(self) -> None:
        """y = E[x|z] + e, e ~ N(0, I), has the posterior of the linear model of scale 1. Means of
        400 draws within 0.25 standard deviations, about five standard errors.
        """
        truth = linear_gaussian("exact", scale=1.0)
        y, image = truth.draw(1)[0], truth.vae.as_prior("image")

        def model() -> None:
            pyro.sample("y", dist.Normal(image(), 1.0).to_event(1), obs=y)

        pyro.set_rng_seed(0)
        run = MCMC(NUTS(model), 400, warmup_steps=150, disable_progbar=True)
        run.run()
        z = run.get_samples()["image.z"].double()
        sd = truth.posterior_variance.sqrt()
        assert ((z.mean(0) - truth.posterior_mean(y[None])[0]) / sd).abs().max() < 0.25
        assert ((z.std(0) / sd).log()).abs().max() < 0.25

    def test_its_sites_have_its_name_and_x_may_be_one(self) -> None:
        vae = linear_gaussian("exact").vae
        trace = poutine.trace(vae.as_prior("a", noise=True)).get_trace()
        assert {"a.z", "a.x"} <= set(trace.nodes)
        with pyro.plate("images", 3):
            assert vae.as_prior("b")().shape == (3, 5)

    def test_two_of_them_and_hierarchical_priors(self) -> None:
        vae = build(VAEConfig((4,), 2, (5,), prior="two_level"), seed=0)

        def model() -> Tensor:
            return vae.as_prior("a")() + vae.as_prior("b")()

        nodes = poutine.trace(model).get_trace().nodes
        names = {name for name, site in nodes.items() if site["type"] == "sample"}
        assert {name[2:] for name in names if name[0] == "a"} == {
            name[2:] for name in names if name[0] == "b"
        }
        assert len(names) == 4

    def test_nothing_of_it_is_trained_and_the_vae_stays_as_it_was(self) -> None:
        vae = build(VAEConfig((4,), 2, (5,)), seed=0).train()
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        image = vae.as_prior()
        assert not any(p.requires_grad for p in image.parameters()) and not image.train().training
        assert vae.training and all(p.requires_grad for p in vae.parameters())

        def model() -> None:
            pyro.sample("y", dist.Normal(image(), 1.0).to_event(1), obs=torch.ones(4))

        def guide() -> None:
            loc = pyro.param("loc", torch.zeros(2))
            pyro.sample("vae.z", dist.Normal(loc, 1.0).to_event(1))

        svi: Any = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        svi.step()
        assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
        assert set(pyro.get_param_store()) == {"loc"}
