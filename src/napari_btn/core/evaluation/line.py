"""Values along a line through a plane, and the scale of observations relative to a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["along", "points_between", "to_scale"]


def points_between(start: Sequence[float], end: Sequence[float]) -> NDArray[np.float64]:
    """Return points about a pixel apart on a straight line, ends included.

    Parameters
    ----------
    start, end : sequence of float
        Row and column, in pixels.

    Returns
    -------
    ndarray of float64, shape (n, 2)
        At least two points.
    """
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    n = max(int(np.ceil(np.hypot(*(b - a)))), 1) + 1
    return np.asarray(a + np.linspace(0, 1, n)[:, None] * (b - a))


def along(plane: NDArray[Any], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values at points between the pixels, by linear interpolation.

    Parameters
    ----------
    plane : ndarray, shape (Y, X)
        One plane.
    points : ndarray of float64, shape (n, 2)
        Row and column, in pixels.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN where a point lies outside the plane.
    """
    from scipy.ndimage import map_coordinates

    # A pixel reaches half a pixel beyond its centre.
    inside = ((points >= -0.5) & (points <= np.asarray(plane.shape) - 0.5)).all(axis=1)
    values = map_coordinates(plane, points.T, np.float64, order=1, mode="nearest")
    return np.where(inside, values, np.nan)


def to_scale(observed: ArrayLike, target: ArrayLike) -> tuple[float, float]:
    """Return gain and offset that scale observations to a target: ``gain * observed + offset``.

    Parameters
    ----------
    observed, target : array_like
        Of one shape; only pixels where both are finite count.

    Returns
    -------
    gain, offset : float
        ``gain * observed + offset`` has the scale of the target. They invert the regression of the
        observations on the target. Regressing the target on the
        observations would shrink their noise away and make them look better than they are.
    """
    x = np.asarray(observed, dtype=np.float64).ravel()
    y = np.asarray(target, dtype=np.float64).ravel()
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if not x.size:
        return 1.0, 0.0
    x_mean, y_mean = float(x.mean()), float(y.mean())
    spread, covariance = float(np.var(y)), float(np.mean((x - x_mean) * (y - y_mean)))
    if covariance > 0 and spread > 0:
        gain = spread / covariance
    else:
        own = float(np.var(x))
        gain = float(np.sqrt(spread / own)) if own > 0 else 0.0
    return gain, y_mean - gain * x_mean
