"""The Denoise dock: from two layers to calibrated quantile layers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_btn.core.progress import Progress
from napari_btn.widgets.denoise.pairing import differences
from napari_btn.widgets.denoise.view import TRAIN_HELP, DenoiseView
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.pickers import ask_for_image
from napari_btn.widgets.shared.results import is_ours, show_prediction_steps, show_preview
from napari_btn.widgets.shared.worker import load_ahead, run_step, sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    import numpy as np
    from napari.layers import Image as ImageLayer
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings
    from napari_btn.denoiser import Denoiser
    from napari_btn.widgets.denoise.pairing import PairInputs
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.widgets.shared.worker import Run, Timing
    from napari_btn.workflow.scan import Scan

__all__ = ["DenoiseWidget"]

_BUNDLES = "Trained networks (*.btn);;All files (*)"
_PREVIEW_EVERY = 2.0


def engine() -> ModuleType:
    """Module of the denoiser, loaded when it is first needed."""
    from napari_btn import denoiser

    return denoiser


def _compared(inputs: PairInputs, grid: dict[str, Any], common: dict[str, Any]) -> Step[Scan]:
    """Comparison of networks on a pair of layers, as a step."""
    from napari_btn.core.compute.pool import compute_for
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.settings import PRESETS, EnsembleSettings
    from napari_btn.workflow.scan import grid_of, scan_steps

    given = {name: value for name, value in inputs.pair().items() if name != "regions"}
    settings = EnsembleSettings("quick", members=1, seed=common["seed"], train=PRESETS["quick"])
    return scan_steps(Pair(**given), grid_of(**grid), settings, compute_for(common["device"], 1))


class DenoiseWidget(DenoiseView):
    """Dock that trains a denoiser on two layers and adds its results.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, lambda: engine())
        self._source: LayerImage | None = None
        self._started: PairInputs | None = None
        self._kept: tuple[Any, Any] | None = None
        self._scored: PairInputs | None = None
        self._trained_on: tuple[int, ...] | None = None
        self._previews = True
        self._showing: Iterator[Any] | None = None
        self._connect()
        self._on_layers_changed()
        self._on_session_changed("denoiser")

    def _connect(self) -> None:
        """Join signals and handlers."""
        self.pair.changed.connect(self._refresh)
        self.apply_to.changed.connect(self._refresh)
        self.apply_to.file_wanted.connect(lambda: ask_for_image(self, self.viewer, self.apply_to, self._runs))
        self.form.changed.connect(self._refresh)
        self.train.clicked.connect(self._on_user_train)
        self.scan.asked.connect(self._on_user_scan)
        self.scan.chosen.connect(self.form.show_network)
        self.pause.clicked.connect(self._on_user_pause)
        self.stop.clicked.connect(self._on_user_stop)
        self.apply.clicked.connect(self._on_user_apply)
        self.save.clicked.connect(self._on_user_save)
        self.load.clicked.connect(self._on_user_load)
        self.recalibrate.clicked.connect(self._on_user_recalibrate)
        self.calibrate_on.clicked.connect(self._on_user_calibrate_on)
        events = self.viewer.layers.events
        layer_events = (events.inserted, events.removed, events.reordered, events.renamed)
        self._hear(self._on_layers_changed, *layer_events)
        self._hear(self._on_session_changed, self.session.changed)

    # ---------------------------------------------------------------- what is picked, and whether it will do

    @property
    def busy(self) -> bool:
        """Whether the dock trains, denoises, calibrates or loads."""
        return "work" in self._runs or self._showing is not None

    def _refresh(self) -> None:
        """Read what is picked, say what is wrong with it, and set the buttons."""
        if self._left or self.busy:
            return
        reason = self.pair.read(self.form.settings)
        self._show_estimate()
        self._set_buttons(reason)

    def _show_estimate(self) -> None:
        """Say how long training will take."""
        text = ""
        if self.pair.inputs is not None:
            noisy = self.pair.inputs.noisy
            denoiser = engine().Denoiser(**self.pair.inputs.settings)
            try:
                text = denoiser.estimate(noisy.shape, noisy.axes).note
            except ValueError:
                text = ""
        self.estimate.setText(text)
        self.estimate.setVisible(bool(text))

    def _set_buttons(self, reason: str) -> None:
        """Enable what can be done now; ``reason`` is why Train can't."""
        denoiser, busy = self.session.denoiser, self.busy
        for part in (self.pair, self.form, self.apply_to, self.load):
            part.setEnabled(not busy)
        # the time left is said below while work runs
        self.estimate.setVisible(bool(self.estimate.text()) and not busy)
        self.train.setEnabled(not busy and not reason)
        self.train.setToolTip("Busy; stop first, or wait." if busy else reason or TRAIN_HELP)
        self.scan.set_busy("Busy; stop first, or wait." if busy else reason)
        self.train.setText("Continue" if not busy and self._checkpoint() else "Train")
        self.stop.setEnabled("work" in self._runs)
        self.pause.setEnabled("work" in self._runs)
        paused = "work" in self._runs and self._runs["work"].paused
        self.pause.setText("Resume" if paused else "Pause")
        self.save.setEnabled(denoiser is not None and not busy)
        self.save.setToolTip(
            "Save networks, calibration and report as one file." if denoiser else "Nothing is trained yet."
        )
        image = None if busy else self.apply_to.try_read()
        can = denoiser is not None and not busy and image is not None
        self.apply.setEnabled(can)
        self.apply.setToolTip(
            "Denoise the picked layer with the trained networks."
            if can
            else "Train first, or load trained networks."
            if denoiser is None
            else "Pick a layer to apply to."
        )
        wanted = self._wanted()
        other = denoiser is not None and wanted != (denoiser.alpha, denoiser.calibration_settings)
        self.recalibrate.setVisible(other and not busy)
        share = f"{100 * (1 - self.form.alpha):.4g} %"
        same = denoiser is None or abs(denoiser.alpha - self.form.alpha) < 1e-6
        self.recalibrate.setText("Recalibrate as set" if same else f"Recalibrate to {share}")
        self.recalibrate.setToolTip(
            f"Make the intervals hold {share} of the pixels, as set in Advanced, from the stored held-out scores; "
            "trains nothing."
        )
        inputs = self.pair.inputs
        new = inputs is not None and self._trained_on != inputs.images()
        self.calibrate_on.setVisible(denoiser is not None and not busy and not reason and new)

    def _wanted(self) -> tuple[float, CalibrationSettings] | None:
        """Miscoverage and calibration that the form asks for; how the field was split is past."""
        denoiser = self.session.denoiser
        if denoiser is None:
            return None
        known, asked = denoiser.calibration_settings, self.form.calibration()
        alpha = denoiser.alpha if abs(denoiser.alpha - self.form.alpha) < 1e-6 else self.form.alpha
        names = ("unit", "score", "minimum", "delta", "groups")
        return alpha, replace(known, **{name: getattr(asked, name) for name in names})

    # ---------------------------------------------------------------- runs

    def _launch(
        self,
        title: str,
        make_step: Callable[[], Step[Any]],
        on_result: Callable[[Any], None],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Run a step with its progress shown; what goes wrong is said in the dock."""
        self.message.say()
        self.progress.start(title)

        def tell(progress: Progress, timing: Timing) -> None:
            """Show progress."""
            self.progress.tell(progress, timing)
            self._say_paused()
            if on_progress is not None:
                on_progress(progress)

        def done(result: Any) -> None:
            """Take the result; it may start the next run."""
            self._runs.pop("work", None)
            on_result(result)

        def failed(error: Exception) -> None:
            """Say what went wrong."""
            self._keep_members(run)
            self._runs.pop("work", None)
            self.progress.hide()
            self.message.say(("red", f"{title} failed. {sentence_of(error)}"))

        def stopped() -> None:
            """Say what is left."""
            kept = self._keep_members(run)
            self._runs.pop("work", None)
            self.progress.finish(f"{title} was stopped.{kept}")

        def prepared() -> Step[Any]:
            """Step whose libraries are there."""
            load_ahead()
            return make_step()

        run = run_step(
            prepared,
            title=f"napari-btn: {title}",
            on_progress=tell,
            on_result=done,
            on_error=failed,
            on_stopped=stopped,
            on_finished=self._refresh,
        )
        self._runs["work"] = run
        self._set_buttons("")

    def _checkpoint(self) -> Any:
        """Finished members of a stopped training that fit what is picked now."""
        if self._kept is None or self.pair.inputs is None or self._kept[0] != self.pair.inputs.key():
            return None
        return self._kept[1]

    def _keep_members(self, run: Run[Any]) -> str:
        """Keep the finished members of a training that ended early; returns a sentence about them."""
        if self._started is None or not run.checkpoint:
            return ""
        self._kept = (self._started.key(), run.checkpoint)
        n, wanted = len(run.checkpoint), self._started.settings["members"]
        return f" {n} of {wanted} members are finished and kept; Continue goes on from them."

    def _on_user_train(self) -> None:
        """Train on what is picked."""
        self._refresh()
        inputs = self.pair.inputs
        if inputs is None or not self.train.isEnabled():
            return
        denoiser = engine().Denoiser(**inputs.settings)
        resume = self._checkpoint() or ()
        if not resume:
            self.chart.clear()
        self.chart.show()
        self._started, self._previews = inputs, True
        self._launch(
            "Training",
            lambda: denoiser.fit_steps(**inputs.pair(), resume=resume, preview_every=_PREVIEW_EVERY),
            self._on_trained,
            self._on_training,
        )

    def _on_user_scan(self) -> None:
        """Compare networks on what is picked."""
        self._refresh()
        inputs = self.pair.inputs
        if inputs is None or not self.scan.start.isEnabled():
            return
        try:
            grid = self.scan.grid()
        except ValueError as error:
            self.scan.note.say(("red", sentence_of(error)))
            return
        self.scan.note.say()
        common = {name: inputs.settings[name] for name in ("seed", "device")}
        self._launch("Comparing", lambda: _compared(inputs, grid, common), self._on_scanned)

    def _on_scanned(self, scan: Scan) -> None:
        """Show what the comparison found."""
        self.scan.show_scan(scan)
        best = scan.best
        kind = f"depth {best.depth}, {best.channels} channels, dilation to {best.max_dilation}"
        self.progress.finish(f"Compared {len(scan.rows)} kinds of networks; {kind} has the lowest error.")

    def _on_training(self, progress: Progress) -> None:
        """Draw what training has brought."""
        self.chart.add(progress.losses)
        if progress.preview is not None:
            # Drawn on its own, so that the window breathes between curve and image.
            QTimer.singleShot(0, partial(self._show_preview, progress.preview))

    def _show_preview(self, preview: NDArray[np.float32]) -> None:
        """Show the median so far, unless the user took it away."""
        if self._left or not self._previews or self._started is None or "work" not in self._runs:
            return
        show_preview(self.viewer, preview, self._started.noisy, clean=self._clean_layer())

    def _on_trained(self, denoiser: Denoiser) -> None:
        """Keep the denoiser and denoise what it was trained on."""
        started = self._started
        self._kept = None
        self._scored, self._trained_on = started, None if started is None else started.images()
        self.session.denoiser = denoiser
        if started is not None:
            self.session.training = started.training()
            self._denoise(started.noisy, started.noisy.axes)

    def _denoise(self, source: LayerImage, axes: str | None) -> None:
        """Predict an image and show it."""
        denoiser = self.session.denoiser
        if denoiser is None:
            return
        self._launch(
            "Denoising",
            lambda: denoiser.predict_steps(source.data, axes, valid="finite"),
            partial(self._on_predicted, source),
        )

    def _on_predicted(self, source: LayerImage, prediction: Prediction) -> None:
        """Show a prediction as layers."""
        from napari_btn.core.data.image import Image

        self._source = source
        self.session.source = Image(
            source.data, source.axes, source.channel_names, source.pixel_size, source.unit, source.name
        )
        self.session.prediction = prediction
        self._previews = False
        trained_on = self._started is not None and source.name == self._started.noisy.name
        clean = self._clean_layer() if trained_on else None
        self._showing = show_prediction_steps(self.viewer, prediction, source, clean=clean)
        QTimer.singleShot(0, self._show_next)

    def _show_next(self) -> None:
        """Add the next layer; the window lives between two."""
        if self._left or self._showing is None or self._source is None:
            return
        if next(self._showing, None) is not None:
            QTimer.singleShot(0, self._show_next)
            return
        self._showing = None
        self.progress.finish(f"Done: lower, median, upper and width of '{self._source.name}' are layers now.")
        self.message.say(*differences(self._source, self.session.denoiser))
        self._refresh()

    def _clean_layer(self) -> ImageLayer | None:
        """Clean layer that training was started with, if it is still there."""
        if self._started is None or self._started.clean_layer is None:
            return None
        layer = self._started.clean_layer()
        return layer if layer is not None and layer in self.viewer.layers else None

    # ---------------------------------------------------------------- other buttons

    def _on_user_pause(self) -> None:
        """Hold the work, or go on."""
        if "work" not in self._runs:
            return
        run = self._runs["work"]
        if run.paused:
            run.resume()
        else:
            run.pause()
        self._say_paused()
        self._set_buttons("")

    def _say_paused(self) -> None:
        """Say that nothing moves, and why, where the work is held."""
        if "work" in self._runs and self._runs["work"].paused:
            self.progress.line.setText("Paused. Resume goes on from here; Stop ends it.")

    def _on_user_stop(self) -> None:
        """End the work."""
        if "work" in self._runs:
            self._runs["work"].stop()
            self.stop.setEnabled(False)
            self.progress.line.setText("Stopping…")

    def _on_user_apply(self) -> None:
        """Denoise another layer."""
        image = self.apply_to.try_read()
        if image is not None and self.session.denoiser is not None:
            self._denoise(image, None if image.guessed else image.axes)

    def _on_user_recalibrate(self) -> None:
        """Calibrate as set, from the scores that there are."""
        denoiser, wanted = self.session.denoiser, self._wanted()
        if denoiser is None or wanted is None:
            return
        alpha, settings = wanted
        given: dict[str, Any] = {}
        if settings.groups and not denoiser.calibration_settings.groups and self._scored is not None:
            # Tokens are a function of the image, which the stored scores don't hold.
            given = {"noisy": self._scored.noisy.data, "axes": self._scored.noisy.axes}
        self._launch(
            "Calibrating",
            lambda: denoiser.calibrate_steps(alpha=alpha, settings=settings, **given),
            self._on_recalibrated,
        )

    def _on_user_calibrate_on(self) -> None:
        """Calibrate on the pair that is picked."""
        denoiser, inputs, wanted = self.session.denoiser, self.pair.inputs, self._wanted()
        if denoiser is None or inputs is None or wanted is None:
            return
        alpha, settings = wanted
        given = {k: v for k, v in inputs.pair().items() if k in ("noisy", "clean", "axes", "valid")}

        def calibrated(denoiser: Denoiser) -> None:
            """Keep what the scores come from now, and show the new intervals."""
            self._scored = inputs
            self._on_recalibrated(denoiser)

        self._launch(
            "Calibrating",
            lambda: denoiser.calibrate_steps(alpha=alpha, settings=settings, **given),
            calibrated,
        )

    def _on_recalibrated(self, denoiser: Denoiser) -> None:
        """Show the new report, and the intervals of the last image."""
        self.session.denoiser = denoiser
        if self._source is not None:
            self._denoise(self._source, self._source.axes)
        else:
            self.progress.finish("Calibrated.")

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
            self.message.say(("red", f"Nothing was saved. {sentence_of(error)}"))
            return
        self.message.say(("info", f"Saved as {target}."))

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
            """Load, as a step."""
            yield Progress(0, 1, "Loading")
            return engine().load(path)

        def loaded(denoiser: Any) -> None:
            """Use it."""
            self._started = self._scored = self._trained_on = None
            self.session.denoiser, self.session.training = denoiser, None
            self.progress.finish(f"Loaded {Path(path).name}.")

        self._launch("Loading", step, loaded)

    # ---------------------------------------------------------------- what happens around the dock

    def _on_layers_changed(self, event: Any = None) -> None:
        """Offer the layers that there are, and pick the obvious ones."""
        if self._left:
            return
        from napari.layers import Image

        layers = [layer for layer in self.viewer.layers if isinstance(layer, Image)]
        removed = getattr(event, "type", "") == "removed" and is_ours(event.value)
        if removed and event.value.metadata[KEY].get("map") == "preview":
            # The user doesn't want it: it must not come back with the next progress.
            self._previews = False
        self.pair.offer(layers, choose=not self.busy)
        self.apply_to.refresh(layers)
        self._refresh()

    def _on_session_changed(self, slot: str) -> None:
        """Show what the session knows now."""
        if self._left or slot != "denoiser":
            return
        denoiser = self.session.denoiser
        self.report.show_report(None if denoiser is None else denoiser.report)
        if denoiser is not None:
            self.form.show_settings(denoiser)
            losses = [(m, step, v) for m, values in denoiser.losses.items() for step, v in enumerate(values)]
            if losses:
                self.chart.clear()
                self.chart.add(losses)
            self.chart.setVisible(bool(losses))
        self._refresh()

    def _let_go(self) -> None:
        """Let go of the layers that are picked."""
        self.pair.leave()
        self.apply_to.leave()
