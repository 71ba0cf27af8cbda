"""Random bits of each pixel that do not depend on the part of the image that is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["mixed", "pixel_bits", "pixel_uniform"]


def mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return well-mixed bits (the finaliser of splitmix64).

    Parameters
    ----------
    value : ndarray of uint64
        Any shape.
    """
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value


def pixel_bits(box: Sequence[slice], *key: int) -> NDArray[np.uint64]:
    """Return 64 random bits for each pixel of a box, the same for a pixel in any box.

    Parameters
    ----------
    box : sequence of slice
        Start and stop along each axis, in pixels of the image.
    *key : int
        Seed, scene, channel and the like; another key gives independent bits.
    """
    start = np.zeros(1, np.uint64)
    for number in key:
        start = mixed(start ^ np.uint64(number))
    made: NDArray[np.uint64] = np.asarray(start[0])
    for part in box:
        made = mixed(made[..., None] ^ np.arange(part.start, part.stop, dtype=np.uint64))
    return made


def pixel_uniform(box: Sequence[slice], *key: int) -> NDArray[np.float64]:
    """Return a uniform random number of (0, 1) for each pixel of a box; arguments as in `pixel_bits`.

    Parameters
    ----------
    box : sequence of slice
        Start and stop along each axis, in pixels of the image.
    *key : int
        Seed, scene, channel and the like.
    """
    return np.asarray(((pixel_bits(box, *key) >> np.uint64(11)) + 0.5) * 2.0**-53)
