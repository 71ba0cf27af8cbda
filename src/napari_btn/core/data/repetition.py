"""Detection of repeating structure, such as a lattice, from the autocorrelation.

Networks gain from a receptive field that holds several repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_btn.core.data.image import middle_of_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["repetition_of"]

_SHARE = 0.3  # share of the central autocorrelation that a repeat must reach


@dataclass(frozen=True)
class _Repetition:
    """The period of an image and how far it holds.

    Parameters
    ----------
    period_px : int
        Distance of the nearest repeat, in pixels.
    reach_px : int
        Distance of the farthest repeat found, at most half of the image.
    """

    period_px: int
    reach_px: int


def repetition_of(image: NDArray[np.float32]) -> _Repetition | None:
    """Return the period of an image from its autocorrelation; None if it does not repeat.

    The centre of the autocorrelation is left out, because it holds the noise of single pixels.

    Parameters
    ----------
    image : ndarray of float32, (C, *space)
        Values that are not finite are replaced by the mean.
    """
    if min(image.shape[1:]) < 16:
        return None
    profile = _strongest(image)
    centre = profile[0]
    # a repeat is a peak behind a valley; structure without repeats only decays
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
    return _Repetition(peaks[0], peaks[-1])


def _strongest(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the largest autocorrelation over all directions by distance in pixels, mean over channels."""
    part = image[(slice(None), *middle_of_space(image.shape[1:]))].astype(float)
    space, axes = part.shape[1:], tuple(range(part.ndim - 1))
    doubled = [2 * n for n in space]

    def correlated(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the autocorrelation."""
        power = np.abs(np.fft.rfftn(values, doubled, axes)) ** 2
        return np.asarray(np.fft.irfftn(power, doubled, axes))

    overlap = np.maximum(correlated(np.ones(space)), 1)
    total = np.zeros(doubled)
    for channel in part:
        known = np.isfinite(channel)
        filled = np.where(known, channel, channel[known].mean() if known.any() else 0.0)
        # a slow change of brightness would look like a repeat at every distance
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
