"""Save, load and resume: one safetensors file whose header holds JSON. Atomic, checked, executing
nothing it reads.

Knows files, hashes and a VAE's configuration; knows nothing of how a run goes on. Code of a user's
own that a checkpoint names runs only if this user trained with that very file here (path and sha256
remembered in the user's own folder) or says `trust_code=True`.
"""

import dataclasses
import fcntl
import hashlib
import json
import numbers
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ppl_vae import __version__, checks
from ppl_vae.files import atomic_write, saved
from ppl_vae.guides import POSTERIORS
from ppl_vae.priors import PRIORS
from ppl_vae.priors.user_code import is_reference, reference_file
from ppl_vae.vae import VAE, VAEConfig, build

__all__ = [
    "CHECKPOINT",
    "load",
    "read_tensors",
    "remember_code",
    "run_lock",
    "save",
    "write_tensors",
]

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "ppl-vae-1"
# module references a checkpoint may hold: this library's own priors and posteriors, and no other
# function of it or of any module, since a checkpoint also chooses the arguments
TRUSTED_REFERENCES = {
    f"{kind.__module__}:{kind.__name__}" for kind in (*PRIORS.values(), *POSTERIORS.values())
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header as one safetensors file, atomically, with a digest of the
    tensors' bytes.
    """
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({**header, "format": FORMAT, "version": __version__, "sha256": _digest(kept)})
    with saved(path) as file:
        file.write(to_bytes(kept, metadata={"ppl_vae": text}))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and header of a file written by `write_tensors`. `InputError` if missing, damaged
    or another kind.
    """
    if not path.is_file():
        checks.refuse(
            "checkpoint", f"no file {path}", "a file written by save or fit(checkpoint=...)"
        )
    expected = "a whole safetensors file of this library"
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("ppl_vae", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        checks.refuse(
            f"checkpoint {path}",
            f"{type(error).__name__}: {error}",
            expected,
            "use an earlier checkpoint",
        )
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        checks.refuse(
            f"checkpoint {path}", "a file without this library's header", f"format {FORMAT}"
        )
    if header.get("sha256") != _digest(tensors):
        checks.refuse(
            f"checkpoint {path}",
            "bytes that do not match their checksum",
            expected,
            "use an earlier checkpoint",
        )
    return tensors, header


def config_to_json(config: VAEConfig) -> dict[str, Any]:
    """The configuration in plain JSON values; `InputError` for an option that has none."""

    def plain(value: Any) -> Any:
        if isinstance(value, numbers.Number) and hasattr(value, "item"):  # numpy's
            return value.item()
        checks.refuse(
            "config",
            f"an option of type {type(value).__name__}",
            "numbers, texts and lists of them",
        )

    return json.loads(json.dumps(dataclasses.asdict(config), default=plain))


def config_from_json(values: Any) -> VAEConfig:
    """The configuration written by `config_to_json`; `InputError` for unknown fields or bad
    values.
    """
    if not isinstance(values, dict):
        checks.refuse("config", type(values).__name__, "a JSON object of VAEConfig's fields")
    checks.options("config", values, [field.name for field in dataclasses.fields(VAEConfig)])
    if "event_shape" not in values:
        checks.refuse("config", "no event_shape", "the shape of a datum among VAEConfig's fields")
    return VAEConfig(**values)


def save(vae: VAE, path: str | os.PathLike[str]) -> None:
    """Write configuration, parameters and buffers to one file at `path`, atomically."""
    write_tensors(Path(path), vae.state_dict(), model_header(vae))
    remember_code(vae.config)


def model_header(vae: VAE) -> dict[str, Any]:
    """What a file needs besides tensors for `load` to build the VAE again."""
    return {
        "config": config_to_json(vae.config),
        "num_data": vae.num_data,
        "code": _code_hashes(vae.config),
    }


def load(
    path: str | os.PathLike[str], prior: Any = None, posterior: Any = None, trust_code: bool = False
) -> VAE:
    """The VAE saved at `path`, a file or a run's folder (its best epoch, if it stopped early), in
    evaluation mode.

    `prior` and `posterior` stand in for objects that were given to `build` and that no reference
    names. A user's file the checkpoint refers to is run only if unchanged since it was trained with
    here, or with `trust_code=True`.
    """
    file = Path(path) / CHECKPOINT if Path(path).is_dir() else Path(path)
    tensors, header = read_tensors(file)
    config = config_from_json(header.get("config"))
    if not trust_code:
        check_trusted(config, prior, posterior)
    num_data = header.get("num_data")
    if num_data is not None:
        checks.integer("checkpoint's num_data", num_data)
    vae = build(config, prior=prior, posterior=posterior, num_data=num_data, seed=0)
    best = {
        n.removeprefix("training/best/"): t
        for n, t in tensors.items()
        if n.startswith("training/best/")
    }
    own = best or {n: t for n, t in tensors.items() if not n.startswith("training/")}
    precisions = {t.dtype for t in own.values() if t.is_floating_point()}
    if len(precisions) == 1:
        vae.to(precisions.pop())
    load_state(vae, own, file)
    return vae.eval()


def load_state(vae: VAE, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy parameters and buffers into the VAE; `InputError` if names or shapes differ."""
    own = vae.state_dict()
    wrong = [
        n
        for n in own.keys() | tensors.keys()
        if n not in own or n not in tensors or own[n].shape != tensors[n].shape
    ]
    if wrong:
        checks.refuse(
            f"checkpoint {source}",
            f"other tensors ({', '.join(sorted(wrong)[:3])})",
            "this configuration's tensors",
        )
    vae.load_state_dict(dict(tensors))


def _trust_file() -> Path:
    return Path(
        os.environ.get(
            "PPL_VAE_TRUST", platformdirs.user_data_path("ppl-vae") / "trusted-code.json"
        )
    )


def _code_hashes(config: VAEConfig) -> dict[str, str]:
    files = [
        reference_file(name) for name in (config.prior, config.posterior) if is_reference(name)
    ]
    return {
        str(f): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
        if f is not None and f.is_file()
    }


def _trusted() -> dict[str, list[str]]:
    try:
        known = json.loads(_trust_file().read_text())
    except (OSError, ValueError):
        return {}
    return (
        {k: v for k, v in known.items() if isinstance(v, list)} if isinstance(known, dict) else {}
    )


def remember_code(config: VAEConfig) -> None:
    """Note, in this user's own folder, the path and sha256 of the files whose code this process ran
    for `config`.
    """
    hashes = _code_hashes(config)
    known = _trusted()
    if all(sha in known.get(path, []) for path, sha in hashes.items()):
        return
    for path, sha in hashes.items():
        known[path] = [*known.get(path, []), sha]
    with atomic_write(_trust_file()) as file:
        file.write(json.dumps(known, indent=1).encode())


def check_trusted(config: VAEConfig, prior: Any = None, posterior: Any = None) -> None:
    """`InputError` if a configuration read from a file names code that this user has not trained
    with here.

    `prior` and `posterior`, if given, stand in for the configured ones, whose code is then not run.
    """
    for reference, given in ((config.prior, prior), (config.posterior, posterior)):
        if given is None and is_reference(reference):
            _check_trusted(reference)


def _check_trusted(reference: str) -> None:
    path = reference_file(reference)
    suggestion = (
        "read the code, then load with trust_code=True (--trust-code), or pass "
        "prior=..., posterior=..."
    )
    if path is None:
        if reference not in TRUSTED_REFERENCES:
            checks.refuse(
                "checkpoint", f"code in module '{reference}'", "a prior of this library", suggestion
            )
    elif not path.is_file():
        checks.refuse(
            "checkpoint",
            f"a prior in {path}, which is not there",
            "the file it was trained with",
            "or pass prior=...",
        )
    elif hashlib.sha256(path.read_bytes()).hexdigest() not in _trusted().get(str(path), []):
        checks.refuse(
            "checkpoint",
            f"code in {path} that was not trained with here",
            "a file this user trained with",
            suggestion,
        )


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder for one process; a second one is refused. The lock goes with the process,
    however it ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        checks.refuse("run folder", str(folder), f"a folder that can be written ({error.strerror})")
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            checks.refuse(
                f"run folder {folder}",
                "another process at work in it",
                "one process a folder",
                "choose another --out",
            )
        yield
