"""What a study's script says, and the cells it stands for, each named by a hash of all that its
rows depend on.

Knows the contract of a script; must not know how cells are run or where their rows are kept.
"""

import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ppl_vae import checks
from ppl_vae.study.sources import fingerprint

SEEDS = {"smoke": 1, "laptop": 3, "paper": 5}
SCALES = tuple(SEEDS)
# What a ± over seeds leaves out, unless a study says otherwise.
SAME_DATA = (
    "It covers another initialisation, order of the data and noise, not other data: every seed has "
    "the same training and test data."
)


@dataclass(frozen=True)
class Script:
    """A study's script, read.

    Args:
        path: where it is.
        question: its docstring.
        grid: its `GRID`.
        run: one cell -> a row or rows.
        draw: rows of all cells -> a figure.
        answer: rows of all cells -> markdown; None where the script has none.
        table: arguments of the answer's `table`; None where the script has none.
        seeds: how many seeds each scale has.
        source: the fingerprint of the source that its rows depend on.
        errors: what the intervals cover and what they leave out.
    """

    path: Path
    question: str
    grid: Any
    run: Callable[..., Any]
    draw: Callable[[list[dict]], Any]
    answer: Callable[[list[dict]], str] | None
    table: Mapping[str, Any] | None
    seeds: Mapping[str, int]
    source: str
    errors: str = ""

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        settings: the values of the grid's axes.
        seed: its seed.
        scale: its scale.
        key: of its rows in the cache.
    """

    settings: dict[str, Any]
    seed: int
    scale: str
    key: str

    def __str__(self) -> str:
        return " ".join(
            f"{axis}={value}" for axis, value in {**self.settings, "seed": self.seed}.items()
        )


def read_script(module: ModuleType) -> Script:
    """The study that a script's module states.

    Args:
        module: the script, imported.

    Raises:
        InputError: for a part that is missing, and for an unknown scale in `SEEDS`.
    """
    for name in ("__file__", "__doc__", "GRID", "run", "draw"):
        if not getattr(module, name, None):
            checks.refuse(
                "study", f"a module without {name}", "a script with a docstring, GRID, run and draw"
            )
    path = Path(str(module.__file__)).resolve()
    seeds = getattr(module, "SEEDS", {})
    checks.options("SEEDS", seeds, SCALES)
    return Script(
        path=path,
        question=inspect.cleandoc(str(module.__doc__)),
        grid=module.GRID,
        run=module.run,
        draw=module.draw,
        answer=getattr(module, "answer", None),
        table=getattr(module, "TABLE", None),
        seeds={**SEEDS, **seeds},
        source=fingerprint(path),
        errors=str(getattr(module, "ERRORS", SAME_DATA)),
    )


def cells_of(script: Script, scale: str, seeds: int, only: Sequence[str] = ()) -> list[Cell]:
    """Every cell of a study in order: settings as the grid lists them, seeds innermost.

    Args:
        script: the study.
        scale: which of the grids, where each scale has its own.
        seeds: how many; they are 0 .. seeds-1.
        only: texts "axis=value[,value]"; the cells that match each are kept (values compare as
            text; "seed" is an axis).

    Raises:
        InputError: for a grid whose axes are not those that `run` takes, and for a text that names
            no axis or value of it.
    """
    settings = [part for product in _products(script, scale) for part in _settings(product)]
    every = [_cell(script, part, seed, scale) for part in settings for seed in range(seeds)]
    unique = list({cell.key: cell for cell in every}.values())
    for text in only:
        unique = _matching(unique, text)
    return unique


def axis_values(script: Script) -> dict[str, dict[str, Any]]:
    """Every value that an axis has at any scale, by the text that stands for it in rows.csv.

    Args:
        script: the study.

    Returns:
        {axis: {text: value}}.
    """
    grid = script.grid
    by_scale = isinstance(grid, Mapping) and set(grid) <= set(SCALES)
    found: dict[str, dict[str, Any]] = {}
    for part in grid.values() if by_scale else [grid]:
        for product in [part] if isinstance(part, Mapping) else part:
            for axis, values in product.items():
                texts = {"" if value is None else str(value): value for value in values}
                found.setdefault(axis, {}).update(texts)
    return found


def _products(script: Script, scale: str) -> Sequence[Mapping[str, Sequence[Any]]]:
    """The grid's products at this scale, checked against `run`'s signature."""
    grid = script.grid
    if isinstance(grid, Mapping) and set(grid) <= set(SCALES):
        grid = grid[checks.choice("--scale", scale, grid)]
    products = [grid] if isinstance(grid, Mapping) else grid
    for product in products:
        for axis, values in product.items():
            _check_axis(axis, values)
        try:
            inspect.signature(script.run).bind(
                **arguments(script.run, Cell(dict(product), 0, scale, ""), Path())
            )
        except TypeError as error:
            checks.refuse("GRID", f"axes {', '.join(product)}", f"those that run takes ({error})")
    return products


def arguments(run: Callable[..., Any], cell: Cell, scratch: Path) -> dict[str, Any]:
    """What `run` is called with: the cell's settings and seed, and what else it has parameters for.

    Args:
        run: the script's function.
        cell: the cell, whose scale is given if `run` has a parameter `scale`.
        scratch: a folder for what `run` saves on the way, given if it has a parameter `scratch`.
    """
    named = inspect.signature(run).parameters
    offered = {"scale": cell.scale, "scratch": scratch}
    wanted = {name: value for name, value in offered.items() if name in named}
    return {**cell.settings, "seed": cell.seed, **wanted}


def _check_axis(axis: str, values: object) -> None:
    if axis in ("seed", "scale", "scratch"):
        checks.refuse(
            "GRID",
            f"an axis {axis!r}",
            "other names",
            "the command line sets seeds and scale, and the study makes the scratch folder",
        )
    plain = isinstance(values, list | tuple) and all(
        isinstance(v, int | float | str | bool | None) for v in values
    )
    if not plain or not values:
        expected = "a list of numbers, strings, booleans or None"
        checks.refuse(
            f"GRID[{axis!r}]",
            values,
            expected,
            "name a compound setting by a string that run looks up",
        )


def _settings(product: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [
        dict(zip(product, values, strict=True)) for values in itertools.product(*product.values())
    ]


def _cell(script: Script, settings: dict[str, Any], seed: int, scale: str) -> Cell:
    """The cell with its key: sha256 of study, settings, seed, scale and the source that its rows
    depend on.
    """
    parts = [script.name, settings, seed, scale, script.source]
    text = json.dumps(parts, sort_keys=True)
    return Cell(settings, seed, scale, hashlib.sha256(text.encode()).hexdigest())


def _matching(cells: Iterable[Cell], text: str) -> list[Cell]:
    """The cells whose axis has one of the values in "axis=value[,value]"."""
    axis, equals, values = text.partition("=")
    levels: dict[str, set[str]] = {}
    for cell in (cells := list(cells)):
        for name, value in {**cell.settings, "seed": cell.seed}.items():
            levels.setdefault(name, set()).add(str(value))
    if not equals:
        checks.refuse("--only", text, "axis=value[,value]")
    checks.choice("--only", axis, sorted(levels))
    named = (
        [values] if values in levels[axis] else values.split(",")
    )  # one value may have a comma in it
    wanted = {checks.choice(f"--only {axis}", value, sorted(levels[axis])) for value in named}
    return [cell for cell in cells if str({**cell.settings, "seed": cell.seed}.get(axis)) in wanted]
