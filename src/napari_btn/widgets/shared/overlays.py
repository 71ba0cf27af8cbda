"""Our layers: maps from the table of kinds, and a line to cut along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.maps import MAP_KINDS
from napari_btn.widgets.shared.layers import KEY, limits_of, read_layer
from napari_btn.widgets.shared.thresholds import few_values

if TYPE_CHECKING:
    from napari.layers import Image as ImageLayer
    from napari.layers import Labels, Shapes
    from numpy.typing import NDArray

    from napari_btn.core.calibration.maps import MapKind
    from napari_btn.widgets.shared.placement import Placement

__all__ = [
    "ADDS",
    "KINDS",
    "TAKES_AWAY",
    "WIDTH_PERCENTILE",
    "layer_name",
    "line_layer",
    "map_layer",
    "missed_top",
    "our_layer",
    "placed_map",
    "placement_of",
    "plane_of",
    "refill",
    "truths",
]

KINDS = {kind.name: kind for kind in MAP_KINDS}
"""The table of maps by name."""
WIDTH_PERCENTILE = 99.5
_ANCHORS = ("median", "lower", "upper", "width")
TAKES_AWAY, ADDS = (0.2, 0.45, 1.0), (1.0, 0.25, 0.15)
"""Colours of negative and positive weights: red, green and blue from 0 to 1."""


def layer_name(source: str, kind: str) -> str:
    """Return the name of the layer of a map.

    Parameters
    ----------
    source : str
        Name of the source.
    kind : str
        Name of a map kind.

    Returns
    -------
    str
        Name of the source with the kind's title.
    """
    return f"{source} {KINDS[kind].title}"


def our_layer(viewer: Any, name: str, kind: str) -> Any:
    """Return our layer of this name and kind; None if there is none.

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
    """Return the placement of a source's results; None if neither they nor the source exist.

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
    kind: str,
    source: str,
    data: NDArray[Any],
    record: Mapping[str, Any],
    start: Sequence[int] = (),
) -> ImageLayer | Labels:
    """Show a map as a layer, made or updated, where the results of its source stand.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    kind : str
        Name of a map kind.
    source : str
        Name of the source.
    data : ndarray
        In the axes of the record.
    record : mapping
        Metadata; the names of kind and caption are added.
    start : sequence of int
        First index along each axis, for a map of a part of the source.

    Returns
    -------
    napari.layers.Image or napari.layers.Labels
        The layer; a mask is a Labels layer that shows its outline only.
    """
    placement = placement_of(viewer, source, str(record["axes"]))
    if placement is not None and start:
        placement = placement.cropped(start)
    layer = placed_map(viewer, kind, source, data, placement, record)
    if KINDS[kind].contrast == "around zero":
        layer.contrast_limits_range = layer.contrast_limits = _limits(KINDS[kind], data, record)
    return layer


def placed_map(
    viewer: Any,
    kind: str,
    source: str,
    data: NDArray[Any],
    placement: Placement | None,
    record: Mapping[str, Any],
) -> Any:
    """Show a map as a layer in a known place, made or updated.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    kind : str
        Name of a map kind.
    source : str
        Name of the source.
    data : ndarray
        In the axes of the placement.
    placement : Placement, optional
        Where it stands.
    record : mapping
        Metadata; the names of kind and caption are added.

    Returns
    -------
    napari.layers.Image or napari.layers.Labels
        The layer.
    """
    shown = KINDS[kind]
    record = {"caption": shown.caption, **record, "map": kind}
    place = {} if placement is None else placement.to_layer()
    name = layer_name(source, kind)
    old = our_layer(viewer, name, kind)
    if old is not None and old.ndim == data.ndim:
        refill(old, data, place, record)
        return old
    if old is not None:
        viewer.layers.remove(old)
    if shown.colormap == "outline":
        return _outline(viewer, name, data, record, place)
    return viewer.add_image(
        data,
        name=name,
        colormap=_signed() if shown.colormap == "signed" else shown.colormap,
        contrast_limits=_limits(shown, data, record),
        visible=shown.visible,
        metadata={KEY: record},
        rgb=False,
        **place,
    )


def refill(layer: Any, data: NDArray[Any], place: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Give a layer other data, a place and a record, without another frame for a place that it has already.

    Parameters
    ----------
    layer : napari.layers.Layer
        Layer with as many axes.
    data : ndarray
        New data.
    place : mapping
        Attributes of the layer.
    record : mapping
        New metadata of ours.
    """
    layer.data = data
    for key, value in place.items():
        if not _same(getattr(layer, key), value):
            setattr(layer, key, value)
    layer.metadata = {**layer.metadata, KEY: record}


def _limits(kind: MapKind, data: NDArray[Any], record: Mapping[str, Any]) -> tuple[float, float]:
    """Return the contrast limits of a new layer."""
    if kind.contrast == "around zero":
        top = float(np.abs(data).max()) or 1.0
        return -top, top
    if kind.contrast == "missed":
        return 0.0, missed_top(record["alpha"])
    if kind.added == "request":
        axes = str(record["axes"])
        channels = range(data.shape[axes.index("C")]) if "C" in axes else (0,)
        values = np.concatenate([few_values(data, axes, c) for c in channels])
        low, high = limits_of(values, WIDTH_PERCENTILE)
        return (0.0 if kind.contrast == "from zero" else low), high
    # the limits of signal and width follow the shown channel, which is not known here
    return 0.0, 1.0


def missed_top(alpha: float) -> float:
    """Return the share of missed pixels that is shown brightest.

    Parameters
    ----------
    alpha : float
        Miscoverage of the intervals.

    Returns
    -------
    float
        Between 0 and 1.
    """
    return max(3 * alpha, 0.05)


def _same(old: Any, new: Any) -> bool:
    """Return True if a layer has this place already: setting it again would redraw it."""
    if isinstance(new, tuple) and new and isinstance(new[0], str):
        return tuple(str(value) for value in old) == new
    old = getattr(old, "affine_matrix", old)
    return np.shape(old) == np.shape(new) and bool(np.allclose(old, new))


def _signed() -> Any:
    """Return a colormap from blue over clear to red: where a map is zero, the layers below show."""
    from napari.utils import Colormap

    colours = [(*TAKES_AWAY, 1.0), (*TAKES_AWAY, 0.0), (*ADDS, 0.0), (*ADDS, 1.0)]
    return Colormap(colours, name="blue, nothing, red", controls=[0.0, 0.49, 0.51, 1.0])


def _outline(
    viewer: Any, name: str, data: NDArray[Any], record: Mapping[str, Any], place: Mapping[str, Any]
) -> Labels:
    """Add a layer that outlines a mask, so that what it outlines stays in sight."""
    from napari.utils.colormaps import DirectLabelColormap

    # Okabe and Ito's vermilion contrasts with gray, viridis and magma.
    colours = {0: (0.0, 0.0, 0.0, 0.0), 1: (0.902, 0.384, 0.0, 1.0), None: (0.0, 0.0, 0.0, 0.0)}
    layer = viewer.add_labels(
        data,
        name=name,
        colormap=DirectLabelColormap(color_dict=colours),
        features={"index": [0, 1], "meaning": ["not claimed", "claimed"]},
        opacity=1.0,
        metadata={KEY: record},
        **place,
    )
    layer.contour = 1
    layer.editable = False
    return layer


def line_layer(viewer: Any, name: str, shape: tuple[int, int], placement: Placement | None) -> Shapes:
    """Return the layer to draw lines in, at first with one line across the middle.

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


def truths(viewer: Any, shape: tuple[int, ...], axes: str) -> list[ImageLayer]:
    """Return the image layers, not ours, that may be the truth of a result of this shape.

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
    """Return one plane of an array, rows first.

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
