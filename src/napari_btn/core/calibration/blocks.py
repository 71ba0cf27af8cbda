"""Blocks of held-out pixels, wider than their errors reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from napari_btn.core.data.splits import region_box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Blocks", "blocks_of", "effective_blocks", "error_length"]


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of a field, made of the cells of a grid over it.

    Parameters
    ----------
    frame : tuple of slice
        The part of the field that the grid covers.
    side : int
        Side of a cell in pixels.
    numbers : ndarray of int64, shape (cells along each axis)
        Block that each cell belongs to, in raster order from 0.
    """

    frame: tuple[slice, ...]
    side: int
    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, field: NDArray[np.bool_], side: int) -> Self:
        """Divide the True pixels of a field (*space) into blocks.

        A block with under a quarter of the pixels of a full one joins its largest neighbour.
        """
        frame = region_box(field)
        counts = field[frame].astype(np.int32)
        for axis, extent in enumerate(counts.shape):
            counts = np.add.reduceat(counts, np.arange(0, extent, side), axis=axis)
        full = math.prod(min(side, s.stop - s.start) for s in frame)
        group = _join_small(counts.ravel().astype(np.int64), counts.shape, full / 4)
        held = counts.ravel() > 0
        order = np.zeros(counts.size, dtype=np.int64)
        order[held] = np.unique(group[held], return_inverse=True)[1]
        return cls(frame, side, order.reshape(counts.shape))

    def at(self, part: Sequence[slice]) -> NDArray[np.int64]:
        """Return the block of every pixel of a part; beyond the frame, that of the nearest cell."""
        # Axes are independent, so no pixel needs coordinates of its own.
        cells = [
            np.clip((np.arange(p.start, p.stop) - f.start) // self.side, 0, n - 1)
            for p, f, n in zip(part, self.frame, self.numbers.shape, strict=True)
        ]
        return self.numbers[np.ix_(*cells)]


def error_length(miss: ArrayLike, *, valid: ArrayLike | None = None, axis: int | None = None) -> int:
    """Return the correlation length of misses: the first lag with autocorrelation under 0.1.

    Lags up to a quarter of each axis are tried, since a volume of few planes may have misses correlated over
    many columns.

    Parameters
    ----------
    miss : array_like of bool, shape (*space)
        True where the interval missed the target.
    valid : array_like of bool, shape (*space), optional
        True where `miss` counts; everywhere if left out.
    axis : int, optional
        Axis of the lags; by default the one with the longest correlation.

    Returns
    -------
    int
        Correlation length in pixels, at least 1.
    """
    hit = np.asarray(miss, dtype=np.float64)
    weight = np.ones_like(hit) if valid is None else np.asarray(valid, dtype=np.float64)
    n = weight.sum()
    mean = float((hit * weight).sum() / n) if n else 0.0
    deviation = (hit - mean) * weight
    variance = float(np.square(deviation).sum() / n) if n else 0.0
    if variance == 0:
        return 1
    axes = range(hit.ndim) if axis is None else (axis,)
    return max(_first_low_lag(deviation, weight, variance, a) for a in axes)


def blocks_of(mask: ArrayLike, side: int, by_scene: bool = False) -> NDArray[np.int64]:
    """Return the block of each pixel, -1 outside the mask.

    Parameters
    ----------
    mask : array_like of bool, shape (S, *space)
        True on the held-out pixels.
    side : int
        Side of a block in pixels.
    by_scene : bool
        True where scenes have targets of their own: each is then one block. Otherwise scenes show
        one field (repeats, or frames), and a block holds the same pixels in all of them.

    Returns
    -------
    ndarray of int64, shape (S, *space)
        Blocks numbered 0 to B - 1 in raster order. A block with under a quarter of a full one's
        pixels joins its largest neighbour.

    Raises
    ------
    ValueError
        If `side` is under 1.
    """
    inside = np.asarray(mask, dtype=bool)
    if side < 1:
        raise ValueError(f"The block side is {side} px; it must be at least 1 px.")
    numbers = np.full(inside.shape, -1, dtype=np.int64)
    if not inside.any():
        return numbers
    if by_scene:
        rows = inside.reshape(inside.shape[0], -1).any(axis=1)
        scene = np.cumsum(rows) - 1
        return np.where(inside, scene.reshape(-1, *([1] * (inside.ndim - 1))), -1)
    blocks = Blocks.of(np.asarray(inside.any(axis=0)), side)
    inner = (slice(None), *blocks.frame)
    np.copyto(numbers[inner], blocks.at(blocks.frame), where=inside[inner])
    return numbers


def effective_blocks(block: NDArray[np.int64]) -> float:
    """Return the number of blocks of equal size with as much information as those of some pixels.

    A phase that fills three blocks and touches twenty is worth three.

    Parameters
    ----------
    block : ndarray of int64, shape (n,)
        Block of each pixel; 0 blocks if there are no pixels.

    References
    ----------
    Kish, Survey Sampling (1965), on unequal weights.
    """
    counts = np.bincount(block).astype(np.float64)
    return float(counts.sum() ** 2 / np.square(counts).sum()) if counts.any() else 0.0


def _join_small(counts: NDArray[np.int64], grid: tuple[int, ...], least: float) -> NDArray[np.int64]:
    """Return the group of each grid cell, after cells with fewer than `least` pixels joined a neighbour."""
    group = np.arange(counts.size)
    size = counts.copy()
    index = np.stack(np.unravel_index(group, grid), axis=1)
    for cell in np.argsort(counts, kind="stable"):
        own = group[cell]
        if counts[cell] == 0 or size[own] >= least:
            continue
        near = np.flatnonzero((np.abs(index - index[cell]).sum(axis=1) == 1) & (counts > 0) & (group != own))
        if near.size == 0:
            continue
        target = group[near[np.argmax(size[group[near]])]]
        size[target] += size[own]
        group[group == own] = target
    return group


def _first_low_lag(
    deviation: NDArray[np.float64], weight: NDArray[np.float64], variance: float, axis: int
) -> int:
    """Return the first lag along one axis with autocorrelation under 0.1, or the longest lag tried."""
    d, w = np.moveaxis(deviation, axis, 0), np.moveaxis(weight, axis, 0)
    length = int(d.shape[0])
    max_lag = max(length // 4, 2)
    for lag in range(1, min(max_lag, length - 1) + 1):
        pairs = float((w[lag:] * w[:-lag]).sum())
        if float((d[lag:] * d[:-lag]).sum()) <= 0.1 * variance * pairs:
            return lag
    return max(1, min(max_lag, length))
