"""Regions as rectangles in the viewer and as rows of a table: each follows the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.remeasure.regions import rescore
from napari_btn.widgets.remeasure.rectangles import add_rectangles, features_of, keep_before, place_of
from napari_btn.widgets.remeasure.view import EXPORT_HELP
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.overlays import our_layer, placement_of
from napari_btn.widgets.shared.results import record_of
from napari_btn.workflow.propose import dwell_sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.remeasure.regions import Region
    from napari_btn.session import Session
    from napari_btn.widgets.remeasure.field import Field
    from napari_btn.widgets.remeasure.rectangles import Frame, Measured, Place
    from napari_btn.widgets.remeasure.request import Request
    from napari_btn.widgets.remeasure.view import RemeasureView
    from napari_btn.widgets.shared.dock import Dock
    from napari_btn.workflow.search import Choice

__all__ = ["RegionEditor"]

_READ_AFTER_MS = 30


@dataclass(frozen=True, eq=False)
class _Scored:
    """A score map.

    Parameters
    ----------
    choice : Choice
        How it was made.
    score : ndarray of float32, (Y, X) or (Z, Y, X)
        Of the whole scene.
    area : ndarray of bool, optional
        Where it counts; everywhere by default.
    """

    choice: Choice
    score: NDArray[np.float32]
    area: NDArray[np.bool_] | None = None

    @cached_property
    def counted(self) -> NDArray[np.float32]:
        """The score, 0 outside the area."""
        return self.score if self.area is None else np.where(self.area, self.score, np.float32(0))

    @cached_property
    def total(self) -> float:
        """Sum of the score that counts."""
        return float(self.counted.sum(dtype=np.float64))


class RegionEditor:
    """The rectangles in the viewer, and the table about them.

    Parameters
    ----------
    dock : Dock
        Gives viewer, session and lifetime.
    view : RemeasureView
        Form with the table.
    request : Request
        Score that is chosen.
    measured : dict
        What was measured again, by the place of its window.
    rescore : callable
        Called when the rectangles need a score.
    """

    def __init__(
        self,
        dock: Dock,
        view: RemeasureView,
        request: Request,
        measured: Measured,
        rescore: Callable[[], None],
    ) -> None:
        self._viewer, self._view, self._lifetime = dock.viewer, view, dock.lifetime
        self._session: Session = dock.session
        self._request, self._measured, self._rescore = request, measured, rescore
        self._field: Field | None = None
        self.layer: Any = None
        """Shapes layer with the rectangles; None without one."""
        self.regions: tuple[Region, ...] = ()
        """Regions of the rectangles, as far as they lie in the image."""
        self.blank: list[bool] = []
        """True for each region without a score."""
        self.scored: _Scored | None = None
        """The last score."""
        self._dwells: dict[Place, float] = {}  # planned, by place: a moved window has none
        self._own = False
        self._read_later = dock.lifetime.timer(_READ_AFTER_MS, self.read)
        view.table.itemSelectionChanged.connect(self._on_user_row)
        dock.lifetime.hear(self._on_viewer_dims, dock.viewer.dims.events.current_step)
        dock.lifetime.at_end(self._leave_layer)

    @property
    def own(self) -> bool:
        """True while the editor itself changes the layer or the session."""
        return self._own

    def show(self, field: Field | None) -> None:
        """Work on another image, without regions at first.

        Parameters
        ----------
        field : Field, optional
            The image; None for no image.
        """
        self._field, self.scored, self.regions = field, None, ()
        if field is None:
            self.watch(None)

    def keep_score(
        self, choice: Choice, score: NDArray[np.float32], area: NDArray[np.bool_] | None = None
    ) -> None:
        """Keep a score map for the regions to come.

        Parameters
        ----------
        choice : Choice
            How it was made.
        score : ndarray of float32
            Of the whole scene.
        area : ndarray of bool, optional
            Where it counts; everywhere by default.
        """
        self.scored = _Scored(choice, score, area)

    def stop_reading(self) -> None:
        """Leave the rectangles unread until they change again."""
        self._read_later.stop()

    def selected_rows(self) -> list[int]:
        """Return the selected rows of the table, in rising order."""
        model = self._view.table.selectionModel()
        return [] if model is None else sorted(index.row() for index in model.selectedRows())

    def _leave_layer(self) -> None:
        """Disconnect from the layer."""
        self.watch(None)

    def _frame(self) -> Frame | None:
        """Return the frame of the image; None without an image."""
        return None if self._field is None else self._field.frame

    def record(self, regions: Sequence[Region]) -> dict[str, Any]:
        """Return the metadata of the layer."""
        assert self._field is not None
        choice = self._request.choice()
        return {
            **record_of(self.proposed_on(regions)),
            "map": "regions",
            "axes": self._field.frame.axes,
            "proposed": [[list(r.start), list(r.size)] for r in regions],
            "score": choice.kind,
            "channels": [self._field.channel_names[c] for c in choice.channels],
            "thresholds": list(choice.thresholds),
        }

    def proposed_on(self, regions: Sequence[Region]) -> Prediction:
        """Return the prediction, with the search in its recipe if all regions come from one.

        Parameters
        ----------
        regions : sequence of Region
            Those that were drawn or moved by hand come from none.
        """
        assert self._field is not None
        prediction = self._field.prediction
        known = {} if self.layer is None else self.layer.metadata.get(KEY, {})
        made, steps = known.get("provenance", {}).get("recipe", []), prediction.provenance.get("recipe", [])
        searched = len(made) > len(steps) and made[: len(steps)] == steps
        proposed = known.get("proposed", [])
        if not searched or any([list(r.start), list(r.size)] not in proposed for r in regions):
            return prediction
        return replace(prediction, provenance=known["provenance"])

    def show_regions(self, regions: Sequence[Region], provenance: Mapping[str, Any] | None = None) -> None:
        """Show regions in the layer; edited ones are kept in a hidden layer.

        Parameters
        ----------
        regions : sequence of Region
            Those to show.
        provenance : mapping, optional
            Of their proposal; that of the prediction by default.
        """
        field, layer = self._field, self.layer
        if field is None or (layer is None and not regions):
            return
        self._plan(regions)
        at = field.at()
        corners = [field.frame.corners(r, at) for r in regions]
        record, name = self.record(regions), f"{field.source.name} regions"
        record["provenance"] = field.prediction.provenance if provenance is None else dict(provenance)
        active = self._viewer.layers.selection.active
        self._own = True
        try:
            if layer is not None and self._edited():
                self.watch(None)
                keep_before(self._viewer, layer)
                layer = None
            if layer is None:
                place = placement_of(self._viewer, field.source.name, field.frame.axes)
                layer = add_rectangles(self._viewer, name, corners, features_of(regions), place, record)
                self.watch(layer)
                if active is not None and active in self._viewer.layers:
                    self._viewer.layers.selection.active = active
            else:
                layer.selected_data = set(range(layer.nshapes))
                layer.remove_selected()
                if corners:
                    layer.add(corners, shape_type="rectangle")
                    layer.features = features_of(regions)
                layer.selected_data = set()
                layer.metadata = {**layer.metadata, KEY: record}
                layer.visible = True
        finally:
            self._own = False
        self.regions = ()
        self.read(write=True)
        self._rescore()

    def _edited(self) -> bool:
        """Return True if the rectangles differ from those that were proposed."""
        proposed = self.layer.metadata.get(KEY, {}).get("proposed", [])
        return bool(self.regions) and proposed != [[list(r.start), list(r.size)] for r in self.regions]

    def _plan(self, regions: Sequence[Region]) -> None:
        """Keep the planned dwells."""
        self._dwells = {place_of(r): r.dwell for r in regions if r.dwell is not None}

    def adopt(self) -> bool:
        """Go on with the rectangles of the layer, which returns True, or of the session."""
        if self._field is None:
            return False
        layer = our_layer(self._viewer, f"{self._field.source.name} regions", "regions")
        if layer is not None and layer.ndim != len(self._field.frame.axes):
            layer = None
        self.watch(layer)
        if layer is None and self._session.regions:
            self.show_regions(self._session.regions)
            return False
        if self._session.regions is None:
            self._plan_again()  # a new prediction has cleared them, but nothing was moved
        else:
            self._plan(self._session.regions)
        self.read()
        return True

    def _plan_again(self) -> None:
        """Take the planned dwells from the features of the rectangles."""
        layer, frame = self.layer, self._frame()
        self._dwells = {}
        if layer is None or frame is None or "dwell" not in layer.features:
            return
        dwells = layer.features["dwell"].astype(float)
        for corners, depth, dwell in zip(layer.data, self._depths(), dwells, strict=True):
            if np.isfinite(dwell):
                self._dwells[place_of(frame.region(np.asarray(corners), depth)[0])] = float(dwell)

    def watch(self, layer: Any) -> None:
        """Follow the changes of this layer, and no longer those of the last."""
        if layer is self.layer:
            return
        old, self.layer = self.layer, layer
        if old is not None:
            old.events.data.disconnect(self._on_viewer_rectangles)
            old.events.set_data.disconnect(self._on_viewer_rectangles)
            old.events.highlight.disconnect(self._on_viewer_highlight)
        if layer is not None:
            layer.events.data.connect(self._on_viewer_rectangles)
            layer.events.set_data.connect(self._on_viewer_rectangles)
            layer.events.highlight.connect(self._on_viewer_highlight)

    def _on_viewer_rectangles(self, event: Any = None) -> None:
        """Read the rectangles soon after one was moved, drawn or deleted."""
        del event
        if not (self._lifetime.ended or self._own or self._read_later.isActive()):
            self._read_later.start()

    def read(self, *, write: bool = False) -> None:
        """Update table, features and session from the rectangles."""
        layer, frame = self.layer, self._frame()
        if self._lifetime.ended or self._own or frame is None:
            return
        data = [] if layer is None else [np.asarray(d) for d in layer.data]
        places = [frame.region(d, depth) for d, depth in zip(data, self._depths(), strict=True)]
        known = self.scored
        if known is not None and replace(known.choice, scene=0) != self._request.choice():
            known = None
        blank = [known is None or frame.scene_of(d) != known.choice.scene for d in data]
        score = None if known is None else known.counted
        planned = [replace(r, dwell=self._dwells.get(place_of(r))) for r, _ in places]
        regions = tuple(
            replace(r, score=0.0) if b or score is None else rescore(r, score)
            for r, b in zip(planned, blank, strict=True)
        )
        before, self.regions, self.blank = self.regions, regions, blank
        self.show_table(regions, blank)
        outside = [k + 1 for k, (_, inside) in enumerate(places) if not inside]
        self._say_outside(outside)
        if regions == before and not write:
            return
        if layer is not None and regions:
            layer.features = features_of(regions)
            layer.refresh_text()
        self._own = True
        self._session.regions = regions or None
        self._own = False

    def _depths(self) -> list[int]:
        """Return the number of planes of each rectangle; 1 for those drawn by hand."""
        layer = self.layer
        if layer is None or "depth_px" not in layer.features:
            return [1] * (0 if layer is None else layer.nshapes)
        return [int(d) if np.isfinite(d) and d >= 1 else 1 for d in layer.features["depth_px"].astype(float)]

    def _on_viewer_dims(self, event: Any = None) -> None:
        """Move the rectangles of a layer with channels to the shown channel."""
        del event
        layer, frame = self.layer, self._frame()
        if self._lifetime.ended or layer is None or frame is None or self._field is None:
            return
        if "C" not in frame.axes or not layer.nshapes:
            return
        axis, channel = frame.axes.index("C"), float(self._field.at().get("C", 0))
        if all((np.asarray(d)[:, axis] == channel).all() for d in layer.data):
            return
        moved = [np.array(d) for d in layer.data]
        for corners in moved:
            corners[:, axis] = channel
        layer.data = moved

    def _say_outside(self, numbers: list[int]) -> None:
        """Report which rectangles reach over the border."""
        kept = tuple(n for n in self._view.message.notes if "image's border" not in n[1])
        text = f"Rectangle {', '.join(map(str, numbers))}: the part beyond the image's border doesn't count."
        self._view.message.say(*kept, *((("amber", text),) if numbers else ()))

    def show_table(self, regions: Sequence[Region], blank: Sequence[bool]) -> None:
        """Show the regions, and their share of the score."""
        self._view.table.blockSignals(True)
        self._view.show_regions(regions, blank, [place_of(r) in self._measured for r in regions])
        self._view.table.blockSignals(False)
        self._on_viewer_highlight()
        self._view.export.setEnabled(bool(regions))
        self._view.export.setToolTip(
            EXPORT_HELP if regions else "There are no regions yet; propose some first."
        )
        known, frame = self.scored, self._frame()
        if known is None or frame is None or not regions or any(blank) or not known.total > 0:
            self._view.summary.setText("")
            return
        area = sum(r.area_px for r in regions) / np.prod(frame.shape)
        share = sum(r.score for r in regions) / known.total
        windows = "1 window" if len(regions) == 1 else f"{len(regions)} windows"
        of = "" if known.area is None else " inside the area"
        dwell = dwell_sentence(regions, frame.shape)
        self._view.summary.setText(
            f"{windows} on {100 * area:.3g} % of the image hold {100 * share:.3g} % of the score{of}. {dwell}".rstrip()
        )

    def _on_user_row(self) -> None:
        """Select the rectangles of the selected rows, and go to the first."""
        layer = self.layer
        if layer is None or self._field is None:
            return
        rows = self.selected_rows()
        self._own = True
        try:
            self._viewer.layers.selection.active = layer
            layer.mode = "select"
            layer.selected_data = set(rows)
        finally:
            self._own = False
        if rows:
            self._go_to(np.asarray(layer.data[rows[0]], dtype=float))

    def _go_to(self, corners: NDArray[np.float64]) -> None:
        """Centre the view on a rectangle, in its plane."""
        layer, frame, dims = self.layer, self._frame(), self._viewer.dims
        assert frame is not None
        world = layer.data_to_world(corners.mean(axis=0))
        offset = dims.ndim - layer.ndim
        for i, a in enumerate(frame.axes):
            if a in "STZ" and offset + i in dims.not_displayed:
                dims.set_point(offset + i, float(world[i]))
        shown = [float(world[d - offset]) for d in dims.displayed if d >= offset]
        camera = _camera(self._viewer)
        camera.center = (*tuple(camera.center)[: -len(shown)], *shown)

    def _on_viewer_highlight(self, event: Any = None) -> None:
        """Select the rows of the rectangles that were selected in the viewer."""
        del event
        layer = self.layer
        if self._lifetime.ended or self._own or layer is None:
            return
        wanted = sorted(k for k in layer.selected_data if k < self._view.table.rowCount())
        if wanted == self.selected_rows():
            return
        self._view.table.blockSignals(True)
        self._view.table.clearSelection()
        mode = self._view.table.selectionMode()
        self._view.table.setSelectionMode(self._view.table.SelectionMode.MultiSelection)
        for row in wanted:
            self._view.table.selectRow(row)
        self._view.table.setSelectionMode(mode)
        self._view.table.blockSignals(False)


def _camera(viewer: Any) -> Any:
    """Return the viewer's camera, which moved in napari 0.9."""
    return (viewer.scene if "scene" in type(viewer).model_fields else viewer).camera
