"""The form of the Uncertainty dock: its controls and their layout."""

from __future__ import annotations

from math import floor, log10

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_btn.core.calibration.maps import MAP_KINDS
from napari_btn.widgets.shared.notes import NoteLabel, Theme
from napari_btn.widgets.shared.panels import PercentBox, ScrollColumn, combo_box, push_button
from napari_btn.widgets.shared.report_panel import ReportPanel
from napari_btn.widgets.uncertainty.charts import CoverageChart, DensityChart, FilterChart, LineChart

__all__ = ["TABS", "UncertaintyView"]

TABS = ("line", "pixel", "coverage", "draws")
"""Names of the tabs, in their order."""
_STEPS = 1000
_WIDTH = 400  # of the toggles beside their title, before the style is known
_SURE = (0.5, 0.99)


class _SlidingBox(QWidget):
    """A slider with a box for the exact number beside it; the box takes numbers beyond the slider.

    Parameters
    ----------
    box : QDoubleSpinBox
        Holds the number.
    name : str
        Object name of the box, and accessible name of both.
    help_text : str
        Tooltip of both.
    """

    changed = Signal(float)
    """Emitted when the number changes, by hand or by a script."""

    def __init__(self, box: QDoubleSpinBox, name: str, help_text: str) -> None:
        super().__init__()
        self.box = box
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, _STEPS)
        self.slider.setObjectName(f"{name}_slider")
        box.setObjectName(name)
        box.setKeyboardTracking(False)
        box.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        box.setFixedWidth(80)
        for part in (box, self.slider):
            part.setToolTip(help_text)
            part.setAccessibleName(name.capitalize())
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.slider, 1)
        row.addWidget(box)
        self._low, self._high = 0.0, 1.0
        self.slider.valueChanged.connect(self._on_user_slider)
        box.valueChanged.connect(self._on_user_box)

    def set_range(self, low: float, high: float) -> None:
        """Set the range of the slider."""
        self._low, self._high = low, max(high, low + 1e-12)
        self._place()

    def show_value(self, value: float) -> None:
        """Show a number without a signal."""
        self.box.blockSignals(True)
        self.box.setValue(value)
        self.box.blockSignals(False)
        self._place()

    def _place(self) -> None:
        """Move the handle to the number."""
        share = (self.box.value() - self._low) / (self._high - self._low)
        self.slider.blockSignals(True)
        self.slider.setValue(round(_STEPS * min(max(share, 0.0), 1.0)))
        self.slider.blockSignals(False)

    def _on_user_slider(self, step: int) -> None:
        """Take the number of the handle."""
        self.box.blockSignals(True)
        self.box.setValue(self._low + step / _STEPS * (self._high - self._low))
        self.box.blockSignals(False)
        self.changed.emit(self.box.value())

    def _on_user_box(self, value: float) -> None:
        """Take a number that was typed, or set by a script."""
        self._place()
        self.changed.emit(value)


class UncertaintyView(QWidget):
    """The form of the Uncertainty dock.

    Parameters
    ----------
    theme : Theme
        Colours of the viewer.
    """

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._build_top()
        self._build_tabs()
        self._arrange()

    def _build_top(self) -> None:
        """Make the controls that are always in sight."""
        self.hint = NoteLabel(self._theme, "hint")
        self.drift = NoteLabel(self._theme, "drift")
        self.channel = combo_box(
            "channel", "Channel that this dock shows; it follows the slider of the viewer."
        )
        self.toggles: dict[str, QPushButton] = {}
        for kind in MAP_KINDS:
            if kind.added == "button":
                continue
            toggle = push_button(f"show_{kind.name}", kind.title, kind.caption)
            toggle.setCheckable(True)
            toggle.setAccessibleName(f"Show {kind.name}")
            toggle.setStyleSheet("QPushButton { padding: 3px 6px; }")
            self.toggles[kind.name] = toggle
        self.grid = push_button(
            "side_by_side", "Raw | median | width", "Show the noisy image beside the median and the width."
        )
        self.grid.setCheckable(True)
        value = QDoubleSpinBox()
        value.setRange(-1e12, 1e12)
        self.threshold = _SlidingBox(value, "threshold", "Value to exceed, in the unit of the median.")
        self.lock = push_button(
            "lock",
            "Lock",
            "Calibrate the probability map for this threshold alone. This can make it sharper, or worse for "
            "a rare phase. The slider can't be moved while the threshold is locked. The lock is saved with "
            "the networks.",
        )
        self.lock.setCheckable(True)
        self.lock.setAccessibleName("Lock the threshold")
        self.lock.setStyleSheet("QPushButton { padding: 3px 6px; }")
        sure = PercentBox()
        sure.setRange(0.01, 0.999)
        sure.setValue(0.75)
        self.confidence = _SlidingBox(
            sure,
            "confidence",
            "How sure it must be that the signal (after learning from noisy images: a noisy value) exceeds the "
            "threshold: pixels are outlined where its lower bound, at this confidence, lies above. It is aimed at "
            "on average over all pixels of images like the calibration data, not over the outlined ones, of "
            "which a larger share may be wrong. To aim at a share of wrong claims, select a set.",
        )
        self.confidence.set_range(*_SURE)
        self.select = QCheckBox("Select a set with wrong claims of about")
        self.select.setObjectName("select")
        self.select.setToolTip(
            "Outline a set of pixels that is claimed to exceed the threshold, instead of judging each pixel "
            "on its own. The set aims at this share of wrong claims on average over fields like the calibration "
            "data, where fields without claims count as 0. In a single field more may be wrong, above all of a "
            "rare phase; with few held-out blocks that have claims, often more than asked for. With too few of "
            "them, nothing is claimed."
        )
        self.select.setAccessibleName("Select a set, aiming at a share of wrong claims")
        self.level = PercentBox()
        self.level.setObjectName("false_discovery")
        self.level.setRange(0.001, 0.5)
        self.level.setValue(0.1)
        self.level.setFixedWidth(64)
        self.level.setToolTip(
            "Share of wrong claims to aim at, on average over fields like the calibration data. It is measured on the "
            "held-out blocks."
        )
        self.level.setAccessibleName("Share of wrong claims to aim at")
        self.caption = QLabel()
        self.caption.setObjectName("caption")
        self.caption.setWordWrap(True)
        self.caption.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.caption.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)

    def _build_tabs(self) -> None:
        """Make the parts of the tabs."""
        colours = self._theme.colours()
        self.line_cut = push_button(
            "line_cut",
            "Draw a line",
            "Add a line to the viewer; drag its ends, or draw another one. The values along it appear here.",
        )
        self.truth = combo_box(
            "truth",
            "Layer with the true signal of this field, if there is one; it is drawn as a dashed line.",
        )
        self.line_chart = LineChart(colours)
        self.line_chart.hide()
        self.line_note = NoteLabel(self._theme, "line_note")
        self.pixel = QLabel("Click a pixel in the viewer.")
        self.pixel.setObjectName("pixel")
        self.pixel.setToolTip(
            "P(> t) estimates the probability that the signal exceeds the threshold; after learning from noisy "
            "images, that a noisy value does. It is calibrated on average, not "
            "for this pixel. The conservative value counts one more held-out block against it, and decides if a pixel "
            "is outlined at a confidence."
        )
        self.pixel.setWordWrap(True)
        self.pixel.setTextFormat(Qt.TextFormat.RichText)
        self.pixel.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.pixel.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.density = DensityChart(colours)
        self.density.hide()
        self.filter = push_button(
            "filter",
            "Show its filter",
            "Show the weight of every noisy pixel in the median of the clicked one (its equivalent filter), "
            "as a layer and as pictures. While this is on, it follows the pixel: click another one, or hold "
            "Shift and drag.",
        )
        self.filter.setCheckable(True)
        self.filter.hide()
        self.filter_chart = FilterChart(colours)
        self.filter_chart.hide()
        self.filter_note = NoteLabel(self._theme, "filter_note")
        self.report = ReportPanel(self._theme)
        self.report.setObjectName("report")
        self.worst = NoteLabel(self._theme, "worst")
        self.missed_note = NoteLabel(self._theme, "missed_note")
        self.reliability = CoverageChart(colours)
        self.reliability.hide()
        self.second_frame = combo_box(
            "second_frame", "Another image of the same field: a second noisy frame, or the true signal."
        )
        self.check_second = push_button(
            "check_second",
            "Check coverage",
            "Measure the share of pixels of the picked image that lie inside the intervals. It must be of the kind "
            "that they cover: a noisy repeat only after training on noisy images, else a clean image.",
        )
        self.second_note = NoteLabel(self._theme, "second_note")
        self.missed = push_button(
            "miscoverage",
            "Show missed blocks",
            "Add a layer with the share of pixels of each held-out block that lie outside their "
            "intervals. Only for the image that was calibrated on.",
        )
        self._build_draws()
        self.tabs = QTabWidget()
        self.tabs.setObjectName("closer")
        self.tabs.setAccessibleName("Line cut, pixel, coverage and draws")

    def _build_draws(self) -> None:
        """Make the parts of the tab with draws."""
        self.draws_count = QSpinBox()
        self.draws_count.setObjectName("draws_count")
        self.draws_count.setAccessibleName("Number of draws")
        self.draws_count.setRange(1, 200)
        self.draws_count.setValue(20)
        self.draws_count.setToolTip("Number of plausible images to draw.")
        self.draw = push_button(
            "draw",
            "Draw images",
            "Draw plausible images (after learning from noisy images, noisy ones): each pixel has its calibrated "
            "distribution. How errors are correlated is estimated from held-out pixels, and is too weak at sharp "
            "edges. What changes from draw to draw is uncertain; what stays can still be wrong.",
        )
        self.draw_slider = QSlider(Qt.Orientation.Horizontal)
        self.draw_slider.setObjectName("draw_slider")
        self.draw_slider.setAccessibleName("Draw that is shown")
        self.draw_slider.setToolTip("Draw that the layer shows.")
        self.play = push_button("play", "Play", "Show one draw after another, as a movie.")
        self.play.setCheckable(True)
        self.statistic = combo_box(
            "statistic",
            "What is measured in each draw; t is the threshold. The range over the draws can't be "
            "computed from single pixels.",
        )
        self.statistic.addItems(["Area above t", "Grains above t", "Mean"])
        self.region = combo_box(
            "region",
            "Where it is measured: in the whole field, or where a Labels layer of the same shape is painted.",
        )
        self.region.addItems(["whole field"])
        self.measure = push_button(
            "measure",
            "Measure",
            "Measure it in 99 draws, for the channel and the threshold that are chosen above.",
        )
        self.draws_note = NoteLabel(self._theme, "draws_note")

    def _arrange(self) -> None:
        """Lay the parts out, small enough for a laptop."""
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(4)
        column.addWidget(self.hint)
        column.addWidget(self.drift)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setVerticalSpacing(4)
        form.addRow("Channel", self.channel)
        form.addRow("Show", self._rows_of_toggles())
        form.addRow("Threshold", self._row(self.threshold, self.lock))
        form.addRow("Confidence", self.confidence)
        column.addLayout(form)
        chosen = QHBoxLayout()
        chosen.addWidget(self.select, 1)
        chosen.addWidget(self.level)
        column.addLayout(chosen)
        column.addWidget(self.caption)
        cut = [self._row(self.line_cut, QLabel("Truth"), self.truth), self.line_note, self.line_chart]
        self.tabs.addTab(_page(*cut), "Line cut")
        self.tabs.addTab(
            _page(self.pixel, self.filter, self.filter_chart, self.filter_note, self.density), "Pixel"
        )
        self.tabs.addTab(
            _page(
                self.report,
                self.worst,
                self.reliability,
                self.missed,
                self.missed_note,
                self.second_frame,
                self.check_second,
                self.second_note,
            ),
            "Coverage",
        )
        self.tabs.addTab(
            _page(
                self._row(self.draws_count, self.draw, self.draw_slider, self.play),
                self._row(self.statistic, QLabel("in"), self.region, self.measure),
                self.draws_note,
            ),
            "Draws",
        )
        column.addWidget(self.tabs, 1)
        self.setMinimumWidth(max(self.minimumSizeHint().width(), _WIDTH))

    def _rows_of_toggles(self) -> QWidget:
        """Return two rows of toggles, with the grid beside them."""
        box = QWidget()
        rows = QVBoxLayout(box)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(2)
        kinds = list(self.toggles)
        rows.addWidget(self._row(*(self.toggles[k] for k in kinds[:5])))
        rows.addWidget(self._row(*(self.toggles[k] for k in kinds[5:]), self.grid))
        return box

    @staticmethod
    def _row(*parts: QWidget) -> QWidget:
        """Return a row of parts."""
        box = QWidget()
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(3)
        for part in parts:
            row.addWidget(part, 1 if isinstance(part, QComboBox | _SlidingBox | QSlider) else 0)
        row.addStretch(0)
        return box

    def set_threshold_range(self, low: float, high: float) -> None:
        """Set the range of the threshold's slider, in steps that its box can show."""
        span = max(high - low, 1e-12)
        self.threshold.box.setDecimals(min(max(3 - floor(log10(span)), 2), 12))
        self.threshold.box.setSingleStep(span / 100)
        self.threshold.set_range(low, high)

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        for part in (
            self.hint,
            self.drift,
            self.line_note,
            self.report,
            self.worst,
            self.missed_note,
            self.second_note,
            self.filter_note,
            self.draws_note,
        ):
            part.redraw()
        colours = self._theme.colours()
        for chart in (self.line_chart, self.density, self.reliability, self.filter_chart):
            chart.set_colours(colours)


def _page(*parts: QWidget) -> ScrollColumn:
    """Return a page of parts that scrolls where there is too little room."""
    page = QWidget()
    column = QVBoxLayout(page)
    column.setContentsMargins(4, 4, 4, 4)
    column.setSpacing(4)
    for part in parts:
        column.addWidget(part, 1 if isinstance(part, LineChart) else 0)
    # Takes the room of a hidden chart.
    column.addStretch(0 if any(isinstance(part, LineChart) for part in parts) else 1)
    return ScrollColumn(page)
