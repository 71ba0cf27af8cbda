"""The table of tokens: sortable, with names that can be edited."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_btn.core.tokens.naming import VIEWPOINTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.widgets.shared.notes import Theme

__all__ = ["NAME_COLUMN", "TokenTable", "poorly_covered"]

NAME_COLUMN = 1
_HEIGHT = 90  # pixels; it grows where there is more room
_COVERAGE_HELP = (
    "Share of the token's held-out pixels that lie inside their intervals, as a mean over the channels. If "
    "they come from few blocks, the share may be far off by chance. ⚠ marks tokens that a channel covers far "
    "less than was asked for; the note above names the worst."
)
_KNOWN_PIXELS, _FAR_BELOW = 100, 0.15  # held-out pixels of a token that count, and a coverage that is bad
_SIGN = "⚠"
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
    """Table of tokens: number with its colour, name, share, medians, widths; sortable, names editable.

    Parameters
    ----------
    theme : Theme
        Colours of the marks.
    """

    def __init__(self, theme: Theme) -> None:
        super().__init__(0, 0)
        self._theme = theme
        self.setObjectName("table")
        self.setAccessibleName("Tokens")
        self.setToolTip(
            "One row for each token. Pick rows to highlight them in the image; click a column heading to "
            "sort; double-click a name to change it."
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
        self.setMinimumHeight(80)
        self._titles: tuple[str, ...] = ()

    def sizeHint(self) -> QSize:  # Qt's name
        """Return the height of a few rows, which fits on a laptop."""
        return QSize(super().sizeHint().width(), _HEIGHT)

    def show_table(
        self,
        table: Mapping[str, NDArray[Any]],
        channels: Sequence[str],
        colours: NDArray[Any],
        aim: float | None = None,
    ) -> None:
        """Show these tokens instead of the last; picks and order stay.

        Parameters
        ----------
        table : mapping of str to ndarray
            As `Tokens.table`, with a column "name".
        channels : sequence of str
            Names of the channels that it has medians of.
        colours : ndarray of float32, (k + 1, 4)
            By number.
        aim : float, optional
            Coverage that was asked for; tokens with much less are marked.
        """
        picked = self.picked()
        columns = [("#", "Number of the token, and its colour in the image.", "index")]
        columns += [("name", "Your name for the token; double-click to change it.", "name")]
        columns += [("share", "Share of the image's pixels.", "share")]
        columns += [("coverage", _COVERAGE_HELP, "coverage")]
        columns += [
            (v, f"Groups by {v}. The button Group puts the picked tokens into one.", v)
            for v in VIEWPOINTS
            if v in table
        ]
        columns += [
            (c, f"Median of {c} over the token's pixels.", f"{c} median")
            for c in channels
            if f"{c} median" in table
        ]
        columns += [
            (
                f"{c} width",
                f"Mean width of the interval of {c} over the token's pixels.",
                f"{c} width",
            )
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
        poor = {number for _, number, _ in poorly_covered(table, aim)} if aim is not None else ()
        place = next(k for k, (_, _, key) in enumerate(columns) if key == "coverage")
        for row, number in enumerate(table["index"]):
            item = self.item(row, 0)
            item.setIcon(_swatch(colours[int(number)]))
            if int(number) in poor:
                self.item(row, place).setText(f"{_SIGN} {self.item(row, place).text()}")
        self.redraw()
        if titles != self._titles:
            self.resizeColumnsToContents()
            self.setColumnWidth(NAME_COLUMN, 80)
            # Qt leaves out the style's margins
            for column in range(NAME_COLUMN + 1, len(columns)):
                self.setColumnWidth(column, self.columnWidth(column) + 12)
            self._titles = titles
        self.setSortingEnabled(True)
        self.blockSignals(False)
        self._select(picked)

    def redraw(self) -> None:
        """Draw marked cells in the colour of the theme as it is now."""
        amber = self._theme.colours()["amber"]
        blocked = self.blockSignals(True)
        for row, column in product(range(self.rowCount()), range(self.columnCount())):
            item = self.item(row, column)
            if item is not None and column != NAME_COLUMN and item.text().startswith(_SIGN):
                item.setForeground(amber)
        self.blockSignals(blocked)

    def clear_table(self) -> None:
        """Empty the table."""
        self.blockSignals(True)
        self.setRowCount(0)
        self.blockSignals(False)

    def number_at(self, row: int) -> int:
        """Return the number of the token in a row; 0 if there is none."""
        item = self.item(row, 0)
        return 0 if item is None else int(item.value)

    def row_of(self, number: int) -> int:
        """Return the row of a token; -1 if it has none."""
        return next((row for row in range(self.rowCount()) if self.number_at(row) == number), -1)

    def picked(self) -> list[int]:
        """Return the numbers of the picked tokens, in rising order."""
        rows = {index.row() for index in self.selectedIndexes()}
        return sorted(self.number_at(row) for row in rows)

    def pick(self, numbers: Sequence[int]) -> None:
        """Pick the rows of these tokens, with one signal."""
        self._select(numbers)
        rows = [row for number in numbers if (row := self.row_of(number)) >= 0]
        if rows:
            self.scrollToItem(self.item(rows[0], 0))
        self.itemSelectionChanged.emit()

    def _select(self, numbers: Sequence[int]) -> None:
        """Pick the rows of these tokens, without a signal."""
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


def poorly_covered(table: Mapping[str, NDArray[Any]], aim: float) -> list[tuple[float, int, str]]:
    """Return coverage, number and channel of the tokens that are covered far less than asked for, the worst first.

    Parameters
    ----------
    table : mapping of str to ndarray
        As `Tokens.table`.
    aim : float
        Coverage that was asked for, in (0, 1).
    """
    known = table.get("known pixels")
    if known is None:
        return []
    return sorted(
        (float(value), int(number), name.removesuffix(" coverage"))
        for name, column in table.items()
        if name.endswith(" coverage")
        for value, number, count in zip(column, table["index"], known, strict=True)
        if count >= _KNOWN_PIXELS and value < aim - _FAR_BELOW
    )


def _cell(key: str, value: Any, table: Mapping[str, NDArray[Any]], row: int) -> _Cell:
    """Return the text of a cell."""
    if key in VIEWPOINTS:
        # not editable: the button groups all picked rows at once
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
        spread = f"90 % of the pixels lie between {low[row]:.3g} and {high[row]:.3g}."
    return _Cell(f"{value:.3g}", float(value), spread)


def _coverage(table: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return the coverage of each token, mean over the channels; NaN if unknown."""
    columns = [column for name, column in table.items() if name.endswith(" coverage")]
    return np.mean(columns, axis=0) if columns else np.full(len(table["index"]), np.nan)


def _coverage_cell(value: float, table: Mapping[str, NDArray[Any]], row: int) -> _Cell:
    """Return a cell with the coverage of a token and its counts, or why it is unknown."""
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
    """Return a square of a colour."""
    pixels = QPixmap(12, 12)
    pixels.fill(QColor.fromRgbF(*(float(v) for v in rgba[:3])))
    icon = QIcon(pixels)
    # Qt would tint it in a picked row
    icon.addPixmap(pixels, QIcon.Mode.Selected)
    return icon
