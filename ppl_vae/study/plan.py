"""Which cells fit into the time there is.

Knows how long earlier cells took; must not know what they computed.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ppl_vae.study.cells import Cell

__all__ = ["expected_seconds", "that_fit"]


def expected_seconds(cell: Cell, times: Sequence[tuple[Mapping[str, Any], float]]) -> float:
    """The mean time of earlier cells with the same settings, else of all earlier cells.

    Args:
        cell: the cell.
        times: settings and seconds of earlier cells.

    Returns:
        Seconds; NaN when there are no earlier cells.
    """
    alike = [seconds for settings, seconds in times if settings == cell.settings]
    known = alike or [seconds for _, seconds in times]
    return math.fsum(known) / len(known) if known else math.nan


def that_fit(
    cells: Sequence[Cell], seconds: Sequence[float], budget: float, at_a_time: int
) -> list[Cell]:
    """As many cells as end within a budget, cheapest first, each on the worker that is free first.

    Args:
        cells: the cells to choose from.
        seconds: how long each is expected to take.
        budget: seconds from now.
        at_a_time: the number of workers.
    """
    free_at = [0.0] * at_a_time
    chosen = []
    for index in sorted(range(len(cells)), key=lambda index: seconds[index]):
        end = free_at[0] + seconds[index]
        if end > budget:
            break
        heapq.heapreplace(free_at, end)
        chosen.append(cells[index])
    return chosen
