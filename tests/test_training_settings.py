"""Options of the optimiser, rates by stages, clipped gradients, averaged parameters, training on
all data: each against torch's own functions or what is written out.

Knows the package's face and how a run draws its batches and noise.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ppl_vae import VAE, InputError, VAEConfig, build, fit, load, load_data, lower_bound
from ppl_vae.cli import main
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.training import Stages
from ppl_vae.training.objective import Objective
from ppl_vae.training.schedules import schedule

QUIET = {"batch_size": 20, "progress": False}
TIERS = ["off", "record"]
ADAM = {"betas": (0.7, 0.95), "eps": 1e-3}


def small() -> VAE:
    return build(VAEConfig((6,), 2, (5,)), seed=0)


def pixels(num_data: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num_data, 6, generator=generator).round()


def by_hand(
    optimizer: Any,
    epochs: int,
    max_norm: float | None = None,
    average: Any = None,
    batch_size: int = 20,
) -> VAE:
    """Twenty data through torch's own functions, with the batches and the noise of `fit`."""
    vae, x = small().train(), pixels(20)
    vae.num_data = 20
    chosen = optimizer(list(vae.parameters()))
    averages = None if average is None else AveragedModel(vae, multi_avg_fn=average)
    torch.manual_seed(0)
    orders = [
        torch.randperm(20, generator=torch.Generator().manual_seed(epoch))
        for epoch in range(epochs)
    ]
    for rows in torch.cat(orders).split(batch_size):
        chosen.zero_grad()
        with local_parameters():
            loss, _ = Objective("B")(vae.model, vae.guide, x[rows])
            loss.backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(vae.parameters(), max_norm)
        chosen.step()
        if averages is not None:
            averages.update_parameters(vae)
    return vae if averages is None else averages.module


def assert_close(ours: VAE, theirs: VAE, tolerance: float = 2e-6) -> None:
    for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=tolerance, msg=name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler warns of its own parts
def test_a_compiled_step_takes_all_of_them() -> None:
    """Several steps a call, with a gradient clipped and averages kept inside the graph."""
    ours, given = small(), {"batch_size": 4, "epochs": 3, "progress": False, "compile": "inductor"}
    given |= {"max_gradient_norm": 0.5, "parameter_average": 0.8, "optimizer_options": ADAM}
    history = fit(ours, pixels(20), learning_rate=0.02, **given)
    if history.tier != "inductor":
        pytest.skip("no working compiler")
    adam = functools.partial(torch.optim.Adam, lr=0.02, **ADAM)
    average = get_ema_multi_avg_fn(0.8)
    assert_close(ours, by_hand(adam, 3, 0.5, average, batch_size=4), 2e-4)
    assert not torch.allclose(
        next(ours.parameters()), next(by_hand(adam, 3, None, average, 4).parameters()), atol=1e-3
    )


class TestOptimizerOptions:
    @pytest.mark.parametrize("tier", TIERS)
    @pytest.mark.parametrize(
        ("name", "kind", "options"),
        [("adam", torch.optim.Adam, ADAM), ("adagrad", torch.optim.Adagrad, {"eps": 0.1})],
    )
    def test_they_are_torchs(self, name: str, kind: Any, options: dict, tier: str) -> None:
        ours, plain = small(), small()
        given = {"epochs": 5, "compile": tier, "optimizer": name, "learning_rate": 0.01, **QUIET}
        fit(ours, pixels(20), optimizer_options=options, **given)
        assert_close(ours, by_hand(functools.partial(kind, lr=0.01, **options), 5))
        fit(plain, pixels(20), **given)
        assert not torch.allclose(next(ours.parameters()), next(plain.parameters()), atol=1e-4)

    def test_of_a_class_of_torch(self) -> None:
        ours, theirs = small(), small()
        options = {"momentum": 0.9, "nesterov": True}
        given = {"epochs": 2, "compile": "off", **QUIET}
        fit(ours, pixels(), optimizer=torch.optim.SGD, optimizer_options=options, **given)
        fit(theirs, pixels(), optimizer=functools.partial(torch.optim.SGD, **options), **given)
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"beta": 0.9}, "did you mean 'betas'"),
            ({"betas": 0.9}, "two numbers"),
            ({"betas": (0.9, 1.0)}, "numbers below 1"),
            ({"eps": -1.0}, "a finite number >= 0"),
        ],
    )
    def test_what_it_has_not_is_refused(self, options: dict, words: str) -> None:
        with pytest.raises(InputError, match=words):
            fit(small(), pixels(), optimizer_options=options, **QUIET)

    def test_a_resumed_run_has_to_have_them(self, tmp_path: Path) -> None:
        vae, given = small(), {"compile": "off", "checkpoint": tmp_path / "run", **QUIET}
        fit(vae, pixels(), epochs=1, optimizer_options=ADAM, **given)
        with pytest.raises(InputError, match="optimizer_options"):
            fit(load(tmp_path / "run"), pixels(), epochs=2, resume=True, **given)
        again = load(tmp_path / "run")
        lists = {name: list(v) if name == "betas" else v for name, v in ADAM.items()}
        fit(again, pixels(), epochs=2, resume=True, optimizer_options=lists, **given)
        whole = small()
        fit(whole, pixels(), epochs=2, compile="off", optimizer_options=ADAM, **QUIET)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))


class TestStages:
    def test_values(self) -> None:
        for stages in (Stages((1e-3, 1e-4, 0.0), (2, 5)), schedule("x", "stages:1e-3:2:1e-4:5:0")):
            values = [stages(epoch) for epoch in (0.0, 1.99, 2.0, 4.9, 5.0, 100.0)]
            assert values == [1e-3, 1e-3, 1e-4, 1e-4, 0.0, 0.0]
            assert str(stages) == "stages:0.001:2:0.0001:5:0.0"
            assert schedule("x", str(stages)) == stages

    def test_a_run_takes_them(self) -> None:
        vae = small()
        rate = "stages:0.01:1:0"
        first = fit(small(), pixels(), epochs=1, compile="off", learning_rate=0.01, **QUIET)
        history = fit(vae, pixels(), epochs=3, compile="off", learning_rate=rate, **QUIET)
        assert history.rows[0]["lower_bound"] == first.rows[0]["lower_bound"]
        one = small()
        fit(one, pixels(), epochs=1, compile="off", learning_rate=0.01, **QUIET)
        assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), one.parameters()))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("stages:1:2", "stages:value:epoch:value"),
            ("stages:1:2:0.1:2:0.01", "a finite number > 2"),
            ("stages:1:0:2", "a finite number > 0"),
            ("stages:-1:2:1", "a finite number >= 0"),
        ],
    )
    def test_what_is_none_is_refused(self, text: str, words: str) -> None:
        with pytest.raises(InputError, match=words):
            schedule("learning_rate", text)


class TestClippedGradients:
    @pytest.mark.parametrize("tier", TIERS)
    @pytest.mark.parametrize("max_norm", [0.05, 1e6])
    def test_it_is_torchs(self, tier: str, max_norm: float) -> None:
        ours = small()
        given = {"epochs": 5, "compile": tier, "optimizer": "adagrad", "learning_rate": 0.1}
        options = {"eps": 0.1}
        fit(
            ours,
            pixels(20),
            max_gradient_norm=max_norm,
            optimizer_options=options,
            **given,
            **QUIET,
        )
        adagrad = functools.partial(torch.optim.Adagrad, lr=0.1, eps=0.1)
        assert_close(ours, by_hand(adagrad, 5, max_norm))

    def test_a_step_of_gradient_descent_is_no_longer_than_the_norm(self) -> None:
        vae = small()
        before = torch.cat([p.detach().reshape(-1).clone() for p in vae.parameters()])
        given = {"epochs": 1, "learning_rate": 1.0, "optimizer": torch.optim.SGD, **QUIET}
        fit(vae, pixels(20), max_gradient_norm=1e-3, compile="off", **given)
        moved = torch.cat([p.detach().reshape(-1) for p in vae.parameters()]) - before
        assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)

    @pytest.mark.parametrize("value", [0.0, -1.0, "1"])
    def test_what_is_no_norm_is_refused(self, value: object) -> None:
        with pytest.raises(InputError, match="max_gradient_norm"):
            fit(small(), pixels(), max_gradient_norm=value, **QUIET)


class TestAveragedParameters:
    @pytest.mark.parametrize("tier", TIERS)
    def test_they_are_torchs(self, tier: str) -> None:
        """`AveragedModel` with an exponential moving average of the same decay."""
        ours = small()
        given = {"epochs": 10, "compile": tier, "learning_rate": 0.05, **QUIET}
        fit(ours, pixels(20), parameter_average=0.8, **given)
        adam = functools.partial(torch.optim.Adam, lr=0.05)
        theirs = by_hand(adam, 10, average=get_ema_multi_avg_fn(0.8))
        assert_close(ours, theirs)
        assert not torch.allclose(
            next(ours.parameters()), next(by_hand(adam, 10).parameters()), atol=1e-3
        )

    def test_of_a_class_of_torch(self) -> None:
        ours = small()
        given = {"epochs": 6, "compile": "record", "learning_rate": 0.05, **QUIET}
        fit(ours, pixels(20), parameter_average=0.8, optimizer=torch.optim.AdamW, **given)
        adam = functools.partial(torch.optim.AdamW, lr=0.05)
        assert_close(ours, by_hand(adam, 6, average=get_ema_multi_avg_fn(0.8)))

    @pytest.mark.parametrize("optimizer", ["adam", torch.optim.AdamW])
    def test_a_resumed_run_is_the_whole_one_to_the_bit(
        self, optimizer: Any, tmp_path: Path
    ) -> None:
        given = {"parameter_average": 0.9, "optimizer": optimizer, "compile": "off", **QUIET}
        whole, part = small(), small()
        fit(whole, pixels(), epochs=4, **given)
        fit(part, pixels(), epochs=2, checkpoint=tmp_path / "run", **given)
        again = load(tmp_path / "run")
        assert all(torch.equal(a, b) for a, b in zip(part.parameters(), again.parameters()))
        run = {"epochs": 4, "checkpoint": tmp_path / "run", "resume": True}
        fit(again, pixels(), **run, **given)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))

    def test_held_out_data_are_judged_by_them(self) -> None:
        """A decay near 1 leaves them at the first step's parameters, while those of the run go on;
        without them the validation bound would move.
        """
        held_out, rows = pixels(200), {}
        for decay in (None, 1 - 1e-9):
            given = {"epochs": 10, "compile": "off", "learning_rate": 0.02, **QUIET}
            history = fit(
                small(), pixels(20), validation=held_out, parameter_average=decay, **given
            )
            rows[decay] = [row["validation_lower_bound"] for row in history.rows]
        assert max(rows[1 - 1e-9]) - min(rows[1 - 1e-9]) < 1e-4
        assert rows[None][-1] - rows[None][0] > 0.05

    def test_early_stopping_keeps_them(self, tmp_path: Path) -> None:
        vae, x = small(), pixels()
        given = {"epochs": 6, "compile": "off", "early_stopping": 5, "learning_rate": 0.02, **QUIET}
        history = fit(
            vae, x, validation=x, parameter_average=0.5, checkpoint=tmp_path / "run", **given
        )
        best = max(row["validation_lower_bound"] for row in history.rows)
        torch.manual_seed(0)
        found = lower_bound(vae, x, seed=0).mean().item()
        assert found == pytest.approx(best, abs=1e-3)
        again = load(tmp_path / "run")
        assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), again.parameters()))

    @pytest.mark.parametrize("value", [0.0, 1.0, 1.5])
    def test_what_is_no_decay_is_refused(self, value: float) -> None:
        with pytest.raises(InputError, match="parameter_average"):
            fit(small(), pixels(), parameter_average=value, **QUIET)


class TestAllData:
    def test_it_is_training_on_both_parts(self) -> None:
        data = load_data("digits", binarization="dynamic")
        fitted = []
        for x, more in (
            (data, {"all_data": True}),
            (torch.cat([data.train, data.validation]), {"binarization": "dynamic"}),
        ):
            vae = build(VAEConfig((8, 8), 2, (5,)), seed=0)
            history = fit(vae, x, epochs=1, batch_size=100, compile="off", progress=False, **more)
            assert "validation_lower_bound" not in history.rows[0] and vae.num_data == 1547
            fitted.append(list(vae.parameters()))
        assert all(torch.equal(a, b) for a, b in zip(*fitted, strict=True))

    def test_nothing_to_join_or_to_stop_by_is_refused(self) -> None:
        with pytest.raises(InputError, match="held-out data to train on"):
            fit(small(), pixels(), all_data=True, **QUIET)
        given = {"validation": pixels(), "early_stopping": 2}
        with pytest.raises(InputError, match="leave one of them out"):
            fit(small(), pixels(), all_data=True, **given, **QUIET)


def test_the_command_line_takes_them(tmp_path: Path) -> None:
    words = f"""train --data digits --binarization static --out {tmp_path / "run"} --epochs 1
        --latent-size 2 --hidden-sizes 5 --no-progress --optimizer.betas 0.9,0.95
        --optimizer.eps 1e-6 --learning-rate stages:0.001:1:0.0001 --max-gradient-norm 5
        --parameter-average 0.99 --all-data"""
    assert main(words.split()) == 0
    assert load(tmp_path / "run").num_data == 1547
    assert main(f"train --resume {tmp_path / 'run'} --epochs 2 --no-progress".split()) == 0
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert len(rows) == 3 and ",0.0001," in rows[2]
