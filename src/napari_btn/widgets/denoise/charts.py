"""The charts of the Denoise dock: training loss, networks compared, and noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.widgets.shared.charts import Chart, faded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qtpy.QtGui import QColor

__all__ = ["CorrelationChart", "LossChart", "ScanChart", "TransferChart"]

_DRAWN_POINTS = 400
_MEAN_OVER = 25
_SYMBOLS = ("o", "s", "t", "d", "+", "x")


class LossChart(Chart):
    """Training loss against the step: each member faint, their mean strong.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    """

    def __init__(self, colours: Mapping[str, QColor]) -> None:
        super().__init__(
            "Training loss",
            "Training loss (pinball loss, relative; lower is better): each member is a thin line, their "
            "running mean the thick one.",
            legend=(("━", "running mean", "accent"), ("─", "members", "text")),
        )
        self._plot.setLabel("bottom", "step")
        self._plot.setLabel("left", "loss")
        self._members: dict[int, tuple[list[int], list[float]]] = {}
        # One item for all members: one for each would cost as much as the training's own step.
        self._faint = self._plot.plot(connect="finite")
        self._mean = self._plot.plot()
        self._mean.setZValue(1)
        self.set_colours(colours)

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw the curves in the colours of the theme."""
        self._faint.setPen(self._pg.mkPen(faded(text, 70), width=1))
        self._mean.setPen(self._pg.mkPen(accent, width=2.5))

    def clear(self) -> None:
        """Forget all losses."""
        self._members = {}
        self._draw()

    def add(self, losses: Iterable[tuple[int, int, float]]) -> None:
        """Add losses and draw them at once, since each drawing costs a frame of the whole window.

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
        """Update the curves."""
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
        """Return the mean over the members, smoothed over steps, up to the last step of any."""
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
    """Return at most a few hundred points, each the geometric mean of its neighbours."""
    every = -(-len(steps) // _DRAWN_POINTS)
    if every <= 1:
        return steps, values
    whole = len(steps) // every * every
    means = [np.exp(np.log(values[:whole]).reshape(-1, every).mean(axis=1)), np.asarray(values[whole:])]
    return [*steps[every - 1 : whole : every], *steps[whole:]], list(np.concatenate(means))


class ScanChart(Chart):
    """Error of compared networks against their number of weights.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    """

    def __init__(self, colours: Mapping[str, QColor]) -> None:
        super().__init__(
            "Networks compared",
            "Error (CRPS divided by the SD of the target; lower is better) against the number of weights of "
            "a network. One line for each largest dilation and number of channels; each point is a depth, "
            "which is written beside it.",
            height=190,
        )
        self._plot.setLogMode(x=True, y=False)
        self._plot.setLabel("bottom", "weights per member")
        self._plot.setLabel("left", "error")
        # room for the depths beside the points
        self._plot.getViewBox().setDefaultPadding(0.12)
        self._legend = self._plot.addLegend(offset=(-5, 5))
        self.lines: list[Any] = []
        self._labels: list[Any] = []
        self.set_colours(colours)

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw the curves in the colours of the theme."""
        faint = faded(text, 120)
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
                symbol=_SYMBOLS[k % len(_SYMBOLS)],
                name=f"largest dilation {kind[0]}, channels {kind[1]}",
            )
            self.lines.append(line)
            for row in mine:
                label = self._pg.TextItem(str(row.depth), anchor=(0, 1))
                label.setPos(float(np.log10(row.parameters)), row.crps)
                self._plot.addItem(label)
                self._labels.append(label)
        self.set_colours(self._colours)


class TransferChart(Chart):
    """Variance of the noise against the mean, and the fitted law.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    """

    def __init__(self, colours: Mapping[str, QColor]) -> None:
        super().__init__(
            "Variance against mean",
            "Photon transfer: variance of the noise against the mean signal, with one point for each range "
            "of brightness, and the fit. The slope of the fit is the gain.",
            height=165,
            legend=(("●", "measured", "text"), ("━", "fit", "accent")),
        )
        self._plot.setLabel("bottom", "mean signal")
        self._plot.setLabel("left", "noise variance")
        self.points = self._plot.plot(pen=None, symbol="o", symbolSize=5)
        self.fit = self._plot.plot()
        self.set_colours(colours)

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw the curves in the colours of the theme."""
        self.points.setSymbolBrush(faded(text, 160))
        self.points.setSymbolPen(None)
        self.fit.setPen(self._pg.mkPen(accent, width=2))

    def show_curve(
        self,
        mean: np.ndarray[Any, Any],
        variance: np.ndarray[Any, Any],
        line: np.ndarray[Any, Any],
        law: np.ndarray[Any, Any],
    ) -> None:
        """Draw a curve instead of the last one.

        Parameters
        ----------
        mean, variance : ndarray of float, (n,)
            Measured points.
        line, law : ndarray of float, (n,)
            Means, and the fitted variance there.
        """
        self.points.setData(mean, variance)
        self.fit.setData(line, law)


class CorrelationChart(Chart):
    """Autocorrelation of the noise along each axis.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    """

    def __init__(self, colours: Mapping[str, QColor]) -> None:
        super().__init__(
            "Autocorrelation of the noise",
            "Autocorrelation of the noise along each axis. Noise that is independent from pixel to pixel "
            "falls to 0 at 1 px.",
            height=135,
        )
        self._plot.setLabel("bottom", "distance (px)")
        self._plot.setLabel("left", "correlation")
        self._plot.setYRange(-0.1, 1.0)
        self._legend = self._plot.addLegend(offset=(-5, 5))
        self._zero = self._pg.InfiniteLine(0, angle=0)
        self._plot.addItem(self._zero)
        self.lines: list[Any] = []
        self.set_colours(colours)

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw the curves in the colours of the theme."""
        faint = faded(text, 120)
        self._legend.setLabelTextColor(text)
        for _, label in self._legend.items:
            label.setText(label.text, color=text)
        self._zero.setPen(self._pg.mkPen(faded(text, 90), width=1))
        shades = (accent, text, faint)
        for k, line in enumerate(self.lines):
            shade = shades[k % len(shades)]
            line.setPen(self._pg.mkPen(shade, width=2))
            line.setSymbolBrush(shade)
            line.setSymbolPen(None)

    def show_correlation(self, axes: str, correlation: np.ndarray[Any, Any]) -> None:
        """Draw a correlation instead of the last one.

        Parameters
        ----------
        axes : str
            Letters of the space axes.
        correlation : ndarray of float, (axes, lags)
            NaN where unknown.
        """
        for line in self.lines:
            self._plot.removeItem(line)
        self._legend.clear()
        self.lines = []
        # X first, in the strongest colour
        for k, (axis, values) in enumerate(reversed(list(zip(axes, correlation, strict=True)))):
            known = np.isfinite(values)
            lags = np.arange(len(values))[known]
            name = f"along {axis.lower()}"
            symbol = _SYMBOLS[k % len(_SYMBOLS)]
            self.lines.append(self._plot.plot(lags, values[known], symbol=symbol, symbolSize=6, name=name))
        self.set_colours(self._colours)
