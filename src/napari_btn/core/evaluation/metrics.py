"""Scores of estimates, intervals and quantiles against a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Axis = int | tuple[int, ...] | None

__all__ = ["correlation", "coverage", "crps_from_quantiles", "interval_score", "pinball", "psnr", "ssim"]


def coverage(
    target: ArrayLike, lower: ArrayLike, upper: ArrayLike, *, axis: Axis = None
) -> NDArray[np.float64]:
    """Return the fraction of the target inside the closed interval.

    Parameters
    ----------
    target, lower, upper : array_like
        Arrays of one shape, or shapes that broadcast.
    axis : int or tuple of int, optional
        Axes to average over; all by default.

    Returns
    -------
    ndarray of float64
        Coverage, 0 to 1.
    """
    y = np.asarray(target)
    return _mean((y >= np.asarray(lower)) & (y <= np.asarray(upper)), axis)


def interval_score(
    target: ArrayLike, lower: ArrayLike, upper: ArrayLike, alpha: float, *, axis: Axis = None
) -> NDArray[np.float64]:
    """Return the mean interval (Winkler) score: the width plus ``2 / alpha`` times every miss.

    Parameters
    ----------
    target, lower, upper : array_like
        Arrays of one shape, or shapes that broadcast, in the target's unit.
    alpha : float
        Miscoverage of the interval, between 0 and 1.
    axis : int or tuple of int, optional
        Axes to average over; all by default.

    Returns
    -------
    ndarray of float64
        Score in the target's unit; smaller is better.

    References
    ----------
    Gneiting and Raftery, JASA 102 (2007), equation 43.
    """
    y, low, high = (np.asarray(a, dtype=np.float64) for a in (target, lower, upper))
    misses = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return _mean((high - low) + (2 / alpha) * misses, axis)


def pinball(
    target: ArrayLike, quantiles: ArrayLike, levels: Sequence[float], *, axis: Axis = None
) -> NDArray[np.float64]:
    """Return the mean pinball loss of each level.

    Parameters
    ----------
    target : array_like
        Target, shape ``(...)``.
    quantiles : array_like
        Predicted quantiles, shape ``(L, ...)``.
    levels : sequence of float
        The L quantile levels, each between 0 and 1.
    axis : int or tuple of int, optional
        Axes of `target` to average over; all by default.

    Returns
    -------
    ndarray of float64
        Loss in the target's unit, levels first; smaller is better.

    References
    ----------
    Koenker and Bassett, Econometrica 46 (1978), equation 2.1.
    """
    y = np.asarray(target, dtype=np.float64)
    losses = []
    for quantile, level in zip(np.asarray(quantiles), levels, strict=True):
        error = y - quantile
        losses.append(_mean(np.maximum(level * error, (level - 1) * error), axis))
    return np.asarray(losses)


def crps_from_quantiles(
    target: ArrayLike, quantiles: ArrayLike, levels: Sequence[float], *, axis: Axis = None
) -> NDArray[np.float64]:
    """Return the mean continuous ranked probability score, as twice the mean pinball loss.

    Parameters
    ----------
    target : array_like
        Target, shape ``(...)``.
    quantiles : array_like
        Predicted quantiles, shape ``(L, ...)``.
    levels : sequence of float
        The L quantile levels, each between 0 and 1.
    axis : int or tuple of int, optional
        Axes of `target` to average over; all by default.

    Returns
    -------
    ndarray of float64
        Score in the target's unit; smaller is better.

    References
    ----------
    Gneiting and Ranjan, JBES 29 (2011), equation 15, as a sum over the given levels.
    """
    return np.asarray(2 * pinball(target, quantiles, levels, axis=axis).mean(axis=0))


def correlation(target: ArrayLike, estimate: ArrayLike, *, axis: Axis = None) -> NDArray[np.float64]:
    """Return the Pearson correlation of the estimate with the target; NaN where one is constant.

    Parameters
    ----------
    target, estimate : array_like
        Arrays of one shape.
    axis : int or tuple of int, optional
        Axes to correlate over; all by default.

    Returns
    -------
    ndarray of float64
        Correlation, -1 to 1.
    """
    y, x = (np.asarray(a, dtype=np.float64) for a in (target, estimate))
    y = y - y.mean(axis=axis, keepdims=True)
    x = x - x.mean(axis=axis, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=axis) * (y * y).sum(axis=axis))
    result = np.full(np.shape(scale), np.nan)
    np.divide((x * y).sum(axis=axis), scale, out=result, where=scale > 0)
    return result


def psnr(
    target: ArrayLike, estimate: ArrayLike, *, data_range: float | None = None, axis: Axis = None
) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of the estimate.

    Parameters
    ----------
    target, estimate : array_like
        Arrays of one shape.
    data_range : float, optional
        Range of the signal; by default the target's own, maximum minus minimum.
    axis : int or tuple of int, optional
        Axes to average over; all by default.

    Returns
    -------
    ndarray of float64
        Ratio in dB; infinite where the two are equal.
    """
    y, x = (np.asarray(a, dtype=np.float64) for a in (target, estimate))
    peak = y.max(axis=axis) - y.min(axis=axis) if data_range is None else data_range
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(10 * np.log10(np.square(peak) / np.square(y - x).mean(axis=axis)))


def ssim(target: ArrayLike, estimate: ArrayLike, *, data_range: float | None = None) -> float:
    """Return the structural similarity of one channel; NaN where an image is too small.

    Weights are Gaussian.

    Parameters
    ----------
    target, estimate : array_like
        Images of one shape, ``(Y, X)`` or ``(Z, Y, X)``.
    data_range : float, optional
        Range of the signal; by default the target's own, maximum minus minimum.

    Returns
    -------
    float
        Similarity, -1 to 1.

    References
    ----------
    Wang et al., IEEE Trans. Image Process. 13 (2004).
    """
    from skimage.metrics import structural_similarity

    y, x = (np.asarray(a, dtype=np.float64) for a in (target, estimate))
    window = 11
    if min(y.shape) < window:
        return float("nan")
    peak = float(np.ptp(y)) if data_range is None else data_range
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(y, x, data_range=peak, **options))


def _mean(values: NDArray[Any], axis: Axis) -> NDArray[np.float64]:
    """Return the mean over axes in float64, as an array."""
    return np.asarray(values.mean(axis=axis, dtype=np.float64))
