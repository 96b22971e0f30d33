"""Files that come back as they were, damaged or hostile ones that are refused, and user code run
only where trusted.

Knows `checkpoint.py` and the safetensors format; must not know how a run goes on.
"""

import copy
import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import pickle
import py_compile
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ppl_vae.checkpoint import (
    CHECKPOINT,
    config_from_json,
    load,
    read_tensors,
    run_lock,
    save,
    write_tensors,
)
from ppl_vae.checks import InputError
from ppl_vae.files import atomic_write
from ppl_vae.parts import trust
from ppl_vae.training import fit
from ppl_vae.vae import VAEConfig, build
from tests.examples import PRIORS, pixels, tiny

RING = """
import pathlib
import pyro, torch, pyro.distributions as dist

pathlib.Path({marker!r}).touch()


class Ring(torch.nn.Module):
    def __init__(self, latent_size, width=0.3):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((latent_size,), width))

    def forward(self):
        radius = pyro.sample("radius", dist.LogNormal(0.0, 0.2))
        loc = radius[..., None] * torch.ones_like(self.scale)
        return pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))
"""


@pytest.fixture(autouse=True)
def trust_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trust" / "code.json"))


@pytest.fixture
def ring(tmp_path):
    """A user's file that leaves a mark when its code is run, and a VAE trained with it."""
    path, marker = tmp_path / "ring.py", tmp_path / "code-was-run"
    path.write_text(RING.format(marker=str(marker)))
    vae = build(VAEConfig((6,), 2, (5,), prior=f"{path}:Ring"), seed=0).eval()
    save(vae, tmp_path / "ring.safetensors")
    marker.unlink()
    for name in [n for n in sys.modules if n.startswith("ppl_vae_user_ring")]:
        del sys.modules[name]
    return tmp_path / "ring.safetensors", path, marker


def refused(*arguments, **options):
    with pytest.raises(InputError) as error:
        load(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["ppl_vae"])


def rewritten(path, **changes):
    """The same tensors under a changed header, as somebody else's program could write it."""
    tensors, header = read_tensors(path)
    for key, value in changes.items():
        header[key] = {**header[key], **value} if isinstance(value, dict) else value
    save_file(tensors, path, metadata={"ppl_vae": json.dumps(header)})
    return path


class TestRoundTrip:
    @pytest.mark.parametrize(
        "fields", [{}, {"event_shape": (8, 8), "network": "conv"}, {"likelihood": "normal_optimal"}]
    )
    def test_parameters_buffers_configuration_and_mode(self, tmp_path, fields):
        vae = tiny(num_data=40, **fields).train()
        x = pixels(10, vae.config.event_shape)
        fit(vae, x, epochs=2, progress=False)
        save(vae, tmp_path / "vae")
        again = load(tmp_path / "vae")
        assert again.config == vae.config and again.num_data == vae.num_data
        assert not any(m.training for m in again.modules())
        assert all(
            torch.equal(value, again.state_dict()[n]) for n, value in vae.state_dict().items()
        )
        torch.testing.assert_close(again.encode(x), vae.encode(x))

    def test_double_precision_stays_double(self, tmp_path):
        vae = tiny().double()
        save(vae, tmp_path / "vae")
        assert {p.dtype for p in load(tmp_path / "vae").parameters()} == {torch.float64}

    def test_loading_leaves_the_global_generator_alone(self, tmp_path):
        save(tiny(), tmp_path / "vae")
        state = torch.get_rng_state()
        load(tmp_path / "vae")
        assert torch.equal(torch.get_rng_state(), state)

    def test_an_object_without_a_reference_has_to_be_given_again(self, tmp_path):
        prior = lambda: PRIORS["laplace"](2)  # noqa: E731
        vae = tiny(prior)
        save(vae, tmp_path / "vae")
        assert "pass prior=..." in refused(tmp_path / "vae")
        assert torch.equal(
            load(tmp_path / "vae", prior=prior).encode(pixels(3)), vae.encode(pixels(3))
        )

    def test_a_run_folder_gives_its_best_epoch(self, tmp_path):
        vae = tiny()
        fit(
            vae,
            pixels(30),
            validation=pixels(30, seed=1),
            early_stopping=2,
            epochs=30,
            learning_rate=0.3,
            checkpoint=tmp_path / "run",
            progress=False,
        )
        again = load(tmp_path / "run")
        assert all(
            torch.equal(value, again.state_dict()[n]) for n, value in vae.state_dict().items()
        )

    def test_other_tensors_than_the_configuration_has_are_refused(self, tmp_path):
        save(tiny(), tmp_path / "vae")
        assert "other tensors" in refused(rewritten(tmp_path / "vae", config={"hidden_sizes": [4]}))


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path):
        save(tiny(), tmp_path / "vae")
        return tmp_path / "vae"

    @pytest.mark.parametrize("keep", [0, 4, 100, -1])
    def test_a_truncated_file(self, path, keep):
        path.write_bytes(path.read_bytes()[:keep])
        assert "whole safetensors file" in refused(path)

    @pytest.mark.parametrize("place", [-1, -200, "header"])
    def test_a_flipped_bit(self, path, place):
        data = bytearray(path.read_bytes())
        data[data.index(b"sha256") + 12 if place == "header" else place] ^= 4
        path.write_bytes(data)
        assert refused(path)

    def test_tensors_exchanged_for_others(self, path):
        tensors, header = read_tensors(path)
        tensors["guide.posterior.heads.bias"] += 1
        save_file(tensors, path, metadata={"ppl_vae": json.dumps(header)})
        assert "do not match their checksum" in refused(path)

    def test_numbers_that_are_none_are_neither_saved_nor_loaded(self, path):
        vae = tiny()
        with torch.no_grad():
            next(vae.parameters())[0] = torch.nan
        with pytest.raises(InputError, match=r"NaN in model\.decoder"):
            save(vae, path)
        _, header = read_tensors(path)
        write_tensors(path, vae.state_dict(), header)
        assert "NaN in model.decoder" in refused(path)

    @pytest.mark.parametrize(
        "dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn, torch.float64]
    )
    @pytest.mark.parametrize("every", [True, False])
    def test_tensors_of_another_kind_are_not_cast_without_a_word(self, path, dtype, every):
        tensors, header = read_tensors(path)
        for name in list(tensors)[: None if every else 1]:
            tensors[name] = tensors[name].to(dtype)
        write_tensors(path, tensors, header)
        if every and dtype == torch.float64:
            assert {p.dtype for p in load(path).parameters()} == {dtype}
        else:
            assert str(dtype) in refused(path)

    @pytest.mark.parametrize(
        "fields",
        [
            {"latent_size": 10**9},
            {"hidden_sizes": [10**9]},
            {"hidden_sizes": [10**5] * 9},
            {"event_shape": [10**9]},
            {"prior": "gaussian_mixture", "prior_options": {"components": 10**9}},
            {"posterior": "full_normal", "latent_size": 10**6},
        ],
    )
    def test_sizes_are_not_believed_before_the_tensors(self, path, fields):
        """Nothing of that size is made: the process's memory grows by less than 200 MB."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert "larger than its tensors" in refused(rewritten(path, config=fields))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB

    @pytest.mark.parametrize("depth", [100, 5000, 200_000])
    def test_a_header_nested_deep(self, path, depth):
        tensors, header = read_tensors(path)
        header["config"]["prior_options"] = "HERE"
        text = json.dumps(header).replace('"HERE"', '{"a":' * depth + "1" + "}" * depth)
        save_file(tensors, path, metadata={"ppl_vae": text})
        assert "nested too deep" in refused(path)

    def test_a_path_with_nul(self):
        for name in ("a\0b", Path("a\0b")):
            assert "NUL" in refused(name)
            with pytest.raises(InputError, match="NUL"):
                save(tiny(), name)

    def test_a_missing_file_a_folder_without_one_and_other_formats(self, path, tmp_path):
        assert "no file" in refused(tmp_path / "nothing")
        (tmp_path / "folder").mkdir()
        assert f"no file {tmp_path / 'folder' / CHECKPOINT}" in refused(tmp_path / "folder")
        save_file({"a": torch.zeros(2)}, tmp_path / "other")
        assert "without this library's header" in refused(tmp_path / "other")
        assert "format" in refused(rewritten(path, format="ppl-vae-99"))


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class TestHostileFiles:
    def test_a_pickle_in_disguise_is_not_unpickled(self, tmp_path):
        marker = tmp_path / "code-was-run"
        (tmp_path / "vae").write_bytes(pickle.dumps(Bomb(marker)))
        assert "whole safetensors file" in refused(tmp_path / "vae")
        torch.save(Bomb(marker), tmp_path / "zip")
        assert "whole safetensors file" in refused(tmp_path / "zip")
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"config": {"hidden_size": [3]}}, "did you mean 'hidden_sizes'?"),
            ({"config": {"latent_size": "2"}}, "latent_size: got '2'"),
            ({"config": {"event_shape": "six"}}, "event_shape: got 'six'"),
            (
                {"config": {"network_options": "abc"}},
                "network_options: got 'abc', expected a mapping",
            ),
            ({"config": {"prior": 5}}, "prior: got 5"),
            ({"config": {"likelihood": None}}, "likelihood: got None"),
            ({"config": None}, "config"),
            ({"num_data": "many"}, "num_data"),
        ],
    )
    def test_a_header_with_unknown_fields_or_wrong_values(self, tmp_path, changes, message):
        save(tiny(), tmp_path / "vae")
        assert message in refused(rewritten(tmp_path / "vae", **changes))

    def test_a_configuration_without_the_shape_of_a_datum(self):
        with pytest.raises(InputError, match="no event_shape"):
            config_from_json({"latent_size": 2})

    @pytest.mark.parametrize(
        "reference",
        [
            "os:system",
            "subprocess:Popen",
            "pyro.distributions:Normal",
            "ppl_vae.checkpoint:load",
            "ppl_vae.parts.user_code:resolve",
            "ppl_vae_elsewhere:Prior",
            "tests.examples:laplace",
        ],
    )
    @pytest.mark.parametrize("field", ["prior", "likelihood", "posterior"])
    def test_no_function_of_any_module_is_called_on_a_checkpoints_word(
        self, tmp_path, reference, field, monkeypatch
    ):
        save(tiny(), tmp_path / "vae")
        path = rewritten(
            tmp_path / "vae", config={field: reference, f"{field}_options": {"command": "true"}}
        )
        monkeypatch.setattr(
            "ppl_vae.parts.slot.resolve", lambda name, kind: pytest.fail(f"{name} was looked up")
        )
        assert f"code in module '{reference}'" in refused(path)

    @pytest.mark.parametrize(
        "reference", ["../evil.py:Prior", "/tmp/evil.py:Prior", "~/evil.py:Prior", "evil.py:Prior"]
    )
    def test_a_path_that_leads_elsewhere_is_not_run(self, ring, tmp_path, reference, monkeypatch):
        checkpoint, _, marker = ring
        folder = tmp_path / "inside"
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HOME", str(folder))
        for place in (tmp_path, folder):
            (place / "evil.py").write_text(RING.format(marker=str(marker)))
        message = refused(rewritten(checkpoint, config={"prior": reference}))
        assert "not trained with here" in message or "which is not there" in message
        assert not marker.exists()


class TestTrust:
    def test_code_trained_with_here_runs_again(self, ring):
        checkpoint, _, marker = ring
        vae = load(checkpoint)
        assert marker.exists() and vae.sample(3).shape == (3, 6)

    def test_code_changed_since_is_refused_and_not_run(self, ring):
        checkpoint, path, marker = ring
        path.write_text(path.read_text() + "\n# edited\n")
        assert "not trained with here" in refused(checkpoint) and not marker.exists()

    def test_another_users_checkpoint_is_refused_and_not_run(self, ring, monkeypatch, tmp_path):
        checkpoint, _, marker = ring
        monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "somebody-else.json"))
        message = refused(checkpoint)
        assert (
            "not trained with here" in message
            and "trust_code=True" in message
            and not marker.exists()
        )

    def test_trust_code_runs_it(self, ring, monkeypatch, tmp_path):
        checkpoint, _, marker = ring
        monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "somebody-else.json"))
        assert load(checkpoint, trust_code=True).sample(3).shape == (3, 6) and marker.exists()
        marker.unlink()
        assert "not trained with here" in refused(checkpoint)  # said once is not said for ever

    def test_a_given_prior_stands_in_for_the_named_one(self, ring):
        checkpoint, path, marker = ring
        code: dict = {}
        exec(compile(path.read_text(), "given", "exec"), code)
        marker.unlink()
        path.unlink()
        assert (
            load(checkpoint, prior=code["Ring"]).sample(2).shape == (2, 6) and not marker.exists()
        )
        assert "which is not there" in refused(checkpoint)

    def test_a_new_process_loads_it_by_its_file(self, ring):
        checkpoint, _, _ = ring
        code = (
            "from ppl_vae.checkpoint import load; "
            f"print(tuple(load({str(checkpoint)!r}).sample(4).shape))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert done.stdout.strip() == "(4, 6)", done.stderr

    def test_the_trust_file_holds_paths_and_hashes_and_a_broken_one_trusts_nobody(self, ring):
        checkpoint, path, _ = ring
        trust = Path(os.environ["PPL_VAE_TRUST"])
        assert json.loads(trust.read_text()) == {
            str(path): [hashlib.sha256(path.read_bytes()).hexdigest()]
        }
        for text in ("{broken", "[]", '{"a": 1}', json.dumps({str(path): "x"})):
            trust.write_text(text)
            assert "not trained with here" in refused(checkpoint)

    def test_the_checkpoints_own_text_decides_and_not_that_of_another_run_here(
        self, ring, tmp_path
    ):
        """Both texts were trained with; each checkpoint runs with its own alone."""
        first, path, marker = ring
        old = path.read_text()
        path.write_text(old.replace("width=0.3", "width=7.0"))
        config = VAEConfig((6,), 2, (5,), prior=f"{path}:Ring")
        save(build(config, seed=0), tmp_path / "second")
        marker.unlink()
        assert "not trained with here" in refused(first) and not marker.exists()
        assert load(tmp_path / "second").sample(2).shape == (2, 6)
        path.write_text(old)
        assert load(first).sample(2).shape == (2, 6)
        assert "not trained with here" in refused(tmp_path / "second")

    def test_a_header_that_claims_another_text_makes_it_no_more_trusted(self, ring):
        checkpoint, path, marker = ring
        path.write_text(path.read_text() + "# edited")
        now = hashlib.sha256(path.read_bytes()).hexdigest()
        for code in ({str(path): now}, {}, "code", [], {str(path): None}):
            header = header_of(checkpoint) | {"code": code}
            save_file(read_tensors(checkpoint)[0], checkpoint, {"ppl_vae": json.dumps(header)})
            assert "not trained with here" in refused(checkpoint) and not marker.exists()

    def test_what_ran_is_trusted_and_not_what_the_file_says_at_the_end(self, tmp_path):
        path, marker = tmp_path / "ring.py", tmp_path / "code-was-run"
        path.write_text(RING.format(marker=str(marker)))
        ran = hashlib.sha256(path.read_bytes()).hexdigest()
        vae = build(VAEConfig((6,), 2, (5,), prior=f"{path}:Ring"), seed=0)
        marker.unlink()
        path.write_text(path.read_text() + "# edited while it trained")
        save(vae, tmp_path / "vae")
        trust = json.loads(Path(os.environ["PPL_VAE_TRUST"]).read_text())
        assert trust == header_of(tmp_path / "vae")["code"] | {str(path): [ran]}
        assert "not trained with here" in refused(tmp_path / "vae") and not marker.exists()

    @pytest.mark.parametrize("where", ["top", "function"])
    def test_a_neighbour_that_the_file_imports_is_part_of_it(self, tmp_path, where):
        """A neighbour edited since, or one of another folder's, does not run; the file's own
        does."""
        scale = "from measures_of_mine import SCALE"
        values = {"top": "SCALE = 1.0", "function": "pass"} | {where: scale}
        text = (
            "import pyro, pyro.distributions as dist\n{top}\ndef P(latent_size):\n    {function}\n"
            "    size = [latent_size]\n"
            "    return pyro.sample('z', dist.Normal(0., SCALE).expand(size).to_event(1))\n"
        ).format(**values)
        for folder, value in (("one", 2.0), ("two", 50.0)):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "p.py").write_text(f"# {folder}\n{text}")
            (tmp_path / folder / "measures_of_mine.py").write_text(f"SCALE = {value}")
            config = VAEConfig((6,), 2, (5,), prior=f"{tmp_path / folder / 'p.py'}:P")
            save(build(config, seed=0), tmp_path / f"{folder}.safetensors")
        for _ in range(2):
            for folder, value in (("one", 2.0), ("two", 50.0)):
                vae = load(tmp_path / f"{folder}.safetensors")
                if where == "top":
                    with pyro.plate("draws", 4000):
                        assert vae.model.prior().std().item() == pytest.approx(value, rel=0.1)
                assert len(vae.code) == 2
        (tmp_path / "one" / "measures_of_mine.py").write_text("SCALE = 9.0")
        assert "measures_of_mine.py" in refused(tmp_path / "one.safetensors")
        assert load(tmp_path / "two.safetensors")

    def test_a_cache_beside_a_neighbour_is_not_run(self, tmp_path):
        marker = tmp_path / "other-code-ran"
        (tmp_path / "p.py").write_text(
            "import pyro, pyro.distributions as dist, neighbour_with_a_cache as near\n"
            "def P(): return pyro.sample('z', dist.Normal(near.zeros, 1.0).to_event(1))\n"
        )
        text = "import torch\nzeros = torch.zeros(2)\n"
        near, other = tmp_path / "neighbour_with_a_cache.py", tmp_path / "other.py"
        near.write_text(text)
        other.write_text(f"{text}open({str(marker)!r}, 'w').close()\n")
        py_compile.compile(
            str(other),
            cfile=importlib.util.cache_from_source(str(near)),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        save(
            build(VAEConfig((6,), 2, (5,), prior=f"{tmp_path / 'p.py'}:P"), seed=0), tmp_path / "a"
        )
        assert load(tmp_path / "a").code.keys() == {str(near), str(tmp_path / "p.py")}
        assert not marker.exists()

    def test_a_posteriors_file_is_asked_about_as_a_priors_is(self, tmp_path):
        path = tmp_path / "q.py"
        text = (
            "import pyro, pyro.distributions as dist\n"
            "def Q(x): pyro.sample('z', dist.Normal(x[:, :2], 1.0).to_event(1))\n"
        )
        path.write_text(text)
        save(build(VAEConfig((6,), 2, (5,), posterior=f"{path}:Q"), seed=0), tmp_path / "vae")
        assert load(tmp_path / "vae").code.keys() == {str(path)}
        path.write_text(text + "# edited")
        assert "not trained with here" in refused(tmp_path / "vae")
        path.unlink()
        with pytest.raises(InputError, match="posterior's file"):
            build(VAEConfig((6,), 2, (5,), posterior=f"{path}:Q"))

    def test_a_folder_of_ones_own_that_cannot_be_written_ends_no_save(
        self, tmp_path, monkeypatch, caplog
    ):
        (tmp_path / "file").touch()
        monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "file" / "trust.json"))
        path, marker = tmp_path / "ring.py", tmp_path / "code-was-run"
        path.write_text(RING.format(marker=str(marker)))
        vae = build(VAEConfig((6,), 2, (5,), prior=f"{path}:Ring"), seed=0)
        for _ in range(3):
            save(vae, tmp_path / "vae")
        assert len(caplog.records) == 1 and "trust_code" in caplog.text
        assert "not trained with here" in refused(tmp_path / "vae")
        assert load(tmp_path / "vae", trust_code=True).sample(2).shape == (2, 6)

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_processes_that_save_at_once_are_all_remembered(self, tmp_path):
        """Without a lock some of 6 x 30 entries are lost nearly always."""
        children = []
        for child in range(6):
            process = os.fork()
            if process == 0:
                for i in range(30):
                    trust.remember({f"/{child}/{i}.py": "0"})
                os._exit(0)
            children.append(process)
        for process in children:
            os.waitpid(process, 0)
        assert len(trust.trusted()) == 180

    @pytest.mark.parametrize(
        ("end", "words"),
        [
            ("import sys; sys.exit(0)", "SystemExit: 0"),
            ("raise SystemExit", "SystemExit"),
            ("1 / 0", "ZeroDivisionError"),
            ("def __getattr__(name): raise KeyError(name)", "KeyError"),
            ("P = type('Odd', (), {'__getattr__': lambda self, name: {}[name]})()", "KeyError"),
            ("def P():\n    raise SystemExit(0)", "SystemExit: 0"),
        ],
    )
    def test_a_file_that_leaves_or_answers_by_errors_is_refused_in_one_line(
        self, tmp_path, end, words
    ):
        path = tmp_path / "leaves.py"
        path.write_text(f"{end}\n")
        with pytest.raises(InputError, match=words):
            build(VAEConfig((6,), 2, (5,), prior=f"{path}:P"))

    def test_an_interrupted_import_leaves_no_half_of_a_module(self, tmp_path):
        path, again = tmp_path / "interrupted.py", tmp_path / "again"
        path.write_text(
            f"import pathlib, pyro, pyro.distributions as dist\n"
            f"if not pathlib.Path({str(again)!r}).exists(): raise KeyboardInterrupt\n"
            "def P(latent_size):\n"
            "    return pyro.sample('z', dist.Normal(0., 1.).expand([latent_size]).to_event(1))\n"
        )
        config = VAEConfig((6,), 2, (5,), prior=f"{path}:P")
        with pytest.raises(KeyboardInterrupt):
            build(config)
        again.touch()
        assert build(config).sample(3).shape == (3, 6)


class Located(torch.nn.Module):
    """A ready-made prior with one parameter."""

    def __init__(self):
        super().__init__()
        self.location = torch.nn.Parameter(torch.zeros(2))

    def forward(self):
        return pyro.sample("z", dist.Normal(self.location, 1.0).to_event(1))


class TestOwnParts:
    def test_an_object_given_to_two_is_copied_for_each_and_left_as_it_was(self, tmp_path):
        given = Located()
        one, two = tiny(given), tiny(given)
        fit(one, pixels(20), epochs=2, progress=False)
        assert torch.equal(given.location, torch.zeros(2)) and torch.equal(
            two.model.prior.location, torch.zeros(2)
        )
        moved = one.model.prior.location.detach().clone()
        assert moved.abs().min() > 0
        save(one, tmp_path / "one")
        save(two, tmp_path / "two")
        first, second = (load(tmp_path / name, prior=given) for name in ("one", "two"))
        assert torch.equal(first.model.prior.location, moved)
        assert torch.equal(second.model.prior.location, torch.zeros(2))

    def test_a_posterior_too_and_what_prior_and_posterior_share_their_copies_share(self):
        class Posterior(torch.nn.Module):
            def __init__(self, prior):
                super().__init__()
                self.prior = prior

            def forward(self, x):
                location = self.prior.location.expand(len(x), 2)
                pyro.sample("z", dist.Normal(location, 1.0).to_event(1))

        prior = Located()
        vae = tiny(prior, Posterior(prior))
        assert vae.guide.posterior.prior.location is vae.model.prior.location
        assert vae.model.prior.location is not prior.location

    def test_a_ready_module_of_a_file_is_nobodys_twice(self, tmp_path):
        path = tmp_path / "ready.py"
        text = RING.format(marker=str(tmp_path / "marker"))
        path.write_text(f"{text}\n\nready = Ring(2)\n")
        one, two = (build(VAEConfig((6,), 2, (5,), prior=f"{path}:ready"), seed=0) for _ in "12")
        assert one.model.prior.scale is not two.model.prior.scale

    def test_an_object_that_cannot_be_copied_is_refused(self):
        prior = Located()
        prior.kept = prior.location * 2
        with pytest.raises(InputError, match="an object that can be copied"):
            tiny(prior)

    @pytest.mark.parametrize(
        "place",
        [
            "model.decoder.likelihood",
            "model.decoder.network",
            "model.decoder.network.0",
            "model.prior",
            "guide.posterior",
            "guide.posterior.encoder",
        ],
    )
    @pytest.mark.parametrize("by", ["save", "fit"])
    def test_a_part_exchanged_by_hand_is_not_saved_as_another_model(self, tmp_path, place, by):
        vae, other = tiny(num_data=20), tiny(seed=1, num_data=20)
        parent, _, name = place.rpartition(".")
        setattr(vae.get_submodule(parent), name, other.get_submodule(place))
        with pytest.raises(InputError, match=f"whose {place} is not the one that build made"):
            if by == "save":
                save(vae, tmp_path / "vae")
            else:
                fit(vae, pixels(20), epochs=1, checkpoint=tmp_path, progress=False)
        assert not (tmp_path / "vae").exists() and not (tmp_path / CHECKPOINT).exists()

    def test_another_configuration_or_function_by_hand_is_refused_and_a_copy_is_not(self, tmp_path):
        vae = tiny(PRIORS["laplace"])
        save(copy.deepcopy(vae), tmp_path / "copy")
        vae.model.prior = lambda: PRIORS["beta"](2)
        with pytest.raises(InputError, match=r"whose model\.prior"):
            save(vae, tmp_path / "vae")
        vae = tiny()
        vae.config = dataclasses.replace(vae.config, likelihood="normal_unit")
        with pytest.raises(InputError, match="whose config"):
            save(vae, tmp_path / "vae")


class TestWriting:
    def test_a_file_appears_whole_or_not_at_all(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with pytest.raises(RuntimeError), atomic_write(path) as file:
            file.write(b"half of the new")
            raise RuntimeError
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

    def test_a_full_disk_leaves_the_old_file_and_no_rubbish(self, tmp_path, monkeypatch):
        path = tmp_path / "folder" / "vae"
        path.parent.mkdir()
        save(tiny(), path)
        old = path.read_bytes()

        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            save(tiny(seed=1), path)
        assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]

    def test_bytes_reach_the_disk_before_the_name(self, tmp_path, monkeypatch):
        order = []
        for name in ("fsync", "replace"):
            real = getattr(os, name)
            monkeypatch.setattr(
                os, name, lambda *a, name=name, real=real: (order.append(name), real(*a))[1]
            )
        with atomic_write(tmp_path / "file") as file:
            file.write(b"new")
        assert order == ["fsync", "replace", "fsync"]

    def test_a_folder_that_takes_no_sync_still_has_the_file(self, tmp_path, monkeypatch):
        real = os.fsync

        def files_alone(handle):
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "Invalid argument")
            real(handle)

        monkeypatch.setattr(os, "fsync", files_alone)
        save(tiny(), tmp_path / "vae")
        assert load(tmp_path / "vae").sample(2).shape == (2, 6)

    def test_a_link_stays_and_what_is_no_file_too(self, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "behind")
        save(tiny(), tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and load(tmp_path / "behind")
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        for name in ("pipe", ".", "circle"):
            with pytest.raises(InputError, match="saving") as error:
                save(tiny(), tmp_path / name)
            assert "free some space" not in str(error.value)
        assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)

    @pytest.mark.parametrize(
        ("number", "words"),
        [
            (errno.ENOSPC, "free some space"),
            (errno.EDQUOT, "free some space"),
            (errno.EROFS, "that you may write to"),
            (errno.EIO, "a place that takes the file"),
        ],
    )
    def test_what_to_try_depends_on_what_went_wrong(self, tmp_path, monkeypatch, number, words):
        def failing(handle):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(InputError, match=words) as error:
            save(tiny(), tmp_path / "vae")
        said = str(error.value)
        assert ("free some space" in said) == (words == "free some space")
        assert os.strerror(number) in said and "that was there before" not in said

    def test_a_folder_without_locks_is_said_and_one_that_is_locked_refused(
        self, tmp_path, monkeypatch, caplog
    ):
        def unsupported(*rest):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr("fcntl.flock", unsupported)
        with run_lock(tmp_path):
            assert "cannot be locked" in caplog.text

    def test_another_users_lock_file_can_be_locked_or_is_refused_in_words(
        self, tmp_path, monkeypatch
    ):
        (tmp_path / ".lock").touch()
        real = os.open

        def not_mine(path, flags, *mode):
            if flags & os.O_CREAT:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return real(path, flags, *mode)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", not_mine)
            with (
                run_lock(tmp_path),
                pytest.raises(InputError, match="another process"),
                run_lock(tmp_path),
            ):
                pass
        (tmp_path / "other" / ".lock").mkdir(parents=True)
        with pytest.raises(InputError, match="run folder"), run_lock(tmp_path / "other"):
            pass

    def test_a_folder_that_cannot_be_written_is_a_worded_error(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="saving"):
            save(tiny(), tmp_path / "file" / "vae")

    @pytest.mark.parametrize(
        "dtype",
        [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool],
    )
    def test_every_kind_of_tensor_comes_back(self, tmp_path, dtype):
        tensors = {
            "a": torch.tensor([[1, 0, 1]]).to(dtype),
            "scalar": torch.tensor(1).to(dtype),
            "none": torch.zeros(0),
        }
        tensors["view"] = tensors["a"].T
        write_tensors(tmp_path / "file", tensors, {"extra": [1, None, "text"]})
        again, header = read_tensors(tmp_path / "file")
        assert header["extra"] == [1, None, "text"]
        assert all(
            torch.equal(again[name], value) and again[name].dtype == value.dtype
            for name, value in tensors.items()
        )

    def test_a_second_process_on_a_folder_is_refused_and_the_lock_goes_with_its_process(
        self, tmp_path
    ):
        code = f"""
from pathlib import Path
from ppl_vae.checkpoint import run_lock
with run_lock(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
        root = Path(__file__).parents[1]
        holder = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
        )
        try:
            assert holder.stdout.readline() == b"held\n"
            with (
                pytest.raises(InputError, match="another process at work in it"),
                run_lock(tmp_path),
            ):
                pass
        finally:
            holder.kill()
            holder.communicate()
        with run_lock(tmp_path):
            pass


class FromOneNumber(torch.nn.Module):
    """p(z) = N(0, 1), its location a buffer that was expanded from one number."""

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("location", torch.zeros(()).expand(latent_size))

    def forward(self) -> torch.Tensor:
        return pyro.sample("z", dist.Normal(self.location, 1.0).to_event(1))


@pytest.mark.parametrize("latent_size", [1, 2])
def test_an_expanded_buffer_is_saved(latent_size: int, tmp_path: Path) -> None:
    """One of a single number has the strides of an expanded one, though it is contiguous."""
    save(tiny(FromOneNumber, latent_size=latent_size), tmp_path / "vae.safetensors")
    again = load(tmp_path / "vae.safetensors", prior=FromOneNumber)
    assert torch.equal(again.model.prior.location, torch.zeros(latent_size))
