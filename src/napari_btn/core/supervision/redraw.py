"""Resampling of the noise of a small image, so that members don't memorise it.

If a training pixel is seen hundreds of times, members memorise its noise. In most patches, the noisy
values of a pixel are then replaced by those of another pixel with a similar clean neighbourhood. This
is a bootstrap of the noise given the signal, which needs no noise model. Since such noise is independent
of position, nearly half of these patches are also turned by any angle and stretched a little, so that
members don't memorise the few objects of a small image either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from napari_btn.core.progress import Progress
from napari_btn.core.supervision.patches import patch_sides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TrainSettings

__all__ = ["NoiseRedraw", "against_overfitting_steps"]

_ALIKE = 24  # similar pixels to draw from
_SHARE = 0.7  # share of patches with new noise; the others keep their noise and its correlation
_CORRELATED = 0.5  # lag-1 correlation of the noise above which it is not drawn pixel by pixel
_WARPED = 0.42  # share of these that is warped; more blurs fine texture, less misses large grains
_LARGER, _SMALLER = (
    0.7,
    math.log(1.22),
)  # natural logs: objects at most twice as large, or at least four fifths
_LONGER = 2  # factor on the passes; beyond it members begin to memorise the signal itself
_ASKED = 10_000  # pixels looked up between two yields: half a second on one busy core
_FEWEST_STEPS = 100  # training steps for an image of any size


@dataclass(frozen=True, eq=False)
class NoiseRedraw:
    """Noisy and clean values of the training pixels, and for each pixel those with similar clean values.

    Parameters
    ----------
    first : tuple of int
        Number of the first pixel of each box.
    boxes : tuple of Box
        The training boxes; their pixels are numbered box by box, in raster order.
    noisy, clean : ndarray of float32, (C, n)
        NaN where a clean value doesn't count.
    alike : ndarray of int32, (n, k)
        Numbers of the similar pixels; only the pixel itself where it doesn't count.
    """

    first: tuple[int, ...]
    boxes: tuple[Box, ...]
    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]
    alike: NDArray[np.int32]

    def patch(
        self,
        box: int,
        crop: Sequence[slice],
        own: tuple[NDArray[np.float32], NDArray[np.float32]],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the patch as it is, or with its noise drawn again.

        Parameters
        ----------
        box : int
            Number of the training box.
        crop : sequence of slice
            Crop of the box, in pixels of the image.
        own : tuple of ndarray of float32, (C, *patch)
            Noisy and clean patch at the crop.
        rng : numpy.random.Generator
            Source of randomness.
        """
        if rng.random() >= _SHARE:
            return own
        whole = self.boxes[box]
        starts = np.array([part.start for part in whole.slices])
        at = np.stack(np.meshgrid(*(np.arange(c.start, c.stop) for c in crop), indexing="ij"), -1) - starts
        if rng.random() < _WARPED:
            at = _warped(at, whole.shape, rng)
        index = np.ravel_multi_index(tuple(np.moveaxis(at, -1, 0)), whole.shape) + self.first[box]
        drawn = self.alike[index, rng.integers(0, self.alike.shape[1], index.shape)]
        return self.noisy[:, drawn], self.clean[:, index]


def _warped(at: NDArray[np.int64], shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Turn and stretch a patch about its middle; return the nearest pixels (*patch, ndim), mirrored at the box."""
    ndim = len(shape)
    angle, stretch = rng.uniform(-np.pi, np.pi), np.exp(rng.uniform(-_LARGER, _SMALLER))
    turn = np.eye(ndim)
    turn[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    middle = at.reshape(-1, ndim).mean(0)
    nearest = np.rint((at - middle) @ (stretch * turn).T + middle).astype(np.int64)
    period = 2 * np.array(shape)
    around: NDArray[np.int64] = nearest % period
    return np.minimum(around, period - 1 - around)


def against_overfitting_steps(
    scenes: Scenes, boxes: Sequence[Box], train: TrainSettings
) -> Step[tuple[TrainSettings, NoiseRedraw | None]]:
    """Return settings and a noise redraw that prevent overfitting of a small image; a step.

    If pixels would be seen more than ``train.passes`` times, their noise is drawn again, patches are turned
    and stretched, and pixels may be seen twice as often. If the noise is correlated between pixels, so that
    a redraw would change it, the number of steps is cut instead. Otherwise nothing changes.

    Parameters
    ----------
    scenes : Scenes
        Noisy and clean images.
    boxes : sequence of Box
        Training part.
    train : TrainSettings
    """
    pixels = sum(box.size for box in boxes)
    count, side = train.patches
    batch = count * math.prod(patch_sides(side, boxes))
    allowed = max(round(train.passes * pixels / batch), _FEWEST_STEPS)
    if train.steps <= allowed:
        return train, None
    redraw, correlation = yield from _alike_steps(scenes, boxes)
    if correlation > _CORRELATED:
        return replace(train, steps=allowed), None
    return replace(train, steps=min(train.steps, _LONGER * allowed)), redraw


def _alike_steps(scenes: Scenes, boxes: Sequence[Box]) -> Step[tuple[NoiseRedraw, float]]:
    """Return the similar pixels, and the largest lag-1 correlation of the noise; a step."""
    noisy = [scenes.read_noisy(b.scene, b.slices) for b in boxes]
    clean = [scenes.read_clean(b.scene, b.slices) for b in boxes]
    scale = np.nanstd(np.concatenate([c.reshape(len(c), -1) for c in clean], 1), axis=1)
    scale = np.where(scale > 0, scale, 1.0)
    looks = []
    for c in clean:
        filled = np.nan_to_num(c) / scale.reshape(-1, *(1,) * (c.ndim - 1))
        around = ndimage.gaussian_filter(filled, (0, *(1.5,) * (c.ndim - 1)))
        looks.append(np.concatenate([filled, 0.5 * around]).reshape(2 * len(c), -1))
    features = np.concatenate(looks, 1).T
    # without a small jitter, equal pixels of a flat background would all find the same few
    features = features + 0.01 * np.random.default_rng(0).standard_normal(features.shape)
    counts = np.concatenate([np.isfinite(c).all(0).ravel() for c in clean])
    known = np.flatnonzero(counts)
    k = min(_ALIKE, len(known))
    alike = np.repeat(np.arange(len(features), dtype=np.int32)[:, None], k, 1)
    tree, nearest = cKDTree(features[known]), list(range(1, k + 1))
    for start in range(0, len(known), _ASKED):
        yield Progress(0, 1, "Looking for similar pixels")
        asked = known[start : start + _ASKED]
        alike[asked] = known[tree.query(features[asked], k=nearest, workers=-1)[1]]
    first = np.cumsum([0] + [b.size for b in boxes[:-1]])
    flat = np.concatenate([x.reshape(len(x), -1) for x in noisy], 1)
    redraw = NoiseRedraw(
        tuple(int(i) for i in first),
        tuple(boxes),
        flat,
        np.concatenate([c.reshape(len(c), -1) for c in clean], 1),
        alike,
    )
    largest = max(range(len(boxes)), key=lambda i: boxes[i].size)
    part = slice(int(first[largest]), int(first[largest]) + boxes[largest].size)
    rest = noisy[largest] - flat[:, alike[part]].mean(2).reshape(noisy[largest].shape)
    return redraw, _lag_one(rest)


def _lag_one(rest: NDArray[np.float32]) -> float:
    """Return the largest correlation of the noise of neighbouring pixels, over channels and axes."""
    values = [0.0]
    for channel in rest:
        variance = float(channel.var())
        for axis in range(channel.ndim):
            pairs = np.take(channel, range(channel.shape[axis] - 1), axis) * np.take(
                channel, range(1, channel.shape[axis]), axis
            )
            if variance > 0 and pairs.size:
                values.append(float(pairs.mean()) / variance)
    return max(values)
