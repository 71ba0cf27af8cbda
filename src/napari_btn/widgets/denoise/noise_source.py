"""The noise model that simulated noise is drawn from: read from a file, or measured by the noise inspector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QWidget

from napari_btn.core.progress import Progress
from napari_btn.core.supervision.registry import SUPERVISIONS
from napari_btn.widgets.shared.notes import NoteLabel
from napari_btn.widgets.shared.panels import combo_box, lay_out, push_button
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.progress import Step
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.shared.notes import Theme

__all__ = ["NoiseModelPicker", "simulating_way"]

_HELP = (
    "Noise to add to clean images: a file from 'napari-btn noise', a recorded noise model of CAREamics or "
    "n2v (.npz), or the noise of a noisy layer, as measured with 'Use for simulation' below Noise."
)
_FILES = "Noise models (*.json *.npz *.npy);;All files (*)"
_NONE = "none"


class NoiseModelPicker(QWidget):
    """A combo box of noise models, with a button for files.

    Parameters
    ----------
    theme : Theme
        Colours of its note.
    lifetime : Lifetime
        Of the dock.
    """

    changed = Signal()
    """Emitted when another noise model is picked."""

    def __init__(self, theme: Theme, lifetime: Lifetime) -> None:
        super().__init__()
        self._lifetime = lifetime
        self._models: dict[str, NoiseModel] = {}
        self.combo = combo_box("noise_model", _HELP)
        self.combo.addItem(_NONE)
        self.open = push_button("noise_model_open", "Open file…", _HELP)
        self.note = NoteLabel(theme, "noise_model_note")
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self.combo, 1)
        row.addWidget(self.open)
        lay_out(self, row, self.note)
        self.combo.currentIndexChanged.connect(self._on_user_index)
        self.open.clicked.connect(self._on_user_open)

    @property
    def model(self) -> NoiseModel | None:
        """The picked noise model; None where none is."""
        return self._models.get(self.combo.currentText())

    def offer(self, name: str, model: NoiseModel) -> None:
        """Add a noise model, and pick it; it replaces one of the same name.

        Parameters
        ----------
        name : str
            Where it comes from.
        model : NoiseModel
        """
        self.note.say()
        self._models[name] = model
        if self.combo.findText(name) < 0:
            self.combo.addItem(name)
        if self.combo.currentText() == name:
            self.changed.emit()
        self.combo.setCurrentText(name)

    def read_file(self, path: str | Path) -> None:
        """Read a noise model in a thread, and pick it.

        Parameters
        ----------
        path : str or Path
            JSON of napari-btn; ``.npz`` or ``.npy`` of CAREamics, n2v or PN2V.
        """

        def step() -> Step[NoiseModel]:
            """Read the file; a step."""
            from napari_btn.io.noise import NoiseModel

            yield Progress(0, 1, "Reading")
            return NoiseModel.load(path)

        def failed(error: Exception) -> None:
            """Show the error."""
            self.note.say(("red", sentence_of(error)))

        def read(model: NoiseModel) -> None:
            """Pick the model."""
            self.offer(Path(path).name, model)

        self._lifetime.drop("read noise_model")
        self._lifetime.start("read noise_model", step, read, failed, title=f"reading {path}")

    def state(self) -> tuple[str, dict[str, NoiseModel]]:
        """Return the name of the picked model, and all models by name, for `restore` of a later form."""
        return self.combo.currentText(), dict(self._models)

    def restore(self, state: tuple[str, dict[str, NoiseModel]]) -> None:
        """Offer the models of an earlier form, and pick the one that was picked there.

        Parameters
        ----------
        state : tuple
            As `state` returns it.
        """
        picked, models = state
        for name, model in models.items():
            self.offer(name, model)
        self.combo.setCurrentText(picked)

    def _on_user_index(self, row: int) -> None:
        """Follow the picked model."""
        del row
        self.changed.emit()

    def _on_user_open(self) -> None:
        """Ask for a file."""
        path, _ = QFileDialog.getOpenFileName(self, "Open a noise model", "", _FILES)
        if path:
            self.read_file(path)


def simulating_way() -> str:
    """Return the name of the best way to learn that draws noise on clean images."""
    return min((way for way in SUPERVISIONS.values() if way.simulated), key=lambda way: way.rank).name
