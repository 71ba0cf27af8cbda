"""What the Denoise dock is made of, and how it is laid out; it does nothing yet."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_btn.widgets.charts import LossChart
from napari_btn.widgets.panels import NoteLabel, ProgressPanel, ReportPanel, Theme
from napari_btn.widgets.pickers import LayerPicker
from napari_btn.widgets.training_form import TrainingForm

__all__ = ["DenoiseView"]

TRAIN_HELP = "Train on the two images, calibrate, and add lower, median, upper and width as layers."


class DenoiseView(QWidget):
    """Parts of the Denoise dock.

    Parameters
    ----------
    viewer : napari.Viewer
        Gives the theme.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._theme = Theme(viewer)
        self._build()

    def _build(self) -> None:
        """Make the parts and lay them out."""
        self.setObjectName("napari_btn_denoise")
        self.noisy = LayerPicker("noisy", "The fast, noisy acquisition.", self._theme)
        self.clean = LayerPicker("clean", "The slow, clean acquisition of the same field.", self._theme)
        self.axes = QLineEdit()
        self.axes.setObjectName("axes")
        self.axes.setMaximumWidth(64)
        self.axes.setToolTip(
            "One letter per dimension of noisy: S scene or repeat, T time, C channel, Z Y X space. "
            "Clean has the same, or lacks S and T."
        )
        self.axes.setAccessibleName("Axes")
        self.guessed = QLabel("guessed")
        self.guessed.setObjectName("axes_guessed")
        self.guessed.setToolTip(
            "The layer doesn't name its axes; these are guessed from its shape. Correct them here."
        )
        self.shape = QLabel()
        self.shape.setObjectName("shape")
        self.shape.setWordWrap(True)
        self.shape.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.note = NoteLabel(self._theme, "pair_note")
        self.align = QPushButton("Align")
        self.align.setObjectName("align")
        self.align.setToolTip("Add a copy of clean, moved onto noisy, and use that.")
        self.align.hide()
        self.form = TrainingForm({"auto": "auto", "cpu": "cpu"}, "CPU: no GPU is used yet")
        self.estimate = QLabel()
        self.estimate.setObjectName("estimate")
        self.estimate.setWordWrap(True)
        self.estimate.setToolTip(
            "Time and memory that training will take on this machine, to a factor of two."
        )
        self.progress = ProgressPanel(self._theme)
        self.message = NoteLabel(self._theme, "message")
        self.chart = LossChart(self._theme.colours())
        self.chart.hide()
        self.report = ReportPanel(self._theme)
        self.apply_to = LayerPicker("apply_to", "Another image of the same channels to denoise.", self._theme)
        self._buttons()
        self._arrange()

    def _buttons(self) -> None:
        """Make the buttons."""

        def button(name: str, text: str, help_text: str) -> QPushButton:
            """Push button with its names."""
            made = QPushButton(text)
            made.setObjectName(name)
            made.setToolTip(help_text)
            made.setAccessibleName(text)
            return made

        self.train = button("train", "Train", TRAIN_HELP)
        self.pause = button("pause", "Pause", "Hold the work; go on with the same button.")
        self.stop = button("stop", "Stop", "End the work. Members that are finished are kept.")
        self.apply = button("apply", "Apply", "Denoise the picked layer with the trained networks.")
        self.save = button("save", "Save…", "Save networks, calibration and report as one file.")
        self.load = button("load", "Load…", "Load networks that were saved before.")
        self.recalibrate = button("recalibrate", "Recalibrate", "")
        self.recalibrate.hide()

    def _arrange(self) -> None:
        """Lay the parts out: what is set scrolls, what runs stays in sight."""
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(6)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Noisy", self.noisy)
        form.addRow("Clean", self.clean)
        axes = QHBoxLayout()
        axes.addWidget(self.axes)
        axes.addWidget(self.guessed)
        axes.addWidget(self.shape, 1)
        form.addRow("Axes", axes)
        column.addLayout(form)
        pair = QHBoxLayout()
        pair.addWidget(self.note, 1)
        pair.addWidget(self.align, 0, Qt.AlignmentFlag.AlignTop)
        column.addLayout(pair)
        column.addWidget(_line())
        column.addWidget(self.form)
        column.addWidget(self.estimate)
        column.addWidget(self.chart)
        column.addWidget(self.report)
        column.addWidget(self.recalibrate)
        column.addWidget(_line())
        use = QFormLayout()
        use.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        use.addRow("Apply to", self.apply_to)
        column.addLayout(use)
        files = QHBoxLayout()
        for part in (self.apply, self.save, self.load):
            files.addWidget(part)
        column.addLayout(files)
        column.addStretch(1)
        scroll = _Column()
        scroll.setWidget(inside)
        run = QHBoxLayout()
        run.addWidget(self.train, 2)
        run.addWidget(self.pause, 1)
        run.addWidget(self.stop, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(scroll, 1)
        layout.addWidget(self.message)
        layout.addWidget(self.progress)
        layout.addLayout(run)

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        for picker in (self.noisy, self.clean, self.apply_to):
            picker.note.redraw()
        for part in (self.note, self.message, self.report):
            part.redraw()
        self.chart.set_colours(self._theme.colours())


class _Column(QScrollArea):
    """Scroll area that scrolls up and down only, and is never narrower than what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def minimumSizeHint(self) -> QSize:  # Qt's name
        """Width of the content with the scroll bar, and little height."""
        content, bar = self.widget(), self.verticalScrollBar()
        width = content.minimumSizeHint().width() if content is not None else 0
        return QSize(width + (bar.sizeHint().width() if bar is not None else 0), 120)

    def sizeHint(self) -> QSize:  # Qt's name
        """As wide as needed, and as tall as there is room."""
        return QSize(self.minimumSizeHint().width(), 600)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # Qt's name
        """Tell the layout around when the content wants another width."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))


def _line() -> QFrame:
    """Thin line between groups."""
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    line.setFrameShadow(QFrame.Shadow.Sunken)
    return line
