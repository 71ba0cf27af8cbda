"""Broken and saturated pixels: found, filled, and divided out with dark and flat frames."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

from napari_btn.core.data.image import SPACE, View, canonical_axes
from napari_btn.core.data.noise import DEAD, HOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "SATURATED",
    "Defects",
    "Repaired",
    "corrected",
    "fill_defects",
    "find_defects",
    "repair",
    "step_of",
]

SATURATED: Final = 3
"""Value of a saturated pixel in a map of defects, beside `DEAD` and `HOT`."""

_FAR = 8.0  # robust standard deviations from the median of the neighbours
_ALONE = 4.0  # the same from the nearest neighbour, so that small bright structure stays
_BINS = 16
_LEAST_SATURATED = 16
_CHANCE = 0.01  # expected number of sound pixels that repeat one value in all frames


@dataclass(frozen=True, eq=False)
class Defects:
    """Broken and saturated pixels of a detector.

    Attributes
    ----------
    kinds : ndarray of uint8, (C, *space)
        0 for sound pixels, else `DEAD` (1), `HOT` (2) or `SATURATED` (3, in any frame).
    saturation : ndarray of float, (C,)
        Largest value of the detector; infinite if none was seen.
    """

    kinds: NDArray[np.uint8]
    saturation: NDArray[np.float64]

    @property
    def broken(self) -> NDArray[np.bool_]:
        """True for dead and hot pixels, (C, *space)."""
        return np.asarray((self.kinds == DEAD) | (self.kinds == HOT), bool)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """True where no channel is dead or hot, (*space)."""
        return np.asarray(~self.broken.any(0), bool)

    def count(self, kind: int) -> int:
        """Return the number of pixels of a kind, in all channels."""
        return int((self.kinds == kind).sum())

    def __str__(self) -> str:
        names = {DEAD: "dead", HOT: "hot", SATURATED: "saturated"}
        found = [f"{n} {names[kind]}" for kind in names if (n := self.count(kind))]
        return ", ".join(found) + " pixels" if found else "no defects"


def find_defects(frames: NDArray[np.float32]) -> Defects:
    """Find dead, hot and saturated pixels in one frame, or in several of one detector.

    A dead or hot pixel differs from the median of its neighbours by far more than others of that
    brightness do, and from the nearest of its neighbours too. With three frames or more, a pixel that
    keeps one value although its neighbours fluctuate is dead. Pixels at the largest value are saturated if
    many share it.

    Parameters
    ----------
    frames : ndarray of float32, (n, C, *space)
        Frames; NaN where unknown.

    Returns
    -------
    Defects
    """
    channels = frames.shape[1]
    kinds = np.zeros(frames.shape[1:], np.uint8)
    saturation = np.full(channels, np.inf)
    for c in range(channels):
        values = frames[:, c]
        known = np.asarray(np.isfinite(values).all(0), bool)
        if not known.any():
            continue
        top = _saturation_of(values[:, known])
        mean = np.where(known, values, 0).mean(0, dtype=np.float64)
        mean[~known] = np.median(mean[known])
        low, high = _outliers(mean, known, step_of(values[:, known]) / len(values))
        if len(values) >= 3:
            low |= _stuck(values, known, top) & ~high
        full = (values >= top).any(0) & known & ~high
        kinds[c][full], kinds[c][low & ~full], kinds[c][high] = SATURATED, DEAD, HOT
        saturation[c] = top
    return Defects(kinds, saturation)


def _outliers(
    mean: NDArray[np.float64], known: NDArray[np.bool_], step: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return pixels far below and far above all their neighbours in the slice."""
    footprint = np.ones((1,) * (mean.ndim - 2) + (3, 3), bool)
    footprint[..., 1, 1] = False
    level = ndimage.median_filter(mean, footprint=footprint, mode="mirror")
    away = mean - level
    scale = _scale(level, away, known, step)
    above = mean - _second(mean, footprint, largest=True)
    below = _second(mean, footprint, largest=False) - mean
    high = known & (away > _FAR * scale) & (above > _ALONE * scale)
    low = known & (-away > _FAR * scale) & (below > _ALONE * scale)
    return low, high


def _second(mean: NDArray[np.float64], footprint: NDArray[np.bool_], *, largest: bool) -> NDArray[np.float64]:
    """Return the second largest or smallest of the neighbours: one of them may be broken itself."""
    made = ndimage.rank_filter(mean, -2 if largest else 1, footprint=footprint, mode="mirror")
    return np.asarray(made, np.float64)


def _scale(
    level: NDArray[np.float64], away: NDArray[np.float64], known: NDArray[np.bool_], step: float
) -> NDArray[np.float64]:
    """Return the robust standard deviation of pixels of each brightness about their neighbours' median."""
    values, rest = level[known], np.abs(away[known])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    number = np.searchsorted(edges, level, side="right")
    inside = number[known]
    sd = np.empty(len(edges) + 1)
    whole = 1.4826 * float(np.median(rest))
    for b in range(len(sd)):
        here = rest[inside == b]
        # few counts have a median deviation of zero, but not a trimmed one
        trimmed = np.sqrt(np.mean(np.sort(here)[: max(int(0.97 * here.size), 1)] ** 2)) if here.size else 0.0
        sd[b] = max(1.4826 * float(np.median(here)), 1.15 * trimmed) if here.size else whole
        if here.any() and not sd[b]:
            sd[b] = np.median(here[here > 0])
    # brighter pixels hardly have less noise: few pixels of a bin underestimate it
    sd = np.maximum(sd, 0.5 * np.median(sd))
    return np.maximum(sd, max(step, 1e-12))[number]


def _stuck(values: NDArray[np.float32], known: NDArray[np.bool_], top: float) -> NDArray[np.bool_]:
    """Return pixels that keep one value though their neighbours fluctuate."""
    constant = np.asarray(known & (np.ptp(values, axis=0) == 0) & (values[0] < top), bool)
    if not constant.any():
        return constant
    changes = np.where(known, np.diff(np.nan_to_num(values), axis=0) != 0, 0.0).mean(0)
    size = (1,) * (constant.ndim - 2) + (5, 5)
    sound = (known & ~constant).astype(np.float64)
    weight = ndimage.uniform_filter(sound, size, mode="mirror")
    share = ndimage.uniform_filter(changes * sound, size, mode="mirror") / np.maximum(weight, 1e-9)
    # few counts stay zero by chance: neighbours that change seldom prove nothing
    empty = 1 - weight
    chance = np.maximum(1 - share * (1 - empty), 1e-12) ** (len(values) - 1)
    return np.asarray(constant & (chance * constant.size < _CHANCE), bool)


def fill_defects(image: NDArray[np.float32], broken: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return an image with broken pixels replaced by the median of sound neighbours.

    The neighbourhood within a slice grows from 3 x 3 to 9 x 9 pixels where all neighbours are broken.

    Parameters
    ----------
    image : ndarray of float32, (..., *space)
        Any number of leading axes.
    broken : ndarray of bool
        Broadcast against ``image``.

    Returns
    -------
    ndarray of float32
        A copy; pixels without a sound neighbour within 4 px keep their value.
    """
    out = np.array(image, np.float32)
    where = np.broadcast_to(broken, out.shape)
    left = np.argwhere(where)
    for reach in (1, 2, 4):
        if not len(left):
            break
        offsets = [o for o in product(range(-reach, reach + 1), repeat=2) if o != (0, 0)]
        near = np.full((len(offsets), len(left)), np.nan, np.float32)
        for row, (dy, dx) in zip(near, offsets, strict=True):
            y, x = left[:, -2] + dy, left[:, -1] + dx
            ok = (y >= 0) & (x >= 0) & (y < out.shape[-2]) & (x < out.shape[-1])
            index = (*left[ok, :-2].T, y[ok], x[ok])
            row[ok] = np.where(where[index], np.nan, image[index])
        some = np.isfinite(near).any(0)
        out[tuple(left[some].T)] = np.nanmedian(near[:, some], axis=0)
        left = left[~some]
    return out


def corrected(
    frames: ArrayLike, axes: str, *, dark: ArrayLike | None = None, flat: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Return frames with the dark frame subtracted and the flat field divided out.

    The result is ``(frames - dark) * mean(flat - dark) / (flat - dark)``, so that its mean keeps its unit.
    Pixels where the flat field has no light become NaN; mask them with ``valid``.

    Parameters
    ----------
    frames : array_like
        Image in the axes ``axes``.
    axes : str
        One letter per dimension.
    dark, flat : array_like, optional
        Frame without light and frame of even light: of the shape of the image's space axes, or of its
        channel and space axes, in the order of ``axes``.

    Returns
    -------
    ndarray of float32
        The shape of ``frames``.

    Raises
    ------
    ValueError
        If a frame doesn't fit the image, holds NaN, or the flat field is nowhere brighter than the dark frame.
    """
    image = np.asarray(frames, np.float32)
    axes = canonical_axes(axes, image.ndim)
    floor = None if dark is None else _fitted(np.asarray(dark, np.float64), image.shape, axes, "dark")
    out = image if floor is None else image - floor.astype(np.float32)
    if flat is None:
        return out
    light = _fitted(np.asarray(flat, np.float64), image.shape, axes, "flat")
    if floor is not None:
        light = light - floor
    lit = light > 0
    if not lit.any():
        raise ValueError(
            "The flat field is nowhere brighter than the dark frame; check that they are not swapped."
        )
    space = tuple(i for i, a in enumerate(axes) if a in SPACE)
    mean = light.mean(space, keepdims=True, where=lit)
    gain = np.where(lit, mean / np.where(lit, light, 1), np.nan)
    return np.asarray(out * gain, np.float32)


@dataclass(frozen=True, eq=False)
class Repaired:
    """An image without broken pixels, and what they were.

    Attributes
    ----------
    image : ndarray of float32
        The shape of the input; broken pixels hold the median of their neighbours (rounded where values are whole).
    valid : ndarray of bool, (*space)
        False where a pixel is broken in some channel: leave it out of the loss.
    defects : Defects
        What was found or given.
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    defects: Defects


def repair(
    noisy: ArrayLike,
    axes: str = "YX",
    *,
    dark: ArrayLike | None = None,
    flat: ArrayLike | None = None,
    defects: ArrayLike | None = None,
) -> Repaired:
    """Divide dark and flat frames out, then find broken pixels and fill them from their neighbours.

    Give the result to `Denoiser.fit` as ``fit(made.image, clean, valid=made.valid)``.

    Parameters
    ----------
    noisy : array_like
        Image of one detector in the axes ``axes``; frames along S and T share its defects.
    axes : str
        One letter per dimension.
    dark, flat : array_like, optional
        Frame without light and frame of even light; see `corrected`.
    defects : array_like of bool, optional
        True where a pixel is broken, of the shape of the space axes in the order of ``axes``; found by default.

    Raises
    ------
    ValueError
        If a frame or the mask doesn't fit the image.
    """
    image = np.asarray(noisy, np.float32)
    axes = canonical_axes(axes, image.ndim)
    # dark frames hold hot pixels too, so these are found before it is subtracted
    view = View(image, axes, "noisy")
    stack = np.stack([view.read(s) for s in range(view.n_scenes)])
    found = find_defects(stack)
    if defects is not None:
        mask = np.asarray(defects, bool)
        order = [a for a in axes if a in SPACE]
        space = tuple(n for n, a in zip(image.shape, axes, strict=True) if a in SPACE)
        if mask.shape != space:
            raise ValueError(
                f"defects has shape {mask.shape}, the image {space} along {''.join(order)}; they must match."
            )
        given = mask.transpose([order.index(a) for a in view.space_axes])
        kinds = np.where(found.kinds == SATURATED, np.uint8(SATURATED), np.uint8(0))
        found = Defects(np.where(given, np.uint8(HOT), kinds), found.saturation)
    out = corrected(image, axes, dark=dark, flat=flat)
    if out is image:
        out = image.copy()
    target = View(out, axes, "noisy")
    whole = tuple(slice(0, n) for n in view.space)
    broken = found.broken
    for s in range(view.n_scenes):
        values = target.read(s)
        unknown = broken | ~np.isfinite(values)
        filled = fill_defects(values, unknown)
        # the median of an even number of counts may lie between two of them
        counts = np.array([not (c[~u] % 1).any() for c, u in zip(values, unknown, strict=True)])
        counts = counts.reshape(-1, *([1] * view.ndim))
        target.write(s, whole, np.where(unknown & counts, np.rint(filled), filled))
    back = [view.space_axes.index(a) for a in axes if a in SPACE]
    return Repaired(out, found.valid.transpose(back), found)


def _fitted(frame: NDArray[np.float64], shape: Sequence[int], axes: str, name: str) -> NDArray[np.float64]:
    """Return a dark or flat frame with an axis of one for every axis that it lacks."""
    if not np.isfinite(frame).all():
        raise ValueError(f"{name} holds NaN or infinite values; give a complete frame, or fill it first.")
    for letters in (SPACE, "C" + SPACE):
        here = [n if a in letters else 1 for n, a in zip(shape, axes, strict=True)]
        if frame.shape == tuple(n for n, a in zip(shape, axes, strict=True) if a in letters):
            return frame.reshape(here)
    space = tuple(n for n, a in zip(shape, axes, strict=True) if a in SPACE)
    raise ValueError(
        f"{name} has shape {frame.shape}, the image {space} along its space axes; they must match. "
        "Crop one of them, or average the frames of a stack first."
    )


def _saturation_of(values: NDArray[np.floating[Any]]) -> float:
    """Return the largest value if a spike of pixels has it, else infinity."""
    top = float(values.max())
    at = int((values == top).sum())
    # the tail of a histogram falls; a clipped one ends in a spike
    near = (values < top) & (values > top - 0.02 * (top - float(np.median(values))) - 1.5 * step_of(values))
    return (
        top
        if at >= _LEAST_SATURATED and at > 3 * int(near.sum()) and top > float(np.median(values))
        else np.inf
    )


def step_of(values: NDArray[np.floating[Any]]) -> float:
    """Return the step between digitised values, 0 for continuous ones.

    Parameters
    ----------
    values : ndarray of float
        Finite.
    """
    some = values.ravel()[:: max(values.size // 100_000, 1)].astype(np.float64)
    levels = np.unique(some)
    if len(levels) < 2:
        return 0.0
    if (levels == np.round(levels)).all() and np.abs(levels).max() < 2**53:
        return float(np.gcd.reduce((levels - levels[0]).astype(np.int64)))
    if len(levels) > 0.5 * some.size:
        return 0.0
    step = float(np.diff(levels).min())
    multiple = (levels - levels[0]) / step
    return step if np.abs(multiple - np.round(multiple)).max() < 0.01 else 0.0
