"""The tab with whole plausible images: a slider and a movie over draws, and statistics with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import noisy_sentence
from napari_btn.core.data.image import shown_amount, shown_names, shown_unit
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.overlays import map_layer
from napari_btn.widgets.shared.results import record_of
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.calibration.drawn import DrawnStatistic, Statistic
    from napari_btn.core.progress import Progress
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.shared.worker import Timing
    from napari_btn.widgets.uncertainty.focus import Focus
    from napari_btn.widgets.uncertainty.view import UncertaintyView

__all__ = ["DrawsTab"]

_FRAME_MS = 250
_STATISTIC_DRAWS = 99
_WHOLE = "whole field"
_NAMES: dict[str, Statistic] = {"Area above t": "area_above", "Grains above t": "grains", "Mean": "mean"}


class DrawsTab:
    """Draws of the prediction that is looked at, as one layer that a slider and a movie move through.

    Parameters
    ----------
    view : UncertaintyView
        Form with the controls.
    focus : Focus
        Prediction, channel and threshold.
    lifetime : Lifetime
        Of the dock.
    """

    def __init__(self, view: UncertaintyView, focus: Focus, lifetime: Lifetime) -> None:
        self._view, self._focus, self._lifetime = view, focus, lifetime
        self._draws: NDArray[np.float32] | None = None
        self._had_layer = False  # before another dock came to the front
        self._frame = lifetime.timer(_FRAME_MS, self._next)
        view.draw.clicked.connect(self._on_user_draw)
        view.draw_slider.valueChanged.connect(self._show)
        view.play.toggled.connect(self._on_user_play)
        view.measure.clicked.connect(self._on_user_measure)

    def forget(self) -> None:
        """Forget the draws of another prediction."""
        self._draws = None
        for run in ("draws", "statistic"):
            self._lifetime.drop(run)
        self._view.play.setChecked(False)
        self._view.draws_note.say()
        prediction = self._focus.prediction
        possible = prediction is not None and self._focus.live is not None and prediction.held_out is not None
        for part in (self._view.draw, self._view.measure):
            part.setEnabled(possible)
        self._enable_movie()

    def turn(self, in_front: bool) -> None:
        """Take the shown draw out of the viewer while another dock lies over this one, and bring it back.

        Parameters
        ----------
        in_front : bool
            True to bring it back.
        """
        layer = self._focus.layer("draw")
        if in_front and self._had_layer:
            self._show(self._view.draw_slider.value())
        if not in_front:
            self._view.play.setChecked(False)
            self._had_layer = layer is not None and self._draws is not None
            if layer is not None:
                self._focus.viewer.layers.remove(layer)

    def offer_regions(self) -> None:
        """Offer the painted layers of the viewer as regions."""
        picker, before = self._view.region, self._view.region.currentText()
        names = [_WHOLE, *(layer.name for layer in self._painted())]
        if names == [picker.itemText(i) for i in range(picker.count())]:
            return
        picker.blockSignals(True)
        picker.clear()
        picker.addItems(names)
        picker.setCurrentText(before if before in names else _WHOLE)
        picker.blockSignals(False)

    def _painted(self) -> list[Any]:
        """Return the layers of labels that a user painted over this field."""
        prediction = self._focus.prediction
        if prediction is None:
            return []
        from napari.layers import Labels

        space = self._space()
        return [
            layer
            for layer in self._focus.viewer.layers
            if isinstance(layer, Labels)
            and tuple(layer.data.shape[-len(space) :]) == space
            and "napari_btn" not in layer.metadata
        ]

    def _space(self) -> tuple[int, ...]:
        """Return the shape of the maps along their space axes."""
        prediction = self._focus.prediction
        assert prediction is not None
        size = dict(zip(prediction.axes, prediction.median.shape, strict=True))
        return tuple(int(size[a]) for a in "ZYX" if a in size)

    def _on_user_draw(self) -> None:
        """Draw in a thread, and show the first draw."""
        prediction, count = self._focus.prediction, self._view.draws_count.value()
        if prediction is None or "draws" in self._lifetime.runs:
            return

        def done(draws: NDArray[np.float32]) -> None:
            """Show them."""
            if self._focus.prediction is not prediction:
                return
            self._draws = draws
            self._view.draw_slider.blockSignals(True)
            self._view.draw_slider.setRange(0, len(draws) - 1)
            self._view.draw_slider.setValue(0)
            self._view.draw_slider.blockSignals(False)
            self._enable_movie()
            self._show(0)

        self._lifetime.start(
            "draws",
            lambda: engine.draws_steps(prediction, count),
            done,
            self._say_error,
            title="Drawing plausible images",
            on_progress=self._say,
        )

    def _enable_movie(self) -> None:
        """Enable slider and movie where there are draws."""
        for part in (self._view.draw_slider, self._view.play):
            part.setEnabled(self._draws is not None)

    def _show(self, number: int) -> None:
        """Show a draw in the layer."""
        prediction = self._focus.prediction
        if prediction is None or self._draws is None:
            return
        layer = self._focus.layer("draw")
        if layer is not None and layer.data.shape == self._draws[number].shape:
            layer.data = self._draws[number]
        else:
            active = self._focus.viewer.layers.selection.active
            layer = map_layer(
                self._focus.viewer, "draw", self._focus.name, self._draws[number], record_of(prediction)
            )
            median = self._focus.layer("median")
            if median is not None:
                # a draw is compared with the median, at the same contrast
                layer.contrast_limits = median.contrast_limits
            if active is not None and active in self._focus.viewer.layers:
                self._focus.viewer.layers.selection.active = active
        text = f"Draw {number + 1} of {len(self._draws)}: as plausible as the others."
        text = f"{text}{noisy_sentence(prediction.covers)}"
        self._view.draws_note.say(("info", text))

    def _on_user_play(self, playing: bool) -> None:
        """Start or stop the movie."""
        self._view.play.setText("Pause" if playing else "Play")
        if playing:
            self._next()
        else:
            self._frame.stop()

    def _next(self) -> None:
        """Show the next draw, and go on."""
        if self._draws is None or not self._view.play.isChecked():
            return
        slider = self._view.draw_slider
        slider.setValue((slider.value() + 1) % len(self._draws))
        self._frame.start()

    def _on_user_measure(self) -> None:
        """Measure the statistic over draws, in a thread."""
        prediction, asked, at = self._focus.prediction, self._focus.asked, self._focus.at()
        if prediction is None:
            return
        title, name = self._view.statistic.currentText(), self._view.region.currentText()
        size = dict(zip(prediction.axes, prediction.median.shape, strict=True))
        scene = at.get("S", 0) * size.get("T", 1) + at.get("T", 0)
        painted = next((layer for layer in self._painted() if layer.name == name), None)
        # a copy: the user may go on painting
        region = None if painted is None else np.array(self._plane(painted))
        channel = shown_names(prediction.channel_names)[asked.channel]

        def done(found: DrawnStatistic) -> None:
            """Show the interval."""
            share = f"{100 * (1 - found.alpha):.4g} %"
            above = "" if found.name == "mean" else f" (t = {asked.value:.4g})"
            median, lower, upper = (shown_amount(v) for v in (found.median, found.lower, found.upper))
            unit = f" {shown_unit(found.unit)}" if found.unit else ""
            text = (
                f"{title}{above}, {channel}, {name}: median {median}{unit}, and {lower} to {upper}{unit} in "
                f"{share} of {len(found.values)} draws. If whole grains are wrong together, the true value "
                f"lies outside more often.{noisy_sentence(found.covers)}"
            )
            self._view.draws_note.say(("info", text))

        self._lifetime.drop("statistic")
        self._lifetime.start(
            "statistic",
            lambda: engine.statistic_steps(
                prediction,
                _NAMES[title],
                channel=asked.channel,
                threshold=asked.value,
                region=region,
                scene=scene,
                n=_STATISTIC_DRAWS,
            ),
            done,
            self._say_error,
            title="The statistic of draws",
            on_progress=self._say,
        )

    def _plane(self, layer: Any) -> NDArray[Any]:
        """Return the painted area over the space axes, where the sliders stand."""
        extra = layer.ndim - len(self._space())
        if not extra:
            return np.asarray(layer.data)
        place = np.asarray(layer.world_to_data(self._focus.viewer.dims.point))[:extra]
        index = tuple(
            int(np.clip(round(float(v)), 0, n - 1)) for v, n in zip(place, layer.data.shape, strict=False)
        )
        return np.asarray(layer.data[index])

    def _say(self, progress: Progress, timing: Timing) -> None:
        """Show the progress of the draws."""
        del timing
        self._view.draws_note.say(("info", f"{progress.note} ({100 * progress.fraction:.0f} %)"))

    def _say_error(self, error: Exception) -> None:
        """Show the error."""
        self._view.draws_note.say(("red", sentence_of(error)))
