"""The engines that cells can run on, all of them joblib's: processes here (loky), this one, a dask
or a ray cluster.

Knows joblib, and dask and ray when they are installed and asked for; must not know what a cell
does.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import joblib

from ppl_vae.checks import choice, refuse


class Engine(NamedTuple):
    """How cells are run.

    Args:
        parallel: makes the `joblib.Parallel` that runs cells.
        at_a_time: how many of them run at a time.
    """

    parallel: Callable[[], joblib.Parallel]
    at_a_time: int


@contextlib.contextmanager
def engine(
    name: str, jobs: int, scheduler: str | None = None, address: str | None = None
) -> Iterator[Engine]:
    """The engine of a name for the length of a `with` block.

    Args:
        name: one of `ENGINES`.
        jobs: processes on this machine, where no cluster is named.
        scheduler: the address of a running dask scheduler; None makes a cluster here.
        address: the address of a running ray cluster; None makes one here.

    Raises:
        InputError: for an unknown name, an address that the engine does not take, a package that is
            not installed, and a cluster that cannot be reached.
    """
    choice("--backend", name, ENGINES)
    for option, value, owner in (("--scheduler", scheduler, "dask"), ("--address", address, "ray")):
        if value is not None and name != owner:
            refuse(option, value, f"--backend {owner} beside it")
    with ENGINES[name](jobs, scheduler or address) as made:
        yield made


def _engine(at_a_time: int, pre_dispatch: int | str, **config: Any) -> Engine:
    """Cells go out one by one, `pre_dispatch` of them ahead of the first result, and come back as
    they finish.

    joblib runs cells in the calling process when n_jobs is 1; asking for two workers and handing
    out one cell at a time keeps every cell in a worker, where its threads, its generators and its
    death do the study no harm.
    """

    def make() -> joblib.Parallel:
        with joblib.parallel_config(n_jobs=max(2, at_a_time), **config):
            return joblib.Parallel(
                return_as="generator_unordered", batch_size=1, pre_dispatch=pre_dispatch
            )

    return Engine(make, at_a_time)


@contextlib.contextmanager
def _loky(jobs: int, _: str | None) -> Iterator[Engine]:
    """Worker processes on this machine, one thread each."""
    yield _engine(jobs, jobs, backend="loky", inner_max_num_threads=1)


@contextlib.contextmanager
def _sequential(_jobs: int, _address: str | None) -> Iterator[Engine]:
    """This process, one cell after another: no worker to start, and a debugger sees them; a crash
    ends the study.
    """
    yield Engine(
        lambda: joblib.Parallel(n_jobs=1, backend="sequential", return_as="generator_unordered"), 1
    )


@contextlib.contextmanager
def _dask(jobs: int, address: str | None) -> Iterator[Engine]:
    """The workers of a dask cluster, or of one made here with `jobs` processes."""
    distributed = _extra("distributed", "dask")
    from ppl_vae.study.dask_backend import Backend

    with contextlib.ExitStack() as stack:
        if address is None:
            # By default a worker that takes 15 s to start again, as on a busy machine, is struck
            # off the cluster.
            config = importlib.import_module("dask.config")
            stack.enter_context(config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}))
            local = distributed.LocalCluster(
                n_workers=jobs, threads_per_worker=1, dashboard_address=None
            )
            address = stack.enter_context(local).scheduler_address
        try:
            client = stack.enter_context(
                distributed.Client(address, timeout=10, set_as_default=False)
            )
        except (OSError, ValueError, TypeError) as error:
            refuse("--scheduler", address, f"the address of a running dask scheduler ({error})")
        threads = max(client.nthreads().values(), default=1)
        if threads > 1:
            refuse(
                "--scheduler",
                f"workers with {threads} threads",
                "one",
                "start them as `dask worker --nthreads 1`",
            )
        yield _engine(max(1, len(client.nthreads())), "all", backend=Backend(client))


@contextlib.contextmanager
def _ray(jobs: int, address: str | None) -> Iterator[Engine]:
    """The processors of a ray cluster, or `jobs` of this machine's."""
    ray = _extra("ray", "ray")
    ray_backend = importlib.import_module("ray.util.joblib.ray_backend")
    # ray's own class inherits "no generators" from joblib's multiprocessing backend, whose reason
    # (a pool that must be closed by the thread that opened it) does not hold for ray's actors.
    backend = type("Backend", (ray_backend.RayBackend,), {"supports_return_generator": True})
    try:
        ray.init(
            address=address, **({} if address else {"num_cpus": jobs, "include_dashboard": False})
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        refuse("--address", str(address), f"the address of a running ray cluster ({error})")
    try:
        processors = int(ray.cluster_resources().get("CPU", 1)) if address else jobs
        yield _engine(processors, processors, backend=backend())
    finally:
        ray.shutdown()


def _extra(module: str, extra: str) -> ModuleType:
    """An optional package; raises `InputError` with the way to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        refuse(
            "--backend",
            extra,
            f"the package {module!r} installed",
            f"pip install 'ppl-vae[{extra}]'",
        )


ENGINES = {"loky": _loky, "sequential": _sequential, "dask": _dask, "ray": _ray}
