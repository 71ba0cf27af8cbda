"""Regions as rectangles in the viewer and as rows of a table: each follows the other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.remeasure.stage import StageAffine
from napari_btn.session import StagePlaces
from napari_btn.widgets.remeasure.proposal import Choice, scored
from napari_btn.widgets.remeasure.rectangles import Frame, add_rectangles, features_of, keep_before
from napari_btn.widgets.remeasure.view import EXPORT_HELP, RemeasureView
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.overlays import our_layer, placement_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image
    from napari_btn.core.remeasure.regions import Region

__all__ = ["RegionEditor"]

_READ_AFTER_MS = 30
_SCORE_AFTER_MS = 250


class RegionEditor(RemeasureView):
    """The rectangles and the table of the Re-measure dock at work.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._prediction: Prediction | None = None
        self._source: Image | None = None
        self._frame: Frame | None = None
        self._layer: Any = None
        self._regions: tuple[Region, ...] = ()
        self._scored: tuple[Choice, NDArray[np.float32], float] | None = None
        self._blank: list[bool] = []
        self._measured: dict[tuple[tuple[int, ...], ...], NDArray[np.float32]] = {}
        self._own = False
        self._affine: StageAffine | None = None
        self._read_later, self._score_later = self._timer(_READ_AFTER_MS), self._timer(_SCORE_AFTER_MS)
        self._read_later.timeout.connect(self._read)
        self.table.itemSelectionChanged.connect(self._on_user_row)
        self.stage.changed.connect(self._on_user_stage)
        self.stage.points_wanted.connect(self._on_user_points)

    def _choice(self, scene: int = 0) -> Choice:
        """The score as it is chosen."""
        raise NotImplementedError

    @staticmethod
    def _key(region: Region) -> tuple[tuple[int, ...], ...]:
        """Place of a window: what was measured there is nothing any more when it is moved."""
        return region.start, region.size

    # ---------------------------------------------------------------- rectangles

    def _at(self) -> dict[str, int]:
        """Index of the scene in sight, and of the channel, by axis letter."""
        prediction, source, frame = self._prediction, self._source, self._frame
        if prediction is None or source is None or frame is None or not set("STC") & set(frame.axes):
            return {}
        anchor = self._anchor()
        if anchor is None:
            return {}
        point = anchor.world_to_data(self.viewer.dims.point[-anchor.ndim :])
        return {a: round(float(v)) for a, v in zip(prediction.axes, point, strict=True) if a in "STC"}

    def _anchor(self) -> Any:
        """Layer with the axes of the prediction; None where it was removed."""
        prediction, source = self._prediction, self._source
        if prediction is None or source is None:
            return None
        names = (f"{source.name} median", source.name)
        layers = [self.viewer.layers[n] for n in names if n in self.viewer.layers]
        return next((layer for layer in layers if layer.ndim == len(prediction.axes)), None)

    def _scene_in_sight(self) -> int:
        """Number of the scene in sight."""
        return 0 if self._frame is None else self._frame.scene(self._at())

    def _record(self, regions: Sequence[Region]) -> dict[str, Any]:
        """Metadata of the layer."""
        prediction, frame, choice = self._prediction, self._frame, self._choice()
        assert prediction is not None
        assert frame is not None
        return {
            "map": "regions",
            "axes": frame.axes,
            "proposed": [[list(r.start), list(r.size)] for r in regions],
            "score": choice.kind,
            "channels": [list(prediction.channel_names)[c] for c in choice.channels],
            "thresholds": list(choice.thresholds),
            "covers": prediction.covers,
            "alpha": prediction.alpha,
            "provenance": prediction.provenance,
        }

    def _show_regions(self, regions: Sequence[Region]) -> None:
        """Show regions in the layer; edited ones are kept in a hidden one."""
        frame, source, layer = self._frame, self._source, self._layer
        if frame is None or source is None or (layer is None and not regions):
            return
        at = {a: int(v) for a, v in self._at().items()}
        corners = [frame.corners(r, at) for r in regions]
        record, name = self._record(regions), f"{source.name} regions"
        active = self.viewer.layers.selection.active
        self._own = True
        try:
            if layer is not None and self._edited():
                self._watch(None)
                keep_before(self.viewer, layer)
                layer = None
            if layer is None:
                place = placement_of(self.viewer, source.name, frame.axes)
                layer = add_rectangles(self.viewer, name, corners, features_of(regions), place, record)
                self._watch(layer)
                if active is not None and active in self.viewer.layers:
                    self.viewer.layers.selection.active = active
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
        self._regions = ()
        self._read(write=True)
        self._score_later.start()

    def _edited(self) -> bool:
        """Whether the rectangles are others than those that were proposed."""
        proposed = self._layer.metadata.get(KEY, {}).get("proposed", [])
        return bool(self._regions) and proposed != [[list(r.start), list(r.size)] for r in self._regions]

    def _adopt(self) -> None:
        """Go on with the rectangles that are there, of the layer or of the session."""
        frame, source = self._frame, self._source
        if frame is None or source is None:
            return
        layer = our_layer(self.viewer, f"{source.name} regions", "regions")
        if layer is not None and layer.ndim != len(frame.axes):
            layer = None
        self._watch(layer)
        if layer is None and self.session.regions:
            self._show_regions(self.session.regions)
            return
        self._read()
        self._rescore()

    def _watch(self, layer: Any) -> None:
        """Hear of a layer's changes, and of the last one's no more."""
        if layer is self._layer:
            return
        old, self._layer = self._layer, layer
        if old is not None:
            old.events.data.disconnect(self._on_rectangles)
            old.events.set_data.disconnect(self._on_rectangles)
            old.events.highlight.disconnect(self._on_highlight)
        if layer is not None:
            layer.events.data.connect(self._on_rectangles)
            layer.events.set_data.connect(self._on_rectangles)
            layer.events.highlight.connect(self._on_highlight)

    def _on_rectangles(self, event: Any = None) -> None:
        """A rectangle was moved, drawn or deleted."""
        del event
        if not (self._left or self._own or self._read_later.isActive()):
            self._read_later.start()

    def _read(self, *, write: bool = False) -> None:
        """Bring table, features and session up to the rectangles."""
        layer, frame = self._layer, self._frame
        if self._left or self._own or frame is None:
            return
        data = [] if layer is None else [np.asarray(d) for d in layer.data]
        places = [frame.region(d, depth) for d, depth in zip(data, self._depths(), strict=True)]
        choice, score, _ = self._scored or (None, None, 0.0)
        current = choice is not None and replace(choice, scene=0) == self._choice()
        blank = [not (current and choice is not None and frame.scene_of(d) == choice.scene) for d in data]
        regions = tuple(scored(r, None if b else score) for (r, _), b in zip(places, blank, strict=True))
        before, self._regions, self._blank = self._regions, regions, blank
        self._show_table(regions, blank)
        outside = [k + 1 for k, (_, inside) in enumerate(places) if not inside]
        self._say_outside(outside)
        if regions == before and not write:
            return
        if layer is not None and regions:
            layer.features = features_of(regions)
            layer.refresh_text()
        self._own = True
        self.session.regions = regions or None
        self._own = False

    def _depths(self) -> list[int]:
        """Planes of each rectangle; one drawn by hand has a single one."""
        layer = self._layer
        if layer is None or "depth_px" not in layer.features:
            return [1] * (0 if layer is None else layer.nshapes)
        return [int(d) if np.isfinite(d) and d >= 1 else 1 for d in layer.features["depth_px"].astype(float)]

    def _on_dims_changed(self, event: Any = None) -> None:
        """Another channel is shown: rectangles of a layer that has channels go along."""
        del event
        layer, frame = self._layer, self._frame
        if self._left or layer is None or frame is None or "C" not in frame.axes or not layer.nshapes:
            return
        axis, channel = frame.axes.index("C"), float(self._at().get("C", 0))
        if all((np.asarray(d)[:, axis] == channel).all() for d in layer.data):
            return
        moved = [np.array(d) for d in layer.data]
        for corners in moved:
            corners[:, axis] = channel
        layer.data = moved

    def _say_outside(self, numbers: list[int]) -> None:
        """Say which rectangles reach over the border."""
        kept = tuple(n for n in self.message.notes if "image's border" not in n[1])
        text = f"Rectangle {', '.join(map(str, numbers))}: what lies over the image's border doesn't count."
        self.message.say(*kept, *((("amber", text),) if numbers else ()))

    def _show_table(self, regions: Sequence[Region], blank: Sequence[bool]) -> None:
        """Show the regions, and how much of the score they hold."""
        self.table.blockSignals(True)
        self.show_regions(regions, blank, [self._key(r) in self._measured for r in regions])
        self.table.blockSignals(False)
        self._on_highlight()
        self.export.setEnabled(bool(regions))
        self.export.setToolTip(EXPORT_HELP if regions else "There are no regions yet; propose some first.")
        total, frame = (self._scored[2] if self._scored is not None else 0.0), self._frame
        if frame is None or not regions or any(blank) or not total > 0:
            self.summary.setText("")
            return
        area = sum(r.area_px for r in regions) / np.prod(frame.shape)
        share = sum(r.score for r in regions) / total
        windows = "1 window" if len(regions) == 1 else f"{len(regions)} windows"
        self.summary.setText(
            f"{windows} on {100 * area:.3g} % of the image hold {100 * share:.3g} % of the score."
        )

    # ---------------------------------------------------------------- the stage

    def _show_stage(self) -> None:
        """Show the places of this image that are known on the stage."""
        known, source = self.session.stage, self._source
        ours = known is not None and source is not None and known.source == source.name
        self.stage.show_pairs(known.places if known is not None and ours else ())
        self.stage.setEnabled(self._frame is not None)
        self._fit_stage()

    def _fit_stage(self) -> None:
        """Fit the places as they are, and say how well."""
        self._affine, count, problem = None, 0, ""
        try:
            places = self.stage.pairs()
            count = len(places)
            if self._frame is not None and count >= 3:
                values = np.asarray(places)
                size = self._frame.pixel_size[-2:]
                self._affine = StageAffine.from_pixels(values[:, :2], values[:, 2:], size)
        except ValueError as error:
            problem = str(error)
        self.stage.say_fit(self._affine, count, problem)

    def _on_user_stage(self) -> None:
        """A place was typed: fit anew, and let the session know what fits."""
        self._fit_stage()
        if self._source is not None and not self._left:
            places = tuple(self.stage.pairs()) if self._affine is not None else ()
            known = StagePlaces(self._source.name, places) if places else None
            if known != self.session.stage:
                self.session.stage = known

    def _on_user_points(self) -> None:
        """Take positions from a Points layer."""
        from napari.layers import Points

        layers = [layer for layer in self.viewer.layers if isinstance(layer, Points) and len(layer.data)]
        active = self.viewer.layers.selection.active
        if not layers:
            self.stage.say_fit(
                None, 0, "There is no layer with points. Add a Points layer, and click three places in it."
            )
            return
        anchor, frame = self._anchor(), self._frame
        if anchor is None or frame is None:
            self.stage.say_fit(None, 0, "The image's layers were removed; denoise it again to place points.")
            return
        layer = active if active in layers else layers[-1]
        axes = [frame.axes.index(a) - len(frame.axes) for a in "YX"]
        before = tuple(self.viewer.dims.point)[: max(anchor.ndim - layer.ndim, 0)]
        inside = [anchor.world_to_data((*before, *layer.data_to_world(p))) for p in layer.data]
        self.stage.show_positions([[float(f"{place[a]:.2f}") for a in axes] for place in inside])

    # ---------------------------------------------------------------- table and viewer

    def _on_user_row(self) -> None:
        """Rows were selected: their rectangles are, and the view goes to the first."""
        layer, frame = self._layer, self._frame
        model = self.table.selectionModel()
        if layer is None or frame is None or model is None:
            return
        rows = sorted(index.row() for index in model.selectedRows())
        self._own = True
        try:
            self.viewer.layers.selection.active = layer
            layer.mode = "select"
            layer.selected_data = set(rows)
        finally:
            self._own = False
        if rows:
            self._go_to(np.asarray(layer.data[rows[0]], dtype=float))

    def _go_to(self, corners: NDArray[np.float64]) -> None:
        """Centre the view on a rectangle, in its plane."""
        layer, frame, dims = self._layer, self._frame, self.viewer.dims
        assert frame is not None
        world = layer.data_to_world(corners.mean(axis=0))
        offset = dims.ndim - layer.ndim
        for i, a in enumerate(frame.axes):
            if a in "STZ" and offset + i in dims.not_displayed:
                dims.set_point(offset + i, float(world[i]))
        shown = [float(world[d - offset]) for d in dims.displayed if d >= offset]
        camera = _camera(self.viewer)
        camera.center = (*tuple(camera.center)[: -len(shown)], *shown)

    def _on_highlight(self, event: Any = None) -> None:
        """Rectangles were selected in the viewer: so are their rows."""
        del event
        layer, model = self._layer, self.table.selectionModel()
        if self._left or self._own or layer is None or model is None:
            return
        wanted = sorted(k for k in layer.selected_data if k < self.table.rowCount())
        if wanted == sorted(index.row() for index in model.selectedRows()):
            return
        self.table.blockSignals(True)
        self.table.clearSelection()
        mode = self.table.selectionMode()
        self.table.setSelectionMode(self.table.SelectionMode.MultiSelection)
        for row in wanted:
            self.table.selectRow(row)
        self.table.setSelectionMode(mode)
        self.table.blockSignals(False)


def _camera(viewer: Any) -> Any:
    """The viewer's camera, which moved in napari 0.9."""
    return (viewer.scene if "scene" in type(viewer).model_fields else viewer).camera
