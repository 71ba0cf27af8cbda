"""Cutting held-out pixels into blocks, and how long a block must be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from napari_btn.core.layouts import region_box

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["blocks_of", "error_length"]


def error_length(miss: ArrayLike, max_lag: int, *, valid: ArrayLike | None = None) -> int:
    """First lag at which misses stop being alike: autocorrelation under 0.1, along the worst axis.

    Parameters
    ----------
    miss : array_like of bool, shape (*space)
        True where the interval missed the target.
    max_lag : int
        Longest lag looked at, in pixels; returned where the autocorrelation never falls.
    valid : array_like of bool, shape (*space), optional
        True where `miss` counts; everywhere if left out.

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
    lags = [_first_low_lag(deviation, weight, variance, axis, max_lag) for axis in range(hit.ndim)]
    return max(lags)


def blocks_of(mask: ArrayLike, side: int, by_scene: bool = False) -> NDArray[np.int64]:
    """Number of the block that each pixel belongs to, -1 outside the mask.

    Parameters
    ----------
    mask : array_like of bool, shape (S, *space)
        True on the held-out pixels.
    side : int
        Side of a block in pixels.
    by_scene : bool
        True where scenes have targets of their own: each is then one block. Otherwise scenes are
        repeats of one field, and a block holds the same pixels of all of them.

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
    field = np.asarray(inside.any(axis=0))
    frame = region_box(field)
    extent = [s.stop - s.start for s in frame]
    grid = tuple(-(-e // side) for e in extent)
    # pixels along an axis fall into cells whatever the other axes say: no pixel needs coordinates
    cell = np.ravel_multi_index(np.ix_(*(np.arange(e) // side for e in extent)), grid)
    counts = np.bincount(cell[field[frame]], minlength=math.prod(grid))
    group = _join_small(counts, grid, math.prod(min(side, e) for e in extent) / 4)
    order = np.zeros(counts.size, dtype=np.int64)
    order[counts > 0] = np.unique(group[counts > 0], return_inverse=True)[1]
    inner = (slice(None), *frame)
    np.copyto(numbers[inner], order[cell], where=inside[inner])
    return numbers


def _join_small(counts: NDArray[np.int64], grid: tuple[int, ...], least: float) -> NDArray[np.int64]:
    """Group of each grid cell, after cells with fewer than `least` pixels joined a neighbour."""
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
    deviation: NDArray[np.float64], weight: NDArray[np.float64], variance: float, axis: int, max_lag: int
) -> int:
    """First lag along one axis with autocorrelation under 0.1."""
    d, w = np.moveaxis(deviation, axis, 0), np.moveaxis(weight, axis, 0)
    length = int(d.shape[0])
    for lag in range(1, min(max_lag, length - 1) + 1):
        pairs = float((w[lag:] * w[:-lag]).sum())
        if float((d[lag:] * d[:-lag]).sum()) <= 0.1 * variance * pairs:
            return lag
    return max(1, min(max_lag, length))
