"""The Uncertainty dock: what the intervals say, where the signal exceeds a threshold, how sure that is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal

from napari_btn.core.progress import Progress
from napari_btn.widgets.shared.layers import KEY, limits_of
from napari_btn.widgets.shared.overlays import (
    as_before,
    map_layer,
    our_layer,
    placement_of,
    side_by_side,
    truths,
)
from napari_btn.widgets.shared.thresholds import few_values, first_threshold
from napari_btn.widgets.uncertainty.closer_look import CloserLook, point_of
from napari_btn.widgets.uncertainty.live_maps import LiveMaps

if TYPE_CHECKING:
    from napari_btn.core.progress import Step

__all__ = ["UncertaintyWidget"]

_SETTLE_AFTER_MS = 250
_AT_ONCE = 2_000_000
_TRUTH_NAMES = ("clean", "target", "slow", "long", "truth")
_LIVE = ("exceedance", "claim")
_NOTHING_YET = (
    "Nothing is denoised yet. Train in the Denoise dock, or apply loaded networks to a layer there."
)
_NO_LEVELS = (
    "These maps have no calibrated quantiles, so no probability can be given. Denoise the image again."
)


class UncertaintyWidget(CloserLook):
    """Dock that shows what calibrated intervals say of an image.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    _wanted = Signal()

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._before: dict[str, Any] | None = None
        self._selection = ""
        self._due = False
        self._settle = self._timer(_SETTLE_AFTER_MS)
        self._connect()
        self._on_session_changed("denoiser")

    def _connect(self) -> None:
        """Join signals and handlers."""
        self.channel.currentIndexChanged.connect(self._on_user_channel)
        self.threshold.changed.connect(self._on_user_threshold)
        self.confidence.changed.connect(self._on_user_confidence)
        self.select.toggled.connect(self._on_user_select)
        self.level.valueChanged.connect(self._on_user_select)
        for kind, toggle in self.toggles.items():
            toggle.clicked.connect(partial(self._on_user_toggle, kind))
        self.grid.clicked.connect(self._on_user_grid)
        self.line_cut.clicked.connect(self._on_user_line)
        self.truth.currentIndexChanged.connect(self._later)
        self.missed.clicked.connect(self._on_user_missed)
        self.filter.clicked.connect(self._on_user_filter)
        self.tabs.currentChanged.connect(self._on_user_tab)
        # Comes before the next frame, which a timer doesn't: slider and map are painted together.
        self._wanted.connect(self._draw, Qt.ConnectionType.QueuedConnection)
        self._settle.timeout.connect(self._on_settled)
        events = self.viewer.layers.events
        self._hear(self._on_layers_changed, events.inserted, events.removed, events.renamed)
        self._hear(self._on_dims_changed, self.viewer.dims.events.current_step)
        self.viewer.mouse_drag_callbacks.append(self._on_mouse)
        self._hear(self._on_session_changed, self.session.changed)

    # ---------------------------------------------------------------- the session

    def _on_session_changed(self, slot: str) -> None:
        """Show what the session knows now."""
        if self._left:
            return
        if slot == "threshold":
            self._on_session_threshold()
            return
        if slot == "tokens":
            self._later()
        if slot == "denoiser":
            denoiser = self.session.denoiser
            self.report.show_report(None if denoiser is None else denoiser.report)
            self._curve = None
            self._on_user_tab()
        if slot in ("denoiser", "source", "prediction"):
            self._on_prediction()

    def _on_prediction(self) -> None:
        """Start anew with the session's prediction, or without one."""
        self._prediction, self._source = self.session.prediction, self.session.source
        prediction = self._prediction
        self.live, self._clicked, self._scale, self._selection = None, None, None, ""
        for run in ("rest", "select"):
            self._drop(run)
        known = prediction is not None and self._source is not None
        for part in (self.channel, self.line_cut, self.grid, self.truth):
            part.setEnabled(known)
        self._show_notes()
        if prediction is None or self._source is None:
            self.line_chart.show_curves(np.empty(0), {}, unit="px", threshold=None)
            self._on_layers_changed()
            self._draw()
            return
        if getattr(prediction, "distribution", None) is not None and prediction.quantiles is not None:
            self.live = LiveMaps(self.viewer, prediction, self._source.name)
        names = list(prediction.channel_names) or ["0"]
        self.channel.blockSignals(True)
        self.channel.clear()
        self.channel.addItems(names)
        self.channel.blockSignals(False)
        self._asked = first_threshold(prediction, self.session.threshold)
        self._on_layers_changed()
        self._on_dims_changed()
        for kind in _LIVE:
            if self.live is not None and self.live.layer(kind) is not None:
                self._show(kind)
        self._show_controls()
        self._watch_line()

    def _on_session_threshold(self) -> None:
        """Another dock, or a script, set the threshold."""
        asked = self.session.threshold
        if asked is None or asked == self._asked or len(asked.values) != len(self._asked.values):
            return
        self._asked = replace(asked, channel=self._asked.channel)
        self._show_controls()
        self._later()

    def _show_notes(self) -> None:
        """Say what is missing, and what this image has against its calibration."""
        prediction = self._prediction
        if prediction is None:
            self.hint.say(("info", _NOTHING_YET))
        elif getattr(prediction, "distribution", None) is None or prediction.quantiles is None:
            self.hint.say(("amber", _NO_LEVELS))
        else:
            self.hint.say()
        denoiser = self.session.denoiser
        report = None if denoiser is None else denoiser.report
        of_report = () if report is None else tuple(note.text for note in report.warnings)
        notes = getattr(prediction, "notes", ())
        self.drift.say(*((n.level, f"This image: {n.text}") for n in notes if n.text not in of_report))
        worst = getattr(report, "worst", ())
        c = self._asked.channel
        self.worst.say(*((("info", f"Covered least: {worst[c]}"),) if c < len(worst) and worst[c] else ()))

    # ---------------------------------------------------------------- where the viewer stands

    def _on_dims_changed(self, event: Any = None) -> None:
        """The viewer shows another plane."""
        del event
        prediction, anchor = self._prediction, self._anchor()
        if self._left or prediction is None:
            return
        if anchor is not None and "C" in prediction.axes:
            axis = prediction.axes.index("C")
            value = round(float(point_of(anchor, self.viewer)[axis]))
            channel = int(np.clip(value, 0, len(self._asked.values) - 1))
            if channel != self._asked.channel:
                self._asked = replace(self._asked, channel=channel)
                self._show_controls()
        self._later()

    def _on_user_channel(self, channel: int) -> None:
        """Another channel is picked: the viewer goes there."""
        prediction, anchor = self._prediction, self._anchor()
        if channel < 0 or prediction is None:
            return
        self._asked = replace(self._asked, channel=channel)
        self._show_controls()
        if anchor is not None and "C" in prediction.axes:
            axis = prediction.axes.index("C")
            moved = self.viewer.dims.ndim - anchor.ndim + axis
            place = float(np.asarray(anchor.translate)[axis] + channel * np.asarray(anchor.scale)[axis])
            self.viewer.dims.set_point(moved, place)
        self._settle.start()
        self._later()

    def _show_controls(self) -> None:
        """Show channel, threshold and confidence as they are asked for."""
        prediction = self._prediction
        if prediction is None:
            return
        asked = self._asked
        self.channel.blockSignals(True)
        self.channel.setCurrentIndex(asked.channel)
        self.channel.blockSignals(False)
        low, _ = limits_of(few_values(prediction.median, prediction.axes, asked.channel), 99.9)
        _, high = limits_of(few_values(prediction.upper, prediction.axes, asked.channel), 99.9)
        self.set_threshold_range(min(low, asked.value), max(high, asked.value))
        self.threshold.show_value(asked.value)
        self.confidence.show_value(asked.confidence)
        self._show_notes()
        self._show_reliability()

    # ---------------------------------------------------------------- threshold and confidence

    def _on_user_threshold(self, value: float) -> None:
        """The threshold is another: the map of it is shown from now on."""
        values = list(self._asked.values)
        values[self._asked.channel] = value
        self._asked = replace(self._asked, values=tuple(values))
        self._live_change("exceedance")

    def _on_user_confidence(self, value: float) -> None:
        """The confidence is another: claims are outlined from now on."""
        self._asked = replace(self._asked, confidence=value)
        self._live_change("claim")

    def _on_user_select(self, value: object = None) -> None:
        """Claims are made for a set, or for each pixel; or with another share of wrong ones."""
        del value
        self.confidence.setEnabled(self.live is not None and not self.select.isChecked())
        if self.live is not None:
            self._show("claim")
            if not self.select.isChecked():
                self._later()
            self._settle.start()

    def _live_change(self, kind: str) -> None:
        """Show the layer that the change is about, draw soon, and tell the session when it settles."""
        if self.live is not None:
            self._show(kind)
        self._settle.start()
        self._later()

    def _show(self, kind: str) -> None:
        """Make sure that a live layer is there."""
        if self.live is None or self._prediction is None or self._source is None:
            return
        if self.live.shows(kind) and self.live.layer(kind).visible:
            return
        self.toggles[kind].setChecked(True)
        placement = placement_of(self.viewer, self._source.name, self._prediction.axes)
        active = self.viewer.layers.selection.active
        layer = self.live.add(kind, placement, self._record())
        layer.visible = True
        if active is not None and active in self.viewer.layers:
            self.viewer.layers.selection.active = active
        if int(np.prod(self.live.shape)) <= _AT_ONCE:
            for c, value in enumerate(self._asked.values):
                for key in self.live.keys_of(c):
                    if self.live.stale(kind, key, (value,)) and not self.select.isChecked():
                        self.live.draw(kind, key, value, self._asked.confidence)
        self._settle.start()

    def _record(self) -> dict[str, Any]:
        """Metadata of a live layer."""
        prediction = self._prediction
        assert prediction is not None
        return {
            "axes": prediction.axes,
            "channel_names": list(prediction.channel_names),
            "covers": prediction.covers,
            "alpha": prediction.alpha,
            "thresholds": list(self._asked.values),
            "confidence": self._asked.confidence,
            "caption": self._sentence(),
            "provenance": prediction.provenance,
        }

    def _later(self, value: object = None) -> None:
        """Draw soon, once for all that happens until then."""
        del value
        if not self._left and not self._due:
            self._due = True
            self._wanted.emit()

    def _draw(self) -> None:
        """Bring what is in sight up to date."""
        self._due = False
        if self._left:
            return
        asked = self._asked
        if self.live is not None:
            key = self.live.key(self._at())
            kinds = ("exceedance",) if self.select.isChecked() else _LIVE
            for kind in kinds:
                self.live.draw(kind, key, asked.value, asked.confidence)
        if not self._settle.isActive():
            # Another text lays out the whole window anew: not while a slider moves.
            self.caption.setText(self._sentence())
        self._draw_line()
        self._draw_pixel()

    def _sentence(self) -> str:
        """What the shown map says, and doesn't."""
        prediction, denoiser = self._prediction, self.session.denoiser
        if prediction is None:
            return ""
        if self.select.isChecked() and self._selection:
            return self._selection
        claimed = not self.toggles["claim"].isHidden() and self.toggles["claim"].isChecked()
        if self.live is not None and (claimed or self.toggles["exceedance"].isChecked()):
            assert prediction.distribution is not None
            text = prediction.distribution.caption(
                self._asked.value,
                channel_name=prediction.channel_names[self._asked.channel],
                confidence=self._asked.confidence if claimed else None,
                covers=prediction.covers,
            )
            count = self.live.claimed(self.live.key(self._at())) if claimed else 0
            return f"{count} pixels outlined. {text}" if claimed else text
        calibration = getattr(denoiser, "calibration", None)
        return "" if calibration is None else str(calibration.caption(prediction.covers))

    def _on_settled(self) -> None:
        """The sliders rest: tell the session, and bring the rest of a volume up to date."""
        if self._left or self._prediction is None:
            return
        self.caption.setText(self._sentence())
        if self.session.threshold != self._asked:
            self.session.threshold = self._asked
        if self.live is None:
            return
        for kind in _LIVE:
            layer = self.live.layer(kind)
            if layer is not None:
                record = {**self._record(), "map": kind}
                layer.metadata = {**layer.metadata, KEY: record}
        if self.select.isChecked():
            self._start_selection()
        self._start_rest()

    def _start_rest(self) -> None:
        """Compute the planes out of sight in a thread, some at a time so that few are held twice."""
        live, asked = self.live, self._asked
        assert live is not None
        kinds = [
            k for k in _LIVE if live.layer(k) is not None and not (k == "claim" and self.select.isChecked())
        ]
        keys = live.rest(kinds, asked.channel, asked.value, asked.confidence)
        self._drop("rest")
        if not keys:
            return
        keys = keys[: max(_AT_ONCE // int(np.prod(live.plane_shape)), 1)]

        def done(made: Any) -> None:
            """Show them, unless the sliders went on."""
            self._runs.pop("rest", None)
            if self.live is live and asked == self._asked:
                live.take(made, asked.value, asked.confidence)
                self._start_rest()

        self._run("rest", lambda: live.rest_steps(kinds, keys, asked.value, asked.confidence), done)

    def _start_selection(self) -> None:
        """Select the set to claim, in a thread."""
        prediction, live, asked, level = self._prediction, self.live, self._asked, self.level.value()
        assert prediction is not None
        assert live is not None

        def step() -> Step[Any]:
            """Select, as a step."""
            yield Progress(0, 1, "Selecting")
            return prediction.select(asked.value, asked.channel, level=level)

        def done(selection: Any) -> None:
            """Show the set."""
            self._runs.pop("select", None)
            if self.live is live and self.select.isChecked():
                live.take_selection(asked.channel, selection.mask)
                self._selection = selection.caption
                self.caption.setText(self._sentence())

        self._drop("select")
        self._run("select", step, done)

    # ---------------------------------------------------------------- layers

    def _on_user_toggle(self, kind: str, shown: bool) -> None:
        """Show or hide a map."""
        if kind in _LIVE:
            layer = None if self.live is None else self.live.layer(kind)
            if shown:
                self._show(kind)
            elif layer is not None:
                layer.visible = False
            self._later()
            return
        layer = self._result(kind)
        if layer is None and kind == "spread" and shown:
            layer = self._add_spread()
        if layer is not None:
            layer.visible = shown

    def _result(self, kind: str) -> Any:
        """Layer of a map of the prediction."""
        return None if self._source is None else our_layer(self.viewer, f"{self._source.name} {kind}", kind)

    def _add_spread(self) -> Any:
        """Layer with the members' spread."""
        prediction, source = self._prediction, self._source
        if prediction is None or source is None:
            return None
        record = {
            **self._record(),
            "map": "spread",
            "caption": "Spread of the members' medians, uncalibrated.",
        }
        place = placement_of(self.viewer, source.name, prediction.axes)
        channels = range(len(self._asked.values))
        shown = [few_values(prediction.spread, prediction.axes, c) for c in channels]
        top = limits_of(np.concatenate(shown), 99.5)[1]
        return map_layer(self.viewer, f"{source.name} spread", prediction.spread, place, record, (0.0, top))

    def _on_layers_changed(self, event: Any = None) -> None:
        """Offer the layers that there are."""
        if self._left:
            return
        added = getattr(event, "value", None)
        if getattr(event, "type", "") == "inserted" and added is not None:
            added.events.visible.connect(self._show_toggles)
        if event is None:
            for layer in self.viewer.layers:
                layer.events.visible.disconnect(self._show_toggles)
                layer.events.visible.connect(self._show_toggles)
        self._show_toggles()
        self._offer_truths()
        self._watch_line()
        self._later()

    def _show_toggles(self, event: Any = None) -> None:
        """Show which maps are in sight, and which there are."""
        del event
        if self._left:
            return
        for kind, toggle in self.toggles.items():
            if kind in _LIVE:
                layer, possible = (None, False) if self.live is None else (self.live.layer(kind), True)
            else:
                layer = self._result(kind)
                possible = layer is not None or (kind == "spread" and self._prediction is not None)
            toggle.setEnabled(possible)
            toggle.setChecked(layer is not None and bool(layer.visible))
        for part in (self.threshold, self.confidence, self.select, self.level):
            part.setEnabled(self.live is not None)
        self.confidence.setEnabled(self.live is not None and not self.select.isChecked())

    def _offer_truths(self) -> None:
        """Offer the layers that may be the truth; one that is called so is picked."""
        prediction, before = self._prediction, self.truth.currentText()
        found = [] if prediction is None else truths(self.viewer, prediction.median.shape, prediction.axes)
        source = "" if self._source is None else self._source.name
        names = [layer.name for layer in found if layer.name != source]
        if names == [self.truth.itemText(i) for i in range(1, self.truth.count())]:
            return
        self.truth.blockSignals(True)
        self.truth.clear()
        self.truth.addItems(["none", *names])
        likely = [n for n in names if any(word in n.lower() for word in _TRUTH_NAMES)]
        pick = before if before in names else (likely[0] if likely else "none")
        self.truth.setCurrentText(pick)
        self.truth.blockSignals(False)

    def _on_user_grid(self, shown: bool) -> None:
        """Show raw, median and width in a row, or leave it."""
        name = "" if self._source is None else self._source.name
        row = [self.viewer.layers[name]] if name in self.viewer.layers else []
        row += [layer for layer in (self._result("median"), self._result("width")) if layer is not None]
        if shown and row:
            self._before = side_by_side(self.viewer, row)
        elif self._before is not None:
            as_before(self.viewer, self._before)
            self._before = None
        self.grid.setChecked(self._before is not None)

    # ---------------------------------------------------------------- what happens around the dock

    def _let_go(self) -> None:
        """Let go of the line, the layers and the mouse."""
        self._leave_line()
        for layer in self.viewer.layers:
            layer.events.visible.disconnect(self._show_toggles)
        if self._on_mouse in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._on_mouse)
