"""The chart of tokens in another theme."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtGui import QColor

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

COLOURS = {"text": QColor("white"), "background": QColor("black"), "accent": QColor("blue")}


def test_another_theme_leaves_the_numbers_at_the_axis_as_they_are(qtbot: QtBot) -> None:
    from napari_btn.widgets.tokens.chart import TokenChart

    made = TokenChart(COLOURS)
    qtbot.addWidget(made)
    made.show()
    edges = np.linspace(0.0, 0.3, 9)
    made.show_tokens(edges, np.ones((2, 8), int), np.array([0.1, 0.2]), np.ones((2, 4), np.float32), "Fe")
    made.set_colours({**COLOURS, "text": QColor("black"), "background": QColor("white")})
    axis = made._plot.getAxis("left")
    assert axis.autoSIPrefixScale == 1
    assert axis.tickStrings([0.1, 0.2], axis.autoSIPrefixScale, 0.1) == ["0.1", "0.2"]
