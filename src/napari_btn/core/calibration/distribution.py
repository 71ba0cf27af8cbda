"""A whole distribution from a few quantiles: probabilities, and quantiles at any level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["cdf", "cdf_rows", "density", "mean", "ppf", "variance"]

# A chunk of all levels with its work space stays in a core's cache: three times as fast as whole planes.
CHUNK = 65_536
# Distance of two levels that coincide: the distribution then jumps.
NARROW, INFINITE = np.float32(1e-30), np.float32(np.inf)


def cdf(
    quantiles: NDArray[np.floating[Any]],
    levels: Sequence[float],
    value: ArrayLike,
    *,
    table: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return P(signal <= value) of each pixel: linear between the levels, exponential tails outside.

    Parameters
    ----------
    quantiles : ndarray of float, shape (L, *space)
        Quantiles of one channel, ascending along the first axis.
    levels : sequence of float
        The L levels, ascending, at least two.
    value : array_like
        One threshold for all, or one value per pixel, shape (*space), in the quantiles' unit.
    table : ndarray of float32, shape (K + 1,), optional
        What to return for a probability from k / K to (k + 1) / K, instead of the probability.

    Returns
    -------
    ndarray of float32, shape (*space)
        Probability, 0 to 1, never falling as `value` grows; or what the table holds for it.

    Raises
    ------
    ValueError
        If there are fewer than two levels, or their number differs from the quantiles'.
    """
    q, steps = _flat(quantiles, levels)
    n = q.shape[1]
    at = np.asarray(value, dtype=np.float32)
    at = at.ravel() if at.ndim else at
    out = np.empty(n, dtype=np.float32)
    work, gap = np.empty((2, CHUNK), dtype=np.float32)
    for start in range(0, n, CHUNK):
        part = slice(start, min(start + CHUNK, n))
        size = part.stop - part.start
        t = at[part] if at.ndim else at
        _cdf_chunk(q[:, part], steps, t, table, out[part], work[:size], gap[:size])
    return out.reshape(quantiles.shape[1:])


def cdf_rows(
    quantiles: NDArray[np.floating[Any]],
    levels: Sequence[float],
    values: NDArray[np.floating[Any]],
    *,
    table: NDArray[np.float32] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield what `cdf` returns for one threshold after another, several at a time where there are few pixels.

    Parameters
    ----------
    quantiles : ndarray of float, shape (L, n)
        Quantiles of n pixels, ascending along the first axis.
    levels : sequence of float
        The L levels, ascending, at least two.
    values : ndarray of float, shape (T,)
        Thresholds, in the quantiles' unit.
    table : ndarray of float32, shape (K + 1,), optional
        As for `cdf`.

    Yields
    ------
    ndarray of float32, shape (n,)
        Valid until the next one is asked for.

    Raises
    ------
    ValueError
        If there are fewer than two levels, or their number differs from the quantiles'.
    """
    q, steps = _flat(quantiles, levels)
    n, at = q.shape[1], np.asarray(values, dtype=np.float32)[:, None]
    many = max(CHUNK // max(n, 1), 1)
    out, work = np.empty((2, min(many, len(at)), n), dtype=np.float32)
    gap = np.empty(n, dtype=np.float32)
    for first in range(0, len(at), many):
        t = at[first : first + many]
        _cdf_chunk(q, steps, t, table, out[: len(t)], work[: len(t)], gap)
        yield from out[: len(t)]


def ppf(quantiles: NDArray[np.floating[Any]], levels: Sequence[float], level: float) -> NDArray[np.float32]:
    """Return the quantile of each pixel at any level: the inverse of `cdf`.

    Parameters
    ----------
    quantiles : ndarray of float, shape (L, *space)
        Quantiles of one channel, ascending along the first axis.
    levels : sequence of float
        The L levels, ascending, at least two.
    level : float
        Level wanted, 0 to 1; infinite values come back at 0 and 1.

    Returns
    -------
    ndarray of float32, shape (*space)
        In the quantiles' unit.

    Raises
    ------
    ValueError
        If there are fewer than two levels, or their number differs from the quantiles'.
    """
    if len(levels) < 2 or quantiles.shape[0] != len(levels):
        _flat(quantiles, levels)
    q = np.asarray(quantiles)
    u = np.asarray(levels, dtype=np.float64)
    if level < u[0]:
        scale = (q[1] - q[0]) * np.float32(u[0] / (u[1] - u[0]))
        return _tail(q[0], scale, np.log(level / u[0]) if level > 0 else -np.inf)
    if level > u[-1]:
        scale = (q[-1] - q[-2]) * np.float32((1 - u[-1]) / (u[-1] - u[-2]))
        return _tail(q[-1], scale, -np.log((1 - level) / (1 - u[-1])) if level < 1 else np.inf)
    i = min(int(np.searchsorted(u, level, side="right")) - 1, len(u) - 2)
    share = np.float32((level - u[i]) / (u[i + 1] - u[i]))
    return np.asarray(q[i] + share * (q[i + 1] - q[i]), dtype=np.float32)


def mean(
    quantiles: NDArray[np.floating[Any]], levels: Sequence[float], *, minimum: float | None = None
) -> NDArray[np.float32]:
    """Return the mean of each pixel: the quantile function of `ppf`, integrated over all levels.

    Skewed noise of the training targets moves it far less than the median.

    Parameters
    ----------
    quantiles : ndarray of float, shape (L, *space)
        Quantiles, ascending along the first axis.
    levels : sequence of float
        The L levels, ascending. A single level has no tails; its quantile is returned.
    minimum : float, optional
        Lowest possible value of the signal; a lower mean is set to it.

    Returns
    -------
    ndarray of float32, shape (*space)
        In the quantiles' unit.

    Raises
    ------
    ValueError
        If the number of levels differs from the quantiles'.
    """
    if quantiles.shape[0] != len(levels):
        raise ValueError(
            f"There are {quantiles.shape[0]} quantile planes and {len(levels)} levels; give one plane per level."
        )
    out = np.zeros(quantiles.shape[1:], np.float32)
    # one plane after another, so that no second stack of all levels is made
    for plane, weight in zip(quantiles, _mean_weights(levels), strict=True):
        out += np.float32(weight) * np.asarray(plane, np.float32)
    return out if minimum is None else np.maximum(out, np.float32(minimum))


def _mean_weights(levels: Sequence[float]) -> NDArray[np.float64]:
    """Return the weight of each quantile in the integral of the quantile function, (L,); they sum to one."""
    u = np.asarray(levels, np.float64)
    if len(u) == 1:
        return np.ones(1)
    step = np.diff(u)
    weights = np.zeros(len(u))
    weights[:-1] += step / 2
    weights[1:] += step / 2
    # an exponential tail beyond a quantile has its mean one scale farther out
    for end, inner, share, gap in ((0, 1, u[0], step[0]), (-1, -2, 1 - u[-1], step[-1])):
        weights[end] += share + share**2 / gap
        weights[inner] -= share**2 / gap
    return weights


def variance(quantiles: NDArray[np.floating[Any]], levels: Sequence[float]) -> NDArray[np.float64]:
    """Return the variance of each pixel: that of the quantile function of `ppf` over all levels.

    Parameters
    ----------
    quantiles : ndarray of float, shape (L, *space)
        Quantiles, ascending along the first axis.
    levels : sequence of float
        The L levels, ascending, at least two.

    Returns
    -------
    ndarray of float64, shape (*space)
        In the square of the quantiles' unit, 0 or more.

    Raises
    ------
    ValueError
        If there are fewer than two levels, or their number differs from the quantiles'.
    """
    q = np.asarray(quantiles, np.float64)
    if q.shape[0] != len(levels) or len(levels) < 2:
        raise ValueError(
            f"There are {q.shape[0]} quantile planes and {len(levels)} levels; give one plane per level, at least two."
        )
    # about the mean, so that large values don't cancel
    q = q - mean(q, levels)
    u = np.asarray(levels, np.float64)
    step = np.diff(u).reshape(-1, *(1,) * (q.ndim - 1))
    low, high = q[:-1], q[1:]
    square = (step * (low**2 + low * high + high**2)).sum(0) / 3
    below, above = u[0], 1 - u[-1]
    for share, end, scale in (
        (below, q[0], -(q[1] - q[0]) * below / step[0]),
        (above, q[-1], (q[-1] - q[-2]) * above / step[-1]),
    ):
        square += share * (end**2 + 2 * end * scale + 2 * scale**2)
    centre = _mean_weights(levels) @ q.reshape(len(u), -1)
    return np.asarray(np.maximum(square - centre.reshape(square.shape) ** 2, 0))


def density(
    quantiles: NDArray[np.floating[Any]], levels: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the density of one pixel as a curve of 60 steps of the same probability.

    Parameters
    ----------
    quantiles : ndarray of float, shape (L,)
        Quantiles of one pixel, ascending.
    levels : sequence of float
        The L levels, ascending, at least two.

    Returns
    -------
    edges : ndarray of float64, shape (61,)
        In the quantiles' unit, from the 0.5 % to the 99.5 % quantile.
    height : ndarray of float64, shape (60,)
        Probability per unit.

    Raises
    ------
    ValueError
        If there are fewer than two levels, or their number differs from the quantiles'.
    """
    wanted = np.linspace(0.005, 0.995, 61)
    edges = np.asarray([float(ppf(quantiles[:, None], levels, float(u))[0]) for u in wanted])
    gap = np.diff(edges)
    # Coinciding quantiles are a jump of the distribution, which a curve shows as narrow and high.
    least = max(float(edges[-1] - edges[0]), abs(float(edges[0])), 1e-12) * 1e-3
    return edges, np.diff(wanted) / np.maximum(gap, least)


def _flat(
    quantiles: NDArray[np.floating[Any]], levels: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return quantiles (L, n) and levels in float32, checked."""
    if len(levels) < 2 or quantiles.shape[0] != len(levels):
        raise ValueError(
            f"There are {quantiles.shape[0]} quantile planes and {len(levels)} levels; a distribution needs "
            "at least two, one plane per level. Predict with more levels."
        )
    q = np.asarray(quantiles, dtype=np.float32).reshape(len(levels), -1)
    return q, np.asarray(levels, dtype=np.float32)


def _cdf_chunk(
    q: NDArray[np.float32],
    levels: NDArray[np.float32],
    t: NDArray[np.float32],
    table: NDArray[np.float32] | None,
    out: NDArray[np.float32],
    work: NDArray[np.float32],
    gap: NDArray[np.float32],
) -> None:
    """Write the `cdf` of a chunk; `t` broadcasts against its pixels, and has a first axis for several thresholds."""
    # A value far outside over a width of nothing is infinite, which the tails turn into 0 or 1.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        _sum_parts(q, levels, t, out, work, gap)
        if table is not None:
            unknown = np.isnan(out)
            np.multiply(out, len(table) - 1, out=work)
            table.take(work.astype(np.int32), mode="clip", out=out)
            if unknown.any():
                out[unknown] = np.nan


def _sum_parts(
    q: NDArray[np.float32],
    levels: NDArray[np.float32],
    t: NDArray[np.float32],
    out: NDArray[np.float32],
    work: NDArray[np.float32],
    gap: NDArray[np.float32],
) -> None:
    """Sum the lower tail, the linear pieces and the upper tail, each clipped to its own part."""
    last = len(levels) - 1
    for i in range(last):
        np.subtract(q[i + 1], q[i], out=gap)
        # NumPy's `clip` is three times as fast as its `maximum` with a scalar.
        np.clip(gap, NARROW, INFINITE, out=gap)
        np.subtract(t, q[i], out=work)
        np.divide(work, gap, out=work)
        step = levels[i + 1] - levels[i]
        if i == 0:
            # The tail leaves the first level with the slope of the first piece.
            np.clip(work, -INFINITE, 0, out=out)
            out *= step / levels[0]
            np.exp(out, out=out)
            out *= levels[0]
        np.clip(work, 0, 1, out=work)
        work *= step
        out += work
    np.subtract(t, q[last], out=work)
    np.clip(work, 0, INFINITE, out=work)
    np.divide(work, gap, out=work)
    rest = 1 - levels[last]
    work *= -(levels[last] - levels[last - 1]) / rest
    np.exp(work, out=work)
    np.subtract(1, work, out=work)
    work *= rest
    out += work
    np.clip(out, 0, 1, out=out)


def _tail(q: NDArray[Any], scale: NDArray[Any], factor: float) -> NDArray[np.float32]:
    """Return the quantile in a tail; where the scale is zero, the tail is the quantile itself."""
    moved = np.full(q.shape, q, dtype=np.float32)
    np.add(q, scale * np.float32(factor), out=moved, where=scale > 0, casting="unsafe")
    return moved
