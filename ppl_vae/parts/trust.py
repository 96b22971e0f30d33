"""Which files' code this user has trained with here: paths and sha256, in the user's own folder.

Nothing but this file grants trust, and what it has lost is not trusted. Knows paths and hashes;
knows nothing of what the code is for.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import platformdirs

from ppl_vae.files import atomic_write, parse_json, side_matter

__all__ = ["remember", "trusted"]


def trusted() -> dict[str, list[str]]:
    """The sha256 of each text that was trained with, by the path of its file."""
    try:
        known = parse_json(_trust_file().read_bytes())
    except (OSError, ValueError, RuntimeError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {path: shas for path, shas in known.items() if isinstance(shas, list)}


def remember(code: Mapping[str, str]) -> None:
    """Note the files (path -> sha256) whose code was run for a VAE that is being saved.

    A file that cannot be written ends no run: the code is then asked about when it is loaded.
    """
    if _all_known(code, trusted()):
        return
    words = "the code of your own that was run could not be noted, so that loading it will ask for"
    with side_matter(f"{words} trust_code"), _locked():
        known = trusted()
        for path, sha in code.items():
            known[path] = list(dict.fromkeys([*known.get(path, []), sha]))
        with atomic_write(_trust_file()) as file:
            file.write(json.dumps(known, indent=1).encode())


def _all_known(code: Mapping[str, str], known: Mapping[str, list[str]]) -> bool:
    return all(sha in known.get(path, []) for path, sha in code.items())


def _trust_file() -> Path:
    given = os.environ.get("PPL_VAE_TRUST")
    return Path(given) if given else platformdirs.user_data_path("ppl-vae") / "trusted-code.json"


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One process at a time reads, adds and replaces: each would else lose what another added."""
    path = _trust_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "a") as file:
        # a file system without locks may lose an entry, which takes trust away and gives none
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
