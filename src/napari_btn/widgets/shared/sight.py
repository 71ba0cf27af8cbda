"""Scroll to a part of a dock, until all layouts around it are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QPoint, QTimer
from qtpy.QtWidgets import QScrollArea, QWidget

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["bring_into_sight", "parents_of"]

_EVERY_MS = 20
_STEADY = 40  # times that nothing moved: then the layouts are done, on a busy machine, too
_MOST = 500  # times, for parts that never come to rest
_MARGIN_PX = 50


def parents_of(widget: QWidget) -> Iterator[QWidget]:
    """Yield what a widget lies in, from the innermost on.

    Parameters
    ----------
    widget : QWidget
    """
    parent = widget.parentWidget()
    while parent is not None:
        yield parent
        parent = parent.parentWidget()


def bring_into_sight(part: QWidget) -> None:
    """Scroll to all of a part, or to its head if it is higher than what is in sight.

    What was unfolded or shown just before gets its place later, one level of nested layouts after the other. So this
    goes on until nothing moves any more, the user scrolls, or another part of the window is brought into sight.

    Parameters
    ----------
    part : QWidget
        Inside of any number of scroll areas.
    """
    for other in part.window().findChildren(_Follower):
        other.end()
    _Follower(part)


class _Follower(QObject):
    """Scrolls to its parent while that moves.

    Parameters
    ----------
    part : QWidget
    """

    def __init__(self, part: QWidget) -> None:
        super().__init__(part)
        self._part = part
        self._places: tuple[tuple[int, int, int], ...] = ((-1, -1, -1),)
        self._ends: tuple[int, ...] = ()
        self._scrolled: tuple[int, ...] = ()
        self._steady = self._times = 0
        self._timer = QTimer(self)  # ends with the part
        self._timer.timeout.connect(self._follow)
        self._timer.start(_EVERY_MS)
        self._follow()

    def end(self) -> None:
        """Scroll no more."""
        self._timer.stop()
        self.deleteLater()

    def _follow(self) -> None:
        """Scroll if something moved; end when nothing did for a while, or when the user scrolled."""
        areas = [parent for parent in parents_of(self._part) if isinstance(parent, QScrollArea)]
        places = tuple(_place(self._part, area) for area in areas)
        # a content that shrinks moves the scroll bar, too
        ends = tuple(bar.maximum() for area in areas if (bar := area.verticalScrollBar()) is not None)
        scrolled = tuple(_scrolled(area) for area in areas)
        self._times += 1
        # a dock that is just opened has its size later
        still = places == self._places and ends == self._ends and self._part.isVisible()
        self._steady = self._steady + 1 if still else 0
        by_user = self._steady > 0 and scrolled != self._scrolled
        if by_user or self._steady >= _STEADY or self._times >= _MOST:
            self.end()
            return
        for area in areas:
            _scroll(self._part, area)
        self._places, self._ends = places, ends
        self._scrolled = tuple(_scrolled(area) for area in areas)


def _place(part: QWidget, area: QScrollArea) -> tuple[int, int, int]:
    """Return top and height of a part in the content of a scroll area, and the height that is in sight."""
    content, view = area.widget(), area.viewport()
    if content is None or view is None:
        return 0, 0, 0
    return part.mapTo(content, QPoint(0, 0)).y(), part.height(), view.height()


def _scrolled(area: QScrollArea) -> int:
    """Return how far an area is scrolled, in pixels."""
    bar = area.verticalScrollBar()
    return 0 if bar is None else bar.value()


def _scroll(part: QWidget, area: QScrollArea) -> None:
    """Scroll an area to a part of it, as little as needed."""
    bar = area.verticalScrollBar()
    top, height, shown = _place(part, area)
    if bar is None or not shown:
        return
    margin = min(_MARGIN_PX, (shown - height) // 2)
    if margin < 0 or top - margin < bar.value():
        bar.setValue(top - max(margin, 0))
    elif top + height + margin > bar.value() + shown:
        bar.setValue(top + height + margin - shown)
