"""Conversion of napari layers to images with axes, scale and unit, and of images to layers.

A layer is read once, on the main thread, into a value that a step may keep: nothing here is
touched by a worker. Large arrays (dask, zarr, memory maps) are passed on as they are and read
crop by crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from napari_btn.core.data.image import SPACE, Image, Stacked
from napari_btn.widgets.shared.placement import Placement

if TYPE_CHECKING:
    from napari.layers import Image as ImageLayer
    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Pair

__all__ = [
    "KEY",
    "TRUTH",
    "LayerImage",
    "add_image",
    "limits_of",
    "pair_layers",
    "read_layer",
    "stack_images",
]

KEY = "napari_btn"
"""Key of our entries in a layer's metadata."""
TRUTH = "napari_btn_truth"
"""Key in the metadata of a layer that is the truth of a sample, for checks: no dock picks it by itself."""

_LETTER_OF = {
    "s": "S", "scene": "S", "scenes": "S", "position": "S", "p": "S", "repeat": "S",
    "t": "T", "time": "T", "frame": "T",
    "c": "C", "channel": "C", "channels": "C", "element": "C",
    "z": "Z", "depth": "Z", "plane": "Z",
    "y": "Y", "row": "Y", "height": "Y",
    "x": "X", "column": "X", "width": "X",
}  # fmt: skip
_GRAY: WeakKeyDictionary[Any, tuple[Any, Any]] = (
    WeakKeyDictionary()
)  # data of RGB layers, and their one plane
_SHORT_UNIT = {"pixel": "px", "css_pixel": "px", "micrometer": "um", "nanometer": "nm", "millimeter": "mm"}
_LONG_UNIT = {"px": "pixel", "µm": "um", "μm": "um", "": "pixel"}


@dataclass(frozen=True)
class LayerImage(Image):
    """An image as a layer holds it, with its place in the viewer.

    The data are those of the layer: numpy, dask, zarr; level 0 of a multiscale layer. Axes hold "?" where
    they are unknown, and the name is that of the layer, or of the stack.

    Parameters
    ----------
    placement : Placement
        Where it stands.
    """

    axes: str = ""
    unit: str = "px"
    placement: Placement = field(kw_only=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def in_memory(self) -> bool:
        """True if the values are in memory, not in a file or computed on demand."""
        return all(type(part) is np.ndarray for part in getattr(self.data, "arrays", (self.data,)))

    def with_axes(self, axes: str) -> LayerImage:
        """Return the same image with axes that the user gave.

        Parameters
        ----------
        axes : str
            One letter per dimension, any case; anything else is left for the check to refuse.

        Returns
        -------
        LayerImage
            With these axes, not guessed.
        """
        axes = axes.upper()
        if axes == self.axes:
            return replace(self, axes_guessed=False)
        if len(axes) != len(self.axes) or len(set(axes)) != len(axes):
            return replace(self, axes=axes, axes_guessed=False)
        placement = replace(self.placement, axes=axes)
        pixel_size, unit = _pixel_size(placement)
        names = self.channel_names
        if names is not None and ("C" not in axes or self.shape[axes.index("C")] != len(names)):
            names = None
        return replace(
            self,
            axes=axes,
            axes_guessed=False,
            placement=placement,
            pixel_size=pixel_size,
            unit=unit,
            channel_names=names,
        )


def read_layer(layer: ImageLayer) -> LayerImage:
    """Return the data, axes, channel names, pixel size and place of an image layer.

    Axes come from the layer's axis labels, else from its metadata, else from a guess.

    Parameters
    ----------
    layer : napari.layers.Image
        Any image layer.

    Returns
    -------
    LayerImage
        Without a copy of the data.

    Raises
    ------
    ValueError
        If the layer is RGB, and not gray.
    """
    gray = _gray_of(layer) if layer.rgb else None
    if layer.rgb and gray is None:
        raise ValueError(
            f"Layer '{layer.name}' is RGB, a picture; measured channels are needed, one value each. "
            "Right-click it, 'Split RGB', and pick the channels with '+'."
        )
    data = gray if gray is not None else layer.data[0] if layer.multiscale else layer.data
    axes, guessed = _axes_of(layer, tuple(data.shape))
    placement = Placement(
        axes,
        tuple(float(v) for v in layer.scale),
        tuple(float(v) for v in layer.translate),
        np.asarray(layer.rotate, dtype=float),
        _shear_matrix(layer.shear, len(axes)),
        np.asarray(layer.affine.affine_matrix, dtype=float),
        tuple(str(u) for u in layer.units),
        tuple(layer.axis_labels),
    )
    pixel_size, unit = _pixel_size(placement)
    names = _channel_names(layer, axes, data.shape)
    return LayerImage(data, axes, names, pixel_size, unit, layer.name, guessed, placement=placement)


def _gray_of(layer: ImageLayer) -> NDArray[Any] | None:
    """Return one plane of an RGB layer whose colours are all equal, always the same array; None of other layers."""
    data = layer.data
    if not isinstance(data, np.ndarray):
        return None
    known = _GRAY.get(layer)
    if known is None or known[0] is not data:
        red = data[..., 0]
        equal = all(np.array_equal(red, data[..., c]) for c in (1, 2))
        known = _GRAY[layer] = (data, red if equal else None)
    return known[1]


def stack_images(images: Sequence[LayerImage], axis: str) -> LayerImage:
    """Stack images as channels or as repeats.

    Parameters
    ----------
    images : sequence of LayerImage
        Of one shape and the same axes.
    axis : str
        ``"C"`` for channels, ``"S"`` for repeats.

    Returns
    -------
    LayerImage
        With ``axis`` in front, placed as the first image; read lazily.

    Raises
    ------
    ValueError
        If shapes or axes differ, or the images have that axis already.
    """
    first = images[0]
    if len(images) == 1:
        return first
    for other in images[1:]:
        if (other.shape, other.axes) != (first.shape, first.axes):
            raise ValueError(
                f"'{first.name}' has axes {first.axes} {first.shape}, '{other.name}' has {other.axes} {other.shape}; "
                "layers of one stack must match. Crop them, or pick others."
            )
    if axis in first.axes:
        what = "channels" if axis == "C" else "repeats"
        raise ValueError(
            f"'{first.name}' has axes {first.axes}, which hold {what} already; layers without {axis} can be "
            f"stacked as {what}. Pick one layer, or stack them in another way."
        )
    names = tuple(image.name for image in images)
    axes = axis + first.axes
    return LayerImage(
        Stacked([image.data for image in images]),
        axes,
        names if axis == "C" else first.channel_names,
        first.pixel_size,
        first.unit,
        _common_name(names),
        any(image.axes_guessed for image in images),
        placement=first.placement.onto(axes),
    )


def add_image(viewer: Any, image: Image) -> ImageLayer:
    """Add a layer with an image that was read from a file.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    image : Image
        Data with what its file said of axes, channels and pixel size.

    Returns
    -------
    napari.layers.Image
        The new layer.
    """
    axes = image.axes if image.axes and not image.axes_guessed else None
    metadata = {"channel_names": list(image.channel_names)} if image.channel_names else {}
    # a picture of three or four bytes per pixel opens as napari opens it; pickers refuse it with a sentence
    picture = (
        axes is None
        and len(image.data.shape) == 3
        and image.data.shape[-1] in (3, 4)
        and min(image.data.shape[:2]) > 4
        and np.dtype(image.data.dtype) == np.uint8
    )
    arguments: dict[str, Any] = {"name": image.name, "metadata": metadata, "rgb": picture}
    if axes:
        arguments |= _grid(axes, image.pixel_size, image.unit or "px")
    return viewer.add_image(image.data, **arguments)


def pair_layers(pair: Pair) -> list[tuple[Any, dict[str, Any], str]]:
    """Return the noisy and clean layers of a pair.

    Parameters
    ----------
    pair : Pair
        With a clean image.

    Returns
    -------
    list of tuple
        Data, keyword arguments and kind of a noisy and a clean layer.
    """
    layers = []
    for role, data, axes in (("noisy", pair.noisy, pair.axes), ("clean", pair.clean, pair.clean_axes)):
        names = list(pair.channel_names or ())
        limits = limits_of(np.asarray(data), 99.8)
        arguments = {
            "name": f"{pair.name} {role}",
            "contrast_limits": limits,
            "metadata": {"channel_names": names} if names else {},
            "rgb": False,
            **_grid(axes, pair.pixel_size, pair.unit),
        }
        layers.append((data, arguments, "image"))
    return layers


def _grid(axes: str, pixel_size: Sequence[float] | None, unit: str) -> dict[str, Any]:
    """Return axis labels, scale and units of a layer."""
    axes = axes.upper()
    space = [a for a in axes if a in SPACE]
    size = dict(zip(space, pixel_size or [1.0] * len(space), strict=True))
    unit = _LONG_UNIT.get(unit, unit)
    return {
        "axis_labels": tuple(axes.lower()),
        "scale": tuple(float(size.get(a, 1.0)) for a in axes),
        "units": tuple(unit if a in size else "pixel" for a in axes),
    }


def _axes_of(layer: ImageLayer, shape: tuple[int, ...]) -> tuple[str, bool]:
    """Return the axes letters of a layer, and True if they are a guess."""
    known = [_LETTER_OF.get(str(label).lower(), "?") for label in layer.axis_labels]
    ours = layer.metadata.get(KEY)
    named = layer.metadata.get("axes") or (ours.get("axes") if isinstance(ours, Mapping) else None)
    for axes in ("".join(known), str(named or "").upper()):
        if len(axes) == len(shape) and len(set(axes)) == len(axes) and set(axes) <= set("STCZYX"):
            return axes, False
    from napari_btn.io.metadata import guess_axes

    return guess_axes(shape) or "?" * len(shape), True


def _channel_names(layer: ImageLayer, axes: str, shape: Sequence[int]) -> tuple[str, ...] | None:
    """Return the channel names in a layer's metadata, if there is one for each channel."""
    ours = layer.metadata.get(KEY)
    names = layer.metadata.get("channel_names") or (
        ours.get("channel_names") if isinstance(ours, Mapping) else None
    )
    if not isinstance(names, list | tuple) or "C" not in axes or len(names) != shape[axes.index("C")]:
        return None
    return tuple(str(name) for name in names)


def _pixel_size(placement: Placement) -> tuple[tuple[float, ...] | None, str]:
    """Return the pixel size along the space axes and its unit; None if the layer has none."""
    space = [i for i, letter in enumerate(placement.axes) if letter in SPACE]
    if not space:
        return None, "px"
    units = [placement.units[i] for i in space]
    unit = _SHORT_UNIT.get(units[-1], units[-1])
    size = tuple(abs(placement.scale[i]) for i in space)
    if len(set(units)) > 1 or (unit == "px" and set(size) == {1.0}):
        return None, "px"
    return size, unit


def _shear_matrix(shear: Any, n: int) -> NDArray[np.float64]:
    """Return the shear as a matrix; napari may give the upper triangle only."""
    values = np.asarray(shear, dtype=float)
    if values.ndim == 2:
        return values
    matrix = np.eye(n)
    matrix[np.triu_indices(n, 1)] = values
    return matrix


def _common_name(names: Sequence[str]) -> str:
    """Return a short name for a stack."""
    return " + ".join(names) if sum(map(len, names)) <= 24 else f"{names[0]} + {len(names) - 1}"


def limits_of(values: NDArray[Any], high: float) -> tuple[float, float]:
    """Return the low and high contrast limit of finite values.

    Parameters
    ----------
    values : ndarray
        Any shape.
    high : float
        Percentile of the high limit; the low one is as far from the other end.

    Returns
    -------
    tuple of float
        Low and high, low < high.
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, top = (float(v) for v in np.percentile(values, (100 - high, high)))
    if top <= low:
        low, top = float(values.min()), float(values.max())
    return (low, top) if top > low else (low, low + 1.0)
