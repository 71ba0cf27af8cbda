"""The chart of the Tokens dock: one violin per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPointF
from qtpy.QtGui import QColor, QPolygonF
from qtpy.QtWidgets import QGraphicsPolygonItem

from napari_btn.widgets.shared.charts import Chart, faded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

__all__ = ["TokenChart"]


class TokenChart(Chart):
    """One violin per token: how a channel's values are spread within it.

    Parameters
    ----------
    colours : mapping of str to QColor
        ``text``, ``background`` and ``accent`` of the theme.
    """

    def __init__(self, colours: Mapping[str, QColor]) -> None:
        super().__init__(
            "Values in each token",
            "One shape for each token, by its number: the distribution of the channel's median over the "
            "pixels of the token. The bar is the median of the token. Picked tokens are highlighted.",
            height=160,
            legend=(("━", "median of the token", "text"), ("◆", "distribution over its pixels", "text")),
        )
        self.violins: dict[int, Any] = {}
        self._medians: dict[int, Any] = {}
        self._fills: dict[int, QColor] = {}
        self._picked: frozenset[int] = frozenset()
        self._pair = (QColor("gray"), QColor("gray"))
        self._accent = QColor("gray")
        self._plot.setLabel("bottom", "token")
        self.set_colours(colours)

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw the curves in the colours of the theme."""
        faint = faded(text, 120)
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
        self._plot.setLabel("left", f"median of {channel}" if channel else "")
        every = max(-(-len(counts) // 20), 1)
        shown = [n for n in range(1, len(counts) + 1) if n == 1 or n % every == 0]
        self._plot.getAxis("bottom").setTicks([[(n, str(n)) for n in shown]])
        if edges.size:
            self._plot.setXRange(0.4, len(counts) + 0.6, padding=0)
            self._plot.setYRange(float(edges[0]), float(edges[-1]), padding=0.02)
        self.show_picked(self._picked)

    def _violin(self, edges: NDArray[np.float64], half: NDArray[np.float64], number: int) -> Any:
        """Return the closed shape of a token."""
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
            item.setBrush(faded(self._fills[number], 255 if strong or not self._picked else 60))
            item.setPen(self._pg.mkPen(self._accent if strong else faint, width=2 if strong else 1))
            item.setZValue(1 if strong else 0)
            self._medians[number].setPen(self._pg.mkPen(text, width=2 if strong else 1))
