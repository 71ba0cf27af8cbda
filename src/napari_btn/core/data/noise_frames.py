"""Frames that noise is measured on: read, aligned, and sorted into repeats, series and single images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_btn.core.data.defects import Defects, find_defects
from napari_btn.core.data.image import View, middle_of_space
from napari_btn.core.data.registration import registration_shift
from napari_btn.core.progress import Progress, Step, counted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["LEAST_PIXELS", "NoiseFrames", "read_noise_frames_steps"]

LEAST_PIXELS = 256
"""Pixels that a measurement of noise needs."""

_FRAMES = 128  # frames that are read at most
_PIXELS = 2**25  # pixels that are read at most
_SIDE = 1024  # pixels along Y and X that are read at most
_LEAST_SIDE = 16
_AGREE = 0.5  # correlation of coarse images above which frames show one field


@dataclass(frozen=True, eq=False)
class NoiseFrames:
    """Frames that noise is measured on.

    Attributes
    ----------
    stack : ndarray of float32, (n, C, *space)
        Frames of the middle of the field, aligned by whole pixels; zero where unknown.
    inside : ndarray of bool, (*space)
        True where all aligned frames are known.
    source : str
        "frames" of a series, "repeats" of one field, or "image": each of its own.
    drift : tuple of int
        Longest way from the first frame along each space axis, in pixels.
    defects : Defects
        Broken and saturated pixels of the detector, in the part that was read.
    space_axes : str
        Letters of the space axes.
    part : tuple of slice
        Part of the field that was read.
    """

    stack: NDArray[np.float32]
    inside: NDArray[np.bool_]
    source: str
    drift: tuple[int, ...]
    defects: Defects
    space_axes: str
    part: tuple[slice, ...]


def read_noise_frames_steps(
    frames: ArrayLike, axes: str, *, valid: NDArray[np.bool_] | None = None
) -> Step[NoiseFrames]:
    """Read the frames of an image that noise is measured on; a step.

    Parameters
    ----------
    frames : array_like
        Image in the axes ``axes``; numpy, dask or zarr.
    axes : str
        One letter per dimension, of S, T, C, Z, Y, X.
    valid : ndarray of bool, optional
        True where a pixel counts; the shape of the space axes in the order Z, Y, X.

    Raises
    ------
    ValueError
        If the image is smaller than 16 px along Y or X, constant, or without known pixels.
    """
    if not hasattr(frames, "shape"):
        frames = np.asarray(frames)
    view = View(frames, axes, "frames")
    if min(view.space[-2:]) < _LEAST_SIDE:
        raise ValueError(
            f"The image has {view.space[-1]} x {view.space[-2]} px; noise is measured on at least "
            f"{_LEAST_SIDE} x {_LEAST_SIDE}. Give a larger image."
        )
    part = _part(view)
    pixels = view.n_channels * int(np.prod([s.stop - s.start for s in part]))
    count = int(np.clip(_PIXELS // pixels, min(view.n_scenes, 2), min(view.n_scenes, _FRAMES)))
    read = []
    for s in range(count):
        yield Progress(s, 2 * count, "Reading frames")
        read.append(view.read(s, part))
    stack = np.stack(read)
    mask = _mask(stack, view, part, valid)
    filled = np.where(mask, stack, 0).astype(np.float32)
    found = find_defects(np.where(mask, stack, np.nan))
    source = _source(view, filled)
    inside, drift = mask, (0,) * view.ndim
    if source != "image" and min(filled.shape[2:]) >= 32:
        filled, inside, drift = yield from _aligned_steps(filled, mask, found.broken)
    return NoiseFrames(filled, inside, source, drift, found, view.space_axes, part)


def _part(view: View) -> tuple[slice, ...]:
    """Return the middle part of the field."""
    if view.ndim == 3:
        return middle_of_space(view.space)
    start = [max(n - _SIDE, 0) // 2 for n in view.space]
    return tuple(slice(a, a + min(n, _SIDE)) for a, n in zip(start, view.space, strict=True))


def _mask(
    stack: NDArray[np.float32], view: View, part: tuple[slice, ...], valid: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Return where pixels are known in all frames; raise ``ValueError`` if there are too few."""
    mask = np.asarray(np.isfinite(stack).all((0, 1)), bool)
    if valid is not None:
        if np.shape(valid) != view.space:
            raise ValueError(
                f"valid has shape {np.shape(valid)}, the image {view.space} along {view.space_axes}; "
                "they must match. Crop one of them."
            )
        mask &= np.asarray(valid, bool)[part]
    if mask.sum() < LEAST_PIXELS:
        raise ValueError(
            f"{counted(int(mask.sum()), 'pixel')} known; noise is measured on at least {LEAST_PIXELS}. "
            "Mask fewer, or give more."
        )
    if (np.ptp(stack[:, :, mask], axis=2) == 0).all(0).any():
        raise ValueError("A channel is constant, so it has no noise to measure; choose another image.")
    return mask


def _source(view: View, stack: NDArray[np.float32]) -> str:
    """Return the kind of the frames: "frames" of a series, "repeats" of one field, or an "image" each."""
    if len(stack) < 2:
        return "image"
    if "T" in view.axes and view.n_frames > 1:
        return "frames"
    # repeats of one field agree on a coarse scale, where noise is weak
    before, after = (_coarse(stack[i].mean(0)).ravel() for i in (0, 1))
    if before.std() == 0 or after.std() == 0:
        return "image"
    return "repeats" if np.corrcoef(before, after)[0, 1] > _AGREE else "image"


def _coarse(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the means of blocks of 8 x 8 px."""
    h, w = (n // 8 * 8 for n in image.shape[-2:])
    cut = image[..., :h, :w].reshape(*image.shape[:-2], h // 8, 8, w // 8, 8)
    return np.asarray(cut.mean((-3, -1), dtype=np.float64))


def _aligned_steps(
    stack: NDArray[np.float32], mask: NDArray[np.bool_], broken: NDArray[np.bool_]
) -> Step[tuple[NDArray[np.float32], NDArray[np.bool_], tuple[int, ...]]]:
    """Return frames moved by whole pixels, so that noise stays independent, where they overlap, and the drift."""
    sound = mask & ~broken
    level = stack.mean((0, *range(2, stack.ndim)), where=sound[None]).reshape(-1, *(1,) * mask.ndim)
    filled = np.where(sound, stack, level)
    low = filled.min((0, *range(2, stack.ndim)), keepdims=True)
    # the square root keeps a few bright pixels from deciding
    filled = np.sqrt(filled - low).astype(np.float32)
    axes = tuple(range(mask.ndim))
    moved, inside, moves = [stack[0]], mask.copy(), [(0,) * mask.ndim]
    for i in range(1, len(stack)):
        yield Progress(len(stack) + i, 2 * len(stack), "Aligning frames")
        found = registration_shift(filled[0], filled[i])
        shift = moves[-1] if found is None else tuple(round(s) for s in found)
        moves.append(shift)
        moved.append(np.roll(stack[i], shift, tuple(a + 1 for a in axes)))
        here = np.roll(mask, shift, axes)
        for axis, s in enumerate(shift):
            edge = [slice(None)] * mask.ndim
            edge[axis] = slice(0, s) if s > 0 else slice(mask.shape[axis] + s, None)
            here[tuple(edge)] = False
        inside &= here
    if inside.sum() < LEAST_PIXELS:
        return stack, mask, (0,) * mask.ndim
    return np.stack(moved), inside, tuple(int(n) for n in np.ptp(moves, axis=0))
