"""The controls of learning without clean images, among the settings that most people leave alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QSpinBox

from napari_btn.core.settings import FramesAlong, Repeats, StructAxes, SupervisionSettings
from napari_btn.widgets.shared.panels import field_help

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtWidgets import QWidget

__all__ = ["LearningFields"]


class LearningFields:
    """Controls of masks, thinnings, repeats and neighbouring frames.

    Parameters
    ----------
    named : callable
        Gives a widget its object name and tooltip, and returns it.
    """

    def __init__(self, named: Callable[[Any, str, str], Any]) -> None:
        texts, known = field_help(SupervisionSettings), SupervisionSettings()

        def make(widget: Any, name: str) -> Any:
            """Return the widget of a field."""
            return named(widget, name, texts[name])

        self.masked = make(QDoubleSpinBox(), "masked_pixel_percentage")
        self.masked.setRange(1, 25)
        self.struct_axes = make(QComboBox(), "struct_n2v_axes")
        self.struct_axes.addItems(list(get_args(StructAxes)))
        self.struct_span = make(QSpinBox(), "struct_n2v_span")
        self.struct_span.setRange(3, 49)
        self.roi = make(QSpinBox(), "roi_size")
        self.roi.setRange(3, 25)
        for box in (self.struct_span, self.roi):
            box.setSingleStep(2)
        self.strategy = make(QComboBox(), "strategy")
        self.strategy.addItems(["median", "uniform"])
        self.own_pixel = make(QCheckBox(), "own_pixel")
        self.thinnings = make(QSpinBox(), "thinnings")
        self.thinnings.setRange(1, 100)
        self.repeats = make(QComboBox(), "repeats")
        self.repeats.addItems(list(get_args(Repeats)))
        self.frames = make(QSpinBox(), "frames")
        self.frames.setRange(1, 7)
        self.frames.setSingleStep(2)
        self.frames_along = make(QComboBox(), "frames_along")
        self.frames_along.addItems(list(get_args(FramesAlong)))
        self.show_settings(known)

    @property
    def rows(self) -> tuple[tuple[str, QWidget], ...]:
        """Labels and controls, from above to below."""
        return (
            ("Masked (%)", self.masked),
            ("Mask neighbours", self.struct_axes),
            ("over (px)", self.struct_span),
            ("Filled from (px)", self.roi),
            ("Filled with", self.strategy),
            ("Pixel's own value", self.own_pixel),
            ("Random splits", self.thinnings),
            ("Repeats along", self.repeats),
            ("Frames seen", self.frames),
            ("along", self.frames_along),
        )

    def settings(self) -> SupervisionSettings:
        """Return the settings.

        Raises
        ------
        ValueError
            If a number is out of its range.
        """
        return SupervisionSettings.from_dict(
            {
                "masked_pixel_percentage": self.masked.value(),
                "roi_size": self.roi.value(),
                "strategy": self.strategy.currentText(),
                "struct_n2v_axes": self.struct_axes.currentText(),
                "struct_n2v_span": self.struct_span.value(),
                "own_pixel": self.own_pixel.isChecked(),
                "thinnings": self.thinnings.value(),
                "repeats": self.repeats.currentText(),
                "frames": self.frames.value(),
                "frames_along": self.frames_along.currentText(),
            }
        )

    def show_settings(self, known: SupervisionSettings) -> None:
        """Show settings of a model, or those that fit the noise.

        Parameters
        ----------
        known : SupervisionSettings
        """
        self.masked.setValue(known.masked_pixel_percentage)
        self.roi.setValue(known.roi_size)
        self.strategy.setCurrentText(known.strategy)
        self.struct_axes.setCurrentText(known.struct_n2v_axes)
        self.struct_span.setValue(known.struct_n2v_span)
        self.own_pixel.setChecked(known.own_pixel)
        self.thinnings.setValue(known.thinnings)
        self.repeats.setCurrentText(known.repeats)
        self.frames.setValue(known.frames)
        self.frames_along.setCurrentText(known.frames_along)
