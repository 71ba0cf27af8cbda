"""Windows that were measured again, as training data at their place in the noisy image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import Box, View
from napari_btn.core.data.pairs import Pair, Scenes
from napari_btn.core.data.registration import shift_of
from napari_btn.core.progress import Note, counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "Window",
    "boxes_of",
    "join",
    "places_in",
    "shifted",
    "window_scenes",
    "windows_of",
    "without_near",
]

_SHIFT_PX = 0.5
_SEARCHED = 100_000_000  # most values of an image that is searched
_ASKED = 64  # pixels compared to find a place


@dataclass(frozen=True, eq=False)
class Window:
    """A field of view that was measured again.

    Parameters
    ----------
    start : tuple of int
        First pixel along (Z,) Y, X of the image.
    values : ndarray of float32, (C, *size)
        Measured values in the units of the training target; NaN where nothing was measured.
    """

    start: tuple[int, ...]
    values: NDArray[np.float32]

    @property
    def box(self) -> tuple[slice, ...]:
        """Slices of the window in the image."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.values.shape[1:], strict=True))


def windows_of(
    measured: Sequence[tuple[Any, Any]], image: View, channel_names: Sequence[str]
) -> tuple[Window, ...]:
    """Return windows, checked against the image that they lie in.

    Parameters
    ----------
    measured : sequence of (place, array)
        The place is a `Region` or the first pixel along (Z,) Y, X; the array has the axes of the image
        without S and T.
    image : View
        Noisy image of one scene.
    channel_names : sequence of str
        Channels of the target.

    Raises
    ------
    ValueError
        If a window doesn't fit, holds no known pixel, or is the noisy image itself.
    """
    if measured and image.n_scenes != 1:
        raise ValueError(
            f"The image of the windows has {image.n_scenes} scenes (axes {image.axes}); give the one they lie in."
        )
    axes = "".join(a for a in image.axes if a not in "ST")
    made = []
    for number, (place, array) in enumerate(measured, 1):
        target = View(array, axes, f"window {number}")
        start = tuple(int(a) for a in getattr(place, "start", place))
        fits = len(start) == image.ndim and target.n_channels == len(channel_names)
        if not fits or any(
            a < 0 or a + n > whole for a, n, whole in zip(start, target.space, image.space, strict=True)
        ):
            raise ValueError(
                f"Window {number} begins at {start} and has axes {axes} {tuple(target.array.shape)}; it must lie "
                f"within the image's {image.space_axes} {image.space} and have "
                f"{counted(len(channel_names), 'channel')}. Check its place, and crop what reaches over the border."
            )
        window = Window(start, target.read(0))
        if not np.isfinite(window.values).all(0).any():
            raise ValueError(f"Window {number} holds no pixel that is known in all channels; leave it out.")
        if np.array_equal(image.read(0, window.box), window.values):
            raise ValueError(
                f"Window {number} holds the noisy image itself; give what was measured there again."
            )
        made.append(window)
    return tuple(made)


def window_scenes(
    image: View, windows: Sequence[Window], channel_names: tuple[str, ...], margin_px: int
) -> list[Scenes]:
    """Return one scene per window: the noisy image around it, and a target known only inside.

    Parameters
    ----------
    image : View
        Noisy image of one scene.
    windows : sequence of Window
        Windows within the image.
    channel_names : tuple of str
        Channels of the target.
    margin_px : int
        Noisy pixels around each window, clipped at the border.
    """
    made = []
    for window in windows:
        box = tuple(
            slice(max(s.start - margin_px, 0), min(s.stop + margin_px, n))
            for s, n in zip(window.box, image.space, strict=True)
        )
        noisy = image.read(0, box)
        clean = np.full((len(window.values), *noisy.shape[1:]), np.nan, np.float32)
        inner = tuple(
            slice(w.start - s.start, w.stop - s.start) for w, s in zip(window.box, box, strict=True)
        )
        clean[(slice(None), *inner)] = window.values
        known = np.isfinite(clean).all(0)
        # values are not checked: unlike a whole image, a window of one phase may be constant
        made.append(Pair(noisy, clean, "C" + image.space_axes, channel_names, valid=known).views)
    return made


def _offset_in(part: NDArray[np.float32], whole: NDArray[np.float32]) -> tuple[int, ...] | None:
    """Return the first pixel of ``part`` within ``whole``, both (C, *space); None if not found. NaN matches NaN."""
    room = [b - a + 1 for a, b in zip(part.shape[1:], whole.shape[1:], strict=True)]
    if len(part) != len(whole) or min(room) < 1:
        return None
    if max(room) == 1:
        return (0,) * len(room) if np.array_equal(part, whole, equal_nan=True) else None
    if whole.size > _SEARCHED:
        raise ValueError(
            f"An image of {whole.size} values is too large to look for the place of another in it (at most "
            f"{_SEARCHED:.0e}). Give the windows on the pair's own noisy image, or a smaller image around them."
        )
    part, whole = (np.nan_to_num(v, nan=0.0, posinf=0.0, neginf=0.0) for v in (part, whole))
    # the brightest pixels, because they are rare where counts are few
    brightest = np.argsort(-part.ravel(), kind="stable")[:_ASKED]
    possible = np.ones(room, bool)
    for index in brightest:
        channel, *at = (int(i) for i in np.unravel_index(index, part.shape))
        box = tuple(slice(a, a + r) for a, r in zip(at, room, strict=True))
        possible &= whole[channel][box] == part[channel][tuple(at)]
    for start in np.argwhere(possible):
        box = tuple(slice(a, a + n) for a, n in zip(start, part.shape[1:], strict=True))
        if np.array_equal(whole[(slice(None), *box)], part):
            return tuple(int(a) for a in start)
    return None


def places_in(scenes: Scenes, image: View, windows: Sequence[Window]) -> dict[int, list[tuple[slice, ...]]]:
    """Return where windows of an image lie in scenes that contain it or are part of it, by scene.

    Parameters
    ----------
    scenes : Scenes
        Scenes that are split into training and held-out parts.
    image : View
        Noisy image of the windows, of one scene.
    windows : sequence of Window
        Windows in pixels of the image.
    """
    if not windows or image.ndim != scenes.noisy.ndim:
        return {}
    found = {}
    if image.array is scenes.noisy.array and image.axes == scenes.noisy.axes:
        return {0: [window.box for window in windows]}
    whole = image.read(0)
    for scene in range(scenes.noisy.n_scenes):
        mine = scenes.noisy.read(scene)
        within = _offset_in(whole, mine)
        around = _offset_in(mine, whole) if within is None else None
        if within is None and around is None:
            continue
        offset = within if within is not None else tuple(-a for a in around or ())
        found[scene] = [
            tuple(slice(s.start + o, s.stop + o) for s, o in zip(w.box, offset, strict=True)) for w in windows
        ]
    return found


def shifted(scenes: Sequence[Scenes]) -> tuple[Note, ...]:
    """Return notes on windows that are shifted against the noisy image, as a stage seldom repeats exactly.

    Parameters
    ----------
    scenes : sequence of Scenes
        Result of `window_scenes`.
    """
    notes = []
    for number, one in enumerate(scenes, 1):
        shift = shift_of(one)
        if shift is None or max(abs(s) for s in shift) <= _SHIFT_PX:
            continue
        size = ", ".join(
            f"{a} {round(s, 1) + 0.0:+.1f}" for a, s in zip(one.noisy.space_axes, shift, strict=True)
        )
        text = (
            f"Window {number} must be moved by {size} px to lie on the image; the networks would learn "
            "the shift."
        )
        notes.append(Note("amber", f"{text} Give its true place."))
    return tuple(notes)


class _Joined(View):
    """A view of the scenes of several views, each with its own size."""

    def __init__(self, parts: Sequence[tuple[View, int]]) -> None:
        first = parts[0][0]
        super().__init__(first.array, first.axes)
        self._parts = tuple(parts)
        self.n_scenes = len(parts)

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return one scene, or a box of it, as float32 (C, *space)."""
        view, number = self._parts[scene]
        return view.read(number, box)


def join(parts: Sequence[Scenes]) -> Scenes:
    """Join scenes to train on together; the first ones keep their numbers.

    Parameters
    ----------
    parts : sequence of Scenes
        Parts with the same channels and space axes; sizes may differ, so each needs its own boxes.
    """
    if len(parts) == 1:
        return parts[0]
    noisy, clean, valid = [], [], []
    for part in parts:
        everywhere = View(np.broadcast_to(np.True_, part.noisy.space), part.noisy.space_axes)
        for scene in range(part.noisy.n_scenes):
            noisy.append((part.noisy, scene))
            clean.append((part.clean, 0 if part.repeats else scene))
            counted = part.valid or everywhere
            valid.append((counted, 0 if counted.n_scenes == 1 else scene))
    return replace(parts[0], noisy=_Joined(noisy), clean=_Joined(clean), valid=_Joined(valid))


def without_near(scenes: Scenes, places: Mapping[int, Sequence[tuple[slice, ...]]], gap_px: int) -> Scenes:
    """Return the scenes with pixels in boxes, or nearer to them than a gap, not counted.

    Parameters
    ----------
    scenes : Scenes
        Scenes with held-out parts. A box holds for all scenes of its field.
    places : mapping of int to sequence of tuple of slice
        Boxes over the space axes, by scene; they may reach over the border.
    gap_px : int
        Receptive field of the networks.
    """
    if not any(places.values()):
        return scenes
    n = scenes.clean.n_scenes
    counts = [
        np.array(np.broadcast_to(scenes.read_valid(s), (scenes.clean.n_channels, *scenes.noisy.space)))
        for s in range(n)
    ]
    for scene, boxes in places.items():
        for box in boxes:
            near = tuple(slice(max(s.start - gap_px, 0), max(s.stop + gap_px, 0)) for s in box)
            for other in range(n):
                if scenes.field_of(other) == scenes.field_of(scene):
                    counts[other][(slice(None), *near)] = False
    return replace(scenes, valid=View(np.stack(counts), "SC" + scenes.noisy.space_axes, "valid"))


def boxes_of(scenes: Sequence[Scenes], first: int) -> list[Box]:
    """Return one box for each scene of a window.

    Parameters
    ----------
    scenes : sequence of Scenes
        Result of `window_scenes`.
    first : int
        Number of the first scene.
    """
    return [Box(first + i, one.whole()[0].slices) for i, one in enumerate(scenes)]
