"""The calibrated distribution of each pixel, as a quantile function that draws are made with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.polynomial import hermite_e
from scipy.special import ndtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut

__all__ = ["Marginal", "ScoredTargets", "chances"]

_STEPS = 400  # chances at which the calibrated quantile function is kept
_MEDIANS, _BLOCKS = 12, 8  # most medians with a quantile function of their own, and blocks for each
_SHAPE_NODES, _HERMITE = 200, 7
_NODES = 16  # chances that stand for a pixel's distribution in its mean and standard deviation
_NARROW = 0.01  # least distance of quantiles per unit of normal score, relative to the typical width


@dataclass(frozen=True, eq=False)
class Marginal:
    """Calibrated distribution of each pixel of one channel, as a map of normal scores to values.

    Predicted quantiles have the normal scores of their levels, straight lines lie between them, and the outermost
    go on as tails. The scores that held-out targets have on that scale, among pixels of a similar median, make the
    calibrated quantile function; it changes smoothly with the median.

    Parameters
    ----------
    levels : tuple of float
        The L quantile levels, ascending, at least two.
    medians : ndarray of float64, shape (M,)
        Predicted medians that a quantile function is known for, rising.
    scores : ndarray of float32, shape (M, K)
        Score of the held-out targets at evenly spaced chances (k + 1/2) / K, rising along the last axis.
    floor : float
        Least distance of two quantiles per unit of score, in the quantiles' unit.
    """

    levels: tuple[float, ...]
    medians: NDArray[np.float64]
    scores: NDArray[np.float32]
    floor: float

    def values(
        self, quantiles: NDArray[np.float32], chance: NDArray[np.floating[Any]]
    ) -> NDArray[np.float32]:
        """Return the calibrated quantile (*space) of each pixel at a chance of its own, from quantiles (L, *space)."""
        score = self._calibrated(quantiles[len(self.levels) // 2], chance)
        x, q = self._knots(quantiles)
        made = q[0] + np.minimum(score - x[0], 0) * ((q[1] - q[0]) / (x[1] - x[0]))
        for i in range(len(x) - 1):
            made += np.clip((score - x[i]) / (x[i + 1] - x[i]), 0, 1) * (q[i + 1] - q[i])
        made += np.maximum(score - x[-1], 0) * ((q[-1] - q[-2]) / (x[-1] - x[-2]))
        return np.asarray(made, np.float32)

    def _calibrated(
        self, median: NDArray[np.float32], chance: NDArray[np.floating[Any]]
    ) -> NDArray[np.float32]:
        """Return the score at a chance, linear between medians and between chances."""
        many, steps = self.scores.shape
        row = np.interp(median, self.medians, np.arange(many)) if many > 1 else np.zeros(median.shape)
        column = np.clip(chance * steps - 0.5, 0, steps - 1)
        # NaN stays NaN in the values, whatever row it reads
        i = np.nan_to_num(row).astype(np.int32).clip(0, max(many - 2, 0))
        j = column.astype(np.int32).clip(0, steps - 2)
        across, along = (row - i).astype(np.float32), (column - j).astype(np.float32)
        flat, at = self.scores.ravel(), i * steps + j
        below = min(steps, flat.size - steps)
        left = flat[at] * (1 - along) + flat[at + 1] * along
        right = flat[at + below] * (1 - along) + flat[at + below + 1] * along
        return np.asarray(left * (1 - across) + right * across, np.float32)

    def score(self, quantiles: NDArray[np.float32], value: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the place of a value of each pixel on the scale of normal scores: before calibration."""
        x, q = self._knots(quantiles)
        made = x[0] + np.minimum(value - q[0], 0) * ((x[1] - x[0]) / (q[1] - q[0]))
        for i in range(len(x) - 1):
            made += np.clip((value - q[i]) / (q[i + 1] - q[i]), 0, 1) * (x[i + 1] - x[i])
        made += np.maximum(value - q[-1], 0) * ((x[-1] - x[-2]) / (q[-1] - q[-2]))
        return np.asarray(made, np.float32)

    def moments(self, quantiles: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean and standard deviation (*space) of the calibrated distribution of each pixel."""
        space = quantiles.shape[1:]
        drawn = np.stack([self.values(quantiles, np.full(space, u)) for u in chances(_NODES)])
        return drawn.mean(0), drawn.std(0)

    def shape(self, quantiles: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the Hermite coefficients of the mean standardised distribution, from quantiles (L, n).

        A normal correlation ``r`` gives values a correlation of ``sum of a[k]^2 r^k``.
        """
        steps = chances(_SHAPE_NODES)
        drawn = np.stack([self.values(quantiles, np.full(quantiles.shape[1:], u)) for u in steps])
        shape = (drawn - drawn.mean(0)).mean(1)
        normal = ndtri(steps)
        hermite = [
            hermite_e.HermiteE.basis(k)(normal) / math.sqrt(math.factorial(k)) for k in range(1, _HERMITE)
        ]
        found = np.asarray([np.mean(shape * h) for h in hermite])
        return np.asarray(found / max(float(np.sqrt(np.sum(found**2))), 1e-30))

    def _knots(self, quantiles: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Return the normal scores of the levels, and quantiles with the least distance, outward from the middle."""
        x = ndtri(self.levels).astype(np.float32)
        middle = len(x) // 2
        q = [np.asarray(plane, np.float32) for plane in quantiles]
        least = np.float32(self.floor) * np.diff(x)
        for i in range(middle, len(x) - 1):
            q[i + 1] = np.maximum(q[i + 1], q[i] + least[i])
        for i in range(middle, 0, -1):
            q[i - 1] = np.minimum(q[i - 1], q[i] - least[i - 1])
        return x, q


@dataclass(frozen=True, eq=False)
class ScoredTargets:
    """Held-out targets of one channel on the scale of normal scores, by predicted median.

    Parameters
    ----------
    start : Marginal
        The scale, and the medians that get a quantile function of their own.
    groups : tuple of (ndarray of float32, ndarray of int64)
        Of each median: the scores of the targets around it, rising, and their blocks.
    n_blocks : int
    """

    start: Marginal
    groups: tuple[tuple[NDArray[np.float32], NDArray[np.int64]], ...]
    n_blocks: int

    @classmethod
    def of(cls, held_out: HeldOut, channel: int) -> Self:
        """Return the targets of one channel of the held-out pixels."""
        q, levels = held_out.quantiles[:, channel], held_out.levels
        median = q[len(levels) // 2]
        floor = _NARROW * max(float(np.median(q[-1] - q[0])), 1e-12)
        start = Marginal(tuple(levels), np.zeros(1), np.zeros((1, 1), np.float32), floor)
        order = np.argsort(median, kind="stable")
        score, block = start.score(q, held_out.target[channel])[order], held_out.block[order]
        at = np.linspace(0, score.size - 1, min(_MEDIANS, 2 + held_out.n_blocks // _BLOCKS)).astype(int)
        medians, first = np.unique(median[order][at].astype(np.float64), return_index=True)
        groups = []
        for k in first:
            # a median speaks for the pixels up to both neighbours, as it is mixed with theirs between them
            near = slice(at[max(k - 1, 0)], at[min(k + 1, at.size - 1)] + 1)
            rising = np.argsort(score[near], kind="stable")
            groups.append((score[near][rising], block[near][rising]))
        return cls(replace(start, medians=medians), tuple(groups), int(held_out.block.max()) + 1)

    def calibrated(self, weight: NDArray[np.integer[Any]] | None = None) -> Marginal:
        """Return the calibrated distribution.

        Parameters
        ----------
        weight : ndarray of int, shape (n_blocks,), optional
            How often each block counts; once by default.
        """
        rows = []
        for scores, block in self.groups:
            counts = None if weight is None else weight[block]
            mass = np.arange(1, scores.size + 1) if counts is None or not counts.any() else np.cumsum(counts)
            found = np.searchsorted(mass, chances(_STEPS) * mass[-1])
            rows.append(scores[np.minimum(found, scores.size - 1)])
        return replace(self.start, scores=np.stack(rows))


def chances(n: int) -> NDArray[np.float64]:
    """Return evenly spaced chances, each in the middle of its share.

    Parameters
    ----------
    n : int
        Their number.
    """
    return (np.arange(n) + 0.5) / n
