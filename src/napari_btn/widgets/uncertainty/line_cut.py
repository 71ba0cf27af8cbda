"""Values along a line of the image, in the Uncertainty dock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import covered
from napari_btn.core.data.image import shown_names
from napari_btn.core.evaluation.line import along, points_between, to_scale
from napari_btn.widgets.shared.contrast import clean_of
from napari_btn.widgets.shared.layers import read_layer
from napari_btn.widgets.shared.overlays import line_layer, our_layer, placement_of, plane_of, truths

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.uncertainty.focus import Focus
    from napari_btn.widgets.uncertainty.view import UncertaintyView

__all__ = ["LineCut"]

_TRUTH_NAMES = ("clean", "target", "slow", "long", "truth")


class LineCut:
    """The tab with the values along a line, and the choice of a layer that holds the truth.

    Parameters
    ----------
    view : UncertaintyView
        Form with the controls.
    focus : Focus
        Prediction and plane to cut.
    lifetime : Lifetime
        Of the dock.
    changed : callable
        Called when the curves must be drawn again.
    """

    def __init__(
        self, view: UncertaintyView, focus: Focus, lifetime: Lifetime, changed: Callable[[], None]
    ) -> None:
        self._view, self._focus, self._changed = view, focus, changed
        self._offered: tuple[list[str], str] = ([], "")
        self._scale: tuple[object, tuple[float, float]] | None = None
        self._line: Any = None
        self._kept: tuple[str, NDArray[np.float64]] | None = None  # source and line, behind another dock
        view.line_cut.clicked.connect(self._on_user_line)
        view.truth.currentIndexChanged.connect(self._on_user_truth)
        lifetime.at_end(self._leave_line)

    def _on_user_line(self) -> None:
        """Add a line, or go on with the existing one."""
        prediction, source = self._focus.prediction, self._focus.source
        if prediction is None or source is None:
            return
        self.offer_truths()
        size = dict(zip(prediction.axes, prediction.median.shape, strict=True))
        place = placement_of(self._focus.viewer, source.name, "YX")
        layer = line_layer(self._focus.viewer, f"{source.name} line cut", (size["Y"], size["X"]), place)
        layer.visible = True
        self.watch()
        self._focus.viewer.layers.selection.active = layer
        layer.mode = "add_line"
        self._view.tabs.setCurrentIndex(0)
        self._changed()

    def watch(self) -> None:
        """Follow the changes of the line, if there is one."""
        name = f"{self._focus.name} line cut"
        layer = our_layer(self._focus.viewer, name, "line cut")
        if layer is self._line:
            return
        self._leave_line()
        self._line = layer
        if layer is not None:
            layer.events.data.connect(self._on_viewer_line)
            layer.events.set_data.connect(self._on_viewer_drew)

    def _leave_line(self) -> None:
        """Disconnect from the line."""
        if self._line is not None:
            self._line.events.data.disconnect(self._on_viewer_line)
            self._line.events.set_data.disconnect(self._on_viewer_drew)
        self._line = None

    def turn(self, in_front: bool) -> None:
        """Take the line out of the viewer while another dock lies over this one, and bring it back.

        Parameters
        ----------
        in_front : bool
            True to bring it back.
        """
        viewer, name = self._focus.viewer, self._focus.name
        if not in_front and self._line is not None and self._line in viewer.layers:
            line = self._line
            self._kept = (name, np.array(line.data[-1], dtype=float)) if line.nshapes else None
            self._leave_line()
            viewer.layers.remove(line)
        elif in_front and self._kept is not None and self._kept[0] == name:
            active = viewer.layers.selection.active
            layer = line_layer(viewer, f"{name} line cut", (2, 2), placement_of(viewer, name, "YX"))
            layer.data = [self._kept[1]]
            viewer.layers.selection.active = active
            self.watch()
        if in_front:
            self._kept = None
            self.offer_truths()
            self._changed()

    def _on_viewer_line(self, event: Any) -> None:
        """Draw the moved or new line, and remove the lines before it."""
        layer = self._line
        if layer is not None and str(getattr(event, "action", "")).endswith("added") and layer.nshapes > 1:
            layer.selected_data = set(range(layer.nshapes - 1))
            layer.remove_selected()
        self._changed()

    def draw(self) -> None:
        """Draw the values along the line."""
        prediction, source = self._focus.prediction, self._focus.source
        drawn = self._line is not None and self._line in self._focus.viewer.layers and self._line.nshapes > 0
        self._view.line_chart.setVisible(drawn and prediction is not None)
        if prediction is None or source is None or not drawn:
            self._view.line_note.say()
            return
        ends = np.asarray(self._line.data[-1], dtype=float)[[0, -1], -2:]
        points = points_between(*ends)
        at = self._focus.at()
        names = ("lower", "median", "upper")
        planes: dict[str, NDArray[Any]] = {
            name: plane_of(getattr(prediction, name), prediction.axes, at) for name in names
        }
        notes: list[tuple[str, str]] = []
        try:
            observed = self._observed(at, planes["median"])
            if observed is not None:
                planes["observed"] = observed
            truth = self._truth_plane(at, planes["median"].shape)
            if truth is not None:
                planes["truth"] = truth
        except ValueError as error:
            notes.append(("amber", str(error)))
        size = dict(
            zip([a for a in prediction.axes if a in "ZYX"], prediction.pixel_size or (), strict=False)
        )
        step = np.array([size.get("Y", 1.0), size.get("X", 1.0)])
        distance = np.hypot(*((points - points[0]) * step).T)
        curves = {name: along(plane, points) for name, plane in planes.items()}
        threshold = self._focus.asked.value if self._view.toggles["exceedance"].isChecked() else None
        unit = prediction.unit if prediction.pixel_size else "px"
        channel = shown_names(prediction.channel_names)[self._focus.asked.channel]
        self._view.line_chart.show_curves(distance, curves, unit=unit, threshold=threshold, channel=channel)
        if "truth" in curves:
            known = np.isfinite(curves["truth"]) & np.isfinite(curves["median"])
            inside = (curves["lower"] <= curves["truth"]) & (curves["truth"] <= curves["upper"])
            share = float(np.mean(inside[known])) if known.any() else float("nan")
            aim = f"{100 * (1 - prediction.alpha):.4g} % of {covered(prediction.covers)}"
            text = (
                f"{100 * share:.0f} % of the truth along the line lies inside the interval. "
                f"Aimed at: {aim}, on average."
            )
            notes.append(("info", text))
        self._view.line_note.say(*notes)

    def _observed(self, at: dict[str, int], median: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """Return the noisy plane at the median's scale, by gain and offset over the whole plane."""
        source, prediction = self._focus.source, self._focus.prediction
        assert source is not None
        assert prediction is not None
        axes = source.axes or prediction.axes
        size = dict(zip(axes, source.data.shape, strict=True))
        if size.get("C", 1) != len(prediction.channel_names):
            return None
        plane = plane_of(source.data, axes, at)
        if plane.shape != median.shape:
            return None
        key = (id(prediction), tuple(sorted(at.items())))
        if self._scale is None or self._scale[0] != key:
            self._scale = (key, to_scale(plane, median))
        gain, offset = self._scale[1]
        return np.asarray(gain * plane + offset, dtype=np.float64)

    def _truth_plane(self, at: dict[str, int], shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return the plane of the truth; None if it is unknown or has another shape."""
        image = self.truth()
        if image is None:
            return None
        plane = plane_of(image.data, image.axes, at)
        return plane if plane.shape == shape else None

    def truth(self) -> LayerImage | None:
        """Return the image that was picked as the truth; None without one."""
        name = self._view.truth.currentText()
        if self._view.truth.currentIndex() < 1 or name not in self._focus.viewer.layers:
            return None
        return read_layer(self._focus.viewer.layers[name])

    def pan(self) -> None:
        """Let clicks move the view instead of drawing lines."""
        if self._line is not None:
            self._line.mode = "pan_zoom"

    def _on_user_truth(self, index: int) -> None:
        """Draw another truth."""
        del index
        self._changed()

    def _on_viewer_drew(self, event: Any = None) -> None:
        """Follow the line while it is dragged."""
        del event
        self._changed()

    def offer_truths(self) -> None:
        """Offer the layers that may be the truth; pick one with such a name."""
        prediction, before = self._focus.prediction, self._view.truth.currentText()
        found = (
            [] if prediction is None else truths(self._focus.viewer, prediction.median.shape, prediction.axes)
        )
        source = self._focus.name
        names = [layer.name for layer in found if layer.name != source]
        clean = clean_of(self._focus.viewer, source)
        first = clean.name if clean is not None and clean.name in names else ""
        if (names, first) == self._offered:
            return
        known, self._offered = self._offered[1] == first, (names, first)
        self._view.truth.blockSignals(True)
        self._view.truth.clear()
        self._view.truth.addItems(["none", *names])
        likely = [first] if first else []
        likely += [n for n in names if any(word in n.lower() for word in _TRUTH_NAMES)]
        pick = before if before in names and known else (likely[0] if likely else "none")
        self._view.truth.setCurrentText(pick)
        self._view.truth.blockSignals(False)
