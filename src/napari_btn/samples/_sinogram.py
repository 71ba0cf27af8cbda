"""A sinogram whose detector columns have errors of gain that wander from angle to angle: stripes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import lfilter

from napari_btn.core.data import noise
from napari_btn.core.data.pairs import Pair
from napari_btn.samples._soil import need_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["stripes"]

_DOSE = 300.0  # counts a pixel beside the object
_GAIN_SD, _KEPT = 0.08, 0.8  # relative error of gain; share of it that the next angle keeps
_GRAINS = 14


def stripes(seed: int = 0, size: tuple[int, int] = (192, 256)) -> Pair:
    """Make a sinogram with stripes: counts behind a turning object, seen by columns of uneven gain.

    Rows are angles, columns are those of the detector. Beside the object there are 300 counts a pixel. The gain
    of each column errs by 8 % (standard deviation); four fifths of the error stay from one angle to the
    next, so the noise is correlated along ``Y`` and independent along ``X``.

    Parameters
    ----------
    seed : int
        Seed.
    size : tuple of int
        Number of angles and of detector columns, each at least 32.

    Returns
    -------
    Pair
        ``noisy`` and ``clean`` (expected counts at even gain) float32 of shape ``size``, axes ``"YX"``.

    Raises
    ------
    ValueError
        If ``size`` is too small.
    """
    need_size(size, 32, "size")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    clean = _DOSE * np.exp(-_thickness(rng, size))
    counted = noise.poisson(clean, rng=rng)
    # a start long before the first angle, so that all angles have the same spread
    fresh = rng.standard_normal((size[0] + 40, size[1])) * np.sqrt(1 - _KEPT**2)
    wander = lfilter([1.0], [1.0, -_KEPT], fresh, axis=0)[40:]
    seen = (1 + _GAIN_SD * wander) * counted
    return Pair(seen.astype(np.float32), clean.astype(np.float32), "YX", name="stripes")


def _thickness(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the absorption along each ray through a body with grains and pores, by angle and column."""
    angle = np.linspace(0, np.pi, size[0], endpoint=False)[:, None]
    place = np.linspace(-1, 1, size[1])[None]

    def ellipse(
        centre: tuple[float, float], axes: tuple[float, float], turn: float, density: float
    ) -> NDArray[np.float64]:
        """Return the absorption of an ellipse (Kak & Slaney 1988, eq. 3.6)."""
        a, b = axes
        half = (a * np.cos(angle - turn)) ** 2 + (b * np.sin(angle - turn)) ** 2
        far = place - centre[0] * np.cos(angle) - centre[1] * np.sin(angle)
        chord: NDArray[np.float64] = 2 * density * a * b * np.sqrt(np.maximum(half - far**2, 0)) / half
        return chord

    total = ellipse((0.0, 0.0), (0.85, 0.75), rng.uniform(0, np.pi), 0.5)
    for _ in range(_GRAINS):
        away, way = 0.55 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        a = rng.uniform(0.04, 0.16)
        shape = (a, a * rng.uniform(0.4, 1))
        centre = (away * np.cos(way), away * np.sin(way))
        # pores take away no more than the body has
        total += ellipse(centre, shape, rng.uniform(0, np.pi), float(rng.choice([-0.45, 1.0, 2.0])))
    return np.maximum(total, 0)
