"""The Uncertainty dock: calibrated intervals, and where the signal exceeds a threshold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal

from napari_btn.core.data.image import shown_names
from napari_btn.core.progress import Progress
from napari_btn.widgets.shared.dock import Dock
from napari_btn.widgets.shared.layers import KEY, limits_of
from napari_btn.widgets.shared.thresholds import few_values, first_threshold, has_levels
from napari_btn.widgets.shared.worker import sentence_of
from napari_btn.widgets.uncertainty.coverage_tab import CoverageTab
from napari_btn.widgets.uncertainty.draws_tab import DrawsTab
from napari_btn.widgets.uncertainty.focus import Focus
from napari_btn.widgets.uncertainty.line_cut import LineCut
from napari_btn.widgets.uncertainty.live_maps import LIVE
from napari_btn.widgets.uncertainty.lock import ThresholdLock
from napari_btn.widgets.uncertainty.map_toggles import MapToggles
from napari_btn.widgets.uncertainty.pixel_tab import PixelTab
from napari_btn.widgets.uncertainty.view import TABS, UncertaintyView

if TYPE_CHECKING:
    from napari_btn.core.progress import Step

__all__ = ["UncertaintyWidget"]

_SETTLE_AFTER_MS = 250
_AT_ONCE = 2_000_000
_NOTHING_YET = (
    "Nothing is denoised yet. Train in the Denoise dock, or apply loaded networks to a layer there."
)
_NO_LEVELS = (
    "These maps have no calibrated quantiles, so no probability can be given. Denoise the image again."
)


class UncertaintyWidget(Dock):
    """Dock that shows calibrated intervals, and where the signal exceeds a threshold.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    _wanted = Signal()

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "napari_btn_uncertainty")
        self.view = UncertaintyView(self.theme)
        self.show_view(self.view, scrolls=True)
        self.focus = Focus(self.viewer)
        self._selection = ""
        self._due = False
        self._settle = self.lifetime.timer(_SETTLE_AFTER_MS, self._take_settled)
        self.toggles = MapToggles(self.view, self.focus, self.lifetime, self._show, self._later)
        self.line = LineCut(self.view, self.focus, self.lifetime, self._later)
        self.pixel = PixelTab(self.view, self.focus, self.session, self.lifetime, self.line.truth)
        self.lock = ThresholdLock(
            self.view, self.focus, self.session, self.lifetime, self._on_lock_changed, self._say_error
        )
        self.draws = DrawsTab(self.view, self.focus, self.lifetime)
        self.coverage = CoverageTab(self.view, self.focus, self.session, self.lifetime)
        self._connect()
        self._on_session_changed("model")

    def _connect(self) -> None:
        """Connect signals and handlers."""
        view = self.view
        view.channel.currentIndexChanged.connect(self._on_user_channel)
        view.threshold.changed.connect(self._on_user_threshold)
        view.confidence.changed.connect(self._on_user_confidence)
        view.select.toggled.connect(self._on_user_select)
        view.level.valueChanged.connect(self._on_user_select)
        view.tabs.currentChanged.connect(self._on_user_tab)
        # A queued call comes before the next frame, unlike a timer: slider and map are painted together.
        self._wanted.connect(self._draw, Qt.ConnectionType.QueuedConnection)
        events = self.viewer.layers.events
        self.lifetime.hear(self._on_viewer_layers, events.inserted, events.removed, events.renamed)
        self.lifetime.hear(self._on_viewer_dims, self.viewer.dims.events.current_step)
        self.lifetime.hear(self._on_session_changed, self.session.changed)

    def turn(self, in_front: bool) -> None:
        """Take line, mark, filter and draw out of the viewer while another dock is worked in."""
        for tab in (self.line, self.pixel, self.draws):
            tab.turn(in_front)

    def _on_session_changed(self, slot: str) -> None:
        """Show the session's state."""
        if self.lifetime.ended:
            return
        if slot == "threshold":
            self._on_session_threshold()
            return
        if slot == "locks":
            self._on_session_locks()
        if slot == "tokens":
            self._later()
        if slot == "model":
            self.coverage.show_report()
        if slot in ("model", "source", "prediction"):
            self._on_session_prediction()

    def _on_session_prediction(self) -> None:
        """Show the session's prediction, or say that there is none."""
        self.focus.show(self.session.prediction, self.session.source)
        self.pixel.forget()
        self.draws.forget()
        self._selection = ""
        for run in ("rest", "select", "lock"):
            self.lifetime.drop(run)
        prediction, view = self.focus.prediction, self.view
        for part in (view.channel, view.line_cut, view.grid, view.truth):
            part.setEnabled(prediction is not None)
        if prediction is None:
            self._show_notes()
            view.line_chart.show_curves(np.empty(0), {}, unit="px", threshold=None)
            self._on_viewer_layers()
            self._draw()
            return
        view.channel.blockSignals(True)
        view.channel.clear()
        view.channel.addItems(shown_names(prediction.channel_names))
        view.channel.blockSignals(False)
        self.focus.asked = first_threshold(prediction, self.session.threshold)
        self._on_viewer_layers()
        self._on_viewer_dims()
        for kind in LIVE:
            if self.focus.live is not None and self.focus.live.layer(kind) is not None:
                self._show(kind)
        self._show_controls()
        self.lock.recalibrate()
        self.line.watch()

    def _on_session_locks(self) -> None:
        """Show the map of a threshold that was locked or unlocked."""
        if self.focus.prediction is None or self.session.prediction is None:
            return
        self.focus.locks = self.session.prediction.locks
        self.lock.show()
        self._show("exceedance")
        self.lock.recalibrate()

    def _on_lock_changed(self) -> None:
        """Draw the maps of thresholds that were locked or unlocked."""
        self._draw_small("exceedance")
        self._settle.start()
        self._later()

    def _on_session_threshold(self) -> None:
        """Take the threshold that another dock, or a script, has set."""
        asked = self.session.threshold
        if asked is None or asked == self.focus.asked or len(asked.values) != len(self.focus.asked.values):
            return
        self.focus.asked = replace(asked, channel=self.focus.asked.channel)
        self._show_controls()
        self._later()

    def _show_notes(self) -> None:
        """Show what is missing, and how the image differs from the calibration data."""
        prediction = self.focus.prediction
        if prediction is None:
            self.view.hint.say(("info", _NOTHING_YET))
        elif not has_levels(prediction):
            self.view.hint.say(("amber", _NO_LEVELS))
        else:
            self.view.hint.say()
        model = self.session.model
        report = None if model is None else model.calibrated.report
        of_report = () if report is None else tuple(note.text for note in report.warnings)
        notes = getattr(prediction, "notes", ())
        self.view.drift.say(*((n.level, f"This image: {n.text}") for n in notes if n.text not in of_report))
        worst = () if report is None else report.worst
        c = self.focus.asked.channel
        self.view.worst.say(
            *((("info", f"Covered least: {worst[c]}"),) if c < len(worst) and worst[c] else ())
        )

    def _on_viewer_dims(self, event: Any = None) -> None:
        """Follow the sliders to another plane or channel."""
        del event
        prediction = self.focus.prediction
        if self.lifetime.ended or prediction is None:
            return
        point = self.focus.point()
        if point is not None and "C" in prediction.axes:
            value = round(float(point[prediction.axes.index("C")]))
            channel = int(np.clip(value, 0, len(self.focus.asked.values) - 1))
            if channel != self.focus.asked.channel:
                self.focus.asked = replace(self.focus.asked, channel=channel)
                self._show_controls()
        self._later()

    def _on_user_channel(self, channel: int) -> None:
        """Move the viewer to the picked channel."""
        prediction, anchor = self.focus.prediction, self.focus.anchor()
        if channel < 0 or prediction is None:
            return
        self.focus.asked = replace(self.focus.asked, channel=channel)
        self._show_controls()
        if anchor is not None and "C" in prediction.axes:
            axis = prediction.axes.index("C")
            moved = self.viewer.dims.ndim - anchor.ndim + axis
            place = float(np.asarray(anchor.translate)[axis] + channel * np.asarray(anchor.scale)[axis])
            self.viewer.dims.set_point(moved, place)
        self._settle.start()
        self._later()

    def _show_controls(self) -> None:
        """Show the chosen channel, threshold and confidence."""
        prediction = self.focus.prediction
        if prediction is None:
            return
        asked = self.focus.asked
        self.view.channel.blockSignals(True)
        self.view.channel.setCurrentIndex(asked.channel)
        self.view.channel.blockSignals(False)
        low, _ = limits_of(few_values(prediction.median, prediction.axes, asked.channel), 99.9)
        _, high = limits_of(few_values(prediction.upper, prediction.axes, asked.channel), 99.9)
        self.view.set_threshold_range(min(low, asked.value), max(high, asked.value))
        self.view.threshold.show_value(asked.value)
        self.view.confidence.show_value(asked.confidence)
        self.lock.show()
        self._show_notes()
        self.coverage.show_reliability()

    def _on_user_threshold(self, value: float) -> None:
        """Show the exceedance map of the new threshold."""
        values = list(self.focus.asked.values)
        values[self.focus.asked.channel] = value
        self.focus.asked = replace(self.focus.asked, values=tuple(values))
        self._live_change("exceedance")

    def _on_user_confidence(self, value: float) -> None:
        """Outline the claims at the new confidence."""
        self.focus.asked = replace(self.focus.asked, confidence=value)
        self._live_change("claim")

    def _on_user_select(self, value: object = None) -> None:
        """Make claims for a set at a share of false ones, or for each pixel."""
        del value
        self.view.confidence.setEnabled(self.focus.live is not None and not self.view.select.isChecked())
        if self.focus.live is not None:
            self._show("claim")
            if not self.view.select.isChecked():
                self._later()
            self._settle.start()

    def _live_change(self, kind: str) -> None:
        """Show the map that changes, draw soon, and update the session when the slider rests."""
        if self.focus.live is not None:
            self._show(kind)
        self._settle.start()
        self._later()

    def _show(self, kind: str) -> None:
        """Show a map that follows the threshold, and add it if needed."""
        if self.focus.live is None or self.focus.prediction is None or self.focus.source is None:
            return
        if self.focus.live.shows(kind) and self.focus.live.layer(kind).visible:
            return
        self.view.toggles[kind].setChecked(True)
        active = self.viewer.layers.selection.active
        layer = self.focus.live.add(kind, self.focus.record(self._sentence()))
        layer.visible = True
        if active is not None and active in self.viewer.layers:
            self.viewer.layers.selection.active = active
        if not self.view.select.isChecked():
            self._draw_small(kind)
        self._settle.start()

    def _draw_small(self, kind: str) -> None:
        """Draw all planes of a map of a small image."""
        live, asked = self.focus.live, self.focus.asked
        if live is None or int(np.prod(live.shape)) > _AT_ONCE:
            return
        for c, value in enumerate(asked.values):
            for key in live.keys_of(c):
                live.draw(kind, key, value, asked.confidence)

    def _later(self, value: object = None) -> None:
        """Draw soon, once for all changes until then."""
        del value
        if not self.lifetime.ended and not self._due:
            self._due = True
            self._wanted.emit()

    def _draw(self) -> None:
        """Update what is in sight."""
        self._due = False
        if self.lifetime.ended:
            return
        asked = self.focus.asked
        if self.focus.live is not None:
            key = self.focus.live.key(self.focus.at())
            kinds = ("exceedance",) if self.view.select.isChecked() else LIVE
            for kind in kinds:
                self.focus.live.draw(kind, key, asked.value, asked.confidence)
        if not self._settle.isActive():
            # A new text lays out the whole window, which is too slow while a slider moves.
            self.view.caption.setText(self._sentence())
        self.line.draw()
        self.pixel.draw()

    def _sentence(self) -> str:
        """Return the caption of the shown map."""
        prediction, model = self.focus.prediction, self.session.model
        if prediction is None:
            return ""
        if self.view.select.isChecked() and self._selection:
            return self._selection
        claimed = not self.view.toggles["claim"].isHidden() and self.view.toggles["claim"].isChecked()
        if self.focus.live is not None and (claimed or self.view.toggles["exceedance"].isChecked()):
            assert prediction.distribution is not None
            asked, live = self.focus.asked, self.focus.live
            key = live.key(self.focus.at())
            text = prediction.distribution.caption(
                asked.value,
                channel_name=shown_names(prediction.channel_names)[asked.channel],
                confidence=asked.confidence if claimed else None,
                covers=prediction.covers,
                locked=live.locked(asked.channel, asked.value) is not None,
            )
            if unused := self.focus.unused_lock():
                text = f"{text} {unused}"
            if area := live.area(key):
                where = " in this plane" if set(prediction.axes) - set("CYX") else ""
                text = f"{text} Estimated area above {asked.value:.4g}{where}: {area} (sum of the map)."
            return f"{live.claimed(key)} pixels outlined. {text}" if claimed else text
        return "" if model is None else model.calibrated.calibration.caption(prediction.covers)

    def _take_settled(self) -> None:
        """Update the session and the rest of a volume, when the sliders rest."""
        if self.lifetime.ended or self.focus.prediction is None:
            return
        self.view.caption.setText(self._sentence())
        if self.session.threshold != self.focus.asked:
            self.session.threshold = self.focus.asked
        if self.focus.live is None:
            return
        for kind in LIVE:
            layer = self.focus.live.layer(kind)
            if layer is not None:
                record = {**self.focus.record(self._sentence()), "map": kind}
                layer.metadata = {**layer.metadata, KEY: record}
        if self.view.select.isChecked():
            self._start_selection()
        self._start_rest()

    def _start_rest(self) -> None:
        """Compute the planes out of sight in a thread, a few at a time to save memory."""
        live, asked = self.focus.live, self.focus.asked
        assert live is not None
        kinds = [
            k
            for k in LIVE
            if live.layer(k) is not None and not (k == "claim" and self.view.select.isChecked())
        ]
        keys = live.rest(kinds, asked.channel, asked.value, asked.confidence)
        self.lifetime.drop("rest")
        if not keys:
            return
        keys = keys[: max(_AT_ONCE // int(np.prod(live.plane_shape)), 1)]

        def done(made: Any) -> None:
            """Show the planes, unless the sliders moved on."""
            if self.focus.live is live and asked == self.focus.asked:
                live.take(made, asked.value, asked.confidence)
                self._start_rest()

        self.lifetime.start(
            "rest", lambda: live.rest_steps(kinds, keys, asked.value, asked.confidence), done, self._say_error
        )

    def _start_selection(self) -> None:
        """Select the set to claim, in a thread."""
        prediction, live, asked, level = (
            self.focus.prediction,
            self.focus.live,
            self.focus.asked,
            self.view.level.value(),
        )
        assert prediction is not None
        assert live is not None

        def step() -> Step[Any]:
            """Select the set; a step."""
            yield Progress(0, 1, "Selecting")
            return prediction.select(asked.value, asked.channel, level=level)

        def done(selection: Any) -> None:
            """Show the set."""
            if self.focus.live is live and self.view.select.isChecked():
                live.take_selection(asked.channel, selection.mask)
                self._selection = selection.caption
                self.view.caption.setText(self._sentence())

        self.lifetime.drop("select")
        self.lifetime.start("select", step, done, self._say_error)

    def _say_error(self, error: Exception) -> None:
        """Show the error."""
        self.view.hint.say(("red", sentence_of(error)))

    def _on_viewer_layers(self, event: Any = None) -> None:
        """Offer the layers of the viewer."""
        if self.lifetime.ended:
            return
        added = getattr(event, "value", None)
        if getattr(event, "type", "") == "inserted" and added is not None:
            self.toggles.watch(added)
        if event is None:
            for layer in self.viewer.layers:
                self.toggles.watch(layer)
        self.toggles.show()
        live = self.focus.live is not None
        for part in (self.view.select, self.view.level):
            part.setEnabled(live)
        self.view.confidence.setEnabled(live and not self.view.select.isChecked())
        self.lock.show()
        self.line.offer_truths()
        self.draws.offer_regions()
        self.line.watch()
        self._later()

    def _on_user_tab(self, index: int) -> None:
        """Let clicks pick pixels while the tab about them is open."""
        if index == TABS.index("pixel"):
            self.line.pan()
