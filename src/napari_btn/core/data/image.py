"""An image with its axes and metadata, and a view that reads it crop by crop.

Long because all orders of axes, boxes of pixels and names of channels and units are handled here alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.series import Series

__all__ = [
    "LETTERS",
    "SPACE",
    "Box",
    "Image",
    "Look",
    "Stacked",
    "View",
    "canonical_axes",
    "channel_number",
    "middle_of_space",
    "names_in_text",
    "shown_amount",
    "shown_names",
    "shown_unit",
    "upper_axes",
    "values_at",
    "whole_boxes",
]

SPACE = "ZYX"
LETTERS = "STC" + SPACE
_WHOLE_FROM = 999.95  # shown with four digits, it is 1000
_MANY_CHANNELS = 16  # from more on, axes with fewer rows or columns than channels are taken for a mistake
_MIDDLE = {2: 512, 3: 96}  # side in pixels of the part of a large image that is analysed


def canonical_axes(axes: str, ndim: int, name: str = "image") -> str:
    """Return axes letters in upper case, checked against the number of dimensions.

    Raises
    ------
    ValueError
        If the axes are no text, a letter is unknown or comes twice, the count differs from ``ndim``, or Y or X is
        missing.
    """
    axes = upper_axes(axes)
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


def upper_axes(axes: str) -> str:
    """Return axes letters in upper case; raise ``ValueError`` if they are no text.

    Parameters
    ----------
    axes : str
        One letter per dimension, not checked any further.
    """
    if not isinstance(axes, str):
        raise ValueError(f'Axes are {axes!r}; give one letter for each dimension as a text, such as "CYX".')
    return axes.upper()


@dataclass(frozen=True)
class Image:
    """An array with its metadata, from a file, a layer or a script.

    Parameters
    ----------
    data : array-like
        numpy array, read-only memory map or zarr array, of the dtype of the file.
    axes : str, optional
        One letter of S, T, C, Z, Y, X per dimension; None if unknown.
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
        """Size of the whole array in bytes."""
        size: int = math.prod(self.data.shape) * np.dtype(self.data.dtype).itemsize
        return size

    @cached_property
    def view(self) -> View:
        """View that reads the array crop by crop.

        Raises
        ------
        ValueError
            If the axes are unknown or don't fit.
        """
        return View(self.data, self.axes or "", "image")


def _need_few_channels(axes: str, shape: Sequence[int], name: str) -> None:
    """Raise where an axis of rows or columns was most likely named C: many channels, and fewer rows or columns."""
    size = dict(zip(axes, shape, strict=True))
    count = size.get("C", 1)
    if count <= _MANY_CHANNELS or count <= min(size["Y"], size["X"]):
        return
    least = min(range(len(shape)), key=lambda i: shape[i])
    left = axes.replace("C", "")
    raise ValueError(
        f"Axes {axes} make {count} channels of {size['Y']} x {size['X']} px of {name} with shape {tuple(shape)}; an "
        f"image needs at least as many rows and columns as channels. Give one letter for each dimension in its "
        f'order, such as axes "{left[:least]}C{left[least:]}", and sum spectra to a few element maps first.'
    )


class View:
    """A reader of any array (numpy, dask, zarr, memory map) in crops of float32 (C, *space).

    Data are read only on demand, so an image may be larger than memory.

    Parameters
    ----------
    array : array-like
        Has ``shape`` and slicing.
    axes : str
        One letter per dimension, any order.
    first : tuple of int
        Fixed indices of the leading dimensions, before those of ``axes``.

    Attributes
    ----------
    series : Series, optional
        Neighbouring frames that networks see as well; None if they see single frames.
    """

    series: Series | None = None

    def __init__(self, array: Any, axes: str, name: str = "image", *, first: tuple[int, ...] = ()) -> None:
        if not hasattr(array, "shape"):
            array = np.asarray(array)
        if np.ma.is_masked(array):
            raise ValueError(
                f"{name.capitalize()} is a masked array, whose mask would be lost; give its values as they are, or "
                'image.filled(numpy.nan) where valid="finite" is an argument.'
            )
        if array.shape == ():
            came = np.asarray(array).item()
            raise ValueError(
                f"{name.capitalize()} is {came!r}, which is no image; give an array, such as the data of "
                "napari_btn.io.images.read_image."
            )
        shape = array.shape[len(first) :]
        self.axes = canonical_axes(axes, len(shape), name)
        if (kind := np.dtype(getattr(array, "dtype", float)).kind) not in "biuf" or 0 in shape:
            came = "no pixels" if kind in "biuf" else f"values of type {array.dtype}"
            raise ValueError(f"{name.capitalize()} has {came}; it must hold real numbers. Convert it first.")
        self.array, self._first = array, first
        _need_few_channels(self.axes, shape, name)
        size = dict(zip(self.axes, shape, strict=True))
        self.n_scenes = size.get("S", 1) * size.get("T", 1)
        self.n_channels = size.get("C", 1)
        self.space_axes = "".join(a for a in SPACE if a in size)
        self.space = tuple(int(size[a]) for a in self.space_axes)
        self.ndim = len(self.space)
        self.n_frames = size.get("T", 1)

    @property
    def n_inputs(self) -> int:
        """Number of channels that networks see: those of neighbouring frames, too."""
        return int(self.n_channels * (1 if self.series is None else self.series.count))

    @property
    def widened(self) -> View:
        """The image with the neighbouring frames that networks see as further channels."""
        return self if self.series is None else self.series.widen(self)

    def neighbours(self, scene: int) -> tuple[int, ...]:
        """Return the numbers of the frames whose channels follow those of a scene; none for single frames."""
        del scene
        return ()

    @property
    def looks(self) -> tuple[Look, ...]:
        """Views that networks see, whose predictions are summed with their weights."""
        if self.series is None:
            return self.own_looks
        return tuple(Look(self.series.widen(look.view), look.weight) for look in self.own_looks)

    @property
    def own_looks(self) -> tuple[Look, ...]:
        """Looks at single frames; an image itself is the only one."""
        return (Look(self),)

    def _index(self, scene: int, box: Sequence[slice] | None) -> tuple[tuple[int | slice, ...], list[str]]:
        """Return the index of a scene's box in the array, and the remaining axes."""
        where = dict(zip(self.space_axes, box, strict=True)) if box is not None else {}
        fixed = {"S": scene // self.n_frames, "T": scene % self.n_frames}
        index = tuple(fixed[a] if a in fixed else where.get(a, slice(None)) for a in self.axes)
        return self._first + index, [a for a in self.axes if a not in fixed]

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return one scene, or a box of it, as float32 (C, *space) with the space axes in the order ZYX."""
        index, left = self._index(scene, box)
        # values beyond the range of float32 become infinite, which `Scenes.check_steps` reports
        with np.errstate(over="ignore"):
            crop = np.asarray(self.array[index], dtype=np.float32)
        if "C" not in left:
            crop, left = crop[None], ["C", *left]
        return crop.transpose([left.index(a) for a in "C" + self.space_axes])

    def read_finite(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return the values of `read`, zero where they are NaN or infinite."""
        return np.nan_to_num(self.read(scene, box), nan=0.0, posinf=0.0, neginf=0.0)

    def write(self, scene: int, box: Sequence[slice], values: NDArray[np.float32]) -> None:
        """Write (C, *space) values to a box of one scene."""
        index, left = self._index(scene, box)
        order = "C" + self.space_axes
        if "C" not in left:
            values, order = values[0], order[1:]
        self.array[index] = values.transpose([order.index(a) for a in left])


@dataclass(frozen=True)
class Look:
    """One of the views in which networks see an image, and its weight in their prediction.

    Parameters
    ----------
    view : View
        The image as the networks see it, in the shape of the image.
    weight : callable, optional
        Weight of each pixel (*box) in the sum over all looks, of a scene and a box; by default 1.
    """

    view: View
    weight: Callable[[int, Sequence[slice]], NDArray[np.float32]] | None = None


class Stacked:
    """Arrays as one with a new first axis, read only where asked.

    Parameters
    ----------
    arrays : sequence of array
        Of one shape.
    """

    def __init__(self, arrays: Sequence[Any]) -> None:
        self.arrays = tuple(arrays)
        self.shape = (len(self.arrays), *self.arrays[0].shape)
        self.ndim = len(self.shape)
        self.dtype = np.result_type(*(np.dtype(a.dtype) for a in self.arrays))

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, slice):
            return np.stack([np.asarray(a[tuple(rest)]) for a in self.arrays[first]])
        return np.asarray(self.arrays[first][tuple(rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.stack([np.asarray(a) for a in self.arrays]).astype(dtype or self.dtype, copy=False)


def channel_number(channel: str | int | None, names: Sequence[str]) -> int:
    """Return the number of a channel, from 0, given its name or number; None means the only one.

    Raises
    ------
    ValueError
        If there is no such channel, or if there are several and none is named.
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
    whole = isinstance(channel, int | np.integer) and not isinstance(channel, bool)
    if whole and 0 <= int(channel) < len(names):
        return int(channel)
    raise ValueError(
        f"Channel is {channel!r}; there are {known}. Give one of those names, or a number from 0."
    )


_SHOWN_UNITS = {"um": "µm", "pixel": "px"}


def shown_unit(unit: str) -> str:
    """Return a unit as people read it: "µm" for "um", "µm²" for "um^2", "px" for "pixel", others as they are.

    Parameters
    ----------
    unit : str
        Of a pixel size, an area or a volume.
    """
    base, _, power = unit.partition("^")
    return _SHOWN_UNITS.get(base, base) + {"": "", "2": "²", "3": "³"}.get(power, f"^{power}")


def shown_amount(value: float) -> str:
    """Return an area or a count as people read it: 27,264 for 27264.3, and four digits below a thousand.

    Parameters
    ----------
    value : float
        In any unit.
    """
    return f"{value:,.0f}" if abs(value) >= _WHOLE_FROM else f"{value:.4g}"


def shown_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return channel names as people read them: without a name, "image" if it is the only one, else "channel 0".

    Parameters
    ----------
    names : sequence of str
        Names of the channels; "0", "1", ... where they have none.
    """
    if tuple(names) in ((), ("0",)):
        return ("image",)
    return tuple(f"channel {name}" if name == str(c) else name for c, name in enumerate(names))


def names_in_text(names: Sequence[str], which: Sequence[int]) -> str:
    """Return channels as words of a sentence: their names, or "the image" for the only one without a name.

    Parameters
    ----------
    names : sequence of str
        Names of all channels; "0", "1", ... where they have none.
    which : sequence of int
        Numbers of the channels that are meant.
    """
    shown = shown_names(names)
    return "the image" if shown == ("image",) else ", ".join(shown[c] for c in which)


def whole_boxes(space: Sequence[int], n_scenes: int) -> list[Box]:
    """Return one box per scene that holds all of it.

    Parameters
    ----------
    space : sequence of int
        Size of a scene along its space axes, in pixels.
    n_scenes : int
    """
    return [Box(s, tuple(slice(0, n) for n in space)) for s in range(n_scenes)]


@dataclass(frozen=True)
class Box:
    """A box within one scene, over its space axes."""

    scene: int
    slices: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Side lengths in pixels."""
        return tuple(s.stop - s.start for s in self.slices)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return math.prod(self.shape)

    def slabs(self, most: int) -> list[tuple[slice, ...]]:
        """Cut the box along its first axis into slabs of at most ``most`` pixels, if a row is no larger."""
        first, *rest = self.slices
        step = max(most // math.prod(self.shape[1:]), 1)
        starts = range(first.start, first.stop, step)
        return [(slice(start, min(start + step, first.stop)), *rest) for start in starts]

    def crop(self, side: int | Sequence[int], rng: np.random.Generator) -> tuple[slice, ...]:
        """Draw a random crop of at most ``side`` pixels along each axis."""
        sides = (side,) * len(self.slices) if isinstance(side, int) else side
        starts = [
            int(rng.integers(s.start, max(s.stop - w, s.start) + 1))
            for s, w in zip(self.slices, sides, strict=True)
        ]
        return tuple(slice(a, min(a + w, s.stop)) for a, w, s in zip(starts, sides, self.slices, strict=True))


def middle_of_space(space: Sequence[int]) -> tuple[slice, ...]:
    """Return the middle part of an image, large enough to look for repeats or a shift.

    Parameters
    ----------
    space : sequence of int
        Spatial shape, in pixels.
    """
    side = _MIDDLE[len(space)]
    return tuple(slice(max(n - side, 0) // 2, max(n - side, 0) // 2 + min(n, side)) for n in space)


def values_at(view: View, position: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Return the values of an image at the given pixels.

    Parameters
    ----------
    view : View
        Image.
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
