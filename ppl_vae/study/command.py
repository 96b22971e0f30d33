"""The command line that every study's script has.

Knows the other files of this room and puts them in order; must not know what a cell does.
"""

import argparse
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import joblib
from tqdm import tqdm

from ppl_vae.checks import InputError, choice, integer, number, refuse
from ppl_vae.study.backends import ENGINES, Engine, engine
from ppl_vae.study.cache import Cache, Entry, folder
from ppl_vae.study.cells import SCALES, Cell, Script, cells_of, read_script
from ppl_vae.study.origin import commit_of
from ppl_vae.study.plan import expected_seconds, that_fit
from ppl_vae.study.results import Provenance, Results, answer_again, write_results
from ppl_vae.study.workers import outcomes
from ppl_vae.terminal import interrupts


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the study in the program's main script, then exit.

    The status is 0, or 1 after failed cells, 2 for a bad value, 130 after an interruption.

    Args:
        argv: the options; None takes those of the command line.
    """
    try:
        with interrupts():  # a batch system's SIGTERM, too, so that it stops the workers
            status = _command(
                read_script(sys.modules["__main__"]), sys.argv[1:] if argv is None else list(argv)
            )
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted; finished cells are kept and the same command goes on", file=sys.stderr)
        status = 130
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
        "--hours",
        type=float,
        metavar="H",
        help="as many cells as fit into H hours, cheapest first, by the times of earlier ones",
    )
    say(
        "--redraw",
        action="store_true",
        help="figure and answer from cached rows; nothing is computed",
    )
    say(
        "--answer",
        action="store_true",
        help="figure and answer from the rows in the results' folder; nothing is computed",
    )
    say("--list", action="store_true", help="list the cells and whether each is cached")
    say("--results", type=Path, help="folder for the rows, the figure and the answer")
    say("--cache", type=Path, help="folder for the rows of finished cells")
    chosen = parser.parse_args(argv)
    choice("--scale", chosen.scale, SCALES)
    choice("--backend", chosen.backend, ENGINES)
    chosen.seeds = script.seeds[chosen.scale] if chosen.seeds is None else chosen.seeds
    integer("--seeds", chosen.seeds)
    integer("--jobs", chosen.jobs)
    if chosen.hours is not None:
        number("--hours", chosen.hours, 0.0)
    return chosen


def _command(script: Script, argv: Sequence[str]) -> int:
    """Do what the options say; the exit status."""
    chosen = _parse(script, argv)
    published = script.path.parent / "results" / script.name
    if chosen.answer:
        return _answer(script, chosen.results or published)
    cells = cells_of(script, chosen.scale, chosen.seeds, chosen.only)
    kept = folder("--cache", chosen.cache or script.path.parent / ".cache" / script.name)
    cache = Cache(kept.resolve())
    if chosen.list:
        for cell in cells:
            print(f"{'cached' if cache.load(cell) else '-':8}{cell}")
        return 0
    failures, left = ([], []) if chosen.redraw else _compute(script, cells, cache, chosen)
    for line in [*failures, *left]:
        print(line, file=sys.stderr)
    # What is not the whole study must not replace results that are.
    partial = chosen.scale == "smoke" or chosen.only or left
    usual = kept / f"results-{chosen.scale}" if partial else published
    _results(script, cells, cache, chosen, chosen.results or usual)
    return 1 if failures else 0


def _answer(script: Script, where: Path) -> int:
    """Write figure and answer again from the rows in the folder `where`; the exit status."""
    left_out = answer_again(script, where)
    figure = f"; the figure is left as it was ({left_out})" if left_out else ""
    print(f"{where}: answered again{figure}", file=sys.stderr)
    return 0


def _compute(
    script: Script, cells: Sequence[Cell], cache: Cache, chosen: argparse.Namespace
) -> tuple[list[str], list[str]]:
    """Run the cells that are not cached, each kept as soon as it ends; reports, line by line, of
    those that failed and of those that did not fit into the time.
    """
    missing = [cell for cell in cells if cache.load(cell) is None]
    if not missing:
        return [], []
    deadline = time.monotonic() + 3600 * (math.inf if chosen.hours is None else chosen.hours)
    failures: list[str] = []
    left = list(missing)
    look = {
        "initial": len(cells) - len(missing),
        "desc": script.name,
        "unit": "cell",
        "mininterval": 0.5,
    }
    workers = engine(chosen.backend, chosen.jobs, chosen.scheduler, chosen.address)
    with workers as running, tqdm(total=len(cells), **look) as bar:
        while chosen_now := _next(left, cache, chosen, deadline, running):
            left = [cell for cell in left if cell not in chosen_now]
            failures += _run(script, chosen_now, cache, running, bar)
    if failures:
        failures = [f"{len(failures)} of {len(cells)} cells failed:", *sorted(failures)]
    if left:
        head = f"{len(left)} of {len(cells)} cells do not fit into {chosen.hours:g} hours:"
        return failures, [head, *(f"  {cell}" for cell in left)]
    return failures, []


def _next(
    left: Sequence[Cell],
    cache: Cache,
    chosen: argparse.Namespace,
    deadline: float,
    running: Engine,
) -> Sequence[Cell]:
    """The cells to run now: all of them, or those that fit into the time that is left.

    Where no cell of this scale was ever timed, the first one is run alone to know more.
    """
    if chosen.hours is None:
        return left
    times = list(cache.times(chosen.scale))
    budget = deadline - time.monotonic()
    if not times:
        return left[:1] if budget > 0 else []
    seconds = [expected_seconds(cell, times) for cell in left]
    return that_fit(left, seconds, budget, running.at_a_time)


def _run(
    script: Script, cells: Sequence[Cell], cache: Cache, running: Engine, bar: tqdm
) -> list[str]:
    """Run these cells, each kept as soon as it ends; a line for each that failed."""
    failures = []
    commit = commit_of(script.path.parent)
    for cell, outcome in outcomes(script, cells, running, cache.scratch):
        if outcome.rows is None:
            place = cache.save_failure(cell, outcome.failure)
            last = outcome.failure.strip().splitlines()[-1]
            failures.append(f"  {cell}: {last}  (all of it: {place})")
        else:
            origin = {"commit": commit, **(outcome.machine or {})}
            cache.save(cell, Entry(outcome.rows, outcome.seconds, outcome.cpu_seconds, origin))
        bar.update()
    return failures


def _results(
    script: Script, cells: Sequence[Cell], cache: Cache, chosen: argparse.Namespace, where: Path
) -> None:
    """Write the results of the cells that are cached, and say where."""
    entries = [entry for cell in cells if (entry := cache.load(cell))]
    if not entries and chosen.redraw:
        refuse("--redraw", "no cached cell", "at least one", "run the study without --redraw first")
    if not entries:
        return
    rows = [row for entry in entries for row in entry.rows]
    origins = [entry.origin for entry in entries for _ in entry.rows]
    provenance = Provenance(
        command=_again(script, chosen),
        axes=list(dict.fromkeys(axis for cell in cells for axis in cell.settings)),
        scale=chosen.scale,
        seeds=len({cell.seed for cell in cells}),
        cells=len(cells),
        finished=len(entries),
        cpu_seconds=sum(entry.cpu_seconds for entry in entries),
        selection=chosen.only,
    )
    results = Results(rows, origins, provenance)
    left_out = write_results(script, results, folder("--results", where))
    missing = f", {provenance.missing} of {len(cells)} cells missing" if provenance.missing else ""
    reason = f"; no figure or answer ({left_out})" if left_out else ""
    print(f"{where}: {len(rows)} rows{missing}{reason}", file=sys.stderr)


def _again(script: Script, chosen: argparse.Namespace) -> str:
    """The command that makes these results again."""
    options: list[Any] = ["--scale", chosen.scale, "--seeds", chosen.seeds]
    options += [part for text in chosen.only for part in ("--only", text)]
    return shlex.join(
        ["python", f"{script.path.parent.name}/{script.path.name}", *map(str, options)]
    )
