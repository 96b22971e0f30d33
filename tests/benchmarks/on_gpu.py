"""Does everything work on a GPU, and how fast is it there?

Runs the sections of `gpu_checks.py`, a dozen at a time, and then those of `gpu_speed.py`, one at a
time, each in a process of its own, since an error of the device spoils the process it happens in.
Whatever is done by the deadline is in OUT/results.json and OUT/report.txt, which are written anew
after each section; OUT/log.txt has all output. It installs nothing and needs no network. Packages
that the machine lacks are taken from the folder vendor/, which `vendor.sh` makes elsewhere.

    python tests/benchmarks/on_gpu.py [--out OUT] [--device cuda] [--minutes 6] [--only tiers,...]
    python tests/benchmarks/on_gpu.py --device cpu --tiny    # tries the script itself out
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT), str(ROOT / "studies"), str(ROOT / "vendor")]
SPOILED = 3  # exit status of a process in which the device failed: it is started again, to go on
AT_ONCE = 12
CHECKED_BY = 0.48  # the share of the time after which what is timed begins
LONGEST_CHECK, LONGEST_TIMED = 160.0, 45.0  # seconds a section
RESERVE = 15  # seconds kept for the last report


class Report:
    """What a section found, one JSON line a finding, in the order they were made."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        rows = [json.loads(line) for line in lines]
        self.begun = {row["case"] for row in rows}
        self.good = {row["case"] for row in rows if row["verdict"] in ("ok", "measured")}

    def say(self, case: str, verdict: str, **found: Any) -> None:
        """Add a finding; a `verdict` is "ok", "FAULT", "measured" or "begun"."""
        with self.file.open("a") as file:
            file.write(json.dumps({"case": case, "verdict": verdict, **found}) + "\n")
        if verdict != "begun":
            print(f"{verdict:8} {case}: {found}", flush=True)

    def case(self, name: str, action: Callable[[], Any]) -> None:
        """Run an action that returns what it measured, or raises; once in all."""
        if name in self.begun:
            return
        self.say(name, "begun")
        start = time.perf_counter()
        try:
            found = action() or {}
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            text = f"{type(error).__name__}: {error}"
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            self.say(name, "FAULT", error=text[:600], where=where)
            if "CUDA" in text or "captur" in text or "cuda" in text:
                sys.exit(SPOILED)
            return
        verdict = found.pop("verdict", "ok")
        self.say(name, verdict, **found, seconds=round(time.perf_counter() - start, 2))


def section_named(name: str) -> Callable[..., None]:
    """The function of a section; only its own process imports what it needs."""
    sys.path[:0] = [str(Path(__file__).parent), *PATHS]
    import gpu_checks
    import gpu_speed

    compiles = {f"compile_{name}": section for name, section in gpu_speed.COMPILES.items()}
    return {**gpu_checks.SECTIONS, **gpu_speed.SECTIONS, **compiles}[name]


COMPILED = ["mnist", "dynamic", "frey", "toy", "conv", "likelihood"]
CHECKED = ["tiers", "resume", "features", "parts_priors", "parts_posteriors", "parts_likelihoods"]
CHECKED += ["evaluation", "sampling", "diagnostics", "weights", "command", "ranks"]
TIMED = ["mnist", "dynamic", "throughput", "likelihood", "toy", "frey", "conv"]
TIMED += ["steps_apart", "profile"]
# compiled code is cached on disk, so that the timed sections find it there
NAMES = [*(f"compile_{name}" for name in COMPILED), *CHECKED, *TIMED]


def run_section(name: str, given: argparse.Namespace, folder: Path, limit: float) -> None:
    """One section in a process, started again as long as the device fails in another case."""
    end = time.monotonic() + limit
    command = [sys.executable, __file__, "--section", name, "--device", given.device]
    command += ["--out", str(folder)] + (["--tiny"] if given.tiny else [])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
    if name not in TIMED:
        environment |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    environment["PPL_VAE_TRUST"] = str(folder / f"trust-{name}.json")
    while True:
        with (folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            try:
                status = process.wait(max(1.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                Report(folder / f"{name}.jsonl").say("its time", "FAULT", error="it ran out")
                return
        if status not in (0, SPOILED):
            Report(folder / f"{name}.jsonl").say("its process", "FAULT", error=f"status {status}")
        if status != SPOILED:
            return


def gathered(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Section -> its findings so far; a case that was begun and never ended is one of them."""
    found = {}
    for name in NAMES:
        file = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        ended = {row["case"] for row in rows if row["verdict"] != "begun"}
        found[name] = [r for r in rows if r["verdict"] != "begun" or r["case"] not in ended]
    return found


def write(folder: Path, out: Path, machine: dict[str, Any]) -> str:
    """The three files, and the text of the report."""
    found = gathered(folder)
    (out / "results.json").write_text(json.dumps({"machine": machine, **found}, indent=1))
    lines = [json.dumps(machine)]
    for name, rows in found.items():
        good = sum(row["verdict"] == "ok" for row in rows)
        lines.append(f"== {name}: {good} ok")
        for row in rows:
            if row["verdict"] != "ok" or row.keys() - {"case", "verdict", "seconds"}:
                rest = {k: v for k, v in row.items() if k not in ("case", "verdict")}
                lines.append(f"{row['verdict']:8} {row['case']}: {rest}")
    text = "\n".join(lines)
    (out / "report.txt").write_text(text + "\n")
    logs = [
        f"==== {n}\n{file.read_text()}" for n in NAMES if (file := folder / f"{n}.log").exists()
    ]
    (out / "log.txt").write_text("\n".join(logs)[-12_000_000:])
    return text


def short(folder: Path) -> str:
    """What a person wants to see last: faults by their first words, then all that was measured."""
    lines = []
    for name, rows in gathered(folder).items():
        for row in rows:
            if row["verdict"] == "FAULT":
                detail = row.get("error") or {k: v for k, v in row.items() if k != "seconds"}
                lines.append(f"FAULT {name}/{row['case']} {row.get('where', '')} {detail}"[:330])
            elif row["verdict"] == "begun":
                lines.append(f"UNDONE {name}/{row['case']}")
    for name in TIMED:
        for row in gathered(folder)[name]:
            if row["verdict"] == "measured":
                rest = {k: v for k, v in row.items() if k not in ("case", "verdict", "seconds")}
                lines.append(f"{name}/{row['case']}: {rest}"[:400])
    return "\n".join(lines)


def machine(device: str) -> dict[str, Any]:
    """What is there: versions, processor cores, device, compilers."""
    import shutil

    import torch

    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "compiler": shutil.which("g++") or shutil.which("c++") or "none",
    }
    for package in ("pyro", "arviz", "zuko", "triton", "numpy", "scipy", "xarray"):
        with contextlib.suppress(Exception):
            found[package] = __import__(package).__version__
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name()
        found["gpus"] = torch.cuda.device_count()
        found["tf32"] = [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
    return found


@contextlib.contextmanager
def reports(folder: Path, out: Path, about: dict[str, Any]) -> Iterator[None]:
    """The files are written when the block ends, whatever ends it."""
    try:
        yield
    finally:
        write(folder, out, about)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu")))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--tiny", action="store_true", help="sizes at which a processor is quick")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.section:
        section_named(given.section)(
            Report(given.out / f"{given.section}.jsonl"), given.device, given.tiny
        )
        return
    start = time.monotonic()
    end = start + 60 * given.minutes - RESERVE
    longest = LONGEST_CHECK if given.device != "cpu" else 900.0
    checked = start + CHECKED_BY * 60 * given.minutes
    given.out.mkdir(parents=True, exist_ok=True)
    sys.path[:0] = PATHS
    about = machine(given.device)
    print(json.dumps(about), flush=True)
    wanted = [name for name in NAMES if not given.only or name in given.only.split(",")]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with reports(folder, given.out, about):
            with ThreadPoolExecutor(1 if given.device == "cpu" else AT_ONCE) as pool:
                for name in wanted:
                    if name not in TIMED:
                        pool.submit(in_time, name, given, folder, longest, checked)
            print(f"checks took {time.monotonic() - start:.0f} s", flush=True)
            write(folder, given.out, about)
            for name in wanted:
                if name in TIMED:
                    in_time(name, given, folder, LONGEST_TIMED, end)
                    write(folder, given.out, about)
        print(short(folder), flush=True)


def in_time(name: str, given: argparse.Namespace, folder: Path, limit: float, end: float) -> None:
    """A section if there is time for one before `end`."""
    left = end - time.monotonic()
    if left < 10:
        Report(folder / f"{name}.jsonl").say("start", "FAULT", error="no time was left")
        return
    run_section(name, given, folder, min(limit, left))


if __name__ == "__main__":
    main()
