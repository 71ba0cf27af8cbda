"""Whether noisy and clean lie on each other, and a clean image moved so that they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from napari_btn.core.pairs import SPACE, Scenes, canonical_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["align", "registration_shift", "shift_of"]


def registration_shift(noisy: NDArray[np.float32], clean: NDArray[np.float32]) -> tuple[float, ...] | None:
    """Shift in pixels, one per space axis, that moves ``clean`` onto ``noisy``; None where it can't be told.

    Both are (C, *space). The images are smoothed, standardised per channel and correlated; the
    two halves of the field must agree within a pixel, or the peak is noise.
    """
    longest = int(np.argmax(noisy.shape[1:])) + 1
    middle = noisy.shape[longest] // 2
    halves = []
    for part in (slice(0, middle), slice(middle, None)):
        index = tuple(part if a == longest else slice(None) for a in range(noisy.ndim))
        halves.append(_shift(noisy[index], clean[index]))
    if max(abs(a - b) for a, b in zip(*halves, strict=True)) > 1.0:
        return None
    return _shift(noisy, clean)


def _shift(noisy: NDArray[np.float32], clean: NDArray[np.float32]) -> tuple[float, ...]:
    def flat(image: NDArray[np.float32]) -> NDArray[np.float64]:
        total = np.zeros(image.shape[1:])
        for channel in image.astype(np.float64):
            smooth = ndimage.gaussian_filter(channel, 1.5) - ndimage.gaussian_filter(channel, 12.0)
            total += smooth / max(smooth.std(), 1e-12)
        window: NDArray[np.float64] = np.ones(())
        for n in map(int, total.shape):
            window = np.multiply.outer(window, np.hanning(n))
        return total * window

    shift, _, _ = phase_cross_correlation(flat(noisy), flat(clean), upsample_factor=10, normalization=None)
    return tuple(float(s) for s in shift)


def align(clean: NDArray[Any], axes: str, shift: Sequence[float]) -> NDArray[np.float32]:
    """``clean`` moved by ``shift`` pixels along its space axes (cubic interpolation, edges repeated)."""
    axes = canonical_axes(axes, clean.ndim, "clean")
    moves = dict(zip((a for a in SPACE if a in axes), shift, strict=True))
    moved = ndimage.shift(
        np.asarray(clean, np.float32), [moves.get(a, 0.0) for a in axes], order=3, mode="nearest"
    )
    return np.asarray(moved, np.float32)


def shift_of(scenes: Scenes) -> tuple[float, ...] | None:
    """Shift between noisy (mean of up to 8 repeats) and clean, from the middle of large images."""
    if min(scenes.noisy.space) < 32:
        return None
    side = 512 if scenes.noisy.ndim == 2 else 96
    box = tuple(
        slice(max(n - side, 0) // 2, max(n - side, 0) // 2 + min(n, side)) for n in scenes.noisy.space
    )
    shown = range(min(scenes.noisy.n_scenes, 8)) if scenes.repeats else range(1)
    noisy = np.mean([scenes.read_noisy(s, box) for s in shown], axis=0)
    return registration_shift(noisy, np.nan_to_num(scenes.read_clean(0, box)))
