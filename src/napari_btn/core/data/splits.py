"""Splits of images into training and held-out parts, by scene or within one field with a guard gap."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import Box
from napari_btn.core.progress import Note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.settings import CalibrationSettings

__all__ = [
    "CALIBRATE",
    "HELD_OUT_PIXELS",
    "REPORT",
    "TRAIN",
    "Split",
    "checkerboard",
    "painted_gap",
    "region_box",
    "split",
    "split_axis",
    "spread_boxes",
]

HELD_OUT_PIXELS = 2_000_000  # predicted at most, spread evenly over a larger held-out part


@dataclass(frozen=True)
class Split:
    """Training and held-out parts of the images.

    Parameters
    ----------
    train, held_out : tuple of Box
        Disjoint; never closer than ``gap_px`` within a scene.
    gap_px : int
        Guard gap; 0 between scenes.
    by_scene : bool
        True if whole scenes are held out; then a scene is one calibration block.
    notes : tuple of Note
    report : tuple of Box
        Part for the report alone; empty if the report is cross-fitted on ``held_out``.
    regions : ndarray of int, (*space), optional
        Painted areas: 1 for training, 2 for calibration, 3 for the report.
    """

    train: tuple[Box, ...]
    held_out: tuple[Box, ...]
    gap_px: int
    by_scene: bool
    notes: tuple[Note, ...] = field(default=())
    report: tuple[Box, ...] = ()
    regions: NDArray[Any] | None = None


def split(
    scenes: Scenes,
    rf_px: int,
    settings: CalibrationSettings,
    *,
    seed: int,
    regions: NDArray[Any] | None = None,
) -> Split:
    """Split scenes, or one field with a guard gap, into training and held-out parts.

    Several scenes with their own targets are split by scene. One field (also a volume, or
    repeats of one field) is split along an axis: train | gap | held out. The gap is two
    receptive fields if training keeps 40 % of the field (or two thirds of its share, if that is
    less), else one.

    Parameters
    ----------
    rf_px : int
        Half-width of the receptive field.
    seed : int
        Seed of the draw of training scenes.
    regions : ndarray of int, (*space), optional
        Painted areas instead: 1 for training, 2 for calibration, 3 for the report.

    Raises
    ------
    ValueError
        If the field is too small for the gap, or no pixel of a part counts.
    """
    if regions is not None:
        return _split_painted(scenes, rf_px, regions)
    parts = _split_field(scenes, rf_px, settings) if scenes.repeats else _split_scenes(scenes, settings, seed)
    for boxes, what in ((parts.train, "training"), (parts.held_out, "held-out")):
        if scenes.valid is not None and not any(
            scenes.read_valid(b.scene, b.slices).all(0).any() for b in boxes
        ):
            raise ValueError(
                f"No pixel of the {what} part counts by `valid`; both parts need some. "
                "Split along another axis, or let `valid` leave out less."
            )
    return parts


def split_axis(scenes: Scenes, settings: CalibrationSettings) -> int:
    """Return the number of the space axis along which one field is split.

    Raises
    ------
    ValueError
        If the image lacks the axis.
    """
    names = scenes.noisy.space_axes
    if settings.split_axis == "longest":
        return int(np.argmax(scenes.noisy.space))
    if settings.split_axis.upper() not in names:
        raise ValueError(
            f"split_axis is {settings.split_axis!r}, but the image has the axes {names}; choose one."
        )
    return names.index(settings.split_axis.upper())


def _split_field(scenes: Scenes, rf_px: int, settings: CalibrationSettings) -> Split:
    """Split one field into train | gap | held out, along an axis or as a checkerboard."""
    if settings.split == "checkerboard":
        return _split_checkerboard(scenes, rf_px)
    space, names, axis = scenes.noisy.space, scenes.noisy.space_axes, split_axis(scenes, settings)
    length, notes = space[axis], []
    gap = 2 * rf_px
    if int((length - gap) * settings.train_fraction) < min(0.4, settings.train_fraction * 2 / 3) * length:
        gap = rf_px
        notes.append(
            Note(
                "amber",
                f"The image is short ({length} px along {names[axis]}): training and held-out parts are {gap} px "
                f"apart, one receptive field instead of two.",
            )
        )
    train_px = int((length - gap) * settings.train_fraction)
    held_px = length - gap - train_px
    if train_px < 8 or held_px < 8:
        raise ValueError(
            f"The image has {length} px along {names[axis]}; training, a gap of {gap} px and a held-out part need "
            f"at least {gap + 20}. Use a larger image, several scenes, or a network with smaller dilations."
        )

    def boxes(part: slice) -> tuple[Box, ...]:
        """Return the part along the axis, of every scene."""
        cut = tuple(part if a == axis else slice(0, n) for a, n in enumerate(space))
        return tuple(Box(s, cut) for s in range(scenes.noisy.n_scenes))

    return Split(boxes(slice(0, train_px)), boxes(slice(train_px + gap, length)), gap, False, tuple(notes))


def _split_checkerboard(scenes: Scenes, rf_px: int) -> Split:
    """Split one field into macro-blocks for training and held-out ones in turn."""
    space, notes = scenes.noisy.space, []
    gap = 2 * rf_px
    train, held_out = checkerboard(space, gap)
    if len(held_out) < 2:
        gap = rf_px
        train, held_out = checkerboard(space, gap)
        text = (
            f"The image is short for a checkerboard: training and held-out parts are {gap} px apart, one receptive "
            "field instead of two."
        )
        notes.append(Note("amber", text))
    if len(held_out) < 2:
        raise ValueError(
            f"The image has {' x '.join(map(str, space))} px; a checkerboard with gaps of {gap} px needs at least "
            f"{2 * gap + 40} px along Y and X. Split along an axis, or use a network with smaller dilations."
        )

    def boxes(parts: list[tuple[slice, ...]]) -> tuple[Box, ...]:
        """Return the parts of every scene."""
        return tuple(Box(s, part) for s in range(scenes.noisy.n_scenes) for part in parts)

    return Split(boxes(train), boxes(held_out), gap, False, tuple(notes))


def _split_painted(scenes: Scenes, rf_px: int, regions: NDArray[Any]) -> Split:
    """Split by areas that the user painted."""
    space = scenes.noisy.space
    if not scenes.repeats or tuple(regions.shape) != space:
        raise ValueError(
            f"Regions have shape {tuple(regions.shape)}; they need {space}, the space axes of one field, and can't "
            "split several scenes with targets of their own. Paint a layer of that shape, or leave regions out."
        )
    if scenes.valid is not None and (scenes.valid.n_scenes > 1 or scenes.valid.n_channels > 1):
        raise ValueError(
            f"valid has the axes {scenes.valid.axes}; with painted regions it must be one mask over the space axes. "
            "Give it as that, or leave pixels unpainted instead."
        )
    gap, notes = painted_gap(regions), []
    if gap < rf_px:
        raise ValueError(
            f"The area painted for training comes within {gap} px of one that is held out; the networks see {rf_px} px "
            f"to each side, so {rf_px} px at least must lie between. Erase a strip, or use smaller dilations."
        )
    if gap < 2 * rf_px:
        text = f"Painted areas are {gap} px apart; {2 * rf_px} px, two receptive fields, would be safe."
        notes.append(Note("amber", text))

    def boxes(label: int) -> tuple[Box, ...]:
        """Return the bounding box of a label, in every scene."""
        mask = regions == label
        if not mask.any():
            return ()
        return tuple(Box(s, region_box(mask)) for s in range(scenes.noisy.n_scenes))

    return Split(boxes(TRAIN), boxes(CALIBRATE), gap, False, tuple(notes), boxes(REPORT), regions)


def _split_scenes(scenes: Scenes, settings: CalibrationSettings, seed: int) -> Split:
    """Split by whole scenes: random ones, or the first frames of a time series."""
    n = scenes.noisy.n_scenes
    order = np.arange(n)
    if "T" not in scenes.noisy.axes:
        # scenes are drawn at random, but frames are not: neighbours in time resemble each other
        order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2**31,))).permutation(n)
    n_train = min(max(round(n * settings.train_fraction), 1), n - 1)
    whole = scenes.whole()
    train = tuple(whole[i] for i in sorted(order[:n_train]))
    return Split(train, tuple(whole[i] for i in sorted(order[n_train:])), 0, True)


def spread_boxes(boxes: Sequence[Box], ndim: int) -> list[Box]:
    """Return the boxes, or smaller boxes spread evenly over them if they hold too many pixels.

    Parameters
    ----------
    boxes : sequence of Box
        Held-out part.
    ndim : int
        Number of space axes.
    """
    total = sum(b.size for b in boxes)
    if total <= HELD_OUT_PIXELS:
        return list(boxes)
    side = 256 if ndim == 2 else 64
    share = HELD_OUT_PIXELS / total
    chosen: list[Box] = []
    for box in boxes:
        cells = [
            tuple(
                slice(s.start + i * side, min(s.start + (i + 1) * side, s.stop))
                for i, s in zip(cell, box.slices, strict=True)
            )
            for cell in np.ndindex(*(-(-n // side) for n in box.shape))
        ]
        step = max(1 / share, 1.0)
        picks = sorted({int(i) for i in np.arange(step / 2, len(cells), step)} or {len(cells) // 2})
        chosen += [Box(box.scene, cells[i]) for i in picks]
    return chosen


TRAIN, CALIBRATE, REPORT = 1, 2, 3
# least side of a held-out cell, so that it holds a block
_LEAST_PX = 16


def checkerboard(
    space: Sequence[int], gap_px: int
) -> tuple[list[tuple[slice, ...]], list[tuple[slice, ...]]]:
    """Return training and held-out cells of a checkerboard over the last two axes.

    Parameters
    ----------
    space : sequence of int
        Shape of the field.
    gap_px : int
        Margin removed from held-out cells where they border on training cells.

    Returns
    -------
    train, held_out : list of tuple of slice
        Cells are as small as possible while a held-out cell keeps half of its side; none are held out if the
        field is too small.
    """
    side = max(4 * gap_px, 2 * gap_px + _LEAST_PX, 2 * _LEAST_PX)
    counts = [max(n // side, 2) for n in space[-2:]]
    edges = [np.linspace(0, n, k + 1).astype(int) for n, k in zip(space[-2:], counts, strict=True)]
    train: list[tuple[slice, ...]] = []
    held_out: list[tuple[slice, ...]] = []
    before = tuple(slice(0, n) for n in space[:-2])
    for place in np.ndindex(*counts):
        ends = [(int(e[i]), int(e[i + 1])) for e, i in zip(edges, place, strict=True)]
        if sum(place) % 2 == 0:
            train.append((*before, *(slice(a, b) for a, b in ends)))
            continue
        cut = [
            slice(a + gap_px * (i > 0), b - gap_px * (i < k - 1))
            for (a, b), i, k in zip(ends, place, counts, strict=True)
        ]
        if min(s.stop - s.start for s in cut) >= _LEAST_PX:
            held_out.append((*before, *cut))
    return train, held_out


def painted_gap(labels: NDArray[Any]) -> int:
    """Return the fewest pixels between an area painted for training and a held-out one.

    Parameters
    ----------
    labels : ndarray of int, shape (*space)
        1 for training, 2 for calibration, 3 for the report; anything else is left out.

    Returns
    -------
    int
        0 if they touch.

    Raises
    ------
    ValueError
        If nothing is painted for training, or nothing for calibration.
    """
    for value, what in ((TRAIN, "training"), (CALIBRATE, "calibration")):
        if not (labels == value).any():
            raise ValueError(
                f"No pixel is painted {value}, for {what}; paint 1 for training, 2 for calibration and, "
                "where you like, 3 for the report."
            )
    held = (labels == CALIBRATE) | (labels == REPORT)
    # imported here, because workers import this module and must not wait for scipy
    from scipy import ndimage

    far = ndimage.distance_transform_cdt(labels != TRAIN, metric="chessboard")
    return int(far[held].min()) - 1


def region_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the smallest box around the True pixels.

    Parameters
    ----------
    mask : ndarray of bool, shape (*space)
        With at least one True pixel.

    Returns
    -------
    tuple of slice
        One per axis.
    """
    ends = [
        np.flatnonzero(mask.any(axis=tuple(b for b in range(mask.ndim) if b != a))) for a in range(mask.ndim)
    ]
    return tuple(slice(int(e[0]), int(e[-1]) + 1) for e in ends)
