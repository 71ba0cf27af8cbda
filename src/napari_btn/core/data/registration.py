"""Registration of the clean image on the noisy one."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import fft, ndimage, special

from napari_btn.core.data.image import SPACE, canonical_axes, middle_of_space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Scenes

__all__ = ["align", "registration_shift", "shift_of", "travel_of"]

_PARTS = 4
_REACH_PX = 24  # longest shift searched for: images farther apart are not one field
_LEAST_REACH_PX = 8  # smaller parts hold too little structure
_TOLERANCE_PX = 0.5
_FRAMES = 13  # frames of a series that are compared


def registration_shift(noisy: NDArray[np.float32], clean: NDArray[np.float32]) -> tuple[float, ...] | None:
    """Return the shift in pixels, one per space axis, that moves ``clean`` onto ``noisy``.

    The shift is the peak of the cross-correlation of band-passed channels, weighted by their signal
    and summed over four parts of the field. Its standard error is a jackknife over the parts.
    Shifts that do not significantly exceed half a pixel are returned as zeros; None means that noise
    is too strong.

    Parameters
    ----------
    noisy, clean : ndarray of float32, (C, *space)
        Finite everywhere.

    References
    ----------
    Quenouille, Biometrika 43 (1956) 353 (the jackknife).
    """
    longest = int(np.argmax(noisy.shape[1:])) + 1
    edges = [noisy.shape[longest] * i // _PARTS for i in range(_PARTS + 1)]
    seen, template = _weighted(noisy, clean)
    cuts = [(*(slice(None),) * longest, slice(a, b)) for a, b in pairwise(edges)]
    return _shift([(seen[cut], template[cut]) for cut in cuts])


def _shift(parts: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> tuple[float, ...] | None:
    """Return the common shift of parts of one field, or of several fields."""
    reach = min(_REACH_PX, *(min(seen.shape[1:]) // 2 for seen, _ in parts))
    if reach < _LEAST_REACH_PX:
        return None
    correlations = [_correlation(seen, template, reach) for seen, template in parts]
    total, n = np.sum(correlations, axis=0), len(correlations)
    shift = _peak(total, reach)
    error = np.sqrt((n - 1) * np.var([_peak(total - one, reach) for one in correlations], axis=0))
    if np.abs(shift).max() >= reach or error.max() > _TOLERANCE_PX:
        return None
    # Student's quantile, because few parts give an uncertain standard error
    if (np.abs(shift) - special.stdtrit(n - 1, 0.975) * error).max() <= _TOLERANCE_PX:
        return (0.0,) * len(shift)
    return tuple(float(s) for s in shift)


def _weighted(
    noisy: NDArray[np.float32], clean: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return band-passed images; clean channels are weighted by their signal in the noisy ones."""
    seen, template = np.empty(noisy.shape), np.empty(clean.shape)
    for c in range(len(noisy)):
        seen[c], template[c] = _band(noisy[c]), _band(clean[c])
        gain = (seen[c] * template[c]).mean() / max(float(template[c].var()), 1e-30)
        template[c] *= gain / max(float(seen[c].var()), 1e-30)
    return seen, template


def _band(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return details of about 2 to 10 px: finer ones are noise, coarser ones hardly locate a shift."""
    image = image.astype(np.float64)
    return np.asarray(ndimage.gaussian_filter(image, 1.5) - ndimage.gaussian_filter(image, 12.0))


def _correlation(seen: NDArray[np.float64], template: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Return the cross-correlation at shifts of up to ``reach``, summed over channels."""
    # only the template is windowed: windows on both would pull the peak towards zero
    window: NDArray[np.float64] = np.ones(())
    for n in seen.shape[1:]:
        window = np.multiply.outer(window, np.hanning(n + 2)[1:-1])
    axes = tuple(range(1, seen.ndim))
    size = [fft.next_fast_len(n + reach, real=True) for n in seen.shape[1:]]
    product = fft.rfftn(seen, size, axes) * np.conj(fft.rfftn(template * window, size, axes))
    made = fft.irfftn(product.sum(0), size)
    centred = np.roll(made, reach, tuple(range(made.ndim)))
    return np.asarray(centred[tuple(slice(0, 2 * reach + 1) for _ in size)])


def _peak(correlation: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Return the position of the maximum, refined by a parabola along each axis."""
    index = np.array(np.unravel_index(int(np.argmax(correlation)), correlation.shape))
    place = index.astype(float)
    for axis, step in enumerate(np.eye(len(index), dtype=int)):
        if 0 < index[axis] < correlation.shape[axis] - 1:
            before, at, after = (float(correlation[tuple(index + d * step)]) for d in (-1, 0, 1))
            place[axis] += 0.5 * (before - after) / min(before - 2 * at + after, -1e-30)
    return place - reach


def align(clean: NDArray[Any], axes: str, shift: Sequence[float]) -> NDArray[np.float32]:
    """Return ``clean`` moved by ``shift`` pixels along its space axes, float32.

    Interpolation is cubic; edge values are repeated.

    Parameters
    ----------
    clean : ndarray
        Image in the axes ``axes``.
    axes : str
        One letter per dimension.
    shift : sequence of float
        Pixels, one per space axis in the order of ``axes``.
    """
    axes = canonical_axes(axes, clean.ndim, "clean")
    moves = dict(zip((a for a in SPACE if a in axes), shift, strict=True))
    moved = ndimage.shift(
        np.asarray(clean, np.float32), [moves.get(a, 0.0) for a in axes], order=3, mode="nearest"
    )
    return np.asarray(moved, np.float32)


def shift_of(scenes: Scenes) -> tuple[float, ...] | None:
    """Return the shift between noisy and clean in pixels; None if unknown.

    It is measured on the mean of up to 8 repeats, or on up to 8 scenes together, in the middle of
    large images.

    Parameters
    ----------
    scenes : Scenes
    """
    if min(scenes.noisy.space) < 32:
        return None
    box = middle_of_space(scenes.noisy.space)
    shown = range(min(scenes.noisy.n_scenes, 8))
    if scenes.repeats:
        noisy = np.mean([scenes.read_noisy(s, box) for s in shown], axis=0)
        pair = _known(noisy, scenes.read_clean(0, box))
        return None if pair is None else registration_shift(*pair)
    pairs = [_known(scenes.read_noisy(s, box), scenes.read_clean(s, box)) for s in shown]
    found = [p for p in pairs if p is not None]
    if len(found) < _PARTS:
        return registration_shift(*found[0]) if found else None
    return _shift([_weighted(*p) for p in found])


def travel_of(scenes: Scenes) -> tuple[int, ...]:
    """Return how far the content of a time series moves, in whole pixels along each space axis.

    Up to 13 frames of each field are compared, each with the next. Steps that can't be measured count as none.

    Parameters
    ----------
    scenes : Scenes
        Scenes of which frames have targets of their own; zeros for others.
    """
    frames, ndim = scenes.noisy.n_frames, scenes.noisy.ndim
    if scenes.repeats or frames < 2 or min(scenes.noisy.space) < 32:
        return (0,) * ndim
    box = middle_of_space(scenes.noisy.space)
    farthest = np.zeros(ndim)
    for field in range(scenes.n_fields):
        shown = np.unique(np.linspace(0, frames - 1, _FRAMES).round().astype(int)) + field * frames
        steps = []
        for before, after in pairwise(scenes.read_clean(int(s), box) for s in shown):
            pair = _known(before, after)
            steps.append((None if pair is None else registration_shift(*pair)) or (0.0,) * ndim)
        place = np.cumsum([(0.0,) * ndim, *steps], axis=0)
        farthest = np.maximum(farthest, np.ptp(place, axis=0))
    return tuple(int(n) for n in np.ceil(farthest - _TOLERANCE_PX))


def _known(
    noisy: NDArray[np.float32], clean: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Fill unknown clean pixels of both images with channel means, so that masks add no edges."""
    axes = tuple(range(1, clean.ndim))
    known = np.isfinite(clean)
    count = known.sum(axes, keepdims=True)
    if not count.all():
        return None
    means = [np.where(known, image, 0).sum(axes, keepdims=True) / count for image in (noisy, clean)]
    filled = [np.where(known, i, m).astype(np.float32) for i, m in zip((noisy, clean), means, strict=True)]
    return filled[0], filled[1]
