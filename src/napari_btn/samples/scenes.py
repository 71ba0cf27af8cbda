"""Made-up scenes of a corpus: leaves, clouds, spots, threads and lattices."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter
from scipy.special import expit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Rng = np.random.Generator

__all__ = ["draw_scene", "normal"]


def draw_scene(rng: Rng, space: Sequence[int], channels: int) -> Array:
    """Return a made-up scene (C, *space), not negative, with a mean of one in each channel.

    Parameters
    ----------
    rng : numpy.random.Generator
    space : sequence of int
        Pixels along each space axis.
    channels : int
    """
    scene = _layer(rng, space, channels)
    mix = rng.random()
    if mix < 0.2:
        scene = (scene * (0.3 + _layer(rng, space, channels))).astype(np.float32)
    elif mix < 0.35:
        scene = scene + rng.uniform(0.1, 1) * _layer(rng, space, channels)
    elif mix < 0.5:
        here = _field(rng, space, rng.uniform(2.5, 4)) > rng.normal(0, 0.7)
        scene = np.where(here, scene, _layer(rng, space, channels))
    if rng.random() < 0.65:
        # images of a microscope are as smooth as its point spread function
        width = np.exp(rng.uniform(np.log(0.4), np.log(4.0)))
        scene = gaussian_filter(scene, (0, *[width] * len(space)))
    if rng.random() < 0.2:
        scene = scene * np.exp(rng.uniform(0.1, 0.6) * _field(rng, space, 4.0))
    top = np.quantile(scene, 0.999, axis=tuple(range(1, scene.ndim)), keepdims=True)
    scene = (np.clip(scene / np.maximum(top, 1e-6), 0, 1.5) ** (2 ** rng.uniform(-1, 1.2))).astype(np.float32)
    shape = (channels, *(1,) * len(space))
    floor = np.where(rng.random(shape) < 0.5, rng.uniform(0, 0.15, shape), rng.uniform(0, 2, shape))
    return normal((scene / np.maximum(scene.mean(), 1e-6) + floor).astype(np.float32))


def normal(scene: Array) -> Array:
    """Return a scene that is not negative, with a mean of one in each channel.

    Parameters
    ----------
    scene : ndarray of float32, (C, *space)
    """
    axes = tuple(range(1, scene.ndim))
    scene = scene - np.minimum(scene.min(axes, keepdims=True), 0)
    mean = scene.mean(axes, keepdims=True)
    return (np.where(mean > 0, scene, 1) / np.where(mean > 0, mean, 1)).astype(np.float32)


def _layer(rng: Rng, space: Sequence[int], channels: int) -> Array:
    """Return one layer of a scene (C, *space), about 0 to 1."""
    kind = rng.choice(5, p=(0.36, 0.18, 0.26, 0.15, 0.05))
    if kind == 0:
        return _leaves(rng, space, channels)
    fields = [_clouds, _spots, _threads, _lattice][kind - 1]
    shared = fields(rng, space)
    if channels == 1:
        return shared[None]
    own = fields(rng, space)
    other = _field(rng, space, 3.0) > 0
    made = []
    for _ in range(channels):
        # a channel shows what others show, only a part of it, or its opposite
        way = rng.random()
        layer = shared if way < 0.4 else np.where(other, shared, own) if way < 0.8 else 1 - shared
        made.append(rng.uniform(0.2, 1) * layer + rng.uniform(0, 0.2))
    return np.stack(made).astype(np.float32)


def _field(rng: Rng, space: Sequence[int], slope: float) -> Array:
    """Return a random field with a power law for its spectrum, mean 0 and SD 1."""
    white = fft.rfftn(rng.standard_normal(tuple(space), np.float32))
    squares = _squared_frequencies(tuple(space))
    made = fft.irfftn(white * squares ** np.float32(-slope / 4 * len(space) / 2), s=space)
    scaled: Array = ((made - made.mean()) / max(float(made.std()), 1e-9)).astype(np.float32)
    return scaled


@lru_cache(maxsize=8)
def _squared_frequencies(space: tuple[int, ...]) -> Array:
    """Return the squared frequency of each coefficient of `rfftn`, that of the mean replaced."""
    axes = [fft.fftfreq(n) for n in space[:-1]] + [fft.rfftfreq(space[-1])]
    squares = sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij"))
    squares = np.asarray(squares, np.float32)
    squares.flat[0] = squares.flat[1]
    return squares


def _clouds(rng: Rng, space: Sequence[int]) -> Array:
    """Return a random field, as it is, or as bright or sharp as its exponential or threshold makes it."""
    made = _field(rng, space, rng.uniform(1.5, 4.0))
    way = rng.random()
    if way < 0.4:
        made = np.exp(rng.uniform(0.3, 1.5) * made)
    elif way < 0.6:
        made = expit(rng.uniform(2, 20) * (made - rng.normal(0, 1)))
    elif way < 0.75:
        made = np.abs(made)
    return _unit(made)


def _spots(rng: Rng, space: Sequence[int]) -> Array:
    """Return spots of a few sizes and elongations, from points to clouds."""
    made = np.zeros(tuple(space), np.float32)
    for _ in range(rng.integers(1, 4)):
        width = np.exp(rng.uniform(np.log(0.7), np.log(min(9.0, min(space) / 8))))
        share = np.exp(rng.uniform(np.log(0.02), np.log(1.0)))
        number = int(np.clip(share * np.prod(space) / (6 * width) ** len(space), 1, 4000))
        at = tuple(rng.integers(0, n, number) for n in space)
        points = np.zeros(tuple(space), np.float32)
        np.add.at(points, at, rng.uniform(0.2, 1, number).astype(np.float32))
        turn = _rotation(rng, len(space)) * (width * np.exp(rng.uniform(-0.9, 0.7, len(space))))
        axes = [fft.fftfreq(n) for n in space[:-1]] + [fft.rfftfreq(space[-1])]
        waves = np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)
        reach = np.square(waves @ turn.astype(np.float32)).sum(-1)
        blurred = fft.irfftn(fft.rfftn(points) * np.exp(-2 * np.pi**2 * reach), s=space)
        made += (rng.uniform(0.3, 1) * blurred / max(float(blurred.max()), 1e-6)).astype(np.float32)
    return np.maximum(made, 0)


def _threads(rng: Rng, space: Sequence[int]) -> Array:
    """Return threads: walks that keep their direction for a while."""
    number, length = int(rng.integers(3, 40)), int(2 * max(space))
    turns = rng.normal(0, rng.uniform(0.01, 0.15), (number, length, len(space))).cumsum(1)
    heading = rng.normal(0, 1, (number, 1, len(space))) + turns
    heading /= np.linalg.norm(heading, axis=-1, keepdims=True)
    place = rng.uniform(-0.2, 1.2, (number, 1, len(space))) * np.array(space) + 0.7 * heading.cumsum(1)
    bright = np.broadcast_to(rng.uniform(0.2, 1, (number, 1)), place.shape[:2])
    near = np.round(place).astype(int)
    inside = ((near >= 0) & (near < np.array(space))).all(-1)
    made = np.zeros(tuple(space), np.float32)
    np.maximum.at(made, tuple(near[inside].T), bright[inside].astype(np.float32))
    blurred: Array = gaussian_filter(made, np.exp(rng.uniform(np.log(0.5), np.log(3.0))))
    return blurred / max(float(blurred.max()), 1e-6)


def _lattice(rng: Rng, space: Sequence[int]) -> Array:
    """Return one or two grains of a lattice."""
    places = np.stack(np.meshgrid(*map(np.arange, space), indexing="ij"), -1).astype(np.float32)
    grains = []
    for _ in range(2):
        period = np.exp(rng.uniform(np.log(3.5), np.log(24)))
        waves = _rotation(rng, len(space))[: rng.integers(1, len(space) + 1)]
        if len(waves) == 2 and rng.random() < 0.5:
            # hexagonal: a third wave between the two
            waves = np.stack(
                [waves[0], -0.5 * waves[0] + 0.866 * waves[1], -0.5 * waves[0] - 0.866 * waves[1]]
            )
        phase = 2 * np.pi * (places @ (waves.T / period).astype(np.float32) + rng.random(len(waves)))
        grains.append(_unit(np.exp(rng.uniform(0.2, 3) * np.cos(phase).mean(-1))))
    if rng.random() < 0.5:
        return grains[0]
    return np.where(_field(rng, space, 4.0) > 0, *grains).astype(np.float32)


def _leaves(rng: Rng, space: Sequence[int], channels: int) -> Array:
    """Return dead leaves: ellipsoids and boxes that cover each other, of a few phases or of any brightness.

    References
    ----------
    Lee, Mumford & Huang, Int. J. Comput. Vision 41 (2001) 35: why photographs look like it.
    """
    ndim, side = len(space), min(space)
    phases = rng.random((int(rng.integers(2, 7)), channels)) ** 2
    made = np.empty((channels, *space), np.float32)
    made[:] = phases[0].reshape(channels, *(1,) * ndim)
    few = rng.random() < 0.35  # objects on a background
    number = int(rng.integers(5, 60)) if few else int(rng.integers(150, 400))
    most = rng.uniform(0.08, 0.45) * side
    least = rng.uniform(1.5, min(6, most))
    # sizes with a power law, as those of objects in photographs
    radii = 1 / np.sqrt(rng.uniform(1 / most**2, 1 / least**2, number))
    if few or ndim == 3:
        radii = np.exp(rng.uniform(np.log(least), np.log(most), number))
    textured = rng.random() < 0.5
    grain = rng.uniform(0.05, 0.35) * _field(rng, space, rng.uniform(1, 3)) if textured else None
    power = rng.choice([1.2, 2.0, 2.0, 8.0])
    shaded = rng.uniform(0, 0.5)
    for radius in np.sort(radii)[::-1] if rng.random() < 0.5 else radii:
        middle = rng.uniform(0, 1, ndim) * np.array(space)
        box = tuple(slice(max(int(m - 1.5 * radius), 0), int(m + 1.5 * radius) + 2) for m in middle)
        grid = np.ogrid[box]
        away = [(g - m).astype(np.float32) for g, m in zip(grid, middle, strict=True)]
        away = [
            a[tuple(slice(0, max(n - s.start, 0)) if i == j else slice(None) for j in range(ndim))]
            for i, (a, n, s) in enumerate(zip(away, space, box, strict=True))
        ]
        turn = _rotation(rng, ndim) / (radius * rng.uniform(0.45, 1, (ndim, 1)))
        along = [sum(t * a for t, a in zip(row, away, strict=True)) for row in turn.astype(np.float32)]
        inside = sum(np.abs(a) ** power for a in along) < 1
        colour = phases[rng.integers(len(phases))] if rng.random() < 0.7 else rng.random(channels)
        shade = 1 + shaded * rng.uniform(-1, 1) * along[0]
        if grain is not None:
            shade = shade + grain[box]
        for c in range(channels):
            made[c][box][inside] = (np.float32(colour[c]) * shade)[inside]
    return np.maximum(made, 0)


def _rotation(rng: Rng, ndim: int) -> NDArray[np.float64]:
    """Return a random rotation."""
    made, upper = np.linalg.qr(rng.normal(size=(ndim, ndim)))
    turned: NDArray[np.float64] = made * np.sign(np.diag(upper))
    return turned


def _unit(values: Any) -> Array:
    """Return values moved and scaled to 0 to 1."""
    low, high = float(values.min()), float(values.max())
    made: Array = ((values - low) / max(high - low, 1e-9)).astype(np.float32)
    return made
