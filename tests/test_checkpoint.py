"""Files that come back as they were, damaged or hostile ones that are refused, and user code run
only where trusted.

Knows `checkpoint.py` and the safetensors format; must not know how a run goes on.
"""

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

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
    @pytest.mark.parametrize("field", ["prior", "posterior"])
    def test_no_function_of_any_module_is_called_on_a_checkpoints_word(
        self, tmp_path, reference, field, monkeypatch
    ):
        save(tiny(), tmp_path / "vae")
        path = rewritten(
            tmp_path / "vae", config={field: reference, f"{field}_options": {"command": "true"}}
        )
        monkeypatch.setattr(
            "ppl_vae.vae.resolve", lambda name: pytest.fail(f"{name} was looked up")
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
