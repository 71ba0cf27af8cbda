"""Where members are computed: local processes of one thread each, or this thread."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from napari_btn.core.compute.device import device_for, works
from napari_btn.core.settings import TileSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Compute",
    "Inline",
    "StopSign",
    "StoppedError",
    "compute_for",
    "one_thread",
    "process_pool",
    "slots",
]

# Tensors of megabytes come and go in every layer. Huge pages, kept by a worker instead of handed back each
# time, save a tenth to a quarter of the CPU-seconds. Only glibc reads this. What is kept is no leak: see
# `_keep_worker`, without which loky would replace the worker in the middle of the work.
_KEEP_PAGES = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        f"glibc.malloc.mmap_threshold={256 * 2**20}",
        f"glibc.malloc.trim_threshold={512 * 2**20}",
    )
)
_NICE = 5  # steps of priority that workers stand back by: a window on the same cores stays fluid
_POOL: list[Executor] = []
_POOL_LOCK = Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside: members are what runs in parallel, and results don't depend on the count."""
    import torch  # workers load it by themselves, so that they can start before this process has it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def process_pool() -> Executor:
    """Return the local pool: one process per core, started at once and without importing the user's script.

    It is not joblib's own one, which every other user of joblib in this process would trip over.
    """
    from joblib.externals.loky import ProcessPoolExecutor, cpu_count

    env = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", _KEEP_PAGES),
    }
    with _POOL_LOCK:
        if not (_POOL and _accepts(_POOL[0])):
            _POOL[:] = [ProcessPoolExecutor(cpu_count(), timeout=120, env=env, initializer=_keep_worker)]
            _POOL[0].submit(int)  # its processes start with the first task, and are wanted now
        return _POOL[0]


def slots(executor: Executor) -> int:
    """How many tasks an executor runs at a time: of a pool, or of a dask client's workers; 2 where it can't be told."""
    client = getattr(executor, "_client", None)
    found = getattr(executor, "_max_workers", 2) if client is None else sum(client.nthreads().values())
    return max(int(found), 1)


def _keep_worker() -> None:
    """Let a worker live although its memory grows, give way to the program that a person looks at, and load torch.

    Memory grows with kept pages and a volume's first tile. loky takes 300 MB more for a leak and replaces
    the worker, with a warning from the pool's own thread: where warnings are errors that thread ends, and
    the work waits for ever.
    """
    from joblib.externals.loky import process_executor

    process_executor._MAX_MEMORY_LEAK_SIZE = 2**62
    if hasattr(os, "nice"):
        os.nice(_NICE)
    import torch  # noqa: F401  (every task needs it, and the first one should not wait for it)


def _accepts(pool: Executor) -> bool:
    """Whether a pool is neither broken nor shut down."""
    try:
        pool.submit(int)
    except RuntimeError:
        return False
    return True


class Inline(Executor):
    """Runs a task when it is submitted, in this thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return a finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  (a future holds whatever came)
            future.set_exception(error)
        return future


@dataclass(frozen=True, eq=False)
class Compute:
    """Where work runs, and in what pieces.

    Parameters
    ----------
    tiles : TileSettings
        How images are cut for prediction.
    executor : concurrent.futures.Executor, optional
        Where tasks run; local processes by default. On a graphics card nothing runs elsewhere.
    device : str
        Torch's name of the device.
    workers : int
        Members in training at one time.
    """

    tiles: TileSettings = field(default_factory=TileSettings)
    executor: Executor | None = None
    device: str = "cpu"
    workers: int = 1


def compute_for(
    device: str, members: int, tiles: TileSettings | None = None, executor: Executor | None = None
) -> Compute:
    """Return where members train and predict on this machine.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    members : int
        Members of the ensemble.
    tiles : TileSettings, optional
        How images are cut.
    executor : concurrent.futures.Executor, optional
        Where tasks run instead of local processes; then on the CPU.

    Raises
    ------
    ValueError
        If PyTorch can't use the device that is asked for; "auto" takes the CPU then.
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
    """The work was given up while it was under way; nobody waits for its result."""


class StopSign:
    """A sign that tasks in other processes look at; on other machines it never shows."""

    def __init__(self) -> None:
        self._path = str(Path(_folder()) / uuid.uuid4().hex)

    def show(self) -> None:
        """Ask all who look to end."""
        Path(self._path).touch()

    def look(self) -> None:
        """Go on, unless the sign shows.

        Raises
        ------
        StoppedError
            When it shows.
        """
        if os.path.exists(self._path):  # noqa: PTH110  (a path object costs more than the question)
            raise StoppedError("This work was stopped.")


@cache
def _folder() -> str:
    """Folder of this process's signs, gone when the process ends."""
    made = tempfile.mkdtemp(prefix="napari-btn-stop-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
