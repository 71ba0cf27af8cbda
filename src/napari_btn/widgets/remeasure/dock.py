"""The Re-measure dock: where another measurement tells most, as rectangles that can be edited."""

from __future__ import annotations

from dataclasses import replace
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QFileDialog

from napari_btn.core.progress import drain
from napari_btn.io.regions import STAGE_ENDINGS, write_regions
from napari_btn.session import Threshold
from napari_btn.widgets.remeasure.loop import RegionLoop
from napari_btn.widgets.remeasure.proposal import Choice, pixel_size_of, propose_steps, sizes_of
from napari_btn.widgets.remeasure.rectangles import Frame
from napari_btn.widgets.remeasure.view import EXPORT_HELP, PROPOSE_HELP, short_unit
from napari_btn.widgets.shared.thresholds import first_threshold
from napari_btn.widgets.shared.worker import run_step, sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step
    from napari_btn.widgets.remeasure.proposal import Proposal

__all__ = ["RemeasureWidget"]

_AT_ONCE = 400_000
_ALL = -1
_FILES = {
    "CSV table (*.csv)": ".csv",
    "GeoJSON, for QuPath (*.geojson)": ".geojson",
    "ImageJ ROIs (*.zip)": ".zip",
}
_NOTHING_YET = (
    "Nothing is denoised yet. Train in the Denoise dock, or apply loaded networks to a layer there."
)
_NO_LEVELS = (
    "These maps have no calibrated quantiles, so nothing is known about a threshold. Choose another score."
)


class RemeasureWidget(RegionLoop):
    """Dock that proposes where to measure again.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._asked = Threshold((0.0,))
        self._sized = self._picked = False
        self._unit_size: tuple[float, float] = (1.0, 1.0)
        self._connect()
        self._offer_layers()
        self._on_prediction()

    def _connect(self) -> None:
        """Join signals and handlers."""
        self.score.currentIndexChanged.connect(self._on_user_score)
        self.channel.currentIndexChanged.connect(self._on_user_choice)
        self.threshold.valueChanged.connect(self._on_user_threshold)
        for box in (self.window_height, self.window_width, self.window_depth):
            box.valueChanged.connect(self._on_user_window)
        self.margin.valueChanged.connect(self._show_state)
        self.window_unit.currentIndexChanged.connect(self._on_user_unit)
        self.propose.clicked.connect(self._on_user_propose)
        self.stop.clicked.connect(self._on_user_stop)
        self.export.clicked.connect(self._on_user_export)
        self._score_later.timeout.connect(self._rescore)
        events = self.viewer.layers.events
        self._hear(self._on_layers_changed, events.inserted, events.removed)
        self._hear(self._on_dims_changed, self.viewer.dims.events.current_step)
        self._hear(self._on_session_changed, self.session.changed)

    # ---------------------------------------------------------------- the session

    def _on_session_changed(self, slot: str) -> None:
        """Show what the session knows now."""
        if self._left:
            return
        if slot in ("denoiser", "source", "prediction"):
            self._on_prediction()
        elif slot == "training":
            self._show_loop()
        elif slot == "threshold":
            self._on_session_threshold()
        elif slot == "regions" and not self._own and self.session.regions is not None:
            self._show_regions(self.session.regions)

    def _on_prediction(self) -> None:
        """Start anew with the session's prediction, or without one."""
        self._stop_runs()
        self._prediction, self._source = self.session.prediction, self.session.source
        prediction = self._prediction
        self._scored, self._frame, self._regions = None, None, ()
        self.message.say()
        if prediction is None or self._source is None:
            self._show_stage()
            self._watch(None)
            self.hint.say(("info", _NOTHING_YET))
            self._show_state()
            self._show_table((), ())
            return
        self.hint.say()
        pixel_size, unit = pixel_size_of(prediction)
        self._frame = Frame(sizes_of(prediction), pixel_size, unit)
        self._show_stage()
        self._asked = first_threshold(prediction, self.session.threshold)
        self._offer(prediction, unit)
        self._show_state()
        self._adopt()

    def _offer(self, prediction: Prediction, unit: str) -> None:
        """Offer the channels, units and a window that fits."""
        frame = self._frame
        assert frame is not None
        names = list(prediction.channel_names) or ["0"]
        offered = [("all channels combined", _ALL)] if len(names) > 1 else []
        offered += [(name, c) for c, name in enumerate(names)]
        before = self.channel.currentText()
        parts = (self.score, self.channel, self.window_unit, self.window_height, self.window_width)
        for part in parts:
            part.blockSignals(True)
        self.channel.clear()
        for name, c in offered:
            self.channel.addItem(name, c)
        looked_at = self.session.threshold is not None and len(names) > 1
        self.channel.setCurrentIndex(self._asked.channel + 1 if looked_at else 0)
        if before in [name for name, _ in offered]:
            self.channel.setCurrentText(before)
        if not self._picked:
            self.score.setCurrentIndex(
                self.score.findData("ambiguity" if self._has_levels() else "relative width")
            )
        if [self.window_unit.itemText(i) for i in range(self.window_unit.count())][1:] != [short_unit(unit)]:
            self.window_unit.clear()
            self.window_unit.addItems(["px"] if unit == "px" else ["px", short_unit(unit)])
            self._unit_size = (1.0, 1.0)
            self._show_decimals()
        if not self._sized:
            for box, n in zip((self.window_height, self.window_width), frame.shape[-2:], strict=True):
                box.setValue(max(1, min(64, n // 4)))
        for part in parts:
            part.blockSignals(False)

    def _on_session_threshold(self) -> None:
        """Another dock, or a script, set the threshold."""
        asked = self.session.threshold
        if self._prediction is None or asked is None or len(asked.values) != len(self._asked.values):
            return
        if asked.values != self._asked.values:
            self._asked = asked
            self._on_choice()

    def _has_levels(self) -> bool:
        """Whether probabilities are known."""
        prediction = self._prediction
        return getattr(prediction, "distribution", None) is not None and prediction.quantiles is not None  # type: ignore[union-attr]

    # ---------------------------------------------------------------- what is asked for

    def _choice(self, scene: int = 0) -> Choice:
        """The score as it is chosen."""
        kind, c = str(self.score.currentData()), self.channel.currentData()
        channels = tuple(range(len(self._asked.values))) if c in (None, _ALL) else (int(c),)
        asked = tuple(self._asked.values[k] for k in channels) if kind == "ambiguity" else ()
        return Choice(kind, channels, asked, scene)

    def _window(self) -> tuple[int, ...]:
        """Size of a window in pixels."""
        boxes = (self.window_height, self.window_width)
        sides = tuple(max(1, round(b.value() / p)) for b, p in zip(boxes, self._unit_size, strict=True))
        volume = self._frame is not None and "Z" in self._frame.space
        return (self.window_depth.value(), *sides) if volume else sides

    def _problem(self) -> str:
        """Why nothing can be proposed, in one sentence; empty where it can."""
        frame = self._frame
        if self._prediction is None or frame is None:
            return _NOTHING_YET
        if self.score.currentData() == "ambiguity" and not self._has_levels():
            return _NO_LEVELS
        window, margin = self._window(), self.margin.value()
        if any(w + 2 * margin > n for w, n in zip(window, frame.shape, strict=True)):
            sizes = (" x ".join(str(n) for n in side) for side in (window, frame.shape))
            text = "The window is {} px, the image only {} px".format(*sizes)
            return f"{text}{f', with margins of {margin} px' * bool(margin)}. Choose a smaller window."
        return ""

    def _show_state(self) -> None:
        """Show what can be done, and why not."""
        known, busy = self._prediction is not None, self._busy
        problem = self._problem()
        self.problem.say(*((("red", problem),) if known and problem else ()))
        self.propose.setEnabled(not problem and not busy)
        self.propose.setToolTip(problem or ("The search is running." if busy else PROPOSE_HELP))
        self.stop.setVisible(busy)
        for part in (self.score, self.channel, self.threshold, self.window_unit):
            part.setEnabled(known)
        for box in (self.window_height, self.window_width, self.window_depth, self.count, self.margin):
            box.setEnabled(known)
        self.export.setEnabled(bool(self._regions))
        self.export.setToolTip(
            EXPORT_HELP if self._regions else "There are no regions yet; propose some first."
        )
        self._show_loop()
        self._show_threshold()
        self.show_row(self.window_depth, self._frame is not None and "Z" in self._frame.space)
        self._show_pixels()

    def _show_threshold(self) -> None:
        """Show the threshold of the channel, or those of all."""
        prediction = self._prediction
        choice = self._choice()
        self.show_row(self.threshold_row, choice.kind == "ambiguity" and prediction is not None)
        if prediction is None or choice.kind != "ambiguity":
            return
        one = len(choice.channels) == 1
        self.threshold.setVisible(one)
        names = list(prediction.channel_names) or ["0"]
        pairs = [f"{names[c]} > {t:.4g}" for c, t in zip(choice.channels, choice.thresholds, strict=True)]
        self.thresholds.setText("" if one else ",  ".join(pairs))
        self.thresholds.setVisible(not one)
        if one:
            value = choice.thresholds[0]
            size = abs(value) or 1.0
            self.threshold.blockSignals(True)
            self.threshold.setDecimals(min(max(3 - floor(log10(size)), 2), 12))
            self.threshold.setSingleStep(size / 20)
            self.threshold.setValue(value)
            self.threshold.blockSignals(False)

    def _show_pixels(self) -> None:
        """Show the window's size in the other unit."""
        frame = self._frame
        if frame is None or frame.unit == "px":
            self.show_row(self.pixels, False)
            return
        self.show_row(self.pixels, True)
        sides = self._window()[-2:]
        if self.window_unit.currentIndex() == 1:
            self.pixels.setText("= {} x {} px".format(*sides))
        else:
            lengths = (f"{n * p:.4g}" for n, p in zip(sides, frame.pixel_size[-2:], strict=True))
            self.pixels.setText("= {} x {} {}".format(*lengths, short_unit(frame.unit)))

    def _show_decimals(self) -> None:
        """Let the boxes take a pixel's steps."""
        for box, step in zip((self.window_height, self.window_width), self._unit_size, strict=True):
            box.setDecimals(0 if step == 1.0 else min(max(2 - floor(log10(step)), 0), 9))
            box.setSingleStep(step * 8)

    def _on_user_choice(self, index: int) -> None:
        """Another score, or another channel."""
        del index
        self._on_choice()

    def _on_user_score(self, index: int) -> None:
        """Another score, which stays for other images."""
        self._picked = True
        self._on_user_choice(index)

    def _on_choice(self) -> None:
        """The score is another: those in the table go until they are made anew."""
        self._show_state()
        self._read()
        self._score_later.start()

    def _on_user_threshold(self, value: float) -> None:
        """Another threshold, for all docks."""
        (c,) = self._choice().channels
        values = list(self._asked.values)
        values[c] = value
        self._asked = replace(self._asked, values=tuple(values), channel=c)
        self.session.threshold = self._asked
        self._on_choice()

    def _on_user_window(self, value: object) -> None:
        """Another size."""
        del value
        self._sized = True
        self._show_state()

    def _on_user_unit(self, index: int) -> None:
        """The size in another unit: the same pixels."""
        frame, sides = self._frame, self._window()[-2:]
        if frame is None or index < 0:
            return
        size = frame.pixel_size[-2:]
        self._unit_size = (size[0], size[1]) if index == 1 else (1.0, 1.0)
        self._show_decimals()
        for box, n, p in zip((self.window_height, self.window_width), sides, self._unit_size, strict=True):
            box.blockSignals(True)
            box.setValue(n * p)
            box.blockSignals(False)
        self._show_state()

    # ---------------------------------------------------------------- score and search

    def _on_user_propose(self) -> None:
        """Search, and show what was found."""
        prediction = self._prediction
        if prediction is None or self._problem() or "propose" in self._runs:
            return
        choice, window, count = self._choice(self._scene_in_sight()), self._window(), self.count.value()
        score = self._scored[1] if self._scored is not None and self._scored[0] == choice else None
        if choice.kind == "ambiguity" and self.session.threshold != self._asked:
            self.session.threshold = self._asked

        def done(proposal: Proposal) -> None:
            """Show the windows."""
            self._scored = (choice, proposal.score, float(proposal.score.sum(dtype=np.float64)))
            self._show_regions(proposal.regions)
            self._say_found(len(proposal.regions), count)

        self.message.say()
        self._score_later.stop()
        how: dict[str, Any] = {"margin": self.margin.value(), "travel": self.travel.isChecked()}
        how["stage"] = self._affine
        self._start("propose", lambda: propose_steps(prediction, choice, window, count, score, **how), done)

    def _say_found(self, found: int, count: int) -> None:
        """Say where fewer windows were found than wanted."""
        if found == 0:
            text = "No pixel has a score, so nothing is worth measuring again. Choose another threshold or score."
            self.message.say(("amber", text))
        elif found < count:
            text = (
                f"{found} of {count} windows were found: no more fit, or the rest of the image has no score."
            )
            self.message.say(("info", text))

    def _rescore(self) -> None:
        """Make the score anew for the rectangles that are there."""
        prediction, layer, frame = self._prediction, self._layer, self._frame
        if self._left or prediction is None or frame is None or layer is None or not layer.nshapes:
            return
        if self._choice().kind == "ambiguity" and not self._has_levels():
            return
        choice = self._choice(frame.scene_of(np.asarray(layer.data[0])))
        if self._scored is not None and self._scored[0] == choice:
            return

        def done(proposal: Proposal) -> None:
            """Show the scores."""
            self._scored = (choice, proposal.score, float(proposal.score.sum(dtype=np.float64)))
            self._read()

        self._start("score", lambda: propose_steps(prediction, choice), done)

    def _start(self, name: str, step: Callable[[], Step[Proposal]], done: Callable[[Proposal], None]) -> None:
        """Run a step: at once where that is quick, else in a thread."""
        prediction = self._prediction
        assert prediction is not None
        self._drop(name)

        def failed(error: Exception) -> None:
            """Say what went wrong."""
            self.message.say(("red", sentence_of(error)))

        if int(np.prod(prediction.median.shape)) <= _AT_ONCE:
            try:
                proposal = drain(step())
            except (ValueError, MemoryError) as error:
                failed(error)
                return
            done(proposal)
            return

        def finished() -> None:
            """Take the run down."""
            self._runs.pop(name, None)
            if name == "propose":
                self.progress.hide()
            self._show_state()

        if name == "propose":
            self.progress.start("Proposing")
        self._runs[name] = run_step(
            step,
            title=f"napari-btn: {name}",
            on_result=done,
            on_error=failed,
            on_progress=self.progress.tell if name == "propose" else None,
            on_finished=finished,
        )
        self._show_state()

    def _on_user_stop(self) -> None:
        """Stop the search, or the training."""
        for name in ("propose", "continue"):
            if name in self._runs:
                self._runs[name].stop()

    def _stop_runs(self) -> None:
        """Let go of what runs; its results would be of another image."""
        for name in list(self._runs):
            self._drop(name)
        self._score_later.stop()
        self._read_later.stop()
        self.progress.hide()

    # ---------------------------------------------------------------- layers

    def _on_layers_changed(self, event: Any) -> None:
        """A layer came or went."""
        if self._left:
            return
        self._offer_layers()
        if self._own or self._frame is None:
            return
        if event.type == "removed" and event.value is self._layer:
            self._watch(None)
            self._read()
            self._show_state()
        elif event.type == "inserted" and self._layer is None:
            self._adopt()

    # ---------------------------------------------------------------- export

    def _on_user_export(self) -> None:
        """Ask where to."""
        name = "regions" if self._source is None else f"{self._source.name} regions"
        path, kind = QFileDialog.getSaveFileName(self, "Export regions", f"{name}.csv", ";;".join(_FILES))
        if path:
            target = Path(path)
            self.export_to(target if target.suffix else target.with_suffix(_FILES.get(kind, ".csv")))

    def export_to(self, path: str | Path) -> None:
        """Write the regions as they are now; a file that is there is replaced.

        Parameters
        ----------
        path : str or Path
            ``.csv``, ``.geojson``, or ``.zip`` or ``.roi`` for ImageJ; ``.csv`` is added where a suffix is missing.
        """
        self._read()
        if not self._regions:
            return
        target = Path(path) if Path(path).suffix else Path(path).with_suffix(".csv")
        try:
            write_regions(
                self._regions,
                target,
                stage=self._affine,
                provenance=self._record(self._regions),
                overwrite=True,
            )
        except (OSError, ValueError) as error:
            self.message.say(("red", f"Nothing was written. {sentence_of(error)}"))
            return
        n = len(self._regions)
        kept = self._affine is not None and target.suffix in STAGE_ENDINGS
        place = ", with stage coordinates" if kept else ""
        self.message.say(("info", f"{n} {'region' if n == 1 else 'regions'} written to {target}{place}."))

    # ---------------------------------------------------------------- what happens around the dock

    def _let_go(self) -> None:
        """Let go of the rectangles, and of the layers that are picked."""
        self._watch(None)
        self.loop.leave()
