"""Calibration in the Denoise dock: with other settings from the stored scores, or on the picked pair."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_btn.core.supervision.registry import supervision_of
from napari_btn.widgets.denoise.pairing import arrays_of
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.layers import LayerImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.settings import EnsembleSettings
    from napari_btn.model import Model
    from napari_btn.session import Session
    from napari_btn.widgets.denoise.view import DenoiseView
    from napari_btn.widgets.denoise.work import Work

__all__ = ["Calibrator"]

_NO_TOKENS = (
    "The simulated noisy image is not stored, so tokens can't be calibrated now. Set 'Calibrate tokens', "
    "and train again."
)


class Calibrator:
    """Calibration of the session's networks without training.

    Parameters
    ----------
    view : DenoiseView
        Form with the settings, the pair and the buttons.
    work : Work
        Runs the calibration.
    session : Session
        Gives the networks and the device, and keeps the calibrated networks.
    denoise : callable
        Called with the last image and its axes, to show the new intervals.
    """

    def __init__(
        self,
        view: DenoiseView,
        work: Work,
        session: Session,
        denoise: Callable[[LayerImage, str | None], None],
    ) -> None:
        self._view, self._work, self._session, self._denoise = view, work, session, denoise
        self.scored: Pair | None = None if session.training is None else session.training.pair
        """Pair that the stored scores come from; None if it isn't open here."""
        view.recalibrate.clicked.connect(self._on_user_recalibrate)
        view.calibrate_on.clicked.connect(self._on_user_calibrate_on)

    def set_buttons(self, reason: str, *, busy: bool) -> None:
        """Show what is possible.

        Parameters
        ----------
        reason : str
            Why the picked pair can't be trained on; empty if it can.
        busy : bool
            True while the dock works.
        """
        model, view = self._session.model, self._view
        other = model is not None and self._wanted(model) != model.settings
        view.recalibrate.setVisible(other and not busy)
        share = f"{100 * (1 - view.form.alpha):.4g} %"
        same = model is None or abs(model.settings.alpha - view.form.alpha) < 1e-6
        view.recalibrate.setText("Recalibrate" if same else f"Recalibrate to {share}")
        view.recalibrate.setToolTip(
            f"Calibrate the intervals again, with the settings of this dock, so that they aim at {share} of the "
            "pixels. Uses the stored results of the held-out part; nothing is trained."
        )
        inputs, training = view.pair.inputs, self._session.training
        new = inputs is not None and (training is None or arrays_of(training.pair) != arrays_of(inputs.pair))
        # a real pair doesn't calibrate simulated noise, nor the other way round
        way = None if model is None else supervision_of(model.settings.supervision)
        fits = (
            way is not None
            and inputs is not None
            and (inputs.clean is not None or way.alone)
            and (inputs.noisy is None) == way.simulated
        )
        view.calibrate_on.setVisible(fits and not busy and not reason and new)

    def _wanted(self, model: Model) -> EnsembleSettings:
        """Return a model's settings with the form's miscoverage and calibration; the split stays as it is."""
        known, asked, alpha = model.settings, self._view.form.calibration(), self._view.form.alpha
        names = ("unit", "score", "minimum", "delta", "groups")
        return replace(
            known,
            alpha=known.alpha if abs(known.alpha - alpha) < 1e-6 else alpha,
            calibration=replace(known.calibration, **{name: getattr(asked, name) for name in names}),
        )

    def _on_user_recalibrate(self) -> None:
        """Calibrate with the form's settings, from the stored scores."""
        model = self._session.model
        if model is None:
            return
        pair, wanted = None, self._wanted(model)
        if wanted.calibration.groups and not model.settings.calibration.groups and self.scored is not None:
            if self.scored.noisy is None:
                self._view.message.say(("red", _NO_TOKENS))
                return
            # Tokens are a function of the image, which the stored scores don't hold.
            pair = replace(self.scored, clean=None, valid=None)
        self._calibrate(model, wanted, pair, self._take_calibrated)

    def _on_user_calibrate_on(self) -> None:
        """Calibrate on the picked pair."""
        model, inputs = self._session.model, self._view.pair.inputs
        if model is None or inputs is None:
            return

        def calibrated(model: Model) -> None:
            """Keep the origin of the scores, and show the new intervals."""
            self.scored = inputs.pair
            self._session.report_of = inputs.image.name
            self._take_calibrated(model)

        self._calibrate(model, self._wanted(model), inputs.pair, calibrated)

    def _calibrate(
        self, model: Model, wanted: EnsembleSettings, pair: Pair | None, calibrated: Callable[[Model], None]
    ) -> None:
        """Calibrate a model with other settings, from the stored scores or on a pair."""
        device = self._session.device
        self._work.launch(
            "Calibrating",
            lambda: engine.calibrate_steps(model, engine.compute_on(device, wanted), wanted, pair=pair),
            calibrated,
        )

    def _take_calibrated(self, model: Model) -> None:
        """Show the new report, and the intervals of the last image."""
        self._session.model = model
        source = self._session.source
        if isinstance(source, LayerImage):
            self._denoise(source, source.axes)
        else:
            self._view.progress.finish("Calibrated.")
