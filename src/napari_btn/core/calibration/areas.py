"""Probabilities whose sum estimates the area above a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.optimize import isotonic_regression

from napari_btn.core.calibration.distribution import cdf, cdf_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut

__all__ = ["Area"]

# Steps of a map: finer, since the sum of many small probabilities is an area.
AREA_STEPS = 8192
TAIL_KNOTS = np.array([0.1, 0.25, 0.5])
AREA_PIXELS, AREA_VALUES = 30_000, 96


@dataclass(frozen=True, eq=False)
class Area:
    """Probabilities of one channel whose sum estimates the area above a threshold, whatever the threshold.

    Predicted probabilities are made right at the levels, on average over the held-out pixels, and the
    threshold is replaced by the one at which their mean equals the true share there, unless that makes the
    probabilities of the held-out pixels worse. Both maps are monotone, so the probability of each pixel still falls
    with the threshold.

    Parameters
    ----------
    table : ndarray of float32, shape (T + 1,)
        Exceedance by place k / T in the predicted distribution.
    asked : ndarray of float64, shape (G,)
        Thresholds, rising.
    moved : ndarray of float64, shape (G,)
        Where they are moved to, rising; in between, the way is straight.
    """

    table: NDArray[np.float32]
    asked: NDArray[np.float64]
    moved: NDArray[np.float64]

    def matched(self, threshold: float) -> float:
        """Return where a threshold is moved to: the same area, if that raises no held-out error.

        Parameters
        ----------
        threshold : float
            In the target's unit.
        """
        outside = min(threshold - self.asked[0], 0) + max(threshold - self.asked[-1], 0)
        return float(np.interp(threshold, self.asked, self.moved) + outside)

    @classmethod
    def of(
        cls, held_out: HeldOut, channel: int, weight: NDArray[np.float64], *, clearly: float = 0.0
    ) -> Self:
        """Return the areas of one channel.

        Parameters
        ----------
        held_out : HeldOut
        channel : int
        weight : ndarray of float64, shape (n,)
            Of each pixel; all of them together weigh one.
        clearly : float
            Standard errors over the blocks by which the squared error of the probability must fall for a threshold
            to be moved. An area alone can be matched by a distant threshold where few signals lie in between.
        """
        levels, target = held_out.levels, held_out.target[channel]
        place = cdf(held_out.quantiles[:, channel], levels, target)
        # knots in the tails, too: targets beyond the outermost levels may be more than predicted
        low, high = levels[0] * TAIL_KNOTS, 1 - (1 - levels[-1]) * TAIL_KNOTS[::-1]
        knots = np.concatenate([low, levels, high])
        known = [float(weight[place <= knot].sum()) for knot in knots]
        middle = (np.arange(AREA_STEPS + 1) + 0.5) / AREA_STEPS
        shares = np.interp(middle, [0.0, *knots, 1.0], [0.0, *np.maximum.accumulate(known), 1.0])
        table = (1 - shares).astype(np.float32)
        # evenly spaced pixels stand for all
        few = np.unique(np.linspace(0, target.size - 1, min(target.size, AREA_PIXELS)).astype(int))
        _, block = np.unique(held_out.block[few], return_inverse=True)
        share = weight[few] / weight[few].sum()
        pixels = _Pixels(
            held_out.quantiles[:, channel, few], levels, target[few], block.ravel(), share, table
        )
        tail = np.geomspace(1e-4, 0.5, AREA_VALUES // 2)
        wanted = np.concatenate([tail, 1 - tail[-2::-1]])
        values = np.quantile(np.concatenate([target, pixels.quantiles[[0, -1]].ravel()]), wanted)
        asked = np.unique(np.concatenate([values, np.linspace(values[0], values[-1], AREA_VALUES // 2)]))
        kept, areas = pixels.errors(asked, asked)
        same = _same_area(asked, np.isin(asked, values), areas, target, weight)
        gain = kept - pixels.errors(asked, same)[0]
        # one block says nothing of how clear a change is
        noise = (
            gain.std(1, ddof=1) / np.sqrt(gain.shape[1]) if gain.shape[1] > 1 else np.full(len(gain), np.inf)
        )
        to = np.where(gain.mean(1) > (clearly * noise if clearly else 0), same, asked)
        # where both curves cross, the larger change of the error decides
        weights = np.abs(gain.mean(1)) + 1e-12
        return cls(table, asked, isotonic_regression(to, weights=weights).x)


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Held-out pixels of one channel: quantiles (L, n), target, block and weight (n,), and the table of their map."""

    quantiles: NDArray[np.float32]
    levels: Sequence[float]
    target: NDArray[np.float32]
    block: NDArray[np.int64]
    weight: NDArray[np.float64]
    table: NDArray[np.float32]

    def errors(
        self, thresholds: NDArray[np.float64], moved: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the squared error of each block (T, B) where thresholds are moved, and the areas (T,) above them."""
        errors, areas = [], []
        above = cdf_rows(self.quantiles, self.levels, moved, table=self.table)
        for threshold, row in zip(thresholds, above, strict=True):
            areas.append(float(self.weight @ row))
            off = row - (self.target > threshold)
            errors.append(np.bincount(self.block, self.weight * np.square(off)))
        return np.stack(errors), np.array(areas)


def _same_area(
    asked: NDArray[np.float64],
    used: NDArray[np.bool_],
    areas: NDArray[np.float64],
    target: NDArray[np.float32],
    weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the thresholds, straight between those used, whose predicted areas are the true ones of those asked."""
    values, predicted = asked[used], np.minimum.accumulate(areas[used])
    order = np.argsort(target, kind="stable")
    below = np.concatenate([[0], np.cumsum(weight[order])])
    inside = np.clip(asked, target[order[0]], target[order[-1]])
    true = 1 - below[np.searchsorted(target[order], inside, side="right")]
    # outside of the targets, no area says more
    return np.asarray(np.interp(true, predicted[::-1], values[::-1]) + asked - inside)
