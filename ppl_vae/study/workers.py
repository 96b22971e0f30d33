"""Cells sent to workers, and what comes back, whatever happens to the worker.

Knows cells and engines; must not know where rows are kept.
"""

import json
import random
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from joblib import delayed

from ppl_vae.checks import refuse
from ppl_vae.study.backends import Engine
from ppl_vae.study.cells import Cell, Script, arguments
from ppl_vae.study.origin import COLUMNS, machine


class Outcome(NamedTuple):
    """What came back of a cell.

    Args:
        rows: its rows; None where it failed.
        seconds: how long it took.
        cpu_seconds: processor time, in seconds.
        machine: the machine it ran on.
        failure: the traceback of its failure.
    """

    rows: list[dict[str, Any]] | None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    machine: Mapping[str, str] | None = None
    failure: str = ""


def outcomes(
    script: Script, cells: Sequence[Cell], engine: Engine, scratch: Callable[[Cell], Path]
) -> Iterator[tuple[Cell, Outcome]]:
    """Every cell once with its outcome, in the order in which they finish.

    A worker's death may take along cells that did not cause it. Those that the engine gave up, or
    that were running when it broke (the first of those left, since cells start in order), go again,
    each alone, after all the others; a cell that fails alone is the cause.

    Args:
        script: the study.
        cells: the cells to run.
        engine: what runs them.
        scratch: names a cell's folder for what it saves on the way.
    """
    groups: deque[Sequence[int]] = deque([range(len(cells))] if cells else [])
    while groups:
        group = groups.popleft()
        done, suspects = set(), []
        try:
            for index, outcome in engine.parallel()(_calls(script, cells, group, scratch)):
                done.add(index)
                if isinstance(outcome, Outcome):
                    yield cells[index], outcome
                else:
                    suspects.append((index, outcome))
        except Exception as error:
            left = [index for index in group if index not in done]
            suspects += [(index, error) for index in left[: engine.at_a_time]]
            groups.extendleft([rest] if (rest := left[engine.at_a_time :]) else [])
        if len(group) == 1:
            yield from ((cells[index], _given_up(error)) for index, error in suspects)
        else:
            groups.extend([index] for index, _ in suspects)


def _calls(
    script: Script,
    cells: Sequence[Cell],
    group: Sequence[int],
    scratch: Callable[[Cell], Path],
) -> Iterator[Any]:
    """What joblib is to call, one call a cell."""
    for index in group:
        cell = cells[index]
        kwargs = arguments(script.run, cell, scratch(cell))
        yield delayed(perform)(index, script.run, cell.settings, kwargs)


def _given_up(error: BaseException) -> Outcome:
    """The outcome of a cell that could not tell its own: its worker died, or it could not be
    sent.
    """
    return Outcome(None, failure=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def perform(
    index: int, run: Callable[..., Any], settings: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> tuple[int, Outcome]:
    """One cell, in a worker process: one thread, every global generator seeded.

    An error is turned into its traceback.

    Args:
        index: the cell's, by which the caller knows it.
        run: the script's function.
        settings: the cell's.
        kwargs: what `run` is called with.

    Returns:
        The index and the outcome.
    """
    torch.set_num_threads(1)
    for seed in (torch.manual_seed, numpy.random.seed, random.seed):
        seed(kwargs["seed"])
    if "scratch" in kwargs:
        kwargs["scratch"].mkdir(parents=True, exist_ok=True)
    began, cpu_began = time.perf_counter(), time.process_time()
    try:
        rows = _rows({**settings, "seed": kwargs["seed"]}, run(**kwargs))
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        return index, Outcome(rows, seconds, cpu_seconds, machine())
    except (Exception, SystemExit):
        return index, Outcome(None, failure=traceback.format_exc())


def _rows(cell: dict[str, Any], measured: Any) -> list[dict[str, Any]]:
    """The cell's settings beside what `run` measured, as plain values."""
    rows = [measured] if isinstance(measured, Mapping) else measured
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        refuse("run's result", type(measured).__name__, "a dict or a list of dicts")
    for name in {name for row in rows for name in row if name in (*cell, *COLUMNS)}:
        expected = f"names that no axis has and that are none of {', '.join(COLUMNS)}"
        refuse("run's result", f"a value named {name!r}", expected)
    return json.loads(json.dumps([{**cell, **row} for row in rows], default=_plain))


def _plain(value: Any) -> Any:
    """An array, tensor or numpy number as numbers."""
    if not hasattr(value, "tolist"):
        refuse(
            "a row's value",
            type(value).__name__,
            "a number, string, boolean, None, array, or a list or dict of them",
        )
    return value.tolist()
