"""Training in the Denoise dock: the loss curve, the preview, and the finished members of a stopped training."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_btn.session import Unfinished
from napari_btn.widgets.denoise.background import Background
from napari_btn.widgets.denoise.pace import Pace
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.overlays import layer_name, our_layer
from napari_btn.widgets.shared.results import show_preview
from napari_btn.widgets.shared.side_by_side import FRAME_MS, as_before

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from napari.layers import Image as ImageLayer
    from numpy.typing import NDArray
    from qtpy.QtWidgets import QWidget

    from napari_btn.core.progress import Progress
    from napari_btn.model import Model
    from napari_btn.session import Session
    from napari_btn.widgets.denoise.pairing import PairInputs
    from napari_btn.widgets.denoise.view import DenoiseView
    from napari_btn.widgets.denoise.work import Work
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.shared.worker import Run

__all__ = ["Trainer"]

_PREVIEW_EVERY = 2.0


class Trainer:
    """Training on the picked pair, with its loss curve and preview.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the preview.
    view : DenoiseView
        Form with the pair and the loss curve.
    work : Work
        Runs the training.
    session : Session
        Gives the device.
    lifetime : Lifetime
        Of the dock.
    trained : callable
        Called with the trained model.
    """

    def __init__(
        self,
        viewer: Any,
        view: DenoiseView,
        work: Work,
        session: Session,
        lifetime: Lifetime,
        trained: Callable[[Model], None],
    ) -> None:
        self._viewer, self._view, self._work, self._lifetime = viewer, view, work, lifetime
        self._session, self._trained = session, trained
        self.started: PairInputs | None = None
        """Pair and settings of the last training."""
        left = session.unfinished
        self._kept: tuple[Any, Any] | None = (
            None if left is None or not left.members else (left.key, left.members)
        )
        self._previews = True
        self._run: Run[Any] | None = None
        self.pace = Pace()
        """Ratio of measured to estimated times of earlier trainings."""
        self._estimated = (0.0, "cpu")
        lifetime.at_end(self._on_close)

    def train(self, inputs: PairInputs, estimated: tuple[float, str] = (0.0, "cpu")) -> None:
        """Train, from the finished members on if there are any.

        Parameters
        ----------
        inputs : PairInputs
            Pair to train on, and settings.
        estimated : tuple of float and str
            Seconds, estimated without earlier trainings (0 if unknown), and the device.
        """
        resume, device = self.checkpoint() or (), self._session.device
        # a training that goes on from finished members says nothing about a whole one
        self._estimated = (0.0, "cpu") if resume else estimated
        if not resume:
            self._view.chart.clear()
        self._view.chart.show()
        self.started, self._previews = inputs, True
        self._work.launch(
            "Training",
            lambda: engine.fit_steps(
                inputs.pair,
                inputs.settings,
                engine.compute_on(device, inputs.settings),
                regions=inputs.regions,
                resume=resume,
                preview_every=_PREVIEW_EVERY,
            ),
            self._finish,
            self._take_progress,
            self._keep_members,
        )
        self._run = self._work.run
        self._session.unfinished = Unfinished(inputs.key(), inputs.settings, resume)

    def hand_over(self, window: QWidget) -> None:
        """Let a training that runs go on without the dock, until it is opened again.

        Parameters
        ----------
        window : QWidget
            Window of the viewer.
        """
        if self._run is None or self._work.run is not self._run or self.started is None:
            return
        run = self._work.hand_over()
        if run is not None:
            self.pace.learn_from(run, *self._estimated)
            self.drop_preview()
            Background(window, self._session, run, self.started, self._estimated)
            self._run = None

    def take_over(self) -> None:
        """Go on with the training that a closed dock left, if there is one."""
        left: Background | None = self._session.background
        if left is None:
            return
        self._run, self.started, self._previews = left.leave(), left.started, True
        self._estimated = left.estimated
        self._view.chart.show()
        self._work.adopt("Training", self._run, self._finish, self._take_progress, self._keep_members)

    def _on_close(self) -> None:
        """Keep the finished members of a training that runs when the dock is closed."""
        run, left = self._run, self._session.unfinished
        if run is not None and left is not None and run.checkpoint:
            self._session.unfinished = Unfinished(left.key, left.settings, run.checkpoint)
        if run is not None:
            self.drop_preview()

    def _finish(self, model: Model) -> None:
        """Forget the members of earlier trainings, and pass the model on."""
        if self._run is not None:
            self.pace.learn_from(self._run, *self._estimated)
        self._kept = self._run = self._session.unfinished = None
        self._trained(model)

    def end_previews(self) -> None:
        """Stop showing previews of this training."""
        self._previews = False

    def forget(self) -> None:
        """Forget the training pair, when other networks are loaded."""
        self.started = None

    def checkpoint(self) -> Any:
        """Return the finished members of a stopped training that fit the picked pair; None without any."""
        if (
            self._kept is None
            or self._view.pair.inputs is None
            or self._kept[0] != self._view.pair.inputs.key()
        ):
            return None
        return self._kept[1]

    def _keep_members(self, run: Run[Any]) -> str:
        """Keep the finished members of a training that ended early; return a sentence about them."""
        self.drop_preview()
        self.pace.learn_from(run, *self._estimated)
        self._run = None
        if self.started is None or not run.checkpoint:
            return ""
        self._kept = (self.started.key(), run.checkpoint)
        self._session.unfinished = Unfinished(self.started.key(), self.started.settings, run.checkpoint)
        n, wanted = len(run.checkpoint), self.started.settings.members
        return f" Finished and kept: {n} of {wanted} members. Click Continue to go on from them."

    def drop_preview(self) -> None:
        """Remove the preview: without its training it shows nothing that counts."""
        self._previews = False
        if (preview := self._preview()) is not None:
            self._viewer.layers.remove(preview)

    def _preview(self) -> ImageLayer | None:
        """Return the layer with the preview, if there is one."""
        if self.started is None:
            return None
        layer: ImageLayer | None = our_layer(
            self._viewer, layer_name(self.started.image.name, "preview"), "preview"
        )
        return layer

    def _take_progress(self, progress: Progress) -> None:
        """Draw new losses, and the preview."""
        self._view.chart.add(progress.losses)
        if progress.preview is not None:
            if self._previews and self._preview() is None:
                # a new layer ends a row, which takes a frame of its own
                as_before(self._viewer)
            # drawn later, so that the window handles events between curve and image
            QTimer.singleShot(FRAME_MS, partial(self._show_preview, progress.preview))

    def _show_preview(self, preview: NDArray[np.float32]) -> None:
        """Show the median so far, unless the user removed it."""
        if self._lifetime.ended or not self._previews or self.started is None or self._work.run is None:
            return
        show_preview(self._viewer, preview, self.started.image, clean=self.clean_layer())

    def clean_layer(self) -> ImageLayer | None:
        """Return the clean layer of the training, if it still exists."""
        if self.started is None or self.started.clean_layer is None:
            return None
        layer = self.started.clean_layer()
        return layer if layer is not None and layer in self._viewer.layers else None
