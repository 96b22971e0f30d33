"""A joblib backend on dask futures.

Knows joblib's and dask's public interfaces; must not know what a cell does. joblib's own dask
backend waits for ever for a task that dask gave up, and runs the tasks in the client when the
cluster has one worker.
"""

from collections.abc import Callable
from typing import Any

from joblib.parallel import ParallelBackendBase


class Backend(ParallelBackendBase):
    """Each task is a dask future; dask runs it again elsewhere when its worker dies.

    A task that dask gave up (`KilledWorker`: several workers died under it) ends as the pair of its
    first argument, by which the caller knows it, and the error; the other tasks go on. A cluster
    without workers, because they are still queued or have just died, keeps its tasks until it has
    some.

    Args:
        client: a `distributed.Client`.
    """

    supports_retrieve_callback = True

    def __init__(self, client: Any) -> None:
        super().__init__(nesting_level=0)
        self.client = client

    def effective_n_jobs(self, n_jobs: int) -> int:
        return max(2, len(self.client.nthreads()))

    def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
        ((_, (name, *_), _),) = func.items
        future = self.client.submit(func, pure=False)
        future.add_done_callback(lambda done: callback((name, done)))
        return future

    def retrieve_result_callback(self, out: tuple[Any, Any]) -> list:
        name, future = out
        try:
            return future.result()
        except BaseException as error:
            return [(name, error)]
