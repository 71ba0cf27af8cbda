"""The distribution of a pixel after its measurement, by Bayes' rule: predicted distribution times likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri, ndtri_exp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.calibration.dose import Dose
    from napari_btn.core.calibration.neighbours import Belief

__all__ = ["ALONE", "posterior"]

ALONE = 0.3
"""Chance that a pixel goes its own way, whatever its neighbours say."""

_CHUNK = 8192  # pixels at a time, so that the grids of a chunk stay in the cache
_PARTS = 4  # cells of the grid between two levels
_TAIL = np.array([0.3, 0.7, 1.2, 2.0, 3.0, 4.5, 6.5, 10.0, 16.0])  # edges of cells in a tail, in its scales
# Edges of cells around the measured value, in its standard deviations. Those far off keep a wide cell from
# being judged by its likelihood at one end.
_REACH = np.concatenate([[-300, -60, -15, -8], np.linspace(-6, 6, 37), [8, 15, 60, 300]])

_FARTHEST = 8.0  # normal score beyond which the neighbours say no more
_NARROW = 1e-6  # least distance of two quantiles, relative to their size


def posterior(
    quantiles: NDArray[np.floating[Any]],
    levels: Sequence[float],
    values: ArrayLike,
    dose: Dose,
    *,
    channel: int = 0,
    belief: Belief | None = None,
) -> NDArray[np.float32]:
    """Return the quantiles of the signal after a measurement: prediction times likelihood.

    Parameters
    ----------
    quantiles : ndarray of float, shape (L, *space)
        Predicted quantiles of one channel, ascending: straight between the levels, exponential tails.
    levels : sequence of float
        The L levels, ascending, at least two.
    values : array_like, shape (*space)
        Measured values; NaN where there is none.
    dose : Dose
        Of the measurement.
    channel : int
        Index of the channel in the dose and in the belief.
    belief : Belief, optional
        What the neighbours' measurements say, with the quantiles calibrated; nothing by default.

    Returns
    -------
    ndarray of float32, shape (L, *space)
        Quantiles at the same levels, never crossing; those that came where there is no evidence.
    """
    came = np.asarray(quantiles, np.float32)
    flat, measured = came.reshape(len(levels), -1), np.asarray(values, np.float64).ravel()
    out = flat.copy()
    known = np.isfinite(measured) & np.isfinite(flat).all(0)
    if not known.any() or (dose.dose[channel] == 0 and belief is None):
        return out.reshape(came.shape)
    at = np.flatnonzero(known)
    near = (
        None if belief is None else np.stack([belief.mean[channel].ravel(), belief.variance[channel].ravel()])
    )
    for start in range(0, at.size, _CHUNK):
        part = at[start : start + _CHUNK]
        around = None if near is None else near[:, part, None]
        out[:, part] = _chunk(flat[:, part].T, np.asarray(levels), measured[part], dose, channel, around).T
    return out.reshape(came.shape)


def _chunk(
    quantiles: NDArray[np.float32],
    levels: NDArray[np.float64],
    values: NDArray[np.float64],
    dose: Dose,
    channel: int,
    around: NDArray[np.float64] | None,
) -> NDArray[np.float32]:
    """Return the posterior quantiles (n, L) of pixels (n, L), whose neighbours give mean and variance (2, n, 1)."""
    q = _ascending(quantiles.astype(np.float64))
    tails = _tails(q, levels)
    evidence = dose.dose[channel] > 0
    measured = dose.centre(values, channel) if evidence else (q[:, len(levels) // 2], np.zeros(len(q)))
    edges = _edges(q, tails, measured)
    mass = _log_mass(q, levels, tails, edges)
    if evidence:
        mass += _log_mean_likelihood(edges, values[:, None], dose, channel)
    if around is not None:
        score = _scores(q, levels, tails, (edges[:, :-1] + edges[:, 1:]) / 2)
        belief = np.square(score) / 2 - np.square(score - around[0]) / (2 * around[1]) - np.log(around[1]) / 2
        mass += np.logaddexp(np.log1p(-ALONE) + belief, np.log(ALONE))
    mass = np.exp(mass - mass.max(1, keepdims=True))
    below = np.concatenate([np.zeros((len(q), 1)), np.cumsum(mass, 1)], 1)
    return _inverse(edges, below / below[:, -1:], levels)


def _ascending(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return quantiles with a least distance, which turns a jump of the distribution into a narrow step."""
    gap = _NARROW * np.maximum(np.abs(q).max(1), q[:, -1] - q[:, 0])[:, None] + 1e-12
    ramp = gap * np.arange(q.shape[1])
    return np.asarray(np.maximum.accumulate(q - ramp, axis=1) + ramp)


def _tails(
    q: NDArray[np.float64], levels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scales (n, 1) of the exponential tails, as `distribution.ppf` has them."""
    lower = (q[:, 1:2] - q[:, :1]) * levels[0] / (levels[1] - levels[0])
    upper = (q[:, -1:] - q[:, -2:-1]) * (1 - levels[-1]) / (levels[-1] - levels[-2])
    return lower, upper


def _edges(
    q: NDArray[np.float64],
    tails: tuple[NDArray[np.float64], NDArray[np.float64]],
    measured: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return edges of cells (n, K + 1), fine where the prediction and where the measurement lie."""
    between = q[:, :-1, None] + np.diff(q, axis=1)[:, :, None] * np.arange(_PARTS) / _PARTS
    centre, sd = measured
    parts = [
        between.reshape(len(q), -1),
        q[:, -1:],
        q[:, :1] - tails[0] * _TAIL,
        q[:, -1:] + tails[1] * _TAIL,
        centre[:, None] + sd[:, None] * _REACH,
    ]
    return np.sort(np.concatenate(parts, 1), 1)


def _log_mass(
    q: NDArray[np.float64],
    levels: NDArray[np.float64],
    tails: tuple[NDArray[np.float64], NDArray[np.float64]],
    edges: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the log probability of each cell (n, K), exact in the far tails too."""
    low, high = edges[:, :-1], edges[:, 1:]
    size = high - low
    segment = ((low + high)[:, :, None] / 2 > q[:, None, :]).sum(2)
    slope = np.diff(levels) / np.diff(q, axis=1)
    inner = np.take_along_axis(slope, np.clip(segment - 1, 0, slope.shape[1] - 1), 1)
    with np.errstate(divide="ignore"):
        mass = np.log(inner * size)
        sides = (
            (segment == 0, levels[0], (q[:, :1] - high) / tails[0], size / tails[0]),
            (segment == len(levels), 1 - levels[-1], (low - q[:, -1:]) / tails[1], size / tails[1]),
        )
        for where, share, distance, length in sides:
            tail = np.log(share) - np.maximum(distance, 0) + np.log(-np.expm1(-length))
            mass = np.where(where, tail, mass)
    return np.asarray(mass)


def _scores(
    q: NDArray[np.float64],
    levels: NDArray[np.float64],
    tails: tuple[NDArray[np.float64], NDArray[np.float64]],
    signal: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the normal score of each signal (n, K) in its predicted distribution."""
    chance = np.full(signal.shape, levels[0])
    for i in range(len(levels) - 1):
        part = np.clip((signal - q[:, i : i + 1]) / (q[:, i + 1 : i + 2] - q[:, i : i + 1]), 0, 1)
        chance += part * (levels[i + 1] - levels[i])
    low = ndtri_exp(np.log(levels[0]) - np.maximum(q[:, :1] - signal, 0) / tails[0])
    high = -ndtri_exp(np.log(1 - levels[-1]) - np.maximum(signal - q[:, -1:], 0) / tails[1])
    score = np.where(signal < q[:, :1], low, np.where(signal > q[:, -1:], high, ndtri(chance)))
    return np.asarray(np.clip(score, -_FARTHEST, _FARTHEST))


def _log_mean_likelihood(
    edges: NDArray[np.float64], values: NDArray[np.float64], dose: Dose, channel: int
) -> NDArray[np.float64]:
    """Return the log of the mean likelihood in each cell, by Simpson's rule."""
    ends = dose.log_likelihood(edges, values, channel)
    low, high = ends[:, :-1], ends[:, 1:]
    middle = dose.log_likelihood((edges[:, :-1] + edges[:, 1:]) / 2, values, channel)
    top = np.maximum(np.maximum(low, high), middle)
    return np.asarray(top + np.log((np.exp(low - top) + 4 * np.exp(middle - top) + np.exp(high - top)) / 6))


def _inverse(
    edges: NDArray[np.float64], below: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the places (n, L) where the cumulated probability (n, K + 1) reaches each level."""
    out = np.empty((len(edges), len(levels)), np.float32)
    rows = np.arange(len(edges))
    for i, level in enumerate(levels):
        k = np.clip((below <= level).sum(1), 1, edges.shape[1] - 1)
        start, stop = below[rows, k - 1], below[rows, k]
        share = (level - start) / np.maximum(stop - start, 1e-300)
        low, high = edges[rows, k - 1], edges[rows, k]
        out[:, i] = low + np.clip(share, 0, 1) * (high - low)
    return np.asarray(np.maximum.accumulate(out, axis=1))
