"""One image: an array, its axes and what else is known of it, and how it is read crop by crop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["LETTERS", "SPACE", "Box", "Image", "View", "canonical_axes", "channel_number", "values_at"]

SPACE = "ZYX"
LETTERS = "STC" + SPACE


def canonical_axes(axes: str, ndim: int, name: str = "image") -> str:
    """Upper-case axes letters, checked against the number of dimensions.

    Raises
    ------
    ValueError
        For an unknown letter, a letter that comes twice, a count that differs from ``ndim``,
        or no ``YX``.
    """
    axes = axes.upper()
    if unknown := sorted(set(axes) - set(LETTERS)):
        raise ValueError(
            f"Axes {axes} hold the unknown letter {', '.join(unknown)}; "
            "use S (scene), T (time), C (channel), Z, Y, X, each at most once."
        )
    if len(set(axes)) != len(axes):
        raise ValueError(f"Axes {axes} name a letter twice; each of S, T, C, Z, Y, X may come once.")
    if len(axes) != ndim:
        raise ValueError(
            f"Axes {axes} name {len(axes)} dimensions, {name} has {ndim}; give one letter for each dimension."
        )
    if not {"Y", "X"} <= set(axes):
        raise ValueError(f"Axes {axes} lack Y or X; an image needs both.")
    return axes


@dataclass(frozen=True)
class Image:
    """An array with what is known of it: of a file, a layer or a script.

    Parameters
    ----------
    data : array-like
        numpy array, read-only memory map or zarr array, of the dtype of the file.
    axes : str, optional
        One letter of S, T, C, Z, Y, X per dimension; None where not even a guess is possible.
    channel_names : tuple of str, optional
        One per channel.
    pixel_size : tuple of float, optional
        One per space axis, in the order of ``axes``, in ``unit``.
    unit : str, optional
        Unit of the pixel size, e.g. "um".
    name : str
        Name of the image, without folder and suffix.
    axes_guessed : bool
        True if the axes come from the shape alone.
    """

    data: Any
    axes: str | None = None
    channel_names: tuple[str, ...] | None = None
    pixel_size: tuple[float, ...] | None = None
    unit: str | None = None
    name: str = ""
    axes_guessed: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array, read or not."""
        size: int = math.prod(self.data.shape) * np.dtype(self.data.dtype).itemsize
        return size

    @cached_property
    def view(self) -> View:
        """The array read crop by crop; ``ValueError`` where axes are unknown or don't fit."""
        return View(self.data, self.axes or "", "image")


class View:
    """Any array (numpy, dask, zarr, memory map) read crop by crop as (scene, C, *space), float32.

    Nothing is read before `read` asks for it, so an image may be larger than memory.

    Parameters
    ----------
    array : array-like
        Has ``shape`` and slicing.
    axes : str
        One letter per dimension, any order.
    first : tuple of int
        Fixed indices of dimensions that stand before ``axes``.
    """

    def __init__(self, array: Any, axes: str, name: str = "image", *, first: tuple[int, ...] = ()) -> None:
        if not hasattr(array, "shape"):
            array = np.asarray(array)
        shape = array.shape[len(first) :]
        self.axes = canonical_axes(axes, len(shape), name)
        if (kind := np.dtype(getattr(array, "dtype", float)).kind) not in "biuf" or 0 in shape:
            came = "no pixels" if kind in "biuf" else f"values of type {array.dtype}"
            raise ValueError(f"{name.capitalize()} has {came}; it must hold real numbers. Convert it first.")
        self.array, self._first = array, first
        size = dict(zip(self.axes, shape, strict=True))
        self.n_scenes = size.get("S", 1) * size.get("T", 1)
        self.n_channels = size.get("C", 1)
        self.space_axes = "".join(a for a in SPACE if a in size)
        self.space = tuple(int(size[a]) for a in self.space_axes)
        self.ndim = len(self.space)
        self._frames = size.get("T", 1)

    def _index(self, scene: int, box: Sequence[slice] | None) -> tuple[tuple[int | slice, ...], list[str]]:
        """Index of a scene's box in the array, and the axes that are left."""
        where = dict(zip(self.space_axes, box, strict=True)) if box is not None else {}
        fixed = {"S": scene // self._frames, "T": scene % self._frames}
        index = tuple(fixed[a] if a in fixed else where.get(a, slice(None)) for a in self.axes)
        return self._first + index, [a for a in self.axes if a not in fixed]

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """One scene, or a box of it, as (C, *space) float32 with the space axes in the order ZYX."""
        index, left = self._index(scene, box)
        # what float32 can't hold becomes infinite, and `check` says so
        with np.errstate(over="ignore"):
            crop = np.asarray(self.array[index], dtype=np.float32)
        if "C" not in left:
            crop, left = crop[None], ["C", *left]
        return crop.transpose([left.index(a) for a in "C" + self.space_axes])

    def write(self, scene: int, box: Sequence[slice], values: NDArray[np.float32]) -> None:
        """Put (C, *space) values where `read` would take them from."""
        index, left = self._index(scene, box)
        order = "C" + self.space_axes
        if "C" not in left:
            values, order = values[0], order[1:]
        self.array[index] = values.transpose([order.index(a) for a in left])


def channel_number(channel: str | int | None, names: Sequence[str]) -> int:
    """Number of a channel, from 0, by its name or its number; None means the only one.

    Raises
    ------
    ValueError
        If there is no such channel, or several and none is named.
    """
    known = ", ".join(names)
    if channel is None:
        if len(names) > 1:
            raise ValueError(
                f"There are {len(names)} channels and none is named; give channel=, one of {known}."
            )
        return 0
    if isinstance(channel, str) and channel in names:
        return list(names).index(channel)
    if not isinstance(channel, str) and 0 <= channel < len(names):
        return int(channel)
    raise ValueError(
        f"Channel is {channel!r}; there are {known}. Give one of those names, or a number from 0."
    )


@dataclass(frozen=True)
class Box:
    """A box of one scene, over its space axes."""

    scene: int
    slices: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Side lengths in pixels."""
        return tuple(s.stop - s.start for s in self.slices)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return int(np.prod(self.shape))

    def crop(self, side: int | Sequence[int], rng: np.random.Generator) -> tuple[slice, ...]:
        """Return a random crop of at most ``side`` pixels along each axis."""
        sides = (side,) * len(self.slices) if isinstance(side, int) else side
        starts = [
            int(rng.integers(s.start, max(s.stop - w, s.start) + 1))
            for s, w in zip(self.slices, sides, strict=True)
        ]
        return tuple(slice(a, min(a + w, s.stop)) for a, w, s in zip(starts, sides, self.slices, strict=True))


def values_at(view: View, position: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Values of an image at some pixels.

    Parameters
    ----------
    view : View
        The image.
    position : ndarray of int, (n, 1 + ndim)
        Scene and index of each pixel.

    Returns
    -------
    ndarray of float32, (C, n)
        In the order of the positions.
    """
    out = np.empty((view.n_channels, len(position)), dtype=np.float32)
    for s in np.unique(position[:, 0]):
        rows = position[:, 0] == s
        out[:, rows] = view.read(int(s))[(slice(None), *position[rows, 1:].T)]
    return out
