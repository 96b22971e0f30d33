"""Save, load and resume: one safetensors file whose header holds JSON. Atomic, checked, executing
nothing it reads.

Knows files, hashes and a VAE's configuration; knows nothing of how a run goes on. Code of a user's
own that a checkpoint names runs only if it is the very text that the checkpoint was trained with
and this user trained with it here (`parts/trust.py`), or if the user says `trust_code=True`.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import math
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae import __version__, checks
from ppl_vae.files import parse_json, saved
from ppl_vae.guides import POSTERIORS
from ppl_vae.parts import trust
from ppl_vae.parts.user_code import is_reference, only_code, reference_file
from ppl_vae.priors import PRIORS
from ppl_vae.vae import SLOTS, VAE, VAEConfig, build

__all__ = [
    "CHECKPOINT",
    "build_trusted",
    "load",
    "read_tensors",
    "remember_code",
    "run_lock",
    "save",
    "write_tensors",
]

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "ppl-vae-1"
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Numbers that building may take up beside those that a file holds: what a prior's trial run needs.
FREE_NUMBERS = 10_000_000
# module references a checkpoint may hold: this library's own priors and posteriors, and no other
# function of it or of any module, since a checkpoint also chooses the arguments
TRUSTED_REFERENCES = {
    f"{kind.__module__}:{kind.__name__}" for kind in (*PRIORS.values(), *POSTERIORS.values())
}

# what optimisers and estimators may be of
TRUSTED_MODULES = ("torch.optim", "pyro.infer", "ppl_vae.elbo")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header as one safetensors file, atomically, with a digest of the
    tensors' bytes.
    """
    kept = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
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
    if not os.path.isfile(path):
        checks.refuse(
            "checkpoint", f"no file {path}", "a file written by save or fit(checkpoint=...)"
        )
    expected = "a whole safetensors file of this library"
    try:
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {}).get("ppl_vae", "null"))
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
    """Write configuration, parameters and buffers to one file at `path`, atomically.

    Raises `InputError` for a VAE with a part that its configuration does not name, or with a
    parameter that is NaN, and where the disk does not take the file.
    """
    tensors = vae.state_dict()
    _check_numbers("saving", tensors)
    write_tensors(checks.path("path", path), tensors, model_header(vae))
    remember_code(vae)


def model_header(vae: VAE) -> dict[str, Any]:
    """What a file needs besides tensors for `load` to build the VAE again; `InputError` if it would
    be another one.
    """
    _check_parts(vae)
    return {"config": config_to_json(vae.config), "num_data": vae.num_data, "code": vae.code}


def remember_code(vae: VAE) -> None:
    """Trust, from now on, the user's files whose code was run for this VAE."""
    trust.remember(vae.code)


def _check_parts(vae: VAE) -> None:
    """`InputError` unless each part is the one that `build` made of the configuration."""
    now, made = vae.parts(), vae.built
    changed = [n for n in now.keys() | made.keys() if now.get(n) is not made.get(n)]
    if changed:
        first = min(changed, key=lambda name: (name.count("."), name))
        checks.refuse(
            "saving",
            f"a VAE whose {first} is not the one that build made",
            "the parts that its configuration stands for",
            "a loaded VAE would be another one: build it with the part, by VAEConfig or as an "
            "argument of build",
        )


def _check_numbers(subject: str, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and torch.isnan(tensor).any():
            checks.refuse(
                subject, f"NaN in {name}", "numbers", "use a checkpoint from before they appeared"
            )


def load(
    path: str | os.PathLike[str],
    prior: Any = None,
    posterior: Any = None,
    trust_code: bool = False,
    *,
    likelihood: Any = None,
    encoder: Any = None,
    decoder: Any = None,
) -> VAE:
    """The VAE saved at `path`, a file or a run's folder (its best epoch, if it may stop early, or
    its parameters' moving averages, if it keeps them), in evaluation mode.

    The parts stand in for objects that were given to `build` and that no reference names. A user's
    file the checkpoint refers to is run only if it is unchanged since this user trained the
    checkpoint with it here, or with `trust_code=True`.
    """
    file = checks.path("path", path)
    if os.path.isdir(file):
        file = file / CHECKPOINT
    tensors, header = read_tensors(file)
    config = config_from_json(header.get("config"))
    num_data = header.get("num_data")
    if num_data is not None:
        checks.integer("checkpoint's num_data", num_data)
    last = {n: t for n, t in tensors.items() if not n.startswith("training/")}
    own = _under("training/best/", tensors) or {**last, **_under("training/average/", tensors)}
    with _Allowance(FREE_NUMBERS + 10 * sum(t.numel() for t in own.values())):
        given = {
            "prior": prior,
            "posterior": posterior,
            "likelihood": likelihood,
            "encoder": encoder,
            "decoder": decoder,
        }
        vae = build_trusted(config, header.get("code"), trust_code, **given)
    vae.num_data = num_data
    precisions = {t.dtype for t in own.values() if t.is_floating_point()}
    if len(precisions) == 1 and precisions <= set(PRECISIONS):
        vae.to(precisions.pop())
    _check_numbers(f"checkpoint {file}", own)
    load_state(vae, own, file)
    return vae.eval()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def build_trusted(
    config: VAEConfig,
    code: Any = None,
    trust_code: bool = False,
    seed: int = 0,
    **parts: Any,
) -> VAE:
    """The VAE of a configuration read from a file, running no code that its user did not run here.

    `code` is what the file says of the texts it was made with, path -> sha256; without it, any text
    that the user trained with will do. `parts`, by their kind, stand in for the configured ones,
    whose code is then not run.
    """
    names = [getattr(config, slot.kind) for slot in SLOTS if parts.get(slot.kind) is None]
    with trusted_code(names, code, trust_code, chosen=tuple(parts.values())):
        return build(config, seed=seed, **parts)


@contextmanager
def trusted_code(
    names: Iterable[str | None],
    code: Any = None,
    trust_code: bool = False,
    chosen: Sequence[object] = (),
) -> Iterator[None]:
    """Inside, of what `names` read from a file refer to, only code runs that its user ran here.

    Args:
        names: of parts, references among them.
        code: what the file says of the texts it was made with, path -> sha256; None is any text
            that the user trained with.
        trust_code: run whatever they refer to.
        chosen: references that the user gave, which may run.

    Raises:
        InputError: for a reference to a module that is not this library's, or to a file that is
            gone.
    """
    if trust_code:
        yield
        return
    for name in names:
        if name and is_reference(name):
            _check_reference(name)
    texts = trust.trusted()
    if code is not None:
        said = code if isinstance(code, dict) else {}
        texts = {path: [said[path]] for path in said if said[path] in texts.get(path, [])}
    with only_code(texts, chosen=chosen):
        yield


def _check_reference(reference: str) -> None:
    """`InputError` for a module that is not this library's, and for a file that is gone."""
    path = reference_file(reference)
    known = reference in TRUSTED_REFERENCES or reference.startswith(TRUSTED_MODULES)
    if path is None and not known:
        checks.refuse(
            "checkpoint",
            f"code in module '{reference}'",
            "a part of this library",
            "read the code, then load with trust_code=True (--trust-code), or pass "
            "prior=..., posterior=...",
        )
    if path is not None and not path.is_file():
        checks.refuse(
            "checkpoint",
            f"code in {path}, which is not there",
            "the file it was trained with",
            "or pass prior=..., posterior=...",
        )


class _Allowance(TorchDispatchMode):
    """Refuses to make room for more numbers than a checkpoint can fill: what a header asks for is
    not believed before its tensors are.
    """

    def __init__(self, numbers_left: int) -> None:
        super().__init__()
        self.numbers_left = numbers_left

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        first = func._schema.arguments[:1]
        if first and first[0].name == "size":
            self.numbers_left -= math.prod(args[0])
        if self.numbers_left < 0:
            checks.refuse(
                "checkpoint",
                "a configuration that is larger than its tensors",
                "that of the tensors",
                "use an earlier checkpoint",
            )
        return func(*args, **(kwargs or {}))


def load_state(vae: VAE, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy parameters and buffers into the VAE; `InputError` if names, shapes or types differ."""
    own = vae.state_dict()
    wrong = [
        name
        for name in own.keys() | tensors.keys()
        if name not in own or name not in tensors or _kind(own[name]) != _kind(tensors[name])
    ]
    if wrong:
        first = min(wrong)
        got = str(_kind(tensors[first])) if first in tensors else "none"
        checks.refuse(
            f"checkpoint {source}",
            f"other tensors ({', '.join(sorted(wrong)[:3])}): {got}",
            f"this configuration's tensors: {_kind(own[first]) if first in own else 'none'}",
        )
    vae.load_state_dict(dict(tensors))


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, *tensor.shape


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder for one process; a second one is refused. The lock goes with the process,
    however it ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock_file(folder / ".lock")
    except OSError as error:
        checks.refuse("run folder", str(folder), f"a folder that can be written ({error.strerror})")
    with contextlib.closing(os.fdopen(handle)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            checks.refuse(
                f"run folder {folder}",
                "another process at work in it",
                "one process a folder",
                "choose another --out",
            )
        except OSError as error:
            log.warning(
                "%s cannot be locked (%s): nothing but you keeps a second process out of it",
                folder,
                error.strerror,
            )
        yield


def _lock_file(path: Path) -> int:
    """An open file to lock; another user's, which cannot be written, can be locked as well."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY)
