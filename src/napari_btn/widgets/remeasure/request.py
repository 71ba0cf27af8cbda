"""The score and the windows that the form of the Re-measure dock asks for."""

from __future__ import annotations

from dataclasses import replace
from math import floor, log10, prod
from typing import TYPE_CHECKING

from napari_btn.core.calibration.dose import dose_of
from napari_btn.core.data.image import shown_unit
from napari_btn.session import Threshold
from napari_btn.widgets.shared.thresholds import first_threshold, has_levels
from napari_btn.workflow.search import Choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.calibration.dose import Dose
    from napari_btn.session import Session
    from napari_btn.widgets.remeasure.field import Field
    from napari_btn.widgets.remeasure.view import RemeasureView

__all__ = ["NOTHING_YET", "Request"]

NOTHING_YET = "Nothing is denoised yet. Train in the Denoise dock, or apply loaded networks to a layer there."
_ALL = -1
_NO_LEVELS = (
    "These maps have no calibrated quantiles, so nothing is known about a threshold. Choose another score."
)


class Request:
    """The score and the windows that are asked for.

    Parameters
    ----------
    view : RemeasureView
        Form with the controls.
    session : Session
        Shares the threshold with other docks.
    changed : callable
        Called when the windows change.
    rescore : callable
        Called when the score changes.
    """

    def __init__(
        self,
        view: RemeasureView,
        session: Session,
        changed: Callable[[], None],
        rescore: Callable[[], None],
    ) -> None:
        self._view, self._session = view, session
        self._changed, self._rescore = changed, rescore
        self._field: Field | None = None
        self.asked = Threshold((0.0,))
        """Thresholds of the channels."""
        self._sized = self._picked = False
        self._unit_size: tuple[float, float] = (1.0, 1.0)
        view.score.currentIndexChanged.connect(self._on_user_score)
        view.channel.currentIndexChanged.connect(self._on_user_choice)
        view.threshold.valueChanged.connect(self._on_user_threshold)
        for box in (view.window_height, view.window_width, view.window_depth):
            box.valueChanged.connect(self._on_user_window)
        view.margin.valueChanged.connect(self._on_user_margin)
        view.window_unit.currentIndexChanged.connect(self._on_user_unit)

    def show(self, field: Field | None) -> None:
        """Offer the channels, units and a window of another image.

        Parameters
        ----------
        field : Field, optional
            The image; None for no image.
        """
        self._field = field
        if field is None:
            return
        self.asked = first_threshold(field.prediction, self._session.threshold)
        view = self._view
        parts = (view.score, view.channel, view.window_unit, view.window_height, view.window_width)
        for part in parts:
            part.blockSignals(True)
        self._offer_channels(field)
        if not self._picked:
            best = "ambiguity" if has_levels(field.prediction) else "width"
            view.score.setCurrentIndex(view.score.findData(best))
        unit = field.frame.unit
        view.until.setSuffix(
            f" {shown_unit(unit)}{'²' if len(field.frame.pixel_size) == 2 else '³'}"
            if unit != "px"
            else " px"
        )
        units = ["px"] if unit == "px" else ["px", shown_unit(unit)]
        if [view.window_unit.itemText(i) for i in range(view.window_unit.count())] != units:
            view.window_unit.clear()
            view.window_unit.addItems(units)
            self._unit_size = (1.0, 1.0)
            self._show_decimals()
        if not self._sized:
            sides = (view.window_height, view.window_width)
            for box, n in zip(sides, field.frame.shape[-2:], strict=True):
                box.setValue(max(1, min(64, n // 4)))
        for part in parts:
            part.blockSignals(False)

    def _offer_channels(self, field: Field) -> None:
        """Offer each channel, and all of them combined."""
        names, combo = field.channel_names, self._view.channel
        offered = [("all channels combined", _ALL)] if len(names) > 1 else []
        offered += [(name, c) for c, name in enumerate(names)]
        before = combo.currentText()
        combo.clear()
        for name, c in offered:
            combo.addItem(name, c)
        looked_at = self._session.threshold is not None and len(names) > 1
        combo.setCurrentIndex(self.asked.channel + 1 if looked_at else 0)
        if before in [name for name, _ in offered]:
            combo.setCurrentText(before)

    def show_state(self) -> None:
        """Show the controls that apply to the image."""
        field, view = self._field, self._view
        for part in (view.score, view.channel, view.threshold, view.window_unit):
            part.setEnabled(field is not None)
        boxes = (view.window_height, view.window_width, view.window_depth, view.count, view.margin)
        for box in boxes:
            box.setEnabled(field is not None)
        view.show_row(view.window_depth, field is not None and "Z" in field.frame.space)
        self._show_threshold()
        self._show_pixels()

    def take_threshold(self, asked: Threshold | None) -> None:
        """Take the threshold that another dock, or a script, has set.

        Parameters
        ----------
        asked : Threshold, optional
            Of the session.
        """
        if self._field is None or asked is None or len(asked.values) != len(self.asked.values):
            return
        if asked.values != self.asked.values:
            self.asked = asked
            self._choose()

    def choice(self, scene: int = 0) -> Choice:
        """Return the score that is chosen, for a scene."""
        kind, c = str(self._view.score.currentData()), self._view.channel.currentData()
        channels = tuple(range(len(self.asked.values))) if c in (None, _ALL) else (int(c),)
        asked = tuple(self.asked.values[k] for k in channels) if kind == "ambiguity" else ()
        return Choice(kind, channels, asked, scene)

    def window(self) -> tuple[int, ...]:
        """Return the size of a window in pixels."""
        boxes = (self._view.window_height, self._view.window_width)
        sides = tuple(max(1, round(b.value() / p)) for b, p in zip(boxes, self._unit_size, strict=True))
        volume = self._field is not None and "Z" in self._field.frame.space
        return (self._view.window_depth.value(), *sides) if volume else sides

    def until(self) -> float | None:
        """Return the wrongly decided area in pixels that is small enough; None for all windows."""
        area = self._view.until.value()
        if self._field is None or not area or self._view.score.currentData() != "ambiguity":
            return None
        return float(area / prod(self._field.frame.pixel_size))

    def dwell(self) -> float | None:
        """Return the mean dwell of the windows, in dwells of the noisy image; None if they count as decided."""
        dwell = float(self._view.mean_dwell.value())
        return dwell if dwell and self._view.score.currentData() == "ambiguity" else None

    def dose(self) -> Dose | None:
        """Return the dose of the noisy image, if windows have a dwell.

        Raises
        ------
        ValueError
            If it can't be found from the held-out pixels.
        """
        if self._field is None or self.dwell() is None:
            return None
        held_out = self._field.prediction.held_out
        if held_out is None:
            raise ValueError(
                "These maps have no held-out scores, so the effect of a dwell is unknown. Set Dwell to "
                '"without error", or denoise the image again.'
            )
        return dose_of(held_out)

    @property
    def possible(self) -> bool:
        """True if the chosen score can be made of the image."""
        field = self._field
        if field is None:
            return False
        return self._view.score.currentData() != "ambiguity" or has_levels(field.prediction)

    def problem(self) -> str:
        """Return why nothing can be proposed, in one sentence; empty if something can."""
        if self._field is None:
            return NOTHING_YET
        if not self.possible:
            return _NO_LEVELS
        frame = self._field.frame
        window, margin = self.window(), self._view.margin.value()
        if any(w + 2 * margin > n for w, n in zip(window, frame.shape, strict=True)):
            sizes = (" x ".join(str(n) for n in side) for side in (window, frame.shape))
            text = "The window is {} px, the image only {} px".format(*sizes)
            return f"{text}{f', with margins of {margin} px' * bool(margin)}. Choose a smaller window."
        return ""

    def _show_threshold(self) -> None:
        """Show the threshold of the channel, or those of all channels."""
        field = self._field
        choice = self.choice()
        for row in (self._view.threshold_row, self._view.until, self._view.mean_dwell):
            self._view.show_row(row, choice.kind == "ambiguity" and field is not None)
        if field is None or choice.kind != "ambiguity":
            return
        one = len(choice.channels) == 1
        self._view.threshold.setVisible(one)
        names = field.channel_names
        pairs = [f"{names[c]} > {t:.4g}" for c, t in zip(choice.channels, choice.thresholds, strict=True)]
        self._view.thresholds.setText("" if one else ",  ".join(pairs))
        self._view.thresholds.setVisible(not one)
        if one:
            value = choice.thresholds[0]
            size = abs(value) or 1.0
            self._view.threshold.blockSignals(True)
            self._view.threshold.setDecimals(min(max(3 - floor(log10(size)), 2), 12))
            self._view.threshold.setSingleStep(size / 20)
            self._view.threshold.setValue(value)
            self._view.threshold.blockSignals(False)

    def _show_pixels(self) -> None:
        """Show the window's size in the other unit."""
        frame = None if self._field is None else self._field.frame
        if frame is None or frame.unit == "px":
            self._view.show_row(self._view.pixels, False)
            return
        self._view.show_row(self._view.pixels, True)
        sides = self.window()[-2:]
        if self._view.window_unit.currentIndex() == 1:
            self._view.pixels.setText("= {} x {} px".format(*sides))
        else:
            lengths = (f"{n * p:.4g}" for n, p in zip(sides, frame.pixel_size[-2:], strict=True))
            self._view.pixels.setText("= {} x {} {}".format(*lengths, shown_unit(frame.unit)))

    def _show_decimals(self) -> None:
        """Set decimals and steps of the boxes to about a pixel."""
        for box, step in zip(
            (self._view.window_height, self._view.window_width), self._unit_size, strict=True
        ):
            box.setDecimals(0 if step == 1.0 else min(max(2 - floor(log10(step)), 0), 9))
            box.setSingleStep(step * 8)

    def _on_user_choice(self, index: int) -> None:
        """Use another score or channel."""
        del index
        self._choose()

    def _on_user_score(self, index: int) -> None:
        """Use another score, and keep it for other images."""
        self._picked = True
        self._on_user_choice(index)

    def _on_user_threshold(self, value: float) -> None:
        """Set another threshold, for all docks."""
        (c,) = self.choice().channels
        values = list(self.asked.values)
        values[c] = value
        self.asked = replace(self.asked, values=tuple(values), channel=c)
        self._session.threshold = self.asked
        self._choose()

    def _on_user_window(self, value: object) -> None:
        """Use another size."""
        del value
        self._sized = True
        self._changed()

    def _on_user_unit(self, index: int) -> None:
        """Show the same size in another unit."""
        sides = self.window()[-2:]
        if self._field is None or index < 0:
            return
        size = self._field.frame.pixel_size[-2:]
        self._unit_size = (size[0], size[1]) if index == 1 else (1.0, 1.0)
        self._show_decimals()
        for box, n, p in zip(
            (self._view.window_height, self._view.window_width), sides, self._unit_size, strict=True
        ):
            box.blockSignals(True)
            box.setValue(n * p)
            box.blockSignals(False)
        self._changed()

    def _on_user_margin(self, margin: int) -> None:
        """Check the windows with another margin."""
        del margin
        self._changed()

    def _choose(self) -> None:
        """Report a change of the score."""
        self._changed()
        self._rescore()
