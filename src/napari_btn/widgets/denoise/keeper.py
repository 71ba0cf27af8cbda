"""Trained networks and recipes in files: saving, loading and repeating in the Denoise dock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog

from napari_btn.core.progress import Progress
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.layers import read_layer
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step
    from napari_btn.model import Model
    from napari_btn.session import Session
    from napari_btn.widgets.denoise.view import DenoiseView
    from napari_btn.widgets.denoise.work import Work
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.workflow.repeat import Repeated

__all__ = ["Keeper"]

_BUNDLES = "Trained networks (*.btn);;Recipe (*.json);;All files (*)"


class Keeper:
    """Saving and loading of the session's networks.

    Parameters
    ----------
    viewer : napari.Viewer
        Its layers are the images of a recipe.
    view : DenoiseView
        Form with the buttons and the messages.
    work : Work
        Runs the loading.
    session : Session
        Gives the networks.
    loaded : callable
        Called with networks that were not trained on the picked layers, and the name of their file.
    show : callable
        Called with an image, its repeated prediction, and notes on it.
    """

    def __init__(
        self,
        viewer: Any,
        view: DenoiseView,
        work: Work,
        session: Session,
        loaded: Callable[[Model, str], None],
        show: Callable[[LayerImage, Prediction, list[tuple[str, str]]], None],
    ) -> None:
        self._viewer, self._view, self._work = viewer, view, work
        self._session, self._loaded, self._show = session, loaded, show
        view.save.clicked.connect(self._on_user_save)
        view.load.clicked.connect(self._on_user_load)

    def set_buttons(self, *, busy: bool) -> None:
        """Enable saving, if there is something to save.

        Parameters
        ----------
        busy : bool
            True while the dock works.
        """
        model = self._session.model
        self._view.save.setEnabled(model is not None and not busy)
        self._view.save.setToolTip(
            "Save networks, calibration and report as one file." if model else "Nothing is trained yet."
        )

    def _on_user_save(self) -> None:
        """Ask where to save."""
        path, kind = QFileDialog.getSaveFileName(self._view, "Save trained networks", "trained.btn", _BUNDLES)
        if path:
            recipe = kind.startswith("Recipe") and not Path(path).suffix
            self.save_to(Path(path).with_suffix(".json") if recipe else path)

    def save_to(self, path: str | Path) -> None:
        """Save the trained model.

        Parameters
        ----------
        path : str or Path
            Where to; ``.btn`` is added where a suffix is missing. With ``.json``, the recipe of the maps in sight
            is saved, or without them that of the networks: the steps with settings and hashes, which `load_from`
            and ``napari-btn run`` repeat.
        """
        model, maps = self._session.model, self._session.prediction
        if model is None:
            return
        target = Path(path) if Path(path).suffix else Path(path).with_suffix(".btn")
        try:
            if target.suffix == ".json":
                engine.save_recipe_of(model.caption if maps is None else maps.provenance, target)
            else:
                engine.save_model(model, target)
        except (OSError, ValueError) as error:
            self._view.message.say(("red", f"Nothing was saved. {sentence_of(error)}"))
            return
        self._view.message.say(("info", f"Saved as {target}."))

    def _on_user_load(self) -> None:
        """Ask for a bundle."""
        path, _ = QFileDialog.getOpenFileName(self._view, "Load trained networks", "", _BUNDLES)
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
            self._loaded(model, Path(path).name)
            self._view.progress.finish(f"Loaded {Path(path).name}.")

        self._work.launch("Loading", step, loaded)

    def _repeat(self, path: Path) -> None:
        """Repeat a recipe on the images of the layers, and say if every recorded bit is the same."""
        from napari.layers import Image

        layers = [layer for layer in self._viewer.layers if isinstance(layer, Image) and not layer.multiscale]
        arrays = [layer.data for layer in layers]

        def repeated(made: Repeated) -> None:
            """Use the model, show the maps of an open image, and say what differs."""
            self._loaded(made.model, path.name)
            same = ("info", f"The result equals the record bit by bit (checksums compared: {made.compared}).")
            notes = [("amber", text) for text in made.differences] or [same]
            shown = [layer for layer in layers if layer.data is made.image and layer in self._viewer.layers]
            if made.prediction is None or not shown:
                self._view.progress.finish(f"Repeated {path.name}. Click Apply to denoise an image with it.")
                self._view.message.say(*notes)
                return
            self._show(read_layer(shown[0]).with_axes(made.prediction.axes), made.prediction, notes)
            self._session.regions = made.regions

        self._work.launch("Repeating", lambda: engine.layers_recipe_steps(path, arrays), repeated)
