"""Probabilities whose sum estimates the area above a threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from napari_btn.core.calibration.distribution import cdf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut

__all__ = ["Area"]

# Steps of a map: finer, since the sum of many small probabilities is an area.
AREA_STEPS = 8192
TAIL_KNOTS = np.array([0.1, 0.25, 0.5])
AREA_TARGETS, AREA_PIXELS, AREA_VALUES = 16384, 30_000, 96


@dataclass(frozen=True, eq=False)
class Area:
    """Probabilities of one channel whose sum estimates the area above a threshold, whatever the threshold.

    Predicted probabilities are made right at the levels, on average over the held-out pixels, and the
    threshold is replaced by the one at which their mean equals the true share there. Both maps are monotone,
    so the probability of each pixel still falls with the threshold.

    Parameters
    ----------
    table : ndarray of float32, shape (T + 1,)
        Exceedance by place k / T in the predicted distribution.
    targets : ndarray of float32, shape (n,)
        Held-out targets of equal weight, rising.
    predicted : ndarray of float64, shape (G,)
        Mean predicted exceedance of the held-out pixels at each value, falling.
    values : ndarray of float64, shape (G,)
        Thresholds of ``predicted``, rising.
    moved : tuple of ndarray of float64, shape (M,), optional
        Thresholds, and where they are moved to, both rising, in between straight; without it, all are moved to where
        the areas are the same.
    """

    table: NDArray[np.float32]
    targets: NDArray[np.float32]
    predicted: NDArray[np.float64]
    values: NDArray[np.float64]
    moved: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def matched(self, threshold: float) -> float:
        """Return the threshold at which the predicted share of the held-out pixels is the true one.

        Parameters
        ----------
        threshold : float
            In the target's unit.
        """
        if self.moved is None:
            return self._same_area(threshold)
        asked, to = self.moved
        outside = min(threshold - asked[0], 0) + max(threshold - asked[-1], 0)
        return float(np.interp(threshold, asked, to) + outside)

    def _same_area(self, threshold: float) -> float:
        """Return the threshold of the same area, wherever it is."""
        low, high = float(self.targets[0]), float(self.targets[-1])
        if threshold < low:
            return self._same_area(low) - (low - threshold)
        if threshold >= high:
            return float(self.values[-1]) + (threshold - high)
        above = self.targets.size - np.searchsorted(self.targets, threshold, side="right")
        return float(np.interp(above / self.targets.size, self.predicted[::-1], self.values[::-1]))

    @classmethod
    def of(
        cls, held_out: HeldOut, channel: int, weight: NDArray[np.float64], *, careful: bool = False
    ) -> Self:
        """Return the areas of one channel.

        Parameters
        ----------
        held_out : HeldOut
        channel : int
        weight : ndarray of float64, shape (n,)
            Of each pixel; all of them together weigh one.
        careful : bool
            True to move a threshold only where the squared error of the probability falls by more than one standard
            error over the blocks. An area alone can be matched by a distant threshold where few signals lie in
            between.
        """
        levels, target = held_out.levels, held_out.target[channel]
        place = cdf(held_out.quantiles[:, channel], levels, target)
        # knots in the tails, too: targets beyond the outermost levels may be more than predicted
        low, high = levels[0] * TAIL_KNOTS, 1 - (1 - levels[-1]) * TAIL_KNOTS[::-1]
        knots = np.concatenate([low, levels, high])
        known = [float(weight[place <= knot].sum()) for knot in knots]
        middle = (np.arange(AREA_STEPS + 1) + 0.5) / AREA_STEPS
        table = 1 - np.interp(middle, [0.0, *knots, 1.0], [0.0, *np.maximum.accumulate(known), 1.0])
        # evenly spaced ranks stand for the targets, evenly spaced pixels for the predictions
        order = np.argsort(target, kind="stable")
        ranks = np.searchsorted(np.cumsum(weight[order]), (np.arange(AREA_TARGETS) + 0.5) / AREA_TARGETS)
        targets = target[order[np.minimum(ranks, target.size - 1)]]
        few = np.unique(np.linspace(0, target.size - 1, min(target.size, AREA_PIXELS)).astype(int))
        quantiles, share = held_out.quantiles[:, channel, few], weight[few] / weight[few].sum()
        tail = np.geomspace(1e-4, 0.5, AREA_VALUES // 2)
        wanted = np.concatenate([tail, 1 - tail[-2::-1]])
        values = np.unique(np.quantile(np.concatenate([target, quantiles[[0, -1]].ravel()]), wanted))
        as_map = table.astype(np.float32)
        predicted = [float(share @ cdf(quantiles, levels, float(v), table=as_map)) for v in values]
        made = cls(as_map, targets, np.minimum.accumulate(predicted), values.astype(np.float64))
        return replace(made, moved=made._careful(held_out, channel, weight)) if careful else made

    def _careful(
        self, held_out: HeldOut, channel: int, weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return thresholds, and where they are moved to if that clearly lowers the error in held-out blocks."""
        quantiles, target = held_out.quantiles[:, channel], held_out.target[channel]
        blocks = np.unique(held_out.block)

        def error(threshold: float, moved: float) -> NDArray[np.float64]:
            """Return the weighted squared error of each block."""
            off = cdf(quantiles, held_out.levels, moved, table=self.table) - (target > threshold)
            return np.asarray(np.bincount(held_out.block, weight * np.square(off))[blocks], np.float64)

        even = np.linspace(self.values[0], self.values[-1], AREA_VALUES // 2)
        asked = np.unique(np.concatenate([self.values, even]))
        to = asked.copy()
        for k, threshold in enumerate(asked):
            moved = self._same_area(float(threshold))
            gain = error(float(threshold), float(threshold)) - error(float(threshold), moved)
            if blocks.size > 1 and gain.mean() > gain.std(ddof=1) / np.sqrt(blocks.size):
                to[k] = moved
        # the mean of the two rising curves around a crossing
        rising = np.maximum.accumulate(to) + np.minimum.accumulate(to[::-1])[::-1]
        return asked, rising / 2
