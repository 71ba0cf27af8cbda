"""Comparison of a new image with the calibrated one: noise and brightness."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_btn.core.data.image import names_in_text, shown_names, whole_boxes
from napari_btn.core.data.splits import CALIBRATE, TRAIN
from napari_btn.core.progress import Note, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.data.image import Box, View
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.data.splits import Split

__all__ = ["Profile", "drift_notes", "parts_notes", "profile", "profile_of"]

BINS = 8
# Fewer pixels than this in a bin of brightness say little about its noise.
FEWEST = 64
# One bright edge would weigh as much as the noise of a whole bin.
TRIM = 0.95
NOISE_LOW, NOISE_HIGH = 0.8, 1.25
# Parts of one field are smaller than images, and a rare phase lies unevenly in them.
PARTS_LOW, PARTS_HIGH = 0.75, 1.33
SHARE_AMBER, SHARE_RED = 0.03, 0.10
_PROFILE_PIXELS = 1_000_000  # enough to know the noise of eight bins of brightness to a per cent
_PROFILE_FEWEST = 64


@dataclass(frozen=True, eq=False)
class Profile:
    """Noise and brightness of a noisy image, saved with the bundle.

    Parameters
    ----------
    edges : ndarray of float64, shape (C, K + 1)
        Edges of the bins of local brightness; the outer ones hold 99.8 % of the pixels.
    noise : ndarray of float64, shape (C, K)
        Level of the pixel noise in each bin, in the image's unit; NaN where unknown.
    """

    edges: NDArray[np.float64]
    noise: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as a JSON-ready dict; NaN becomes None."""
        noise = [[None if np.isnan(v) else v for v in row] for row in self.noise.tolist()]
        return {"edges": self.edges.tolist(), "noise": noise}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the profile that `to_dict` stored."""
        return cls(
            edges=np.asarray(values["edges"], dtype=np.float64),
            noise=np.asarray(values["noise"], dtype=np.float64),
        )


@dataclass(frozen=True, eq=False)
class _Drift:
    """Differences of a new image from the calibrated one.

    Parameters
    ----------
    noise_ratio : ndarray of float64, shape (C,)
        Noise over the calibrated image's at the same brightness; NaN where no brightness is shared.
    outside : ndarray of float64, shape (C,)
        Share of pixels outside the range of 99.8 % of those of the calibrated image.
    notes : tuple of Note
        Amber and red notes; none where all is well.
    """

    noise_ratio: NDArray[np.float64]
    outside: NDArray[np.float64]
    notes: tuple[Note, ...]


def profile(image: ArrayLike) -> Profile:
    """Return noise and brightness of the image that a calibration comes from.

    Parameters
    ----------
    image : array_like, shape (C, *space)
        Noisy image, two or three space axes; pixels that aren't finite don't count.

    Returns
    -------
    Profile
        For `_check_drift`.

    Raises
    ------
    ValueError
        If the image has fewer than 3 pixels along its last two axes.
    """
    edges, noise = [], []
    for plane in np.asarray(image):
        bright, rough = _bright_and_rough(plane)
        edge = np.quantile(bright, [0.001, *np.linspace(0, 1, BINS + 1)[1:-1], 0.999])
        edges.append(edge)
        noise.append(_noise_by_bin(bright, rough, edge)[0])
    return Profile(np.asarray(edges), np.asarray(noise))


def _check_drift(known: Profile, image: ArrayLike, *, channel_names: Sequence[str] | None = None) -> _Drift:
    """Compare an image (C, *space) with the calibrated one, and note where the coverage may not hold."""
    planes = np.asarray(image)
    if len(planes) != len(known.noise):
        raise ValueError(
            f"The image has {counted(len(planes), 'channel')}, the calibrated one had {len(known.noise)}; "
            "they must match. Pick the same channels."
        )
    names = [str(c) for c in range(len(planes))] if channel_names is None else list(channel_names)
    ratio, outside = np.empty(len(planes)), np.empty(len(planes))
    for c, plane in enumerate(planes):
        bright, rough = _bright_and_rough(plane)
        edge = known.edges[c]
        outside[c] = np.mean((bright < edge[0]) | (bright > edge[-1]))
        ratio[c] = _ratio(known.noise[c], *_noise_by_bin(bright, rough, edge))
    return _Drift(ratio, outside, (*_noise_notes(ratio, names), *_share_notes(outside, names)))


def _bright_and_rough(plane: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return local mean, and local second difference scaled to the SD of the noise, of the inner pixels."""
    if plane.ndim < 2 or min(plane.shape[-2:]) < 3:
        raise ValueError(
            f"A channel has shape {plane.shape}; it needs at least 3 x 3 pixels. Give a larger image."
        )
    a = np.asarray(plane, dtype=np.float64)
    bright, rough = (
        _three(_three(a, -1, side, centre), -2, side, centre) for side, centre in ((0.25, 0.5), (1.0, -2.0))
    )
    known = np.isfinite(rough)
    # Six is the sum of squares of 1, -2, 1, along each of the two axes.
    return bright[known], np.abs(rough[known]) / 6


def _three(a: NDArray[np.float64], axis: int, side: float, centre: float) -> NDArray[np.float64]:
    """Return the weighted sum of three neighbours along an axis."""
    b = np.moveaxis(a, axis, -1)
    return np.moveaxis(side * (b[..., :-2] + b[..., 2:]) + centre * b[..., 1:-1], -1, axis)


def _noise_by_bin(
    bright: NDArray[np.float64], rough: NDArray[np.float64], edge: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the trimmed RMS of the roughness, and the number of pixels, in each bin of brightness."""
    cell = np.searchsorted(edge, bright, side="right") - 1
    noise = np.full(BINS, np.nan)
    counts = np.zeros(BINS, dtype=np.int64)
    for k in range(BINS):
        inside = np.sort(rough[cell == k])
        counts[k] = inside.size
        if inside.size >= FEWEST:
            noise[k] = np.sqrt(np.mean(np.square(inside[: int(TRIM * inside.size)])))
    return noise, counts


def _ratio(known: NDArray[np.float64], noise: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Return the geometric mean of the noise ratio over the shared bins."""
    shared = (known > 0) & (noise > 0)
    if not shared.any():
        return float("nan")
    return float(np.exp(np.average(np.log(noise[shared] / known[shared]), weights=counts[shared])))


def _noise_notes(ratio: NDArray[np.float64], names: Sequence[str]) -> tuple[Note, ...]:
    """Return a note on channels whose noise level differs."""
    off = [
        f"{name} ({value:.2f})"
        for name, value in zip(shown_names(names), ratio, strict=True)
        if not np.isnan(value) and not NOISE_LOW <= value <= NOISE_HIGH
    ]
    if not off:
        return ()
    text = (
        f"Noise at equal brightness, relative to the calibrated image: {', '.join(off)}; it should be "
        f"{NOISE_LOW} to {NOISE_HIGH}. The coverage may not hold here: check it on a second frame that "
        "was taken as the targets were, or calibrate on images like this one."
    )
    return (Note("amber", text),)


def _share_notes(outside: NDArray[np.float64], names: Sequence[str]) -> tuple[Note, ...]:
    """Return a note on pixels unlike any in the calibrated image."""
    beyond = [(share, name) for share, name in zip(outside, names, strict=True) if share >= SHARE_AMBER]
    if not beyond:
        return ()
    single = len(names) == 1
    shown = ", ".join(
        f"{100 * share:.0f} %" if single else f"{100 * share:.0f} % of {name}" for share, name in beyond
    )
    what = f"{shown} of the pixels" if single else f"Of the pixels, {shown}"
    text = (
        f"{what} are outside the range that holds 99.8 % of the pixels of the calibrated image. The coverage may not "
        "hold there: calibrate on images like this one."
    )
    return (Note("red" if max(beyond)[0] >= SHARE_RED else "amber", text),)


def profile_of(image: View) -> Profile | None:
    """Return noise and brightness of a noisy image; None where it is too small.

    Parameters
    ----------
    image : View
        Rows evenly spread over it are read.
    """
    rows = _spread_rows(image)
    return None if rows is None else profile(rows)


def drift_notes(known: Profile | None, image: View, channel_names: Sequence[str]) -> tuple[Note, ...]:
    """Return notes on an image whose noise or brightness differs from the calibrated one.

    Parameters
    ----------
    known : Profile, optional
        Of the images that were calibrated on.
    image : View
        Another image.
    channel_names : sequence of str
    """
    rows = None if known is None else _spread_rows(image)
    if known is None or rows is None:
        return ()
    return _check_drift(known, rows, channel_names=channel_names).notes


def parts_notes(scenes: Scenes, split: Split, layout: str) -> tuple[Note, ...]:
    """Return a note if the held-out part of a field has another noise or brightness than the training part.

    Parameters
    ----------
    scenes : Scenes
    split : Split
        Split of one field; whole fields, drawn at random, are not compared.
    layout : str
        How the field was split, as ``CalibrationSettings.split``.
    """
    if split.kind == "field":
        return ()
    train, held_out = (
        _spread_rows(part.noisy, boxes, part.read_valid)
        for part, boxes in (
            (scenes.within(split.regions, TRAIN), split.train),
            (scenes.within(split.regions, CALIBRATE), split.held_out),
        )
    )
    if train is None or held_out is None:
        return ()
    found = _check_drift(profile(train), held_out, channel_names=scenes.channel_names)
    names = [names_in_text(scenes.channel_names, [c]) for c in range(len(scenes.channel_names))]
    unlike = [
        f"{name} has {ratio:.2f} times the noise at equal brightness"
        for name, ratio in zip(names, found.noise_ratio, strict=True)
        if not np.isnan(ratio) and not PARTS_LOW <= ratio <= PARTS_HIGH
    ] + [
        f"{100 * share:.0f} % of the pixels of {name} are outside the range that holds 99.8 % of those "
        "trained on"
        for name, share in zip(names, found.outside, strict=True)
        if share >= SHARE_AMBER
    ]
    if not unlike:
        return ()
    advice = {"auto": ' Use split="checkerboard", which mixes both.', "time": ' Use split="auto" (in space).'}
    text = (
        f"The held-out part is unlike the training part: {'; '.join(unlike)}. The reported coverage is that of the "
        f"held-out part; elsewhere it can differ.{'' if split.regions is not None else advice.get(layout, '')}"
    )
    return (Note("amber", text),)


def _spread_rows(
    image: View, boxes: Sequence[Box] | None = None, counts: Callable[..., NDArray[np.bool_]] | None = None
) -> NDArray[np.float32] | None:
    """Return bands of whole rows as (C, bands, rows, X), evenly spread over the boxes.

    All of the image by default. Pixels that don't count, and the ends of shorter rows, are NaN.
    """
    boxes = whole_boxes(image.space, image.n_scenes) if boxes is None else boxes
    height, width = min(b.shape[-2] for b in boxes), max(b.shape[-1] for b in boxes)
    if min(height, *(b.shape[-1] for b in boxes)) < 3:
        return None
    rows = min(height, max(_PROFILE_PIXELS // (16 * width), 3))
    starts = [
        (box.scene, (*(slice(i, i + 1) for i in z), slice(y, y + rows), box.slices[-1]))
        for box in boxes
        for z in itertools.product(*(range(s.start, s.stop) for s in box.slices[:-2]))
        for y in range(box.slices[-2].start, box.slices[-2].stop - rows + 1, rows)
    ]
    wanted = max(_PROFILE_PIXELS // (rows * width), 1)
    step = max(len(starts) / wanted, 1.0)
    chosen = [starts[int(i)] for i in np.arange(step / 2, len(starts), step)]
    made = np.full((image.n_channels, len(chosen), rows, width), np.nan, np.float32)
    for k, (scene, box) in enumerate(chosen):
        band = image.read(scene, box)
        if counts is not None:
            band = np.where(counts(scene, box).all(0), band, np.nan)
        made[:, k, :, : band.shape[-1]] = band.reshape(image.n_channels, rows, -1)
    known = np.isfinite(made).reshape(image.n_channels, -1).sum(1)
    return made if known.min() >= _PROFILE_FEWEST else None
