"""Where a row comes from: the commit of the study's code, the version of torch, the processor.

Knows git and the machine; must not know what a row says.
"""

import functools
import platform
import subprocess
from pathlib import Path

import torch

# Columns that stand in rows.csv beside what a study measures, and that its functions do not see.
COLUMNS = ("commit", "torch_version", "processor")


def commit_of(folder: Path) -> str:
    """The commit that a folder is at.

    Args:
        folder: a folder of a checkout.

    Returns:
        The commit, with "-dirty" where a Python file of the checkout differs from it; empty outside
        of git.
    """
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not head:
        return ""
    changed = _git(folder, "status", "--porcelain", "--", ":(top)*.py")
    return f"{head}-dirty" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    """What git prints, or nothing where there is no git or no repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@functools.cache
def machine() -> dict[str, str]:
    """The version of torch and the name of the processor, of the process that asks."""
    return {"torch_version": torch.__version__, "processor": _processor()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
