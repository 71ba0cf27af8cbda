"""Denoising in the Denoise dock, by trained or pretrained networks, and the layers that show the result."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_btn.core.settings import PRESETS, AdaptSettings, EnsembleSettings
from napari_btn.widgets.denoise.pairing import differences
from napari_btn.widgets.denoise.view import ADAPT_HELP
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.overlays import layer_name
from napari_btn.widgets.shared.results import (
    leave_source_steps,
    present_result,
    show_first_look,
    show_prediction_steps,
)
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.model import Model
    from napari_btn.session import Session
    from napari_btn.widgets.denoise.trainer import Trainer
    from napari_btn.widgets.denoise.view import DenoiseView
    from napari_btn.widgets.denoise.work import Work
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.workflow.now import FirstLook

__all__ = ["Applier"]

_OVER = object()


class Applier:
    """Denoising of images with the session's networks, or at once with pretrained ones.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the results.
    view : DenoiseView
        Form with the pickers, the buttons and the messages.
    work : Work
        Runs the steps.
    session : Session
        Gives the networks and the device, and keeps the prediction.
    lifetime : Lifetime
        Of the dock.
    trainer : Trainer
        Knows the images of the last training.
    refresh : callable
        Reads the picked layers again, and sets the buttons.
    """

    def __init__(
        self,
        viewer: Any,
        view: DenoiseView,
        work: Work,
        session: Session,
        lifetime: Lifetime,
        trainer: Trainer,
        refresh: Callable[[], None],
    ) -> None:
        self._viewer, self._view, self._work, self._session = viewer, view, work, session
        self._lifetime, self._trainer, self._refresh = lifetime, trainer, refresh
        self._showing: Iterator[Any] | None = None
        view.now.clicked.connect(self._on_user_now)
        view.apply.clicked.connect(self._on_user_apply)
        view.adapt.clicked.connect(self._on_user_adapt)

    @property
    def busy(self) -> bool:
        """True while work runs, or a result becomes layers."""
        return self._work.run is not None or self._showing is not None

    def set_buttons(self) -> None:
        """Enable what is possible with the picked layer, and say what is missing."""
        model, view = self._session.model, self._view
        image = None if self.busy else view.apply_to.try_read()
        can = model is not None and image is not None
        view.apply.setEnabled(can)
        view.apply.setToolTip(
            "Denoise the picked layer with the trained networks."
            if can
            else "Train first, or load trained networks."
            if model is None
            else "Pick a layer to apply to."
        )
        view.adapt.setEnabled(can)
        view.adapt.setToolTip(ADAPT_HELP if can else view.apply.toolTip())

    def _on_user_now(self) -> None:
        """Show the median of pretrained networks for the noisy image."""
        self._refresh()
        source, device = self._view.pair.noisy_image(), self._session.device
        if source is None or not self._view.now.isEnabled():
            return
        settings = EnsembleSettings("instant", train=PRESETS["instant"])

        def shown(look: FirstLook) -> None:
            """Show the median, and what it does not promise."""
            show_first_look(self._viewer, look, source)
            self._view.progress.finish(
                f"Done: the median of '{source.name}' is a layer now.", [layer_name(source.name, "median")]
            )
            self._view.message.say(("amber", look.caption))

        self._work.launch(
            "Denoising",
            lambda: engine.first_look_steps(source, engine.compute_on(device, settings)),
            shown,
        )

    def denoise(self, source: LayerImage, axes: str | None) -> None:
        """Predict an image and show it, if there are networks.

        Parameters
        ----------
        source : LayerImage
        axes : str, optional
            Axes of the image; those of training by default.
        """
        model, device = self._session.model, self._session.device
        if model is None:
            return
        self._work.launch(
            "Denoising",
            lambda: engine.predict_steps(
                model,
                engine.image_for(model, source.data, axes),
                engine.compute_on(device, model.settings),
                valid="finite",
            ),
            partial(self.show, source),
        )

    def show(self, source: LayerImage, prediction: Prediction, notes: Sequence[tuple[str, str]] = ()) -> None:
        """Show a prediction as layers.

        Parameters
        ----------
        source : LayerImage
            What was predicted.
        prediction : Prediction
            Of the source, by the session's model.
        notes : sequence of tuple of str
            Level and text of what else is to be said.
        """
        former = self._session.source
        self._session.source = source
        self._session.prediction = prediction
        self._trainer.end_previews()
        started = self._trainer.started
        trained_on = started is not None and started.noisy is not None and source.name == started.noisy.name
        clean = self._trainer.clean_layer() if trained_on else None
        left = former is not None and former.name != source.name
        self._showing = chain(
            leave_source_steps(self._viewer, former.name) if former is not None and left else (),
            show_prediction_steps(self._viewer, prediction, source, clean=clean),
        )
        QTimer.singleShot(0, partial(self._show_next, source, notes))

    def _show_next(self, source: LayerImage, notes: Sequence[tuple[str, str]]) -> None:
        """Add the next layer; the window handles events between two."""
        if self._lifetime.ended or self._showing is None:
            return
        try:
            more = next(self._showing, _OVER) is not _OVER
        except Exception as error:  # noqa: BLE001  (the viewer calls what others connected to its layers)
            self._showing = None
            self._view.progress.hide()
            self._view.message.say(
                (
                    "red",
                    f"Not all layers of the result could be added; Apply makes them again. {sentence_of(error)}",
                )
            )
            self._refresh()
            return
        if more:
            QTimer.singleShot(0, partial(self._show_next, source, notes))
            return
        self._showing = None
        present_result(self._viewer, source.name)
        self._view.progress.finish(
            f"Done: {self._shown()} and width of '{source.name}' are layers now; lower and upper are in Uncertainty.",
            [layer_name(source.name, kind) for kind in ("median", "mean", "width")],
        )
        if self._session.model is not None:
            found = (*differences(source, self._session.model), *self._drift())
            self._view.message.say(*notes, *sorted(found, key=lambda note: note[0] != "red"))
        self._view.show_report()
        self._refresh()

    def finish(self) -> None:
        """Add the layers of a result that are still missing, since the dock is closed and the window is not."""
        if self._showing is not None and self._session.source is not None:
            for _ in self._showing:
                pass
            self._showing = None
            present_result(self._viewer, self._session.source.name)

    def _drift(self) -> list[tuple[str, str]]:
        """Return what the last prediction says about its image alone: where it differs from the calibrated one."""
        model, prediction = self._session.model, self._session.prediction
        if model is None or prediction is None:
            return []
        known = {note.text for note in model.calibrated.report.warnings}
        return [(note.level, note.text) for note in prediction.notes if note.text not in known]

    def _shown(self) -> str:
        """Return the names of the denoised images of the last prediction."""
        mean = self._session.prediction is not None and self._session.prediction.shown == "mean"
        return "mean, median" if mean else "median"

    def _on_user_apply(self) -> None:
        """Denoise another layer."""
        image = self._view.apply_to.try_read()
        if image is not None and self._session.model is not None:
            self.denoise(image, None if image.axes_guessed else image.axes)

    def _on_user_adapt(self) -> None:
        """Adapt the networks to the picked layer, then denoise it."""
        image, model = self._view.apply_to.try_read(), self._session.model
        if image is None or model is None or self.busy:
            return
        axes, device = None if image.axes_guessed else image.axes, self._session.device

        def adapted(made: Model) -> None:
            """Show the image by the adapted networks."""
            self._session.model = made
            self.denoise(image, axes)

        self._work.launch(
            "Adapting",
            lambda: engine.adapt_steps(
                model,
                engine.image_for(model, image.data, axes),
                engine.compute_on(device, model.settings),
                AdaptSettings(),
            ),
            adapted,
        )
