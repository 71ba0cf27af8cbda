"""The base of all docks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from napari.utils.notifications import show_info
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QMainWindow, QSizePolicy, QVBoxLayout, QWidget

from napari_btn.session import session_of
from napari_btn.widgets.shared.lifetime import Lifetime
from napari_btn.widgets.shared.notes import Theme
from napari_btn.widgets.shared.panels import ScrollColumn
from napari_btn.widgets.shared.tabs import DOCKS, NextStep, frame_of, tab_with_others

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Dock", "may_click"]

_LOOK_AFTER_MS = 50


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
        self._look_later = self.lifetime.timer(_LOOK_AFTER_MS, self._look)
        self.in_front = True
        """False while another dock lies over this one."""
        self._seen_behind = False
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
        """Leave, since the dock was closed in an open window, and say what this stopped; a dock may let work go on."""
        watched = [run for run in self.lifetime.runs.values() if run.watched]
        self.leave()
        name = DOCKS.get(self.objectName(), "it")
        for run in watched:
            if run.has_result:
                show_info(f"{run.title} was finished while {name} was closed.")
            else:
                show_info(
                    f"{run.title} was stopped, because {name} was closed. Open {name} to start it again."
                )

    def _look(self) -> None:
        """Pass on that this dock came to the front of its tabs, or went behind another one."""
        if self.lifetime.ended or not self.window().isVisible():
            return
        # while tabs are made, the window says that a dock is hidden and not always that it is back
        in_front = self.isVisible() and not self.visibleRegion().isEmpty()
        first, self._seen_behind = not in_front and not self._seen_behind, not in_front
        if first and self.in_front:
            # on a busy machine the tabs may be made during more than one look
            self._look_later.start()
        elif in_front != self.in_front:
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
        """Leave when napari takes the widget out of its dock."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parent() is None and not self.lifetime.ended:
                self.put_away()
        elif event is not None and event.type() == QEvent.Type.Paint:
            if not self.in_front:
                self._look_later.start()
        elif event is not None and event.type() == QEvent.Type.Show:
            self.window().installEventFilter(self)
            self._window = ref(self.window())
            if not self._tabbed:
                # before the window makes room for two docks above each other
                self._tabbed = True
                tab_with_others(self, self.viewer)
                frame = frame_of(self)
                if frame is not None:
                    frame.visibilityChanged.connect(lambda _: self._look_later.start())
        return bool(super().event(event))

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # Qt's name
        """Leave when the window closes, which hides it without the window system's request."""
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
