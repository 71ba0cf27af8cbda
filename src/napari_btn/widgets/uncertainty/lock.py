"""The lock of the threshold in the Uncertainty dock, and the recalibration of locked maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_btn.core.calibration.exceedance import need_lockable
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.calibration.exceedance import LockedExceedance
    from napari_btn.core.progress import Step
    from napari_btn.session import Session
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.uncertainty.focus import Focus
    from napari_btn.widgets.uncertainty.view import UncertaintyView

__all__ = ["ThresholdLock"]


class ThresholdLock:
    """Button that locks the threshold of a channel, kept in the session's model.

    Parameters
    ----------
    view : UncertaintyView
        Form with the button and the slider.
    focus : Focus
        Prediction that is looked at.
    session : Session
        Its model gets the locks.
    lifetime : Lifetime
        Of the dock.
    changed : callable
        Called when maps have become stale.
    failed : callable
        Called with the exception if a threshold can't be locked, or a recalibration fails.
    """

    def __init__(
        self,
        view: UncertaintyView,
        focus: Focus,
        session: Session,
        lifetime: Lifetime,
        changed: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._view, self._focus, self._session, self._lifetime = view, focus, session, lifetime
        self._changed, self._failed = changed, failed
        view.lock.toggled.connect(self._on_user_lock)

    def _on_user_lock(self, locked: bool) -> None:
        """Lock or unlock the threshold of the channel in the session's model."""
        prediction, model, asked = self._focus.prediction, self._session.model, self._focus.asked
        if prediction is None or model is None:
            return
        if locked and prediction.held_out is not None:
            try:
                need_lockable(prediction.held_out, asked.value, channel=asked.channel)
            except ValueError as error:
                self.show()
                self._failed(error)
                return
        name = (prediction.channel_names or ("0",))[asked.channel]
        kept = {other: value for other, value in self._focus.locks.items() if other != name}
        self._session.amend(model.with_locks({**kept, name: asked.value} if locked else kept))

    def show(self) -> None:
        """Show if the threshold is locked; a locked one cannot be moved."""
        view, prediction = self._view, self._focus.prediction
        live, locked = self._focus.live is not None, self._focus.locked()
        view.threshold.setEnabled(live and not locked)
        view.lock.blockSignals(True)
        view.lock.setChecked(live and locked)
        view.lock.setEnabled(live and prediction is not None and prediction.held_out is not None)
        view.lock.blockSignals(False)

    def recalibrate(self) -> None:
        """Recalibrate at the locked thresholds in a thread, once each."""
        live, prediction = self._focus.live, self._focus.prediction
        for run in ("lock", "rest"):
            self._lifetime.drop(run)
        if live is None or prediction is None:
            return
        wanted = self._focus.locked_thresholds()
        known = {c: made for c, t in wanted.items() if (made := live.locked(c, t)) is not None}
        if live.lock(known):
            self._changed()
        if len(known) == len(wanted):
            return

        def step() -> Step[dict[int, LockedExceedance]]:
            """Recalibrate; a step."""
            made: dict[int, Any] = dict(known)
            for channel, threshold in wanted.items():
                yield Progress(len(made), len(wanted), "Recalibrating at the locked threshold")
                if channel not in made:
                    made[channel] = prediction.recalibrated(threshold, channel)
            return made

        def done(made: dict[int, LockedExceedance]) -> None:
            """Show the maps."""
            if self._focus.live is live:
                self._lifetime.drop("rest")
                if live.lock(made):
                    self._changed()

        self._lifetime.start("lock", step, done, self._failed)
