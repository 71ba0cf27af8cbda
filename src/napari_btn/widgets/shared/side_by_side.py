"""Layers side by side in one row, and the canvas as it was before."""

from __future__ import annotations

from functools import partial
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_btn.widgets.shared.layers import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from weakref import ReferenceType

    from napari.layers import Image as ImageLayer
    from napari.layers import Layer


__all__ = [
    "as_before",
    "mark_row",
    "name_channel",
    "side_by_side",
    "stands_side_by_side",
    "unmark_row",
]

_ROWS: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()  # how it was before, by viewer


def stands_side_by_side(viewer: Any) -> bool:
    """Return True while layers stand in a row that `side_by_side` made.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer.
    """
    return viewer in _ROWS


def side_by_side(viewer: Any, layers: list[Layer]) -> None:
    """Show only these layers with their names, in one row (wide ones in one column), in this order.

    A layer that is added ends the row, as `as_before` does.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    layers : list of napari.layers.Layer
        From left to right.
    """
    if viewer in _ROWS:
        as_before(viewer)
    grid = _grid(viewer)
    named = [layer for layer in layers if hasattr(layer, "name_overlay")]
    window = ref(viewer)

    def added(event: Any = None) -> None:
        """End the row where another layer comes."""
        del event
        if (here := window()) is not None and here in _ROWS:
            as_before(here)

    _ROWS[viewer] = {
        "visible": {layer.name: layer.visible for layer in viewer.layers},
        "grid": {"stride": grid.stride, "shape": tuple(grid.shape), "enabled": grid.enabled},
        "named": [(ref(layer), _shown(layer.name_overlay)) for layer in named],
        "added": added,
        "row": [ref(layer) for layer in layers],
        "order": [ref(layer) for layer in viewer.layers],
        "marks": [],
    }
    viewer.layers.events.inserted.connect(added)
    for layer in named:
        layer.name_overlay.visible, layer.name_overlay.opacity = True, 1.0
    for layer in viewer.layers:
        layer.visible = layer in layers
    for left, right in pairwise(layers):
        if viewer.layers.index(right) < viewer.layers.index(left):
            viewer.layers.move(viewer.layers.index(right), viewer.layers.index(left) + 1)
    rows, columns = layers[0].data.shape[-2:]
    n = len(layers)
    grid.stride, grid.shape, grid.enabled = (
        1,
        (n, 1) if _larger_in_column(viewer, n, rows, columns) else (1, n),
        True,
    )
    if grid.position(viewer.layers.index(layers[0]), len(viewer.layers) if _old(grid) else viewer.layers) != (
        0,
        0,
    ):
        grid.stride = -1
    _fit(viewer, layers)
    if QApplication.instance() is not None:
        # places of the row get their size when they are first drawn
        QTimer.singleShot(0, partial(_fit_again, window, [ref(layer) for layer in layers]))


def _larger_in_column(viewer: Any, n: int, rows: int, columns: int) -> bool:
    """Return True if images are larger one above the other than side by side."""
    height, width = viewer.canvas.size if "canvas" in type(viewer).model_fields else (3, 4)
    return min(width / columns, height / n / rows) > min(width / n / columns, height / rows)


def _fit(viewer: Any, layers: list[Layer]) -> None:
    """Fill the canvas with these layers; larger ones that are hidden would make them small."""
    if "layers" in signature(viewer.reset_view).parameters:
        viewer.reset_view(layers=layers)
    else:  # before napari 0.9
        viewer.reset_view()


def _fit_again(window: ReferenceType[Any], row: list[ReferenceType[Layer]]) -> None:
    """Fill the canvas once more, if the row still stands."""
    viewer, layers = window(), [layer for one in row if (layer := one()) is not None]
    if viewer is not None and viewer in _ROWS and layers and all(one in viewer.layers for one in layers):
        _fit(viewer, layers)


def name_channel(viewer: Any, layer: ImageLayer) -> None:
    """Show the name of the shown channel of a result in the canvas, until its row ends.

    Parameters
    ----------
    viewer : napari.Viewer
        Shows a row, see `side_by_side`.
    layer : napari.layers.Image
        A result with several channels.
    """
    names, axes = layer.metadata[KEY].get("channel_names", ()), layer.metadata[KEY]["axes"]
    if viewer not in _ROWS or "C" not in axes or len(names) < 2:
        return
    window, shown, axis = ref(viewer), ref(layer), axes.index("C")

    def follow(event: Any = None) -> None:
        """Name the channel at the sliders' position."""
        del event
        here, result = window(), shown()
        if here is not None and result is not None:
            at = round(float(result.world_to_data(here.dims.point)[axis]))
            _caption(here).text = names[min(max(at, 0), len(names) - 1)]

    follow()
    _caption(viewer).visible = True
    viewer.dims.events.current_step.connect(follow)
    _ROWS[viewer]["follow"] = follow


def mark_row(viewer: Any, place: Sequence[float], make: Callable[[Layer], Layer]) -> None:
    """Mark one place in all layers of a row, until the row ends.

    Parameters
    ----------
    viewer : napari.Viewer
        Shows a row, see `side_by_side`; nothing happens without one, and before napari 0.9.
    place : sequence of float
        Row and column of the place, in pixels.
    make : callable
        Adds the mark for a layer of the row, and returns it.
    """
    known, grid = _ROWS.get(viewer), _grid(viewer)
    if known is None or _old(grid):
        return
    row = [layer for one in known["row"] if (layer := one()) is not None and layer in viewer.layers]
    marks = [mark for one in known["marks"] if (mark := one()) is not None and mark in viewer.layers]
    if len(marks) == len(row):
        for mark in marks:
            mark.data = [place]
        return
    viewer.layers.events.inserted.disconnect(known["added"])
    marks = [make(layer) for layer in row]
    viewer.layers.events.inserted.connect(known["added"])
    known["marks"] = [ref(mark) for mark in marks]
    # a place of the grid holds two layers that follow each other
    paired = [layer for pair in zip(row, marks, strict=True) for layer in pair]
    _reorder(viewer, [*paired, *(layer for layer in viewer.layers if layer not in paired)])
    grid.stride = 2


def unmark_row(viewer: Any) -> None:
    """Remove the marks of a row, if there is one.

    Parameters
    ----------
    viewer : napari.Viewer
        Any viewer.
    """
    if viewer in _ROWS and _ROWS[viewer]["marks"]:
        known = _ROWS[viewer]
        _grid(viewer).stride = 1
        _remove_marks(viewer, known)
        row = [layer for one in known["row"] if (layer := one()) is not None and layer in viewer.layers]
        _reorder(viewer, [*row, *(layer for layer in viewer.layers if layer not in row)])


def _remove_marks(viewer: Any, known: dict[str, Any]) -> None:
    """Remove the marks of a row."""
    marks = [mark for one in known["marks"] if (mark := one()) is not None and mark in viewer.layers]
    known["marks"] = []
    for mark in marks:
        viewer.layers.remove(mark)


def _reorder(viewer: Any, layers: list[Layer]) -> None:
    """Put all layers into this order, from the lowest on."""
    viewer.layers.move_multiple([viewer.layers.index(layer) for layer in layers], 0)


def as_before(viewer: Any) -> None:
    """Show canvas and layers as they were before `side_by_side`; later layers stay as they are.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    """
    before = _ROWS.pop(viewer, None)
    if before is None:
        return
    viewer.layers.events.inserted.disconnect(before["added"])
    if "follow" in before:
        viewer.dims.events.current_step.disconnect(before["follow"])
        _caption(viewer).visible = False
    if before["marks"]:
        _remove_marks(viewer, before)
        order = [layer for one in before["order"] if (layer := one()) is not None and layer in viewer.layers]
        _reorder(viewer, [*order, *(layer for layer in viewer.layers if layer not in order)])
    for weak, visible in before["named"]:
        if (layer := weak()) is not None and not visible:
            # if it were made invisible, napari 0.9.2 would crash when a layer is removed after another grid
            layer.name_overlay.opacity = 0.0
    grid = _grid(viewer)
    for name, value in before["grid"].items():
        setattr(grid, name, value)
    for layer in viewer.layers:
        layer.visible = before["visible"].get(layer.name, layer.visible)
    viewer.reset_view()


def _shown(overlay: Any) -> bool:
    """Return True if an overlay can be seen."""
    return bool(overlay.visible and overlay.opacity > 0)


def _grid(viewer: Any) -> Any:
    """Return the viewer's grid, which moved in napari 0.9."""
    return (viewer.canvas if "canvas" in type(viewer).model_fields else viewer).grid


def _caption(viewer: Any) -> Any:
    """Return the text over the canvas, which moved in napari 0.9 as well."""
    return viewer.canvas.overlays.text if "canvas" in type(viewer).model_fields else viewer.text_overlay


def _old(grid: Any) -> bool:
    """Return True if the grid counts hidden layers too, as before napari 0.9."""
    return "nlayers" in signature(grid.position).parameters
