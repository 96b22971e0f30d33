"""`fit` from outside: what it optimises, what it writes down, when it stops, and what it leaves
alone.

Knows `fit` and torch's own optimisers; must not know steps or graphs. Resuming has a file of its
own.
"""

import csv
import math
import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.checkpoint import CHECKPOINT, load
from ppl_vae.checks import InputError
from ppl_vae.datasets import load_data
from ppl_vae.training import fit
from ppl_vae.training.objective import Objective
from ppl_vae.training.schedules import Constrained, Linear
from ppl_vae.training.schedules import schedule as parsed
from tests.examples import PRIORS, pixels, tiny
from tests.truths import probabilistic_pca_optimum


class Strided(torch.nn.Module):
    """p(z) = N(sum of what is read from parameters in ways that give gradients of every layout,
    1).
    """

    def __init__(self, latent_size):
        super().__init__()
        drawn = torch.Generator().manual_seed(3)

        def numbers(*shape):
            return torch.randn(*shape, generator=drawn)

        shapes = {
            "transposed": (3, latent_size),
            "broadcast": (latent_size, 1),
            "expanded": (1, latent_size),
            "summed": (4, latent_size),
            "product": (latent_size, 3),
            "negated": (latent_size, 2),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(numbers(*shape)))
        views = {
            "turned": numbers(3, latent_size).t(),
            "sliced": numbers(latent_size, 6)[:, ::2],
            "repeated": numbers(latent_size, 1).expand(latent_size, 3),
        }
        for name, value in views.items():
            self.register_parameter(name, torch.nn.Parameter(value))
        self.register_buffer("weight", numbers(latent_size, 3))

    def forward(self):
        weight = self.weight
        location = (self.transposed.t() * weight).sum(1) + (self.broadcast * weight).sum(1)
        location = location + (self.expanded.expand(3, -1).t() * weight).sum(1)
        location = location + self.summed.sum(0) + torch.einsum("ij,kj->i", self.product, weight)
        location = location + (self.turned * weight).sum(1) + (self.sliced * weight).sum(1)
        location = location + (self.repeated * weight).sum(1)
        turned = torch.view_as_complex(self.negated).conj().imag
        location = location + 2 * turned
        return pyro.sample("z", dist.Normal(location, 1.0).to_event(1))


class Root(torch.nn.Module):
    """p(z) = N(|a|, 1) as sqrt(a a): at a = 0 a finite value, whose gradient is NaN."""

    def __init__(self, latent_size):
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(latent_size))
        self.b = torch.nn.Parameter(torch.ones(latent_size))

    def forward(self):
        location = (self.a * self.a).sqrt() + self.b
        return pyro.sample("z", dist.Normal(location, 1.0).to_event(1))


def quietly(vae, data, **arguments):
    return fit(vae, data, **{"progress": False, "compile": "off", **arguments})


def same(first, second):
    return all(
        torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items()
    )


def low_rank(num_data=1000):
    """Ten numbers a datum that three latents and noise of 0.5 explain."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(10, 3, generator=generator)).Q * torch.tensor(
        [2.0, 1.5, 1.0]
    )
    z, noise = (
        torch.randn(num_data, 3, generator=generator),
        torch.randn(num_data, 10, generator=generator),
    )
    return z @ basis.T + 0.5 * noise + 1


@torch.no_grad()
def exact_bound(vae, x):
    """E_q log p(x|z) in closed form for a linear decoder and a Gaussian q, less the closed form of
    KL(q || p).
    """
    decoder, q = vae.model.decoder, vae.guide.posterior.distributions(x)["z"]
    at_zero, *at_units = vae.decode(torch.cat([torch.zeros(1, 3), torch.eye(3)])).mean.double()
    bias, weight = at_zero, torch.stack(at_units, -1) - at_zero[:, None]
    scale, mean, variance = (
        decoder.likelihood.log_scale.double().exp(),
        q.mean.double(),
        q.variance.double(),
    )
    at_mean = dist.Normal(mean @ weight.T + bias, scale).log_prob(x.double()).sum(-1)
    spread = (variance @ weight.square().T).sum(-1) / (2 * scale**2)
    kl = 0.5 * (variance + mean.square() - 1 - variance.log()).sum(-1)
    return (at_mean - spread - kl).mean().item()


@pytest.mark.parametrize(
    ("estimator", "start", "unit", "rate"),
    [
        ("A", "zero", 1, 0.1),
        ("B", "zero", 1, 0.1),
        ("B", "data", 1, 0.05),
        ("B", "data", 1e4, 0.05),
    ],
)
def test_a_trained_linear_vae_reaches_the_optimum_of_probabilistic_pca(
    estimator, start, unit, rate
):
    """Within 5e-3 nats per datum, and never above it: both sides are exact, only the training is
    stochastic. What starts from the data does so in any unit.
    """
    x = unit * low_rank()
    linear = {"latent_size": 3, "hidden_sizes": (), "likelihood": "normal_shared"}
    vae = tiny(event_shape=(10,), output_start=start, **linear)
    quietly(
        vae,
        x,
        estimator=estimator,
        epochs=250,
        learning_rate=f"linear:{rate}:0:250",
        compile="record",
    )
    gap = probabilistic_pca_optimum(x, 3) - exact_bound(vae, x)
    assert -1e-6 < gap < 5e-3


class TestWhatIsOptimised:
    @pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
    @pytest.mark.parametrize("penalty", [0.0, 3.0])
    def test_steps_are_those_of_torchs_optimiser_on_the_explicit_penalised_loss(
        self, optimizer, penalty
    ):
        """lambda |theta|^2 / (2 N) written out, full batches, the same noise: maximum a
        posteriori.
        """
        x, steps, rate = pixels(12), 5, 0.02
        ours, theirs = tiny(num_data=12), tiny(num_data=12).train()
        quietly(
            ours,
            x,
            epochs=steps,
            batch_size=12,
            learning_rate=rate,
            optimizer=optimizer,
            weight_penalty=penalty,
        )
        kind = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}[optimizer]
        reference = kind(theirs.parameters(), lr=rate)
        torch.manual_seed(0)
        for epoch in range(steps):
            order = torch.randperm(12, generator=torch.Generator().manual_seed(epoch))
            loss, _ = Objective("B")(theirs.model, theirs.guide, x[order])
            loss = loss + penalty / (2 * 12) * sum(p.square().sum() for p in theirs.parameters())
            reference.zero_grad()
            loss.backward()
            reference.step()
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=2e-5)

    @pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
    @pytest.mark.parametrize("tier", ["off", "record", "inductor", "flat"])
    def test_steps_are_torchs_however_the_program_reads_its_parameters(
        self, optimizer, tier, monkeypatch
    ):
        """Gradients that come transposed, broadcast, expanded, from an einsum, summed or with their
        sign pending, and parameters that are views of other memory: each coordinate moves by its
        own gradient.
        """
        if tier in ("inductor", "flat") and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            pytest.skip("no C++ compiler")
        monkeypatch.setattr("ppl_vae.training.tiers.SMALL", 0 if tier == "inductor" else 50_000)
        ours, theirs = (tiny(Strided, num_data=12) for _ in range(2))
        for p in theirs.parameters():
            p.data = p.data.contiguous()
        x, steps, kinds = pixels(12), 3, {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}
        options = {"epochs": steps, "batch_size": 12, "learning_rate": 0.02, "optimizer": optimizer}
        history = quietly(ours, x, compile="inductor" if tier == "flat" else tier, **options)
        assert history.tier == ("inductor" if tier == "flat" else tier)
        reference = kinds[optimizer](theirs.train().parameters(), lr=0.02)
        torch.manual_seed(0)
        for epoch in range(steps):
            order = torch.randperm(12, generator=torch.Generator().manual_seed(epoch))
            reference.zero_grad()
            Objective("B")(theirs.model, theirs.guide, x[order])[0].backward()
            reference.step()
        for name, value in theirs.state_dict().items():
            found = ours.state_dict()[name]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=2e-5, msg=name)

    def test_the_penalty_moves_parameters_the_loss_does_not_reach(self):
        class Unused(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.spare = torch.nn.Parameter(torch.ones(3))

            def forward(self):
                return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

        vae = tiny(Unused())
        quietly(vae, pixels(20), epochs=2, learning_rate=0.01)
        assert torch.equal(vae.model.prior.spare, torch.ones(3))
        quietly(vae, pixels(20), epochs=2, learning_rate=0.01, weight_penalty=1.0)
        assert (vae.model.prior.spare < 1).all()

    def test_every_datum_is_used_once_an_epoch_the_last_short_minibatch_included(self):
        seen = []
        vae, x = tiny(), pixels(17)
        x[:, 0] = torch.arange(17) / 17
        vae.guide.posterior.encoder.register_forward_hook(
            lambda _, inputs, __: seen.append(inputs[0][:, 0])
        )
        quietly(vae, x, epochs=2, batch_size=5)
        sizes = [len(rows) for rows in seen[1:]]
        assert sizes == [5, 5, 5, 2] * 2
        first, second = torch.cat(seen[1:5]), torch.cat(seen[5:])
        assert torch.equal(first.sort().values, x[:, 0]) and torch.equal(
            second.sort().values, x[:, 0]
        )
        assert not torch.equal(first, second)

    def test_dynamic_binarisation_differs_each_epoch_and_is_reproducible(self):
        def run(seed):
            seen = []
            vae = tiny()
            vae.guide.posterior.encoder.register_forward_hook(
                lambda _, inputs, __: seen.append(inputs[0].clone())
            )
            quietly(
                vae,
                torch.full((8, 6), 0.5),
                epochs=3,
                binarization="dynamic",
                batch_size=8,
                seed=seed,
            )
            return seen[1:]

        first, again, other = run(0), run(0), run(1)
        assert all(set(x.unique().tolist()) == {0.0, 1.0} for x in first)
        assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
        assert all(map(torch.equal, first, again)) and not torch.equal(first[0], other[0])

    def test_bytes_are_pixels_divided_by_255(self):
        x = (pixels(30) * 200).to(torch.uint8)
        as_bytes, as_floats = tiny(), tiny()
        first = quietly(as_bytes, x, validation=x, epochs=2)
        second = quietly(as_floats, x.float() / 255, validation=x.float() / 255, epochs=2)
        assert same(as_bytes, as_floats)
        assert first.rows[-1]["validation_lower_bound"] == second.rows[-1]["validation_lower_bound"]

    def test_data_in_double_precision_train_a_model_in_single(self):
        first, second = tiny(), tiny()
        quietly(first, pixels(30), validation=pixels(10), epochs=2)
        quietly(second, pixels(30).double(), validation=pixels(10).double(), epochs=2)
        assert same(first, second) and torch.equal(
            first.encode(pixels(3)), second.encode(pixels(3).double())
        )

    def test_schedules_reach_the_loss(self):
        """KL warm-up: while the weight is near 0 the KL grows; a heavy weight crushes it."""
        x, kl = pixels(40), {}
        for weight in (0.0, "linear:0:20:20"):
            history = quietly(
                tiny(), x, epochs=60, kl_weight=weight, learning_rate=0.02, compile="record"
            )
            kl[weight] = history.rows[-1]["kl.z"]
        assert kl[0.0] > 1.0 and kl["linear:0:20:20"] < 0.05

    def test_a_function_of_the_epoch_is_a_schedule_given_fractions_of_epochs(self):
        asked = []

        def rate(epoch):
            asked.append(epoch)
            return 0.01

        quietly(tiny(), pixels(20), epochs=2, batch_size=5, learning_rate=rate)
        assert set(asked) >= {0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75}


class TestHistory:
    def test_it_has_one_row_an_epoch_with_every_column_and_a_file_that_says_the_same(
        self, tmp_path
    ):
        x, folder = pixels(30), tmp_path / "run"
        history = quietly(
            tiny(PRIORS["scale_then_z"]), x, validation=x, epochs=3, batch_size=8, checkpoint=folder
        )
        terms = ["lower_bound", "reconstruction", "kl.scale", "kl.z"]
        names = {
            "epoch",
            "samples",
            "kl_weight",
            "weight_kl_weight",
            "learning_rate",
            "seconds",
            *terms,
        }
        assert names | {f"validation_{name}" for name in terms} <= set(history.rows[0])
        assert [row["epoch"] for row in history.rows] == [1, 2, 3]
        assert [row["samples"] for row in history.rows] == [30, 60, 90]
        for row in history.rows:
            expected = row["reconstruction"] - row["kl.scale"] - row["kl.z"]
            assert row["lower_bound"] == pytest.approx(expected, rel=1e-5)
        assert history.kl_kinds == {"scale": "analytic", "z": "analytic"}
        with open(folder / "history.csv") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["lower_bound"]) for row in rows] == [
            row["lower_bound"] for row in history.rows
        ]

    def test_means_weigh_a_short_minibatch_by_its_rows(self):
        """With a rate of 0 the epoch's reconstruction under a point posterior is the mean over all
        data.
        """
        x = pixels(7)
        from ppl_vae.vae import VAEConfig, build

        vae = build(VAEConfig((6,), 2, (5,), posterior="point"), seed=0)
        row = quietly(vae, x, epochs=1, batch_size=5, learning_rate=0.0).rows[0]
        mean = vae.reconstruct(x)
        expected = (x * mean.log() + (1 - x) * (1 - mean).log()).sum(-1).mean().item()
        assert row["reconstruction"] == pytest.approx(expected, rel=1e-5)

    def test_validation_uses_the_same_noise_at_every_epoch_and_does_not_change_the_run(self):
        x = pixels(30)
        still = quietly(tiny(), x, validation=x, epochs=3, learning_rate=0.0)
        assert len({row["validation_lower_bound"] for row in still.rows}) == 1
        with_it, without = (
            tiny(event_shape=(8, 8), network="conv"),
            tiny(event_shape=(8, 8), network="conv"),
        )
        images = pixels(30, (8, 8))
        quietly(with_it, images, validation=images, epochs=3)
        quietly(without, images, epochs=3)
        assert same(with_it, without)


class TestStopping:
    @pytest.mark.parametrize("tier", ["off", "record"])
    def test_a_loss_that_is_not_finite_names_step_terms_and_checkpoint(self, tmp_path, tier):
        """Data of 1e15 in units of 1e-6 overflow the squared error; parameters stay as they were
        before that batch.
        """
        x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        x[35] = 1e15
        order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
        batch = order.tolist().index(35) // 5 + 1
        vae = tiny(likelihood="normal_shared", likelihood_options={"initial_scale": 1e-6})
        with pytest.raises(FloatingPointError) as error:
            quietly(vae, x, epochs=2, batch_size=5, checkpoint=tmp_path / "run", compile=tier)
        message = str(error.value)
        assert (
            f"epoch 1, batch {batch}:" in message
            and "reconstruction -inf" in message
            and "kl.z" in message
        )
        assert "last good checkpoint: none" in message and "\n" not in message
        assert all(torch.isfinite(p).all() for p in vae.parameters())

    @pytest.mark.parametrize("tier", ["off", "record", "inductor", "flat"])
    def test_a_gradient_that_is_not_finite_is_not_taken(self, tmp_path, tier, monkeypatch):
        """At the second step, whose parameter starts at 0 again; under a finite loss."""
        if tier in ("inductor", "flat") and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            pytest.skip("no C++ compiler")
        monkeypatch.setattr("ppl_vae.training.tiers.SMALL", 0 if tier == "inductor" else 50_000)
        vae = tiny(Root)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        compile = "inductor" if tier == "flat" else tier
        with pytest.raises(FloatingPointError, match="gradient not finite at epoch 1, batch 1: lo"):
            quietly(vae, pixels(25), batch_size=5, compile=compile, checkpoint=tmp_path / "run")
        assert all(torch.equal(value, vae.state_dict()[n]) for n, value in before.items())
        assert not list((tmp_path / "run").glob("checkpoint*"))

    @pytest.mark.parametrize("tier", ["off", "record"])
    def test_a_gradient_whose_square_overflows_is_not_taken(self, tier):
        """It would be infinite in Adam's second moment ever after."""

        def steep(latent_size):
            a = pyro.param("a", torch.zeros(latent_size))
            return pyro.sample("z", dist.Normal(1e25 * a, 1e-6).to_event(1))

        vae = tiny(steep)
        with pytest.raises(FloatingPointError, match="gradient not finite"):
            quietly(vae, pixels(5), epochs=1, compile=tier)
        assert all((p == 0).all() for name, p in vae.named_parameters() if name.endswith(".a"))

    @pytest.mark.parametrize("tier", ["off", "record"])
    @pytest.mark.parametrize("batch", [1, 2, 3])
    def test_a_rate_that_overflows_leaves_the_last_checkpoint(self, tmp_path, tier, batch):
        def rate(epoch):
            return 1e39 if epoch >= 1 + (batch - 1) / 3 - 1e-6 else 1e-3

        vae, folder = tiny(), tmp_path / "run"
        options = {"epochs": 2, "batch_size": 10, "compile": tier}
        with pytest.raises(FloatingPointError, match=f"1e[+]39 at epoch 2, batch {batch};.*safet"):
            quietly(vae, pixels(30), checkpoint=folder, learning_rate=rate, **options)
        expected = tiny()
        quietly(expected, pixels(30), **{**options, "epochs": 1})
        assert same(load(folder), expected)
        assert all(p.isfinite().all() for p in vae.parameters())

    def test_a_buffer_of_infinities_is_no_fault(self, tmp_path):
        vae = tiny()
        vae.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        quietly(vae, pixels(10), epochs=1, checkpoint=tmp_path)
        assert (tmp_path / CHECKPOINT).exists()

    def test_it_names_the_last_good_checkpoint(self, tmp_path):
        class Failing(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.calls = 0

            def forward(self):
                self.calls += 1
                scale = math.nan if self.calls > 5 else 1.0
                return pyro.sample(
                    "z", dist.Normal(torch.zeros(2), scale, validate_args=False).to_event(1)
                )

        vae = tiny(Failing())
        vae.model.prior.calls = 0  # whatever it took to build
        with pytest.raises(
            FloatingPointError, match=r"epoch [2-9], .*checkpoint: .*checkpoint\.safetensors"
        ):
            quietly(vae, pixels(10), epochs=9, checkpoint=tmp_path / "run")

    def test_early_stopping_puts_the_best_epoch_back(self):
        """A rate that ruins the fit from epoch 4 on: the VAE ends with the parameters of its best
        epoch.
        """
        x, valid = pixels(40), pixels(40, seed=1)

        def rate(epoch):
            return 0.003 if epoch < 3 else 3.0

        vae, reference = tiny(), tiny()
        history = quietly(vae, x, validation=valid, early_stopping=2, epochs=50, learning_rate=rate)
        bounds = [row["validation_lower_bound"] for row in history.rows]
        assert history.best_epoch == bounds.index(max(bounds)) + 1 == 3
        assert len(bounds) == 5 and history.stopped
        quietly(reference, x, epochs=history.best_epoch, learning_rate=rate)
        assert same(vae, reference) and not vae.training


class TestHowItIsCalled:
    @pytest.mark.parametrize("tier", ["off", "record"])
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_without_gradients_around_it_trains_alike(self, mode, tier):
        inside, outside, x = tiny(), tiny(), pixels(30)
        quietly(outside, x, epochs=2, compile=tier)
        with mode():
            quietly(inside, x, epochs=2, compile=tier)
            assert not torch.is_grad_enabled()
        assert same(inside, outside)

    def test_without_a_standard_error_it_trains(self, monkeypatch):
        monkeypatch.setattr("sys.stderr", None)
        assert len(quietly(tiny(), pixels(10), epochs=1, progress=True).rows) == 1

    @pytest.mark.parametrize("binarization", ["none", "dynamic"])
    def test_a_data_set_brings_its_parts_and_its_binarization(self, binarization):
        data = load_data("digits", binarization=binarization)
        whole, parts = (tiny(event_shape=data.event_shape) for _ in range(2))
        found = quietly(whole, data, epochs=1)
        expected = quietly(
            parts, data.train, validation=data.validation, binarization=binarization, epochs=1
        )
        assert same(whole, parts)
        name = "validation_lower_bound"
        assert found.rows[0][name] == expected.rows[0][name]

    def test_a_validation_bound_that_is_never_finite_is_named(self):
        class Evaluated(torch.nn.Module):
            def forward(self):
                scale = 1.0 if self.training else math.inf
                z = dist.Normal(torch.zeros(2), scale, validate_args=False)
                return pyro.sample("z", z.to_event(1))

        vae, x = tiny(Evaluated()), pixels(10)
        with pytest.raises(FloatingPointError, match="validation bound -inf, not finite in any of"):
            quietly(vae, x, validation=x, early_stopping=2, epochs=9)


class TestWhatIsLeftAlone:
    def test_a_seed_fixes_the_run_and_the_global_generator_does_not_matter(self):
        vaes = [tiny() for _ in range(3)]
        for i, (vae, seed) in enumerate(zip(vaes, (3, 3, 4))):
            torch.manual_seed(100 + i)
            state = torch.get_rng_state()
            quietly(vae, pixels(30), epochs=2, seed=seed)
            assert torch.equal(torch.get_rng_state(), state)
        assert same(vaes[0], vaes[1]) and not same(vaes[0], vaes[2])

    def test_parameter_store_and_modes(self):
        vae = tiny()
        quietly(vae, pixels(30), epochs=1)
        assert len(pyro.get_param_store()) == 0
        assert not any(m.training for m in vae.modules()) and vae.num_data == 30

    def test_frozen_parameters_stay_and_have_no_state(self):
        vae = tiny()
        vae.model.decoder.requires_grad_(False)
        before = {n: p.clone() for n, p in vae.named_parameters()}
        quietly(vae, pixels(30), epochs=2, compile="record")
        moved = {
            n.split(".")[0] for n, p in vae.named_parameters() if not torch.equal(p, before[n])
        }
        assert moved == {"guide"}


def test_grey_held_out_pixels_are_binarised_once_and_the_same_in_every_run():
    """Its bounds are those of the binary pixels drawn by hand, at another seed of the run, too."""
    grey = torch.rand(20, 6, generator=torch.Generator().manual_seed(3))
    binary = torch.bernoulli(grey, generator=torch.Generator().manual_seed(0))
    for seed in (0, 1):
        options = {"binarization": "dynamic", "epochs": 3, "seed": seed}
        first, second = (
            quietly(tiny(), pixels(20), validation=x, **options) for x in (grey, binary)
        )
        bounds = [
            [row["validation_lower_bound"] for row in history.rows] for history in (first, second)
        ]
        assert bounds[0] == bounds[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs: got 0, expected an integer >= 1"),
        ({"batch_size": 2.5}, "batch_size: got 2.5"),
        ({"learning_rate": -1.0}, "learning_rate: got -1.0, expected a finite number >= 0"),
        ({"learning_rate": "linear:1:2"}, "for example linear:0:1:10"),
        ({"kl_weight": "warm"}, "kl_weight: got 'warm'"),
        ({"optimizer": "adem"}, "did you mean 'adam'?"),
        ({"compile": "jit"}, "compile: got 'jit'"),
        ({"estimator": "b"}, "estimator: got 'b'"),
        ({"early_stopping": 2}, "pass validation=..."),
        ({"binarization": "dynamc"}, "did you mean 'dynamic'?"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 10**20}, "seed: got 1000"),
        ({"resume": True}, "resume: got True, expected checkpoint="),
        (
            {"binarization": "dynamic", "validation": torch.full((3, 6), 1.5)},
            "validation for likelihood 'bernoulli'",
        ),
        (
            {"corruption": "masking", "corruption_level": 2},
            "corruption_level: got 2, expected a finite number",
        ),
        (
            {"corruption": "masking", "corruption_level": "linear:0:2:3"},
            "corruption_level: got 2.0",
        ),
        (
            {"corruption": "masking", "corruption_level": lambda epoch: 2.0},
            "corruption_level at epoch 0: got 2.0",
        ),
        ({"learning_rate": lambda epoch: math.nan}, "learning_rate: got nan"),
        ({"weight_penalty": math.nan}, "weight_penalty: got nan"),
        ({"checkpoint_every": 0}, "checkpoint_every: got 0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(InputError) as error:
        quietly(tiny(), pixels(20), **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "fields", "arguments", "message"),
    [
        (torch.rand(5, 7), {}, {}, "data's shape: got (5, 7), expected (N, 6)"),
        (torch.rand(6), {}, {}, "x[None] for a single datum"),
        (torch.rand(0, 6), {}, {}, "number of rows"),
        (torch.full((5, 6), math.nan), {}, {}, "NaN or infinite values from row 0 on"),
        (torch.full((5, 6), 1.5), {}, {}, "values outside [0, 1]"),
        (torch.ones(5, 6).long(), {}, {}, "use x.float()"),
        ([[1.0] * 6], {}, {}, "expected a torch.Tensor"),
        (
            torch.full((5, 6), 1.5),
            {"likelihood": "normal_unit"},
            {"binarization": "dynamic"},
            "values outside [0, 1]",
        ),
    ],
)
def test_bad_data_are_refused_in_one_line(x, fields, arguments, message):
    with pytest.raises(InputError) as error:
        quietly(tiny(**fields), x, **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


class TestDevice:
    def test_the_vae_is_back_where_it_was(self):
        vae = tiny()
        fit(vae, pixels(20, vae.config.event_shape), epochs=1, progress=False, device="cpu")
        assert {p.device.type for p in vae.parameters()} == {"cpu"}

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
    @pytest.mark.parametrize("device", ["cuda", "nonsense"])
    def test_a_device_that_is_not_there_is_refused_in_one_line(self, device):
        vae = tiny()
        with pytest.raises(InputError, match="device: got '?" + device) as error:
            fit(vae, pixels(20, vae.config.event_shape), epochs=1, progress=False, device=device)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("value", [float("nan"), -1.0])
    def test_a_schedule_that_leaves_its_range_is_named_with_its_epoch(self, value):
        vae = tiny()
        with pytest.raises(
            InputError, match=r"kl_weight at epoch 1: got .*, expected a finite number >= 0"
        ):
            fit(
                vae,
                pixels(20, vae.config.event_shape),
                batch_size=20,
                epochs=3,
                progress=False,
                kl_weight=lambda epoch: 1.0 if epoch < 1 else value,
            )


@pytest.mark.parametrize(
    "schedule", [Linear(0.1234567890123, 1 / 3, 10), Constrained("kl", 20.123456789)]
)
def test_a_schedules_text_is_the_schedule_and_no_other(schedule):
    again = parsed("kl_weight", str(schedule))
    assert str(again) == str(schedule) and vars(again) == vars(schedule)


def test_bfloat16_without_products_for_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    fit(tiny(), pixels(20), epochs=1, precision="bfloat16", progress=False)
    assert [r.getMessage() for r in caplog.records if "bfloat16" in r.getMessage()] != []
    caplog.clear()
    fit(tiny(), pixels(20), epochs=1, progress=False)
    assert "bfloat16" not in caplog.text
