"""The charts of the Uncertainty dock: a line cut, a pixel, and measured coverage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt

from napari_btn.core.data.image import shown_unit
from napari_btn.widgets.shared.charts import Chart, faded
from napari_btn.widgets.shared.overlays import ADDS, TAKES_AWAY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from qtpy.QtGui import QColor

__all__ = ["CoverageChart", "DensityChart", "FilterChart", "LineChart", "Weights"]

_GAP, _TITLE = 0.12, 0.22  # between and above pictures of weights, relative to their side
_SHOWN = 0.03  # weights under this share of the largest may lie outside of the picture
_SIDES = (9, 61)  # of the pictures, in pixels of the image


class LineChart(Chart):
    """Values along a line: observed points, median, interval, truth and threshold.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    """

    def __init__(self, colours: Mapping[str, QColor]) -> None:
        super().__init__(
            "Line cut",
            "Along the line: observed values, brought to the scale of the target (points); median (line); "
            "interval (band); truth, if one is picked (dashed); threshold (dotted).",
            height=190,
            grows=True,
            legend=(
                ("●", "observed", "text"),
                ("━", "median", "accent"),
                ("▒", "interval", "accent"),
                ("╌", "truth", "text"),
                ("┈", "threshold", "text"),
            ),
        )
        self._lower, self._upper = self._plot.plot(), self._plot.plot()
        self._fill = self._pg.FillBetweenItem(self._lower, self._upper)
        self._plot.addItem(self._fill)
        self._observed = self._plot.plot(pen=None, symbol="o", symbolSize=3)
        self._median, self._truth = self._plot.plot(), self._plot.plot()
        self._threshold = self._pg.InfiniteLine(angle=0, movable=False)
        self._threshold.hide()
        self._plot.addItem(self._threshold, ignoreBounds=True)
        self.curves: dict[str, NDArray[np.float64]] = {}
        self.set_colours(colours)

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw the curves in the colours of the theme."""
        faint = faded(text, 120)
        pen = self._pg.mkPen
        for edge in (self._lower, self._upper):
            edge.setPen(pen(accent, width=1))
        self._fill.setBrush(faded(accent, 80))
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
        channel: str = "",
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
        channel : str
            What the values are of, beside their axis.
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
        self._plot.setLabel("bottom", f"distance ({shown_unit(unit)})")
        self._plot.setLabel("left", channel)
        drawn = {"interval" if name == "lower" else name for name in curves}
        self.show_marks(drawn | ({"threshold"} if threshold is not None else set()))
        low, high = _range_of(curves)
        self._plot.setYRange(low, high, padding=0.05)
        self._threshold.setVisible(threshold is not None)
        if threshold is not None:
            self._threshold.setValue(threshold)


class DensityChart(Chart):
    """Predicted density of one pixel, with its interval, its median and the threshold.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    """

    def __init__(self, colours: Mapping[str, QColor]) -> None:
        super().__init__(
            "Distribution of the pixel",
            "Distribution of the pixel's value as the networks predict it (before calibration), the "
            "calibrated interval (band), the median (line) and the threshold (dotted).",
            height=160,
            legend=(
                ("▟", "distribution", "text"),
                ("▒", "interval", "accent"),
                ("━", "median", "accent"),
                ("┈", "threshold", "text"),
            ),
        )
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
        self._plot.setLabel("bottom", "value (in the unit of the median)")
        self.set_colours(colours)

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw the curves in the colours of the theme."""
        faint = faded(text, 120)
        pen = self._pg.mkPen
        self._curve.setPen(pen(text, width=1.5))
        self._curve.setBrush(faded(faint, 60))
        self._interval.setBrush(faded(accent, 80))
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


@dataclass(frozen=True, eq=False)
class Weights:
    """A picture of weights.

    Parameters
    ----------
    title : str
        Written above.
    plane : ndarray of float, shape (Y, X)
        Odd sides, with the pixel of the median in the middle.
    centre : tuple of float, optional
        Of the weights of a neighbouring frame, in pixels from the middle: rows and columns; marked.
    """

    title: str
    plane: NDArray[np.floating[Any]]
    centre: tuple[float, float] | None = None


class FilterChart(Chart):
    """Weights of the noisy pixels around one pixel: a row for each amount of noise, a column for each frame.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    """

    def __init__(self, colours: Mapping[str, QColor]) -> None:
        super().__init__(
            "Filter of the pixel",
            "Weight of each noisy pixel around the clicked one (cross) in its median: red adds, blue "
            "subtracts. One picture for the image as it is, and one with twice the noise, each with its own "
            "contrast: if both are alike, more noise is not averaged over more pixels. Networks that see "
            "neighbouring frames have one picture for each frame; the circle is the centre of its weights.",
            height=170,
        )
        self._plot.setAspectLocked(True)
        self._plot.invertY(True)
        for side in ("bottom", "left"):
            self._plot.hideAxis(side)
        self.rows: tuple[tuple[Weights, ...], ...] = ()
        self.set_colours(colours)

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw the pictures in the colours of the theme."""
        del text, accent
        self.show_filters(self.rows)

    def show_filters(self, rows: Sequence[Sequence[Weights]]) -> None:
        """Show pictures of weights instead of the last ones.

        Parameters
        ----------
        rows : sequence of sequence of Weights
            Rows with the same number of pictures; none to clear. Pictures of a row share their contrast.
        """
        self.rows = tuple(tuple(row) for row in rows)
        self._plot.clear()
        if not self.rows:
            return
        side = _side_of(self.rows)
        across = len(self.rows[0]) == 1
        for i, row in enumerate(self.rows):
            top = max(float(np.abs(one.plane).max()) for one in row) or 1.0
            for k, one in enumerate(row):
                # single frames stand side by side
                self._add(one, (0, i) if across else (i, k), side, top)
        high, wide = (len(self.rows), len(self.rows[0])) if not across else (1, len(self.rows))
        pitch = side * (1 + _GAP)
        # room for the titles
        self._plot.setXRange(0, wide * pitch - side * _GAP, padding=0.02)
        self._plot.setYRange(-side * _TITLE, high * pitch * (1 + _TITLE), padding=0.02)

    def _add(self, one: Weights, cell: tuple[int, int], side: int, top: float) -> None:
        """Add a picture in a cell, given by its row and column."""
        text, accent = self._colours["text"], self._colours["accent"]
        y, x = cell[0] * side * (1 + _GAP + _TITLE), cell[1] * side * (1 + _GAP)
        image = self._pg.ImageItem(_middle(one.plane, side).T, levels=(-top, top))
        image.setColorMap(self._colour_map())
        image.setRect(x, y, side, side)
        self._plot.addItem(image)
        pen = self._pg.mkPen(faded(text, 120))
        self._plot.plot([x, x + side, x + side, x, x], [y, y, y + side, y + side, y], pen=pen)
        middle = (x + side / 2, y + side / 2)
        marks = [("+", middle, text)]
        if one.centre is not None:
            marks.append(("o", (middle[0] + one.centre[1], middle[1] + one.centre[0]), accent))
        for symbol, place, colour in marks:
            mark = self._pg.ScatterPlotItem(
                [place[0]],
                [place[1]],
                symbol=symbol,
                size=7,
                pen=self._pg.mkPen(faded(colour, 200)),
                brush=None,
            )
            self._plot.addItem(mark)
        title = self._pg.TextItem(one.title, color=text, anchor=(0.5, 1))
        title.setPos(x + side / 2, y)
        self._plot.addItem(title)

    def _colour_map(self) -> Any:
        """Return a map of colours from blue over the background to red."""
        ends = [tuple(round(255 * v) for v in colour) for colour in (TAKES_AWAY, ADDS)]
        return self._pg.ColorMap(
            [0.0, 0.5, 1.0], [ends[0], self._colours["background"].getRgb()[:3], ends[1]]
        )


def _side_of(rows: Sequence[Sequence[Weights]]) -> int:
    """Return the side of a square around the pixel that holds all weights that can be seen."""
    far = 0
    for row in rows:
        for one in row:
            size = np.abs(one.plane)
            seen = np.argwhere(size > _SHOWN * size.max())
            middle = np.asarray(one.plane.shape) // 2
            far = max(far, int(np.abs(seen - middle).max(initial=0)))
    return int(np.clip(2 * far + 1, *_SIDES))


def _middle(plane: NDArray[np.floating[Any]], side: int) -> NDArray[np.float32]:
    """Return a square from the middle of a plane, with zeros beyond it."""
    made = np.zeros((side, side), np.float32)
    here, there = [], []
    for n in plane.shape:
        reach = min(side, n) // 2
        here.append(slice(n // 2 - reach, n // 2 + reach + 1))
        there.append(slice(side // 2 - reach, side // 2 + reach + 1))
    made[tuple(there)] = plane[tuple(here)]
    return made


class CoverageChart(Chart):
    """Coverage as measured against coverage asked for.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    """

    def __init__(self, colours: Mapping[str, QColor]) -> None:
        super().__init__(
            "Reliability",
            "Coverage of the calibrated intervals, measured on held-out blocks, against the coverage asked "
            "for. On the dashed line both are equal. The bar is the 95 % interval of the measurement at the "
            "coverage in use.",
            height=185,
            legend=(
                ("●", "measured", "accent"),
                ("╌", "as asked for", "text"),
                ("┃", "95 % interval", "text"),
            ),
        )
        self._ideal = self._plot.plot([0.4, 1], [0.4, 1])
        self._bar = self._pg.ErrorBarItem(x=np.array([0.0]), y=np.array([0.0]), height=np.array([0.0]))
        self._bar.hide()
        self._plot.addItem(self._bar)
        self._curve = self._plot.plot(symbol="o", symbolSize=7)
        self._plot.setLabel("bottom", "coverage asked for")
        self._plot.setLabel("left", "measured coverage")
        self.set_colours(colours)

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw the curves in the colours of the theme."""
        faint = faded(text, 120)
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
    """Return the range of band and truth, and of nine tenths of the observed points."""
    ends = []
    for name, values in curves.items():
        known = values[np.isfinite(values)]
        if known.size:
            ends.append(np.percentile(known, (5, 95) if name == "observed" else (0, 100)))
    if not ends:
        return 0.0, 1.0
    low, high = float(np.min(ends)), float(np.max(ends))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
