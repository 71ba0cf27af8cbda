"""Neighbouring frames of a series that networks see together with a frame, as further channels."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from napari_btn.core.data.image import View, middle_of_space
from napari_btn.core.progress import Note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Series", "series_axes"]

_BLOCK_PX = 8  # side of the means by which frames are compared
_FEWEST = 16  # means of a frame that a comparison needs
_FALL = 0.5  # share of the usual correlation below which the scene has changed
_SURE = 5.0  # standard errors by which the correlation must fall


class Series:
    """The neighbouring frames that networks see with each frame of an image.

    A neighbour beyond the ends of the series, or beyond a scene change, is replaced by the frame on the other
    side, at the same distance. If that is none either, the nearest other frame of the scene is taken, and
    without any other frame the frame itself.

    Parameters
    ----------
    source : View
        The series, as it was measured.
    count : int
        Frames that networks see at a time, odd, the one to be denoised in the middle.

    References
    ----------
    Sheth, Mohan, Vincent, Manzorro, Crozier, Khapra, Simoncelli & Fernandez-Granda, "Unsupervised deep video
    denoising", ICCV 2021, arXiv 2011.15045, on five frames with a blind spot in the middle one.
    """

    def __init__(self, source: View, count: int) -> None:
        self.source, self.count = source, count
        self._starts: dict[int, tuple[int, ...]] = {}

    @property
    def reach(self) -> int:
        """Number of frames that networks see to each side."""
        return self.count // 2

    def starts(self, field: int) -> tuple[int, ...]:
        """Return the frames of a field, from 0, with which a new scene begins; frames are compared once.

        Parameters
        ----------
        field : int
            Number of the field.
        """
        if field not in self._starts:
            self._starts[field] = (0, *_scene_changes(self.source, field))
        return self._starts[field]

    @property
    def notes(self) -> tuple[Note, ...]:
        """A note on scene changes, if there are any."""
        changes = {f: self.starts(f)[1:] for f in range(self.source.n_scenes // self.source.n_frames)}
        found = [
            f"{', '.join(str(n) for n in frames)}{f' of series {field}' if len(changes) > 1 else ''}"
            for field, frames in changes.items()
            if frames
        ]
        if not found:
            return ()
        text = (
            f"The scene changes with frame {'; '.join(found)} (counted from 0): networks see neighbours of the same "
            "scene only. If that is wrong, let them see single frames (frames=1)."
        )
        return (Note("amber", text),)

    def neighbours(self, scene: int) -> tuple[int, ...]:
        """Return the numbers of the neighbouring frames: one before, one after, two before, and so on.

        Parameters
        ----------
        scene : int
            Number of the frame, over all fields.
        """
        frames = self.source.n_frames
        field, frame = divmod(scene, frames)
        starts = self.starts(field)
        first = max(start for start in starts if start <= frame)
        last = min((start - 1 for start in starts if start > frame), default=frames - 1)
        found = []
        for far in range(1, self.reach + 1):
            for step in (-far, far):
                at = frame + step if first <= frame + step <= last else frame - step
                if not first <= at <= last:
                    others = [f for f in range(first, last + 1) if f != frame] or [frame]
                    at = min(others, key=lambda f: abs(f - frame - step))
                found.append(field * frames + at)
        return tuple(found)

    def around(
        self, own: NDArray[np.float32], scene: int, box: Sequence[slice] | None = None
    ) -> NDArray[np.float32]:
        """Return a frame and its neighbours, (C * count, *space).

        Parameters
        ----------
        own : ndarray of float32, (C, *space)
            The frame in the middle as networks see it, such as with masked pixels.
        scene : int
            Number of the frame.
        box : sequence of slice, optional
            Its part; all of it by default.
        """
        # a frame that stands for its own neighbour must not show what is masked
        parts = [own if n == scene else self.source.read(n, box) for n in self.neighbours(scene)]
        return np.concatenate([own, *parts])

    def widen(self, view: View) -> View:
        """Return a view of the middle frames with their neighbours as further channels.

        Parameters
        ----------
        view : View
            The middle frames as networks see them.
        """
        return _Widened(view, self)


class _Widened(View):
    """An image of which each frame has its neighbours as further channels."""

    def __init__(self, view: View, series: Series) -> None:
        super().__init__(view.array, view.axes)
        self._view, self._own = view, series
        self.n_scenes, self.n_channels = view.n_scenes, view.n_channels * series.count

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return one frame with its neighbours, or a box of them, as float32 (C * count, *space)."""
        return self._own.around(self._view.read(scene, box), scene, box)

    def neighbours(self, scene: int) -> tuple[int, ...]:
        """Return the numbers of the neighbouring frames, whose channels follow."""
        return self._own.neighbours(scene)


def series_axes(axes: str, along: str) -> str:
    """Return the axes of an image whose neighbouring frames lie along T.

    Slices along Z become the frames; times become scenes.

    Parameters
    ----------
    axes : str
        Axes of the image.
    along : str
        Axis of the neighbouring frames, "t" or "z".

    Raises
    ------
    ValueError
        If the image has no such axis, or slices, times and scenes at once.
    """
    axes = axes.upper()
    if along.upper() not in axes:
        what = "frames" if along == "t" else "slices"
        raise ValueError(
            f"The image has axes {axes}; members that see neighbouring {what} need the axis {along.upper()}. Give the "
            "whole series, or let them see single frames (frames=1)."
        )
    if along == "t":
        return axes
    if {"S", "T"} <= set(axes):
        raise ValueError(
            f"The image has axes {axes}; with neighbouring slices along Z it may have S or T, not both. Give one scene "
            "at a time."
        )
    return axes.replace("T", "S").replace("Z", "T")


def _scene_changes(view: View, field: int = 0) -> tuple[int, ...]:
    """Return the frames of a field with which another scene begins.

    Means of small blocks of each frame are correlated with those of the frame before. Where the correlation falls
    below half of its median over the series, and by more than chance, the scene has changed. Movement, bleaching
    and blinking change most of the series alike, so they make no change of scene.

    Parameters
    ----------
    view : View
        Series with two or more frames.
    field : int
        Number of the field.
    """
    frames, box = view.n_frames, middle_of_space(view.space)
    if frames < 3:
        return ()
    means = [_standard(_block_means(view.read_finite(field * frames + f, box))) for f in range(frames)]
    blocks = means[0].shape[1]
    if blocks < _FEWEST:
        return ()
    alike = np.array([float((a * b).mean()) for a, b in pairwise(means)])
    usual = float(np.median(alike))
    fallen = (alike < _FALL * usual) & (alike < usual - _SURE / np.sqrt(blocks))
    return tuple(int(f) + 1 for f in np.flatnonzero(fallen))


def _block_means(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the means of blocks of an image (C, *space), as (C, n)."""
    made = values.astype(np.float64)
    for axis in range(1, values.ndim):
        side = min(_BLOCK_PX, made.shape[axis])
        whole = made.shape[axis] // side
        cut = np.take(made, range(whole * side), axis)
        made = cut.reshape(*cut.shape[:axis], whole, side, *cut.shape[axis + 1 :]).mean(axis + 1)
    return made.reshape(len(made), -1)


def _standard(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values of each channel with mean 0 and variance 1, so that brightness does not count."""
    away = means - means.mean(1, keepdims=True)
    return np.asarray(away / np.maximum(away.std(1, keepdims=True), 1e-12))
