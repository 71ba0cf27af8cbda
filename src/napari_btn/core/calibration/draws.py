"""Whole plausible images: draws with calibrated values in each pixel, correlated like held-out errors.

A per-pixel interval does not say what an area or a number of grains may be, because the errors of neighbours
go together. In draws they do, too: a Gaussian copula joins the calibrated distributions of all pixels. Errors of
whole grains reach beyond it. Long because what joins pixels is estimated and drawn in one place.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from dataclasses import field as member
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import fft
from scipy.special import ndtr

from napari_btn.core.calibration.marginals import Marginal, ScoredTargets
from napari_btn.core.data.image import Box, View
from napari_btn.core.data.white_noise import white_noise
from napari_btn.core.progress import Progress
from napari_btn.core.settings import is_whole, need

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step

__all__ = [
    "Field",
    "Sampler",
    "draws_steps",
    "field_steps",
    "need_draws",
    "parts_of",
    "sampler_steps",
    "tiles_of",
]

# Beyond these lags errors count as independent, in pixels.
_REACH = {2: 48, 3: 14}
# Side of the parts of the held-out field that lags are counted in, and of the tiles of a draw.
_PART = {2: 512, 3: 96}
_TILE = {2: 384, 3: 64}
_SHAPE_PIXELS = 4000  # held-out pixels that the shape of the distributions is taken from
_PAIRS = 3000  # pairs of pixels at which a lag counts as much as the mean over lags of its length
_FARTHEST = 6.0  # most that a value in a fused window is off, in normal scores
_ENERGY = 1e-3  # share of a kernel's energy that is cut off with its rim


@dataclass(frozen=True, eq=False)
class Field:
    """A stationary Gaussian field of one value per channel, with the correlation of held-out errors.

    Parameters
    ----------
    kernel : ndarray of float32, shape (C, C, *side)
        Moving average that turns white noise into the field: ``field[i] = sum of kernel[i, j] * noise[j]``;
        odd sides, unit variance.
    """

    kernel: NDArray[np.float32]

    @property
    def halo(self) -> tuple[int, ...]:
        """Half-width of the kernel along each axis, in pixels."""
        return tuple(n // 2 for n in self.kernel.shape[2:])

    @property
    def ndim(self) -> int:
        """Number of space axes."""
        return self.kernel.ndim - 2

    def correlation(self) -> NDArray[np.float64]:
        """Return the correlation of the field by lag, (C, C, *lags), with lag zero in the middle."""
        axes = tuple(range(2, self.kernel.ndim))
        shape = [2 * n - 1 for n in self.kernel.shape[2:]]
        spectrum = fft.rfftn(self.kernel.astype(np.float64), shape, axes=axes)
        joined = np.einsum("ik...,jk...->ij...", spectrum, spectrum.conj())
        return np.asarray(fft.fftshift(fft.irfftn(joined, shape, axes=axes), axes=axes))

    @classmethod
    def of(cls, covariance: NDArray[np.float64]) -> Self:
        """Return the field of a covariance by lag, (C, C, *lags) with odd sides and lag zero in the middle.

        The nearest covariance that a field can have is taken: negative parts of the spectrum are cut off.
        """
        axes = tuple(range(2, covariance.ndim))
        shape = [2 * n for n in covariance.shape[2:]]
        centred = np.pad(covariance, [(0, 0), (0, 0), *((0, n) for n in covariance.shape[2:])])
        centred = np.roll(centred, [-(n // 2) for n in covariance.shape[2:]], axis=axes)
        spectrum = np.moveaxis(fft.rfftn(centred, axes=axes), (0, 1), (-2, -1))
        spectrum = (spectrum + np.conj(np.swapaxes(spectrum, -1, -2))) / 2
        values, vectors = np.linalg.eigh(spectrum)
        # the symmetric root: its kernel lies around lag zero
        root = np.einsum(
            "...ik,...k,...jk->...ij", vectors, np.sqrt(np.clip(values, 0, None)), vectors.conj()
        )
        kernel = fft.irfftn(np.moveaxis(root, (-2, -1), (0, 1)), shape, axes=axes)
        kernel = _cropped(fft.fftshift(kernel, axes=axes))
        size = np.sqrt(np.square(kernel).sum(axis=(1, *axes), keepdims=True))
        return cls(np.asarray(kernel / np.maximum(size, 1e-30), np.float32))


def field_steps(held_out: HeldOut, marginals: Sequence[Marginal]) -> Step[Field]:
    """Estimate how errors go together over space and channels, from held-out pixels; a step.

    The correlation at a lag is the mean product of two errors over the mean product of their calibrated standard
    deviations, so that draws have the errors' variogram.

    Parameters
    ----------
    held_out : HeldOut
        With positions.
    marginals : sequence of Marginal
        Of each channel.

    Raises
    ------
    ValueError
        If the held-out pixels have no positions.

    References
    ----------
    Schefzik, Thorarinsdottir and Gneiting, Statistical Science 28 (2013) 616, on copulas that join calibrated
    distributions.
    """
    if held_out.position is None:
        raise ValueError(
            "The held-out pixels of this bundle have no positions, which whole plausible images need. Calibrate on "
            "images again: calibrate(noisy, clean)."
        )
    moments = [m.moments(held_out.quantiles[:, c]) for c, m in enumerate(marginals)]
    error = np.stack([t - mean for t, (mean, _) in zip(held_out.target, moments, strict=True)])
    size = np.stack([sd for _, sd in moments])
    n, ndim = len(error), held_out.position.shape[1] - 1
    low, high = held_out.position[:, 1:].min(0), held_out.position[:, 1:].max(0) + 1
    reach = [max(min(_REACH[ndim], int(extent) // 2), 1) for extent in high - low]
    product, expected = np.zeros((2, n, n, *(2 * r + 1 for r in reach)))
    pairs = np.zeros(product.shape[2:])
    parts = list(parts_of(held_out.position, _PART[ndim]))
    for done, rows in enumerate(parts):
        yield Progress(done, len(parts), "Drawing: how errors go together")
        place = held_out.position[rows, 1:]
        pairs += _products(np.ones((1, rows.size), np.float32), place, reach)[0, 0]
        product += _products(error[:, rows], place, reach)
        expected += _products(size[:, rows], place, reach)
    some = np.unique(np.linspace(0, error.shape[1] - 1, _SHAPE_PIXELS).astype(int))
    shapes = [m.shape(held_out.quantiles[:, c, some]) for c, m in enumerate(marginals)]
    return Field.of(_normal(_ratio(product, expected, pairs), shapes) * _taper(reach))


@dataclass(frozen=True, eq=False)
class Sampler:
    """Draws of a prediction, box by box: the pixels of a draw don't depend on the boxes.

    Parameters
    ----------
    prediction : Prediction
        With quantiles and their recalibration.
    targets : tuple of ScoredTargets
        Held-out targets of each channel. Each draw calibrates on a sample of the held-out blocks, drawn with
        replacement, so that draws differ by what few blocks leave open.
    field : Field
        Correlation of the errors.
    seed : int
        Seed of all draws.
    windows : tuple of tuple of ScoredTargets
        Targets of each channel after a measurement such as that of each fused window.
    """

    prediction: Prediction
    targets: tuple[ScoredTargets, ...]
    field: Field
    seed: int = 0
    windows: tuple[tuple[ScoredTargets, ...], ...] = ()
    # of the latest draw: its tiles follow each other
    _made: dict[int, dict[int, tuple[Marginal, ...]]] = member(default_factory=dict, repr=False)

    def box(self, number: int, box: Box, channel: int | None = None) -> NDArray[np.float32]:
        """Return a box of one draw, (C, *space), in the units of the maps; NaN where the maps are.

        Parameters
        ----------
        number : int
            Number of the draw, from 0.
        box : Box
            Scene, and part of its space axes.
        channel : int, optional
            The channel that is wanted; all of them by default.
        """
        wanted = slice(None) if channel is None else slice(channel, channel + 1)
        prediction = self.prediction
        planes = [
            View(prediction.quantiles, prediction.axes, first=(i,)) for i in range(len(prediction.levels))
        ]
        q = np.stack([plane.read(box.scene, box.slices)[wanted] for plane in planes])
        chance = ndtr(self.gaussian(number, box, channel))
        made = _values(self.marginals(number)[wanted], q, chance)
        if self.windows:
            window = self._window.read(box.scene, box.slices)[wanted]
            for k in np.unique(window[window > 0]):
                again = _values(self.marginals(number, int(k))[wanted], q, chance)
                made = np.where(window == k, again, made)
        calibration = prediction.calibration
        if calibration is not None and calibration.minimum is not None:
            np.maximum(made, np.float32(calibration.minimum), out=made)
        return made

    @cached_property
    def _window(self) -> View:
        """Number of the fused window that each pixel was measured in, from 1; 0 outside."""
        median = self.prediction.median
        number = np.zeros(median.shape, np.float32)
        for k, one in enumerate(self.prediction.fused, 1):
            at = tuple(one.place.values())
            number[at] = np.where(one.known, k, number[at])
        return View(number, self.prediction.axes)

    def marginals(self, number: int, window: int = 0) -> tuple[Marginal, ...]:
        """Return the calibrated distributions of one draw, of each channel; in a fused window, from 1, its own."""
        if number not in self._made:
            self._made.clear()
            self._made[number] = {}
        made = self._made[number]
        if window not in made:
            weight, targets = self.weight(number), self.windows[window - 1] if window else self.targets
            found = tuple(target.calibrated(weight) for target in targets)
            # widths after a measurement are very different, so a score of a narrow one says nothing of a wide one
            near = tuple(replace(m, scores=np.clip(m.scores, -_FARTHEST, _FARTHEST)) for m in found)
            made[window] = near if window else found
        return made[window]

    def weight(self, number: int) -> NDArray[np.int64]:
        """Return how often each held-out block counts in one draw, (n_blocks,)."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(number,)))
        blocks = self.targets[0].n_blocks
        return np.bincount(rng.integers(0, blocks, blocks), minlength=blocks)

    def gaussian(self, number: int, box: Box, channel: int | None = None) -> NDArray[np.float32]:
        """Return a box of the field of one draw, (C, *space), normal with unit variance; as in `box`."""
        halo, kernel = self.field.halo, self.field.kernel
        rows = kernel if channel is None else kernel[channel : channel + 1]
        wide = [slice(s.start - h, s.stop + h) for s, h in zip(box.slices, halo, strict=True)]
        # a draw of any box takes the noise of its place, whatever the tiles
        noise = white_noise(self.seed, (number, box.scene), len(kernel), wide)
        shape = [fft.next_fast_len(n, real=True) for n in noise.shape[1:]]
        axes = tuple(range(1, noise.ndim))
        waves = fft.rfftn(noise, shape, axes=axes)
        out = np.empty((len(rows), *box.shape), np.float32)
        inside = tuple(slice(2 * h, 2 * h + n) for h, n in zip(halo, box.shape, strict=True))
        for i, row in enumerate(rows):
            mixed = (fft.rfftn(row, shape, axes=axes) * waves).sum(0)
            out[i] = fft.irfftn(mixed, shape)[inside]
        return out


def draws_steps(prediction: Prediction, n: int, *, seed: int = 0, out: Any = None) -> Step[Any]:
    """Draw whole plausible images, tile by tile; a step.

    Parameters
    ----------
    prediction : Prediction
        With quantiles and held-out scores.
    n : int
        Number of draws, at least 1.
    seed : int
        The same seed gives the same draws; more draws keep the earlier ones.
    out : array of float32, (n, *axes), optional
        Where to write them tile by tile, such as a memory map or a zarr array; a new array by default.

    Returns
    -------
    array of float32, (n, *axes)
        `out`, if it was given.

    Raises
    ------
    ValueError
        If `n` is under 1, `out` has another shape, or quantiles, held-out scores or their positions are missing.
    """
    sizes = tuple(int(length) for length in prediction.median.shape)
    need_draws(n, seed, out, sizes)
    sampler = yield from sampler_steps(prediction, seed=seed)
    out = np.empty((n, *sizes), np.float32) if out is None else out
    scenes = range(View(prediction.median, prediction.axes).n_scenes)
    tiles = [tile for scene in scenes for tile in tiles_of(prediction, scene)]
    for k in range(n):
        view = View(out, prediction.axes, first=(k,))
        for done, box in enumerate(tiles):
            yield Progress(k * len(tiles) + done, n * len(tiles), f"Drawing image {k + 1} of {n}")
            view.write(box.scene, box.slices, sampler.box(k, box))
    return out


def need_draws(n: int, seed: int, out: Any, sizes: Sequence[int]) -> None:
    """Raise ``ValueError`` unless draws can be made of this number and seed, into an array of them.

    Parameters
    ----------
    n : int
    seed : int
    out : array, or None
    sizes : sequence of int
        Of one draw, in pixels.
    """
    need(is_whole(n) and n >= 1, "n", n, "at least one draw")
    need(is_whole(seed) and seed >= 0, "seed", seed, "a whole number of at least 0")
    if out is not None:
        came = tuple(getattr(out, "shape", ())), str(getattr(out, "dtype", type(out).__name__))
        shape = (n, *sizes)
        need(
            came[0] == shape and "float" in came[1], "out", came, f"an array of shape {shape} and of float32"
        )


def sampler_steps(prediction: Prediction, *, seed: int = 0) -> Step[Sampler]:
    """Return the sampler of a prediction: its distributions, and how errors go together; a step.

    Parameters
    ----------
    prediction : Prediction
        With quantiles and held-out scores.
    seed : int
        Seed of all draws.

    Raises
    ------
    ValueError
        If quantiles, held-out scores or their positions are missing.
    """
    scores = prediction.scores_for("a draw")
    targets = tuple(ScoredTargets.of(scores, c) for c in range(len(scores.target)))
    field = yield from field_steps(scores, [target.calibrated() for target in targets])
    kinds = {id(one.again): one.again for one in prediction.fused}
    scored = {k: tuple(ScoredTargets.of(one, c) for c in range(len(targets))) for k, one in kinds.items()}
    return Sampler(prediction, targets, field, seed, tuple(scored[id(one.again)] for one in prediction.fused))


def tiles_of(prediction: Prediction, scene: int = 0, part: Sequence[slice] | None = None) -> Iterator[Box]:
    """Yield the tiles that one scene, or a part of it, is drawn in.

    Parameters
    ----------
    prediction : Prediction
    scene : int
    part : sequence of slice, optional
        One per space axis; all of the scene by default.
    """
    space = View(prediction.median, prediction.axes).space
    side = _TILE[len(space)]
    ends = [(0, n) for n in space] if part is None else [(s.start, s.stop) for s in part]
    for at in itertools.product(*(range(first, stop, side) for first, stop in ends)):
        yield Box(scene, tuple(slice(a, min(a + side, stop)) for a, (_, stop) in zip(at, ends, strict=True)))


def _values(
    marginals: Sequence[Marginal], quantiles: NDArray[np.float32], chance: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """Return the value of each pixel (C, *space) at a chance, from quantiles (L, C, *space)."""
    return np.stack([m.values(quantiles[:, c], chance[c]) for c, m in enumerate(marginals)])


def parts_of(position: NDArray[np.int64], side: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of the pixels of each scene and part of the field, from the lowest pixel on.

    Parameters
    ----------
    position : ndarray of int64, shape (n, 1 + ndim)
        Scene and spatial index of each pixel.
    side : int
        Of the parts, in pixels.
    """
    cell = np.column_stack([position[:, 0], (position[:, 1:] - position[:, 1:].min(0)) // side])
    _, number = np.unique(cell, axis=0, return_inverse=True)
    order = np.argsort(number.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(number.ravel()))
    yield from np.split(order, ends[:-1])


def _products(
    values: NDArray[np.float32], position: NDArray[np.int64], reach: Sequence[int]
) -> NDArray[np.float64]:
    """Return the sum of products over pairs of pixels of a part, by channels and lag, (C, C, *lags)."""
    low = position.min(0)
    size = position.max(0) + 1 - low
    shape = [fft.next_fast_len(int(n) + r, real=True) for n, r in zip(size, reach, strict=True)]
    index = tuple((position - low).T)
    grid = np.zeros(shape)
    waves = []
    for row in values:
        grid[index] = row
        waves.append(fft.rfftn(grid))
    at = np.ix_(*(np.arange(-r, r + 1) for r in reach))
    return np.stack([[fft.irfftn(a * b.conj(), shape)[at] for b in waves] for a in waves])


def _ratio(
    product: NDArray[np.float64], expected: NDArray[np.float64], pairs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the correlation by lag; lags of few pairs move towards the mean over lags of their length."""
    lags = np.meshgrid(*(np.arange(n) - n // 2 for n in pairs.shape), indexing="ij")
    length = np.rint(np.sqrt(np.sum(np.square(lags), 0))).astype(int).ravel()
    out = np.empty_like(product)
    for i, j in itertools.product(range(len(product)), repeat=2):
        rings = [np.bincount(length, sums[i, j].ravel()) for sums in (product, expected)]
        smooth = (rings[0] / np.maximum(rings[1], 1e-300))[length].reshape(pairs.shape)
        own = product[i, j] / np.maximum(expected[i, j], 1e-300)
        out[i, j] = (pairs * own + _PAIRS * smooth) / (pairs + _PAIRS)
    return out


def _normal(correlation: NDArray[np.float64], shapes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the correlation of normal scores that gives values this correlation.

    References
    ----------
    Cario and Nelson, "Modeling and generating random vectors with arbitrary marginal distributions" (1997).
    """
    out = np.empty_like(correlation)
    normal = np.linspace(-1, 1, 401)
    for i, j in itertools.product(range(len(out)), repeat=2):
        made = sum(
            a * b * normal ** (k + 1) for k, (a, b) in enumerate(zip(shapes[i], shapes[j], strict=True))
        )
        out[i, j] = np.interp(correlation[i, j], np.maximum.accumulate(made), normal)
    return out


def _taper(reach: Sequence[int]) -> NDArray[np.float64]:
    """Return weights of the lags: one to half of the reach, then falling to zero."""
    far = [np.abs(np.arange(-r, r + 1)) / (r + 1) for r in reach]
    distance = np.sqrt(np.sum(np.square(np.meshgrid(*far, indexing="ij")), 0))
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(2 * distance - 1, 0, 1)))


def _cropped(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the middle of a kernel that holds nearly all of its energy, with odd sides."""
    middle = [n // 2 for n in kernel.shape[2:]]
    energy = np.square(kernel).sum((0, 1))
    most = energy.sum()
    for half in range(max(middle)):
        halves = [min(half, m - 1) for m in middle]
        inside = tuple(slice(m - h, m + h + 1) for m, h in zip(middle, halves, strict=True))
        if energy[inside].sum() >= (1 - _ENERGY) * most:
            break
    return kernel[(slice(None), slice(None), *inside)]
