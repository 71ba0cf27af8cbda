"""Coverage of parts of the pixels: by width, by token, by block, by level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import calibrate, cross_fitted
from napari_btn.core.calibration.distribution import cdf
from napari_btn.core.calibration.groups import cross_fitted_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.settings import CalibrationSettings

__all__ = [
    "block_shares",
    "by_group",
    "by_width",
    "coverage_curve",
    "independent_pixels",
    "inside_map",
    "miscoverage_map",
    "observations_width",
    "places",
    "reliability",
    "values_at_held_out",
]

WIDTH_BINS = 10
PIT_BINS = 20


def by_width(
    width: NDArray[np.float64], miss: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean width and coverage of each tenth of the pixels, from the narrowest to the widest.

    Parameters
    ----------
    width : ndarray of float64, shape (C, n)
        Widths of the intervals.
    miss : ndarray of bool, shape (C, n)
        True where an interval missed.

    Returns
    -------
    width, coverage : ndarray of float64, shape (C, K)
        K is 10, or the number of pixels where there are fewer.
    """
    order = np.argsort(width, axis=-1, kind="stable")
    bins = min(WIDTH_BINS, width.shape[-1])
    widths = np.array_split(np.take_along_axis(width, order, axis=-1), bins, axis=-1)
    misses = np.array_split(np.take_along_axis(miss, order, axis=-1), bins, axis=-1)
    return np.stack([w.mean(axis=-1) for w in widths], 1), np.stack([1 - m.mean(axis=-1) for m in misses], 1)


def by_group(
    miss: NDArray[np.bool_], group: NDArray[np.integer[Any]] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coverage of each token or mask, and its share of the pixels.

    Parameters
    ----------
    miss : ndarray of bool, shape (C, n)
        True where an interval missed.
    group : ndarray of int64, shape (n,), optional
        Group of each pixel, from 0; -1 for none.

    Returns
    -------
    coverage : ndarray of float64, shape (C, G)
        NaN where a group has no pixels; G is 0 without groups.
    share : ndarray of float64, shape (G,)
        Share of all pixels.
    """
    if group is None:
        return np.empty((len(miss), 0)), np.empty(0)
    known = group >= 0
    counts = np.bincount(group[known])
    missed = np.asarray([np.bincount(group[known], row[known]) for row in miss])
    share = np.divide(missed, counts, out=np.full(missed.shape, np.nan), where=counts > 0)
    return 1 - share, counts / max(group.size, 1)


def observations_width(held_out: HeldOut, alpha: float) -> NDArray[np.float64]:
    """Return the width of the central interval of the observations' error.

    Parameters
    ----------
    held_out : HeldOut
        Target and observations.
    alpha : float
        Miscoverage of the interval, between 0 and 1.

    Returns
    -------
    ndarray of float64, shape (C,)
        In the target's unit; NaN where the observations are unknown, or say nothing of the target.
    """
    n_channels = held_out.target.shape[0]
    out = np.full(n_channels, np.nan)
    if held_out.observed is None:
        return out
    for c in range(n_channels):
        target, observed = held_out.target[c].astype(np.float64), held_out.observed[c].astype(np.float64)
        # The observation is regressed on the target: noise in the regressor would shrink the scale.
        spread = target.var()
        scale = np.cov(target, observed, bias=True)[0, 1] / spread if spread > 0 else 0.0
        if scale > 0:
            low, high = np.quantile(observed / scale - target, (alpha / 2, 1 - alpha / 2))
            out[c] = high - low
    return out


def independent_pixels(error: NDArray[np.float64], alpha: float, held_out: HeldOut) -> NDArray[np.float64]:
    """Return the number of independent pixels that give the coverage with the same standard error.

    Parameters
    ----------
    error : ndarray of float64, shape (C,)
        Standard error of the coverage; 0 where nothing was missed.
    alpha : float
        Miscoverage aimed at.
    held_out : HeldOut
    """
    n_pixels = held_out.target.shape[1]
    # Without a miss the variance is unknown: each block then counts as one case.
    unknown = np.full_like(error, float(held_out.n_blocks))
    n_eff = np.divide(alpha * (1 - alpha), np.square(error), out=unknown, where=error > 0)
    return np.minimum(n_eff, n_pixels)


def reliability(held_out: HeldOut) -> NDArray[np.float64]:
    """Return the share of the target at or under each quantile before calibration.

    Parameters
    ----------
    held_out : HeldOut

    Returns
    -------
    ndarray of float64, shape (C, L)
        Ideally the levels.
    """
    shares = [(held_out.target <= q).mean(axis=-1) for q in held_out.quantiles]
    return np.asarray(shares, dtype=np.float64).reshape(-1, held_out.target.shape[0]).T


def places(held_out: HeldOut) -> NDArray[np.float64]:
    """Return the share of targets in each twentieth of the predicted distribution (PIT); ideally flat.

    Parameters
    ----------
    held_out : HeldOut
        Predictions before calibration, and targets.

    Returns
    -------
    ndarray of float64, shape (C, 20)
        NaN where there are fewer than two levels.
    """
    n_channels, n_pixels = held_out.target.shape
    if len(held_out.levels) < 2:
        return np.full((n_channels, PIT_BINS), np.nan)
    counts = []
    for c in range(n_channels):
        place = cdf(held_out.quantiles[:, c], held_out.levels, held_out.target[c])
        cell = np.minimum((place * PIT_BINS).astype(np.int64), PIT_BINS - 1)
        counts.append(np.bincount(cell, minlength=PIT_BINS))
    return np.asarray(counts, dtype=np.float64) / float(n_pixels)


def miscoverage_map(
    held_out: HeldOut,
    lower: NDArray[np.float32],
    upper: NDArray[np.float32],
    shape: Sequence[int],
    axes: str,
) -> NDArray[np.float32]:
    """Return a map of the share of missed pixels in each block.

    Parameters
    ----------
    held_out : HeldOut
        Target and blocks, with positions.
    lower, upper : ndarray of float32, shape (C, n)
        Intervals at the same pixels, best from `cross_fitted`.
    shape : sequence of int
        Shape of the field in pixels, without channels.
    axes : str
        One letter per number of the shape: space alone for repeats of one field, which share a map; S and T
        as well where scenes have targets of their own.

    Returns
    -------
    ndarray of float32, shape (C, *shape)
        0 to 1; NaN outside the held-out blocks.

    Raises
    ------
    ValueError
        If the positions are unknown or don't lie within the shape, or scenes with blocks of their own would
        overlap in the map.
    """
    where = _places(held_out, shape, axes)
    miss = (held_out.target < lower) | (held_out.target > upper)
    counts = np.maximum(np.bincount(held_out.block), 1)
    painted = np.full(shape, -1, held_out.block.dtype)
    painted[where] = held_out.block
    if (painted[where] != held_out.block).any():
        raise ValueError(
            f"Scenes with targets of their own lie over each other on the axes {axes} {tuple(shape)}; give their "
            "number in the shape as well."
        )
    out = np.full((len(miss), *shape), np.nan, dtype=np.float32)
    for c, row in enumerate(miss):
        out[c][where] = (np.bincount(held_out.block, row) / counts)[held_out.block]
    return out


def inside_map(
    held_out: HeldOut,
    lower: NDArray[np.float32],
    upper: NDArray[np.float32],
    shape: Sequence[int],
    axes: str,
) -> NDArray[np.float32]:
    """Return a map of the held-out pixels: 1 inside the interval, 0 outside.

    Parameters
    ----------
    held_out : HeldOut
        Target, with positions.
    lower, upper : ndarray of float32, shape (C, n)
        Intervals at the same pixels, best from `cross_fitted`.
    shape : sequence of int
        Shape of the image without channels, in pixels.
    axes : str
        One letter per number of the shape: space, and S and T where there are scenes.

    Returns
    -------
    ndarray of float32, shape (C, *shape)
        1 inside, 0 outside, NaN where the target is unknown or the networks were trained on it.

    Raises
    ------
    ValueError
        If the positions are unknown or don't lie within the image.
    """
    where = _places(held_out, shape, axes)
    out = np.full((len(held_out.target), *shape), np.nan, dtype=np.float32)
    for c, row in enumerate((lower <= held_out.target) & (held_out.target <= upper)):
        out[c][where] = row
    return out


def values_at_held_out(held_out: HeldOut, image: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return the values of an image without channels at the held-out pixels, (n,).

    Parameters
    ----------
    held_out : HeldOut
        With positions.
    image : ndarray
        In `axes`.
    axes : str
        One letter per dimension: space, and S and T where there are scenes.

    Raises
    ------
    ValueError
        If the positions are unknown or don't lie within the image.
    """
    return np.asarray(image[_places(held_out, image.shape, axes)])


def _places(held_out: HeldOut, shape: Sequence[int], axes: str) -> tuple[NDArray[np.int64], ...]:
    """Return the index of each held-out pixel in an image without channels; without S and T scenes share a map."""
    if held_out.position is None:
        raise ValueError("The held-out pixels have no positions; a map needs them. Calibrate again.")
    size = dict(zip(axes, shape, strict=True))
    scenes = {a: size.get(a, 1) for a in "ST"}
    apart = "S" in size or "T" in size
    space = [a for a in "ZYX" if a in size]
    limits = (scenes["S"] * scenes["T"] if apart else np.inf, *(size[a] for a in space))
    if held_out.position.shape[1] != len(limits) or (held_out.position.max(axis=0) >= limits).any():
        raise ValueError(
            f"The held-out pixels don't lie within {axes} {tuple(shape)}; give the image that was calibrated on."
        )
    scene, *rest = held_out.position.T
    at = dict(zip(space, rest, strict=True))
    if apart:
        at |= dict(zip("ST", np.unravel_index(scene, (scenes["S"], scenes["T"])), strict=True))
    return tuple(at[a] for a in axes)


def block_shares(
    miss: NDArray[np.bool_], side: int, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the share of missed pixels in each square of a plane.

    Parameters
    ----------
    miss : ndarray of bool, shape (Y, X)
        True where an interval missed.
    side : int
        Side of a square in pixels; squares at the far edges may be smaller.
    valid : ndarray of bool, shape (Y, X), optional
        True where a pixel counts.

    Returns
    -------
    ndarray of float64, shape (ceil(Y / side), ceil(X / side))
        0 to 1; NaN where no pixel counts.
    """
    known = np.ones(miss.shape, bool) if valid is None else valid
    edges = [np.arange(0, n, side) for n in miss.shape]
    missed, counted = (
        np.add.reduceat(np.add.reduceat(a.astype(np.float64), edges[0], 0), edges[1], 1)
        for a in (miss & known, known)
    )
    out = np.full(missed.shape, np.nan)
    np.divide(missed, counted, out=out, where=counted > 0)
    return out


def coverage_curve(
    held_out: HeldOut,
    settings: CalibrationSettings | None = None,
    alphas: Sequence[float] = (0.5, 0.32, 0.2, 0.1, 0.05),
    *,
    group: NDArray[np.integer[Any]] | None = None,
    parents: Sequence[int] | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the cross-fitted coverage after calibration at several levels, for a reliability plot.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    settings : CalibrationSettings, optional
        Unit, score, folds and minimum; the defaults if left out.
    alphas : sequence of float
        The A miscoverages wanted.
    group : ndarray of int64, shape (n,), optional
        Group of each pixel, where groups are calibrated apart.
    parents : sequence of int, optional
        Tree of the groups.
    seed : int
        Seed of the folds.

    Returns
    -------
    ndarray of float64, shape (C, A)
        Fraction inside; NaN where there is only one block.
    """
    folds = 5 if settings is None else settings.folds
    curve = []
    for alpha in alphas:
        if group is None:
            calibration = calibrate(held_out, alpha=alpha, settings=settings)
            lower, _, upper = cross_fitted(held_out, calibration, folds=folds, seed=seed)
        else:
            lower, _, upper = cross_fitted_groups(
                held_out, group, parents=parents, alpha=alpha, settings=settings, seed=seed
            )
        inside = np.mean((lower <= held_out.target) & (held_out.target <= upper), axis=-1)
        curve.append(np.where(np.isnan(lower).any(axis=-1), np.nan, inside))
    return np.asarray(curve, dtype=np.float64).T
