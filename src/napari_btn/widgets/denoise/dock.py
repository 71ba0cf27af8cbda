"""The Denoise dock: trains on two layers, and adds calibrated quantile layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_btn.core.compute.device import device_for
from napari_btn.widgets.denoise.applier import Applier
from napari_btn.widgets.denoise.batch_panel import Batcher
from napari_btn.widgets.denoise.calibrator import Calibrator
from napari_btn.widgets.denoise.compare_panel import Comparer
from napari_btn.widgets.denoise.keeper import Keeper
from napari_btn.widgets.denoise.noise_panel import NoiseInspector
from napari_btn.widgets.denoise.pace import busy_note
from napari_btn.widgets.denoise.pair_form import PairForm
from napari_btn.widgets.denoise.scan_panel import Scanner
from napari_btn.widgets.denoise.trainer import Trainer
from napari_btn.widgets.denoise.view import NOW_HELP, TRAIN_HELP, DenoiseView
from napari_btn.widgets.denoise.work import Work
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.dock import Dock
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.opening import let_open
from napari_btn.widgets.shared.results import is_ours

if TYPE_CHECKING:
    from napari_btn.model import Model
    from napari_btn.widgets.denoise.pairing import PairInputs

__all__ = ["DenoiseWidget"]

_NEEDS_PAIR = (
    "Networks are compared by their error on a clean image; pick a noisy and a clean one of the same field."
)
_TRAINED_ON_SIMULATED = "Trained on simulated noise. Pick a real noisy image as Apply to, and click Apply."
_BUSY = "Busy; stop first, or wait."
_WAITING = "Checking the images first. Training starts by itself if they are right; Stop ends the wait."
_DOUBTFUL = "Not started. {} If you mean it so, click Train again."


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
        self.applier = Applier(
            self.viewer, self.view, self.work, self.session, self.lifetime, self.trainer, self._refresh
        )
        self.calibrator = Calibrator(self.view, self.work, self.session, self.applier.denoise)
        self.keeper = Keeper(
            self.viewer, self.view, self.work, self.session, self._take_loaded, self.applier.show
        )
        self._estimated = (0.0, "cpu")
        self._waiting = False  # for the check of the pair, to train on it
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
        if self.session.ended is not None:
            self.view.message.say(self.session.ended)
            self.session.ended = None
        trained = self.session.report_of
        if (
            self.session.prediction is None
            and self.session.model is not None
            and trained in self.viewer.layers
        ):
            # a training that ended without a dock has no result yet; Apply makes it
            self.view.apply_to.pick(self.viewer.layers[trained])

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
        view.stop.clicked.connect(self._on_user_stop)
        view.scan.chosen.connect(view.form.show_network)
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
        self.applier.finish()

    @property
    def busy(self) -> bool:
        """True while the dock trains, denoises, calibrates or loads, or waits for a check to train."""
        return self.applier.busy or self._waiting

    def _on_user_device(self) -> None:
        """Use the picked device from the next step on."""
        if self.session.device != self.view.form.device_name:
            self.session.device = self.view.form.device_name

    def _refresh(self) -> None:
        """Read the picked layers, report what is wrong with them, and set the buttons."""
        if self.lifetime.ended or self.applier.busy:
            return
        reason = self.view.pair.read(self.view.form.settings)
        self._show_estimate()
        self._set_buttons(reason)
        if self._waiting:
            self._train_if_right(reason)

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
                known = self.trainer.pace.corrected(estimate, device)
                # earlier trainings have met the other programs, too
                busy = busy_note(device) if known is estimate else ""
                text = ". ".join(part for part in (known.note, busy) if part)
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
        if self._waiting:
            self.view.train.setText("Checking…")
            self.view.stop.setEnabled(True)
        self.view.pause.setText("Resume" if self.work.paused else "Pause")
        self.keeper.set_buttons(busy=busy)
        self.applier.set_buttons()
        self.calibrator.set_buttons(reason, busy=busy)

    def _show_work(self) -> None:
        """Set the buttons when the work was started, paused or is over."""
        if self.busy:
            self._set_buttons("")
        else:
            self._refresh()

    def _on_user_train(self) -> None:
        """Train on the picked pair, as soon as it was checked."""
        self._refresh()
        inputs = self.view.pair.inputs
        if inputs is None or not self.view.train.isEnabled():
            return
        if self.view.pair.check.knows(inputs):
            self._train(inputs)
            return
        self._waiting = True
        self.view.message.say()
        self.view.progress.start("Checking")
        self.view.progress.line.setText(_WAITING)
        self._set_buttons("")

    def _train_if_right(self, reason: str) -> None:
        """Train on the pair if its check is done and found nothing wrong; ``reason`` says why not to train."""
        inputs = self.view.pair.inputs
        if not reason and inputs is not None and not self.view.pair.check.knows(inputs):
            return
        self._waiting = False
        wrong = "" if reason else self.view.pair.check.wrong
        if inputs is not None and not reason and not wrong:
            self._train(inputs)
            return
        self.view.progress.hide()
        self.view.message.say(("red", f"Not started. {reason}" if reason else _DOUBTFUL.format(wrong)))
        self._set_buttons(reason)

    def _on_user_stop(self) -> None:
        """Wait no longer for the check; work listens to the button itself."""
        if self._waiting:
            self._waiting = False
            self.view.progress.hide()
            self._refresh()

    def _train(self, inputs: PairInputs) -> None:
        """Train on a pair."""
        self.trainer.train(inputs, self._estimated)

    def _take_trained(self, model: Model) -> None:
        """Keep the model, and denoise its training image."""
        started = self.trainer.started
        self.calibrator.scored = None if started is None else started.pair
        self.session.report_of = "" if started is None else started.image.name
        self.session.model = model
        if started is not None:
            self.session.training = started.training()
            if started.noisy is None:
                # it shows simulated noise, and no result takes its place
                self.trainer.drop_preview()
            if started.noisy is not None:
                self.applier.denoise(started.noisy, started.noisy.axes)
            elif started.applied is not None:
                real = started.applied
                self.applier.denoise(real, None if real.axes_guessed else real.axes)
            else:
                self.view.progress.finish(_TRAINED_ON_SIMULATED)
                self.view.show_report()

    def _take_loaded(self, model: Model, name: str) -> None:
        """Use a model that was not trained on the picked layers."""
        self.trainer.forget()
        self.calibrator.scored = None
        self.session.report_of = name
        self.session.model, self.session.training = model, None

    def _on_viewer_layers(self, event: Any = None) -> None:
        """Offer the layers, and pick the obvious ones."""
        if self.lifetime.ended:
            return
        from napari.layers import Image

        layers = [layer for layer in self.viewer.layers if isinstance(layer, Image)]
        if getattr(event, "type", "") == "removed":
            self.view.progress.forget(event.value.name)
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
