"""What the Tokens dock is made of, and how it is laid out; it does nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_btn.core.tokens.naming import VIEWPOINTS
from napari_btn.widgets.shared.charts import TokenChart
from napari_btn.widgets.shared.dock import Dock
from napari_btn.widgets.shared.panels import NoteLabel, ProgressPanel, Theme, combo_box, fold, push_button

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["MOST", "NAME_COLUMN", "TokenTable", "TokensView"]

MOST = 40
NAME_COLUMN = 1
_METHODS = (
    ("as learned before", None),
    ("k-means", "kmeans"),
    ("Gaussian mixture", "mixture"),
    ("HDBSCAN", "hdbscan"),
)
_WIDTH = 400
_HEIGHT = 160
_COVERAGE_HELP = (
    "Share of the token's held-out pixels that lie inside their intervals, mean over the channels. The pixels of "
    "few blocks may be far from it by chance."
)
_NO_TRUTH = (
    "Unknown: coverage is counted on held-out pixels, and this image is not the one that the intervals were "
    "calibrated on."
)


class _Cell(QTableWidgetItem):
    """Cell that is sorted by its number, where it has one."""

    def __init__(self, text: str, value: float | str, help_text: str = "") -> None:
        super().__init__(text)
        self.value = value
        self.setToolTip(help_text)
        number = not isinstance(value, str)
        side = Qt.AlignmentFlag.AlignRight if number else Qt.AlignmentFlag.AlignLeft
        self.setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
        if number:
            self.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)

    def __lt__(self, other: QTableWidgetItem) -> bool:
        mine, its = self.value, getattr(other, "value", 0.0)
        if isinstance(mine, str) or isinstance(its, str):
            return self.text().lower() < other.text().lower()
        return mine < its


class TokenTable(QTableWidget):
    """Table of tokens: number with its colour, name, share, medians, widths; sortable, names editable."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.setObjectName("table")
        self.setAccessibleName("Tokens")
        self.setToolTip(
            "One row per token. Pick rows to highlight them in the image; click a head to sort; "
            "double-click a name to change it."
        )
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.setSortingEnabled(True)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(22)
        self.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        self.horizontalHeader().setSortIndicator(0, Qt.SortOrder.AscendingOrder)
        self.setMinimumHeight(130)
        self._titles: tuple[str, ...] = ()

    def sizeHint(self) -> QSize:  # Qt's name
        """A few rows; a table takes what height there is, and no more of a laptop's than that."""
        return QSize(super().sizeHint().width(), _HEIGHT)

    def show_table(
        self, table: Mapping[str, NDArray[Any]], channels: Sequence[str], colours: NDArray[Any]
    ) -> None:
        """Show these tokens instead of the last; picked numbers stay picked, the order stays.

        Parameters
        ----------
        table : mapping of str to ndarray
            As `Tokens.table`, with a column "name".
        channels : sequence of str
            Names of the channels that it has medians of.
        colours : ndarray of float32, (k + 1, 4)
            By number.
        """
        picked = self.picked()
        columns = [("#", "Number of the token, and its colour in the image.", "index")]
        columns += [("name", "Your name for the token; double-click to change it.", "name")]
        columns += [("share", "Share of the image's pixels.", "share")]
        columns += [("coverage", _COVERAGE_HELP, "coverage")]
        columns += [
            (v, f"Group by {v}; Group puts the picked tokens into one.", v) for v in VIEWPOINTS if v in table
        ]
        columns += [
            (c, f"Median of {c} over the token's pixels.", f"{c} median")
            for c in channels
            if f"{c} median" in table
        ]
        columns += [
            (f"{c} width", f"Mean width of the interval of {c} over the token's pixels.", f"{c} width")
            for c in channels
            if f"{c} width" in table
        ]
        self.blockSignals(True)
        self.setSortingEnabled(False)
        titles = tuple(title for title, _, _ in columns)
        self.setRowCount(len(table["index"]))
        if titles != self._titles:
            self.setColumnCount(len(columns))
            for column, (title, help_text, _) in enumerate(columns):
                head = QTableWidgetItem(title)
                head.setToolTip(help_text)
                self.setHorizontalHeaderItem(column, head)
        for column, (_, _, key) in enumerate(columns):
            for row, value in enumerate(_coverage(table) if key == "coverage" else table[key]):
                self.setItem(row, column, _cell(key, value, table, row))
        for row, number in enumerate(table["index"]):
            item = self.item(row, 0)
            item.setIcon(_swatch(colours[int(number)]))
        if titles != self._titles:
            self.resizeColumnsToContents()
            self.setColumnWidth(NAME_COLUMN, 80)
            # the style's margins aren't counted in
            for column in range(NAME_COLUMN + 1, len(columns)):
                self.setColumnWidth(column, self.columnWidth(column) + 12)
            self._titles = titles
        self.setSortingEnabled(True)
        self.blockSignals(False)
        self._select(picked)

    def clear_table(self) -> None:
        """Show nothing."""
        self.blockSignals(True)
        self.setRowCount(0)
        self.blockSignals(False)

    def number_at(self, row: int) -> int:
        """Number of the token in a row; 0 where there is none."""
        item = self.item(row, 0)
        return 0 if item is None else int(item.value)

    def row_of(self, number: int) -> int:
        """Row of a token; -1 where it has none."""
        return next((row for row in range(self.rowCount()) if self.number_at(row) == number), -1)

    def picked(self) -> list[int]:
        """Numbers of the picked tokens, rising."""
        rows = {index.row() for index in self.selectedIndexes()}
        return sorted(self.number_at(row) for row in rows)

    def pick(self, numbers: Sequence[int]) -> None:
        """Pick the rows of these tokens, and say so once."""
        self._select(numbers)
        rows = [row for number in numbers if (row := self.row_of(number)) >= 0]
        if rows:
            self.scrollToItem(self.item(rows[0], 0))
        self.itemSelectionChanged.emit()

    def _select(self, numbers: Sequence[int]) -> None:
        """Pick the rows of these tokens, silently."""
        self.blockSignals(True)
        self.clearSelection()
        mode = self.selectionMode()
        # Rows are added one by one only in this mode.
        self.setSelectionMode(QAbstractItemView.SelectionMode.MultiSelection)
        for number in numbers:
            if (row := self.row_of(number)) >= 0:
                self.selectRow(row)
        self.setSelectionMode(mode)
        self.blockSignals(False)


def _cell(key: str, value: Any, table: Mapping[str, NDArray[Any]], row: int) -> _Cell:
    """What stands in a cell."""
    if key in VIEWPOINTS:
        # read, not typed: the button groups all that is picked at once
        cell = _Cell(str(value), str(value), "")
        cell.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
        return cell
    if key == "coverage":
        return _coverage_cell(float(value), table, row)
    if key == "name":
        return _Cell(str(value), str(value), "Double-click to change the name.")
    if key == "share":
        return _Cell(f"{100 * value:.1f} %", float(value), f"{int(table['pixels'][row])} pixels")
    if key == "index":
        return _Cell(str(int(value)), float(value))
    low, high = (table.get(key.replace(" median", f" {q}")) for q in ("q05", "q95"))
    spread = ""
    if low is not None and high is not None and key.endswith(" median"):
        spread = f"Nine tenths of the pixels lie between {low[row]:.3g} and {high[row]:.3g}."
    return _Cell(f"{value:.3g}", float(value), spread)


def _coverage(table: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Coverage of each token, mean over the channels; NaN where it is unknown."""
    columns = [column for name, column in table.items() if name.endswith(" coverage")]
    return np.mean(columns, axis=0) if columns else np.full(len(table["index"]), np.nan)


def _coverage_cell(value: float, table: Mapping[str, NDArray[Any]], row: int) -> _Cell:
    """Coverage of a token, with what it is counted from; or why it is unknown."""
    known = table.get("known pixels")
    if not np.isfinite(value):
        why = _NO_TRUTH if known is None else "Unknown: none of the token's pixels was held out."
        return _Cell("—", -1.0, why)
    single = [
        f"{name.removesuffix(' coverage')} {100 * column[row]:.1f} %"
        for name, column in table.items()
        if name.endswith(" coverage")
    ]
    count = 0 if known is None else int(known[row])
    return _Cell(f"{100 * value:.0f} %", value, f"{', '.join(single)}; counted on {count} held-out pixels.")


def _swatch(rgba: NDArray[Any]) -> QIcon:
    """Square of a colour."""
    pixels = QPixmap(12, 12)
    pixels.fill(QColor.fromRgbF(*(float(v) for v in rgba[:3])))
    icon = QIcon(pixels)
    # in a picked row it would be tinted
    icon.addPixmap(pixels, QIcon.Mode.Selected)
    return icon


class TokensView(Dock):
    """Parts of the Tokens dock.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Gives the theme.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.setObjectName("napari_btn_tokens")
        self._theme = Theme(self.viewer)
        self._build_top()
        self._build_table()
        self._arrange()

    def _build_top(self) -> None:
        """Make what finds tokens and cuts them."""
        self.hint = NoteLabel(self._theme, "hint")
        self.find = push_button(
            "find", "Find tokens", "Group the pixels of the denoised image by what the networks see in them."
        )
        self.stop = push_button("stop", "Stop", "Stop the search; nothing is changed.")
        self.refit = QCheckBox("Learn anew")
        self.refit.setObjectName("refit")
        self.refit.setAccessibleName("Learn the palette anew")
        self.refit.setToolTip(
            "Learn a new palette from this image. Otherwise the palette that the networks carry is used, so that "
            "a token means the same in every image."
        )
        self.method = combo_box(
            "method",
            "How alike pixels are made tokens. k-means: round clusters of alike size, the first choice. Gaussian "
            "mixture: clusters may be long, small or wide. HDBSCAN: dense ones of any shape, as many as there are, "
            "often few. Another way than the palette's learns a new one.",
        )
        self.method.setAccessibleName("How pixels are clustered")
        for text, method in _METHODS:
            self.method.addItem(text, method)
        self.progress = ProgressPanel(self._theme)
        self.n_tokens = QSpinBox()
        self.n_tokens.setObjectName("n_tokens")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setObjectName("n_tokens_slider")
        self.n_tokens.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)
        self.n_tokens.setFixedWidth(48)
        for part in (self.n_tokens, self.slider):
            part.setRange(2, MOST)
            part.setValue(20)
            part.setAccessibleName("Number of tokens")
            part.setToolTip("How many tokens; follows at once. Numbers and names stay with their tokens.")
        self.suggest = push_button(
            "suggest", "Use 5", "Take the largest number of tokens on which repeated learning agrees."
        )
        self.suggest.hide()
        self.stability = NoteLabel(self._theme, "stability")

    def _build_table(self) -> None:
        """Make what shows and changes tokens."""
        self.table = TokenTable()
        self.merge = push_button(
            "merge", "Merge", "Make the picked tokens one; the largest keeps its number."
        )
        self.rename = push_button("rename", "Rename", "Type a name for the picked token.")
        self.undo = push_button("undo", "Undo", "Nothing to take back yet.")
        self.export = push_button(
            "export",
            "Export…",
            "Write the labels as OME-TIFF, with a table (CSV) and their provenance (JSON) beside them.",
        )
        self.viewpoint = combo_box(
            "viewpoint", "Point of view to group tokens from. Each has groups of its own, and one column."
        )
        self.viewpoint.addItems(VIEWPOINTS)
        self.viewpoint.setAccessibleName("Point of view")
        self.group_name = combo_box(
            "group_name",
            "Name of the group: type a new one, or choose one that is there. Empty for no group.",
        )
        self.group_name.setEditable(True)
        self.group_name.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.group_name.setAccessibleName("Name of the group")
        self.assign = push_button(
            "assign", "Group", "Put the picked tokens into this group, in this cut and all others."
        )
        self.alone = QCheckBox("Picked only")
        self.alone.setObjectName("alone")
        self.alone.setAccessibleName("Show the picked tokens only")
        self.alone.setToolTip("Hide all tokens but the picked ones, instead of showing the others faintly.")
        self.colour_by = combo_box("colour_by", "Colour the labels by token, or by the median of a channel.")
        self.colour_by.setAccessibleName("Colour by")
        self.channel = combo_box("channel", "Channel whose values are drawn below, token by token.")
        self.values_of = QLabel("Values of")
        self.chart = TokenChart(self._theme.colours())
        self.chart.hide()
        self.status = NoteLabel(self._theme, "status")

    def _arrange(self) -> None:
        """Lay the parts out: little enough for a laptop."""
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(4)
        column.addWidget(self.hint)
        column.addLayout(_row(self.find, self.stop, self.refit, None))
        column.addWidget(self._advanced())
        column.addWidget(self.progress)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setVerticalSpacing(4)
        form.addRow("Tokens", _row(self.slider, self.n_tokens, self.suggest, stretch=self.slider))
        form.addRow(self.stability)
        form.addRow("Colour by", _row(self.colour_by, self.alone, stretch=self.colour_by))
        column.addLayout(form)
        column.addWidget(self.table, 1)
        column.addLayout(_row(self.merge, self.rename, self.undo, None, self.export))
        column.addLayout(_row(self.viewpoint, self.group_name, self.assign, stretch=self.group_name))
        column.addWidget(self.status)
        column.addLayout(_row(self.values_of, self.channel, stretch=self.channel))
        column.addWidget(self.chart)
        # two lines at all numbers of tokens, so that the table stays where it is while the slider moves
        self.stability.setMinimumHeight(2 * self.fontMetrics().lineSpacing() + 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        inside.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        layout.addWidget(inside)
        self.setMinimumWidth(max(inside.minimumSizeHint().width(), _WIDTH))

    def _advanced(self) -> QWidget:
        """Settings that most people leave alone."""
        inside = QWidget()
        form = QFormLayout(inside)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Cluster by", self.method)
        return fold("advanced", "Advanced", "Settings that most people leave alone.", inside)

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        for note in (self.hint, self.stability, self.status):
            note.redraw()
        self.chart.set_colours(self._theme.colours())


def _row(*parts: QWidget | None, stretch: QWidget | None = None) -> QHBoxLayout:
    """Parts beside each other; None for a gap."""
    row = QHBoxLayout()
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(4)
    for part in parts:
        if part is None:
            row.addStretch(1)
        else:
            row.addWidget(part, 1 if part is stretch else 0)
    return row
