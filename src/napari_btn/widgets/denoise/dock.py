"""The Denoise dock: trains on two layers, and adds calibrated quantile layers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_btn.core.progress import Progress
from napari_btn.widgets.denoise.pair_form import PairForm
from napari_btn.widgets.denoise.pairing import differences
from napari_btn.widgets.denoise.trainer import Trainer
from napari_btn.widgets.denoise.view import TRAIN_HELP, DenoiseView
from napari_btn.widgets.denoise.work import Work
from napari_btn.widgets.shared.dock import Dock
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.pickers import ask_for_image
from napari_btn.widgets.shared.results import is_ours, show_prediction_steps
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings
    from napari_btn.denoiser import Denoiser
    from napari_btn.widgets.denoise.pairing import PairInputs
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.workflow.scan import Scan

__all__ = ["DenoiseWidget"]

_BUNDLES = "Trained networks (*.btn);;All files (*)"


def engine() -> ModuleType:
    """Return the module of the denoiser, loaded when it is first needed."""
    from napari_btn import denoiser

    return denoiser


def _compared(inputs: PairInputs, grid: dict[str, Any], common: dict[str, Any]) -> Step[Scan]:
    """Compare networks on a pair of layers; a step."""
    from napari_btn.core.compute.pool import compute_for
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.settings import PRESETS, EnsembleSettings
    from napari_btn.workflow.scan import grid_of, scan_steps

    given = {name: value for name, value in inputs.pair().items() if name != "regions"}
    settings = EnsembleSettings("quick", members=1, seed=common["seed"], train=PRESETS["quick"])
    return scan_steps(Pair(**given), grid_of(**grid), settings, compute_for(common["device"], 1))


class DenoiseWidget(Dock):
    """Dock that trains a denoiser on two layers and adds its results.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "napari_btn_denoise")
        # looked up at each call, so that importing the dock loads no torch
        pair = PairForm(self.viewer, self.theme, self.lifetime, lambda: engine())
        self.view = DenoiseView(self.theme, pair)
        self.show_view(self.view)
        self.work = Work(self.view, self.lifetime, self._show_work)
        self.trainer = Trainer(self.viewer, self.view, self.work, self.lifetime, self._take_trained)
        self._source: LayerImage | None = None
        self._scored: PairInputs | None = None
        self._trained_on: tuple[int, ...] | None = None
        self._showing: Iterator[Any] | None = None
        self._connect()
        self._on_viewer_layers()
        self._on_session_changed("denoiser")

    def _connect(self) -> None:
        """Connect signals and handlers."""
        view = self.view
        for part in (view.pair, view.apply_to, view.form):
            part.changed.connect(self._refresh)
        view.apply_to.file_wanted.connect(self._on_user_wants_file)
        view.train.clicked.connect(self._on_user_train)
        view.scan.asked.connect(self._on_user_scan)
        view.scan.chosen.connect(view.form.show_network)
        view.apply.clicked.connect(self._on_user_apply)
        view.save.clicked.connect(self._on_user_save)
        view.load.clicked.connect(self._on_user_load)
        view.recalibrate.clicked.connect(self._on_user_recalibrate)
        view.calibrate_on.clicked.connect(self._on_user_calibrate_on)
        events = self.viewer.layers.events
        layer_events = (events.inserted, events.removed, events.reordered, events.renamed)
        self.lifetime.hear(self._on_viewer_layers, *layer_events)
        self.lifetime.hear(self._on_session_changed, self.session.changed)
        self.lifetime.at_end(view.apply_to.leave)

    @property
    def busy(self) -> bool:
        """True while the dock trains, denoises, calibrates or loads."""
        return self.work.run is not None or self._showing is not None

    def _on_user_wants_file(self) -> None:
        """Ask for an image to apply to."""
        ask_for_image(self, self.viewer, self.view.apply_to, self.lifetime)

    def _refresh(self) -> None:
        """Read the picked layers, report what is wrong with them, and set the buttons."""
        if self.lifetime.ended or self.busy:
            return
        reason = self.view.pair.read(self.view.form.settings)
        self._show_estimate()
        self._set_buttons(reason)

    def _show_estimate(self) -> None:
        """Show how long training will take."""
        text = ""
        if self.view.pair.inputs is not None:
            noisy = self.view.pair.inputs.noisy
            denoiser = engine().Denoiser(**self.view.pair.inputs.settings)
            try:
                text = denoiser.estimate(noisy.shape, noisy.axes).note
            except ValueError:
                text = ""
        self.view.estimate.setText(text)
        self.view.estimate.setVisible(bool(text))

    def _set_buttons(self, reason: str) -> None:
        """Enable the possible actions; ``reason`` says why Train is impossible."""
        denoiser, busy = self.session.denoiser, self.busy
        for part in (self.view.pair, self.view.form, self.view.apply_to, self.view.load):
            part.setEnabled(not busy)
        # while work runs, the progress shows the time left
        self.view.estimate.setVisible(bool(self.view.estimate.text()) and not busy)
        self.view.train.setEnabled(not busy and not reason)
        self.view.train.setToolTip("Busy; stop first, or wait." if busy else reason or TRAIN_HELP)
        self.view.scan.set_busy("Busy; stop first, or wait." if busy else reason)
        self.view.train.setText("Continue" if not busy and self.trainer.checkpoint() else "Train")
        for part in (self.view.stop, self.view.pause):
            part.setEnabled(self.work.run is not None)
        self.view.pause.setText("Resume" if self.work.paused else "Pause")
        self.view.save.setEnabled(denoiser is not None and not busy)
        self.view.save.setToolTip(
            "Save networks, calibration and report as one file." if denoiser else "Nothing is trained yet."
        )
        image = None if busy else self.view.apply_to.try_read()
        can = denoiser is not None and not busy and image is not None
        self.view.apply.setEnabled(can)
        self.view.apply.setToolTip(
            "Denoise the picked layer with the trained networks."
            if can
            else "Train first, or load trained networks."
            if denoiser is None
            else "Pick a layer to apply to."
        )
        wanted = self._wanted()
        other = denoiser is not None and wanted != (denoiser.alpha, denoiser.calibration_settings)
        self.view.recalibrate.setVisible(other and not busy)
        share = f"{100 * (1 - self.view.form.alpha):.4g} %"
        same = denoiser is None or abs(denoiser.alpha - self.view.form.alpha) < 1e-6
        self.view.recalibrate.setText("Recalibrate as set" if same else f"Recalibrate to {share}")
        self.view.recalibrate.setToolTip(
            f"Make the intervals hold {share} of the pixels, as set in Advanced, from the stored held-out scores; "
            "trains nothing."
        )
        inputs = self.view.pair.inputs
        new = inputs is not None and self._trained_on != inputs.images()
        self.view.calibrate_on.setVisible(denoiser is not None and not busy and not reason and new)

    def _wanted(self) -> tuple[float, CalibrationSettings] | None:
        """Return the miscoverage and calibration of the form; the split stays that of the training."""
        denoiser = self.session.denoiser
        if denoiser is None:
            return None
        known, asked = denoiser.calibration_settings, self.view.form.calibration()
        alpha = denoiser.alpha if abs(denoiser.alpha - self.view.form.alpha) < 1e-6 else self.view.form.alpha
        names = ("unit", "score", "minimum", "delta", "groups")
        return alpha, replace(known, **{name: getattr(asked, name) for name in names})

    def _show_work(self) -> None:
        """Set the buttons when the work was started, paused or is over."""
        if self.busy:
            self._set_buttons("")
        else:
            self._refresh()

    def _on_user_train(self) -> None:
        """Train on the picked pair."""
        self._refresh()
        inputs = self.view.pair.inputs
        if inputs is not None and self.view.train.isEnabled():
            self.trainer.train(engine().Denoiser(**inputs.settings), inputs)

    def _take_trained(self, denoiser: Denoiser) -> None:
        """Keep the denoiser, and denoise its training image."""
        started = self.trainer.started
        self._scored, self._trained_on = started, None if started is None else started.images()
        self.session.denoiser = denoiser
        if started is not None:
            self.session.training = started.training()
            self._denoise(started.noisy, started.noisy.axes)

    def _on_user_scan(self) -> None:
        """Compare networks on the picked pair."""
        self._refresh()
        inputs = self.view.pair.inputs
        if inputs is None or not self.view.scan.start.isEnabled():
            return
        try:
            grid = self.view.scan.grid()
        except ValueError as error:
            self.view.scan.note.say(("red", sentence_of(error)))
            return
        self.view.scan.note.say()
        common = {name: inputs.settings[name] for name in ("seed", "device")}
        self.work.launch("Comparing", lambda: _compared(inputs, grid, common), self._show_scan)

    def _show_scan(self, scan: Scan) -> None:
        """Show the result of the comparison."""
        self.view.scan.show_scan(scan)
        best = scan.best
        kind = f"depth {best.depth}, {best.channels} channels, dilation to {best.max_dilation}"
        self.view.progress.finish(
            f"Compared {len(scan.rows)} kinds of networks; {kind} has the lowest error."
        )

    def _denoise(self, source: LayerImage, axes: str | None) -> None:
        """Predict an image and show it."""
        denoiser = self.session.denoiser
        if denoiser is None:
            return
        self.work.launch(
            "Denoising",
            lambda: denoiser.predict_steps(source.data, axes, valid="finite"),
            partial(self._show_predicted, source),
        )

    def _show_predicted(self, source: LayerImage, prediction: Prediction) -> None:
        """Show a prediction as layers."""
        self._source = self.session.source = source
        self.session.prediction = prediction
        self.trainer.end_previews()
        started = self.trainer.started
        trained_on = started is not None and source.name == started.noisy.name
        clean = self.trainer.clean_layer() if trained_on else None
        self._showing = show_prediction_steps(self.viewer, prediction, source, clean=clean)
        QTimer.singleShot(0, self._show_next)

    def _show_next(self) -> None:
        """Add the next layer; the window handles events between two."""
        if self.lifetime.ended or self._showing is None or self._source is None:
            return
        if next(self._showing, None) is not None:
            QTimer.singleShot(0, self._show_next)
            return
        self._showing = None
        self.view.progress.finish(
            f"Done: lower, median, upper and width of '{self._source.name}' are layers now."
        )
        self.view.message.say(*differences(self._source, self.session.denoiser))
        self._refresh()

    def _on_user_apply(self) -> None:
        """Denoise another layer."""
        image = self.view.apply_to.try_read()
        if image is not None and self.session.denoiser is not None:
            self._denoise(image, None if image.axes_guessed else image.axes)

    def _on_user_recalibrate(self) -> None:
        """Calibrate with the form's settings, from the stored scores."""
        denoiser, wanted = self.session.denoiser, self._wanted()
        if denoiser is None or wanted is None:
            return
        alpha, settings = wanted
        given: dict[str, Any] = {}
        if settings.groups and not denoiser.calibration_settings.groups and self._scored is not None:
            # Tokens are a function of the image, which the stored scores don't hold.
            given = {"noisy": self._scored.noisy.data, "axes": self._scored.noisy.axes}
        self.work.launch(
            "Calibrating",
            lambda: denoiser.calibrate_steps(alpha=alpha, settings=settings, **given),
            self._take_calibrated,
        )

    def _on_user_calibrate_on(self) -> None:
        """Calibrate on the picked pair."""
        denoiser, inputs, wanted = self.session.denoiser, self.view.pair.inputs, self._wanted()
        if denoiser is None or inputs is None or wanted is None:
            return
        alpha, settings = wanted
        given = {k: v for k, v in inputs.pair().items() if k in ("noisy", "clean", "axes", "valid")}

        def calibrated(denoiser: Denoiser) -> None:
            """Keep the origin of the scores, and show the new intervals."""
            self._scored = inputs
            self._take_calibrated(denoiser)

        self.work.launch(
            "Calibrating",
            lambda: denoiser.calibrate_steps(alpha=alpha, settings=settings, **given),
            calibrated,
        )

    def _take_calibrated(self, denoiser: Denoiser) -> None:
        """Show the new report, and the intervals of the last image."""
        self.session.denoiser = denoiser
        if self._source is not None:
            self._denoise(self._source, self._source.axes)
        else:
            self.view.progress.finish("Calibrated.")

    def _on_user_save(self) -> None:
        """Ask where to save."""
        path, _ = QFileDialog.getSaveFileName(self, "Save trained networks", "trained.btn", _BUNDLES)
        if path:
            self.save_to(path)

    def save_to(self, path: str | Path) -> None:
        """Save the trained denoiser.

        Parameters
        ----------
        path : str or Path
            Where to; ``.btn`` is added where a suffix is missing.
        """
        if self.session.denoiser is None:
            return
        target = Path(path) if Path(path).suffix else Path(path).with_suffix(".btn")
        try:
            self.session.denoiser.save(target)
        except (OSError, ValueError) as error:
            self.view.message.say(("red", f"Nothing was saved. {sentence_of(error)}"))
            return
        self.view.message.say(("info", f"Saved as {target}."))

    def _on_user_load(self) -> None:
        """Ask for a bundle."""
        path, _ = QFileDialog.getOpenFileName(self, "Load trained networks", "", _BUNDLES)
        if path:
            self.load_from(path)

    def load_from(self, path: str | Path) -> None:
        """Load a trained denoiser.

        Parameters
        ----------
        path : str or Path
            A bundle.
        """

        def step() -> Step[Any]:
            """Load the file; a step."""
            yield Progress(0, 1, "Loading")
            return engine().load(path)

        def loaded(denoiser: Any) -> None:
            """Use the loaded denoiser."""
            self.trainer.forget()
            self._scored = self._trained_on = None
            self.session.denoiser, self.session.training = denoiser, None
            self.view.progress.finish(f"Loaded {Path(path).name}.")

        self.work.launch("Loading", step, loaded)

    def _on_viewer_layers(self, event: Any = None) -> None:
        """Offer the layers, and pick the obvious ones."""
        if self.lifetime.ended:
            return
        from napari.layers import Image

        layers = [layer for layer in self.viewer.layers if isinstance(layer, Image)]
        removed = getattr(event, "type", "") == "removed" and is_ours(event.value)
        if removed and event.value.metadata[KEY].get("map") == "preview":
            # The user removed it, so the next progress must not add it again.
            self.trainer.end_previews()
        self.view.pair.offer(layers, choose=not self.busy)
        self.view.apply_to.refresh(layers)
        self._refresh()

    def _on_session_changed(self, slot: str) -> None:
        """Show the session's state."""
        if self.lifetime.ended or slot != "denoiser":
            return
        denoiser = self.session.denoiser
        self.view.report.show_report(None if denoiser is None else denoiser.report)
        if denoiser is not None:
            self.view.form.show_settings(denoiser)
            losses = [(m, step, v) for m, values in denoiser.losses.items() for step, v in enumerate(values)]
            if losses:
                self.view.chart.clear()
                self.view.chart.add(losses)
            self.view.chart.setVisible(bool(losses))
        self._refresh()
