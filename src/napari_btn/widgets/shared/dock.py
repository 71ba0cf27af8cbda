"""A dock that ends well: when it closes, or its window does, its work stops and it hears nothing more."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_btn.session import session_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.widgets.shared.worker import Run

__all__ = ["Dock"]

_CLOSE_WAIT = 2.0


class Dock(QWidget):
    """Widget of a dock, with the viewer, its session, and the runs that end with it.

    A run counts as the dock's while it is in ``_runs``, under a name. Signals that reach the dock from
    outside of it are connected by :meth:`_hear`, since what is outside lives on when the dock has gone.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.session = session_of(self.viewer)
        self._runs: dict[str, Run[Any]] = {}
        self._left = False
        self._heard: list[tuple[Any, Callable[..., Any]]] = []
        self._timers: list[QTimer] = []
        self._hear(self._on_theme_changed, self.viewer.events.theme)
        # The window goes without asking its children, and may be gone before a handler of ours could run.
        self.destroyed.connect(partial(_leave_all, self._runs))

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        raise NotImplementedError

    def leave(self) -> None:
        """Stop what runs, wait for it, and listen to nothing any more."""
        if self._left:
            return
        self._left = True
        for timer in self._timers:
            timer.stop()
        _leave_all(self._runs)
        self._let_go()
        for signal, handler in self._heard:
            signal.disconnect(handler)
        self._heard.clear()

    def _let_go(self) -> None:
        """Let go of what else outlives the dock; called once, when nothing runs any more."""

    def _hear(self, handler: Callable[..., Any], *signals: Any) -> None:
        """Connect signals to a handler until the dock leaves."""
        for signal in signals:
            signal.connect(handler)
            self._heard.append((signal, handler))

    def _timer(self, interval_ms: int) -> QTimer:
        """Timer that fires once after each start, and never after the dock has left."""
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(interval_ms)
        self._timers.append(timer)
        return timer

    def _drop(self, name: str) -> bool:
        """Whether there was a run of this name; it stops, and calls nobody back."""
        if name not in self._runs:
            return False
        self._runs.pop(name).leave(wait=0)
        return True

    def _on_theme_changed(self, event: Any = None) -> None:
        """Draw in other colours."""
        del event
        if not self._left:
            self.redraw()

    def event(self, event: QEvent | None) -> bool:
        """Leave when the dock lets go of this widget."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parent() is None:
                self.leave()
        elif event is not None and event.type() == QEvent.Type.Show:
            self.window().installEventFilter(self)
        return bool(super().event(event))

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # Qt's name
        """Leave when the window closes: it hides without the window system asking for it."""
        hidden = event is not None and event.type() == QEvent.Type.Hide and not event.spontaneous()
        # A dock hides, too, when the tab of another one is picked.
        if hidden and isinstance(watched, QMainWindow):
            self.leave()
        return bool(super().eventFilter(watched, event))


def _leave_all(runs: dict[str, Run[Any]], widget: object = None) -> None:
    """Stop runs and wait for them, all together."""
    del widget
    for run in runs.values():
        run.leave(wait=0)
    for run in runs.values():
        run.leave(wait=_CLOSE_WAIT)
    runs.clear()
