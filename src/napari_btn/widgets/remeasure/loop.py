"""The loop of the Re-measure dock: what was measured in the windows trains, and the maps are made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.remeasure.scores import width_outside
from napari_btn.widgets.remeasure.editor import RegionEditor
from napari_btn.widgets.remeasure.measured import continue_steps, measured_in
from napari_btn.widgets.shared.layers import read_layer
from napari_btn.widgets.shared.overlays import placement_of
from napari_btn.widgets.shared.results import show_prediction
from napari_btn.widgets.shared.worker import run_step, sentence_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image
    from napari_btn.core.remeasure.regions import Region
    from napari_btn.widgets.remeasure.measured import Round

__all__ = ["RegionLoop"]


class RegionLoop(RegionEditor):
    """The Re-measure dock with what was measured again.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.loop.put_wanted.connect(self._on_user_put)
        self.loop.go_wanted.connect(self._on_user_continue)
        for picker in (self.loop.measured, self.loop.noisy, self.loop.clean):
            picker.changed.connect(self._show_loop)

    @property
    def _busy(self) -> bool:
        """Whether a search or a training runs."""
        return bool({"propose", "continue"} & set(self._runs))

    def _show_state(self) -> None:
        """Show what can be done, and why not."""
        raise NotImplementedError

    def _offer_layers(self) -> None:
        """Offer the image layers to the pickers."""
        from napari.layers import Image

        self.loop.offer([layer for layer in self.viewer.layers if isinstance(layer, Image)])
        self._show_loop()

    def _windows(self) -> list[tuple[Region, NDArray[np.float32]]]:
        """Windows that were measured again, as they lie."""
        return [(r, self._measured[self._key(r)]) for r in self._regions if self._key(r) in self._measured]

    def _show_loop(self) -> None:
        """Show what can be done with what was measured."""
        self.loop.show_state(windows=len(self._windows()), put=bool(self._regions), busy=self._busy)

    def _on_user_put(self) -> None:
        """Put the picked image into the selected windows, or into all that it fits."""
        frame, layer = self._frame, self.loop.measured.layer
        if frame is None or not self._regions:
            return
        model = self.table.selectionModel()
        rows = sorted(index.row() for index in model.selectedRows()) if model is not None else []
        chosen = [self._regions[row] for row in rows] or list(self._regions)
        self.message.say()
        try:
            image = self.loop.measured.read()
            if image is None:
                return
            found = measured_in(image, chosen, frame.shape)
        except (ValueError, MemoryError) as error:
            self.message.say(("red", sentence_of(error)))
            return
        self._measured |= {self._key(chosen[k]): values for k, values in found.items()}
        if layer is not None and self._source is not None and image.shape[-2:] != frame.shape[-2:]:
            self._lay_down(layer, image.axes, chosen[next(iter(found))])
        self._read()
        self._show_table(self._regions, self._blank)
        self._show_loop()
        n = len(found)
        self.message.say(("info", f"'{image.name}' is in {n} {'window' if n == 1 else 'windows'}."))

    def _lay_down(self, layer: Any, axes: str, region: Region) -> None:
        """Show a patch where it was measured."""
        assert self._source is not None
        place = placement_of(self.viewer, self._source.name, axes)
        if place is None:
            return
        start = dict(zip("ZYX"[-len(region.start) :], region.start, strict=True))
        for key, value in place.cropped([start.get(a, 0) for a in axes]).to_layer().items():
            setattr(layer, key, value)

    def _on_user_continue(self) -> None:
        """Go on training with what was measured."""
        denoiser, source, frame, before = self.session.denoiser, self._source, self._frame, self._prediction
        windows = self._windows()
        self.message.say()
        self.loop.gain.say()
        try:
            training = self.loop.training()
        except ValueError as error:
            self.message.say(("red", sentence_of(error)))
            return
        if (
            denoiser is None
            or source is None
            or frame is None
            or before is None
            or training is None
            or not windows
        ):
            return
        layer = self._layer
        scene = frame.scene_of(np.asarray(layer.data[0])) if layer is not None else 0

        def done(made: Round) -> None:
            """Show what it gave."""
            self._runs.pop("continue", None)
            regions = [region for region, _ in windows]
            self._show_round(made, before, source, regions, scene)

        def failed(error: Exception) -> None:
            """Say what went wrong."""
            self.message.say(("red", f"Training did not go on. {sentence_of(error)}"))

        def finished() -> None:
            """Take the run down."""
            self._runs.pop("continue", None)
            self.progress.hide()
            self._show_state()

        self.progress.start("Continuing")
        self._runs["continue"] = run_step(
            lambda: continue_steps(denoiser, training, windows, source, scene),
            title="napari-btn: continuing",
            on_result=done,
            on_error=failed,
            on_progress=self.progress.tell,
            on_stopped=lambda: self.message.say(("info", "Stopped; the networks are as they were.")),
            on_finished=finished,
        )
        self._show_state()

    def _show_round(
        self, made: Round, before: Prediction, source: Image, regions: list[Region], scene: int
    ) -> None:
        """Keep the new networks, show their maps, and say what was gained."""
        training = self.session.training
        self.session.denoiser = made.denoiser
        self.session.training = training
        self.session.source = source
        self.session.prediction = made.prediction
        if source.name in self.viewer.layers:
            try:
                image = read_layer(self.viewer.layers[source.name])
            except ValueError:
                image = None
            if image is not None and sorted(image.axes) == sorted(made.prediction.axes):
                show_prediction(self.viewer, made.prediction, image)
        self.loop.gain.say(*_told(made, before, regions, scene))


def _told(made: Round, before: Prediction, regions: list[Region], scene: int) -> list[tuple[str, str]]:
    """What a round gained, in sentences."""
    old, new = (width_outside(p, regions, scene) for p in (before, made.prediction))
    gain = made.gain
    lines = [("info", "Mean width outside the windows, and on held-out pixels with their coverage:")]
    rows = zip(
        gain.after.channel_names,
        old,
        new,
        gain.before.width,
        gain.after.width,
        gain.after.coverage,
        strict=True,
    )
    for name, a, b, c, d, inside in rows:
        text = f"{name}: {a:.3g} → {b:.3g} ({b / a - 1:+.1%});  {c:.3g} → {d:.3g} ({d / c - 1:+.1%}), {inside:.1%}"
        lines.append(("info", text))
    return lines
