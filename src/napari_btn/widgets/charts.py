"""The pyqtgraph canvases that docks share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QVBoxLayout, QWidget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["LossChart"]

_DRAWN_POINTS = 400
_MEAN_OVER = 25


class LossChart(QWidget):
    """Training loss against the step: each member faint, their mean strong.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    parent : QWidget, optional
        Parent.
    """

    def __init__(self, colours: Mapping[str, QColor], parent: QWidget | None = None) -> None:
        import pyqtgraph as pg

        super().__init__(parent)
        self.setAccessibleName("Training loss")
        self.setToolTip("Training loss (pinball, relative): each member faint, their running mean strong.")
        self._pg = pg
        self._plot = pg.PlotWidget()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.hideButtons()
        self._plot.setLabel("bottom", "step")
        self._plot.setLabel("left", "loss")
        self.setFixedHeight(150)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._plot)
        self._members: dict[int, tuple[list[int], list[float]]] = {}
        self._curves: dict[int, pg.PlotDataItem] = {}
        self._mean = self._plot.plot()
        self._mean.setZValue(1)
        self.set_colours(colours)

    def set_colours(self, colours: Mapping[str, QColor]) -> None:
        """Draw in the colours of a theme.

        Parameters
        ----------
        colours : mapping of str to QColor
            ``text``, ``background`` and ``accent``.
        """
        self._plot.setBackground(colours["background"])
        for side in ("bottom", "left"):
            axis = self._plot.getAxis(side)
            axis.enableAutoSIPrefix(False)
            axis.setPen(colours["text"])
            axis.setTextPen(colours["text"])
        faint = QColor(colours["text"])
        faint.setAlpha(70)
        self._faint = self._pg.mkPen(faint, width=1)
        for curve in self._curves.values():
            curve.setPen(self._faint)
        self._mean.setPen(self._pg.mkPen(colours["accent"], width=2.5))

    def clear(self) -> None:
        """Forget all losses."""
        for curve in self._curves.values():
            self._plot.removeItem(curve)
        self._members, self._curves = {}, {}
        self._mean.setData([], [])

    def add(self, losses: Iterable[tuple[int, int, float]]) -> None:
        """Draw more losses.

        Parameters
        ----------
        losses : iterable of (member, step, loss)
            In the order of the steps of each member.
        """
        touched = set()
        for member, step, loss in losses:
            steps, values = self._members.setdefault(member, ([], []))
            steps.append(step)
            values.append(max(float(loss), 1e-12))
            touched.add(member)
        for member in touched:
            if member not in self._curves:
                self._curves[member] = self._plot.plot(pen=self._faint)
            self._curves[member].setData(*_thinned(*self._members[member]))
        if touched:
            self._mean.setData(*self._mean_curve())

    @property
    def losses(self) -> tuple[tuple[int, int, float], ...]:
        """All losses drawn, as (member, step, loss)."""
        return tuple(
            (m, s, v)
            for m, (steps, values) in self._members.items()
            for s, v in zip(steps, values, strict=True)
        )

    def _mean_curve(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean over the members, smoothed over steps, where at least one member has been."""
        longest = max((steps[-1] for steps, _ in self._members.values()), default=0)
        grid = np.linspace(0, longest, min(_DRAWN_POINTS, longest + 1))
        known = np.full((len(self._members), grid.size), np.nan)
        for row, (steps, values) in zip(known, self._members.values(), strict=True):
            window = max(min(_MEAN_OVER, len(values) // 10), 1)
            padded = np.pad(np.log(values), (window // 2, window - 1 - window // 2), mode="edge")
            smooth = np.convolve(padded, np.full(window, 1 / window), mode="valid")
            inside = (grid >= steps[0]) & (grid <= steps[-1])
            row[inside] = np.interp(grid[inside], steps, smooth)
        seen = np.isfinite(known).any(axis=0)
        return list(grid[seen]), list(np.exp(np.nanmean(known[:, seen], axis=0)))


def _thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """At most a few hundred points, each the geometric mean of those it stands for."""
    every = -(-len(steps) // _DRAWN_POINTS)
    if every <= 1:
        return steps, values
    whole = len(steps) // every * every
    means = [np.exp(np.log(values[:whole]).reshape(-1, every).mean(axis=1)), np.asarray(values[whole:])]
    return [*steps[every - 1 : whole : every], *steps[whole:]], list(np.concatenate(means))
