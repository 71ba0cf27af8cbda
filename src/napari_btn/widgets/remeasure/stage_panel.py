"""The table of places that are known in the image and on the stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_btn.widgets.shared.notes import NoteLabel
from napari_btn.widgets.shared.panels import fold, lay_out, push_button

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.core.remeasure.stage import StageAffine
    from napari_btn.widgets.shared.notes import Theme

__all__ = ["StagePanel"]

Pair = tuple[float, float, float, float]
_LEAST = 3
_HEADS = (
    ("row / px", "Row of the place in the image, from 0, as napari shows it under the mouse."),
    ("column / px", "Column of the place in the image, from 0, as napari shows it under the mouse."),
    ("stage 1", "First coordinate of the same place on the stage, in the stage's own unit."),
    ("stage 2", "Second coordinate of the same place on the stage."),
)
_TABLE_HELP = (
    "Places that are known in the image and on the stage: three that span a triangle, or more. Type into the "
    "cells, or take the positions from a Points layer."
)


class StagePanel(QWidget):
    """The panel of places that are known on the stage.

    Parameters
    ----------
    theme : Theme
        Colours of its note.
    """

    changed = Signal()
    """Emitted when a number or the number of rows changes."""
    points_wanted = Signal()
    """Emitted when the positions shall come from a Points layer."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self.table = QTableWidget(_LEAST, len(_HEADS))
        self.table.setObjectName("stage_points")
        self.table.setAccessibleName("Places in the image and on the stage")
        self.table.setToolTip(_TABLE_HELP)
        for column, (head, help_text) in enumerate(_HEADS):
            item = QTableWidgetItem(head)
            item.setToolTip(help_text)
            self.table.setHorizontalHeaderItem(column, item)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.AllEditTriggers)
        self.table.setFixedHeight(120)
        self.table.setItemPrototype(_right(""))
        rows, heads = self.table.verticalHeader(), self.table.horizontalHeader()
        if rows is not None and heads is not None:
            rows.setDefaultSectionSize(22)
            heads.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.take = push_button(
            "stage_take", "From points", "Take the positions from the selected Points layer, or the last one."
        )
        self.more = push_button(
            "stage_more", "Add row", "Add one more place. From four places on, you see how well they agree."
        )
        self.clear = push_button(
            "stage_clear", "Clear", "Remove all places. Exports then have no stage coordinates."
        )
        self.fit = NoteLabel(theme, "stage_fit")
        self.table.itemChanged.connect(lambda _: self.changed.emit())
        self.take.clicked.connect(self.points_wanted)
        self.more.clicked.connect(lambda: self.table.setRowCount(self.table.rowCount() + 1))
        self.clear.clicked.connect(self._on_user_clear)
        self._arrange()

    def _arrange(self) -> None:
        """Lay the parts out, folded."""
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        for button in (self.take, self.more, self.clear):
            buttons.addWidget(button)
        inside = QWidget()
        lay_out(inside, self.table, buttons, self.fit)
        help_text = "Say where the image lies on the stage, so that exports contain stage coordinates."
        self.folded = fold("stage", "Stage", help_text, inside)
        lay_out(self, self.folded)

    def pairs(self) -> list[Pair]:
        """Return the complete rows: row and column in pixels, and the two stage coordinates.

        Returns
        -------
        list of tuple of float
            In the order of the table; empty rows are left out.

        Raises
        ------
        ValueError
            If a row is incomplete, or a cell holds no number.
        """
        found = []
        for row in range(self.table.rowCount()):
            texts = [self._text(row, column) for column in range(len(_HEADS))]
            if not any(texts):
                continue
            if not all(texts):
                lacking = ", ".join(h for (h, _), text in zip(_HEADS, texts, strict=True) if not text)
                raise ValueError(f"Place {row + 1} lacks {lacking}. Type it, or empty the row.")
            found.append(self._numbers(row, texts))
        return found

    def _text(self, row: int, column: int) -> str:
        """Return the text of a cell."""
        item = self.table.item(row, column)
        return "" if item is None else item.text().strip()

    @staticmethod
    def _numbers(row: int, texts: Sequence[str]) -> Pair:
        """Return the numbers of a row, with a point or a comma for decimals."""
        try:
            y, x, first, second = (float(text.replace(",", ".")) for text in texts)
        except ValueError as error:
            raise ValueError(
                f"Place {row + 1} holds {', '.join(map(repr, texts))}; numbers are needed, such as 120.5. "
                "Type them again."
            ) from error
        return y, x, first, second

    def show_pairs(self, pairs: Sequence[Pair]) -> None:
        """Show these places instead of the last, without a signal."""
        self.table.blockSignals(True)
        self.table.clearContents()
        self.table.setRowCount(max(len(pairs), _LEAST))
        for row, pair in enumerate(pairs):
            for column, value in enumerate(pair):
                self._put(row, column, value)
        self.table.blockSignals(False)

    def show_positions(self, positions: Sequence[Sequence[float]]) -> None:
        """Show these positions in the image; stage coordinates that were typed stay in their rows."""
        self.table.blockSignals(True)
        self.table.setRowCount(max(len(positions), _LEAST))
        for row in range(self.table.rowCount()):
            for column in range(2):
                if row < len(positions):
                    self._put(row, column, float(positions[row][column]))
                else:
                    self.table.takeItem(row, column)
        self.table.blockSignals(False)
        self.changed.emit()

    def _put(self, row: int, column: int, value: float) -> None:
        """Write a number into a cell."""
        self.table.setItem(row, column, _right(f"{value:.10g}"))

    def say_fit(self, affine: StageAffine | None, count: int, problem: str = "") -> None:
        """Show how well the places fit, or why they don't.

        Parameters
        ----------
        affine : StageAffine, optional
            What they fit.
        count : int
            Complete rows.
        problem : str
            Why there is no fit, in a sentence.
        """
        if problem:
            self.fit.say(("red", problem))
        elif affine is None:
            left = f"{count} of {_LEAST} places are complete. " if count else ""
            self.fit.say(("info", f"{left}With three places, exports contain stage coordinates."))
        elif count == _LEAST:
            self.fit.say(
                ("info", "Three places always fit exactly. Add a fourth to see how well they agree.")
            )
        else:
            text = f"{count} places agree to {affine.residual:.3g} (root mean square, in the stage's unit)."
            self.fit.say(("info", f"{text} Exports contain stage coordinates."))

    def _on_user_clear(self) -> None:
        """Forget all places."""
        self.show_pairs(())
        self.changed.emit()

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        self.fit.redraw()


def _right(text: str) -> QTableWidgetItem:
    """Return a cell for a number."""
    item = QTableWidgetItem(text)
    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item
