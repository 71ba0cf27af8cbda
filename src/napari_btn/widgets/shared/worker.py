"""Run a step in a thread: with progress, stop, pause, and no lost errors.

This closes four gaps of superqt's generator workers. A ``RuntimeError`` raised in the
generator (out of memory on a GPU, a shape that doesn't fit) is swallowed: it is raised again as a
plain exception. After a stop, the generator stays open until it is garbage: it is closed in its own
thread, before the worker says that it has finished. A step may yield thousands of times a second:
what it yields is merged and passed on once a second, a preview at once. A worker outlives the
window that listens to it: a run that was left calls nobody back.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from napari.qt.threading import GeneratorWorker, create_worker

from napari_btn.widgets.shared.notes import on_screen

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_btn.core.progress import Progress, Step

__all__ = ["Run", "StepError", "Timing", "load_ahead", "run_step", "sentence_of"]

T = TypeVar("T")

_YIELD_EVERY = 1.0  # each update redraws the whole window, on the cores that train
_ASK_EVERY = 0.1
_RATE_AFTER = 1.0
_KNOWN_FROM = 0.1  # share of the work whose pace says how long all of it takes


class StepError(Exception):
    """A ``RuntimeError`` of a step, raised again so that it is reported; the original is its cause."""


@dataclass(frozen=True)
class Timing:
    """The time that a step has run, and has still to run.

    Parameters
    ----------
    elapsed : float
        Seconds since the start, pauses left out.
    remaining : float, optional
        Estimated seconds to the end; None while there is nothing to estimate from.
    """

    elapsed: float
    remaining: float | None


class _Clock:
    """A stopwatch that estimates the remaining time, from the rate since the unit of work last changed."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = now()
        self._paused_at: float | None = None
        self._anchor: tuple[float, int, int] | None = None

    def elapsed(self) -> float:
        """Return the seconds since the start, without pauses."""
        return (self._now() if self._paused_at is None else self._paused_at) - self._start

    def pause(self) -> None:
        """Stop counting."""
        if self._paused_at is None:
            self._paused_at = self._now()

    def resume(self) -> None:
        """Count again."""
        if self._paused_at is not None:
            self._start += self._now() - self._paused_at
            self._paused_at = None

    def read(self, progress: Progress) -> Timing:
        """Return the timing at this progress."""
        elapsed = self.elapsed()
        if self._anchor is None or progress.total != self._anchor[2] or progress.done < self._anchor[1]:
            # Starting processes and loading libraries comes before the first progress and never again.
            self._anchor = (elapsed, progress.done, progress.total)
        since, done, _ = self._anchor
        if progress.done <= done or elapsed - since < _RATE_AFTER:
            return Timing(elapsed, None)
        return Timing(elapsed, (progress.total - progress.done) * (elapsed - since) / (progress.done - done))


def _merged(earlier: Progress | None, later: Progress) -> Progress:
    """Merge two progresses into one."""
    if earlier is None:
        return later
    return replace(
        later,
        losses=earlier.losses + later.losses,
        preview=earlier.preview if later.preview is None else later.preview,
        checkpoint=earlier.checkpoint if later.checkpoint is None else later.checkpoint,
    )


class _StepWorker(GeneratorWorker):
    """Generator worker that closes its step in its own thread before it says that it has finished."""

    run_: Run[Any] | None = None

    def run(self) -> None:
        """Do the work, and emit its end."""
        try:
            super().run()
        except RuntimeError:
            # The window was deleted while the step was still ending, and its signals with it.
            if self.run_ is None or not self.run_.left:
                raise

    def work(self) -> Any:
        """Return the result of the step."""
        try:
            return super().work()
        finally:
            if self.run_ is not None:
                self.run_.close_step()


class _Titled(partial[Any]):
    """Generator function that napari's close dialog can call by a name."""

    title = ""

    def __repr__(self) -> str:
        return self.title


def _nothing(*_: Any) -> Any:
    """Do nothing."""


class Run(Generic[T]):
    """A step that runs in a thread.

    Exactly one of ``on_result``, ``on_error`` and ``on_stopped`` is called, then ``on_finished``; all in the
    main thread, and none after :meth:`leave`.

    Parameters
    ----------
    make_step : callable
        Returns the step; called in the thread, so that what is slow to prepare doesn't hold the window.
    title : str
        What is being done, for napari's question on closing.
    on_progress : callable, optional
        Called once a second at most, and with every preview, with the progress and its timing.
    on_result, on_error : callable
        Called with the result, or with the exception.
    on_stopped, on_finished : callable, optional
        Called with nothing.
    """

    def __init__(
        self,
        make_step: Callable[[], Step[T]],
        *,
        title: str,
        on_progress: Callable[[Progress, Timing], None] | None,
        on_result: Callable[[T], None],
        on_error: Callable[[Exception], None],
        on_stopped: Callable[[], None] | None,
        on_finished: Callable[[], None] | None,
    ) -> None:
        self.title = title
        self._make_step = make_step
        self._on_progress, self._on_result, self._on_error = on_progress, on_result, on_error
        self._on_stopped, self._on_finished = on_stopped, on_finished
        self._stop = threading.Event()
        self._started = threading.Event()
        self._closed = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._has_result = False
        self._step: Step[T] | None = None
        self._clock = _Clock()
        self._told = False
        self._left = False
        self._expected_s: float | None = None
        self.checkpoint: Any = None
        """Latest checkpoint that the step has yielded; None once it has returned its result."""
        drive = _Titled(self._drive)
        drive.title = f"napari-btn: {title}"
        self._worker: _StepWorker = create_worker(
            drive,
            _start_thread=False,
            _worker_class=_StepWorker,
            _ignore_errors=True,
        )
        self._worker.run_ = self
        self._worker.yielded.connect(self._tell_progress)
        self._worker.returned.connect(self._tell_result)
        self._worker.errored.connect(self._tell_error)
        self._worker.finished.connect(self._tell_finished)

    @property
    def running(self) -> bool:
        """True while the step hasn't finished."""
        return not self._closed.is_set()

    @property
    def left(self) -> bool:
        """True when nothing is called back any more."""
        return self._left

    @property
    def paused(self) -> bool:
        """True while a pause is requested."""
        return not self._go.is_set()

    @property
    def watched(self) -> bool:
        """True if its progress is shown, so that its end is missed."""
        return self._on_progress is not None

    @property
    def has_result(self) -> bool:
        """True once the step has returned its result."""
        return self._has_result

    @property
    def expected_s(self) -> float | None:
        """Seconds that all of the step takes, pauses left out: measured, or estimated from a part; None if unknown."""
        return self._clock.elapsed() if self._has_result else self._expected_s

    def redirect(
        self,
        on_result: Callable[[T], None],
        on_error: Callable[[Exception], None],
        on_progress: Callable[[Progress, Timing], None] | None,
        on_stopped: Callable[[], None] | None,
    ) -> None:
        """Call back others from now on, as if they had started the run."""
        self._on_result, self._on_error = on_result, on_error
        self._on_progress, self._on_stopped = on_progress, on_stopped

    def start(self) -> None:
        """Start the thread."""
        self._worker.start()

    def pause(self) -> None:
        """Pause the step after its present piece of work."""
        self._go.clear()
        self._clock.pause()

    def resume(self) -> None:
        """Let a paused step go on."""
        self._clock.resume()
        self._go.set()

    def stop(self, wait: float = 0.0) -> bool:
        """Request a stop; return True if the step has stopped within ``wait`` seconds."""
        self._stop.set()
        return not self._started.is_set() or self._closed.wait(wait)

    def leave(self, wait: float = 2.0) -> bool:
        """Stop, and call nothing back; return True if the step has stopped within ``wait`` seconds."""
        self._left = True
        self._worker.quit()
        return self.stop(wait)

    def close_step(self) -> None:
        """Close the step, in its thread."""
        try:
            if self._step is not None:
                self._step.close()
        finally:
            self._step = None
            self._closed.set()

    def _drive(self) -> Generator[Progress, None, T | None]:
        """Yield the step's progress, merged to once a second and each preview; return its result."""
        self._started.set()
        if self._stop.is_set():
            return None
        try:
            self._step = self._make_step()
            pending: Progress | None = None
            last = -_YIELD_EVERY
            while self._may_go_on():
                try:
                    progress = next(self._step)
                except StopIteration as end:
                    self._has_result = True
                    if pending is not None:
                        yield pending
                    result: T = end.value
                    return result
                pending = _merged(pending, progress)
                if progress.checkpoint is not None:
                    self.checkpoint = progress.checkpoint
                now = time.monotonic()
                # a preview redraws the window anyway, and the user waits for it
                if now - last >= _YIELD_EVERY or progress.preview is not None:
                    last = now
                    yield pending
                    pending = None
        except RuntimeError as error:
            raise StepError(str(error) or type(error).__name__) from error
        return None

    def _may_go_on(self) -> bool:
        """Return True if the step may go on; wait through a pause."""
        while not self._go.wait(_ASK_EVERY):
            if self._stop.is_set() or self._worker.abort_requested:
                return False
        return not self._stop.is_set()

    def _tell_progress(self, progress: Progress) -> None:
        """Pass a progress on."""
        timing = self._clock.read(progress)
        if timing.remaining is not None and progress.fraction >= _KNOWN_FROM:
            self._expected_s = timing.elapsed + timing.remaining
        if self._on_progress is not None and not self._left and not self._stop.is_set():
            self._on_progress(progress, timing)

    def _tell_result(self, result: T | None) -> None:
        """Pass the result on."""
        if not self._has_result:
            return
        self._told = True
        if not self._left:
            self._on_result(result)  # type: ignore[arg-type]

    def _tell_error(self, error: Exception) -> None:
        """Pass an error on."""
        self._told = True
        if not self._left:
            self._on_error(error)

    def _tell_finished(self) -> None:
        """Report the end of the run, and a stop if there was neither result nor error."""
        stopped = None if self._told else self._on_stopped
        told = () if self._left else (stopped, self._on_finished)
        # napari keeps all workers, so a run that kept its callers would keep closed docks and their images
        self._make_step = self._on_result = self._on_error = _nothing
        self._on_progress = self._on_stopped = self._on_finished = None
        if self._has_result:
            self.checkpoint = None
        for tell in told:
            if tell is not None:
                tell()


def run_step(
    make_step: Callable[[], Step[T]],
    *,
    title: str = "napari-btn",
    on_result: Callable[[T], None],
    on_error: Callable[[Exception], None],
    on_progress: Callable[[Progress, Timing], None] | None = None,
    on_stopped: Callable[[], None] | None = None,
    on_finished: Callable[[], None] | None = None,
) -> Run[T]:
    """Start a step in a thread.

    Parameters
    ----------
    make_step : callable
        Returns the step (a generator of Progress); called in the thread.
    title : str
        What is being done, for napari's question on closing.
    on_result, on_error : callable
        Called at the end with the result, or with the exception.
    on_progress : callable, optional
        Called once a second at most, and with every preview, with the progress and its :class:`Timing`.
    on_stopped : callable, optional
        Called at the end, with nothing, if the step was stopped before it had a result.
    on_finished : callable, optional
        Called last, with nothing.

    Returns
    -------
    Run
        The run, started; ``stop``, ``pause``, ``resume`` and ``leave`` steer it.
    """
    run: Run[T] = Run(
        make_step,
        title=title,
        on_progress=on_progress,
        on_result=on_result,
        on_error=on_error,
        on_stopped=on_stopped,
        on_finished=on_finished,
    )
    run.start()
    return run


def load_ahead() -> None:
    """Load torch's large libraries without holding the window; call it in the thread, before the import.

    Python's import keeps all other threads waiting while a library is mapped and linked, a quarter of
    a second on a CPU and more with CUDA. A foreign call does not. Where this fails, the import does
    the same later.
    """
    if "torch" in sys.modules or sys.platform == "win32":
        return
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent / "lib"
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    for name in ("libtorch_cpu", "libtorch", "libtorch_python"):
        path = folder / f"{name}{suffix}"
        if path.exists():
            dlopen(str(path).encode(), os.RTLD_LAZY)


def sentence_of(error: Exception) -> str:
    """Return an error as one or two sentences, with advice if memory ran out.

    Parameters
    ----------
    error : Exception
        Of a step.

    Returns
    -------
    str
        One or two sentences.
    """
    text = on_screen(str(error).strip()) or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"Out of memory ({text}). Close other programs, or use a smaller image or patch."
    if isinstance(error, ValueError | OSError):
        return text
    cause = error.__cause__ or error
    return f"{text} ({type(cause).__name__})"
