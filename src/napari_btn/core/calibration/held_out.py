"""Held-out pixels, predicted and gathered by block (or by scene), the unit of calibration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.blocks import Blocks, error_length
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.networks.family import Networks
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings

__all__ = [
    "block_numbers",
    "held_out_steps",
    "target_noise",
]

_NOISE_FEWEST = 64  # neighbourhoods of four known pixels that an estimate of the target's noise needs
_STORED_VALUES = 3_000_000  # quantiles and targets kept in the bundle for another level


def held_out_steps(
    scenes: Scenes,
    boxes: Sequence[Box],
    networks: Networks,
    compute: Compute,
    *,
    by_scene: bool,
    alpha: float,
    settings: CalibrationSettings,
) -> Step[tuple[HeldOut, int]]:
    """Predict the held-out boxes and gather their pixels by block; a step."""
    from napari_btn.core.inference.run import tile_quantiles

    yield Progress(0, 1, "Calibrating: the held-out part")
    blueprint = networks.blueprint
    n = scenes.noisy.n_channels
    quantiles = [np.empty((len(blueprint.levels), n, *b.shape), np.float32) for b in boxes]
    for progress, result in tile_quantiles(scenes.noisy, boxes, networks, compute):
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
    # On a large image each of these takes a while; yields between them let the user stop.
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
    """Return the known pixels (..., n) of the maps (..., *space) of all boxes."""
    # Indexing by a mask takes many times as long as reshaping.
    rows = [
        m.reshape(*m.shape[: m.ndim - k.ndim], -1) if k.all() else m[..., k]
        for m, k in zip(maps, known, strict=True)
    ]
    return np.concatenate(rows, -1)


def _inside(part: Sequence[slice], whole: Sequence[slice]) -> bool:
    """Return True if a part lies within the whole."""
    return all(w.start <= p.start and p.stop <= w.stop for p, w in zip(part, whole, strict=True))


def _block_side(intervals: Sequence[tuple[Any, Any, Any]]) -> int:
    """Return the side of a block: four correlation lengths of the misses, at least 16 px."""
    lengths = [1]
    for lower, target, upper in intervals:
        valid = np.isfinite(target)
        miss = valid & ((target < lower) | (target > upper))
        lengths += [error_length(m, valid=v) for m, v in zip(miss, valid, strict=True)]
    return max(4 * int(np.max(lengths)), 16)


def _number_blocks(
    scenes: Scenes, boxes: Sequence[Box], known: Sequence[NDArray[np.bool_]], side: int, by_scene: bool
) -> list[NDArray[np.int64]]:
    """Return the block of every pixel of every box; blocks are made of the known pixels alone."""
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
    """Return the block side, and the block of every pixel (S, *space); -1 where the truth is unknown."""
    by_scene = not scenes.repeats
    if side is None:
        side = 0 if by_scene else _block_side(list(zip(lower, truth, upper, strict=True)))
    known = [np.asarray(np.isfinite(t).all(0)) for t in truth]
    numbers = np.stack(_number_blocks(scenes, scenes.whole(), known, side, by_scene))
    numbers[~np.stack(known)] = -1
    return side, numbers


def target_noise(scenes: Scenes, boxes: Sequence[Box], held_out: HeldOut) -> NDArray[np.floating[Any]] | None:
    """Return the share of the residual variance that is the target's own noise, (C,); None if unknown."""
    middle = held_out.levels.index(0.5)
    residual = np.var(held_out.target - held_out.quantiles[middle], axis=1)
    largest = max(boxes, key=lambda b: b.size)
    target = scenes.read_clean(largest.scene, largest.slices)
    # A volume is judged by its plane with most known pixels.
    counted = np.isfinite(target).all(0).reshape(target.shape[1] if target.ndim == 4 else 1, -1).sum(1)
    plane = target if target.ndim == 3 else target[:, int(np.argmax(counted))]
    # The diagonal detail of a Haar wavelet holds noise and hardly any signal (Donoho & Johnstone 1994).
    detail = (plane[:, 1:, 1:] - plane[:, 1:, :-1] - plane[:, :-1, 1:] + plane[:, :-1, :-1]) / 2
    detail = detail[:, np.isfinite(detail).all(0)]
    if detail.shape[1] < _NOISE_FEWEST:
        return None
    noise = np.square(np.median(np.abs(detail), axis=1) / 0.6745)
    share: NDArray[np.floating[Any]] = noise / np.maximum(residual, 1e-30)
    return share
