"""Does an image repeat itself, as a lattice does? Then networks gain by looking farther."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Repetition", "middle_of_space", "repetition_of"]

_SIDE = {2: 512, 3: 96}  # pixels of the part that is looked at, along each axis
_SHARE = 0.3  # of the autocorrelation next to its centre that a repeat has to reach


@dataclass(frozen=True)
class Repetition:
    """How an image repeats itself.

    Parameters
    ----------
    period_px : int
        Distance of the nearest repeat, in pixels.
    reach_px : int
        Distance up to which repeats are found, at most half of the image.
    """

    period_px: int
    reach_px: int


def middle_of_space(space: Sequence[int]) -> tuple[slice, ...]:
    """Part of an image that is enough to look for repeats in.

    Parameters
    ----------
    space : sequence of int
        Spatial shape, in pixels.
    """
    side = _SIDE[len(space)]
    return tuple(slice(max(n - side, 0) // 2, max(n - side, 0) // 2 + min(n, side)) for n in space)


def repetition_of(image: NDArray[np.float32]) -> Repetition | None:
    """How an image repeats itself, from its autocorrelation; None where it doesn't.

    Noise that is independent from pixel to pixel stands in the very centre of the autocorrelation,
    which is left out.

    Parameters
    ----------
    image : ndarray of float32, (C, *space)
        Values that are not finite are read as the mean.
    """
    if min(image.shape[1:]) < 16:
        return None
    profile = _strongest(image)
    centre = profile[0]
    # a repeat stands out from a valley before it; structure without one only fades
    rising = np.flatnonzero(np.diff(ndimage.gaussian_filter1d(profile, 1.5)) > 0)
    valley = int(rising[0]) if len(rising) else len(profile) - 1
    floor = profile[valley] + _SHARE * (centre - profile[valley])
    peaks = [
        r
        for r in range(valley + 1, len(profile) - 1)
        if profile[r] >= floor and profile[r - 1] <= profile[r] > profile[r + 1]
    ]
    if centre <= 0 or len(peaks) < 2:
        return None
    return Repetition(peaks[0], peaks[-1])


def _strongest(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Largest autocorrelation over all directions, by the distance in pixels; the mean over channels."""
    part = image[(slice(None), *middle_of_space(image.shape[1:]))].astype(float)
    space, axes = part.shape[1:], tuple(range(part.ndim - 1))
    doubled = [2 * n for n in space]

    def correlated(values: NDArray[np.float64]) -> NDArray[np.float64]:
        power = np.abs(np.fft.rfftn(values, doubled, axes)) ** 2
        return np.asarray(np.fft.irfftn(power, doubled, axes))

    overlap = np.maximum(correlated(np.ones(space)), 1)
    total = np.zeros(doubled)
    for channel in part:
        known = np.isfinite(channel)
        filled = np.where(known, channel, channel[known].mean() if known.any() else 0.0)
        # slow changes of brightness are alike everywhere and no repeat
        flat = filled - ndimage.gaussian_filter(filled, min(space) / 6)
        made = correlated(flat) / overlap
        centre = (0,) * made.ndim
        made[centre] = np.mean([made[tuple(int(a == axis) for a in axes)] for axis in axes])
        smooth = ndimage.gaussian_filter(made, 1.0, mode="wrap")
        total += smooth / max(smooth[centre], 1e-30) / len(part)
    lags = [np.minimum(np.arange(n), n - np.arange(n)) ** 2 for n in doubled]
    distance = np.sqrt(sum(np.meshgrid(*lags, indexing="ij"))).round().astype(int)
    reach = min(space) // 2
    largest = np.full(int(distance.max()) + 1, -np.inf)
    np.maximum.at(largest, distance.ravel(), total.ravel())
    return largest[:reach]
