"""The base of all docks, and the runs, timers and connections that end with a dock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

import numpy as np
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QMainWindow, QSizePolicy, QVBoxLayout, QWidget

from napari_btn.session import session_of
from napari_btn.widgets.shared.notes import Theme
from napari_btn.widgets.shared.panels import ScrollColumn
from napari_btn.widgets.shared.tabs import NextStep, frame_of, tab_with_others
from napari_btn.widgets.shared.worker import run_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_btn.core.progress import Progress, Step
    from napari_btn.widgets.shared.worker import Run, Timing

__all__ = ["Dock", "Lifetime", "may_click"]

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
            title=f"napari-btn: {title or name}",
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


def _no_window() -> None:
    """Return no window: the dock was never shown."""


class Dock(QWidget):
    """A dock: one view, and the parts that drive it until the dock is closed.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    name : str
        Qt object name.
    """

    def __init__(self, napari_viewer: Any, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.session = session_of(self.viewer)
        self.theme = Theme(self.viewer)
        self.lifetime = Lifetime(self)
        self._tabbed = False
        self.in_front = True
        """False while another dock lies over this one."""
        self._window: Callable[[], QWidget | None] = _no_window

    def show_view(self, view: QWidget, *, scrolls: bool = False) -> None:
        """Fill the dock with a view, and redraw that when the theme changes.

        Parameters
        ----------
        view : QWidget
            Has a method ``redraw``.
        scrolls : bool
            Let all of it scroll, so that it fits a laptop; for views that have no part that scrolls.
        """
        # napari adds a stretch below a widget that doesn't expand
        view.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(ScrollColumn(view) if scrolls else view)

        self.next_step = NextStep(self.viewer)
        layout.addWidget(self.next_step)

        self._view = view
        self.lifetime.hear(self._on_viewer_theme, self.viewer.events.theme)
        self.lifetime.hear(self._on_session_next, self.session.changed)
        self._on_session_next()

    def _on_session_next(self, slot: str = "") -> None:
        """Say what comes next, from what the session holds."""
        del slot
        if self.lifetime.ended:
            return
        session, name = self.session, self.objectName()
        link = self.theme.colours()["accent"].name()
        source = "" if session.source is None else session.source.name
        if session.prediction is None:
            if name != "napari_btn_denoise":
                self.next_step.lead("First:", "denoise an image", "Denoise", link)
            else:
                self.next_step.lead()
        elif name == "napari_btn_denoise":
            self.next_step.lead(f"'{source}' is denoised.", "Look at the uncertainty", "Uncertainty", link)
        elif name == "napari_btn_uncertainty":
            self.next_step.lead("Next:", "group pixels into tokens", "Tokens", link)
        elif name == "napari_btn_tokens":
            self.next_step.lead("Next:", "find where to measure again", "Re-measure", link)
        elif session.regions:
            self.next_step.lead(
                "Measured again? Load it below 'Measured again', or", "train on it", "Denoise", link
            )
        else:
            self.next_step.lead()

    def _on_viewer_theme(self, event: Any = None) -> None:
        """Draw in the colours of the new theme."""
        del event
        self._view.redraw()
        self._on_session_next()

    def leave(self) -> None:
        """Stop what runs, wait for it, and disconnect from viewer and session."""
        self.lifetime.end()

    def put_away(self) -> None:
        """Leave, since the dock was closed while the window stays; a dock may let work go on."""
        self.leave()

    def _on_window_tab(self, in_front: bool) -> None:
        """Pass on that this dock came to the front of its tabs, or went behind another one."""
        if not self.lifetime.ended and in_front != self.in_front:
            self.in_front = in_front
            self.turn(in_front)

    def turn(self, in_front: bool) -> None:
        """Do what a dock does when it comes to the front, or goes behind another one; nothing by default.

        Parameters
        ----------
        in_front : bool
            True when it came to the front.
        """

    def event(self, event: QEvent | None) -> bool:
        """Leave when napari takes the widget out of its dock.

        Parameters
        ----------
        event : QEvent, optional
            Any event of this widget.

        Returns
        -------
        bool
            True if the event was handled.
        """
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parent() is None and not self.lifetime.ended:
                self.put_away()
        elif event is not None and event.type() == QEvent.Type.Show:
            self.window().installEventFilter(self)
            self._window = ref(self.window())
            if not self._tabbed:
                # before the window makes room for two docks above each other
                self._tabbed = True
                tab_with_others(self, self.viewer)
                frame = frame_of(self)
                if frame is not None:
                    frame.visibilityChanged.connect(self._on_window_tab)
        return bool(super().event(event))

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # Qt's name
        """Leave when the window closes, which hides it without the window system's request.

        Parameters
        ----------
        watched : QObject, optional
            The window.
        event : QEvent, optional
            Any event of the window.

        Returns
        -------
        bool
            True to stop the event here.
        """
        hidden = event is not None and event.type() == QEvent.Type.Hide and not event.spontaneous()
        # A dock also hides when the tab of another one is picked.
        if hidden and isinstance(watched, QMainWindow):
            self.leave()
        return bool(super().eventFilter(watched, event))


def may_click(viewer: Any, kinds: tuple[type, ...] | None = None) -> bool:
    """Return True if a click into the viewer is free: the active layer doesn't use it.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer.
    kinds : tuple of type, optional
        Kinds of active layers that leave clicks alone; all by default.

    Returns
    -------
    bool
        True without an active layer, or when it only pans and zooms.
    """
    active = viewer.layers.selection.active
    if active is None:
        return True
    return (kinds is None or isinstance(active, kinds)) and str(active.mode) in (
        "pan_zoom",
        "Mode.PAN_ZOOM",
    )


def _stop_all(runs: dict[str, Run[Any]], widget: object = None) -> None:
    """Stop runs together, then wait for them."""
    del widget
    for run in runs.values():
        run.leave(wait=0)
    for run in runs.values():
        run.leave(wait=_CLOSE_WAIT)
    runs.clear()
