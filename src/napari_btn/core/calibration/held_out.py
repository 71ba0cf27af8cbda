"""Held-out pixels, predicted and gathered by block (or by scene), the unit of calibration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.blocks import Blocks, error_length
from napari_btn.core.calibration.cases import HeldOut, name_of_blocks
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.calibration.distribution import mean
from napari_btn.core.data.image import names_in_text
from napari_btn.core.progress import Note, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.data.splits import Kind
    from napari_btn.core.networks.family import Networks
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings

__all__ = [
    "block_numbers",
    "held_out_steps",
    "noise_share",
    "saturation_notes",
    "target_noise",
]

_NOISE_FEWEST = 64  # neighbourhoods of four known pixels that an estimate of the target's noise needs
_SATURATED = 0.001  # least share of saturated targets that makes a note
_STORED_VALUES = 3_000_000  # quantiles and targets kept in the bundle for another level


def held_out_steps(
    scenes: Scenes,
    boxes: Sequence[Box],
    networks: Networks,
    compute: Compute,
    *,
    kind: Kind,
    alpha: float,
    settings: CalibrationSettings,
) -> Step[tuple[HeldOut, int]]:
    """Predict the held-out boxes and gather their pixels by block; a step.

    Returns the pixels, and the side of a block in pixels (0 if blocks are fields or runs of frames).
    """
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
    side = (settings.block_px or 0) if kind == "block" else 0
    if kind != "field" and not side:
        pooled = calibrate(flat, alpha=alpha, settings=replace(settings, unit="pixel"))
        intervals = [
            (pooled.interval(q)[0], t, pooled.interval(q)[2]) for q, t in zip(quantiles, target, strict=True)
        ]
        side = _block_side(scenes, intervals) if kind == "block" else _run_length(scenes, boxes, intervals)
    yield Progress(2, 3, "Calibrating: dividing into blocks")
    block = _number_blocks(scenes, boxes, known, side, kind)
    yield Progress(3, 3, "Calibrating: gathering pixels")
    position = [np.argwhere(k) + [s.start for s in b.slices] for k, b in zip(known, boxes, strict=True)]
    places = [np.column_stack([np.full(len(p), b.scene), p]) for p, b in zip(position, boxes, strict=True)]
    held_out = replace(
        flat,
        block=_joined(block, known),
        observed=_joined(observed, known),
        position=np.concatenate(places).astype(np.int64),
        blocks=name_of_blocks(side, kind),
    )
    stored = _STORED_VALUES // (n * (len(blueprint.levels) + 2))
    if held_out.block.size > stored:
        rng = np.random.default_rng(np.random.SeedSequence(blueprint.seed, spawn_key=(2**31, 3)))
        held_out = held_out.take(np.sort(rng.choice(held_out.block.size, stored, replace=False)))
    return held_out, side if kind == "block" else 0


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


def _block_side(scenes: Scenes, intervals: Sequence[tuple[Any, Any, Any]]) -> int:
    """Return the side of a block: four correlation lengths of the misses, at least 16 px.

    It is no smaller than the way that the content of a series moves, so that no content is in many blocks.
    """
    from napari_btn.core.data.registration import travel_of

    lengths = [1]
    for lower, target, upper in intervals:
        valid = np.isfinite(target)
        miss = valid & ((target < lower) | (target > upper))
        lengths += [error_length(m, valid=v) for m, v in zip(miss, valid, strict=True)]
    return max(4 * int(np.max(lengths)), 16, *travel_of(scenes))


def _run_length(scenes: Scenes, boxes: Sequence[Box], intervals: Sequence[tuple[Any, Any, Any]]) -> int:
    """Return the frames of a run: four correlation times of the misses."""
    lengths = [1]
    places = [(scenes.field_of(b.scene), b.slices) for b in boxes]
    for place in dict.fromkeys(map(repr, places)):
        rows = [i for i, p in zip(intervals, places, strict=True) if repr(p) == place]
        lower, target, upper = (np.stack(part, 1) for part in zip(*rows, strict=True))
        valid = np.isfinite(target)
        miss = valid & ((target < lower) | (target > upper))
        lengths += [error_length(m, valid=v, axis=0) for m, v in zip(miss, valid, strict=True)]
    return 4 * int(np.max(lengths)) if max(lengths) > 1 else 1


def _number_blocks(
    scenes: Scenes, boxes: Sequence[Box], known: Sequence[NDArray[np.bool_]], side: int, kind: Kind
) -> list[NDArray[np.int64]]:
    """Return the block of every pixel of every box; blocks are made of the known pixels alone."""
    if kind != "block":
        frames = np.asarray([b.scene % scenes.noisy.n_frames for b in boxes])
        last = max(int(np.ptp(frames) + 1) // side, 1) - 1 if kind == "run" else 0
        run = np.minimum((frames - frames.min()) // max(side, 1), last).tolist()
        unit = [(scenes.field_of(b.scene), r) for b, r in zip(boxes, run, strict=True)]
        order = {name: i for i, name in enumerate(sorted(set(unit)))}
        return [np.full(b.shape, order[u], np.int64) for b, u in zip(boxes, unit, strict=True)]
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
    kind: Kind = "block" if scenes.one_field else "field"
    if side is None:
        intervals = list(zip(lower, truth, upper, strict=True))
        side = _block_side(scenes, intervals) if kind == "block" else 0
    known = [np.asarray(np.isfinite(t).all(0)) for t in truth]
    numbers = np.stack(_number_blocks(scenes, scenes.whole(), known, side, kind))
    numbers[~np.stack(known)] = -1
    return side, numbers


def noise_share(
    held_out: HeldOut,
    variance: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.floating[Any]] | None],
) -> NDArray[np.floating[Any]] | None:
    """Return the share of the variance about the predicted mean that is the target's own noise, (C,).

    Parameters
    ----------
    held_out : HeldOut
    variance : callable
        Variance of the target's noise (C,) from noisy and target values (C, n); None if unknown.

    Returns
    -------
    ndarray of float, or None
        0 to 1; None if the variance is unknown.
    """
    if held_out.observed is None:
        return None
    finite = np.isfinite(held_out.observed).all(0)
    known = variance(held_out.observed[:, finite], held_out.target[:, finite])
    if known is None:
        return None
    residual = np.var(held_out.target - mean(held_out.quantiles, held_out.levels), axis=1)
    return np.asarray(np.clip(known / np.maximum(residual, 1e-30), 0, 1))


def saturation_notes(
    held_out: HeldOut, saturation: float | None, channel_names: Sequence[str]
) -> tuple[Note, ...]:
    """Return a note on saturated targets, which count as if they were the signal.

    Parameters
    ----------
    held_out : HeldOut
    saturation : float, optional
        Largest value that the detector can give; None for no note.
    channel_names : sequence of str
    """
    if saturation is None:
        return ()
    share = (held_out.target >= saturation).mean(1)
    worst = int(share.argmax())
    if share[worst] < _SATURATED:
        return ()
    name = names_in_text(channel_names, [worst])
    text = (
        f"{100 * share[worst]:.2g} % of the held-out targets of {name} are saturated at {saturation:.4g}. The signal "
        "may be higher there, and calibration and coverage count the saturated values: how often intervals hold the "
        "signal of such pixels is unknown. Leave them out of the pixels that count, or give a less exposed target."
    )
    return (Note("amber", text),)


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
    # Of few counts, more than half of the details are zero, and so is their median.
    noise = np.where(noise > 0, noise, _noise_beside_equals(plane))
    share: NDArray[np.floating[Any]] = noise / np.maximum(residual, 1e-30)
    return share


def _noise_beside_equals(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean square of each channel (C, Y, X) about its four neighbours, where these are equal.

    Flat parts and edges of a clean image give zero, lone counts their variance in the dark parts.
    """
    middle, up, down = plane[:, 1:-1, 1:-1], plane[:, :-2, 1:-1], plane[:, 2:, 1:-1]
    left, right = plane[:, 1:-1, :-2], plane[:, 1:-1, 2:]
    equal = (up == down) & (up == left) & (up == right) & np.isfinite(middle)
    counts = equal.sum((1, 2))
    about = np.where(equal, np.square(middle - np.where(equal, up, 0)), 0).sum((1, 2))
    return np.where(counts >= _NOISE_FEWEST, about / np.maximum(counts, 1), 0)
