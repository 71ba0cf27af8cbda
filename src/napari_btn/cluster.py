"""Execution on the workers of a dask scheduler, with the same results as on one machine of their kind."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from napari_btn.core.compute.pool import WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["connected"]

_PATIENCE_S = 10  # longest wait for an answer of the scheduler
_LOOK_S = 1.0  # between two looks at the workers
_MISSED_S, _GIVEN_UP_S = 3.0, 30.0  # without any worker: until that is said, and until the work fails
_LARGE = "64MiB"  # size of a tile of a volume or a few batches; dask warns from 10 MiB on by default
_START = "start one with `dask scheduler`, and `dask worker ADDRESS` on each machine"


@contextmanager
def connected(address: str) -> Iterator[Executor]:
    """Connect to a dask scheduler; yield an executor that runs tasks on its workers.

    Pass it to `Denoiser.fit`, `Denoiser.predict` and their steps as ``executor``. Members and pixels are the
    same as with local processes, for any number of workers.

    Parameters
    ----------
    address : str
        Address of the scheduler, e.g. "tcp://10.0.0.1:8786"; the scheme may be left out.

    Raises
    ------
    ValueError
        If dask is not installed, no scheduler answers, it has no workers, or a worker has no napari-btn or
        another version of it.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise ValueError('A scheduler needs dask; pip install "napari-btn[all]" brings it.') from error
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": _LARGE}):
        try:
            client: Any = Client(address, timeout=_PATIENCE_S, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError, ValueError) as error:
            raise ValueError(
                f"No dask scheduler answers at {address!r} within {_PATIENCE_S} s; {_START}."
            ) from error
        with client, _quiet():
            _need_workers(client, address)
            executor = _Watched(client, address)
            try:
                yield executor
            finally:
                executor.shutdown(wait=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what dask logs of a lost scheduler, a page of tracebacks beside the one sentence on it."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Task(Future[Any]):
    """The future of a task on a worker, which also ends when the scheduler or all workers are lost."""

    task: Future[Any] | None = None

    def cancel(self) -> bool:
        """Cancel the task."""
        from distributed.client import ClosedClientError

        task = self.task
        if task is not None:
            # a client that lost its scheduler refuses, and has nothing to cancel any more
            with suppress(ClosedClientError):
                task.cancel()
        return super().cancel()

    def fail(self, text: str) -> None:
        """End the wait for a result that won't come."""
        with suppress(Exception):
            self.set_exception(WorkerDiedError(text))


class _Watched(Executor):
    """An executor on the workers of a client that notices when the scheduler or all workers are lost.

    Dask itself waits for workers without a word, and cancels all tasks when it loses the scheduler.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._executor: Executor = client.get_executor()
        self._tasks: set[_Task] = set()
        self._lock, self._ended = threading.Lock(), threading.Event()
        threading.Thread(target=self._watch, name="napari-btn watches dask", daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the future of a task."""
        made = _Task()
        with self._lock:
            self._tasks.add(made)
        try:
            made.task = task = self._executor.submit(fn, *args, **kwargs)
        except (OSError, RuntimeError, ValueError) as error:
            if self._client.status == "running":
                raise
            made.fail(f"{self._lost} ({error})")
            return made
        task.add_done_callback(lambda done: self._arrive(made, done))
        return made

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the watch; the client stays."""
        self._ended.set()
        if cancel_futures:
            self._fail("The work was ended.")
        self._executor.shutdown(wait=wait)

    @property
    def _lost(self) -> str:
        """Sentence on a lost scheduler."""
        return f"The dask scheduler at {self._address} was lost while it worked; start it again, or leave it out."

    def _arrive(self, made: _Task, done: Future[Any]) -> None:
        """Take the result of a task over."""
        with self._lock:
            self._tasks.discard(made)
        # dask computes again what a worker that dies had in memory, as long as somebody holds the task
        made.task = None
        if made.done():
            return
        if done.cancelled():
            made.fail(self._lost)
            return
        error = done.exception()
        if error is not None and type(error).__name__ == "KilledWorker":
            made.fail(
                f"Several dask workers died at the same task, most likely for lack of memory ({error})."
            )
            return
        with suppress(Exception):
            if error is None:
                made.set_result(done.result())
            else:
                made.set_exception(error)

    def _watch(self) -> None:
        """Say that all workers are gone, and end all tasks if none comes back or the scheduler is lost."""
        seen, said = time.monotonic(), False
        while not self._ended.wait(_LOOK_S):
            now = time.monotonic()
            if self._client.status not in ("running", "connecting"):
                self._fail(self._lost)
                continue
            if self._client.scheduler_info(n_workers=-1).get("workers") or not self._tasks:
                seen, said = now, False
            elif now - seen > _GIVEN_UP_S:
                gone = f"All workers of the dask scheduler at {self._address} have been gone for {_GIVEN_UP_S:.0f} s"
                self._fail(f"{gone}; {_START}.")
            elif now - seen > _MISSED_S and not said:
                said = True
                logging.getLogger("napari_btn").warning(
                    "All workers of the dask scheduler at %s are gone; waiting %d s for one.",
                    self._address,
                    _GIVEN_UP_S,
                )

    def _fail(self, text: str) -> None:
        """End all tasks."""
        with self._lock:
            tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.fail(text)


def _need_workers(client: Any, address: str) -> None:
    """Raise ``ValueError`` if there are no workers, or a worker has another version of the code."""
    from napari_btn import __version__

    def version_there() -> str:
        """Return the version on a worker; a local function also runs on a worker without napari-btn."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("napari-btn")
        except PackageNotFoundError:
            return "none"

    found = client.run(version_there)
    if not found:
        raise ValueError(f"The dask scheduler at {address!r} has no workers; {_START}.")
    wrong = sorted({f"{worker} has {what}" for worker, what in found.items() if what != __version__})
    if wrong:
        raise ValueError(
            f"Workers must have napari-btn {__version__}, as here: {'; '.join(wrong)}. Install it in their "
            "environments."
        )
