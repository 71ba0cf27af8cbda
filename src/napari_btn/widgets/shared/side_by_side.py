"""Layers side by side in one row, and the canvas as it was before."""

from __future__ import annotations

from functools import partial
from inspect import signature
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from qtpy.QtCore import QTimer

from napari_btn.core.data.image import shown_names
from napari_btn.widgets.shared.layers import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from weakref import ReferenceType

    from napari.layers import Layer


__all__ = [
    "FRAME_MS",
    "as_before",
    "mark_row",
    "side_by_side",
    "stands_side_by_side",
    "unmark_row",
]

_OVER = object()
FRAME_MS = 15
"""Milliseconds after which a change has been drawn; a timer of zero would come before the frame."""
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

    In a window, layers come one after the other, since napari makes everything that a view needs in its
    first frame. A layer that is added ends the row, as `as_before` does. The name of the shown channel is
    written over the canvas where a result has several.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    layers : list of napari.layers.Layer
        From left to right.
    """
    if viewer in _ROWS:
        as_before(viewer)
    _drop_replaced_grids(viewer)
    grid = _grid(viewer)
    window = ref(viewer)

    def added(event: Any = None) -> None:
        """End the row where another layer comes."""
        del event
        if (here := window()) is not None and here in _ROWS:
            as_before(here)

    known = _ROWS[viewer] = {
        "visible": {layer.name: layer.visible for layer in viewer.layers},
        "grid": {"stride": grid.stride, "shape": tuple(grid.shape), "enabled": grid.enabled},
        "named": [
            (ref(layer), _shown(layer.name_overlay)) for layer in layers if hasattr(layer, "name_overlay")
        ],
        "added": added,
        "row": [ref(layer) for layer in layers],
        "order": [ref(layer) for layer in viewer.layers],
        "marks": [],
    }
    viewer.layers.events.inserted.connect(added)
    steps = _row_steps(viewer, layers)
    if hasattr(viewer, "window"):
        _next_step(window, known, steps)
    else:
        for _ in steps:
            pass


def _next_step(window: ReferenceType[Any], known: dict[str, Any], steps: Iterator[None]) -> None:
    """Do a step of a row that still stands, and the next one after the frame that shows it."""
    viewer = window()
    if viewer is None or _ROWS.get(viewer) is not known or not _whole(viewer, known):
        return
    if next(steps, _OVER) is not _OVER:
        QTimer.singleShot(FRAME_MS, partial(_next_step, window, known, steps))


def _whole(viewer: Any, known: dict[str, Any]) -> bool:
    """Return True while all layers of a row are there."""
    return all((layer := one()) is not None and layer in viewer.layers for one in known["row"])


def _row_steps(viewer: Any, layers: list[Layer]) -> Iterator[None]:
    """Make a row of the first layer, add the others one by one, and name them and the channel."""
    for left, right in pairwise(layers):
        if viewer.layers.index(right) < viewer.layers.index(left):
            viewer.layers.move(viewer.layers.index(right), viewer.layers.index(left) + 1)
    for layer in viewer.layers:
        layer.visible = layer is layers[0]
    yield
    grid, n = _grid(viewer), len(layers)
    rows, columns = layers[0].data.shape[-2:]
    grid.stride = 1 if _starts_low(grid) else -1
    grid.shape = (n, 1) if _larger_in_column(viewer, n, rows, columns) else (1, n)
    grid.enabled = True
    _fit(viewer, layers)
    for layer in layers:
        layer.visible = True
        yield
        if hasattr(layer, "name_overlay"):
            layer.name_overlay.visible, layer.name_overlay.opacity = True, 1.0
            yield
    # places of the row get their size when they are first drawn
    _fit(viewer, layers)
    _name_channel(viewer, next((layer for layer in layers if KEY in layer.metadata), None))


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


def _starts_low(grid: Any) -> bool:
    """Return True if the lowest layer has the first place of a grid of stride 1, as since napari 0.9."""
    two = SimpleNamespace(visible=True), SimpleNamespace(visible=True)
    fresh = type(grid)(enabled=True, shape=(1, 2), stride=1)
    return bool(fresh.position(0, len(two) if _old(grid) else two) == (0, 0))


def _name_channel(viewer: Any, layer: Layer | None) -> None:
    """Show the name of the shown channel of a result in the canvas, until its row ends."""
    record = {} if layer is None else layer.metadata[KEY]
    names, axes = shown_names(record.get("channel_names", ())), record.get("axes", "")
    if "C" not in axes or len(names) < 2:
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
            # napari 0.9.2 crashes when a layer is removed after another grid, if names were made invisible, or
            # some of a row were never made
            layer.name_overlay.visible, layer.name_overlay.opacity = True, 0.0
    grid = _grid(viewer)
    # first, or napari makes views for the other settings
    grid.enabled = before["grid"]["enabled"]
    for name, value in before["grid"].items():
        setattr(grid, name, value)
    for layer in viewer.layers:
        layer.visible = before["visible"].get(layer.name, layer.visible)
    viewer.reset_view()
    _drop_replaced_grids(viewer)


def _drop_replaced_grids(viewer: Any) -> None:
    """Drop the views of earlier grids, 2 MB each: napari (0.9.2) takes them off the canvas, which keeps them."""
    window = getattr(viewer, "window", None)
    canvas = getattr(getattr(window, "_qt_viewer", None), "canvas", None)
    place: Any = getattr(canvas, "central_widget", None)
    for widget in [one for one in getattr(place, "_widgets", ()) if one.parent is None]:
        place.remove_widget(widget)


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
