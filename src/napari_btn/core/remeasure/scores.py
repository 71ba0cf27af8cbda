"""Scores that say which pixels to measure again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.remeasure.regions import Region

__all__ = [
    "combine_channels",
    "need_finite",
    "need_same_shape",
    "one_scene",
    "score_map",
    "width_outside",
]


def _ambiguity(exceedance: ArrayLike) -> NDArray[np.float32]:
    """Return the ambiguity of each pixel about a threshold: ``4 p (1 - p)``.

    Parameters
    ----------
    exceedance : array_like
        P(signal > t), 0 to 1, any shape.

    Returns
    -------
    ndarray of float32
        0 where P is 0 or 1, 1 where it is one half.

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


def _relative_width(width: ArrayLike, median: ArrayLike) -> NDArray[np.float32]:
    """Return the width of the interval relative to the signal: ``width / max(|median|, floor)``.

    The floor keeps empty background from winning: the 90th percentile of ``|median|``, but at least a
    thousandth of the largest.

    Parameters
    ----------
    width, median : array_like
        Maps of one shape, in one unit.

    Returns
    -------
    ndarray of float32
        Zero or more, without unit.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    w, m = np.asarray(width, dtype=np.float32), np.abs(np.asarray(median, dtype=np.float32))
    need_same_shape("width", w.shape, "median", m.shape)
    floor = float(max(np.nanquantile(m, 0.9), 1e-3 * np.nanmax(m))) or 1.0
    return (w / np.maximum(m, np.float32(floor))).astype(np.float32)


def _width_reduction(width: ArrayLike, dwell_ratio: float) -> NDArray[np.float32]:
    """Return by how much each interval is expected to narrow when measured again.

    The present knowledge (precision ``1 / width**2``) and the new measurement (precision
    ``dwell_ratio / width**2``, since counting noise falls as the root of the dwell, without information
    from neighbours) add up as independent Gaussian evidence.

    Parameters
    ----------
    width : array_like
        Widths of the intervals now.
    dwell_ratio : float
        Dwell of the new measurement over that of the old one; positive.

    Returns
    -------
    ndarray of float32
        Zero to `width`.

    Raises
    ------
    ValueError
        If `dwell_ratio` is not positive.
    """
    if not dwell_ratio > 0:
        raise ValueError(f"dwell_ratio is {dwell_ratio}; it must be positive (10: ten times the dwell).")
    w = np.maximum(np.asarray(width, dtype=np.float64), 0.0)
    combined = np.divide(w * w, np.sqrt(w**2 + dwell_ratio * w**2), out=np.zeros_like(w), where=w > 0)
    return np.asarray(w - combined, np.float32)


def _disagreement(spread: ArrayLike, width: ArrayLike | None = None) -> NDArray[np.float32]:
    """Return the disagreement of the members: their spread, or its share of the interval's width.

    More data can reduce a disagreement; where members agree on a wide interval, its width comes from noise.

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
    need_same_shape("spread", s.shape, "width", w.shape)
    return np.divide(s, w, out=np.zeros_like(s), where=w > 0)


def combine_channels(
    scores: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    by: Literal["rank", "mean"] = "rank",
) -> NDArray[np.float32]:
    """Combine the scores of channels, each first replaced by its ranks or divided by its mean.

    Parameters
    ----------
    scores : array_like, (C, *space)
        One score map per channel, each in its own unit.
    mask : array_like of bool, (*space), optional
        Pixels that are ranked; the others get 0.
    by : str
        "rank" is independent of units and outliers. "mean" keeps the ratios between pixels, so that a
        few very wide intervals of a rare phase keep their weight.

    Returns
    -------
    ndarray of float32, (*space)
        Mean over channels. By rank, of the share of pixels that lie strictly below, 0 to 1; ties at the
        bottom (a score of zero over most of the image) stay at 0. By mean, 1 on average.

    Raises
    ------
    ValueError
        If shapes or values do not fit.
    """
    maps = np.asarray(scores)
    if maps.ndim < 3:
        raise ValueError(f"scores have shape {maps.shape}; channels come first: (C, Y, X) or (C, Z, Y, X).")
    chosen = np.ones(maps.shape[1:], bool) if mask is None else np.asarray(mask).astype(bool)
    need_same_shape("a score map", maps.shape[1:], "mask", chosen.shape)
    out = np.zeros(maps.shape[1:], dtype=np.float32)
    for values in maps:
        inside = values[chosen]
        need_finite(inside)
        if by == "mean":
            mean = float(np.mean(inside, dtype=np.float64)) if inside.size else 0.0
            out[chosen] += np.float32(1 / len(maps) / mean if mean else 0) * inside
            continue
        ranks = np.searchsorted(np.sort(inside), inside, side="left") / max(inside.size - 1, 1)
        out[chosen] += np.float32(1 / len(maps)) * ranks.astype(np.float32)
    return out


def need_finite(values: NDArray[np.generic]) -> None:
    """Raise ``ValueError`` if a value is NaN or infinite.

    Parameters
    ----------
    values : ndarray
        Any type and shape.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise ValueError(f"{bad} values are NaN or infinite; mask those pixels, or replace them.")


def need_same_shape(name: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` if two shapes differ.

    Parameters
    ----------
    name : str
        Name of the first array.
    shape : tuple of int
    other : str
        Name of the second array.
    other_shape : tuple of int
    """
    if shape != other_shape:
        raise ValueError(f"{name} has shape {shape}, {other} has {other_shape}; they must match.")


def score_map(
    prediction: Prediction,
    *,
    channel: str | int | None = None,
    threshold: float | None = None,
    dwell_ratio: float | None = None,
    spread: Literal["plain", "relative"] | None = None,
    width: Literal["plain", "relative"] | None = None,
    scene: int | None = None,
) -> NDArray[np.float32]:
    """Return the score of each pixel of a prediction, for `regions.propose_regions`.

    With a threshold it is the ambiguity of ``P(signal > threshold)``; with a dwell, the expected narrowing
    of the interval; with a spread, the disagreement of the members; else the width of the interval.

    Parameters
    ----------
    prediction : Prediction
        Calibrated maps.
    channel : str or int, optional
        Name or number; by default the average of all channels, each divided by its mean, or with a
        threshold or the relative width replaced by its ranks.
    threshold : float, optional
        In the units of the maps.
    dwell_ratio : float, optional
        Dwell of the new measurement over that of the old one.
    spread : str, optional
        "plain", the members' spread; or "relative", its share of the interval's width.
    width : str, optional
        "plain", as with none of these; or "relative" to the signal.
    scene : int, optional
        Number of the scene, where the maps have several.

    Returns
    -------
    ndarray of float32, (Y, X) or (Z, Y, X)
        Larger for pixels to measure first.

    Raises
    ------
    ValueError
        If the scene or the channel is missing, there is no spread, or more than one of threshold, dwell,
        spread and width is given.
    """
    asked = {"threshold": threshold, "dwell_ratio": dwell_ratio, "spread": spread, "width": width}
    came = [name for name, value in asked.items() if value is not None]
    if len(came) > 1:
        raise ValueError(
            f"{' and '.join(came)} came together; the score is made from one of them. Leave one out."
        )
    for name, value in (("spread", spread), ("width", width)):
        if value not in (None, "plain", "relative"):
            raise ValueError(f"{name} is {value!r}; it must be 'plain' or 'relative'.")
    names = prediction.channel_names
    numbers = range(len(names)) if channel is None else [prediction.channel_number(channel)]
    axes = prediction.axes.replace("C", "")
    maps = []
    for c in numbers:
        if threshold is not None:
            one = _ambiguity(prediction.exceedance(threshold, c))
        else:
            at = tuple(c if a == "C" else slice(None) for a in prediction.axes)
            one = np.asarray(prediction.width[at], np.float32)
            if spread is not None:
                found = np.asarray(prediction.spread[at], np.float32)
                one = _disagreement(found, one if spread == "relative" else None)
            elif dwell_ratio is not None:
                one = _width_reduction(one, dwell_ratio)
            elif width == "relative":
                one = _relative_width(one, np.asarray(prediction.median[at], np.float32))
        maps.append(one_scene(one, axes, scene))
    if len(maps) == 1:
        return maps[0]
    by: Literal["rank", "mean"] = "rank" if threshold is not None or width == "relative" else "mean"
    return combine_channels(np.stack(maps), by=by)


def width_outside(prediction: Prediction, regions: Sequence[Region], scene: int = 0) -> NDArray[np.float64]:
    """Return the mean width of the intervals outside regions, (C,).

    It shows what measuring the regions again brings elsewhere.

    Parameters
    ----------
    prediction : Prediction
        Calibrated maps.
    regions : sequence of Region
        Regions to leave out.
    scene : int
        Number of the scene, where the maps have several.
    """
    axes = prediction.axes.replace("C", "")
    made = []
    for c in range(max(len(prediction.channel_names), 1)):
        at = tuple(c if a == "C" else slice(None) for a in prediction.axes)
        width = one_scene(np.asarray(prediction.width[at], np.float32), axes, scene)
        outside = np.ones(width.shape, bool)
        for region in regions:
            outside[region.slices][region.own] = False
        made.append(float(width[outside].mean(dtype=np.float64)) if outside.any() else float("nan"))
    return np.array(made)


def one_scene(values: NDArray[np.float32], axes: str, scene: int | None) -> NDArray[np.float32]:
    """Return one scene of a map, its axes in the order Z, Y, X.

    Parameters
    ----------
    values : ndarray
        Map of one channel.
    axes : str
        Its axes, without C.
    scene : int, optional
        Number of the scene, where there are several.

    Raises
    ------
    ValueError
        If there are several and none is named, or there is no such scene.
    """
    space = [a for a in "ZYX" if a in axes]
    stack = values.transpose([axes.index(a) for a in "STZYX" if a in axes])
    stack = stack.reshape(-1, *stack.shape[stack.ndim - len(space) :])
    if scene is None and len(stack) > 1:
        raise ValueError(
            f"The maps have {len(stack)} scenes; regions are proposed in one. Give scene=0, 1, ..."
        )
    number = scene or 0
    if not 0 <= number < len(stack):
        raise ValueError(f"scene is {number}; the maps have {len(stack)}, counted from 0.")
    return np.ascontiguousarray(stack[number])
