"""What the members never saw: predicted, gathered by block, and told what it can say.

The unit of calibration is the block or the scene; here pixels are given to theirs.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.blocks import Blocks, error_length
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.calibration.drift import Profile, check_drift, profile
from napari_btn.core.data.image import Box, View
from napari_btn.core.progress import Note, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.networks.family import Blueprint, Member
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings, TileSettings

__all__ = [
    "block_numbers",
    "covers",
    "drift_notes",
    "fingerprint_steps",
    "held_out_steps",
    "profile_of",
]

_PROFILE_PIXELS = 1_000_000  # enough to know the noise of eight bins of brightness to a per cent
_PROFILE_FEWEST = 64
_NOISE_FEWEST = 64  # neighbourhoods of four known pixels; of fewer, nothing is said of the target's noise
_STORED_VALUES = 3_000_000  # quantiles and targets kept in the bundle for another level


def held_out_steps(
    scenes: Scenes,
    boxes: Sequence[Box],
    members: Sequence[Member],
    blueprint: Blueprint,
    *,
    by_scene: bool,
    alpha: float,
    settings: CalibrationSettings,
    tiles: TileSettings,
    executor: Executor | None,
    device: str,
) -> Step[tuple[HeldOut, int]]:
    """Predict the held-out boxes and gather their pixels by block; a step."""
    from napari_btn.core.inference.run import tile_quantiles

    yield Progress(0, 1, "Calibrating: the held-out part")
    n = scenes.noisy.n_channels
    quantiles = [np.empty((len(blueprint.levels), n, *b.shape), np.float32) for b in boxes]
    for progress, result in tile_quantiles(
        scenes.noisy, boxes, members, blueprint, tiles=tiles, executor=executor, device=device
    ):
        if result is not None:
            for box, array in zip(boxes, quantiles, strict=True):
                if box.scene == result.scene and _inside(result.write, box.slices):
                    where = tuple(
                        slice(w.start - s.start, w.stop - s.start)
                        for w, s in zip(result.write, box.slices, strict=True)
                    )
                    array[(slice(None), slice(None), *where)] = result.quantiles
        yield replace(progress, note="Calibrating: " + progress.note.lower())
    target = [scenes.read_clean(b.scene, b.slices) for b in boxes]
    observed = [scenes.read_noisy(b.scene, b.slices) for b in boxes]
    known = [np.asarray(np.isfinite(t).all(0)) for t in target]
    flat = HeldOut(
        _joined(quantiles, known),
        _joined(target, known),
        np.zeros(sum(int(k.sum()) for k in known), np.int64),
        blueprint.levels,
    )
    # on a large image each of these takes a while, and a stop comes between two of them
    yield Progress(1, 3, "Calibrating: how far misses reach")
    side = settings.block_px or 0
    if not by_scene and not side:
        pooled = calibrate(flat, alpha=alpha, settings=replace(settings, unit="pixel"))
        side = _block_side(
            [
                (pooled.interval(q)[0], t, pooled.interval(q)[2])
                for q, t in zip(quantiles, target, strict=True)
            ]
        )
    yield Progress(2, 3, "Calibrating: dividing into blocks")
    block = _number_blocks(scenes, boxes, known, side, by_scene)
    yield Progress(3, 3, "Calibrating: gathering pixels")
    position = [np.argwhere(k) + [s.start for s in b.slices] for k, b in zip(known, boxes, strict=True)]
    places = [np.column_stack([np.full(len(p), b.scene), p]) for p, b in zip(position, boxes, strict=True)]
    held_out = replace(
        flat,
        block=_joined(block, known),
        observed=_joined(observed, known),
        position=np.concatenate(places).astype(np.int64),
    )
    stored = _STORED_VALUES // (n * (len(blueprint.levels) + 2))
    if held_out.block.size > stored:
        rng = np.random.default_rng(np.random.SeedSequence(blueprint.seed, spawn_key=(2**31, 3)))
        held_out = held_out.take(np.sort(rng.choice(held_out.block.size, stored, replace=False)))
    return held_out, side if not by_scene else 0


def _joined(maps: Sequence[NDArray[Any]], known: Sequence[NDArray[np.bool_]]) -> NDArray[Any]:
    """Known pixels of the maps (..., *space) of all boxes, (..., n)."""
    # to pick pixels by a mask takes many times as long as to take them all
    rows = [
        m.reshape(*m.shape[: m.ndim - k.ndim], -1) if k.all() else m[..., k]
        for m, k in zip(maps, known, strict=True)
    ]
    return np.concatenate(rows, -1)


def _inside(part: Sequence[slice], whole: Sequence[slice]) -> bool:
    return all(w.start <= p.start and p.stop <= w.stop for p, w in zip(part, whole, strict=True))


def _block_side(intervals: Sequence[tuple[Any, Any, Any]]) -> int:
    """Side of a block: four lengths over which misses are alike, at least 16 px."""
    lengths = [1]
    for lower, target, upper in intervals:
        valid = np.isfinite(target)
        miss = valid & ((target < lower) | (target > upper))
        lengths += [error_length(m, valid=v) for m, v in zip(miss, valid, strict=True)]
    return max(4 * int(np.max(lengths)), 16)


def _number_blocks(
    scenes: Scenes, boxes: Sequence[Box], known: Sequence[NDArray[np.bool_]], side: int, by_scene: bool
) -> list[NDArray[np.int64]]:
    """Block number of every pixel of every box; blocks are made of the known pixels alone."""
    if by_scene:
        order = {scene: i for i, scene in enumerate(sorted({b.scene for b in boxes}))}
        return [np.full(b.shape, order[b.scene], np.int64) for b in boxes]
    field = np.zeros(scenes.noisy.space, bool)
    for box, counted in zip(boxes, known, strict=True):
        field[box.slices] |= counted
    if not field.any():
        return [np.zeros(b.shape, np.int64) for b in boxes]
    blocks = Blocks.of(field, side)
    return [blocks.at(box.slices) for box in boxes]


def block_numbers(
    truth: list[NDArray[np.float32]],
    lower: list[NDArray[np.float32]],
    upper: list[NDArray[np.float32]],
    scenes: Scenes,
    side: int | None,
) -> tuple[int, NDArray[np.int64]]:
    """Block side and number of every pixel (S, *space); -1 where the truth is unknown."""
    by_scene = not scenes.repeats
    if side is None:
        side = 0 if by_scene else _block_side(list(zip(lower, truth, upper, strict=True)))
    known = [np.asarray(np.isfinite(t).all(0)) for t in truth]
    numbers = np.stack(_number_blocks(scenes, scenes.whole(), known, side, by_scene))
    numbers[~np.stack(known)] = -1
    return side, numbers


def covers(scenes: Scenes, boxes: Sequence[Box], held_out: HeldOut) -> tuple[str, tuple[Note, ...]]:
    """What the interval covers: "clean", or "long exposure" where the target has noise of its own."""
    middle = held_out.levels.index(0.5)
    residual = np.var(held_out.target - held_out.quantiles[middle], axis=1)
    largest = max(boxes, key=lambda b: b.size)
    target = scenes.read_clean(largest.scene, largest.slices)
    # of a volume the plane of which most is known
    counted = np.isfinite(target).all(0).reshape(target.shape[1] if target.ndim == 4 else 1, -1).sum(1)
    plane = target if target.ndim == 3 else target[:, int(np.argmax(counted))]
    # the diagonal detail of a Haar wavelet holds noise and hardly any signal (Donoho & Johnstone 1994)
    detail = (plane[:, 1:, 1:] - plane[:, 1:, :-1] - plane[:, :-1, 1:] + plane[:, :-1, :-1]) / 2
    detail = detail[:, np.isfinite(detail).all(0)]
    if detail.shape[1] < _NOISE_FEWEST:
        return "clean", ()
    noise = np.square(np.median(np.abs(detail), axis=1) / 0.6745)
    share = noise / np.maximum(residual, 1e-30)
    worst = int(np.argmax(share))
    if share[worst] < 0.01:
        return "clean", ()
    if share[worst] <= 0.1:
        return "long exposure", ()
    text = (
        f"The target is noisy itself (in {scenes.channel_names[worst]} its noise makes {share[worst]:.0%} of the "
        "residual variance): intervals cover another long exposure, and cover the clean signal more often than stated."
    )
    return "long exposure", (Note("amber", text),)


def fingerprint_steps(image: View) -> Step[dict[str, str]]:
    """SHA-256 of each scene of an image, by number; a step."""
    prints = {}
    for scene in range(image.n_scenes):
        digest = hashlib.sha256()
        for part in _rows(Box(scene, tuple(slice(0, n) for n in image.space))):
            yield Progress(scene, image.n_scenes, "Reading the images")
            digest.update(np.ascontiguousarray(image.read(scene, part)).data)
        prints[str(scene)] = digest.hexdigest()
    return prints


def _rows(box: Box) -> list[tuple[slice, ...]]:
    step = max(4_000_000 // max(box.size // max(box.shape[0], 1), 1), 1)
    first = box.slices[0]
    return [
        (slice(a, min(a + step, first.stop)), *box.slices[1:]) for a in range(first.start, first.stop, step)
    ]


def profile_of(image: View) -> Profile | None:
    """Noise and brightness of a noisy image, from rows evenly spread over it; None where it is too small."""
    rows = _spread_rows(image)
    return None if rows is None else profile(rows)


def drift_notes(known: Profile | None, image: View, channel_names: Sequence[str]) -> tuple[Note, ...]:
    """What to know of an image whose noise or brightness differs from the calibrated one."""
    rows = None if known is None else _spread_rows(image)
    if known is None or rows is None:
        return ()
    return check_drift(known, rows, channel_names=channel_names).notes


def _spread_rows(image: View) -> NDArray[np.float32] | None:
    """Bands of whole rows as (C, bands, rows, X), evenly spread over scenes and planes."""
    height, width = image.space[-2:]
    if min(height, width) < 3:
        return None
    planes = [(s, z) for s in range(image.n_scenes) for z in np.ndindex(*image.space[:-2])]
    rows = min(height, max(_PROFILE_PIXELS // (16 * width), 3))
    starts = [(*plane, y) for plane in planes for y in range(0, height - rows + 1, rows)]
    wanted = max(_PROFILE_PIXELS // (rows * width), 1)
    step = max(len(starts) / wanted, 1.0)
    bands = [
        image.read(s, (*(slice(i, i + 1) for i in z), slice(y, y + rows), slice(0, width))).reshape(
            image.n_channels, rows, width
        )
        for s, z, y in (starts[int(i)] for i in np.arange(step / 2, len(starts), step))
    ]
    made = np.stack(bands, 1)
    known = np.isfinite(made).reshape(image.n_channels, -1).sum(1)
    return made if known.min() >= _PROFILE_FEWEST else None
