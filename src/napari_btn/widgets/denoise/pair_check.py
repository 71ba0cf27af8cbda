"""The checks of the picked pair in threads, the note on what they found, and the buttons that remedy it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QPushButton

from napari_btn.core.progress import Progress
from napari_btn.widgets.denoise.pairing import arrays_of, unlike_pixels
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.notes import NoteLabel
from napari_btn.widgets.shared.panels import push_button
from napari_btn.widgets.shared.worker import load_ahead, sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.calibration.forecast import Forecast
    from napari_btn.core.progress import Step
    from napari_btn.session import Session
    from napari_btn.widgets.denoise.pairing import PairInputs
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.shared.notes import Theme
    from napari_btn.workflow.fit import Outlook
    from napari_btn.workflow.offers import Offer
    from napari_btn.workflow.start import Origin

__all__ = ["SCENES_HELP", "PairCheck"]

SCENES_HELP = (
    "Several fields: tick the noisy layer of each field in the list, and the clean ones below in the same order. "
    "'Open file…' takes several files at once."
)
"""Tooltip of the button that adds scenes."""
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
    """The findings of the whole check, for the inputs with this key, which coverage and members are no part of."""

    key: tuple[Any, ...]
    notes: tuple[tuple[str, str], ...]
    unlike: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    wrong: str = ""
    shift: tuple[float, ...] | None = None
    origin: Origin | None = None
    forecast: Forecast | None = None


class PairCheck:
    """The checks of the picked pair that take a thread, with their note and the buttons that remedy.

    The form lays the note and the buttons out, and does what the buttons ask for.

    Parameters
    ----------
    theme : Theme
        Colours of the note.
    lifetime : Lifetime
        Of the dock.
    session : Session
        Gives the device.
    wanted : callable
        Returns the inputs as last read; None where they won't do.
    changed : callable
        Called when more is known of the pair.
    offered : callable
        Called with the ways to learn that the picked images permit, as tuple of Offer.
    """

    def __init__(
        self,
        theme: Theme,
        lifetime: Lifetime,
        session: Session,
        *,
        wanted: Callable[[], PairInputs | None],
        changed: Callable[[], None],
        offered: Callable[[tuple[Offer, ...]], None],
    ) -> None:
        self._lifetime, self._session = lifetime, session
        self._wanted, self._changed, self._offered = wanted, changed, offered
        self._found: _Found | None = None
        self._prepared = -_PREPARE_EVERY
        self._offers: tuple[tuple[Any, ...], tuple[Offer, ...]] | None = None
        self._asked: PairInputs | None = None
        self._check_later = lifetime.timer(_CHECK_AFTER_MS, self._start_check)
        self._offer_later = lifetime.timer(_CHECK_AFTER_MS, self._start_offers)
        self.note = NoteLabel(theme, "pair_note")
        self._buttons()

    def _buttons(self) -> None:
        """Make the buttons, hidden until a check asks for them."""
        self.align = QPushButton("Align")
        self.align.setObjectName("align")
        self.align.setToolTip("Add a copy of the clean layer that is moved onto the noisy one, and use it.")
        self.align.setAccessibleName("Align clean with noisy")
        self.mask_along = QPushButton("Mask along x")
        self.mask_along.setObjectName("mask_along")
        self.mask_along.setToolTip("Also mask the neighbours with which the noise is correlated.")
        self.mask_along.setAccessibleName("Mask along the correlated noise")
        self.use_checkerboard = push_button(
            "use_checkerboard",
            "Checkerboard split",
            "Hold out squares all over the field instead of one end of it. This gives more blocks, with "
            "more of its structures.",
        )
        self.add_scenes = push_button("add_scenes", "Add scenes", SCENES_HELP)
        self._hide_buttons()

    def _hide_buttons(self) -> None:
        """Hide all buttons."""
        for button in (self.align, self.mask_along, self.use_checkerboard, self.add_scenes):
            button.hide()

    def clear(self) -> None:
        """Say nothing, offer no remedy, and look for no ways to learn, before the layers are read again."""
        self._asked = None
        self._hide_buttons()
        self.note.say()

    # ---------------------------------------------------------------- what is known

    def _found_of(self, inputs: PairInputs | None) -> _Found | None:
        """Return the findings of the whole check of these inputs, if they are known."""
        found = self._found
        return found if inputs is not None and found is not None and found.key == inputs.key() else None

    def knows(self, inputs: PairInputs) -> bool:
        """Return True if the whole check of these inputs is done.

        Parameters
        ----------
        inputs : PairInputs
        """
        return self._found_of(inputs) is not None

    @property
    def start(self) -> str:
        """Return the start of the members as a sentence; empty until the images were checked."""
        inputs = self._wanted()
        found = self._found_of(inputs)
        if inputs is None or found is None or found.origin is None:
            return ""
        return found.origin.sentence(inputs.settings.members)

    @property
    def wrong(self) -> str:
        """Return what is wrong with the pair, as found by the whole check; empty if nothing is, or none was done."""
        found = self._found_of(self._wanted())
        return "" if found is None else found.wrong

    @property
    def shift(self) -> tuple[float, ...] | None:
        """Pixels by which clean lies off noisy, as last found; None if that is unknown."""
        return None if self._found is None else self._found.shift

    @property
    def looking(self) -> bool:
        """True while the ways to learn that the picked images permit are looked for."""
        return self._offer_later.isActive() or "offers" in self._lifetime.runs

    def offer_of(self, inputs: PairInputs | None) -> Offer | None:
        """Return what is known of the way to learn that is picked.

        Parameters
        ----------
        inputs : PairInputs, optional
        """
        if inputs is None or self._offers is None or self._offers[0] != _offers_key(inputs):
            return None
        return next((o for o in self._offers[1] if o.name == inputs.settings.supervision), None)

    def show(self, inputs: PairInputs) -> str:
        """Show the findings of the whole check, or start it soon; return why not to train, if known.

        Parameters
        ----------
        inputs : PairInputs
            Inputs that the quick checks let pass.
        """
        found = self._found_of(inputs)
        if found is None:
            self._check_later.start()
            return ""
        forecast, alpha = found.forecast, inputs.settings.alpha
        promised = () if forecast is None else (forecast.note(alpha),)
        said = sorted((*found.notes, *promised), key=lambda note: _LEVELS.index(note[0]))
        self.note.say(*found.unlike, *said)
        few = forecast is not None and forecast.level(alpha) != "info"
        self.add_scenes.setVisible(few)
        if forecast is not None and few and forecast.better_split:
            self.use_checkerboard.setText(f"Checkerboard split: about {forecast.checkerboard} blocks")
            self.use_checkerboard.show()
        moved = found.shift is not None and max(abs(v) for v in found.shift) > _MOVED_PX
        offer = self.offer_of(inputs)
        wanted = None if offer is None else offer.settings
        if wanted is not None and wanted != inputs.settings.supervision_settings:
            self.mask_along.setText(f"Mask {_ALONG[wanted.struct_n2v_axes]}")
            self.mask_along.show()
        self.align.setVisible(moved and inputs.clean_layer is not None and inputs.quick_to_read)
        if not found.reason:
            self._prepare(inputs)  # again, if the workers have stopped since
        return found.reason

    # ---------------------------------------------------------------- threads

    def find_offers(self, inputs: PairInputs) -> None:
        """Find the ways to learn that a noisy image alone permits, soon and in a thread, unless they are known.

        Parameters
        ----------
        inputs : PairInputs
            Inputs that the quick checks let pass.
        """
        self._asked = inputs
        if self._offers is None or self._offers[0] != _offers_key(inputs):
            self._offer_later.start()

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
            self._offered(offers)
            self._changed()

        def failed(error: Exception) -> None:
            """Show the error."""
            self.note.say(("red", sentence_of(error)))

        self._lifetime.start("offers", step, found, failed, title="checking images")

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
        inputs = self._wanted()
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
            self._found = _Found(
                inputs.key(),
                tuple((note.level, note.text) for note in plan.notes),
                own,
                wrong=" ".join(note.text for note in plan.notes if note.level == "red"),
                shift=plan.shift,
                origin=plan.origin,
                forecast=plan.forecast,
            )
            self._changed()

        def failed(error: Exception) -> None:
            """Keep the error."""
            text = sentence_of(error)
            self._found = _Found(inputs.key(), (("red", text),), reason=text)
            self._changed()

        self._lifetime.start("check", step, found, failed, title="checking images")


def _offers_key(inputs: PairInputs) -> tuple[Any, ...]:
    """Return a key of all that the ways to learn depend on."""
    return (
        arrays_of(inputs.pair),
        inputs.image.axes,
        repr(inputs.settings.supervision_settings),
        inputs.masks_key,
    )
