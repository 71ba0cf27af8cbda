"""The form that picks a noisy and a clean image, with axes, masks and notes on the pair."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any
from weakref import ref

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QVBoxLayout, QWidget

from napari_btn.core.progress import drain
from napari_btn.core.settings import SupervisionSettings
from napari_btn.core.supervision.registry import supervision_of
from napari_btn.widgets.denoise.noise_source import NoiseModelPicker
from napari_btn.widgets.denoise.pair_axes import PairAxes
from napari_btn.widgets.denoise.pair_check import SCENES_HELP, PairCheck
from napari_btn.widgets.denoise.pair_masks import PairMasks
from napari_btn.widgets.denoise.pairing import PairInputs, in_order_of
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.layers import TRUTH
from napari_btn.widgets.shared.opening import let_open
from napari_btn.widgets.shared.pickers import LayerPicker
from napari_btn.widgets.shared.results import is_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.layers import Image as ImageLayer

    from napari_btn.core.settings import EnsembleSettings
    from napari_btn.session import Session
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.shared.notes import Theme
    from napari_btn.workflow.offers import Offer

__all__ = ["PairForm"]

_NOISY_NAMES = ("noisy", "raw", "fast", "short", "low")
_CLEAN_NAMES = ("clean", "target", "slow", "long", "truth", "high")
_NO_NOISY = (
    "No noisy image is picked. Pick a layer, or open a file; or give a noise model, whose noise is added "
    "to clean images."
)
_NO_MODEL = (
    "No noise model is given. Open a file of one, or measure it: unfold Noise, and click Inspect noise, then Use for "
    "simulation."
)


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
        self._viewer = viewer
        self._drawn = False
        """True if noise is drawn on the clean image, whose axes are then those that are typed."""
        self.inputs: PairInputs | None = None
        """The pair and settings as last read; None where they won't do."""
        self.noise_model = NoiseModelPicker(theme, lifetime)
        self.axes = PairAxes()
        self.masks = PairMasks()
        self.check = PairCheck(
            theme,
            lifetime,
            session,
            wanted=lambda: self.inputs,
            changed=self.changed.emit,
            offered=self.offered.emit,
        )
        self._build(theme)
        for picker in (self.noisy, self.clean):
            lifetime.at_end(picker.leave)
            picker.changed.connect(self.changed)
            let_open(picker, self, viewer, lifetime)
        for mask in self.masks.pickers:
            lifetime.at_end(mask.leave)
            mask.changed.connect(self.changed)
        self.noise_model.changed.connect(self.changed)
        self.masks.repair.toggled.connect(lambda _: self.changed.emit())
        self.axes.letters.textChanged.connect(lambda _: self.changed.emit())
        self.axes.channels.textChanged.connect(lambda _: self.changed.emit())
        self.check.align.clicked.connect(self._on_user_align)
        self.check.mask_along.clicked.connect(self._on_user_mask_along)
        self.check.use_checkerboard.clicked.connect(lambda: self.split_wanted.emit("checkerboard"))
        self.check.add_scenes.clicked.connect(self._on_user_adds_scenes)

    def _build(self, theme: Theme) -> None:
        """Make the parts and lay them out."""
        self.noisy = LayerPicker("noisy", "The fast, noisy acquisition.", theme)
        self.clean = LayerPicker(
            "clean",
            "The slow, clean acquisition of the same field. It may be empty; a second noisy image of the "
            "field is possible, too.",
            theme,
            optional=True,
        )
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Noisy", self.noisy)
        form.addRow("Clean", self.clean)
        form.addRow("Noise model", self.noise_model)
        form.setRowVisible(self.noise_model, False)
        axes = QHBoxLayout()
        axes.addWidget(self.axes.letters)
        axes.addWidget(self.axes.guessed)
        axes.addWidget(self.axes.shape, 1)
        form.addRow("Axes", axes)
        form.addRow("Channels", self.axes.channels)
        self.form = form
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(form)
        layout.addWidget(self.check.note)
        check = self.check
        for row in ((check.align, check.mask_along), (check.use_checkerboard, check.add_scenes)):
            remedies = QHBoxLayout()
            for button in row:
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
        for mask in self.masks.pickers:
            mask.refresh(list(self._viewer.layers))
        own = [layer for layer in layers if not is_ours(layer) and not _is_apart(layer)]
        pickers = ((self.noisy, self.clean, _NOISY_NAMES), (self.clean, self.noisy, _CLEAN_NAMES))
        for by_name, (picker, other, names) in product((True, False), pickers):
            if not choose or picker.layers or picker.by_user:
                continue
            left = [layer for layer in own if layer not in other.layers]
            # at the start of a word: "slow" is not low
            word = re.compile(rf"(?<![a-z])({'|'.join(names)})")
            named = [layer for layer in left if word.search(layer.name.lower())]
            fitting = named if by_name else left if len(own) == 2 else []
            if fitting:
                picker.pick(fitting[0])

    def picked(self) -> dict[str, Any]:
        """Return names of the picked layers, axes and channel names, for `show_picked` of a later form."""
        pickers = {"noisy": self.noisy, "clean": self.clean}
        return {
            **{
                role: ([layer.name for layer in picker.layers], picker.stack_as.currentText())
                for role, picker in pickers.items()
            },
            "axes": self.axes.letters.text(),
            "channels": self.axes.channels.text(),
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
        self.axes.letters.setText(picked["axes"])
        self.axes.channels.setText(picked["channels"])

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
        self.inputs = None
        self.check.clear()
        self._give_up_guesses()
        noisy, clean = self.noisy.try_read(), self.clean.try_read()
        simulates = self._simulates(settings)
        alone = not self.noisy.layers and clean is not None
        known = self.noise_model.model is not None
        self.form.setRowVisible(self.noise_model, alone or simulates or known)
        self._drawn = drawn = clean is not None and (alone or simulates)
        if drawn and clean is not None:
            clean = self.axes.typed(clean, self.clean.layers)
        elif noisy is not None:
            noisy = self.axes.typed(noisy, self.noisy.layers)
        else:
            self.axes.clear()
        seen = clean if drawn else noisy
        self.form.setRowVisible(self.axes.channels, seen is not None and "C" in seen.axes)
        self.axes.guessed.setVisible(seen is not None and seen.axes_guessed)
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
            if noisy is not None and self.check.looking:
                hint = " What the noisy one permits alone is being checked…"
            self.check.note.say(("info", text + hint))
            return text
        try:
            inputs = self._checked(noisy, clean, settings())
        except ValueError as error:
            self.check.note.say(("red", str(error)))
            if known:
                # the clean image is of another field, as simulation has it
                self.offered.emit(engine.simulation_offers(SupervisionSettings(), None, permitted=True))
            return str(error)
        self.inputs = inputs
        self.offered.emit(_ways_of(inputs, simulate=known))
        return self.check.show(inputs)

    def _give_up_guesses(self) -> None:
        """Leave a picker empty whose layer, which nobody asked for, is in a stack of the other one."""
        for picker, other in ((self.noisy, self.clean), (self.clean, self.noisy)):
            stack = other.layers if len(other.layers) > 1 else []
            if not picker.by_user and any(layer in stack for layer in picker.layers):
                blocked = picker.blockSignals(True)
                picker.pick(None)
                picker.blockSignals(blocked)

    def noisy_image(self) -> LayerImage | None:
        """Return the picked noisy image with the axes that are typed; None if none is picked or can be read."""
        noisy = self.noisy.try_read()
        return noisy if noisy is None or self._drawn else self.axes.typed(noisy, self.noisy.layers)

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
                self.check.note.say(("info", text))
                return text
            inputs = PairInputs(
                None,
                clean,
                wanted,
                None if layer is None else ref(layer),
                *self.masks.over(clean),
                self.masks.detector(clean),
                model,
                noisy,
            )
            inputs.check(values=False)
        except ValueError as error:
            self.check.note.say(("red", str(error)))
            return str(error)
        if supervision_of(wanted.supervision).simulated:
            # else the offer has just changed it, and all is read again
            self.inputs = inputs
            return self.check.show(inputs)
        return _NO_NOISY

    def _read_alone(self, noisy: LayerImage, settings: Callable[[], EnsembleSettings]) -> str | None:
        """Read a noisy image without a clean one; return None if the way to learn needs a clean one."""
        try:
            inputs = self._checked(noisy, None, settings())
        except ValueError as error:
            self.check.note.say(("red", str(error)))
            return str(error)
        self.check.find_offers(inputs)
        if not supervision_of(inputs.settings.supervision).alone:
            return None
        self.inputs = inputs
        return self.check.show(inputs)

    def _checked(self, noisy: LayerImage, clean: LayerImage | None, settings: EnsembleSettings) -> PairInputs:
        """Return the inputs after the checks that are quick."""
        layer = self.clean.layer
        clean = None if clean is None else in_order_of(noisy.axes, clean)
        inputs = PairInputs(
            noisy,
            clean,
            settings,
            None if layer is None else ref(layer),
            *self.masks.over(noisy),
            self.masks.detector(noisy),
        )
        inputs.check(values=not self.check.knows(inputs) and inputs.quick_to_read)
        return inputs

    # ---------------------------------------------------------------- remedies

    def _on_user_mask_along(self) -> None:
        """Ask for the masks that fit the noise."""
        offer = self.check.offer_of(self.inputs)
        if offer is not None:
            self.masks_wanted.emit(offer.settings)

    def _on_user_align(self) -> None:
        """Add a copy of clean, moved onto noisy, and pick it."""
        from napari_btn.core.data.registration import align

        inputs, layer, shift = self.inputs, self.clean.layer, self.check.shift
        if inputs is None or inputs.clean is None or layer is None or shift is None:
            return
        added = self._viewer.add_image(
            align(inputs.clean.data, inputs.clean.axes, shift),
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
        self.noisy.note.say(("info", SCENES_HELP))

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        for picker in (self.noisy, self.clean):
            picker.note.redraw()
            picker.matched.redraw()
        for note in (self.noise_model.note, self.check.note):
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
