"""Block bootstrap of a coverage, since misses of neighbouring pixels are correlated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["coverage_interval", "group_intervals"]

# Fewer blocks than this give a standard error that is itself mostly noise.
FEWEST_GROUPS = 8
DRAWS = 2000


def coverage_interval(
    miss: NDArray[np.bool_],
    block: NDArray[np.int64],
    position: NDArray[np.int64] | None = None,
    *,
    block_px: int = 0,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return 95 % bounds of the coverage, and its standard error, at the least favourable block size.

    Parameters
    ----------
    miss : ndarray of bool, shape (C, n)
        True where an interval missed.
    block : ndarray of int64, shape (n,)
        Block (or scene) of each pixel.
    position : ndarray of int, shape (n, 1 + ndim), optional
        Scene and spatial index of each pixel; without it only the given blocks are tried.
    block_px : int
        Side of a block in pixels; 0 to take it from their sizes.
    seed : int
        Seed of the draws.

    Returns
    -------
    low, high, standard_error : ndarray of float64, shape (C,)
        Low and high are 0 and 1, and the error is infinite, where there are too few blocks.

    References
    ----------
    Lahiri, Resampling Methods for Dependent Data (2003), chapter 2, on the block bootstrap.
    """
    candidates = [_block_sums(miss, groups) for groups in _groupings(block, position, block_px)]
    errors = np.asarray([_standard_error(*sums) for sums in candidates])
    best = errors.argmax(axis=0)
    rng = np.random.default_rng(seed)
    bounds = [_bootstrap(candidates[b][0][c], candidates[b][1], rng) for c, b in enumerate(best)]
    low, high = np.asarray(bounds, dtype=np.float64).T
    return low, high, errors.max(axis=0)


def group_intervals(
    miss: NDArray[np.bool_],
    group: NDArray[np.integer[Any]] | None,
    block: NDArray[np.int64],
    position: NDArray[np.int64] | None = None,
    *,
    block_px: int = 0,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return 95 % bounds of the coverage of each group.

    Parameters
    ----------
    miss : ndarray of bool, shape (C, n)
        True where an interval missed.
    group : ndarray of int, shape (n,), optional
        Group of each pixel, from 0; -1 for none.
    block : ndarray of int64, shape (n,)
    position : ndarray of int, shape (n, 1 + ndim), optional
    block_px, seed : int
        As in `coverage_interval`.

    Returns
    -------
    low, high : ndarray of float64, shape (C, G)
        0 and 1 where a group has too few blocks; G is 0 without groups.
    """
    group = np.full(miss.shape[1], -1) if group is None else group
    n_groups = int(group.max(initial=-1)) + 1
    low, high = np.zeros((len(miss), n_groups)), np.ones((len(miss), n_groups))
    for g in np.unique(group[group >= 0]):
        inside = group == g
        place = None if position is None else position[inside]
        low[:, g], high[:, g], _ = coverage_interval(
            miss[:, inside], block[inside], place, block_px=block_px, seed=seed
        )
    return low, high


def _groupings(
    block: NDArray[np.int64], position: NDArray[np.int64] | None, block_px: int
) -> list[NDArray[np.int64]]:
    """Return the group of each pixel at three sizes: the blocks, and unions of about 2 and 4 of them."""
    numbers, block, counts = np.unique(block, return_inverse=True, return_counts=True)
    groupings = [block]
    if position is None:
        return groupings
    # blocks that hold whole scenes have no places in space
    scenes = len(np.unique(position[:, 0]))
    if scenes >= len(numbers) and len(np.unique(position[:, 0] * len(numbers) + block)) == scenes:
        return groupings
    ndim = position.shape[1] - 1
    centre = np.stack([np.bincount(block, position[:, 1 + d]) / counts for d in range(ndim)], axis=1)
    side = float(block_px) or float(np.median(counts)) ** (1 / ndim)
    for factor in (1.5, 2.0):
        cell = ((centre - centre.min(axis=0) + side / 2) // (factor * side)).astype(np.int64)
        groups = np.unique(cell, axis=0, return_inverse=True)[1].reshape(-1)
        if groups.max() + 1 >= FEWEST_GROUPS:
            groupings.append(groups[block])
    return groupings


def _block_sums(
    miss: NDArray[np.bool_], groups: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count missed pixels per channel and group, shape (C, G), and pixels per group, shape (G,)."""
    counts = np.bincount(groups).astype(np.float64)
    missed = np.asarray([np.bincount(groups, row) for row in miss], dtype=np.float64)
    return missed, counts


def _standard_error(missed: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard error of the missed share, a ratio of sums over groups."""
    n_groups = len(counts)
    if n_groups < 2:
        return np.full(len(missed), np.inf)
    residual = missed - counts * (missed.sum(axis=1, keepdims=True) / counts.sum())
    variance = np.square(residual).sum(axis=1) * n_groups / (n_groups - 1)
    return np.asarray(np.sqrt(variance) / counts.sum())


def _bootstrap(
    missed: NDArray[np.float64], counts: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float]:
    """Return 95 % bounds of the covered share, from groups drawn with replacement."""
    n_groups = len(counts)
    if n_groups < 3:
        return 0.0, 1.0
    if not missed.any():
        # Resampling no misses gives none. A share of groups this large would go unseen once in forty times,
        # which is the lower side of a two-sided 95 % interval, as below.
        return float(0.025 ** (1 / n_groups)), 1.0
    draws = int(np.clip(4_000_000 // n_groups, 200, DRAWS))
    chosen = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws).astype(np.float64)
    shares = 1 - (chosen @ missed) / (chosen @ counts)
    centre = 1 - missed.sum() / counts.sum()
    low, high = np.quantile(shares, (0.025, 0.975))
    widen = _student_factor(n_groups)
    return max(0.0, centre - widen * (centre - low)), min(1.0, centre + widen * (high - centre))


def _student_factor(n_groups: int) -> float:
    """Return the width of Student's 95 % interval of a mean, relative to the bootstrap's."""
    from scipy.special import ndtri, stdtrit

    freedom = n_groups - 1
    return float(stdtrit(freedom, 0.975) / ndtri(0.975)) * math.sqrt(n_groups / freedom)
