"""The form of the Tokens dock: its controls and their layout."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_btn.core.tokens.naming import VIEWPOINTS
from napari_btn.widgets.shared.notes import NoteLabel, Theme
from napari_btn.widgets.shared.panels import ProgressPanel, combo_box, fold, push_button
from napari_btn.widgets.tokens.chart import TokenChart
from napari_btn.widgets.tokens.table import TokenTable

__all__ = ["TokensView"]

_MOST = 40
_METHODS = (
    ("as learned before", None),
    ("k-means", "kmeans"),
    ("Gaussian mixture", "mixture"),
    ("HDBSCAN", "hdbscan"),
)
_WIDTH = 400


class TokensView(QWidget):
    """The form of the Tokens dock.

    Parameters
    ----------
    theme : Theme
        Colours of the viewer.
    """

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._build_top()
        self._build_table()
        self._arrange()

    def _build_top(self) -> None:
        """Make the controls that find and cut tokens."""
        self.hint = NoteLabel(self._theme, "hint")
        self.find = push_button(
            "find",
            "Find tokens",
            "Group the pixels of the denoised image into tokens: clusters of pixels that look alike to "
            "the networks.",
        )
        self.stop = push_button("stop", "Stop", "Stop the search; nothing is changed.")
        self.refit = QCheckBox("Learn again")
        self.refit.setObjectName("refit")
        self.refit.setAccessibleName("Learn the tokens again")
        self.refit.setToolTip(
            "Learn new tokens from this image. Otherwise the tokens that are stored with the networks (their "
            "palette) are used, so that the tokens of all images are the same clusters."
        )
        self.method = combo_box(
            "method",
            "How similar pixels become tokens. k-means: round clusters of similar size; the first choice. "
            "Gaussian mixture: clusters may be long, small or wide. HDBSCAN: dense clusters of any shape, as "
            "many as there are, often few. Another method than that of the stored tokens learns new ones.",
        )
        self.method.setAccessibleName("How pixels are clustered")
        for text, method in _METHODS:
            self.method.addItem(text, method)
        self.progress = ProgressPanel()
        self.n_tokens = QSpinBox()
        self.n_tokens.setObjectName("n_tokens")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setObjectName("n_tokens_slider")
        self.n_tokens.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)
        self.n_tokens.setFixedWidth(48)
        for part in (self.n_tokens, self.slider):
            part.setRange(2, _MOST)
            part.setValue(20)
            part.setAccessibleName("Number of tokens")
            part.setToolTip(
                "Number of tokens; the image changes at once. Tokens keep their numbers and names."
            )
        self.suggest = push_button(
            "suggest", "Use 5", "Use the largest number of tokens on which repeated clustering agrees."
        )
        self.suggest.hide()
        self.stability = NoteLabel(self._theme, "stability")

    def _build_table(self) -> None:
        """Make the controls that show and edit tokens."""
        self.table = TokenTable(self._theme)
        self.merge = push_button(
            "merge", "Merge", "Merge the picked tokens into one; it gets the number of the largest."
        )
        self.rename = push_button("rename", "Rename", "Type a name for the picked token.")
        self.undo = push_button("undo", "Undo", "There is nothing to undo yet.")
        self.export = push_button(
            "export",
            "Export…",
            "Save the labels as OME-TIFF, with a table (CSV) and a record of how they were made (JSON) "
            "beside them.",
        )
        self.viewpoint = combo_box(
            "viewpoint",
            "Point of view by which tokens are grouped. Each has its own groups, and its own column in "
            "the table.",
        )
        self.viewpoint.addItems(VIEWPOINTS)
        self.viewpoint.setAccessibleName("Point of view")
        self.group_name = combo_box(
            "group_name",
            "Name of the group: type a new one, or choose an existing one. Empty for no group.",
        )
        self.group_name.setEditable(True)
        self.group_name.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.group_name.setAccessibleName("Name of the group")
        self.assign = push_button(
            "assign", "Group", "Put the picked tokens into this group, whatever the number of tokens."
        )
        self.alone = QCheckBox("Picked only")
        self.alone.setObjectName("alone")
        self.alone.setAccessibleName("Show the picked tokens only")
        self.alone.setToolTip("Hide all other tokens, instead of showing them faintly.")
        self.colour_by = combo_box("colour_by", "Colour the labels by token, or by the median of a channel.")
        self.colour_by.setAccessibleName("Colour by")
        self.channel = combo_box("channel", "Channel whose values the chart below shows for each token.")
        self.values_of = QLabel("Values of")
        self.chart = TokenChart(self._theme.colours())
        self.chart.hide()
        self.status = NoteLabel(self._theme, "status")

    def _arrange(self) -> None:
        """Lay the parts out, small enough for a laptop."""
        column = QVBoxLayout(self)
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
        # always two lines, so that the table doesn't move with the slider
        self.stability.setMinimumHeight(2 * self.fontMetrics().lineSpacing() + 2)
        self.setMinimumWidth(max(self.minimumSizeHint().width(), _WIDTH))

    def _advanced(self) -> QWidget:
        """Return the settings that most people leave alone, folded."""
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
        self.table.redraw()
        self.chart.set_colours(self._theme.colours())


def _row(*parts: QWidget | None, stretch: QWidget | None = None) -> QHBoxLayout:
    """Return a row of parts; None stands for a gap."""
    row = QHBoxLayout()
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(4)
    for part in parts:
        if part is None:
            row.addStretch(1)
        else:
            row.addWidget(part, 1 if part is stretch else 0)
    return row
