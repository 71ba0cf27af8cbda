"""Hashes of patches of an image, by which crops, flips and quarter turns of it are recognised.

A patch is anchored at its content: the windows with the smallest hashes are remembered, so that a copy, which
has the same windows, is asked for the same ones. A quick hash of concentric squares, computed around each
pixel, finds these anchors; a hash of the whole window in all of its orientations is then compared. Only
windows that come once in the training part and can't be compressed are remembered, because empty or regular
places are alike in images that are no copies.

References
----------
Broder, "On the resemblance and containment of documents", Compression and Complexity of Sequences (1997) 21.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.bits import mixed
from napari_btn.core.data.image import Box
from napari_btn.core.data.splits import TRAIN
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import View
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.progress import Step

    Hashes = NDArray[np.uint64]

__all__ = ["copied_steps", "patches_steps", "remembered_steps"]

_KEPT = 256  # patches of an image; a crop of a fiftieth of it holds about five
_CANDIDATES = 64 * _KEPT
_RADIUS = {2: 8, 3: 3}  # half-width of a window, unless an image is small
_LEAST_BYTES = 24  # by which a compressed window must be longer than an empty one
_FEWEST, _SHARE = 2, 0.05  # least number of patches, and share of those of a whole copy, that make a copy
_READ = 4_000_000  # values read at a time


def patches_steps(
    image: View, boxes: Sequence[Box], within: NDArray[np.bool_] | None = None
) -> Step[dict[str, Any]]:
    """Return a record of the patches of an image, JSON-ready, of some kilobytes; a step.

    Parameters
    ----------
    image : View
        Noisy or clean image.
    boxes : sequence of Box
        Part that members are trained on.
    within : ndarray of bool, (*space), optional
        Pixels of the boxes that patches may hold; all by default.
    """
    boxes = _boxes_in(image, boxes)
    pixels = sum(box.size for box in boxes)
    radius = min(max((min(min(box.shape) for box in boxes) - 1) // 4, 1), _RADIUS[image.ndim])
    limit = min(int(2**64 * _CANDIDATES / pixels), 2**64 - 1)
    anchors, windows = [], []
    for box in boxes:
        for anchor, window, place in _anchored(image, box, radius, limit):
            yield Progress(box.scene, image.n_scenes, "Remembering patches of the images")
            inside = np.ones(len(place), bool) if within is None else _all_within(within, place, radius)
            anchors.append(anchor[inside])
            windows.append(window[inside])
    if not anchors:
        # one or two rows or slices hold no window
        return {"radius_px": radius, "pixels": pixels, "limit": 0, "hashes": ""}
    anchor, window = np.concatenate(anchors), np.concatenate(windows)
    _, first, counts = np.unique(anchor, return_index=True, return_counts=True)
    informative = (i for i in first[counts == 1] if _information(window[i]) >= _LEAST_BYTES)
    kept = list(itertools.islice(informative, _KEPT))
    return {
        "radius_px": radius,
        "pixels": pixels,
        "limit": int(anchor[kept].max()) if kept else 0,
        "hashes": base64.b64encode(_whole_hashes(window[kept]).astype("<u8").tobytes()).decode(),
    }


def remembered_steps(scenes: Scenes, split: Split) -> Step[dict[str, Any]]:
    """Return records of the patches of the training part, noisy and clean, JSON-ready; a step.

    Parameters
    ----------
    scenes : Scenes
    split : Split
        Split of the scenes.
    """
    within = None if split.regions is None else np.asarray(split.regions == TRAIN)
    noisy = yield from patches_steps(scenes.noisy, split.train, within)
    clean = yield from patches_steps(scenes.clean, split.train, within)
    return {"noisy": noisy, "clean": clean}


def copied_steps(
    image: View, record: Mapping[str, Any], boxes: Sequence[Box] | None = None
) -> Step[tuple[int, int]]:
    """Return how many remembered patches an image holds, 0 if too few for a copy, and of how many; a step.

    Parameters
    ----------
    image : View
        Another image of the same channels.
    record : mapping
        Result of `patches_steps`.
    boxes : sequence of Box, optional
        Part of the image that is looked through; all of it by default.
    """
    known = np.frombuffer(base64.b64decode(record["hashes"]), "<u8")
    whole = [Box(s, tuple(slice(0, n) for n in image.space)) for s in range(image.n_scenes)]
    total = 0
    for box in _boxes_in(image, whole if boxes is None else boxes) if known.size else ():
        found: set[int] = set()
        for _, window, _ in _anchored(image, box, record["radius_px"], record["limit"]):
            yield Progress(box.scene, image.n_scenes, "Looking for pixels that were trained on")
            found |= set(np.intersect1d(_whole_hashes(window), known).tolist())
        # a scale bar or a few dead pixels are alike in many images, and make no copy
        whole_copy = known.size * min(box.size / record["pixels"], 1)
        if len(found) >= max(_FEWEST, _SHARE * whole_copy):
            total += len(found)
    return min(total, known.size), known.size


def _boxes_in(image: View, boxes: Sequence[Box]) -> list[Box]:
    """Return the boxes, each once; those of repeats in the one scene of their target."""
    return list({repr(b): b for b in (Box(b.scene % image.n_scenes, b.slices) for b in boxes)}.values())


def _anchored(
    image: View, box: Box, radius: int, limit: int
) -> Iterator[tuple[Hashes, Hashes, NDArray[np.intp]]]:
    """Yield the anchors of each slab of a box: quick hash, pixel hashes of the window, first pixel."""
    side = 2 * radius + 1
    if min(box.shape) < side:
        return
    for first, *rest in box.slabs(_READ // image.n_channels):
        slab = (slice(first.start, min(first.stop + side - 1, box.slices[0].stop)), *rest)
        if slab[0].stop - slab[0].start < side:
            continue
        pixels = _pixel_hashes(image.read_finite(box.scene, slab))
        quick = _quick_hashes(pixels, radius)
        place = np.argwhere(quick <= np.uint64(limit))
        # a regular image has many windows alike: one of them is enough
        anchor, index, counts = np.unique(quick[tuple(place.T)], return_index=True, return_counts=True)
        place = place[np.repeat(index, np.minimum(counts, 2))]
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (side,) * pixels.ndim)[tuple(place.T)]
        yield np.repeat(anchor, np.minimum(counts, 2)), windows, place + [s.start for s in slab]


def _pixel_hashes(values: NDArray[np.float32]) -> Hashes:
    """Return one hash of all channels of each pixel, from values (C, *space)."""
    made = np.zeros(values.shape[1:], np.uint64)
    for plane in values:
        # adding zero makes -0 a 0
        made = mixed(made ^ np.ascontiguousarray(plane + np.float32(0)).view(np.uint32))
    return made


def _quick_hashes(pixels: Hashes, radius: int) -> Hashes:
    """Return the hash of concentric squares around each inner pixel; turns and flips don't change it."""
    made = np.zeros([n - 2 * radius for n in pixels.shape], np.uint64)
    for reach in sorted({0, radius // 8, radius // 4, radius // 2, radius}):
        total = pixels
        for axis in range(pixels.ndim):
            summed = np.cumsum(np.moveaxis(total, axis, 0), axis=0, dtype=np.uint64)
            width = 2 * reach + 1
            box = summed[width - 1 :].copy()
            box[1:] -= summed[:-width]
            total = np.moveaxis(box, 0, axis)
        inner = tuple(slice(radius - reach, n - (radius - reach)) for n in total.shape)
        made = mixed(made + total[inner])
    return made


def _whole_hashes(windows: Hashes) -> Hashes:
    """Return the smallest hash of each window, (n, *side), over its flips and quarter turns."""
    shape = windows.shape[1:]
    weights = mixed(np.arange(np.prod(shape, dtype=int), dtype=np.uint64)).reshape(shape) | np.uint64(1)
    flat, made = windows.reshape(len(windows), weights.size), []
    for turned in (weights, weights.swapaxes(-1, -2)):
        for flipped in itertools.product((1, -1), repeat=len(shape)):
            one = np.ascontiguousarray(turned[tuple(slice(None, None, step) for step in flipped)])
            made.append(mixed((flat * one.ravel()).sum(axis=1, dtype=np.uint64)))
    return np.asarray(np.min(made, axis=0), np.uint64)


def _information(window: Hashes) -> int:
    """Return the bytes by which a compressed window is longer than an empty one."""
    ranks = np.unique(window, return_inverse=True)[1].reshape(-1)
    small = ranks.astype(np.uint8 if ranks.max() < 256 else np.uint16)
    return len(zlib.compress(small.tobytes(), 9)) - len(zlib.compress(bytes(small.nbytes), 9))


def _all_within(mask: NDArray[np.bool_], place: NDArray[np.intp], radius: int) -> NDArray[np.bool_]:
    """Return True for windows, given by their first pixel, that lie in a mask."""
    side = (2 * radius + 1,) * mask.ndim
    inside = np.lib.stride_tricks.sliding_window_view(mask, side)[tuple(place.T)]
    return np.asarray(inside.reshape(len(place), -1).all(axis=1))
