"""Executors that compute members: local processes of one thread each, or this thread."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_btn.core.compute.device import device_for, works
from napari_btn.core.compute.scratch import remove_dead, scratch_folder
from napari_btn.core.settings import TileSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Compute",
    "Inline",
    "StopSign",
    "StoppedError",
    "WorkerDiedError",
    "compute_for",
    "one_thread",
    "process_pool",
    "slots",
]

# Every layer allocates and frees tensors of megabytes. Huge pages that a worker keeps instead of returning
# them each time save a tenth to a quarter of the CPU-seconds. Only glibc reads this. loky would take kept
# memory for a leak and replace the worker in the middle of its work; `_keep_worker` prevents that.
_KEEP_PAGES = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        f"glibc.malloc.mmap_threshold={256 * 2**20}",
        f"glibc.malloc.trim_threshold={512 * 2**20}",
    )
)
_IDLE_S = 120  # a worker without work ends after this time
_NICE = 5  # lower priority of workers, so that a window on the same cores stays responsive
_POOL: list[Executor] = []
_POOL_LOCK = threading.Lock()
_SIGNS = "napari-btn-stop-"
_WATCH_S = 1.0  # how soon a worker notices that its parent has died


class WorkerDiedError(RuntimeError):
    """A worker process died and its work can't be repeated; the message is for the user."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one torch thread in this context: members run in parallel, and results don't depend on the count."""
    import torch  # workers load torch themselves, so that they can start before this process has it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def process_pool() -> Executor:
    """Return the local pool: one process per core, started at once and without importing the user's script.

    It is not the pool of joblib, which other users of joblib in this process share. A daemonic process, such as
    a child of ``multiprocessing.Pool``, may have no children, so its tasks run in its own thread.
    """
    if multiprocessing.current_process().daemon:
        return Inline()
    from joblib.externals.loky import ProcessPoolExecutor, cpu_count

    env = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", _KEEP_PAGES),
    }
    with _POOL_LOCK:
        if not (_POOL and _accepts(_POOL[0])):
            pool = ProcessPoolExecutor(cpu_count(), timeout=_IDLE_S, env=env, initializer=_keep_worker)
            _POOL[:] = [pool]
            pool.submit(int)  # processes start with the first task; this one makes them start now
            # a child of multiprocessing waits for its own children, and would wait until they are idle for so long
            Finalize(None, _end_pool, exitpriority=100)
        return _POOL[0]


def _end_pool() -> None:
    """End the processes of the pool without waiting for their work."""
    while _POOL:
        _POOL.pop().shutdown(kill_workers=True)  # type: ignore[call-arg]


def _forget_pool() -> None:
    """Forget the pool of the parent in a forked child, whose threads and pipes the child doesn't have."""
    global _POOL_LOCK
    _POOL.clear()
    # after a plain os.fork, Python would wait at the exit for processes that are not the child's
    getattr(multiprocessing.process, "_children", set()).clear()
    _POOL_LOCK = threading.Lock()
    _folder.cache_clear()
    if "torch" in sys.modules:
        # OpenMP's threads stayed in the parent, and a parallel loop would wait for them forever
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def slots(executor: Executor) -> int:
    """Return the number of tasks that an executor runs in parallel (2 if unknown).

    Parameters
    ----------
    executor : concurrent.futures.Executor
        A pool, or the executor of a dask client.
    """
    client = getattr(executor, "_client", None)
    found = getattr(executor, "_max_workers", 2) if client is None else sum(client.nthreads().values())
    return max(int(found), 1)


def _keep_worker() -> None:
    """Keep a worker although its memory grows, lower its priority, end it with its parent, and load torch.

    Memory grows with kept pages and with the first tile of a volume. loky takes 300 MB of growth for a leak
    and replaces the worker, with a warning from its own thread. If warnings are errors, that thread ends and
    the work never finishes.
    """
    from joblib.externals.loky import process_executor

    process_executor._MAX_MEMORY_LEAK_SIZE = 2**62
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(_NICE)
    import torch  # noqa: F401  (every task needs torch, and the first one should not wait for it)


def _end_with(parent: int) -> None:
    """End this process once its parent has died; a killed parent can't end its workers itself."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)


def _accepts(pool: Executor) -> bool:
    """Return True if a pool is neither broken nor shut down."""
    try:
        pool.submit(int)
    except RuntimeError:
        return False
    return True


class Inline(Executor):
    """An executor that runs each task in this thread when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return a finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  (a future holds any exception)
            future.set_exception(error)
        return future


@dataclass(frozen=True, eq=False)
class Compute:
    """The device, executor and tiles that work runs on.

    Parameters
    ----------
    tiles : TileSettings
        Tiles of large images.
    executor : concurrent.futures.Executor, optional
        Runs the tasks; local processes by default. Not used on a graphics card.
    device : str
        Name of the device in torch.
    workers : int
        Number of members trained at the same time.
    """

    tiles: TileSettings = field(default_factory=TileSettings)
    executor: Executor | None = None
    device: str = "cpu"
    workers: int = 1


def compute_for(
    device: str, members: int, tiles: TileSettings | None = None, executor: Executor | None = None
) -> Compute:
    """Return the devices and executor that members use on this machine.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    members : int
        Number of members of the ensemble.
    tiles : TileSettings, optional
        Tiles of large images.
    executor : concurrent.futures.Executor, optional
        Runs the tasks instead of local processes, on the CPU.

    Raises
    ------
    ValueError
        If PyTorch can't use the named device ("auto" falls back to the CPU).
    """
    tiles = tiles or TileSettings()
    if executor is not None:
        return Compute(tiles, executor, "cpu", slots(executor))
    from joblib.externals.loky import cpu_count

    found = device_for(device)
    if not works(found):
        if device != "auto":
            raise ValueError(
                f"PyTorch can't use {device!r}, most likely because the graphics driver is older than it "
                'needs; update the driver, or give device="cpu".'
            )
        found = "cpu"
    return Compute(tiles, None, found, max(min(cpu_count(), members), 1))


class StoppedError(Exception):
    """A task was stopped, and its result is not needed."""


class StopSign:
    """A stop signal for tasks in other processes of this machine; tasks on other machines don't see it."""

    def __init__(self) -> None:
        self._path = str(Path(_folder()) / uuid.uuid4().hex)

    def show(self) -> None:
        """Ask all tasks that look at the sign to stop."""
        Path(self._path).touch()

    def look(self) -> None:
        """Raise if a stop was asked for.

        Raises
        ------
        StoppedError
            If `show` was called.
        """
        if os.path.exists(self._path):  # noqa: PTH110  (a path object costs more than the check)
            raise StoppedError("This work was stopped.")


@cache
def _folder() -> str:
    """Return the folder of stop signs of this process, deleted when it ends or, if it was killed, by the next."""
    parent = Path(tempfile.gettempdir())
    remove_dead(_SIGNS, parent)
    made = str(scratch_folder(_SIGNS, parent))
    # unlike atexit, it is not inherited by a forked child, which would delete the folder of its parent
    Finalize(None, shutil.rmtree, args=(made,), kwargs={"ignore_errors": True}, exitpriority=0)
    return made
