"""The pyqtgraph canvases that docks share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QColor, QPolygonF
from qtpy.QtWidgets import QGraphicsPolygonItem, QSizePolicy, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["CoverageChart", "DensityChart", "LineChart", "LossChart", "ScanChart", "TokenChart"]

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
        # One item for all members: a path each would cost as much as the training's own step.
        self._faint = self._plot.plot(connect="finite")
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
            # asked a second time, pyqtgraph scales by a prefix once more, and shows thousandths as whole numbers
            if axis.autoSIPrefix:
                axis.enableAutoSIPrefix(False)
            axis.setPen(colours["text"])
            axis.setTextPen(colours["text"])
        faint = QColor(colours["text"])
        faint.setAlpha(70)
        self._faint.setPen(self._pg.mkPen(faint, width=1))
        self._mean.setPen(self._pg.mkPen(colours["accent"], width=2.5))

    def clear(self) -> None:
        """Forget all losses."""
        self._members = {}
        self._draw()

    def add(self, losses: Iterable[tuple[int, int, float]]) -> None:
        """Draw more losses, at once: with what else changes, since each picture costs a frame of the whole window.

        Parameters
        ----------
        losses : iterable of (member, step, loss)
            In the order of the steps of each member.
        """
        for member, step, loss in losses:
            steps, values = self._members.setdefault(member, ([], []))
            steps.append(step)
            values.append(max(float(loss), 1e-12))
        self._draw()

    def _draw(self) -> None:
        """Bring the curves up to date."""
        x: list[float] = []
        y: list[float] = []
        for steps, values in self._members.values():
            thin_x, thin_y = _thinned(steps, values)
            x += [*thin_x, np.nan]
            y += [*thin_y, np.nan]
        self._faint.setData(x, y)
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
        if not self._members:
            return [], []
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


class _Chart(QWidget):
    """A plot that is looked at, not handled, in the colours of the theme."""

    name = ""
    help_text = ""
    height = 150
    grows = False

    def __init__(self, colours: Mapping[str, QColor], parent: QWidget | None = None) -> None:
        import pyqtgraph as pg

        super().__init__(parent)
        self._pg = pg
        self.setAccessibleName(self.name)
        self.setToolTip(self.help_text)
        self._plot = pg.PlotWidget()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.hideButtons()
        # A plot asks for 480 pixels; it takes what there is.
        self._plot.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        self.setMinimumHeight(self.height)
        if not self.grows:
            self.setMaximumHeight(self.height)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._plot)
        self._items()
        self.set_colours(colours)

    def _items(self) -> None:
        """Make what is drawn, without colours."""
        raise NotImplementedError

    def _pens(self, text: QColor, accent: QColor, faint: QColor) -> None:
        """Give what is drawn its colours."""
        raise NotImplementedError

    def set_colours(self, colours: Mapping[str, QColor]) -> None:
        """Draw in the colours of a theme.

        Parameters
        ----------
        colours : mapping of str to QColor
            ``text``, ``background`` and ``accent``.
        """
        self._colours = colours
        self._plot.setBackground(colours["background"])
        for side in ("bottom", "left"):
            axis = self._plot.getAxis(side)
            # asked a second time, pyqtgraph scales by a prefix once more, and shows thousandths as whole numbers
            if axis.autoSIPrefix:
                axis.enableAutoSIPrefix(False)
            axis.setPen(colours["text"])
            axis.setTextPen(colours["text"])
        faint = QColor(colours["text"])
        faint.setAlpha(120)
        self._pens(colours["text"], colours["accent"], faint)

    def _band(self, colour: QColor) -> QColor:
        """A colour to fill with."""
        filled = QColor(colour)
        filled.setAlpha(80)
        return filled


class LineChart(_Chart):
    """Values along a line: observed points, median, interval, truth and threshold."""

    name = "Line cut"
    help_text = (
        "Along the line: observed values brought to the target's scale (points), median (line), interval "
        "(band), truth where one is picked (dashes), threshold (dots)."
    )
    height = 190
    grows = True

    def _items(self) -> None:
        """Make the curves."""
        self._lower, self._upper = self._plot.plot(), self._plot.plot()
        self._fill = self._pg.FillBetweenItem(self._lower, self._upper)
        self._plot.addItem(self._fill)
        self._observed = self._plot.plot(pen=None, symbol="o", symbolSize=3)
        self._median, self._truth = self._plot.plot(), self._plot.plot()
        self._threshold = self._pg.InfiniteLine(angle=0, movable=False)
        self._threshold.hide()
        self._plot.addItem(self._threshold, ignoreBounds=True)
        self.curves: dict[str, NDArray[np.float64]] = {}

    def _pens(self, text: QColor, accent: QColor, faint: QColor) -> None:
        """Colour the curves: no two are told apart by colour alone."""
        pen = self._pg.mkPen
        for edge in (self._lower, self._upper):
            edge.setPen(pen(accent, width=1))
        self._fill.setBrush(self._band(accent))
        self._observed.setSymbolBrush(faint)
        self._observed.setSymbolPen(None)
        self._median.setPen(pen(accent, width=2.5))
        self._truth.setPen(pen(text, width=1.5, style=Qt.PenStyle.DashLine))
        self._threshold.setPen(pen(text, width=1, style=Qt.PenStyle.DotLine))

    def show_curves(
        self,
        distance: NDArray[np.float64],
        curves: Mapping[str, NDArray[np.float64]],
        *,
        unit: str,
        threshold: float | None,
    ) -> None:
        """Draw curves instead of the last ones.

        Parameters
        ----------
        distance : ndarray of float64, shape (n,)
            Along the line.
        curves : mapping of str to ndarray of float64, shape (n,)
            Any of "observed", "lower", "median", "upper", "truth"; none to clear.
        unit : str
            Of the distance.
        threshold : float, optional
            Drawn across.
        """
        self.curves = dict(curves)
        for name, item in (
            ("lower", self._lower),
            ("upper", self._upper),
            ("observed", self._observed),
            ("median", self._median),
            ("truth", self._truth),
        ):
            item.setData(distance, curves[name]) if name in curves else item.setData([], [])
        self._plot.setLabel("bottom", f"distance ({unit})")
        low, high = _range_of(curves)
        self._plot.setYRange(low, high, padding=0.05)
        self._threshold.setVisible(threshold is not None)
        if threshold is not None:
            self._threshold.setValue(threshold)


class DensityChart(_Chart):
    """Predicted density of one pixel, with its interval, its median and the threshold."""

    name = "Distribution of the pixel"
    help_text = (
        "The pixel's distribution as its quantiles predict it (before calibration), its calibrated interval "
        "(band), its median (line) and the threshold (dots)."
    )
    height = 130

    def _items(self) -> None:
        """Make the curve and the lines."""
        self._curve = self._plot.plot(stepMode="center", fillLevel=0)
        self._interval = self._pg.LinearRegionItem(movable=False)
        self._interval.setZValue(-10)
        self._median = self._pg.InfiniteLine(movable=False)
        self._threshold = self._pg.InfiniteLine(movable=False)
        for item in (self._interval, self._median, self._threshold):
            item.hide()
            self._plot.addItem(item, ignoreBounds=item is self._threshold)
        self._plot.getAxis("left").setTicks([])
        self._plot.setLabel("left", "density")

    def _pens(self, text: QColor, accent: QColor, faint: QColor) -> None:
        """Colour them."""
        pen = self._pg.mkPen
        self._curve.setPen(pen(text, width=1.5))
        fill = QColor(faint)
        fill.setAlpha(60)
        self._curve.setBrush(fill)
        self._interval.setBrush(self._band(accent))
        for edge in self._interval.lines:
            edge.setPen(pen(accent, width=1))
        self._median.setPen(pen(accent, width=2.5))
        self._threshold.setPen(pen(text, width=1, style=Qt.PenStyle.DotLine))

    def show_pixel(
        self,
        edges: NDArray[np.float64],
        height: NDArray[np.float64],
        interval: tuple[float, float, float],
        threshold: float | None,
    ) -> None:
        """Draw a pixel instead of the last one.

        Parameters
        ----------
        edges, height : ndarray of float64, shape (K + 1,) and (K,)
            Steps of the density.
        interval : tuple of float
            Lower, median, upper.
        threshold : float, optional
            Drawn across.
        """
        self._curve.setData(edges, height)
        self._interval.setRegion((interval[0], interval[2]))
        self._median.setValue(interval[1])
        for item in (self._interval, self._median):
            item.show()
        self._threshold.setVisible(threshold is not None)
        if threshold is not None:
            self._threshold.setValue(threshold)


class CoverageChart(_Chart):
    """Coverage as measured against coverage asked for."""

    name = "Reliability"
    help_text = (
        "Coverage of the calibrated intervals as measured on held-out blocks, against the coverage asked for; on "
        "the dashes where they hold what they say. The bar is the 95 % interval at the coverage in use."
    )
    height = 170

    def _items(self) -> None:
        """Make the curve, the diagonal and the bar."""
        self._ideal = self._plot.plot([0.4, 1], [0.4, 1])
        self._bar = self._pg.ErrorBarItem(x=np.array([0.0]), y=np.array([0.0]), height=np.array([0.0]))
        self._bar.hide()
        self._plot.addItem(self._bar)
        self._curve = self._plot.plot(symbol="o", symbolSize=7)
        self._plot.setLabel("bottom", "coverage asked for")
        self._plot.setLabel("left", "measured")

    def _pens(self, text: QColor, accent: QColor, faint: QColor) -> None:
        """Colour them."""
        pen = self._pg.mkPen
        self._ideal.setPen(pen(faint, width=1, style=Qt.PenStyle.DashLine))
        self._bar.setOpts(pen=pen(text, width=1.5), beam=0.01)
        self._curve.setPen(pen(accent, width=2))
        self._curve.setSymbolBrush(accent)
        self._curve.setSymbolPen(None)

    def show_coverage(
        self,
        wanted: NDArray[np.float64],
        measured: NDArray[np.float64],
        at: tuple[float, float, float] | None,
    ) -> None:
        """Draw the coverage of a channel.

        Parameters
        ----------
        wanted, measured : ndarray of float64, shape (A,)
            Coverages.
        at : tuple of float, optional
            Coverage in use, and the ends of the 95 % interval of what was measured there.
        """
        order = np.argsort(wanted)
        known = order[np.isfinite(measured[order])]
        self._curve.setData(wanted[known], measured[known])
        shown = at is not None and all(np.isfinite(at))
        self._bar.setVisible(shown)
        if at is not None and shown:
            x, low, high = at
            self._bar.setData(x=np.array([x]), y=np.array([(low + high) / 2]), height=np.array([high - low]))


def _range_of(curves: Mapping[str, NDArray[np.float64]]) -> tuple[float, float]:
    """Range of what matters: all of the band and the truth, nine tenths of the observed points."""
    ends = []
    for name, values in curves.items():
        known = values[np.isfinite(values)]
        if known.size:
            ends.append(np.percentile(known, (5, 95) if name == "observed" else (0, 100)))
    if not ends:
        return 0.0, 1.0
    low, high = float(np.min(ends)), float(np.max(ends))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


class TokenChart(_Chart):
    """One violin per token: how a channel's values are spread within it."""

    name = "Values in each token"
    help_text = (
        "One shape per token, by its number: how the channel's median is spread over the token's pixels. The bar "
        "is the token's own median. Picked tokens are drawn strong."
    )
    height = 150

    def _items(self) -> None:
        """Make nothing yet: the tokens are not known."""
        self.violins: dict[int, Any] = {}
        self._medians: dict[int, Any] = {}
        self._fills: dict[int, QColor] = {}
        self._picked: frozenset[int] = frozenset()
        self._pair = (QColor("gray"), QColor("gray"))
        self._accent = QColor("gray")
        self._plot.setLabel("bottom", "token")

    def _pens(self, text: QColor, accent: QColor, faint: QColor) -> None:
        """Colour the outlines."""
        self._pair = (text, faint)
        self._accent = accent
        self.show_picked(self._picked)

    def show_tokens(
        self,
        edges: NDArray[np.float64],
        counts: NDArray[np.intp],
        medians: NDArray[np.float64],
        colours: NDArray[np.float32],
        channel: str,
    ) -> None:
        """Draw the tokens instead of the last ones.

        Parameters
        ----------
        edges : ndarray of float64, shape (bins + 1,)
            Shared bins, in the channel's unit; none to clear.
        counts : ndarray of int, shape (k, bins)
            Pixels of each token in each bin.
        medians : ndarray of float64, shape (k,)
            Median of each token; NaN where it has no pixel.
        colours : ndarray of float32, shape (k, 4)
            RGBA, 0 to 1.
        channel : str
            Name of the channel.
        """
        for item in (*self.violins.values(), *self._medians.values()):
            self._plot.removeItem(item)
        self.violins, self._medians = {}, {}
        self._fills = {n: QColor.fromRgbF(*map(float, c[:3])) for n, c in enumerate(colours, start=1)}
        for number, (count, median) in enumerate(zip(counts, medians, strict=True), start=1):
            if not count.any():
                continue
            half = 0.45 * count / count.max()
            self.violins[number] = self._violin(edges, half, number)
            bar = self._plot.plot([number - 0.3, number + 0.3], [median, median])
            bar.setZValue(2)
            self._medians[number] = bar
        self._plot.setLabel("left", channel)
        every = max(-(-len(counts) // 20), 1)
        shown = [n for n in range(1, len(counts) + 1) if n == 1 or n % every == 0]
        self._plot.getAxis("bottom").setTicks([[(n, str(n)) for n in shown]])
        if edges.size:
            self._plot.setXRange(0.4, len(counts) + 0.6, padding=0)
            self._plot.setYRange(float(edges[0]), float(edges[-1]), padding=0.02)
        self.show_picked(self._picked)

    def _violin(self, edges: NDArray[np.float64], half: NDArray[np.float64], number: int) -> Any:
        """Closed shape of a token."""
        centres = (edges[:-1] + edges[1:]) / 2
        seen = np.flatnonzero(half)
        part = slice(max(seen[0] - 1, 0), seen[-1] + 2)
        x = np.concatenate([number - half[part], number + half[part][::-1]])
        y = np.concatenate([centres[part], centres[part][::-1]])
        points = [QPointF(float(a), float(b)) for a, b in zip(x, y, strict=True)]
        item = QGraphicsPolygonItem(QPolygonF(points))
        self._plot.addItem(item)
        return item

    def show_picked(self, picked: Iterable[int]) -> None:
        """Draw these tokens strong, and the others faint where there are any.

        Parameters
        ----------
        picked : iterable of int
            Numbers of tokens.
        """
        self._picked = frozenset(picked)
        text, faint = self._pair
        for number, item in self.violins.items():
            strong = number in self._picked
            fill = QColor(self._fills[number])
            fill.setAlpha(255 if strong or not self._picked else 60)
            item.setBrush(fill)
            item.setPen(self._pg.mkPen(self._accent if strong else faint, width=2 if strong else 1))
            item.setZValue(1 if strong else 0)
            self._medians[number].setPen(self._pg.mkPen(text, width=2 if strong else 1))


class ScanChart(_Chart):
    """Error of compared networks against their number of weights."""

    name = "Networks compared"
    help_text = (
        "Error (CRPS over the target's SD) against the weights of a member: a line for each largest dilation "
        "and number of channels, a point for each depth."
    )
    height = 190
    _symbols = ("o", "s", "t", "d", "+", "x")

    def _items(self) -> None:
        """Make the legend and the axes; lines come with the rows."""
        self._plot.setLogMode(x=True, y=False)
        self._plot.setLabel("bottom", "weights of a member")
        self._plot.setLabel("left", "error")
        # room for the depths beside the points
        self._plot.getViewBox().setDefaultPadding(0.12)
        self._legend = self._plot.addLegend(offset=(-5, 5))
        self.lines: list[Any] = []
        self._labels: list[Any] = []

    def _pens(self, text: QColor, accent: QColor, faint: QColor) -> None:
        """Colour the lines; symbols tell them apart."""
        self._text = text
        self._legend.setLabelTextColor(text)
        for k, line in enumerate(self.lines):
            colour = accent if k % 2 == 0 else faint
            line.setPen(self._pg.mkPen(colour, width=2))
            line.setSymbolBrush(colour)
            line.setSymbolPen(None)
        for label in self._labels:
            label.setColor(text)

    def show_rows(self, rows: Sequence[Any]) -> None:
        """Draw compared networks instead of the last ones.

        Parameters
        ----------
        rows : sequence of ScanRow
            From a `Scan`.
        """
        for item in (*self.lines, *self._labels):
            self._plot.removeItem(item)
        self._legend.clear()
        self.lines, self._labels = [], []
        for k, kind in enumerate(sorted({(row.max_dilation, row.channels) for row in rows})):
            mine = sorted(
                (row for row in rows if (row.max_dilation, row.channels) == kind),
                key=lambda row: row.parameters,
            )
            line = self._plot.plot(
                [row.parameters for row in mine],
                [row.crps for row in mine],
                symbol=self._symbols[k % len(self._symbols)],
                name=f"dilation to {kind[0]}, {kind[1]} channels",
            )
            self.lines.append(line)
            for row in mine:
                label = self._pg.TextItem(str(row.depth), anchor=(0, 1))
                label.setPos(float(np.log10(row.parameters)), row.crps)
                self._plot.addItem(label)
                self._labels.append(label)
        self.set_colours(self._colours)
