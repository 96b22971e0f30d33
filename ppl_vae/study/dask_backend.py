"""joblib's dask backend, mended in two places.

Knows the inside of joblib's backend; must not know what a cell does. Imported only when dask is asked for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from joblib._dask import DaskDistributedBackend


class GivenUp(NamedTuple):
    """A task that ended without a result of its own."""

    name: Any
    error: BaseException


class Backend(DaskDistributedBackend):
    """Hears of a task that dask gave up, which joblib's own waits for for ever, and leaves no task to the client.

    dask gives a task up (`KilledWorker`) when several workers died under it. Its outcome is then its first argument,
    by which the caller knows it, and the exception; the other tasks go on. joblib also runs tasks in the client when
    the cluster has one worker.
    """

    def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
        future = super().submit(func, callback)
        (_, (name, *_), _) = func.items[0]

        def report(done: Any) -> None:
            if error := done.exception():
                callback(GivenUp(name, error))

        future.add_done_callback(report)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        return [tuple(out)] if isinstance(out, GivenUp) else super().retrieve_result_callback(out)

    def effective_n_jobs(self, n_jobs: int) -> int:
        return max(2, super().effective_n_jobs(n_jobs))
