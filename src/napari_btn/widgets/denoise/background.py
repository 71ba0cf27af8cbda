"""A training that goes on while its dock is closed, with a bar among napari's activities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils import progress as activity
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QEvent, QObject

from napari_btn.session import Unfinished
from napari_btn.widgets.denoise.pace import Pace
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_btn.core.progress import Progress
    from napari_btn.model import Model
    from napari_btn.session import Session
    from napari_btn.widgets.denoise.pairing import PairInputs
    from napari_btn.widgets.shared.worker import Run, Timing

__all__ = ["Background"]

_STEPS = 1000
_CLOSE_WAIT = 10.0


class Background(QObject):
    """A training without a dock; it ends in the session, or with the window.

    Parameters
    ----------
    window : QWidget
        Window of the viewer.
    session : Session
        Takes the model.
    run : Run
        Running.
    started : PairInputs
        Pair and settings of the training.
    estimated : tuple of float and str
        Seconds, estimated without earlier trainings (0 if unknown), and the device.
    """

    def __init__(
        self,
        window: QWidget,
        session: Session,
        run: Run[Any],
        started: PairInputs,
        estimated: tuple[float, str],
    ) -> None:
        super().__init__(window)
        self._session, self.run, self.started, self.estimated = session, run, started, estimated
        self._bar: Any = activity(total=_STEPS, desc=f"Training on {started.image.name}")
        run.redirect(self._take, self._fail, self._tell, self._keep)
        window.installEventFilter(self)
        session.background = self
        show_info("Still training; open Denoise to stop it.")  # napari cuts what is longer

    def leave(self) -> Run[Any]:
        """Return the run to a dock that goes on with it."""
        self._end()
        return self.run

    def _tell(self, progress: Progress, timing: Timing) -> None:
        """Move the bar."""
        del timing
        self._bar.update(int(_STEPS * progress.fraction) - self._bar.n)

    def _take(self, model: Model) -> None:
        """Give the model to the session."""
        self._end()
        Pace().learn_from(self.run, *self.estimated)
        session = self._session
        session.unfinished, session.report_of = None, self.started.image.name
        session.model = model
        session.training = self.started.training()
        name = self.started.image.name
        session.ended = "info", f"Trained on '{name}' while Denoise was closed. Click Apply to denoise it."
        show_info("Trained; open Denoise, and click Apply.")

    def _fail(self, error: Exception) -> None:
        """Say the error, and keep the finished members."""
        self._keep()
        text = f"Training failed. {sentence_of(error)}"
        self._session.ended = "red", text
        show_warning(text)

    def _keep(self) -> None:
        """Keep the finished members."""
        self._end()
        Pace().learn_from(self.run, *self.estimated)
        members = self.run.checkpoint or ()
        self._session.unfinished = Unfinished(self.started.key(), self.started.settings, members)

    def _end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._session.background = None

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # Qt's name
        """Stop the training when the window closes."""
        hidden = event is not None and event.type() == QEvent.Type.Hide and not event.spontaneous()
        if hidden and self._session.background is self:
            self.run.leave(wait=_CLOSE_WAIT)
            self._keep()
        return bool(super().eventFilter(watched, event))
