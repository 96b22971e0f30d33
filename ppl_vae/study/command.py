"""The command line that every study's script has.

Knows the other files of this room and puts them in order; must not know what a cell does.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import joblib
from tqdm import tqdm

from ppl_vae.checks import InputError, choice, integer, refuse
from ppl_vae.study.backends import ENGINES, engine
from ppl_vae.study.cache import Cache, folder
from ppl_vae.study.cells import SCALES, Cell, Script, cells_of, read_script
from ppl_vae.study.results import Provenance, write_results
from ppl_vae.study.workers import outcomes


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the study in the program's main script, then exit: 0, or 1 after failed cells, or 2 for a
    bad value.
    """
    # A batch system's SIGTERM is an interruption like the keyboard's, so that it stops the workers
    # too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = _command(
            read_script(sys.modules["__main__"]), sys.argv[1:] if argv is None else list(argv)
        )
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted; finished cells are kept and the same command goes on", file=sys.stderr)
        status = 130
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(status)


class _Parser(argparse.ArgumentParser):
    """Reports a bad option as every other bad value is reported."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _parse(script: Script, argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        description=script.question,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    say = parser.add_argument
    say(
        "--scale",
        default="laptop",
        help="smoke (seconds), laptop (the default) or paper (the original sizes)",
    )
    say("--seeds", type=int, help="seeds 0 .. N-1 for every setting")
    say(
        "--jobs",
        type=int,
        default=joblib.cpu_count(),
        help="cells at a time (default: the number of cores)",
    )
    say(
        "--backend",
        default="loky",
        help=f"{', '.join(ENGINES)} (default loky: processes on this machine)",
    )
    say(
        "--scheduler",
        help=(
            "a dask scheduler's address; without it --backend dask makes a cluster on this machine"
        ),
    )
    say(
        "--address",
        help="a ray cluster's address; without it --backend ray makes one on this machine",
    )
    say(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=VALUE[,VALUE]",
        help="these cells alone; may be repeated",
    )
    say(
        "--redraw",
        action="store_true",
        help="figure and answer from cached rows; nothing is computed",
    )
    say("--list", action="store_true", help="list the cells and whether each is cached")
    say("--results", type=Path, help="folder for rows.csv, figure.png and answer.md")
    say("--cache", type=Path, help="folder for the rows of finished cells")
    chosen = parser.parse_args(argv)
    choice("--scale", chosen.scale, SCALES)
    choice("--backend", chosen.backend, ENGINES)
    chosen.seeds = script.seeds[chosen.scale] if chosen.seeds is None else chosen.seeds
    integer("--seeds", chosen.seeds)
    integer("--jobs", chosen.jobs)
    return chosen


def _command(script: Script, argv: Sequence[str]) -> int:
    """Do what the options say; the exit status."""
    chosen = _parse(script, argv)
    cells = cells_of(script, chosen.scale, chosen.seeds, chosen.only)
    kept = chosen.cache or script.path.parent / ".cache" / script.name
    cache = Cache(folder("--cache", kept))
    if chosen.list:
        for cell in cells:
            print(f"{'cached' if cache.load(cell) else '-':8}{cell}")
        return 0
    failures = [] if chosen.redraw else _compute(script, cells, cache, chosen)
    for line in failures:
        print(line, file=sys.stderr)
    # What is not the whole study must not replace results that are.
    partial = chosen.scale == "smoke" or chosen.only
    usual = (
        kept / f"results-{chosen.scale}"
        if partial
        else script.path.parent / "results" / script.name
    )
    _results(script, cells, cache, chosen, chosen.results or usual)
    return 1 if failures else 0


def _compute(
    script: Script, cells: Sequence[Cell], cache: Cache, chosen: argparse.Namespace
) -> list[str]:
    """Run the cells that are not cached, each kept as soon as it ends; a report of the failed ones,
    line by line.
    """
    missing = [cell for cell in cells if cache.load(cell) is None]
    if not missing:
        return []
    failures = []
    look = {
        "initial": len(cells) - len(missing),
        "desc": script.name,
        "unit": "cell",
        "mininterval": 0.5,
    }
    workers = engine(chosen.backend, chosen.jobs, chosen.scheduler, chosen.address)
    with workers as running, tqdm(total=len(cells), **look) as bar:
        for cell, outcome in outcomes(script, missing, running):
            if outcome.rows is None:
                place = cache.save_failure(cell, outcome.failure)
                failures.append(
                    f"  {cell}: {outcome.failure.strip().splitlines()[-1]}  (all of it: {place})"
                )
            else:
                cache.save(cell, outcome.rows, outcome.cpu_seconds)
            bar.update()
    return [f"{len(failures)} of {len(cells)} cells failed:", *sorted(failures)] if failures else []


def _results(
    script: Script, cells: Sequence[Cell], cache: Cache, chosen: argparse.Namespace, where: Path
) -> None:
    """Write the results of the cells that are cached, and say where."""
    entries = [entry for cell in cells if (entry := cache.load(cell))]
    if not entries and chosen.redraw:
        refuse("--redraw", "no cached cell", "at least one", "run the study without --redraw first")
    if not entries:
        return
    rows = [row for entry in entries for row in entry["rows"]]
    provenance = Provenance(
        command=_again(script, chosen),
        axes=list(dict.fromkeys(axis for cell in cells for axis in cell.settings)),
        scale=chosen.scale,
        seeds=len({cell.seed for cell in cells}),
        cells=len(cells),
        finished=len(entries),
        cpu_seconds=sum(entry["cpu_seconds"] for entry in entries),
        selection=chosen.only,
    )
    left_out = write_results(script, rows, provenance, folder("--results", where))
    missing = f", {provenance.missing} of {len(cells)} cells missing" if provenance.missing else ""
    print(
        f"{where}: {len(rows)} "
        f"rows{missing}{f'; no figure or answer ({left_out})' if left_out else ''}",
        file=sys.stderr,
    )


def _again(script: Script, chosen: argparse.Namespace) -> str:
    """The command that makes these results again."""
    options: list[Any] = ["--scale", chosen.scale, "--seeds", chosen.seeds]
    options += [part for text in chosen.only for part in ("--only", text)]
    return shlex.join(
        ["python", f"{script.path.parent.name}/{script.path.name}", *map(str, options)]
    )
