"""Windows that were measured again: pick them, put them in place, and go on training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QDoubleSpinBox, QFormLayout, QHBoxLayout, QWidget

from napari_btn.core.data.image import View
from napari_btn.core.data.pairs import Pair
from napari_btn.session import Training
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.notes import NoteLabel, Theme
from napari_btn.widgets.shared.opening import let_open
from napari_btn.widgets.shared.panels import fold, lay_out, push_button
from napari_btn.widgets.shared.pickers import LayerPicker
from napari_btn.widgets.shared.worker import load_ahead

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from napari.layers import Image as ImageLayer
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image
    from napari_btn.core.progress import Step
    from napari_btn.core.remeasure.regions import Region
    from napari_btn.model import Model
    from napari_btn.session import Session
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.workflow.refine import Refinement

__all__ = ["MeasuredPanel", "Round", "continue_steps", "measured_in"]

_DWELL = 10.0
_PUT_HELP = (
    "Use the picked image as the new measurement of the selected windows: a patch with the size of a window, "
    "or an image of the whole field, from which the windows are cut."
)
_GO_HELP = (
    "Continue the training with the windows that were measured again, calibrate again on held-out pixels, "
    "and denoise the image again."
)


_FUSE_HELP = (
    "Combine the new measurements with the prediction: both together mostly say more than each alone, but not "
    "after learning from noisy images. In the windows, the maps become those of the combination, calibrated on "
    "simulated measurements of this dose. At a stated 90 %, their intervals held 89 to 95 % in whole "
    "fresh fields of a sample whose dose was right, and 88 to 95 % in windows that were proposed on them."
)


@dataclass(frozen=True, eq=False)
class Round:
    """The result of one more training.

    Parameters
    ----------
    model : Model
        Trained further.
    gain : Refinement
        Measured on held-out pixels.
    prediction : Prediction
        Of the image of the windows.
    """

    model: Model
    gain: Refinement
    prediction: Prediction


def measured_in(
    image: Image, regions: Sequence[Region], shape: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Return the pixels of windows in an image, (C, *size) each, by the number of the window.

    Parameters
    ----------
    image : Image
        Of the whole field, or of one window's size.
    regions : sequence of Region
        The windows that are asked for.
    shape : sequence of int
        Of the field, along (Z,) Y, X.

    Raises
    ------
    ValueError
        If the image has another size, or several windows have its size.
    """
    view = View(image.data, image.axes or "", "image")
    if view.n_scenes != 1:
        raise ValueError(f"The image has {view.n_scenes} scenes (axes {view.axes}); pick one scene.")
    if view.space == tuple(shape):
        return {k: view.read(0, region.slices) for k, region in enumerate(regions)}
    patch = view.read(0)
    if len(shape) == 3 and view.ndim == 2:
        patch = patch[:, None]
    found = [k for k, region in enumerate(regions) if region.size == patch.shape[1:]]
    if len(found) == 1:
        return {found[0]: patch}
    size = " x ".join(str(n) for n in patch.shape[1:])
    if found:
        raise ValueError(
            f"{len(found)} windows have {size} px. Select the row of the window that the image belongs to."
        )
    sizes = {" x ".join(str(n) for n in region.size) for region in regions}
    raise ValueError(
        f"The image has {size} px, the windows have {', '.join(sorted(sizes)) or 'none'}. Crop or bin the "
        "image to the pixels of its window."
    )


def continue_steps(
    model: Model,
    training: Training,
    windows: Sequence[tuple[Region, Any]],
    source: Image,
    scene: int,
    device: str,
) -> Step[Round]:
    """Go on training with windows of an image, and predict it again; a step.

    Parameters
    ----------
    model : Model
    training : Training
        Its training images.
    windows : sequence of (Region, array (C, *size))
        Measured again.
    source : Image
        Noisy image of the windows.
    scene : int
        Which of its scenes they lie in.
    device : str
        As in `Session.device`.
    """
    load_ahead()
    compute = engine.compute_on(device, model.settings)
    image = engine.image_for(model, source.data, source.axes)
    field = engine.image_for(model, image.view.read(scene), "C" + image.view.space_axes)
    refined, gain = yield from engine.refine_steps(
        model, training.pair, compute, windows=windows, image=field, regions=training.regions
    )
    prediction = yield from engine.predict_steps(refined, image, compute, valid="finite")
    return Round(refined, gain, prediction)


class MeasuredPanel(QWidget):
    """The panel of what was measured again.

    Parameters
    ----------
    session : Session
        Holds the model and its training images.
    theme : Theme
        Colours of its notes.
    viewer : napari.Viewer
        Whose layers are offered.
    lifetime : Lifetime
        Of the dock.
    """

    put_wanted = Signal()
    """Emitted when the picked image shall be put into windows."""
    go_wanted = Signal()
    """Emitted when training shall go on."""
    fuse_wanted = Signal()
    """Emitted when the windows shall be fused with the prediction."""

    def __init__(self, session: Session, theme: Theme, viewer: Any, lifetime: Lifetime) -> None:
        super().__init__()
        self._session = session
        self.measured = LayerPicker(
            "measured", "The new measurement: a patch with the size of a window, or the whole field.", theme
        )
        self.measured.say_open("Load re-measured…")
        self.measured.open.setToolTip("Open a file with the new measurement as a layer.")
        self.put = push_button("put", "Put into window", _PUT_HELP)
        self.noisy = LayerPicker("trained_noisy", "Noisy image that the networks were trained on.", theme)
        self.clean = LayerPicker("trained_clean", "Clean image that the networks were trained on.", theme)
        self.go = push_button("continue_training", "Continue training", _GO_HELP)
        self.dwell = QDoubleSpinBox()
        self.dwell.setObjectName("dwell")
        self.dwell.setRange(0, 1e6)
        self.dwell.setSpecialValueText("dwell as planned")
        self.dwell.setValue(_DWELL)
        self.dwell.setSuffix(" x the image's dwell")
        self.dwell.setToolTip(
            "Dwell time per pixel of the new measurement, as a multiple of that of the noisy image. 0 takes "
            "the planned dwell of each window from the table."
        )
        self.dwell.setAccessibleName("Dwell of the new measurement")
        self.fuse = push_button("fuse", "Fuse", _FUSE_HELP)
        self.gain = NoteLabel(theme, "gain")
        for picker in (self.measured, self.noisy, self.clean):
            lifetime.at_end(picker.leave)
            let_open(picker, self, viewer, lifetime)
        self.put.clicked.connect(self.put_wanted)
        self.go.clicked.connect(self.go_wanted)
        self.fuse.clicked.connect(self.fuse_wanted)
        self._arrange()

    def _arrange(self) -> None:
        """Lay the parts out, folded."""
        self._pair = QWidget()
        form = QFormLayout(self._pair)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Trained on", self.noisy)
        form.addRow("and", self.clean)
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        for button in (self.put, self.go):
            buttons.addWidget(button)
        fusion = QHBoxLayout()
        fusion.setSpacing(4)
        for part in (self.dwell, self.fuse):
            fusion.addWidget(part)
        inside = QWidget()
        lay_out(inside, self.measured, self._pair, buttons, fusion)
        help_text = (
            "Load what was measured in the windows, then continue the training with it, or combine it with "
            "the prediction (Fuse)."
        )
        self.folded = fold("measured_again", "Measured again", help_text, inside)
        lay_out(self, self.folded, self.gain)

    def offer(self, layers: list[ImageLayer]) -> None:
        """Offer image layers.

        Parameters
        ----------
        layers : list of napari.layers.Image
            In the order to show.
        """
        for picker in (self.measured, self.noisy, self.clean):
            picker.refresh(layers)

    def plan(self, *, dwell: bool) -> None:
        """Fuse windows with their planned dwell, or with one that the user gives.

        Parameters
        ----------
        dwell : bool
            True if windows have a planned dwell.
        """
        if dwell:
            self.dwell.setValue(0)
        elif not self.dwell.value():
            self.dwell.setValue(_DWELL)

    def training(self) -> Training | None:
        """Return the training images: those of the session, or the picked ones.

        Raises
        ------
        ValueError
            If a picked layer can't be used.
        """
        if self._session.training is not None:
            return self._session.training
        noisy, clean = self.noisy.read(), self.clean.read()
        if noisy is None or clean is None:
            return None
        sizes = noisy.pixel_size, noisy.unit
        return Training(
            Pair(noisy.data, clean.data, noisy.axes, noisy.channel_names, *sizes, name=noisy.name)
        )

    def show_state(self, *, windows: int, put: bool, busy: bool) -> None:
        """Enable the possible actions, and explain the others.

        Parameters
        ----------
        windows : int
            Windows that were measured again.
        put : bool
            True if there are windows to put an image into.
        busy : bool
            True while something runs.
        """
        self._pair.setVisible(self._session.training is None)
        reason = ""
        nothing = "Nothing is measured again yet; pick an image, and put it into its window."
        blocked = "Busy; stop first, or wait." if busy else ("" if windows else nothing)
        self.fuse.setEnabled(not blocked)
        self.fuse.setToolTip(blocked or _FUSE_HELP)
        if busy:
            reason = "Busy; stop first, or wait."
        elif self._session.model is None:
            reason = "Train first, or load trained networks, in the Denoise dock."
        elif not windows:
            reason = nothing
        elif self._session.training is None and not (self.noisy.layers and self.clean.layers):
            reason = "Pick the noisy and the clean image that the networks were trained on."
        self.go.setEnabled(not reason)
        self.go.setToolTip(reason or _GO_HELP)
        why = "Busy; stop first, or wait." if busy else "There are no windows yet; propose some first."
        if put and not busy:
            why = "" if self.measured.layers else "Pick a layer, or load a file."
        self.put.setEnabled(not why)
        self.put.setToolTip(why or _PUT_HELP)

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        for note in (self.measured.note, self.noisy.note, self.clean.note, self.gain):
            note.redraw()
