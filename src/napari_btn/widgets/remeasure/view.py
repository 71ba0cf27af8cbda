"""The form of the Re-measure dock: its controls and their layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_btn.core.data.image import shown_unit
from napari_btn.widgets.remeasure.stage_panel import StagePanel
from napari_btn.widgets.shared.masks import MaskPicker
from napari_btn.widgets.shared.notes import NoteLabel, Theme
from napari_btn.widgets.shared.panels import ProgressPanel, ScrollColumn, combo_box, push_button

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.core.remeasure.regions import Region
    from napari_btn.widgets.remeasure.measured import MeasuredPanel

__all__ = ["EXPORT_HELP", "PROPOSE_HELP", "UNMEASURED_HELP", "RemeasureView"]

_SCORES = {
    "ambiguity": (
        "undecided at the threshold",
        "How undecided it is whether the signal (after learning from noisy images: a noisy value) exceeds the "
        "threshold: 4 p (1 - p), which is 1 where the "
        "probability p of exceeding it is one half, and 0 where p is 0 or 1.",
    ),
    "width": (
        "width",
        "Width of the interval, which another measurement is expected to make smaller.",
    ),
    "relative width": (
        "relative width",
        "Width of the interval divided by the signal. Pixels darker than the brightest tenth of the "
        "image are divided by the lower limit of that tenth, so that empty background doesn't win.",
    ),
    "spread": (
        "spread between members",
        "How far the networks disagree. More data may settle that; where there is only noise, all of "
        "them are unsure alike.",
    ),
    "relative spread": (
        "spread / width",
        "Disagreement of the networks, divided by the width of the interval.",
    ),
}
PROPOSE_HELP = "Find the windows with the highest total score, and add them as rectangles that can be edited."
UNMEASURED_HELP = "Leave out the windows that were measured again; their pixels then have no score."
_AREA_HELP = (
    "Where windows are proposed: only the score inside the area counts. Paint it in a new Labels layer, or draw it "
    "in a new Shapes layer, and pick that here. A window may reach over the edge of the area."
)
EXPORT_HELP = "Write the rectangles as they are now: CSV table, GeoJSON (QuPath) or ImageJ ROIs."
_WIDTH = 400


class RemeasureView(QWidget):
    """The form of the Re-measure dock.

    Parameters
    ----------
    theme : Theme
        Colours of the viewer.
    loop : MeasuredPanel
        What was measured again, shown at the bottom.
    """

    def __init__(self, theme: Theme, loop: MeasuredPanel) -> None:
        super().__init__()
        self._theme, self.loop = theme, loop
        self._build_choice()
        self._build_window()
        self._build_results()
        self._arrange()

    def _build_choice(self) -> None:
        """Make the controls of the score."""
        self.hint = NoteLabel(self._theme, "hint")
        self.score = combo_box("score", "What makes a pixel worth another measurement.")
        for kind, (text, help_text) in _SCORES.items():
            self.score.addItem(text, kind)
            self.score.setItemData(self.score.count() - 1, help_text, Qt.ItemDataRole.ToolTipRole)
        self.channel = combo_box(
            "channel",
            "Channel that is scored. To combine all channels, each score is replaced by its rank; widths "
            "and spreads are divided by the mean of their channel.",
        )
        self.threshold = QDoubleSpinBox()
        self.threshold.setRange(-1e12, 1e12)
        self.threshold.setObjectName("threshold")
        self.threshold.setAccessibleName("Threshold")
        self.threshold.setKeyboardTracking(False)
        self.threshold.setToolTip(
            "Value to exceed, in the unit of the median; the same as in the Uncertainty dock."
        )
        self.thresholds = QLabel()
        self.thresholds.setObjectName("thresholds")
        self.thresholds.setWordWrap(True)
        self.thresholds.setToolTip(
            "Threshold of each channel. Set them in the Uncertainty dock, or here after picking a single "
            "channel."
        )
        self.thresholds.setAccessibleName("Thresholds of all channels")

    def _build_window(self) -> None:
        """Make the controls of the windows."""
        self.window_height = self._number(
            "window_height", "Height of a window (field of view), from top to bottom."
        )
        self.window_width = self._number(
            "window_width", "Width of a window (field of view), from left to right."
        )
        self.window_depth = QSpinBox()
        self.window_depth.setObjectName("window_depth")
        self.window_depth.setRange(1, 1_000_000)
        self.window_depth.setSuffix(" planes")
        self.window_depth.setToolTip("Number of planes in a window; 1 proposes single planes.")
        self.window_depth.setAccessibleName("Window depth in planes")
        self.window_unit = combo_box("window_unit", "Unit of the window's size.")
        self.window_unit.setMinimumContentsLength(2)
        self.count = QSpinBox()
        self.count.setObjectName("count")
        self.count.setRange(1, 1000)
        self.count.setValue(5)
        self.count.setToolTip("How many windows to propose; they don't overlap.")
        self.count.setAccessibleName("Number of windows")
        self.margin = QSpinBox()
        self.margin.setObjectName("margin")
        self.margin.setRange(0, 100_000)
        self.margin.setSuffix(" px")
        self.margin.setToolTip("Pixels kept free along the image's border, and between windows.")
        self.margin.setAccessibleName("Margin in pixels")
        self.until = QDoubleSpinBox()
        self.until.setObjectName("until")
        self.until.setRange(0, 1e12)
        self.until.setDecimals(1)
        self.until.setSpecialValueText("all windows")
        self.until.setKeyboardTracking(False)
        self.until.setToolTip(
            "Propose windows until the area of the image that is expected to be on the wrong side of the "
            "threshold is at most this."
        )
        self.until.setAccessibleName("Wrong area that is small enough")
        self.mean_dwell = QDoubleSpinBox()
        self.mean_dwell.setObjectName("mean_dwell")
        self.mean_dwell.setRange(0, 1e6)
        self.mean_dwell.setDecimals(1)
        self.mean_dwell.setSuffix(" x the image's dwell")
        self.mean_dwell.setSpecialValueText("without error")
        self.mean_dwell.setKeyboardTracking(False)
        self.mean_dwell.setToolTip(
            "Mean dwell time per pixel of the windows, as a multiple of that of the noisy image. It is "
            "shared out between the windows, step by step where it decides most; their noise is taken into "
            "account. 'without error': windows count as decided."
        )
        self.mean_dwell.setAccessibleName("Mean dwell of the windows")
        self.travel = QCheckBox("travel order")
        self.travel.setObjectName("travel_order")
        self.travel.setToolTip(
            "List proposed windows in an order with short ways of the stage, rather than the best first."
        )
        self.travel.setAccessibleName("Travel order")
        self.area = MaskPicker("area", _AREA_HELP, ("whole image",), ("Labels", "Shapes"))
        self.unmeasured = QCheckBox("not measured yet")
        self.unmeasured.setObjectName("unmeasured")
        self.unmeasured.setAccessibleName("Only what was not measured yet")
        self.unmeasured.setChecked(True)
        self.pixels = QLabel()
        self.pixels.setObjectName("window_pixels")
        self.problem = NoteLabel(self._theme, "problem")
        self.propose = push_button("propose", "Propose", PROPOSE_HELP)
        self.stop = push_button("stop", "Stop", "Stop the search; the rectangles stay as they are.")
        self.stop.hide()
        self.progress = ProgressPanel()

    def _build_results(self) -> None:
        """Make the table and the parts below it."""
        self.table = QTableWidget(0, 0)
        self.table.setObjectName("regions")
        self.table.setAccessibleName("Regions to measure again")
        self.table.setToolTip(
            "Select a row to go to its rectangle. The values change when you edit rectangles."
        )
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setAlternatingRowColors(False)
        self.table.setMinimumHeight(110)
        rows, heads = self.table.verticalHeader(), self.table.horizontalHeader()
        if rows is not None and heads is not None:
            rows.hide()
            rows.setDefaultSectionSize(24)
            heads.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
            heads.setStretchLastSection(True)
        self.summary = QLabel()
        self.summary.setObjectName("summary")
        self.summary.setWordWrap(True)
        self.summary.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.summary.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.export = push_button("export", "Export…", EXPORT_HELP)
        self.stage = StagePanel(self._theme)
        self.message = NoteLabel(self._theme, "message")

    def _arrange(self) -> None:
        """Lay the parts out, small enough for a laptop."""
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(4)
        column.addWidget(self.hint)
        self.form = QFormLayout()
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.form.setVerticalSpacing(4)
        self.form.addRow("Rank places by", self.score)
        self.form.addRow("Channel", self.channel)
        self.threshold_row = self._row(self.threshold, self.thresholds)
        self.form.addRow("Threshold", self.threshold_row)
        size = self._row(self.window_height, QLabel("x"), self.window_width, self.window_unit)
        self.form.addRow("Window", size)
        self.form.addRow("", self.pixels)
        self.form.addRow("Depth", self.window_depth)
        self.form.addRow("How many", self._row(self.count, self.travel))
        self.form.addRow("Wrong area up to", self.until)
        self.form.addRow("Dwell", self.mean_dwell)
        self.form.addRow("Margin", self.margin)
        self.form.addRow("Inside", self._row(self.area, self.unmeasured))
        column.addLayout(self.form)
        column.addWidget(self.problem)
        buttons = QHBoxLayout()
        buttons.addWidget(self.propose, 1)
        buttons.addWidget(self.stop)
        column.addLayout(buttons)
        column.addWidget(self.progress)
        column.addWidget(self.table, 1)
        column.addWidget(self.summary)
        column.addWidget(self.stage)
        column.addWidget(self.export)
        column.addWidget(self.loop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addWidget(ScrollColumn(inside), 1)
        layout.addWidget(self.message)
        self.setMinimumWidth(max(inside.minimumSizeHint().width(), _WIDTH))

    def show_row(self, part: QWidget, shown: bool) -> None:
        """Show or hide a row of the form, with its label."""
        part.setVisible(shown)
        label = self.form.labelForField(part)
        if label is not None:
            label.setVisible(shown)

    def show_regions(
        self, regions: Sequence[Region], unknown: Sequence[bool], measured: Sequence[bool]
    ) -> None:
        """Fill the table.

        Parameters
        ----------
        regions : sequence of Region
            One row each.
        unknown : sequence of bool
            True where a region's score isn't known.
        measured : sequence of bool
            True where it is known what was measured again; a column says so where there is any.
        """
        table = self.table
        unit = shown_unit(regions[0].unit) if regions else "px"
        per_unit = f" / {unit}" if unit else ""
        volume = bool(regions) and regions[0].z is not None
        heads = ["#", "score", "mean", f"size{per_unit}", f"centre y, x{per_unit}"]
        helps = [
            "Rank, or place in the travel order, when it was proposed; the viewer shows the same number.",
            "Sum of the score over the window, at its present place.",
            "Mean score of the pixels of the window.",
            "Height and width of the window.",
            "Centre of the window, measured from the outer corner of the first pixel.",
        ]
        if volume:
            heads.insert(3, "planes")
            helps.insert(3, "First and last plane, counted from 0.")
        if planned := any(r.dwell is not None for r in regions):
            heads.insert(3, "dwell")
            helps.insert(
                3,
                "Planned dwell time, as a multiple of that of the noisy image. Moving the rectangle removes "
                "it.",
            )
        if any(measured):
            heads.insert(1, "✓")
            helps.insert(1, "Marks windows that have a new measurement. Moving the rectangle removes it.")
        table.setColumnCount(len(heads))
        table.setRowCount(len(regions))
        for k, (head, text) in enumerate(zip(heads, helps, strict=True)):
            item = QTableWidgetItem(head)
            item.setToolTip(text)
            table.setHorizontalHeaderItem(k, item)
        for row, (region, blank) in enumerate(zip(regions, unknown, strict=True)):
            cells = _cells(row, region, blank, volume)
            if planned:
                cells.insert(3, "" if region.dwell is None else f"x {region.dwell:.3g}")
            if any(measured):
                cells.insert(1, "✓" if measured[row] else "")
            for k, text in enumerate(cells):
                item = QTableWidgetItem(text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                table.setItem(row, k, item)

    @staticmethod
    def _row(*parts: QWidget) -> QWidget:
        """Return a row of parts."""
        box = QWidget()
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        for part in parts:
            row.addWidget(part, 0 if isinstance(part, QLabel) else 1)
        return box

    @staticmethod
    def _number(name: str, help_text: str) -> QDoubleSpinBox:
        """Return a box for a size in pixels or in units."""
        made = QDoubleSpinBox()
        made.setObjectName(name)
        made.setRange(0.0, 1e9)
        made.setDecimals(0)
        made.setValue(64)
        made.setToolTip(help_text)
        made.setAccessibleName(name.replace("_", " ").capitalize())
        made.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        made.setKeyboardTracking(False)
        made.setMinimumWidth(64)
        return made

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        for part in (self.hint, self.problem, self.message, self.loop, self.stage):
            part.redraw()


def _cells(row: int, region: Region, blank: bool, volume: bool) -> list[str]:
    """Return the texts of one row of the table."""
    height, width = (n * p for n, p in zip(region.size[-2:], region.pixel_size[-2:], strict=True))
    y, x = region.centre[-2:]
    cells = [
        str(row + 1),
        "…" if blank else f"{region.score:.4g}",
        "…" if blank else f"{region.mean_score:.3g}",
    ]
    if volume and region.z is not None and region.depth is not None:
        last = region.z + region.depth - 1
        cells.append(str(region.z) if region.depth == 1 else f"{region.z} to {last}")
    return [*cells, f"{height:.4g} x {width:.4g}", f"{y:.4g}, {x:.4g}"]
