"""Measured coverage in the Uncertainty dock: the reliability curve and the map of missed blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import NOISY_TARGETS, covered
from napari_btn.core.data.image import shown_names
from napari_btn.core.evaluation.report import FULL_DOSE
from napari_btn.core.progress import Progress
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.layers import read_layer
from napari_btn.widgets.shared.overlays import map_layer, missed_top, truths
from napari_btn.widgets.shared.results import record_of
from napari_btn.widgets.shared.worker import sentence_of
from napari_btn.widgets.uncertainty.view import TABS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.progress import Step
    from napari_btn.session import Session
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.uncertainty.focus import Focus
    from napari_btn.widgets.uncertainty.view import UncertaintyView

__all__ = ["CoverageTab"]

_ALPHAS = (0.5, 0.32, 0.2, 0.1, 0.05)


class CoverageTab:
    """The tab about the coverage that was measured on held-out blocks.

    Parameters
    ----------
    view : UncertaintyView
        Form with the controls.
    focus : Focus
        Prediction and channel in sight.
    session : Session
        Holds the model.
    lifetime : Lifetime
        Of the dock.
    """

    def __init__(self, view: UncertaintyView, focus: Focus, session: Session, lifetime: Lifetime) -> None:
        self._view, self._focus, self._session, self._lifetime = view, focus, session, lifetime
        self._curve: tuple[object, NDArray[np.float64]] | None = None
        view.missed.clicked.connect(self._on_user_missed)
        view.check_second.clicked.connect(self._on_user_check)
        view.tabs.currentChanged.connect(self._on_user_tab)

    def show_report(self) -> None:
        """Show the report of the session's model."""
        model = self._session.model
        self._view.report.show_report(
            None if model is None else model.calibrated.report, self._session.report_of
        )
        self._curve = None
        self._on_user_tab()

    def _on_user_tab(self, index: int = 0) -> None:
        """Measure the reliability when it is looked at."""
        del index
        model = self._session.model
        looked_at = self._view.tabs.currentIndex() == TABS.index("coverage")
        self._view.missed.setEnabled(model is not None and self._focus.prediction is not None)
        self._list_frames()
        if not looked_at or model is None or "reliability" in self._lifetime.runs:
            self.show_reliability()
            return
        calibrated = model.calibrated
        if self._curve is not None and self._curve[0] is calibrated:
            return

        def step() -> Step[Any]:
            """Measure the coverage; a step."""
            yield Progress(0, 1, "Measuring the coverage at several levels")
            return engine.coverage_by_level(model, _ALPHAS)

        def done(curve: Any) -> None:
            """Keep and draw it."""
            self._curve = (calibrated, curve)
            self.show_reliability()

        def failed(error: Exception) -> None:
            """Show the error."""
            self._view.hint.say(("red", sentence_of(error)))

        self._lifetime.start("reliability", step, done, failed)

    def show_reliability(self) -> None:
        """Draw the reliability of the channel."""
        model, c = self._session.model, self._focus.asked.channel
        report = None if model is None else model.calibrated.report
        known = self._curve is not None and report is not None and c < len(self._curve[1])
        self._view.reliability.setVisible(known)
        if known and self._curve is not None and report is not None:
            at = (1 - report.alpha, float(report.coverage_low[c]), float(report.coverage_high[c]))
            self._view.reliability.show_coverage(1 - np.asarray(_ALPHAS), self._curve[1][c], at)

    def _list_frames(self) -> None:
        """List the images of the field that the intervals can be checked on."""
        prediction, source, picker = self._focus.prediction, self._focus.source, self._view.second_frame
        names = []
        if prediction is not None and source is not None:
            found = truths(self._focus.viewer, tuple(prediction.median.shape), prediction.axes)
            names = [layer.name for layer in found if layer.name != source.name]
        if names != [picker.itemText(i) for i in range(picker.count())]:
            picker.clear()
            picker.addItems(names)
        picker.setVisible(bool(names))
        self._view.check_second.setVisible(bool(names))

    def _on_user_check(self) -> None:
        """Measure the coverage of the picked image."""
        prediction, name = self._focus.prediction, self._view.second_frame.currentText()
        layers = self._focus.viewer.layers
        if prediction is None or name not in layers or "second" in self._lifetime.runs:
            return
        data = read_layer(layers[name]).data
        training, source = self._session.training, self._focus.source
        trained = training is not None and source is not None and training.pair.name == source.name

        def step() -> Step[Any]:
            """Compare the image with the intervals; a step."""
            yield Progress(0, 1, "Measuring the coverage of the second frame")
            return engine.evaluate(prediction, data, valid="finite")

        def done(report: Any) -> None:
            """Show the shares."""
            shares = ", ".join(
                f"{100 * share:.1f} % of {channel}"
                for channel, share in zip(shown_names(report.channel_names), report.coverage, strict=True)
            )
            text = (
                f"Pixels of '{name}' inside the intervals: {shares}. Aimed at: "
                f"{100 * (1 - prediction.alpha):.3g} % of {covered(prediction.covers)}, on average."
            )
            if prediction.covers == "thinned counts":
                text = f"{text} {FULL_DOSE}"
            elif prediction.covers not in NOISY_TARGETS:
                text = f"{text} Of a noisier image fewer lie inside, even where the intervals are right."
            if trained:
                text += " The networks were trained on a part of this field, so more may lie inside than in others."
            self._view.second_note.say(("info", text))

        def failed(error: Exception) -> None:
            """Show the error."""
            self._view.second_note.say(("red", sentence_of(error)))

        self._view.second_note.say()
        self._lifetime.start("second", step, done, failed)

    def _on_user_missed(self) -> None:
        """Add the map of missed blocks."""
        model, prediction, source = self._session.model, self._focus.prediction, self._focus.source
        if model is None or prediction is None or source is None or "missed" in self._lifetime.runs:
            return
        size = dict(zip(prediction.axes, prediction.median.shape, strict=True))
        # each scene with its own target is a block
        apart = model.calibrated.report.block_px == 0
        letters = [a for a in (source.axes if apart and source.axes else "ZYX") if a != "C" and a in size]

        def step() -> Step[Any]:
            """Paint the blocks; a step."""
            yield Progress(0, 1, "Painting missed blocks")
            image = engine.image_for(model, source.data, source.axes)
            return engine.missed_share(model, [int(size[a]) for a in letters], source.axes, image)

        def done(painted: Any) -> None:
            """Add the layer."""
            axes = "".join(["C", *letters])
            if "C" not in prediction.axes:
                painted, axes = painted[0], axes[1:]
            record = {**record_of(prediction), "axes": axes}
            map_layer(self._focus.viewer, "miscoverage", source.name, painted, record)
            top = missed_top(prediction.alpha)
            text = (
                "Held-out blocks of the field that was calibrated on: dark where few pixels lie outside "
                f"their intervals, brightest from {100 * top:.3g} % on. {100 * prediction.alpha:.3g} % are "
                "aimed at, on average."
            )
            self._view.missed_note.say(("info", text))

        def failed(error: Exception) -> None:
            """Show the error."""
            self._view.missed_note.say(("red", sentence_of(error)))

        self._view.missed_note.say()
        self._lifetime.start("missed", step, done, failed)
