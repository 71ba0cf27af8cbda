"""The form of the Denoise dock: its controls and their layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from napari_btn.core.compute.device import devices
from napari_btn.widgets.denoise.batch_panel import BatchPanel
from napari_btn.widgets.denoise.charts import LossChart
from napari_btn.widgets.denoise.compare_panel import ComparePanel
from napari_btn.widgets.denoise.noise_panel import NoisePanel
from napari_btn.widgets.denoise.scan_panel import ScanPanel
from napari_btn.widgets.denoise.training_form import TrainingForm
from napari_btn.widgets.shared.notes import LowScroll, NoteLabel
from napari_btn.widgets.shared.panels import ProgressPanel, ScrollColumn, fold, push_button
from napari_btn.widgets.shared.pickers import LayerPicker
from napari_btn.widgets.shared.report_panel import ReportPanel
from napari_btn.widgets.shared.sight import bring_into_sight

if TYPE_CHECKING:
    from napari_btn.widgets.denoise.pair_form import PairForm
    from napari_btn.widgets.shared.notes import Theme

__all__ = ["NOW_HELP", "TRAIN_HELP", "DenoiseView"]

TRAIN_HELP = "Train on the two images, calibrate, and add median and width of the interval as layers."
NOW_HELP = (
    "Denoise the noisy image at once with pretrained networks, which know only made-up images. There is no "
    "training and no clean image, so no interval is promised."
)
_CALIBRATE_HELP = (
    "Calibrate the trained networks on the pair that is picked above, which they never saw, instead of the "
    "held-out part of the field that they were trained on. Nothing is trained."
)

ADAPT_HELP = (
    "For noise or samples unlike those of the training: tune the networks (one factor for each of their "
    "channels) on the picked image, without a clean one, then denoise it. The calibration no longer holds "
    "then; calibrate again on a pair. Noise must be independent from pixel to pixel."
)
"""Tooltip of the button that adapts the networks."""


class DenoiseView(QWidget):
    """The form of the Denoise dock.

    Parameters
    ----------
    theme : Theme
        Colours of the viewer.
    pair : PairForm
        Where the two images are picked, shown on top.
    """

    def __init__(self, theme: Theme, pair: PairForm) -> None:
        super().__init__()
        self._theme, self.pair = theme, pair
        here = devices()
        shown = {name: name if name == "cpu" else f"{name}: {text}" for name, text in here.found}
        # with a GPU its name is enough; without one, the reason is shown
        self.form = TrainingForm({"auto": "auto", **shown}, f"No GPU: {here.reason}" if here.reason else "")
        self.form.add_advanced("Pixels that count", self.pair.masks.valid)
        self.form.add_advanced("Painted areas", self.pair.masks.regions)
        self.scan = ScanPanel(self._theme)
        self.form.add_below(self.scan)
        self.noise = NoisePanel(self._theme)
        self.noise_fold = fold(
            "noise_fold",
            "Noise",
            "Measure the noise of the noisy image, and see which training without a clean image it permits.",
            self.noise,
        )
        masks = self.pair.masks
        self.noise.add_repair(masks.repair, masks.dark, masks.flat, masks.defects, self.form.saturation)
        self.compare = ComparePanel(self._theme)
        self.compare_fold = fold(
            "compare_fold",
            "Compare",
            "Compare the trained networks with classical filters, and see if the networks are better.",
            self.compare,
        )
        self.batch = BatchPanel(self._theme)
        self.batch_fold = fold(
            "batch_fold",
            "Many files",
            "Apply the trained networks to several files or a folder, with a table of widths, coverage and notes.",
            self.batch,
        )
        self.estimate = QLabel()
        self.estimate.setObjectName("estimate")
        self.estimate.setWordWrap(True)
        self.estimate.setToolTip(
            "Rough estimate of the time and memory that training will take on this machine."
        )
        self.progress = ProgressPanel()
        self.message = NoteLabel(self._theme, "message")
        self.chart = LossChart(self._theme.colours())
        self.chart.hide()
        self.report = ReportPanel(self._theme)
        self.apply_to = LayerPicker(
            "apply_to", "Another image with the same channels, to denoise.", self._theme
        )
        self._buttons()
        self._arrange()

    def _buttons(self) -> None:
        """Make the buttons."""
        self.train = push_button("train", "Train", TRAIN_HELP)
        self.now = push_button("denoise_now", "Denoise now", NOW_HELP)
        self.pause = push_button("pause", "Pause", "Pause the work; the same button resumes it.")
        self.stop = push_button("stop", "Stop", "Stop the work. Networks that are finished are kept.")
        self.apply = push_button("apply", "Apply", "Denoise the picked layer with the trained networks.")
        self.adapt = push_button("adapt", "Adapt to this image", ADAPT_HELP)
        self.save = push_button(
            "save",
            "Save…",
            "Save networks, calibration and report as one file, or the recipe that repeats them and the maps (.json).",
        )
        self.load = push_button(
            "load",
            "Load…",
            "Load networks that were saved before, or repeat a recipe (.json) on the open images.",
        )
        self.recalibrate = push_button("recalibrate", "Recalibrate", "")
        self.recalibrate.hide()
        self.calibrate_on = push_button("calibrate_on", "Calibrate on this pair", _CALIBRATE_HELP)
        self.calibrate_on.hide()

    def _arrange(self) -> None:
        """Lay the parts out: settings scroll, buttons and progress stay in sight."""
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(6)
        column.addWidget(self.pair)
        column.addWidget(self.noise_fold)
        column.addWidget(_line())
        column.addWidget(self.form)
        column.addWidget(self.estimate)
        column.addWidget(self.chart)
        column.addWidget(self.report)
        column.addWidget(self.recalibrate)
        column.addWidget(self.calibrate_on)
        column.addWidget(_line())
        use = QFormLayout()
        use.setContentsMargins(0, 0, 0, 0)
        use.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        use.addRow("Apply to", self.apply_to)
        column.addLayout(use)
        column.addWidget(self.batch_fold)
        column.addWidget(self.compare_fold)
        column.addStretch(1)
        files = QHBoxLayout()
        for part in (self.apply, self.adapt, self.save, self.load):
            files.addWidget(part)
        run = QHBoxLayout()
        run.addWidget(self.train, 2)
        run.addWidget(self.now, 1)
        run.addWidget(self.pause, 1)
        run.addWidget(self.stop, 1)
        foot = QVBoxLayout()
        foot.setContentsMargins(4, 0, 4, 4)
        foot.setSpacing(4)
        foot.addWidget(LowScroll(self.message))
        foot.addWidget(self.progress)
        foot.addLayout(run)
        foot.addLayout(files)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self._settings = ScrollColumn(inside)
        layout.addWidget(self._settings, 1)
        layout.addLayout(foot)
        _in_one_column(self.pair.form, self.form.form, use)

    def show_report(self) -> None:
        """Scroll to the report, which comes below the settings and the loss curve."""
        if not self.report.isHidden():
            bring_into_sight(self.report)

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        for part in (
            self.pair,
            self.noise,
            self.scan,
            self.batch,
            self.compare,
            self.apply_to.note,
            self.message,
            self.report,
        ):
            part.redraw()
        self.chart.set_colours(self._theme.colours())


def _in_one_column(*forms: QFormLayout) -> None:
    """Align the fields of several forms."""
    labels = [
        item.widget()
        for form in forms
        for row in range(form.rowCount())
        if (item := form.itemAt(row, QFormLayout.ItemRole.LabelRole)) is not None
    ]
    width = max(label.sizeHint().width() for label in labels)
    for label in labels:
        label.setMinimumWidth(width)


def _line() -> QFrame:
    """Return a thin line between groups."""
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    line.setFrameShadow(QFrame.Shadow.Sunken)
    return line
