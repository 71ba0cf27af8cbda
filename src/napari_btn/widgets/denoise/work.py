"""The one long action at a time of the Denoise dock, with its progress, pause and stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_btn.widgets.shared.worker import load_ahead, sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.progress import Progress, Step
    from napari_btn.widgets.denoise.view import DenoiseView
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.shared.worker import Run, Timing

__all__ = ["Work"]

_NAME = "work"


class Work:
    """A training, a prediction, a calibration or a reading that runs with its progress shown.

    Parameters
    ----------
    view : DenoiseView
        Form with progress, message and the buttons to pause and stop.
    lifetime : Lifetime
        Of the dock.
    changed : callable
        Called when the work was started, paused, resumed or is over.
    """

    def __init__(self, view: DenoiseView, lifetime: Lifetime, changed: Callable[[], None]) -> None:
        self._view, self._lifetime, self._changed = view, lifetime, changed
        self._latest: Run[Any] | None = None
        view.pause.clicked.connect(self._on_user_pause)
        view.stop.clicked.connect(self._on_user_stop)

    @property
    def run(self) -> Run[Any] | None:
        """The run; None when nothing runs."""
        return self._lifetime.runs.get(_NAME)

    @property
    def paused(self) -> bool:
        """True while the work is paused."""
        return self.run is not None and self.run.paused

    def launch(
        self,
        title: str,
        make_step: Callable[[], Step[Any]],
        on_result: Callable[[Any], None],
        on_progress: Callable[[Progress], None] | None = None,
        on_early_end: Callable[[Run[Any]], str] | None = None,
    ) -> None:
        """Run a step with its progress and errors shown.

        Parameters
        ----------
        title : str
            What is done.
        make_step : callable
            Returns the step.
        on_result : callable
            Takes the result; may launch the next work.
        on_progress : callable, optional
            Takes the progress too.
        on_early_end : callable, optional
            Takes the run when it failed or was stopped, and returns what is left of it, in a sentence.
        """
        self._view.message.say()
        self._view.progress.start(title)

        def prepared() -> Step[Any]:
            """Load libraries, then make the step."""
            load_ahead()
            return make_step()

        tell, done, failed, stopped = self._handlers(title, on_result, on_progress, on_early_end)
        self._latest = self._lifetime.start(
            _NAME, prepared, done, failed, title=title, on_progress=tell, on_stopped=stopped
        )
        self._changed()

    def adopt(
        self,
        title: str,
        run: Run[Any],
        on_result: Callable[[Any], None],
        on_progress: Callable[[Progress], None] | None = None,
        on_early_end: Callable[[Run[Any]], str] | None = None,
    ) -> None:
        """Go on with a run that was started before the dock was closed and opened again.

        Parameters
        ----------
        title : str
            What is done.
        run : Run
            Running.
        on_result, on_progress, on_early_end : callable
            As in `launch`.
        """
        self._view.progress.start(title)
        tell, done, failed, stopped = self._handlers(title, on_result, on_progress, on_early_end)
        self._latest = run
        self._lifetime.adopt(_NAME, run, done, failed, on_progress=tell, on_stopped=stopped)
        self._changed()

    def hand_over(self) -> Run[Any] | None:
        """Return the run, which goes on without this dock; None when nothing runs."""
        return self._lifetime.runs.pop(_NAME, None)

    def _handlers(
        self,
        title: str,
        on_result: Callable[[Any], None],
        on_progress: Callable[[Progress], None] | None,
        on_early_end: Callable[[Run[Any]], str] | None,
    ) -> tuple[
        Callable[[Progress, Timing], None],
        Callable[[Any], None],
        Callable[[Exception], None],
        Callable[[], None],
    ]:
        """Return what a run calls: with progress, with the result, with an error, and when it was stopped."""

        def tell(progress: Progress, timing: Timing) -> None:
            """Show progress."""
            self._view.progress.tell(progress, timing)
            self._say_paused()
            if on_progress is not None:
                on_progress(progress)

        def done(result: Any) -> None:
            """Pass the result on."""
            on_result(result)
            self._changed()

        def failed(error: Exception) -> None:
            """Show the error."""
            if on_early_end is not None and self._latest is not None:
                on_early_end(self._latest)
            self._view.progress.hide()
            self._view.message.say(("red", f"{title} failed. {sentence_of(error)}"))
            self._changed()

        def stopped() -> None:
            """Show that the work was stopped, and what is left of it."""
            left = "" if on_early_end is None or self._latest is None else on_early_end(self._latest)
            self._view.progress.finish(f"{title} was stopped.{left}")
            self._changed()

        return tell, done, failed, stopped

    def _on_user_pause(self) -> None:
        """Pause the work, or go on."""
        if self.run is None:
            return
        if self.run.paused:
            self.run.resume()
        else:
            self.run.pause()
        self._say_paused()
        self._changed()

    def _say_paused(self) -> None:
        """Show how to go on from a pause."""
        if self.paused:
            self._view.progress.line.setText("Paused. Resume goes on from here; Stop ends it.")

    def _on_user_stop(self) -> None:
        """Stop the work."""
        if self.run is not None:
            self.run.stop()
            self._view.stop.setEnabled(False)
            self._view.progress.line.setText("Stopping…")
