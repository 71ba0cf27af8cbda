"""The Denoise dock: trains on two layers, and adds calibrated quantile layers.

Long because the handlers of all buttons stand beside the method that enables the buttons.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_btn.core.compute.device import device_for
from napari_btn.core.progress import Progress
from napari_btn.core.settings import PRESETS, AdaptSettings, EnsembleSettings
from napari_btn.core.supervision.registry import supervision_of
from napari_btn.widgets.denoise.batch_panel import Batcher
from napari_btn.widgets.denoise.compare_panel import Comparer
from napari_btn.widgets.denoise.noise_panel import NoiseInspector
from napari_btn.widgets.denoise.pace import Pace
from napari_btn.widgets.denoise.pair_form import PairForm
from napari_btn.widgets.denoise.pairing import arrays_of, differences
from napari_btn.widgets.denoise.scan_panel import Scanner
from napari_btn.widgets.denoise.trainer import Trainer
from napari_btn.widgets.denoise.view import ADAPT_HELP, NOW_HELP, TRAIN_HELP, DenoiseView
from napari_btn.widgets.denoise.work import Work
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.dock import Dock
from napari_btn.widgets.shared.layers import KEY, LayerImage
from napari_btn.widgets.shared.opening import let_open
from napari_btn.widgets.shared.results import (
    is_ours,
    leave_source_steps,
    present_result,
    show_first_look,
    show_prediction_steps,
)
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.progress import Step
    from napari_btn.model import Model
    from napari_btn.workflow.now import FirstLook
    from napari_btn.workflow.repeat import Repeated

__all__ = ["DenoiseWidget"]

_OVER = object()
_BUNDLES = "Trained networks (*.btn);;Recipe (*.json);;All files (*)"
_NEEDS_PAIR = (
    "Networks are compared by their error on a clean image; pick a noisy and a clean one of the same field."
)
_TRAINED_ON_SIMULATED = "Trained on simulated noise. Pick a real noisy image as Apply to, and click Apply."
_NO_TOKENS = (
    "Simulated noise is not kept, so tokens can't calibrate it now; set Calibrate tokens, and train again."
)
_BUSY = "Busy; stop first, or wait."


class DenoiseWidget(Dock):
    """Dock that trains networks on two layers and adds their results.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "napari_btn_denoise")
        pair = PairForm(self.viewer, self.theme, self.lifetime, self.session)
        self.view = DenoiseView(self.theme, pair)
        self.show_view(self.view)
        self.work = Work(self.view, self.lifetime, self._show_work)
        self.trainer = Trainer(
            self.viewer, self.view, self.work, self.session, self.lifetime, self._take_trained
        )
        self.comparer = Comparer(self.viewer, self.view, self.work, self.session)
        self.batcher = Batcher(self.view, self.work, self.session, self.lifetime)
        self.scanner = Scanner(self.view, self.work, self.session, self._refresh)
        self.inspector = NoiseInspector(self.viewer, self.view, self.work)
        training = self.session.training
        self._scored: Pair | None = None if training is None else training.pair
        self._showing: Iterator[Any] | None = None
        self._pace = Pace()
        self._estimated = (0.0, "cpu")
        self._began: tuple[float, float, str] | None = None
        self.view.form.show_device(self.session.device)
        self._connect()
        self._on_viewer_layers()
        self._on_session_changed("model")
        if self.session.form is not None:
            # closed before: the same settings, and the finished members, are here again
            self.view.form.show_settings(self.session.form)
        if self.session.picked is not None:
            self.view.pair.show_picked(self.session.picked)
        self.trainer.take_over()

    def _connect(self) -> None:
        """Connect signals and handlers."""
        view = self.view
        for part in (view.pair, view.apply_to, view.form):
            part.changed.connect(self._refresh)
        view.pair.offered.connect(view.form.show_offers)
        view.pair.masks_wanted.connect(view.form.show_learning)
        view.pair.split_wanted.connect(view.form.split.setCurrentText)
        view.form.device.currentIndexChanged.connect(self._on_user_device)
        let_open(view.apply_to, self, self.viewer, self.lifetime)
        view.train.clicked.connect(self._on_user_train)
        view.now.clicked.connect(self._on_user_now)
        view.scan.chosen.connect(view.form.show_network)
        view.apply.clicked.connect(self._on_user_apply)
        view.adapt.clicked.connect(self._on_user_adapt)
        view.save.clicked.connect(self._on_user_save)
        view.load.clicked.connect(self._on_user_load)
        view.recalibrate.clicked.connect(self._on_user_recalibrate)
        view.calibrate_on.clicked.connect(self._on_user_calibrate_on)
        events = self.viewer.layers.events
        layer_events = (events.inserted, events.removed, events.reordered, events.renamed)
        self.lifetime.hear(self._on_viewer_layers, *layer_events)
        self.lifetime.hear(self._on_session_changed, self.session.changed)
        self.lifetime.at_end(view.apply_to.leave)
        self.lifetime.at_end(self._keep_settings)

    def _keep_settings(self) -> None:
        """Keep the settings of the form for a dock that is opened later."""
        try:
            self.session.form = self.view.form.settings()
        except ValueError:
            self.session.form = None
        self.session.picked = self.view.pair.picked()

    def put_away(self) -> None:
        """Leave; a training goes on, with a bar among napari's activities."""
        window = self._window()
        if window is not None:
            self.trainer.hand_over(window)
        super().put_away()

    @property
    def busy(self) -> bool:
        """True while the dock trains, denoises, calibrates or loads."""
        return self.work.run is not None or self._showing is not None

    def _on_user_device(self) -> None:
        """Use the picked device from the next step on."""
        if self.session.device != self.view.form.device_name:
            self.session.device = self.view.form.device_name

    def _refresh(self) -> None:
        """Read the picked layers, report what is wrong with them, and set the buttons."""
        if self.lifetime.ended or self.busy:
            return
        reason = self.view.pair.read(self.view.form.settings)
        self._show_estimate()
        self._set_buttons(reason)

    def _show_estimate(self) -> None:
        """Show how long training will take."""
        text, inputs = "", self.view.pair.inputs
        if inputs is not None:
            image, wanted = inputs.image, inputs.settings
            try:
                device = device_for(self.session.device)
                estimate = engine.estimate_training(
                    image.shape, image.axes, wanted.network, wanted.train, wanted.members, device=device
                )
                self._estimated = (estimate.seconds, device)
                text = self._pace.corrected(estimate, device).note
            except ValueError:
                text = ""
        text = ". ".join(part for part in (text, self.view.pair.check.start) if part)
        self.view.estimate.setText(text)
        self.view.estimate.setVisible(bool(text))

    def _set_buttons(self, reason: str) -> None:
        """Enable the possible actions; ``reason`` says why Train is impossible."""
        model, busy = self.session.model, self.busy
        for part in (self.view.pair, self.view.form, self.view.apply_to, self.view.load):
            part.setEnabled(not busy)
        # while work runs, the progress shows the time left
        self.view.estimate.setVisible(bool(self.view.estimate.text()) and not busy)
        self.view.train.setEnabled(not busy and not reason)
        self.view.train.setToolTip(_BUSY if busy else reason or TRAIN_HELP)
        noisy = None if busy else self.view.pair.noisy_image()
        no_image = _BUSY if busy else "Pick a noisy image first." if noisy is None else ""
        self.view.now.setEnabled(not no_image)
        self.view.now.setToolTip(no_image or NOW_HELP)
        self.view.noise.set_busy(no_image)
        self.view.compare.set_busy(no_image)
        self.view.batch.set_busy(
            _BUSY if busy else "Train first, or load trained networks." if model is None else ""
        )
        inputs = self.view.pair.inputs
        alone = inputs is not None and (inputs.clean is None or inputs.noisy is None)
        why = reason or (_NEEDS_PAIR if alone else "")
        self.view.scan.set_busy(_BUSY if busy else why)
        self.view.train.setText("Continue" if not busy and self.trainer.checkpoint() else "Train")
        for part in (self.view.stop, self.view.pause):
            part.setEnabled(self.work.run is not None)
        self.view.pause.setText("Resume" if self.work.paused else "Pause")
        self.view.save.setEnabled(model is not None and not busy)
        self.view.save.setToolTip(
            "Save networks, calibration and report as one file." if model else "Nothing is trained yet."
        )
        image = None if busy else self.view.apply_to.try_read()
        can = model is not None and not busy and image is not None
        self.view.apply.setEnabled(can)
        self.view.apply.setToolTip(
            "Denoise the picked layer with the trained networks."
            if can
            else "Train first, or load trained networks."
            if model is None
            else "Pick a layer to apply to."
        )
        self.view.adapt.setEnabled(can)
        self.view.adapt.setToolTip(ADAPT_HELP if can else self.view.apply.toolTip())
        other = model is not None and self._wanted(model) != model.settings
        self.view.recalibrate.setVisible(other and not busy)
        share = f"{100 * (1 - self.view.form.alpha):.4g} %"
        same = model is None or abs(model.settings.alpha - self.view.form.alpha) < 1e-6
        self.view.recalibrate.setText("Recalibrate as set" if same else f"Recalibrate to {share}")
        self.view.recalibrate.setToolTip(
            f"Make the intervals hold {share} of the pixels, as set in Advanced, from the stored held-out scores; "
            "trains nothing."
        )
        inputs, training = self.view.pair.inputs, self.session.training
        new = inputs is not None and (training is None or arrays_of(training.pair) != arrays_of(inputs.pair))
        # a real pair doesn't calibrate simulated noise, nor the other way round
        way = None if model is None else supervision_of(model.settings.supervision)
        fits = (
            way is not None
            and inputs is not None
            and (inputs.clean is not None or way.alone)
            and (inputs.noisy is None) == way.simulated
        )
        self.view.calibrate_on.setVisible(fits and not busy and not reason and new)

    def _wanted(self, model: Model) -> EnsembleSettings:
        """Return a model's settings with the form's miscoverage and calibration; the split stays as it is."""
        known, asked, alpha = model.settings, self.view.form.calibration(), self.view.form.alpha
        names = ("unit", "score", "minimum", "delta", "groups")
        return replace(
            known,
            alpha=known.alpha if abs(known.alpha - alpha) < 1e-6 else alpha,
            calibration=replace(known.calibration, **{name: getattr(asked, name) for name in names}),
        )

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
            # a training that goes on from finished members says nothing about a whole one
            fresh = not self.trainer.checkpoint()
            self._began = (time.monotonic(), *self._estimated) if fresh else None
            self.trainer.train(inputs)

    def _on_user_now(self) -> None:
        """Show the median of pretrained networks for the noisy image."""
        self._refresh()
        source, device = self.view.pair.noisy_image(), self.session.device
        if source is None or not self.view.now.isEnabled():
            return
        settings = EnsembleSettings("instant", train=PRESETS["instant"])

        def shown(look: FirstLook) -> None:
            """Show the median, and what it does not promise."""
            show_first_look(self.viewer, look, source)
            self.view.progress.finish(f"Done: the median of '{source.name}' is a layer now.")
            self.view.message.say(("amber", look.caption))

        self.work.launch(
            "Denoising",
            lambda: engine.first_look_steps(source, engine.compute_on(device, settings)),
            shown,
        )

    def _take_trained(self, model: Model) -> None:
        """Keep the model, and denoise its training image."""
        if self._began is not None and not self.work.was_paused:
            began, estimated, device = self._began
            self._pace.learn(estimated, time.monotonic() - began, device)
        started = self.trainer.started
        self._scored = None if started is None else started.pair
        self.session.report_of = "" if started is None else started.image.name
        self.session.model = model
        if started is not None:
            self.session.training = started.training()
            if started.noisy is None:
                # it shows simulated noise, and no result takes its place
                self.trainer.drop_preview()
            if started.noisy is not None:
                self._denoise(started.noisy, started.noisy.axes)
            elif started.applied is not None:
                real = started.applied
                self._denoise(real, None if real.axes_guessed else real.axes)
            else:
                self.view.progress.finish(_TRAINED_ON_SIMULATED)
                self.view.show_report()

    def _denoise(self, source: LayerImage, axes: str | None) -> None:
        """Predict an image and show it."""
        model, device = self.session.model, self.session.device
        if model is None:
            return
        self.work.launch(
            "Denoising",
            lambda: engine.predict_steps(
                model,
                engine.image_for(model, source.data, axes),
                engine.compute_on(device, model.settings),
                valid="finite",
            ),
            partial(self._show_predicted, source),
        )

    def _show_predicted(self, source: LayerImage, prediction: Prediction) -> None:
        """Show a prediction as layers."""
        former = self.session.source
        self.session.source = source
        self.session.prediction = prediction
        self.trainer.end_previews()
        started = self.trainer.started
        trained_on = started is not None and started.noisy is not None and source.name == started.noisy.name
        clean = self.trainer.clean_layer() if trained_on else None
        left = former is not None and former.name != source.name
        self._showing = chain(
            leave_source_steps(self.viewer, former.name) if former is not None and left else (),
            show_prediction_steps(self.viewer, prediction, source, clean=clean),
        )
        QTimer.singleShot(0, partial(self._show_next, source))

    def _show_next(self, source: LayerImage) -> None:
        """Add the next layer; the window handles events between two."""
        if self.lifetime.ended or self._showing is None:
            return
        if next(self._showing, _OVER) is not _OVER:
            QTimer.singleShot(0, partial(self._show_next, source))
            return
        self._showing = None
        present_result(self.viewer, source.name)
        self.view.progress.finish(
            f"Done: {self._shown()} and width of '{source.name}' are layers now; lower and upper are in Uncertainty."
        )
        if self.session.model is not None:
            found = (*differences(source, self.session.model), *self._drift())
            self.view.message.say(*sorted(found, key=lambda note: note[0] != "red"))
        self.view.show_report()
        self._refresh()

    def _drift(self) -> list[tuple[str, str]]:
        """Return what the last prediction says about its image alone: where it differs from the calibrated one."""
        model, prediction = self.session.model, self.session.prediction
        if model is None or prediction is None:
            return []
        known = {note.text for note in model.calibrated.report.warnings}
        return [(note.level, note.text) for note in prediction.notes if note.text not in known]

    def _shown(self) -> str:
        """Return the names of the denoised images of the last prediction."""
        mean = self.session.prediction is not None and self.session.prediction.shown == "mean"
        return "mean, median" if mean else "median"

    def _on_user_apply(self) -> None:
        """Denoise another layer."""
        image = self.view.apply_to.try_read()
        if image is not None and self.session.model is not None:
            self._denoise(image, None if image.axes_guessed else image.axes)

    def _on_user_adapt(self) -> None:
        """Adapt the networks to the picked layer, then denoise it."""
        image, model = self.view.apply_to.try_read(), self.session.model
        if image is None or model is None or self.busy:
            return
        axes, device = None if image.axes_guessed else image.axes, self.session.device

        def adapted(made: Model) -> None:
            """Show the image by the adapted networks."""
            self.session.model = made
            self._denoise(image, axes)

        self.work.launch(
            "Adapting",
            lambda: engine.adapt_steps(
                model,
                engine.image_for(model, image.data, axes),
                engine.compute_on(device, model.settings),
                AdaptSettings(),
            ),
            adapted,
        )

    def _on_user_recalibrate(self) -> None:
        """Calibrate with the form's settings, from the stored scores."""
        model = self.session.model
        if model is None:
            return
        pair, wanted = None, self._wanted(model)
        if wanted.calibration.groups and not model.settings.calibration.groups and self._scored is not None:
            if self._scored.noisy is None:
                self.view.message.say(("red", _NO_TOKENS))
                return
            # Tokens are a function of the image, which the stored scores don't hold.
            pair = replace(self._scored, clean=None, valid=None)
        self._calibrate(model, wanted, pair, self._take_calibrated)

    def _on_user_calibrate_on(self) -> None:
        """Calibrate on the picked pair."""
        model, inputs = self.session.model, self.view.pair.inputs
        if model is None or inputs is None:
            return

        def calibrated(model: Model) -> None:
            """Keep the origin of the scores, and show the new intervals."""
            self._scored = inputs.pair
            self.session.report_of = inputs.image.name
            self._take_calibrated(model)

        self._calibrate(model, self._wanted(model), inputs.pair, calibrated)

    def _calibrate(
        self, model: Model, wanted: EnsembleSettings, pair: Pair | None, calibrated: Callable[[Model], None]
    ) -> None:
        """Calibrate a model with other settings, from the stored scores or on a pair."""
        device = self.session.device
        self.work.launch(
            "Calibrating",
            lambda: engine.calibrate_steps(model, engine.compute_on(device, wanted), wanted, pair=pair),
            calibrated,
        )

    def _take_calibrated(self, model: Model) -> None:
        """Show the new report, and the intervals of the last image."""
        self.session.model = model
        source = self.session.source
        if isinstance(source, LayerImage):
            self._denoise(source, source.axes)
        else:
            self.view.progress.finish("Calibrated.")

    def _on_user_save(self) -> None:
        """Ask where to save."""
        path, kind = QFileDialog.getSaveFileName(self, "Save trained networks", "trained.btn", _BUNDLES)
        if path:
            recipe = kind.startswith("Recipe") and not Path(path).suffix
            self.save_to(Path(path).with_suffix(".json") if recipe else path)

    def save_to(self, path: str | Path) -> None:
        """Save the trained model.

        Parameters
        ----------
        path : str or Path
            Where to; ``.btn`` is added where a suffix is missing. With ``.json``, the recipe is saved: the steps
            with settings and hashes, which `load_from` and ``napari-btn run`` repeat.
        """
        if self.session.model is None:
            return
        target = Path(path) if Path(path).suffix else Path(path).with_suffix(".btn")
        save = engine.save_recipe_of if target.suffix == ".json" else engine.save_model
        try:
            save(self.session.model, target)
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
        """Load a trained model, or repeat a recipe.

        Parameters
        ----------
        path : str or Path
            A bundle, or a recipe (``.json``), whose images are looked for among the layers, then in its files.
        """
        if Path(path).suffix.lower() == ".json":
            self._repeat(Path(path))
            return

        def step() -> Step[Model]:
            """Load the file; a step."""
            yield Progress(0, 1, "Loading")
            return engine.load_model(path)

        def loaded(model: Model) -> None:
            """Use the loaded model."""
            self._take_loaded(model, Path(path).name)
            self.view.progress.finish(f"Loaded {Path(path).name}.")

        self.work.launch("Loading", step, loaded)

    def _take_loaded(self, model: Model, name: str) -> None:
        """Use a model that was not trained on the picked layers."""
        self.trainer.forget()
        self._scored = None
        self.session.report_of = name
        self.session.model, self.session.training = model, None

    def _repeat(self, path: Path) -> None:
        """Repeat a recipe on the images of the layers, and say if every recorded bit is the same."""
        from napari.layers import Image

        arrays = [
            layer.data for layer in self.viewer.layers if isinstance(layer, Image) and not layer.multiscale
        ]

        def repeated(made: Repeated) -> None:
            """Use the model, and say what differs."""
            self._take_loaded(made.model, path.name)
            self.view.progress.finish(f"Repeated {path.name}. Apply denoises an image with it.")
            differ = [("amber", text) for text in made.differences]
            same = ("info", f"Recorded hashes: {made.compared}; all are the same.")
            self.view.message.say(*(differ or [same]))

        self.work.launch("Repeating", lambda: engine.layers_recipe_steps(path, arrays), repeated)

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
        if getattr(event, "type", "") == "removed" and event.value.name == self.session.report_of:
            self.view.report.show_report(None)
        self.view.pair.offer(layers, choose=not self.busy)
        self.view.apply_to.refresh(layers)
        self._refresh()

    def _on_session_changed(self, slot: str) -> None:
        """Show the session's state."""
        if self.lifetime.ended or slot not in ("model", "device"):
            return
        if slot == "device":
            self.view.form.show_device(self.session.device)
            self._refresh()
            return
        model = self.session.model
        self.view.report.show_report(
            None if model is None else model.calibrated.report, self.session.report_of
        )
        if model is not None:
            self.view.form.show_settings(model.settings)
            known = model.learned.losses
            losses = [(m, step, v) for m, values in known.items() for step, v in enumerate(values)]
            if losses:
                self.view.chart.clear()
                self.view.chart.add(losses)
            self.view.chart.setVisible(bool(losses))
        self._refresh()
