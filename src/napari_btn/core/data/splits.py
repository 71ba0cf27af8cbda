"""Splits of images into training and held-out parts, by scene or within one field with a guard gap."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

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
    "Kind",
    "Split",
    "checkerboard",
    "region_box",
    "split",
    "split_axis",
    "spread_boxes",
]

HELD_OUT_PIXELS = 2_000_000  # predicted at most, spread evenly over a larger held-out part
_GAP_FRAMES = 0.1  # gap of a split in time, as a share of the frames

Kind = Literal["block", "field", "run"]
"""Kind of a calibration case: a block of one field, a whole field, or a run of frames."""


@dataclass(frozen=True)
class Split:
    """Training and held-out parts of the images.

    Parameters
    ----------
    train, held_out : tuple of Box
        Disjoint; never closer than ``gap_px`` within a scene.
    gap_px : int
        Guard gap; 0 between scenes.
    kind : str
        What one calibration block is: a "block" of the field, a whole "field" or a "run" of frames.
    notes : tuple of Note
    report : tuple of Box
        Part for the report alone; empty if the report is cross-fitted on ``held_out``.
    regions : ndarray of int, (*space), optional
        Painted areas: 1 for training, 2 for calibration, 3 for the report.
    """

    train: tuple[Box, ...]
    held_out: tuple[Box, ...]
    gap_px: int
    kind: Kind
    notes: tuple[Note, ...] = field(default=())
    report: tuple[Box, ...] = ()
    regions: NDArray[Any] | None = None

    @property
    def by_scene(self) -> bool:
        """True if whole fields are held out."""
        return self.kind == "field"


def split(
    scenes: Scenes,
    rf_px: int,
    settings: CalibrationSettings,
    *,
    seed: int,
    regions: NDArray[Any] | None = None,
) -> Split:
    """Split scenes, or one field with a guard gap, into training and held-out parts.

    Several scenes with their own targets are split by scene; all frames of a scene stay together. One
    field (also a volume, repeats, or the frames of one time series) is split along an axis, alike in all
    frames: train | gap | held out. The gap is two receptive fields if training keeps 40 % of the field
    (or two thirds of its share, if that is less), else one; it is wider by what the content of a series
    moves. With ``settings.split`` "time", series are split into early frames, a gap, and late frames.

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
        If the field is too small for the gap, no pixel of a part counts, or there are no frames to split.

    References
    ----------
    Barber et al., arXiv 2202.13415 (2022), on cases that are not exchangeable, such as frames of a series.
    """
    if regions is not None:
        return _split_painted(scenes, rf_px, regions)
    if settings.split == "time":
        parts = _split_time(scenes, settings)
    elif scenes.one_field:
        parts = _split_field(scenes, rf_px, settings)
    else:
        parts = _split_scenes(scenes, settings, seed)
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

    The longest one, less what the content of a series moves along it, unless the settings name another.

    Raises
    ------
    ValueError
        If the image lacks the axis.
    """
    names = scenes.noisy.space_axes
    if settings.split_axis == "longest":
        return int(np.argmax(np.subtract(scenes.noisy.space, _travel(scenes))))
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
    length, notes, travel = space[axis], [], _travel(scenes)[axis]
    # what is held out in one frame may lie in the training part of another
    gap = 2 * rf_px + travel
    if int((length - gap) * settings.train_fraction) < min(0.4, settings.train_fraction * 2 / 3) * length:
        gap = rf_px + travel
        notes.append(
            Note(
                "amber",
                f"The image is short ({length} px along {names[axis]}): training and held-out parts are {gap} px "
                f"apart, one receptive field instead of two.",
            )
        )
    if travel and min(int((length - gap) * settings.train_fraction), length - gap) < _LEAST_PX:
        gap = rf_px
        notes.append(_travel_note(travel, names[axis]))
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

    return Split(boxes(slice(0, train_px)), boxes(slice(train_px + gap, length)), gap, "block", tuple(notes))


def _travel(scenes: Scenes) -> tuple[int, ...]:
    """Return how far the content of a series moves, in pixels along each space axis."""
    if scenes.repeats or scenes.noisy.n_frames < 2:
        return (0,) * scenes.noisy.ndim
    # imported here, because workers import this module and must not wait for scipy
    from napari_btn.core.data.registration import travel_of

    return travel_of(scenes)


def _travel_note(travel: int, axis: str) -> Note:
    """Return a note on a series whose content moves from one part into the other."""
    text = (
        f"The content moves {travel} px along {axis} in the series, farther than the gap between the parts: what is "
        "held out was trained on in other frames, so other fields will be covered less than reported. Split along "
        "another axis, or use fewer frames."
    )
    return Note("red", text)


def _split_time(scenes: Scenes, settings: CalibrationSettings) -> Split:
    """Split time series into early frames, a gap, and late frames."""
    frames = scenes.noisy.n_frames
    # inputs of both parts must not share a frame
    seen = 0 if scenes.noisy.series is None else 2 * scenes.noisy.series.reach
    gap = max(round(_GAP_FRAMES * frames), 1, seen)
    n_train = int((frames - gap) * settings.train_fraction)
    if scenes.repeats or min(n_train, frames - gap - n_train) < 1:
        came = "one target for all frames" if scenes.repeats and frames > 1 else f"{frames} frame(s) along T"
        raise ValueError(
            f'split is "time", but there is {came}; it needs a series of at least {gap + 3} frames along T, each with '
            'its own target. Use split="auto" to split in space.'
        )
    text = (
        f"Split in time: calibrated on frames that come at least {gap} after those trained on. The coverage is that "
        "of such frames of this series, not of other fields or movies."
    )

    def boxes(part: slice) -> tuple[Box, ...]:
        """Return the frames of a part, of every series."""
        return tuple(b for b in scenes.whole() if b.scene % frames in range(frames)[part])

    return Split(
        boxes(slice(0, n_train)), boxes(slice(n_train + gap, None)), 0, "run", (Note("amber", text),)
    )


def _split_checkerboard(scenes: Scenes, rf_px: int) -> Split:
    """Split one field into macro-blocks for training and held-out ones in turn."""
    space, notes, travel = scenes.noisy.space, [], max(_travel(scenes)[-2:])
    gap = 2 * rf_px + travel
    train, held_out = checkerboard(space, gap)
    if len(held_out) < 2:
        gap = rf_px + travel
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

    return Split(boxes(train), boxes(held_out), gap, "block", tuple(notes))


def _split_painted(scenes: Scenes, rf_px: int, regions: NDArray[Any]) -> Split:
    """Split by areas that the user painted."""
    space = scenes.noisy.space
    if not scenes.one_field or tuple(regions.shape) != space:
        raise ValueError(
            f"Regions have shape {tuple(regions.shape)}; they need {space}, the space axes of one field, and can't "
            "split several scenes with targets of their own. Paint a layer of that shape, or leave regions out."
        )
    if scenes.valid is not None and (scenes.valid.n_scenes > 1 or scenes.valid.n_channels > 1):
        raise ValueError(
            f"valid has the axes {scenes.valid.axes}; with painted regions it must be one mask over the space axes. "
            "Give it as that, or leave pixels unpainted instead."
        )
    gap, notes, moved = _painted_gap(regions), [], _travel(scenes)
    if gap < rf_px:
        raise ValueError(
            f"The area painted for training comes within {gap} px of one that is held out; the networks see {rf_px} px "
            f"to each side, so {rf_px} px at least must lie between. Erase a strip, or use smaller dilations."
        )
    if gap < 2 * rf_px:
        text = f"Painted areas are {gap} px apart; {2 * rf_px} px, two receptive fields, are advised."
        notes.append(Note("amber", text))
    if max(moved) and gap < rf_px + max(moved):
        notes.append(_travel_note(max(moved), scenes.noisy.space_axes[int(np.argmax(moved))]))

    def boxes(label: int) -> tuple[Box, ...]:
        """Return the bounding box of a label, in every scene."""
        mask = regions == label
        if not mask.any():
            return ()
        return tuple(Box(s, region_box(mask)) for s in range(scenes.noisy.n_scenes))

    return Split(boxes(TRAIN), boxes(CALIBRATE), gap, "block", tuple(notes), boxes(REPORT), regions)


def _split_scenes(scenes: Scenes, settings: CalibrationSettings, seed: int) -> Split:
    """Split by whole fields, drawn at random, each with all of its frames."""
    n = scenes.n_fields
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2**31,))).permutation(n)
    n_train = min(max(round(n * settings.train_fraction), 1), n - 1)

    def boxes(fields: NDArray[np.intp]) -> tuple[Box, ...]:
        """Return all scenes of some fields."""
        return tuple(b for b in scenes.whole() if scenes.field_of(b.scene) in fields)

    return Split(boxes(order[:n_train]), boxes(order[n_train:]), 0, "field")


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


def _painted_gap(labels: NDArray[Any]) -> int:
    """Return the fewest pixels between areas painted for training (1) and held out (2, 3); 0 if they touch."""
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
