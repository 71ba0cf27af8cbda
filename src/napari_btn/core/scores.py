"""How much each pixel deserves another measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["ambiguity", "combine_channels", "disagreement", "relative_width", "width_reduction"]


def ambiguity(exceedance: ArrayLike) -> NDArray[np.float32]:
    """How undecided each pixel is about a threshold: ``4 p (1 - p)``.

    Parameters
    ----------
    exceedance : array_like
        P(signal > t), 0 to 1, any shape.

    Returns
    -------
    ndarray of float32
        0 where the matter is settled, 1 where it is even.

    Raises
    ------
    ValueError
        If a value lies outside 0 to 1.
    """
    p = np.asarray(exceedance, dtype=np.float32)
    if p.size and (np.nanmin(p) < -1e-6 or np.nanmax(p) > 1 + 1e-6):
        raise ValueError(
            f"The exceedance runs from {np.nanmin(p):.4g} to {np.nanmax(p):.4g}; it must lie in 0 to 1. "
            "Pass the map of prediction.exceedance(threshold)."
        )
    out: NDArray[np.float32] = np.clip(4 * p * (1 - p), 0, 1).astype(np.float32)
    return out


def relative_width(width: ArrayLike, median: ArrayLike, floor: float | None = None) -> NDArray[np.float32]:
    """Width of the interval relative to the signal: ``width / max(|median|, floor)``.

    Parameters
    ----------
    width, median : array_like
        Maps of one shape, in one unit.
    floor : float, optional
        Smallest signal to divide by, so that empty background does not win; by default the 90th
        percentile of ``|median|``, but at least a thousandth of the largest.

    Returns
    -------
    ndarray of float32
        Zero or more, without unit.

    Raises
    ------
    ValueError
        If the shapes differ or `floor` is not positive.
    """
    w, m = np.asarray(width, dtype=np.float32), np.abs(np.asarray(median, dtype=np.float32))
    _same_shape("width", w.shape, "median", m.shape)
    if floor is None:
        floor = float(max(np.nanquantile(m, 0.9), 1e-3 * np.nanmax(m))) or 1.0
    if not floor > 0:
        raise ValueError(f"floor is {floor}; it must be positive, in the unit of the median.")
    return (w / np.maximum(m, np.float32(floor))).astype(np.float32)


def width_reduction(
    width: ArrayLike, dwell_ratio: float, noise_width: ArrayLike | None = None
) -> NDArray[np.float32]:
    """How much narrower each interval is expected to become when measured again.

    What is known now (precision ``1 / width**2``) and the new measurement (precision
    ``dwell_ratio / noise_width**2``, counting noise falling as the root of the dwell) add up as
    independent Gaussian evidence.

    Parameters
    ----------
    width : array_like
        Widths of the intervals now.
    dwell_ratio : float
        Dwell of the new measurement over that of the old one; positive.
    noise_width : array_like, optional
        Width of the interval that one old measurement alone gives, in the unit of `width`; by
        default `width` itself (no help from the neighbours).

    Returns
    -------
    ndarray of float32
        Zero to `width`.

    Raises
    ------
    ValueError
        If `dwell_ratio` is not positive or the shapes differ.
    """
    if not dwell_ratio > 0:
        raise ValueError(f"dwell_ratio is {dwell_ratio}; it must be positive (10: ten times the dwell).")
    w = np.asarray(width, dtype=np.float64)
    n = w if noise_width is None else np.asarray(noise_width, dtype=np.float64)
    _same_shape("width", w.shape, "noise_width", n.shape)
    w = np.maximum(w, 0.0)
    combined = np.divide(
        w * n, np.sqrt(n**2 + dwell_ratio * w**2), out=np.zeros_like(w), where=(n > 0) & (w > 0)
    )
    return (w - combined).astype(np.float32)


def disagreement(spread: ArrayLike, width: ArrayLike | None = None) -> NDArray[np.float32]:
    """How far the members of an ensemble disagree: their spread, or its share of the interval's width.

    What members disagree on, more data can settle; where they agree on a wide interval, it is the noise
    that is wide.

    Parameters
    ----------
    spread : array_like
        Standard deviation of the members' medians, any shape.
    width : array_like, optional
        Width of the interval, in the unit of `spread`.

    Returns
    -------
    ndarray of float32
        Zero or more: in the unit of `spread`, or without one where a width is given.

    Raises
    ------
    ValueError
        If the spread is 0 everywhere, as that of a single member, or the shapes differ.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell, arXiv 1612.01474 (2017), on disagreement as a measure of what an
    ensemble has not learned.
    """
    s = np.asarray(spread, dtype=np.float32)
    if s.size and not (s > 0).any():
        raise ValueError(
            "The members' spread is 0 everywhere, as that of one member is; train two members or more, or choose "
            "another score."
        )
    if width is None:
        return s.copy()
    w = np.asarray(width, dtype=np.float32)
    _same_shape("spread", s.shape, "width", w.shape)
    return np.divide(s, w, out=np.zeros_like(s), where=w > 0)


def combine_channels(
    scores: ArrayLike,
    weights: Sequence[float] | None = None,
    mask: ArrayLike | None = None,
    *,
    by: Literal["rank", "mean"] = "rank",
) -> NDArray[np.float32]:
    """One score from several channels, each replaced by its ranks, or divided by its mean, first.

    Parameters
    ----------
    scores : array_like, (C, *space)
        One score map per channel, each in its own unit.
    weights : sequence of float, optional
        Weight of each channel; equal by default.
    mask : array_like of bool, (*space), optional
        Pixels that are ranked; the others get 0.
    by : str
        "rank" knows no units and no outliers. "mean" keeps how much more one pixel scores than
        another, so that a few very wide intervals of a rare phase count for what they are.

    Returns
    -------
    ndarray of float32, (*space)
        Weighted mean. By rank, of the share of pixels that lie strictly below, 0 to 1; ties at the
        bottom (a score of zero over most of the image) stay at 0. By mean, 1 on average.

    Raises
    ------
    ValueError
        If shapes, weights or values do not fit.
    """
    maps = np.asarray(scores)
    if maps.ndim < 3:
        raise ValueError(f"scores have shape {maps.shape}; channels come first: (C, Y, X) or (C, Z, Y, X).")
    share = np.full(len(maps), 1 / len(maps)) if weights is None else np.asarray(weights, dtype=float)
    if share.shape != (len(maps),) or (share < 0).any() or not share.sum() > 0:
        raise ValueError(f"weights are {share.tolist()}; needed are {len(maps)}, none negative, not all 0.")
    chosen = np.ones(maps.shape[1:], bool) if mask is None else np.asarray(mask).astype(bool)
    _same_shape("a score map", maps.shape[1:], "mask", chosen.shape)
    out = np.zeros(maps.shape[1:], dtype=np.float32)
    for values, w in zip(maps, share / share.sum(), strict=True):
        inside = values[chosen]
        _check_finite(inside)
        if by == "mean":
            mean = float(np.mean(inside, dtype=np.float64)) if inside.size else 0.0
            out[chosen] += np.float32(w / mean if mean else 0) * inside
            continue
        ranks = np.searchsorted(np.sort(inside), inside, side="left") / max(inside.size - 1, 1)
        out[chosen] += np.float32(w) * ranks.astype(np.float32)
    return out


def _check_finite(values: NDArray[np.generic]) -> None:
    """Raise where values are NaN or infinite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise ValueError(f"{bad} values are NaN or infinite; mask those pixels, or replace them.")


def _same_shape(name: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]) -> None:
    """Raise where two shapes differ."""
    if shape != other_shape:
        raise ValueError(f"{name} has shape {shape}, {other} has {other_shape}; they must match.")
