"""The base of all charts: a pyqtgraph plot in the colours of the theme."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["Chart", "faded"]


class Chart(QWidget):
    """A plot that is looked at, not handled, in the colours of the theme.

    Parameters
    ----------
    name : str
        Accessible name.
    help_text : str
        Tooltip.
    height : int
        Height in pixels.
    grows : bool
        True if the chart takes more height where there is room.
    legend : sequence of tuple of str
        Sign, meaning, and the colour by its role in the theme ("text" or "accent"), of each kind of mark.
    """

    def __init__(
        self,
        name: str,
        help_text: str,
        *,
        height: int = 150,
        grows: bool = False,
        legend: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        import pyqtgraph as pg

        super().__init__()
        self._pg = pg
        self.setAccessibleName(name)
        self.setToolTip(help_text)
        self._plot = pg.PlotWidget()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.hideButtons()
        # pyqtgraph asks for 480 pixels; smaller is fine
        self._plot.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        self.setMinimumHeight(height)
        if not grows:
            self.setMaximumHeight(height)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._plot, 1)
        self._marks = tuple(legend)
        self._shown = frozenset(text for _, text, _ in self._marks)
        self.legend = QLabel()
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.legend.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.legend.setVisible(bool(legend))
        layout.addWidget(self.legend)

    def set_colours(self, colours: Mapping[str, QColor]) -> None:
        """Draw in the colours of a theme.

        Parameters
        ----------
        colours : mapping of str to QColor
            ``text``, ``background`` and ``accent``.
        """
        self._plot.setBackground(colours["background"])
        for side in ("bottom", "left"):
            axis = self._plot.getAxis(side)
            # called twice, pyqtgraph applies the SI prefix twice and shows thousandths as whole numbers
            if axis.autoSIPrefix:
                axis.enableAutoSIPrefix(False)
            axis.setPen(colours["text"])
            axis.setTextPen(colours["text"])
        self._colours = colours
        self.show_marks(self._shown)
        self._paint(colours["text"], colours["accent"])

    def show_marks(self, meanings: Collection[str]) -> None:
        """Explain only the marks that are drawn.

        Parameters
        ----------
        meanings : collection of str
            Those of the legend.
        """
        self._shown = frozenset(meanings)
        marks = (
            f"<span style='color:{self._colours[role].name()}'>{sign}</span> {text}"
            for sign, text, role in self._marks
            if text in self._shown
        )
        self.legend.setText("&nbsp;&nbsp; ".join(marks))

    def _paint(self, text: QColor, accent: QColor) -> None:
        """Draw what lies inside of the axes; each chart has its own."""


def faded(colour: QColor, alpha: int) -> QColor:
    """Return a colour that lets others show through.

    Parameters
    ----------
    colour : QColor
        Any.
    alpha : int
        Opacity, 0 to 255.

    Returns
    -------
    QColor
        A copy.
    """
    made = QColor(colour)
    made.setAlpha(alpha)
    return made
