"""Layers of the Uncertainty dock: maps and masks over a result, a line to cut along, a grid."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.widgets.shared.layers import KEY, read_layer

if TYPE_CHECKING:
    from napari.layers import Image as ImageLayer
    from napari.layers import Labels, Layer, Shapes
    from numpy.typing import NDArray

    from napari_btn.widgets.shared.placement import Placement

__all__ = [
    "as_before",
    "line_layer",
    "map_layer",
    "mask_layer",
    "our_layer",
    "placement_of",
    "plane_of",
    "side_by_side",
    "truths",
]

_ANCHORS = ("median", "lower", "upper", "width")
_COLORMAPS = {"exceedance": "viridis", "miscoverage": "magma", "spread": "magma"}
_TAKES_AWAY, _ADDS = (0.2, 0.45, 1.0), (1.0, 0.25, 0.15)


def our_layer(viewer: Any, name: str, kind: str) -> Any:
    """Our layer of that name and kind; None where there is none.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    name : str
        Name of the layer.
    kind : str
        The map it holds, as its metadata say.

    Returns
    -------
    napari.layers.Layer or None
        The layer.
    """
    if name not in viewer.layers:
        return None
    layer = viewer.layers[name]
    record = layer.metadata.get(KEY)
    return layer if isinstance(record, Mapping) and record.get("map") == kind else None


def placement_of(viewer: Any, source: str, axes: str) -> Placement | None:
    """Where the results of a source stand; None where neither they nor the source are there.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    source : str
        Name of the source.
    axes : str
        Axes of what is to be placed.

    Returns
    -------
    Placement or None
        For those axes.
    """
    from napari.layers import Image

    found = [our_layer(viewer, f"{source} {kind}", kind) for kind in _ANCHORS]
    found += [viewer.layers[source]] if source in viewer.layers else []
    for layer in found:
        if isinstance(layer, Image) and not layer.rgb:
            return read_layer(layer).placement.onto(axes)
    return None


def map_layer(
    viewer: Any,
    name: str,
    data: NDArray[np.float32],
    placement: Placement | None,
    record: Mapping[str, Any],
    limits: tuple[float, float],
) -> ImageLayer:
    """Layer with a map, made or brought up to date.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    name : str
        Name of the layer.
    data : ndarray of float32
        In the axes of the placement.
    placement : Placement, optional
        Where it stands.
    record : mapping
        Metadata, with the name of the map as "map".
    limits : tuple of float
        Contrast limits of a new layer.

    Returns
    -------
    napari.layers.Image
        The layer.
    """
    old = our_layer(viewer, name, record["map"])
    if old is not None and old.data.shape == data.shape:
        old.data = data
        old.metadata = {**old.metadata, KEY: dict(record)}
        return old
    if old is not None:
        viewer.layers.remove(old)
    return viewer.add_image(
        data,
        name=name,
        colormap=_signed() if record["map"] == "filter" else _COLORMAPS.get(record["map"], "gray"),
        contrast_limits=limits,
        metadata={KEY: dict(record)},
        rgb=False,
        **({} if placement is None else placement.to_layer()),
    )


def _signed() -> Any:
    """Colormap from blue over nothing to red: what lies beneath shows where a map is zero."""
    from napari.utils import Colormap

    colours = [(*_TAKES_AWAY, 1.0), (*_TAKES_AWAY, 0.0), (*_ADDS, 0.0), (*_ADDS, 1.0)]
    return Colormap(colours, name="blue, nothing, red", controls=[0.0, 0.49, 0.51, 1.0])


def mask_layer(
    viewer: Any,
    name: str,
    data: NDArray[np.uint8],
    placement: Placement | None,
    record: Mapping[str, Any],
) -> Labels:
    """Layer that outlines a mask, made or brought up to date.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    name : str
        Name of the layer.
    data : ndarray of uint8
        1 inside.
    placement : Placement, optional
        Where it stands.
    record : mapping
        Metadata, with the name of the map as "map".

    Returns
    -------
    napari.layers.Labels
        The layer; an outline, so that what it outlines stays in sight.
    """
    from napari.utils.colormaps import DirectLabelColormap

    old = our_layer(viewer, name, record["map"])
    if old is not None and old.data.shape == data.shape:
        old.data = data
        old.metadata = {**old.metadata, KEY: dict(record)}
        return old
    if old is not None:
        viewer.layers.remove(old)
    # Okabe and Ito's vermilion stands out of gray, viridis and magma alike.
    colours = {0: (0.0, 0.0, 0.0, 0.0), 1: (0.902, 0.384, 0.0, 1.0), None: (0.0, 0.0, 0.0, 0.0)}
    layer = viewer.add_labels(
        data,
        name=name,
        colormap=DirectLabelColormap(color_dict=colours),
        features={"index": [0, 1], "meaning": ["not claimed", "claimed"]},
        opacity=1.0,
        metadata={KEY: dict(record)},
        **({} if placement is None else placement.to_layer()),
    )
    layer.contour = 1
    layer.editable = False
    return layer


def line_layer(viewer: Any, name: str, shape: tuple[int, int], placement: Placement | None) -> Shapes:
    """Layer to draw lines in, with one line across the middle to begin with.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    name : str
        Name of the layer.
    shape : tuple of int
        Rows and columns of the plane.
    placement : Placement, optional
        Where the plane stands, for the axes YX.

    Returns
    -------
    napari.layers.Shapes
        The layer; its data are in pixels of the plane.
    """
    if (old := our_layer(viewer, name, "line cut")) is not None:
        return old
    rows, columns = shape
    line = np.array([[0.5 * rows, 0.15 * columns], [0.5 * rows, 0.85 * columns]])
    return viewer.add_shapes(
        [line],
        shape_type="line",
        name=name,
        edge_color="#56b4e9",
        edge_width=max(max(shape) / 200, 1.0),
        metadata={KEY: {"map": "line cut", "axes": "YX"}},
        **({} if placement is None else placement.to_layer()),
    )


def side_by_side(viewer: Any, layers: list[Layer]) -> dict[str, Any]:
    """Show only these layers, in one row (wide ones in one column), in this order.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    layers : list of napari.layers.Layer
        From left to right.

    Returns
    -------
    dict
        How it was before, for `as_before`.
    """
    grid = _grid(viewer)
    before = {
        "visible": {layer.name: layer.visible for layer in viewer.layers},
        "grid": {"stride": grid.stride, "shape": tuple(grid.shape), "enabled": grid.enabled},
    }
    for layer in viewer.layers:
        layer.visible = layer in layers
    for left, right in pairwise(layers):
        if viewer.layers.index(right) < viewer.layers.index(left):
            viewer.layers.move(viewer.layers.index(right), viewer.layers.index(left) + 1)
    rows, columns = layers[0].data.shape[-2:]
    n = len(layers)
    # Wide images are larger one above the other.
    grid.stride, grid.shape, grid.enabled = 1, (n, 1) if columns > 1.2 * rows else (1, n), True
    if grid.position(viewer.layers.index(layers[0]), len(viewer.layers) if _old(grid) else viewer.layers) != (
        0,
        0,
    ):
        grid.stride = -1
    viewer.reset_view()
    return before


def as_before(viewer: Any, before: Mapping[str, Any]) -> None:
    """Leave the row: canvas and layers as they were shown before.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    before : mapping
        What `side_by_side` returned.
    """
    grid = _grid(viewer)
    for name, value in before["grid"].items():
        setattr(grid, name, value)
    for layer in viewer.layers:
        layer.visible = before["visible"].get(layer.name, layer.visible)
    viewer.reset_view()


def _grid(viewer: Any) -> Any:
    """The viewer's grid, which moved in napari 0.9."""
    return (viewer.canvas if "canvas" in type(viewer).model_fields else viewer).grid


def _old(grid: Any) -> bool:
    """Whether the grid counts hidden layers too, as before napari 0.9."""
    return "nlayers" in signature(grid.position).parameters


def truths(viewer: Any, shape: tuple[int, ...], axes: str) -> list[ImageLayer]:
    """Image layers, not ours, that may be the truth of a result of this shape.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    shape : tuple of int
        Shape of the result.
    axes : str
        Its axes.

    Returns
    -------
    list of napari.layers.Image
        Of the same shape, or without S and T.
    """
    from napari.layers import Image

    size = dict(zip(axes, shape, strict=True))
    found = []
    for layer in viewer.layers:
        if not isinstance(layer, Image) or layer.rgb or KEY in layer.metadata:
            continue
        image = read_layer(layer)
        missing = set(axes) - set(image.axes)
        fits = all(size.get(a) == n for a, n in zip(image.axes, image.shape, strict=True))
        if fits and missing <= set("ST"):
            found.append(layer)
    return found


def plane_of(array: Any, axes: str, at: Mapping[str, int]) -> NDArray[np.float32]:
    """One plane of an array, rows first.

    Parameters
    ----------
    array : array-like
        Numpy, dask, zarr or a stack; only the plane is read.
    axes : str
        Its axes.
    at : mapping of str to int
        Index by axis letter of all axes but Y and X; letters that it lacks don't matter.

    Returns
    -------
    ndarray of float32, shape (Y, X)
        The plane.
    """
    index = tuple(slice(None) if a in "YX" else at.get(a, 0) for a in axes)
    plane = np.asarray(array[index], dtype=np.float32)
    left = [a for a in axes if a in "YX"]
    return plane.T if left == ["X", "Y"] else plane
