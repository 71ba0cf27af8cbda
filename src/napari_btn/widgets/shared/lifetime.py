"""The runs, timers and connections that end with a dock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from qtpy.QtCore import QObject, QTimer

from napari_btn.widgets.shared.worker import run_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_btn.core.progress import Progress, Step
    from napari_btn.widgets.shared.worker import Run, Timing

__all__ = ["Lifetime"]

T = TypeVar("T")

_CLOSE_WAIT = 2.0
_DRAGGED_PX = 3


class Lifetime:
    """The runs, timers and connections that end with a dock.

    The viewer, its layers and the session outlive a dock, so their signals are connected with
    :meth:`hear`, which disconnects them at the end.

    Parameters
    ----------
    dock : QObject
        Parent of the timers.
    """

    def __init__(self, dock: QObject) -> None:
        self._dock = dock
        self.runs: dict[str, Run[Any]] = {}
        """Steps that run now, by name; each is stopped at the end."""
        self.ended = False
        """True once the dock is closed."""
        self._heard: list[tuple[Any, Callable[..., Any]]] = []
        self._timers: list[QTimer] = []
        self._at_end: list[Callable[[], None]] = []
        # A window may delete the dock without asking it, before a handler of ours could run.
        dock.destroyed.connect(partial(_stop_all, self.runs))

    def hear(self, handler: Callable[..., Any], *signals: Any) -> None:
        """Connect signals to a handler until the end.

        Parameters
        ----------
        handler : callable
            Gets what the signals carry.
        *signals : Signal
            Of the viewer, its layers or the session.
        """
        for signal in signals:
            signal.connect(handler)
            self._heard.append((signal, handler))

    def hear_clicks(self, viewer: Any, handler: Callable[[Any], None]) -> None:
        """Call a handler for each click into the viewer that isn't a drag, until the end.

        Parameters
        ----------
        viewer : napari.Viewer
            Viewer to listen to.
        handler : callable
            Gets napari's mouse event.
        """

        def on_mouse(viewer: Any, event: Any) -> Iterator[None]:
            """Wait for the button's release."""
            del viewer
            start = tuple(event.pos) if getattr(event, "pos", None) is not None else None
            yield
            while event.type == "mouse_move":
                if start is not None and np.hypot(*(np.asarray(event.pos) - start)) > _DRAGGED_PX:
                    return
                yield
            if not self.ended:
                handler(event)

        callbacks = viewer.mouse_drag_callbacks
        callbacks.append(on_mouse)
        self.at_end(lambda: callbacks.remove(on_mouse) if on_mouse in callbacks else None)

    def hear_drags(self, viewer: Any, handler: Callable[[Any], None]) -> None:
        """Call a handler for each move of the mouse while Shift and a button are held, until the end.

        Parameters
        ----------
        viewer : napari.Viewer
            Viewer to listen to; a drag with Shift does not pan it.
        handler : callable
            Gets napari's mouse event.
        """

        def on_mouse(viewer: Any, event: Any) -> Iterator[None]:
            """Follow the mouse until the button's release."""
            del viewer
            if "Shift" not in event.modifiers:
                return
            yield
            while event.type == "mouse_move" and not self.ended:
                handler(event)
                yield

        callbacks = viewer.mouse_drag_callbacks
        callbacks.append(on_mouse)
        self.at_end(lambda: callbacks.remove(on_mouse) if on_mouse in callbacks else None)

    def timer(self, interval_ms: int, handler: Callable[[], None]) -> QTimer:
        """Return a timer that fires once after each start, and never after the end.

        Parameters
        ----------
        interval_ms : int
            Time from start to the call.
        handler : callable
            Called without arguments.

        Returns
        -------
        QTimer
            Not started.
        """
        timer = QTimer(self._dock)
        timer.setSingleShot(True)
        timer.setInterval(interval_ms)
        timer.timeout.connect(handler)
        self._timers.append(timer)
        return timer

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call something once at the end, when nothing runs any more.

        Parameters
        ----------
        callback : callable
            Called without arguments.
        """
        self._at_end.append(callback)

    def drop(self, name: str) -> bool:
        """Stop a run, and call nothing back.

        Parameters
        ----------
        name : str
            Name of the run.

        Returns
        -------
        bool
            True if there was one.
        """
        if name not in self.runs:
            return False
        self.runs.pop(name).leave(wait=0)
        return True

    def start(
        self,
        name: str,
        make_step: Callable[[], Step[T]],
        on_result: Callable[[T], None],
        on_error: Callable[[Exception], None],
        *,
        title: str = "",
        on_progress: Callable[[Progress, Timing], None] | None = None,
        on_stopped: Callable[[], None] | None = None,
    ) -> Run[T]:
        """Run a step in a thread until the end.

        Parameters
        ----------
        name : str
            Name in ``runs`` while it runs.
        make_step : callable
            Returns the step; called in the thread.
        on_result, on_error : callable
            Called with the result, or with the exception, when the run is no longer in ``runs``.
        title : str
            What is done, for napari's question on closing; the name by default.
        on_progress : callable, optional
            Called with the progress and its timing.
        on_stopped : callable, optional
            Called if the step was stopped before it had a result.

        Returns
        -------
        Run
            The run, started.
        """
        done, failed, stopped = self._ends(name, on_result, on_error, on_stopped)
        run = run_step(
            make_step,
            title=title or name,
            on_result=done,
            on_error=failed,
            on_progress=on_progress,
            on_stopped=stopped,
        )
        self.runs[name] = run
        return run

    def adopt(
        self,
        name: str,
        run: Run[T],
        on_result: Callable[[T], None],
        on_error: Callable[[Exception], None],
        *,
        on_progress: Callable[[Progress, Timing], None] | None = None,
        on_stopped: Callable[[], None] | None = None,
    ) -> None:
        """Go on with a run that another dock started; parameters as in `start`."""
        done, failed, stopped = self._ends(name, on_result, on_error, on_stopped)
        run.redirect(done, failed, on_progress, stopped)
        self.runs[name] = run

    def _ends(
        self,
        name: str,
        on_result: Callable[[T], None],
        on_error: Callable[[Exception], None],
        on_stopped: Callable[[], None] | None,
    ) -> tuple[Callable[[T], None], Callable[[Exception], None], Callable[[], None]]:
        """Return what is called when a run ends, which takes it out of ``runs`` first."""

        def done(result: T) -> None:
            """Pass the result on."""
            self.runs.pop(name, None)
            on_result(result)

        def failed(error: Exception) -> None:
            """Pass the error on."""
            self.runs.pop(name, None)
            on_error(error)

        def stopped() -> None:
            """Show that the work was stopped."""
            self.runs.pop(name, None)
            if on_stopped is not None:
                on_stopped()

        return done, failed, stopped

    def end(self) -> None:
        """Stop the runs, wait for them, and disconnect."""
        if self.ended:
            return
        self.ended = True
        for timer in self._timers:
            timer.stop()
        _stop_all(self.runs)
        for callback in self._at_end:
            callback()
        self._at_end.clear()
        for signal, handler in self._heard:
            signal.disconnect(handler)
        self._heard.clear()


def _stop_all(runs: dict[str, Run[Any]], widget: object = None) -> None:
    """Stop runs together, then wait for them."""
    del widget
    for run in runs.values():
        run.leave(wait=0)
    for run in runs.values():
        run.leave(wait=_CLOSE_WAIT)
    runs.clear()
