"""Does everything work on a GPU, and how fast is it there?

Runs the sections of `gpu_checks.py`, a dozen at a time, while those of `gpu_speed.py` prepare what
they will time, and then these, one at a time. Each has a process of its own, since an error of the
device spoils the process it happens in.
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
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT), str(ROOT / "studies"), str(ROOT / "vendor")]
SPOILED = 3  # exit status of a process in which the device failed: it is started again, to go on
SPOILS = ("CUDA error", "captur", "cudaError", "CUBLAS", "CUDNN")  # in the words of an error
AT_ONCE = 12
CHECKED_BY = 0.48  # the share of the time after which what is timed begins
LONGEST_TIMED = 45.0  # seconds a section, once it is prepared
RESERVE = 15  # seconds kept for the last report


class Report:
    """What a section found, one JSON line a finding, in the order they were made."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        rows = [json.loads(line) for line in lines]
        self.begun = {row["case"] for row in rows}
        self.good = {row["case"] for row in rows if row["verdict"] in ("ok", "measured")}

    def turn(self) -> None:
        """Wait until this section may have the machine for itself."""
        go = self.file.with_suffix(".go")
        while not go.exists():
            time.sleep(0.05)

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
            if any(word in text for word in SPOILS):
                sys.exit(SPOILED)
            return
        verdict = found.pop("verdict", "ok")
        self.say(name, verdict, **found, seconds=round(time.perf_counter() - start, 2))


def section_named(name: str) -> Callable[..., None]:
    """The function of a section; only its own process imports what it needs."""
    sys.path[:0] = [str(Path(__file__).parent), *PATHS]
    import gpu_checks
    import gpu_speed

    return {**gpu_checks.SECTIONS, **gpu_speed.SECTIONS}[name]


CHECKED = ["tiers", "resume", "features", "parts_priors", "parts_posteriors", "parts_likelihoods"]
CHECKED += ["evaluation", "sampling", "diagnostics", "weights", "command", "ranks"]
TIMED = ["mnist", "dynamic", "throughput", "likelihood", "toy", "frey", "conv"]
TIMED += ["steps_apart", "profile"]
NAMES = [*CHECKED, *TIMED]


class Sections:
    """The sections' processes, each started again as long as the device fails in another case."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.over: set[str] = set()

    def run(self, name: str, end: float) -> None:
        """One section, whose cases are done, or whose time is over, when this returns."""
        command = [sys.executable, __file__, "--section", name, "--device", self.given.device]
        command += ["--out", str(self.folder)] + (["--tiny"] if self.given.tiny else [])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
        environment |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "2"}
        environment["PPL_VAE_TRUST"] = str(self.folder / f"trust-{name}.json")
        report = Report(self.folder / f"{name}.jsonl")
        status, text = SPOILED, "it never began, for want of time"
        while status == SPOILED and name not in self.over and time.monotonic() < end:
            with (self.folder / f"{name}.log").open("a") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            self.running[name], text = process, "-9 is the end of its time"
            try:
                status = process.wait(end - time.monotonic())
            except subprocess.TimeoutExpired:
                self.stop(name)
                status = process.wait()
        if status != 0:
            report.say("its process", "FAULT", error=f"status {status}: {text}")

    def stop(self, name: str) -> None:
        """End a section's process, for good."""
        self.over.add(name)
        self.running[name].kill()


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
        if not rows:
            continue
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
    at_once = AT_ONCE if given.device != "cpu" else 1
    checked = start + CHECKED_BY * 60 * given.minutes
    given.out.mkdir(parents=True, exist_ok=True)
    sys.path[:0] = PATHS
    about = machine(given.device)
    print(json.dumps(about), flush=True)
    wanted = [name for name in NAMES if not given.only or name in given.only.split(",")]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        sections = Sections(given, folder)
        with (
            reports(folder, given.out, about),
            ThreadPoolExecutor(len(TIMED)) as prepared,
            ThreadPoolExecutor(at_once) as pool,
        ):
            timed = {n: prepared.submit(sections.run, n, end) for n in TIMED if n in wanted}
            checks = [pool.submit(sections.run, n, checked) for n in CHECKED if n in wanted]
            wait(checks)
            print(f"checks took {time.monotonic() - start:.0f} s", flush=True)
            for name, section in timed.items():
                write(folder, given.out, about)
                (folder / f"{name}.go").touch()
                if wait([section], min(LONGEST_TIMED, end - time.monotonic())).not_done:
                    sections.stop(name)
        print(short(folder), flush=True)


if __name__ == "__main__":
    main()
