"""One place for the docks: tabs in the order of the work, and one entry that opens all of them."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import Any, Final

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QSizePolicy, QWidget

__all__ = ["DOCKS", "NextStep", "OpenAllWidget", "frame_of", "open_dock", "tab_with_others"]

DOCKS: Final = {
    "napari_btn_denoise": "Denoise",
    "napari_btn_uncertainty": "Uncertainty",
    "napari_btn_tokens": "Tokens",
    "napari_btn_remeasure": "Re-measure",
}
"""Display names of the docks by object name, in the order of the work."""

_PLUGIN: Final = "napari-btn"


def open_dock(viewer: Any, title: str) -> None:
    """Open a dock, or bring it to the front.

    Parameters
    ----------
    viewer : napari.Viewer
    title : str
        Display name, one of `DOCKS`.
    """
    open_docks = viewer.window.dock_widgets.values()
    known = (
        dock for dock in open_docks if isinstance(dock, QWidget) and DOCKS.get(dock.objectName()) == title
    )
    frame = next(filter(None, map(frame_of, known)), None) or _add_dock(viewer, title)
    frame.show()
    frame.raise_()


def _add_dock(viewer: Any, title: str) -> QDockWidget:
    """Add a dock under the name that the Plugins menu gives it, so that the menu doesn't open it twice."""
    from npe2 import PluginManager

    manager = PluginManager.instance()
    found = (w for w in manager.iter_widgets() if (w.plugin_name, w.display_name) == (_PLUGIN, title))
    made = next(found).get_callable()(viewer)
    frame: QDockWidget = viewer.window.add_dock_widget(
        made, name=f"{title} ({manager.get_manifest(_PLUGIN).display_name})"
    )
    return frame


def tab_with_others(dock: QWidget, viewer: Any) -> None:
    """Put a dock that was just shown into one tab bar with the other docks, in their order, and in front.

    Parameters
    ----------
    dock : QWidget
        Its object name is one of `DOCKS`.
    viewer : napari.Viewer
    """
    own, window = frame_of(dock), dock.window()
    if own is None or dock.objectName() not in DOCKS or not isinstance(window, QMainWindow):
        return
    # "Denoise (Behind the Noise)" is cut off in a row of tabs
    own.setWindowTitle(DOCKS[dock.objectName()])
    frames = {dock.objectName(): own}
    for other in viewer.window.dock_widgets.values():
        frame = frame_of(other) if isinstance(other, QWidget) and other.objectName() in DOCKS else None
        if frame is not None and not frame.isFloating() and frame.isVisible():
            frames.setdefault(other.objectName(), frame)
    order = [frames[name] for name in DOCKS if name in frames]
    area = next((window.dockWidgetArea(f) for f in order if f is not own), None)
    if area is None or area == Qt.DockWidgetArea.NoDockWidgetArea:
        return
    others = [frame for frame in order if frame is not own]
    # a new tab comes last, so that those after this one are moved behind it
    for frame in (own, *order[order.index(own) + 1 :]):
        window.tabifyDockWidget(others[0] if frame is own else own, frame)
    own.raise_()
    # the window shows the dock once more after it has added it
    QTimer.singleShot(0, own.raise_)


def frame_of(widget: QWidget) -> QDockWidget | None:
    """Return the frame that napari put a widget into; None without one.

    Parameters
    ----------
    widget : QWidget
        A dock, or a part of one.
    """
    parent = widget.parent()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parent()
    return parent


class NextStep(QLabel):
    """A line that says where one is and leads to the dock that comes next; hidden without one.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose docks are opened.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.setObjectName("next_step")
        self.setToolTip("The next step; click to open its dock.")
        self.setWordWrap(True)
        self.setContentsMargins(6, 0, 6, 4)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.linkActivated.connect(lambda title: open_dock(viewer, title))
        self.hide()

    def lead(self, here: str = "", what: str = "", title: str = "", colour: str = "") -> None:
        """Say where one is, and what comes next in which dock.

        Parameters
        ----------
        here : str
            A sentence; empty to hide the line.
        what : str
            What to do next, shown as a link.
        title : str
            Display name of the dock.
        colour : str
            Colour of the link.
        """
        link = f" <a href='{title}' style='color:{colour}'>{escape(what)} →</a>" if title else ""
        self.setText(f"{escape(here)}{link}")
        self.setAccessibleName(f"{here} {what}".strip())
        self.setVisible(bool(here or title))


class OpenAllWidget(QWidget):
    """Entry of the Plugins menu: opens all docks, then closes itself.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.setObjectName("napari_btn_open_all")
        self.viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        QTimer.singleShot(0, self._open)

    def _open(self) -> None:
        """Open the docks, with the first in front."""
        frame = frame_of(self)
        if frame is not None:
            self.viewer.window.remove_dock_widget(self)
        viewer = self.viewer
        for title in DOCKS.values():
            open_dock(viewer, title)
        # each dock comes to the front once more after it was added
        QTimer.singleShot(0, partial(open_dock, viewer, next(iter(DOCKS.values()))))
