"""The loop of the Re-measure dock: train on what was measured in the windows, and denoise again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import shown_names
from napari_btn.core.remeasure.scores import width_outside
from napari_btn.widgets.remeasure.measured import continue_steps, measured_in
from napari_btn.widgets.remeasure.rectangles import place_of
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.layers import read_layer
from napari_btn.widgets.shared.overlays import placement_of
from napari_btn.widgets.shared.results import show_prediction
from napari_btn.widgets.shared.sight import bring_into_sight
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.remeasure.regions import Region
    from napari_btn.widgets.remeasure.editor import RegionEditor
    from napari_btn.widgets.remeasure.field import Field
    from napari_btn.widgets.remeasure.measured import Round
    from napari_btn.widgets.remeasure.rectangles import Measured
    from napari_btn.widgets.remeasure.view import RemeasureView
    from napari_btn.widgets.shared.dock import Dock
    from napari_btn.widgets.shared.placement import Placement

__all__ = ["RegionLoop"]

_UNFUSED = (
    "The windows that were fused are no longer in the maps: these are of the new networks, which learned from the same "
    "measurements. Don't fuse them again."
)


class RegionLoop:
    """Measured windows, and the training that goes on with them.

    Parameters
    ----------
    dock : Dock
        Gives viewer, session and lifetime.
    view : RemeasureView
        Form with the panel of what was measured.
    editor : RegionEditor
        Has the windows.
    measured : dict
        What was measured again, by the place of its window.
    changed : callable
        Called when a training starts or ends.
    """

    def __init__(
        self,
        dock: Dock,
        view: RemeasureView,
        editor: RegionEditor,
        measured: Measured,
        changed: Callable[[], None],
    ) -> None:
        self._viewer, self._session, self._lifetime = dock.viewer, dock.session, dock.lifetime
        self._view, self._panel, self._editor = view, view.loop, editor
        self._measured, self._changed = measured, changed
        self._field: Field | None = None
        self._panel.put_wanted.connect(self._on_user_put)
        self._panel.go_wanted.connect(self._on_user_continue)
        self._panel.fuse_wanted.connect(self._on_user_fuse)
        for picker in (self._panel.measured, self._panel.noisy, self._panel.clean):
            picker.changed.connect(self.show_state)

    def show(self, field: Field | None) -> None:
        """Work on another image.

        Parameters
        ----------
        field : Field, optional
            The image; None for no image.
        """
        self._field = field

    def offer_layers(self) -> None:
        """Offer the image layers to the pickers."""
        from napari.layers import Image

        self._panel.offer([layer for layer in self._viewer.layers if isinstance(layer, Image)])
        self.show_state()

    @property
    def busy(self) -> bool:
        """True while a search or a training runs."""
        return bool({"propose", "continue", "fuse"} & set(self._lifetime.runs))

    def show_state(self) -> None:
        """Enable the possible actions with the measured windows."""
        put = bool(self._editor.regions)
        self._panel.show_state(windows=len(self.windows()), put=put, busy=self.busy)

    def windows(self) -> list[tuple[Region, NDArray[np.float32]]]:
        """Return the windows that were measured again, at their present places."""
        return [
            (r, self._measured[place_of(r)]) for r in self._editor.regions if place_of(r) in self._measured
        ]

    def _on_user_put(self) -> None:
        """Put the picked image into the selected windows, or into all that it fits."""
        field, layer = self._field, self._panel.measured.layer
        if field is None or not self._editor.regions:
            return
        rows = self._editor.selected_rows()
        chosen = [self._editor.regions[row] for row in rows] or list(self._editor.regions)
        self._view.message.say()
        try:
            image = self._panel.measured.read()
            if image is None:
                return
            found = measured_in(image, chosen, field.frame.shape)
        except (ValueError, MemoryError) as error:
            self._view.message.say(("red", sentence_of(error)))
            return
        self._measured |= {place_of(chosen[k]): values for k, values in found.items()}
        if layer is not None and image.shape[-2:] != field.frame.shape[-2:]:
            place = placement_of(self._viewer, field.source.name, image.axes)
            _lay_down(layer, place, image.axes, chosen[next(iter(found))])
        self._editor.read()
        self._editor.show_table(self._editor.regions, self._editor.blank)
        self._changed()
        n = len(found)
        self._view.message.say(
            ("info", f"'{image.name}' was put into {n} {'window' if n == 1 else 'windows'}.")
        )

    def _on_user_fuse(self) -> None:
        """Combine the measured windows with the prediction."""
        field, windows, layer = self._field, self.windows(), self._editor.layer
        if field is None or not windows:
            return
        scene = field.frame.scene_of(np.asarray(layer.data[0])) if layer is not None else 0
        dwell = self._panel.dwell.value() or None
        before = self._editor.proposed_on([region for region, _ in windows])
        self._view.message.say()

        def done(prediction: Prediction) -> None:
            """Show the fused maps."""
            notes = [(note.level, note.text) for note in prediction.notes[len(field.prediction.notes) :]]
            self._session.prediction = prediction
            self._show_maps(prediction, field)
            n = len(windows)
            text = f"{n} {'window is' if n == 1 else 'windows are'} fused with the prediction."
            self._view.message.say(("info", text), *notes)
            over()

        def failed(error: Exception) -> None:
            """Show the error."""
            self._view.message.say(("red", f"Nothing was fused. {sentence_of(error)}"))
            over()

        def over() -> None:
            """Show that nothing runs."""
            self._view.progress.hide()
            self._changed()

        self._view.progress.start("Fusing")
        self._lifetime.start(
            "fuse",
            lambda: engine.fuse_steps(before, windows, dwell, scene),
            done,
            failed,
            title="Fusing",
            on_progress=self._view.progress.tell,
            on_stopped=over,
        )
        self._changed()

    def _on_user_continue(self) -> None:
        """Go on training with the measured windows."""
        model, field, windows = self._session.model, self._field, self.windows()
        self._view.message.say()
        self._panel.gain.say()
        try:
            training = self._panel.training()
        except ValueError as error:
            self._view.message.say(("red", sentence_of(error)))
            return
        if model is None or field is None or training is None or not windows:
            return
        layer, source, device = self._editor.layer, field.source, self._session.device
        scene = field.frame.scene_of(np.asarray(layer.data[0])) if layer is not None else 0

        def done(made: Round) -> None:
            """Show what was gained."""
            self._show_round(made, field, [region for region, _ in windows], scene)
            over()

        def failed(error: Exception) -> None:
            """Show the error."""
            self._view.message.say(("red", f"Training was not continued. {sentence_of(error)}"))
            over()

        def stopped() -> None:
            """Show that nothing changed."""
            self._view.message.say(("info", "Stopped. The networks were not changed."))
            over()

        def over() -> None:
            """Show that nothing runs."""
            self._view.progress.hide()
            self._changed()

        self._view.progress.start("Continuing")
        self._lifetime.start(
            "continue",
            lambda: continue_steps(model, training, windows, source, scene, device),
            done,
            failed,
            title="Continuing",
            on_progress=self._view.progress.tell,
            on_stopped=stopped,
        )
        self._changed()

    def _show_round(self, made: Round, field: Field, regions: list[Region], scene: int) -> None:
        """Keep the new networks, show their maps, and report the gain."""
        training, source = self._session.training, field.source
        self._session.model = made.model
        self._session.training = training
        self._session.source = source
        self._session.prediction = made.prediction
        self._show_maps(made.prediction, field)
        self._panel.gain.say(*_gained(made, field.prediction, regions, scene))
        bring_into_sight(self._panel.gain)
        if field.prediction.provenance.get("fused"):
            self._view.message.say(("amber", _UNFUSED))

    def _show_maps(self, prediction: Prediction, field: Field) -> None:
        """Show the maps of a prediction of the field, if its layer is still there."""
        source = field.source
        if source.name in self._viewer.layers:
            try:
                image = read_layer(self._viewer.layers[source.name])
            except ValueError:
                image = None
            if image is not None and sorted(image.axes) == sorted(prediction.axes):
                show_prediction(self._viewer, prediction, image)


def _lay_down(layer: Any, place: Placement | None, axes: str, region: Region) -> None:
    """Show a patch where it was measured."""
    if place is None:
        return
    start = dict(zip("ZYX"[-len(region.start) :], region.start, strict=True))
    for key, value in place.cropped([start.get(a, 0) for a in axes]).to_layer().items():
        setattr(layer, key, value)


def _gained(made: Round, before: Prediction, regions: list[Region], scene: int) -> list[tuple[str, str]]:
    """Return sentences on the gain of a round."""
    old, new = (width_outside(p, regions, scene) for p in (before, made.prediction))
    gain = made.gain
    lines = [("info", "Mean width outside the windows; then mean width and coverage on held-out pixels:")]
    rows = zip(
        shown_names(gain.after.channel_names),
        old,
        new,
        gain.before.width,
        gain.after.width,
        gain.after.coverage,
        strict=True,
    )
    for name, a, b, c, d, inside in rows:
        text = (
            f"{name}: {a:.3g} → {b:.3g} ({_percent(b / a)});  {c:.3g} → {d:.3g} ({_percent(d / c)}), "
            f"{100 * inside:.1f} %"
        )
        lines.append(("info", text))
    return lines


def _percent(ratio: float) -> str:
    """Return the change that a ratio means, in percent, without a negative zero."""
    return f"{round(100 * (ratio - 1), 1) + 0.0:+.1f} %"
