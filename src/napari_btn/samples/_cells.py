"""Samples without a clean image: cells with nuclei and thin filaments, as detectors show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter, shift
from scipy.special import expit

from napari_btn.core.data import noise
from napari_btn.core.data.pairs import Pair
from napari_btn.samples._soil import field, need_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["counts", "defects", "movie", "repeats"]

_PIXEL_UM = 0.2
_GAIN, _OFFSET, _READ = 2.2, 100.0, 3.0
_FULL = 4095.0  # largest value of a camera of 12 bits


def counts(seed: int = 0, size: tuple[int, int] = (192, 256)) -> Pair:
    """Make one image of counts, about 2 a pixel, and the rates behind them.

    Parameters
    ----------
    seed : int
        Seed.
    size : tuple of int
        Height and width, in pixels, each at least 32.

    Returns
    -------
    Pair
        ``noisy`` (counts) and ``clean`` (rates in the same unit) float32 of shape ``size``, axes ``"YX"``.

    Raises
    ------
    ValueError
        If ``size`` is too small.
    """
    rng = _source(seed)
    clean = 0.5 + 8 * cells(rng, size)
    return _pair(noise.poisson(clean, rng=rng), clean, "YX", "counts")


def repeats(seed: int = 0, n: int = 8, size: tuple[int, int] = (160, 224)) -> Pair:
    """Make repeats of one field as a camera shows them, and the signal behind them.

    The camera has a gain of 2.2, an offset of 100 and a read-out noise of 3; the signal includes the offset.

    Parameters
    ----------
    seed : int
        Seed; more repeats never change the earlier ones.
    n : int
        Number of repeats.
    size : tuple of int
        Height and width, in pixels, each at least 32.

    Returns
    -------
    Pair
        ``noisy`` float32 of shape (n, height, width), axes ``"SYX"``, and ``clean`` of shape ``size``.

    Raises
    ------
    ValueError
        If ``n`` or ``size`` is too small.
    """
    need_size((n,), 1, "n")
    rng = _source(seed)
    clean = _OFFSET + _GAIN * (2 + 60 * cells(rng, size))
    frames = [_camera(clean, np.random.default_rng(child)) for child in rng.bit_generator.seed_seq.spawn(n)]  # type: ignore[attr-defined]
    return _pair(np.stack(frames), clean, "SYX", "repeats")


def movie(seed: int = 0, n: int = 24, size: tuple[int, int] = (128, 160)) -> Pair:
    """Make a series of frames that move by 0 to 3 px each, in which single cells drift and blink.

    Counts are about 2 a pixel, at the gain and the read-out noise of `repeats`.

    Parameters
    ----------
    seed : int
        Seed.
    n : int
        Number of frames.
    size : tuple of int
        Height and width, in pixels, each at least 32.

    Returns
    -------
    Pair
        ``noisy`` and ``clean`` float32 of shape (n, height, width), axes ``"TYX"``.

    Raises
    ------
    ValueError
        If ``n`` or ``size`` is too small.
    """
    need_size((n,), 1, "n")
    need_size(size, 32, "size")
    rng = _source(seed)
    # the way of the stage stays within the margin
    steps = rng.uniform(0, 3, n)[:, None] * _directions(rng, n)
    steps[0] = 0
    way = np.cumsum(steps, axis=0)
    way -= way.mean(0)
    margin = int(np.ceil(np.abs(way).max())) + 2
    wide = (size[0] + 2 * margin, size[1] + 2 * margin)
    still, moving = cells(rng, wide), cells(rng, wide)
    glow = 0.6 + 0.4 * np.sin(np.linspace(0, 6, n) + rng.uniform(0, 6))
    own = np.cumsum(rng.normal(0, 0.4, (n, 2)), axis=0)
    inner = (slice(margin, margin + size[0]), slice(margin, margin + size[1]))
    clean = np.empty((n, *size), np.float32)
    for k in range(n):
        both = shift(still, way[k], order=3, mode="nearest")
        both += 0.5 * glow[k] * shift(moving, way[k] + own[k], order=3, mode="nearest")
        clean[k] = _OFFSET + _GAIN * (0.5 + 4 * np.maximum(both, 0)[inner])
    return _pair(_camera(clean, rng), clean, "TYX", "movie")


def defects(seed: int = 0, size: tuple[int, int] = (192, 256)) -> Pair:
    """Make one frame of a camera with 1 % of hot and 0.3 % of dead pixels, and 2 % saturated.

    Parameters
    ----------
    seed : int
        Seed.
    size : tuple of int
        Height and width, in pixels, each at least 32.

    Returns
    -------
    Pair
        ``noisy`` and ``clean`` (the signal, offset included, beyond saturation too) float32 of shape ``size``,
        axes ``"YX"``.

    Raises
    ------
    ValueError
        If ``size`` is too small.
    """
    rng = _source(seed)
    shape = cells(rng, size)
    # the brightest 2 % exceed the range
    clean = _OFFSET + (_FULL - _OFFSET) * (0.01 + 0.99 * shape / np.quantile(shape, 0.98))
    counted = noise.poisson((clean - _OFFSET) / 20, rng=rng)
    seen = noise.readout(20 * counted, rng=rng, sd=10, offset=_OFFSET)
    broken = noise.defect_map(size, rng=rng, dead=0.003, hot=0.01)
    shown = noise.defects(noise.digitise(seen), broken=broken, saturation=_FULL)
    return _pair(shown, clean, "YX", "defects")


def cells(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return cells with nuclei and filaments, 0 to about 1.5."""
    need_size(size, 32, "size")
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    out = 0.05 + 0.05 * np.maximum(field(rng, size, 30), 0)
    for _ in range(max(round(np.prod(size) / 2500), 3)):
        centre, radius = rng.uniform(0, size), rng.uniform(9, 22)
        stretch, turn = rng.uniform(0.6, 1), rng.uniform(0, np.pi)
        dy, dx = y - centre[0], x - centre[1]
        u, v = dx * np.cos(turn) + dy * np.sin(turn), (dy * np.cos(turn) - dx * np.sin(turn)) / stretch
        far = np.hypot(u, v) / radius
        brightness = rng.uniform(0.15, 0.5)
        out += brightness * expit((1 - far) * 12)
        out += rng.uniform(0.3, 0.8) * expit((0.4 - np.hypot(u + 2, v) / radius) * 18)
    ridge = field(rng, size, 9)
    filaments = np.exp(-((ridge / 0.12) ** 2)) * (field(rng, size, 35) > 0)
    return np.asarray(gaussian_filter(out + 0.35 * filaments, 0.8), np.float64)


def _source(seed: int) -> np.random.Generator:
    """Return the source of randomness of a seed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))


def _directions(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Return random directions, (n, 2)."""
    turn = rng.uniform(0, 2 * np.pi, n)
    return np.stack([np.sin(turn), np.cos(turn)], 1)


def _camera(clean: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return frames of a camera whose mean is ``clean``."""
    counted = noise.poisson((clean - _OFFSET) / _GAIN, rng=rng)
    return noise.digitise(noise.readout(_GAIN * counted, rng=rng, sd=_READ, offset=_OFFSET))


def _pair(noisy: NDArray[np.floating], clean: NDArray[np.floating], axes: str, name: str) -> Pair:
    """Return a pair with the pixel size of the samples."""
    size = (_PIXEL_UM, _PIXEL_UM)
    return Pair(
        noisy.astype(np.float32), clean.astype(np.float32), axes, pixel_size=size, unit="um", name=name
    )
