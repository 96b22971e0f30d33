"""What a run reports: one row an epoch, kept in memory and in `history.csv`.

Knows rows of numbers; knows nothing of what they mean.
"""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppl_vae.files import saved

__all__ = ["History"]


@dataclass
class History:
    """The rows of a run, one an epoch, in nats per datum (higher `lower_bound` is better), and how
    it was run.

    `best_epoch` is the epoch whose parameters the VAE holds in the end, `tier` the way its steps
    were run ("off", "record" or "inductor"), `kl_kinds` says for each site whether its KL was
    analytic or sampled. A schedule's column holds the value that the epoch ended at.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    kl_kinds: dict[str, str] = field(default_factory=dict)
    tier: str = "off"
    best_epoch: int | None = None
    stopped: str = ""

    def __repr__(self) -> str:
        """One line: how far the run went, and its last row's numbers."""
        row = self.rows[-1] if self.rows else {}
        last = ", ".join(
            f"{name}={value:.4g}" for name, value in row.items() if isinstance(value, float)
        )
        return (
            f"History({len(self.rows)} epochs, tier={self.tier!r}, kl_kinds={self.kl_kinds}; "
            f"last: {last or 'none'})"
        )

    def write(self, path: Path) -> None:
        """Write the rows as CSV, atomically; columns in the order in which they first appeared."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        with saved(path) as file:
            file.write(text.getvalue().encode())
