"""The form that picks a noisy and a clean image, with axes, masks and notes on the pair.

Long because the quick checks and the ones in a thread decide together whether the pair will do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_btn.core.data.defects import SATURATED
from napari_btn.core.data.image import shown_unit
from napari_btn.core.progress import Progress, drain
from napari_btn.core.settings import SupervisionSettings
from napari_btn.core.supervision.registry import supervision_of
from napari_btn.widgets.denoise.noise_source import NoiseModelPicker
from napari_btn.widgets.denoise.pairing import PairInputs, arrays_of, in_order_of, unlike_pixels
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.layers import KEY, TRUTH
from napari_btn.widgets.shared.masks import MaskPicker, mask_over
from napari_btn.widgets.shared.notes import NoteLabel, Theme
from napari_btn.widgets.shared.opening import let_open
from napari_btn.widgets.shared.panels import push_button
from napari_btn.widgets.shared.pickers import LayerPicker
from napari_btn.widgets.shared.results import is_ours
from napari_btn.widgets.shared.worker import load_ahead, sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.layers import Image as ImageLayer
    from numpy.typing import NDArray

    from napari_btn.core.calibration.forecast import Forecast
    from napari_btn.core.data.detector import Detector
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import EnsembleSettings
    from napari_btn.session import Session
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.workflow.fit import Outlook
    from napari_btn.workflow.offers import Offer

__all__ = ["PairForm"]

_NOISY_NAMES = ("noisy", "raw", "fast", "short", "low")
_CLEAN_NAMES = ("clean", "target", "slow", "long", "truth", "high")
_VALID_HELP = (
    "Where pixels count: everywhere; where no value is NaN or infinite; or where a layer isn't zero."
)
_REGIONS_HELP = (
    "Labels layer painted over noisy, instead of the split: 1 trains, 2 calibrates, 3 (where there is any) is what "
    "the report is measured on; the rest is left out. Between 1 and the others must lie a strip, as the note says."
)
_SCENES_HELP = (
    "Several fields: tick the noisy layer of each field in the list, and the clean ones below in the same order. "
    "'Open file…' takes several files at once."
)
_REPAIR_HELP = (
    "Before training, subtract the dark frame, divide the flat field out, and fill broken pixels from their "
    "neighbours; these don't count in training. The trained networks repair every image that they are applied to in "
    "the same way."
)
_DEFECTS_HELP = (
    "Labels layer that isn't zero where a pixel is broken, instead of those that are found; in the layer of Show "
    "defects, saturated pixels (3) don't count as broken."
)
_NO_NOISY = (
    "No noisy image is picked. Pick a layer, or open a file; or give a noise model to draw on clean images."
)
_NO_MODEL = (
    "No noise model is given. Open a file of one, or measure it: unfold Noise, and click Inspect noise, then Use for "
    "simulation."
)
_ALONG = {
    "horizontal": "along x",
    "vertical": "along y",
    "cross": "along x and y",
    "square": "around",
    "none": "no more",
}
_CHECK_AFTER_MS = 200
_PREPARE_EVERY = 60.0
_MOVED_PX = 0.5
_LEVELS = ("red", "amber", "info")


@dataclass(frozen=True)
class _Found:
    """The findings of the whole check, for the inputs with this key."""

    key: tuple[Any, ...]
    notes: tuple[tuple[str, str], ...]
    reason: str = ""
    shift: tuple[float, ...] | None = None
    start: str = ""
    forecast: Forecast | None = None


class PairForm(QWidget):
    """Form that ends in a pair to train on, or in a sentence that says why not.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers are offered.
    theme : Theme
        Colours of the notes.
    lifetime : Lifetime
        Of the dock.
    session : Session
        Gives the device.
    """

    changed = Signal()
    """Emitted when the picked pair, or what is known of it, changes."""
    offered = Signal(object)
    """Emitted with the ways to learn that the picked images permit, as tuple of Offer."""
    masks_wanted = Signal(object)
    """Emitted with the SupervisionSettings that fit the noise, when the user asks for them."""
    split_wanted = Signal(str)
    """Emitted with the name of a split, when the user asks for it."""

    def __init__(self, viewer: Any, theme: Theme, lifetime: Lifetime, session: Session) -> None:
        super().__init__()
        self._viewer, self._lifetime, self._session = viewer, lifetime, session
        self._found: _Found | None = None
        self._axes_for: object = None
        self._prepared = -_PREPARE_EVERY
        self._offers: tuple[tuple[Any, ...], tuple[Offer, ...]] | None = None
        self._asked: PairInputs | None = None
        self._masked: tuple[tuple[Any, ...], dict[str, NDArray[Any]]] | None = None
        self._drawn = False
        """True if noise is drawn on the clean image, whose axes are then those that are typed."""
        self.inputs: PairInputs | None = None
        """The pair and settings as last read; None where they won't do."""
        self.noise_model = NoiseModelPicker(theme, lifetime)
        self._build(theme)
        self._check_later = lifetime.timer(_CHECK_AFTER_MS, self._start_check)
        self._offer_later = lifetime.timer(_CHECK_AFTER_MS, self._start_offers)
        for part in (self.noisy, self.clean, self.valid, self.regions, self.dark, self.flat, self.defects):
            lifetime.at_end(part.leave)
        for picker in (self.noisy, self.clean):
            picker.changed.connect(self.changed)
            let_open(picker, self, viewer, lifetime)
        for mask in (self.valid, self.regions, self.dark, self.flat, self.defects):
            mask.changed.connect(self.changed)
        self.noise_model.changed.connect(self.changed)
        self.repair.toggled.connect(lambda _: self.changed.emit())
        self.axes.textChanged.connect(lambda _: self.changed.emit())
        self.channels.textChanged.connect(lambda _: self.changed.emit())
        self.align.clicked.connect(self._on_user_align)
        self.mask_along.clicked.connect(self._on_user_mask_along)
        self.use_checkerboard.clicked.connect(lambda: self.split_wanted.emit("checkerboard"))
        self.add_scenes.clicked.connect(self._on_user_adds_scenes)

    def _build(self, theme: Theme) -> None:
        """Make the parts and lay them out."""
        self.noisy = LayerPicker("noisy", "The fast, noisy acquisition.", theme)
        self.clean = LayerPicker(
            "clean",
            "The slow, clean acquisition of the same field; may be empty. A second noisy one does, too.",
            theme,
            optional=True,
        )
        self.axes = QLineEdit()
        self.axes.setObjectName("axes")
        self.axes.setMaximumWidth(64)
        self.axes.setToolTip(
            "One letter per dimension of noisy: S scene or repeat, T time, C channel, Z Y X space. "
            "Clean has the same, or lacks S and T."
        )
        self.axes.setAccessibleName("Axes")
        self.guessed = QLabel("guessed")
        self.guessed.setObjectName("axes_guessed")
        self.guessed.setToolTip(
            "The layer doesn't name its axes; these are guessed from its shape. Correct them here."
        )
        self.shape = QLabel()
        self.shape.setObjectName("shape")
        self.shape.setWordWrap(True)
        self.shape.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.channels = QLineEdit()
        self.channels.setObjectName("channel_names")
        self.channels.setPlaceholderText("names, such as Si, Al, Fe")
        self.channels.setToolTip("Names of the channels in order, with commas: Si, Al, Fe.")
        self.channels.setAccessibleName("Channel names")
        self.valid = MaskPicker("valid", _VALID_HELP, ("everywhere", "where finite"), ("Labels", "Image"))
        self.regions = MaskPicker("regions", _REGIONS_HELP, ("as split",), ("Labels",))
        self.repair = push_button("repair", "Repair", _REPAIR_HELP)
        self.repair.setCheckable(True)
        self.dark = MaskPicker(
            "dark", "Frame without light, which is subtracted.", ("no dark frame",), ("Image",)
        )
        self.flat = MaskPicker(
            "flat", "Frame of even light, which is divided out.", ("no flat field",), ("Image",)
        )
        self.defects = MaskPicker("defects", _DEFECTS_HELP, ("as found",), ("Labels",), ("defects",))
        self.note = NoteLabel(theme, "pair_note")
        self.align = QPushButton("Align")
        self.align.setObjectName("align")
        self.align.setToolTip("Add a copy of clean, moved onto noisy, and use that.")
        self.align.setAccessibleName("Align clean with noisy")
        self.align.hide()
        self.mask_along = QPushButton("Mask along x")
        self.mask_along.setObjectName("mask_along")
        self.mask_along.setToolTip("Mask the neighbours over which the noise is correlated, too.")
        self.mask_along.setAccessibleName("Mask along the correlated noise")
        self.mask_along.hide()
        self.use_checkerboard = push_button(
            "use_checkerboard",
            "Checkerboard split",
            "Hold out squares all over the field instead of one end of it: more blocks, of more of its structures.",
        )
        self.add_scenes = push_button("add_scenes", "Add scenes", _SCENES_HELP)
        for button in (self.use_checkerboard, self.add_scenes):
            button.hide()
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Noisy", self.noisy)
        form.addRow("Clean", self.clean)
        form.addRow("Noise model", self.noise_model)
        form.setRowVisible(self.noise_model, False)
        axes = QHBoxLayout()
        axes.addWidget(self.axes)
        axes.addWidget(self.guessed)
        axes.addWidget(self.shape, 1)
        form.addRow("Axes", axes)
        form.addRow("Channels", self.channels)
        self.form = form
        below = QHBoxLayout()
        below.addWidget(self.note, 1)
        below.addWidget(self.align, 0, Qt.AlignmentFlag.AlignTop)
        below.addWidget(self.mask_along, 0, Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(form)
        layout.addLayout(below)
        remedies = QHBoxLayout()
        for button in (self.use_checkerboard, self.add_scenes):
            remedies.addWidget(button)
        layout.addLayout(remedies)

    # ---------------------------------------------------------------- reading

    def offer(self, layers: Sequence[ImageLayer], *, choose: bool) -> None:
        """Offer layers, and pick the obvious ones where nothing is picked.

        Parameters
        ----------
        layers : sequence of napari.layers.Image
            In the viewer's order.
        choose : bool
            True to pick.
        """
        for picker in (self.noisy, self.clean):
            picker.refresh(list(layers))
        for mask in (self.valid, self.regions, self.dark, self.flat, self.defects):
            mask.refresh(list(self._viewer.layers))
        own = [layer for layer in layers if not is_ours(layer) and not _is_apart(layer)]
        for picker, names, place in ((self.noisy, _NOISY_NAMES, 0), (self.clean, _CLEAN_NAMES, 1)):
            if not choose or picker.layers or picker.by_user:
                continue
            named = [layer for layer in own if any(name in layer.name.lower() for name in names)]
            if named or len(own) == 2:
                picker.pick(named[0] if named else own[place])

    def picked(self) -> dict[str, Any]:
        """Return names of the picked layers, axes and channel names, for `show_picked` of a later form."""
        pickers = {"noisy": self.noisy, "clean": self.clean}
        return {
            **{
                role: ([layer.name for layer in picker.layers], picker.stack_as.currentText())
                for role, picker in pickers.items()
            },
            "axes": self.axes.text(),
            "channels": self.channels.text(),
            "no_clean": self.clean.emptied,
            "noise_model": self.noise_model.state(),
        }

    def show_picked(self, picked: dict[str, Any]) -> None:
        """Pick layers as an earlier form had, as far as they are still there.

        Parameters
        ----------
        picked : dict
            As `picked` returns it.
        """
        for role, picker in (("noisy", self.noisy), ("clean", self.clean)):
            names, stack_as = picked[role]
            layers = [self._viewer.layers[name] for name in names if name in self._viewer.layers]
            if not names or len(layers) < len(names):
                continue
            if len(layers) > 1:
                picker.pick_many(layers, stack_as)
            else:
                picker.pick(layers[0])
            picker.by_user = True
        if picked["no_clean"]:
            self.clean.leave_empty()
        self.noise_model.restore(picked["noise_model"])
        self.axes.setText(picked["axes"])
        self.channels.setText(picked["channels"])

    def read(self, settings: Callable[[], EnsembleSettings]) -> str:
        """Read the picked layers into ``inputs``, and return why they can't be trained on, if so.

        Parameters
        ----------
        settings : callable
            Returns the settings; may raise ``ValueError``.

        Returns
        -------
        str
            A sentence, shown beside its control too.
        """
        self.inputs = self._asked = None
        for button in (self.align, self.mask_along, self.use_checkerboard, self.add_scenes):
            button.hide()
        self.note.say()
        noisy, clean = self.noisy.try_read(), self.clean.try_read()
        simulates = self._simulates(settings)
        alone = not self.noisy.layers and clean is not None
        known = self.noise_model.model is not None
        self.form.setRowVisible(self.noise_model, alone or simulates or known)
        self._drawn = drawn = clean is not None and (alone or simulates)
        if drawn and clean is not None:
            clean = self._with_axes(clean, self.clean)
        elif noisy is not None:
            noisy = self._with_axes(noisy, self.noisy)
        else:
            self.shape.clear()
        seen = clean if drawn else noisy
        self.form.setRowVisible(self.channels, seen is not None and "C" in seen.axes)
        self.guessed.setVisible(seen is not None and seen.axes_guessed)
        for picker in (self.noisy, self.clean):
            if picker.note.notes:
                return picker.note.notes[0][1]
        if drawn and clean is not None:
            return self._read_simulated(noisy, clean, settings)
        if noisy is not None and clean is None:
            said = self._read_alone(noisy, settings)
            if said is not None:
                return said
        if noisy is None or clean is None:
            missing = "noisy" if noisy is None else "clean"
            text = f"No {missing} image is picked. Pick a layer, or open a file."
            hint = " File > Open Sample > Behind the Noise has examples." if not self._viewer.layers else ""
            self.note.say(("info", text + hint))
            return text
        try:
            inputs = self._checked(noisy, clean, settings())
        except ValueError as error:
            self.note.say(("red", str(error)))
            if known:
                # the clean image is of another field, as simulation has it
                self.offered.emit(engine.simulation_offers(SupervisionSettings(), None, permitted=True))
            return str(error)
        self.inputs = inputs
        self.offered.emit(_ways_of(inputs, simulate=known))
        return self._known_or_later(inputs)

    @property
    def start(self) -> str:
        """Return the start of the members as a sentence; empty until the images were checked."""
        known = self._found is not None and self.inputs is not None and self._found.key == self.inputs.key()
        return self._found.start if known and self._found is not None else ""

    def noisy_image(self) -> LayerImage | None:
        """Return the picked noisy image with the axes that are typed; None if none is picked or can be read."""
        noisy = self.noisy.try_read()
        return noisy if noisy is None or self._drawn else self._with_axes(noisy, self.noisy)

    def _simulates(self, settings: Callable[[], EnsembleSettings]) -> bool:
        """Return True if the way to learn that is set draws the noise of clean images."""
        try:
            return supervision_of(settings().supervision).simulated
        except ValueError:
            return False

    def _read_simulated(
        self, noisy: LayerImage | None, clean: LayerImage, settings: Callable[[], EnsembleSettings]
    ) -> str:
        """Read clean images on which noise is drawn, and return why they can't be trained on, if so."""
        layer, model = self.clean.layer, self.noise_model.model
        try:
            wanted = settings()
            self.offered.emit(_ways_of(PairInputs(noisy, clean, wanted), simulate=True))
            if model is None:
                text = _NO_MODEL if noisy is not None else _NO_NOISY
                self.note.say(("info", text))
                return text
            inputs = PairInputs(
                None,
                clean,
                wanted,
                None if layer is None else ref(layer),
                *self._masks(clean),
                self._detector(clean),
                model,
                noisy,
            )
            inputs.check(values=False)
        except ValueError as error:
            self.note.say(("red", str(error)))
            return str(error)
        if supervision_of(wanted.supervision).simulated:
            # else the offer has just changed it, and all is read again
            self.inputs = inputs
            return self._known_or_later(inputs)
        return _NO_NOISY

    def _read_alone(self, noisy: LayerImage, settings: Callable[[], EnsembleSettings]) -> str | None:
        """Read a noisy image without a clean one; return None if the way to learn needs a clean one."""
        try:
            inputs = self._checked(noisy, None, settings())
        except ValueError as error:
            self.note.say(("red", str(error)))
            return str(error)
        self._asked = inputs
        if self._offers is None or self._offers[0] != _offers_key(inputs):
            self._offer_later.start()
        if not supervision_of(inputs.settings.supervision).alone:
            return None
        self.inputs = inputs
        return self._known_or_later(inputs)

    def _start_offers(self) -> None:
        """Find the ways to learn that the picked images permit, in a thread."""
        inputs = self._asked
        if inputs is None or "work" in self._lifetime.runs:
            return
        if self._lifetime.runs.keys() & {"check", "prepare", "offers"}:
            self._offer_later.start()
            return

        def step() -> Step[tuple[Offer, ...]]:
            """Check each way; a step."""
            load_ahead()
            return (yield from engine.offers_steps(inputs.pair, inputs.settings))

        def found(offers: tuple[Offer, ...]) -> None:
            """Keep and show them."""
            self._offers = (_offers_key(inputs), offers)
            self.offered.emit(offers)
            self.changed.emit()

        def failed(error: Exception) -> None:
            """Show the error."""
            self.note.say(("red", sentence_of(error)))

        self._lifetime.start("offers", step, found, failed, title="checking images")

    def _on_user_mask_along(self) -> None:
        """Ask for the masks that fit the noise."""
        offer = self._offer_of(self.inputs)
        if offer is not None:
            self.masks_wanted.emit(offer.settings)

    def _offer_of(self, inputs: PairInputs | None) -> Offer | None:
        """Return what is known of the way to learn that is picked."""
        if inputs is None or self._offers is None or self._offers[0] != _offers_key(inputs):
            return None
        return next((o for o in self._offers[1] if o.name == inputs.settings.supervision), None)

    def _checked(self, noisy: LayerImage, clean: LayerImage | None, settings: EnsembleSettings) -> PairInputs:
        """Return the inputs after the checks that are quick."""
        layer = self.clean.layer
        clean = None if clean is None else in_order_of(noisy.axes, clean)
        inputs = PairInputs(
            noisy,
            clean,
            settings,
            None if layer is None else ref(layer),
            *self._masks(noisy),
            self._detector(noisy),
        )
        known = self._found is not None and self._found.key == inputs.key()
        inputs.check(values=not known and inputs.quick_to_read)
        return inputs

    def _masks(self, noisy: LayerImage) -> tuple[Any, NDArray[Any] | None, tuple[Any, ...]]:
        """Return the masks of valid and painted pixels, and a key that identifies them."""
        frames = (self.dark, self.flat, self.defects) if self.repair.isChecked() else ()
        key: list[Any] = [(p.choice, id(p.layer), p.version) for p in (self.valid, self.regions, *frames)]
        known = (*key, noisy.axes, noisy.shape)
        if self._masked is None or self._masked[0] != known:
            painted = {}
            for name, picker in (("valid", self.valid), ("regions", self.regions)):
                if picker.layer is not None:
                    painted[name] = mask_over(picker.layer, noisy.axes, noisy.shape)
            self._masked = (known, painted)
        painted = self._masked[1]
        valid = painted["valid"] != 0 if "valid" in painted else "finite" if self.valid.choice > 0 else None
        return valid, painted.get("regions"), tuple(key)

    def _detector(self, noisy: LayerImage) -> Detector | None:
        """Return the frames and the mask by which noisy is repaired; None if it is taken as it is."""
        if not self.repair.isChecked():
            return None
        from napari_btn.core.data.detector import Detector

        dark, flat = (None if p.layer is None else p.layer.data for p in (self.dark, self.flat))
        return Detector(dark, flat, self._broken(noisy))

    def _broken(self, noisy: LayerImage) -> NDArray[np.bool_] | None:
        """Return the given mask of broken pixels in the order of the image's axes; None if they are found."""
        layer = self.defects.layer
        if layer is None:
            return None
        marked, space = mask_over(layer, noisy.axes, noisy.shape), [a for a in "ZYX" if a in noisy.axes]
        # saturated pixels of the inspector's layer are not broken
        broken = (marked != 0) & ((marked != SATURATED) | (KEY not in layer.metadata))
        return np.asarray(broken.transpose([space.index(a) for a in noisy.axes if a in space]), bool)

    def _with_axes(self, noisy: LayerImage, picker: LayerPicker) -> LayerImage:
        """Return an image with the typed axes and channel names, which are reset for another layer."""
        picked = (tuple(id(layer) for layer in picker.layers), noisy.axes, noisy.shape)
        if picked != self._axes_for:
            self._axes_for = picked
            for line, start in (
                (self.axes, noisy.axes),
                (self.channels, ", ".join(noisy.channel_names or ())),
            ):
                line.blockSignals(True)
                line.setText(start)
                line.blockSignals(False)
        text = self.axes.text().strip()
        if text.upper() != noisy.axes:
            noisy = noisy.with_axes(text)
        if "C" in noisy.axes:
            names = tuple(name.strip() for name in self.channels.text().split(",") if name.strip())
            noisy = replace(noisy, channel_names=names or None)
        parts = [" x ".join(str(n) for n in noisy.shape)]
        if noisy.pixel_size:
            sizes = dict.fromkeys(f"{v:.4g}" for v in noisy.pixel_size)
            parts.append(f"{' x '.join(sizes)}\N{NO-BREAK SPACE}{shown_unit(noisy.unit)}")
        self.shape.setText(" · ".join(parts))
        return noisy

    # ---------------------------------------------------------------- the whole check

    def _known_or_later(self, inputs: PairInputs) -> str:
        """Show the findings of the whole check, or start it soon; return why not to train, if known."""
        found = self._found
        if found is None or found.key != inputs.key():
            self._check_later.start()
            return ""
        self.note.say(*found.notes)
        forecast = found.forecast
        few = forecast is not None and forecast.level(inputs.settings.alpha) != "info"
        self.add_scenes.setVisible(few)
        if forecast is not None and few and forecast.better_split:
            self.use_checkerboard.setText(f"Checkerboard split: about {forecast.checkerboard} blocks")
            self.use_checkerboard.show()
        moved = found.shift is not None and max(abs(v) for v in found.shift) > _MOVED_PX
        offer = self._offer_of(inputs)
        wanted = None if offer is None else offer.settings
        if wanted is not None and wanted != inputs.settings.supervision_settings:
            self.mask_along.setText(f"Mask {_ALONG[wanted.struct_n2v_axes]}")
            self.mask_along.show()
        self.align.setVisible(moved and self.clean.layer is not None and inputs.quick_to_read)
        if not found.reason:
            self._prepare(inputs)  # again, if the workers have stopped since
        return found.reason

    def _prepare(self, inputs: PairInputs) -> None:
        """Start the workers before the user clicks Train; they stop when unused."""
        if time.monotonic() - self._prepared < _PREPARE_EVERY or "prepare" in self._lifetime.runs:
            return
        self._prepared = time.monotonic()
        device = self._session.device

        def step() -> Step[None]:
            """Start workers and load libraries; a step."""
            load_ahead()
            yield Progress(0, 1, "Preparing")
            engine.prepare(engine.compute_on(device, inputs.settings))

        def over(result: object) -> None:
            """Leave an error to the training, which says it if it is still there."""

        self._lifetime.start("prepare", step, over, over, title="starting workers")

    def _start_check(self) -> None:
        """Run the whole check (registration, split) in a thread."""
        inputs = self.inputs
        if inputs is None or "work" in self._lifetime.runs:
            return
        self._prepare(inputs)
        if self._lifetime.runs.keys() & {"check", "prepare"}:
            # only one thread at a time may load libraries
            self._check_later.start()
            return

        def step() -> Step[Outlook]:
            """Check the pair; a step."""
            load_ahead()
            yield Progress(0, 1, "Checking")
            return engine.plan_of(inputs.pair, inputs.settings, inputs.regions)

        def found(plan: Outlook) -> None:
            """Keep the findings."""
            both = inputs.noisy, inputs.clean
            own = () if both[0] is None or both[1] is None else unlike_pixels(both[0], both[1])
            said = (
                *((note.level, note.text) for note in plan.notes),
                plan.forecast.note(inputs.settings.alpha),
            )
            notes = (*own, *sorted(said, key=lambda note: _LEVELS.index(note[0])))
            self._found = _Found(
                inputs.key(), notes, shift=plan.shift, start=plan.start, forecast=plan.forecast
            )
            self.changed.emit()

        def failed(error: Exception) -> None:
            """Keep the error."""
            text = sentence_of(error)
            self._found = _Found(inputs.key(), (("red", text),), text)
            self.changed.emit()

        self._lifetime.start("check", step, found, failed, title="checking images")

    def _on_user_align(self) -> None:
        """Add a copy of clean, moved onto noisy, and pick it."""
        from napari_btn.core.data.registration import align

        inputs, layer, found = self.inputs, self.clean.layer, self._found
        if inputs is None or inputs.clean is None or layer is None or found is None or found.shift is None:
            return
        added = self._viewer.add_image(
            align(inputs.clean.data, inputs.clean.axes, found.shift),
            name=f"{layer.name} aligned",
            metadata=dict(layer.metadata),
            colormap=layer.colormap,
            rgb=False,
            **inputs.clean.placement.onto(inputs.clean.axes).to_layer(),
        )
        self.clean.pick(added)
        self.clean.by_user = True

    def _on_user_adds_scenes(self) -> None:
        """Let several layers or files be picked as different fields."""
        for picker in (self.noisy, self.clean):
            if picker.layers:
                picker.pick_many(picker.layers, "different fields")
        self.noisy.note.say(("info", _SCENES_HELP))

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        for note in (self.noisy.note, self.clean.note, self.noise_model.note, self.note):
            note.redraw()


def _ways_of(inputs: PairInputs, *, simulate: bool) -> tuple[Offer, ...]:
    """Return the ways to learn from a noisy and a clean image, or from a clean one alone, by their shapes."""
    how, offers = inputs.settings.supervision_settings, None
    if inputs.noisy is not None and inputs.clean is not None:
        inputs = replace(inputs, clean=in_order_of(inputs.noisy.axes, inputs.clean))
        offers = drain(engine.offers_steps(inputs.pair, inputs.settings, values=False))
    made: tuple[Offer, ...] = engine.simulation_offers(how, offers, permitted=simulate)
    return made


def _is_apart(layer: ImageLayer) -> bool:
    """Return True for the truth of a sample, and where the name says dark frame or flat field."""
    name = layer.name.lower()
    return TRUTH in layer.metadata or (
        name.startswith(("dark", "flat")) and not any(n in name for n in _NOISY_NAMES)
    )


def _offers_key(inputs: PairInputs) -> tuple[Any, ...]:
    """Return a key of all that the ways to learn depend on."""
    return (
        arrays_of(inputs.pair),
        inputs.image.axes,
        repr(inputs.settings.supervision_settings),
        inputs.masks_key,
    )
