"""Classical filters of values in units of their noise, and the parameters to try."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


__all__ = ["FILTERS", "Array", "Filter", "wiener_kernel"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Filter:
    """A filter of values in units of their noise, its grid of parameters by dimensions, and its halo."""

    function: Callable[..., Array]
    grid: Mapping[str, Sequence[float]]
    halo: int
    ndims: tuple[int, ...] = (2, 3)
    module: str = ""

    def settings(self) -> Iterator[dict[str, float]]:
        """Yield every combination of the parameters."""
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


def wiener_kernel(values: Sequence[Array], targets: Sequence[Array] | None, ndim: int) -> Array:
    """Return the kernel of the best linear filter that is the same everywhere.

    Its transfer function is the spectrum shared by noisy and clean over that of noisy; without clean data, what
    the noisy spectrum has above white noise of variance one.

    Parameters
    ----------
    values : sequence of ndarray of float32, (*space)
        Noisy parts of the image, in units of the noise.
    targets : sequence of ndarray of float32, (*space), optional
        Their clean parts.
    ndim : int
        Number of space axes.

    References
    ----------
    Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series (1949); spectra by Welch's method.
    """
    side = min(32 if ndim == 2 else 16, *(n for z in values for n in z.shape))
    window = np.ones(1)
    for axis in range(ndim):
        shape = [1] * ndim
        shape[axis] = side
        window = window * np.hanning(side + 2)[1:-1].reshape(shape)
    own, shared = np.zeros((side,) * ndim), np.zeros((side,) * ndim)
    mean = float(np.mean([z.mean() for z in values]))
    centre = 0.0 if targets is None else float(np.mean([y.mean() for y in targets]))
    count = 0
    for k, z in enumerate(values):
        starts = [range(0, n - side + 1, max(side // 2, 1)) for n in z.shape]
        for first in np.array(np.meshgrid(*starts)).reshape(ndim, -1).T:
            at = tuple(slice(f, f + side) for f in first)
            x = np.fft.fftn((z[at] - mean) * window)
            own += np.abs(x) ** 2
            if targets is not None:
                shared += (np.conj(x) * np.fft.fftn((targets[k][at] - centre) * window)).real
            count += 1
    if targets is None:
        shared = own - count * float(np.sum(window**2))
    transfer = np.maximum(shared / np.maximum(own, 1e-12), 0)
    # the mean was taken off; it passes as the longest waves do, and all else in proportion
    transfer[(0,) * ndim] = max(transfer[tuple(np.eye(ndim, dtype=int)[a])] for a in range(ndim))
    transfer /= max(float(transfer[(0,) * ndim]), 1e-12)
    transfer = np.minimum(transfer, 1)
    kernel = np.fft.fftshift(np.fft.ifftn(transfer).real)
    # an even side has no middle pixel
    kernel = kernel[(slice(1 if side % 2 == 0 else 0, None),) * ndim]
    return np.asarray(kernel, np.float32)


def _wiener(z: Array, kernel: Array) -> Array:
    """Convolve with a kernel, the image mirrored beyond its border."""
    from scipy.signal import fftconvolve

    margin = [(k // 2, k // 2) for k in kernel.shape]
    return np.asarray(fftconvolve(np.pad(z, margin, mode="symmetric"), kernel, mode="valid"))


def _adaptive(z: Array, size: float) -> Array:
    """Shrink each pixel towards the mean of its neighbourhood, most where only noise varies (Lee filter)."""
    from scipy.ndimage import uniform_filter

    # scipy.signal.wiener takes zeros beyond the border
    mean = uniform_filter(z, int(size))
    variance = np.maximum(uniform_filter(np.square(z), int(size)) - mean**2, 0)
    return np.asarray(mean + np.maximum(variance - 1, 0) / np.maximum(variance, 1e-6) * (z - mean))


def _gaussian(z: Array, sigma: float) -> Array:
    """Filter by a Gaussian."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(z, sigma))


def _median(z: Array, size: float) -> Array:
    """Take the median of a square or cube."""
    from scipy.ndimage import median_filter

    return np.asarray(median_filter(z, int(size)))


def _bilateral(z: Array, sigma: float, height: float) -> Array:
    """Average near pixels of like values; a volume plane by plane."""
    from skimage.restoration import denoise_bilateral

    low = float(z.min())
    planes = (z - low)[None] if z.ndim == 2 else z - low
    made = np.stack(
        [denoise_bilateral(p, sigma_color=height, sigma_spatial=sigma, mode="symmetric") for p in planes]
    )
    return np.asarray((made[0] if z.ndim == 2 else made) + low)


def _wavelet(z: Array, height: float) -> Array:
    """Shrink Haar coefficients of every shift softly, each band by its own threshold.

    References
    ----------
    Chang, Yu & Vetterli, IEEE Trans. Image Process. 9 (2000) 1532 (BayesShrink); Coifman & Donoho (1995), on shifts.
    """
    # scikit-image's function needs PyWavelets, which is no dependency
    levels = max(min(int(np.log2(min(z.shape))) - 1, 4), 1)
    margin = 2**levels
    coarse, details = np.pad(z, margin, mode="symmetric"), []
    for level in range(levels):
        bands = [coarse]
        for axis in range(z.ndim):
            shifted = [np.roll(b, -(2**level), axis) for b in bands]
            both = list(zip(bands, shifted, strict=True))
            bands = [np.asarray((b + sign * s) / 2, np.float32) for sign in (1, -1) for b, s in both]
        coarse = bands[0]
        # halves of sums and differences of independent values
        noise = height * 2.0 ** (-z.ndim * (level + 1) / 2)
        kept = []
        for band in bands[1:]:
            signal = np.sqrt(max(float(np.mean(band**2)) - noise**2, 1e-12))
            threshold = noise**2 / signal
            kept.append(np.sign(band) * np.maximum(np.abs(band) - threshold, 0))
        details.append(kept)
    for level in reversed(range(levels)):
        bands = [coarse, *details[level]]
        for axis in reversed(range(z.ndim)):
            half = len(bands) // 2
            pairs = zip(bands[:half], bands[half:], strict=True)
            made = [((a + d) + np.roll(a - d, 2**level, axis)) / 2 for a, d in pairs]
            bands = [np.asarray(band, np.float32) for band in made]
        coarse = bands[0]
    return np.asarray(coarse[(slice(margin, -margin),) * z.ndim])


def _total_variation(z: Array, weight: float) -> Array:
    """Minimise the total variation (Chambolle)."""
    from skimage.restoration import denoise_tv_chambolle

    return np.asarray(denoise_tv_chambolle(z, weight=weight, max_num_iter=100))


def _nonlocal(z: Array, height: float) -> Array:
    """Average pixels whose surroundings look alike."""
    from skimage.restoration import denoise_nl_means

    return np.asarray(
        denoise_nl_means(
            z, patch_size=5, patch_distance=7 if z.ndim == 2 else 3, h=height, sigma=1.0, preserve_range=True
        )
    )


def _bm3d(z: Array, height: float) -> Array:
    """Filter groups of blocks that look alike together (BM3D)."""
    import bm3d

    profile = bm3d.BM3DProfile()
    # threads of its own would be missing from the CPU-seconds, and make results vary
    profile.num_threads = 1
    return np.asarray(bm3d.bm3d(z, sigma_psd=height, profile=profile))


FILTERS: dict[str, Filter] = {
    "gaussian": Filter(_gaussian, {"sigma": (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6)}, 24),
    "median": Filter(_median, {"size": (3, 5, 7, 9)}, 4),
    "wiener": Filter(_wiener, {}, 16),
    "adaptive wiener": Filter(_adaptive, {"size": (3, 5, 7, 9, 11)}, 6),
    "bilateral": Filter(_bilateral, {"sigma": (1.0, 2.0, 4.0), "height": (1.0, 2.0, 4.0)}, 12),
    "wavelet": Filter(_wavelet, {"height": (0.5, 0.7, 1.0, 1.4, 2.0)}, 32),
    "total variation": Filter(_total_variation, {"weight": (0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)}, 16),
    "non-local means": Filter(_nonlocal, {"height": (0.4, 0.6, 0.8, 1.0, 1.4)}, 12),
    "bm3d": Filter(_bm3d, {"height": (0.7, 1.0, 1.4)}, 32, (2,), "bm3d"),
}
