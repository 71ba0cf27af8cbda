"""The panel that compares kinds of networks on the picked images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_btn.core.settings import PRESETS, EnsembleSettings, NetworkSettings, listed, whole_numbers
from napari_btn.widgets.denoise.charts import ScanChart
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.notes import NoteLabel
from napari_btn.widgets.shared.panels import lay_out, push_button
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.session import Session
    from napari_btn.widgets.denoise.view import DenoiseView
    from napari_btn.widgets.denoise.work import Work
    from napari_btn.widgets.shared.notes import Theme
    from napari_btn.workflow.scan import Scan, ScanRow

__all__ = ["ScanPanel", "Scanner"]

_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("family", "Kind of networks.", lambda row: row.family),
    ("depth", "Convolutions (nodes) per network.", lambda row: str(row.depth)),
    ("channels", "Feature channels that each node adds.", lambda row: str(row.channels)),
    ("dilation", "Largest dilation: distance in pixels between the pixels that a convolution combines.",
     lambda row: str(row.max_dilation)),
    ("error", "Continuous ranked probability score (CRPS), divided by the SD of the target: lower is better.",
     lambda row: f"{row.crps:.4f}"),
    ("sees (px)", "How many pixels to each side a pixel of the result depends on.",
     lambda row: str(row.receptive_field)),
    ("weights", "Number of weights of a network.", lambda row: f"{row.parameters:,}"),
    ("correlation", "Correlation of the median with the target: higher is better.",
     lambda row: f"{row.correlation:.4f}"),
    ("coverage", "Coverage of the calibrated intervals, each time on held-out blocks that were left out of the "
        "calibration.", lambda row: f"{row.coverage:.3f}"),
    ("width", "Mean width of the intervals, divided by the SD of the target.", lambda row: f"{row.width:.3f}"),
    ("s", "Seconds of training and calibration.", lambda row: f"{row.seconds:.0f}"),
)  # fmt: skip
_ERROR = 4
_FIELDS = {
    "scan_families": ("Families", "sms", "Kinds of networks to compare, separated by commas."),
    "scan_depths": (
        "Depths",
        "5, 10, 20",
        "Numbers of convolutions (nodes) per network to compare, separated by commas.",
    ),
    "scan_channels": (
        "Channels",
        "4",
        "Numbers of feature channels per node to compare, separated by commas.",
    ),
    "scan_dilations": (
        "Dilations",
        "4, 8",
        "Largest dilations (distances in pixels between the pixels of a convolution) to compare, separated "
        "by commas.",
    ),
}


class ScanPanel(QWidget):
    """A form to compare kinds of networks, and the table of results.

    Parameters
    ----------
    theme : Theme
        Colours of the viewer.
    """

    asked = Signal()
    """Emitted when the user asks for the comparison."""
    chosen = Signal(object)
    """Emitted with the `ScanRow` whose settings the user takes."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._rows: tuple[ScanRow, ...] = ()
        self.lists = {name: QLineEdit(text) for name, (_, text, _) in _FIELDS.items()}
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        for name, (label, _, help_text) in _FIELDS.items():
            field = self.lists[name]
            field.setObjectName(name)
            field.setToolTip(help_text)
            field.setAccessibleName(f"{label} to compare")
            form.addRow(label, field)
        self.start = push_button("scan", "Compare networks", "")
        self.take = push_button(
            "scan_take",
            "Use this kind",
            "Set family, depth, channels and dilation to those of the selected row.",
        )
        self.note = NoteLabel(theme, "scan_note")
        self.table = self._table()
        self.chart = ScanChart(theme.colours())
        buttons = QHBoxLayout()
        buttons.addWidget(self.start)
        buttons.addWidget(self.take)
        lay_out(self, form, buttons, self.note, self.table, self.chart, above_px=4)
        for part in (self.table, self.chart, self.take):
            part.hide()
        self.start.clicked.connect(self.asked.emit)
        self.take.clicked.connect(self._on_user_take)
        self.set_busy("")

    @staticmethod
    def _table() -> QTableWidget:
        """Return an empty table of kinds."""
        made = QTableWidget(0, len(_COLUMNS))
        made.setObjectName("scan_table")
        made.setAccessibleName("Networks compared")
        made.setToolTip("One row for each kind of network; the one with the lowest error is selected first.")
        made.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        made.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        made.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        made.verticalHeader().hide()
        made.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for k, (head, help_text, _) in enumerate(_COLUMNS):
            item = QTableWidgetItem(head)
            item.setToolTip(help_text)
            made.setHorizontalHeaderItem(k, item)
        return made

    def grid(self) -> dict[str, Any]:
        """Return the arguments for ``grid_of``: families, depths, channels and dilations.

        Raises
        ------
        ValueError
            If a family is unknown, or one of the others is no list of whole numbers.
        """
        texts = {name.removeprefix("scan_"): field.text() for name, field in self.lists.items()}
        families = listed(texts.pop("families"))
        for name in families:
            NetworkSettings(family=name)
        return {
            "families": families,
            **{name: whole_numbers(_FIELDS[f"scan_{name}"][0], text) for name, text in texts.items()},
        }

    def set_busy(self, reason: str) -> None:
        """Allow a comparison, or show why it is impossible.

        Parameters
        ----------
        reason : str
            Empty where it is possible.
        """
        self.start.setEnabled(not reason)
        self.start.setToolTip(
            reason
            or "Train one network of each kind on the picked images with the quick preset, and compare them."
        )

    def show_scan(self, scan: Scan) -> None:
        """Show a comparison.

        Parameters
        ----------
        scan : Scan
            Its best row is selected.
        """
        self._rows = scan.rows
        self.table.setRowCount(len(scan.rows))
        for r, row in enumerate(scan.rows):
            for k, (_, _, text_of) in enumerate(_COLUMNS):
                item = QTableWidgetItem(text_of(row) + (" best" if k == _ERROR and row is scan.best else ""))
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.table.setItem(r, k, item)
        self.table.selectRow(scan.rows.index(scan.best))
        shown = min(len(scan.rows), 8)
        height = self.table.horizontalHeader().height() + shown * self.table.rowHeight(0) + 18
        self.table.setFixedHeight(height)
        self.chart.show_rows(scan.rows)
        for part in (self.table, self.chart, self.take):
            part.show()

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        self.note.redraw()
        self.chart.set_colours(self._theme.colours())

    def _on_user_take(self) -> None:
        """Emit the selected row."""
        row = self.table.currentRow()
        if 0 <= row < len(self._rows):
            self.chosen.emit(self._rows[row])


class Scanner:
    """Compares kinds of networks on the picked pair, and shows the result.

    Parameters
    ----------
    view : DenoiseView
        Form with the panel and the picked images.
    work : Work
        Runs the comparison.
    session : Session
        Gives the device.
    refresh : callable
        Reads the picked layers again.
    """

    def __init__(self, view: DenoiseView, work: Work, session: Session, refresh: Callable[[], None]) -> None:
        self._view, self._work, self._session, self._refresh = view, work, session, refresh
        view.scan.asked.connect(self._on_user_scan)

    def _on_user_scan(self) -> None:
        """Compare networks on the picked pair."""
        self._refresh()
        inputs = self._view.pair.inputs
        if inputs is None or not self._view.scan.start.isEnabled():
            return
        try:
            grid = self._view.scan.grid()
        except ValueError as error:
            self._view.scan.note.say(("red", sentence_of(error)))
            return
        self._view.scan.note.say()
        device, seed = self._session.device, inputs.settings.seed
        quick = EnsembleSettings("quick", members=1, seed=seed, train=PRESETS["quick"])
        self._work.launch(
            "Comparing",
            lambda: engine.scan_steps(
                inputs.pair, engine.grid_of(**grid), quick, engine.compute_on(device, quick)
            ),
            self._show,
        )

    def _show(self, scan: Scan) -> None:
        """Show the result of the comparison."""
        self._view.scan.show_scan(scan)
        self._view.scan.note.say(*([("info", scan.chosen_on)] if scan.chosen_on else []))
        best = scan.best
        kind = (
            f"{best.family}, depth {best.depth}, channels {best.channels}, largest dilation "
            f"{best.max_dilation}"
        )
        self._view.progress.finish(
            f"Compared {len(scan.rows)} {'kind' if len(scan.rows) == 1 else 'kinds'} of networks; {kind} "
            "has the lowest error."
        )
