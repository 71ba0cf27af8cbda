"""Pick layers: one from a list, or several as a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QWidget,
)

from napari_btn.io.images import SUFFIXES
from napari_btn.widgets.shared.layers import LayerImage, read_layer, stack_images
from napari_btn.widgets.shared.matched import MatchedFiles
from napari_btn.widgets.shared.notes import NoteLabel, Theme
from napari_btn.widgets.shared.panels import lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from weakref import ReferenceType

    from napari.layers import Image as ImageLayer


__all__ = ["LayerPicker"]

_AXES_OF_STACK = {"channels": "C", "repeats": "S", "different fields": "S"}
_ROWS_SHOWN = 4
_ARROW_PX = 28


class LayerPicker(QWidget):
    """A combo box of image layers, with a stack of several beside it and a button for files.

    Parameters
    ----------
    role : str
        Object name of the combo box.
    help_text : str
        Tooltip.
    theme : Theme
        Colours of its note.
    optional : bool
        True to offer "none" as well.
    """

    changed = Signal()
    """Emitted when another layer is picked, or its data change."""
    file_wanted = Signal()
    """Emitted when the user wants to open a file."""
    folder_wanted = Signal()
    """Emitted when the user wants to open a folder."""

    def __init__(
        self,
        role: str,
        help_text: str,
        theme: Theme,
        *,
        optional: bool = False,
    ) -> None:
        super().__init__()
        self._optional, self._emptied = optional, False
        self._layers: list[ReferenceType[ImageLayer]] = []
        self._chosen: ReferenceType[ImageLayer] | None = None
        self._watched: list[ImageLayer] = []
        self.by_user = False
        """True if the user picked, so that nothing else may."""
        self.combo = QComboBox()
        self.combo.setObjectName(role)
        self.combo.setPlaceholderText("Pick a layer")
        self.combo.setToolTip(help_text)
        self.combo.setAccessibleName(f"{role.replace('_', ' ').capitalize()} layer")
        self.combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.combo.setMinimumContentsLength(8)
        self.combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.many = QPushButton("+")
        self.many.setObjectName(f"{role}_stack")
        self.many.setCheckable(True)
        self.many.setFixedWidth(self.many.fontMetrics().horizontalAdvance("+") * 3)
        self.many.setToolTip(
            "Add scenes: pick several layers and stack them, as different fields, repeats of one field, or channels."
        )
        self.many.setAccessibleName(f"Stack several layers as {role}")
        self.open = QToolButton()
        self.open.setObjectName(f"{role}_open")
        self.open.setToolTip(
            f"Read an image: {', '.join(SUFFIXES)}. Several files are stacked as different fields; a description of a "
            "data set (.yaml, .json) opens both images. The arrow opens a folder: of noisy and clean images, or a zarr."
        )
        self.open.setPopupMode(QToolButton.ToolButtonPopupMode.MenuButtonPopup)
        self.say_open("Open file…")
        menu = QMenu(self.open)
        for text, wanted in (("Open files…", self.file_wanted), ("Open folder…", self.folder_wanted)):
            action = menu.addAction(text)
            if action is not None:
                action.triggered.connect(lambda _=False, signal=wanted: signal.emit())
        self.open.setMenu(menu)
        self.open.setAccessibleName(f"Open a file as {role}")
        self.list = QListWidget()
        self.list.setObjectName(f"{role}_layers")
        self.list.setAccessibleName(f"Layers stacked as {role}")
        self.stack_as = QComboBox()
        self.stack_as.setObjectName(f"{role}_stack_as")
        self.stack_as.addItems(list(_AXES_OF_STACK))
        self.stack_as.setToolTip(
            "Channels: one layer per element or dye. Repeats: several scans of one field. Different fields: each noisy "
            "layer has its own clean one, stacked in the same order."
        )
        self.stack_as.setAccessibleName("Stack layers as")
        self.note = NoteLabel(theme, f"{role}_note")
        self.matched = MatchedFiles(theme, role)
        """Which files a folder or a description gave, until something else is picked."""
        self._arrange()
        self.combo.activated.connect(self._on_user_activated)
        self.combo.currentIndexChanged.connect(self._on_user_index)
        self.many.toggled.connect(self._on_user_many)
        self.list.itemChanged.connect(lambda _: self.changed.emit())
        self.stack_as.currentIndexChanged.connect(lambda _: self.changed.emit())
        self.open.clicked.connect(lambda: self.file_wanted.emit())

    def say_open(self, text: str) -> None:
        """Set the text of the button for files, with room for it and for the arrow.

        Parameters
        ----------
        text : str
            Text on the button.
        """
        self.open.setText(text)
        self.open.setMinimumWidth(self.open.fontMetrics().horizontalAdvance(text) + _ARROW_PX)

    def _arrange(self) -> None:
        """Lay the parts out."""
        row = QHBoxLayout()
        row.setSpacing(4)
        for part in (self.combo, self.many, self.open):
            row.addWidget(part)
        how = QHBoxLayout()
        how.addWidget(QLabel("stacked as"))
        how.addWidget(self.stack_as, 1)
        self._stack = QWidget()
        lay_out(self._stack, self.list, how)
        self._stack.hide()
        lay_out(self, row, self._stack, self.note, self.matched)

    # ---------------------------------------------------------------- what is picked

    @property
    def layers(self) -> list[ImageLayer]:
        """Picked layers, in the order of the list; none when nothing is picked."""
        if self.many.isChecked():
            return [layer for row in self._checked_rows() if (layer := self._layers[row]()) is not None]
        layer = self._chosen() if self._chosen is not None else None
        return [layer] if layer is not None else []

    @property
    def layer(self) -> ImageLayer | None:
        """The one picked layer; None when there is none or a stack."""
        picked = self.layers
        return picked[0] if len(picked) == 1 else None

    def read(self) -> LayerImage | None:
        """Return the picked layers as one image; None if nothing is picked.

        Raises
        ------
        ValueError
            If a layer can't be used, or layers don't fit into one stack.
        """
        picked = self.layers
        if not picked:
            return None
        return stack_images(
            [read_layer(layer) for layer in picked], _AXES_OF_STACK[self.stack_as.currentText()]
        )

    def try_read(self) -> LayerImage | None:
        """Return the picked layers as one image; an error is shown under the picker.

        Returns
        -------
        LayerImage or None
            None when nothing is picked, or it can't be used.
        """
        self.note.say()
        try:
            return self.read()
        except ValueError as error:
            self.note.say(("red", str(error)))
            return None

    def pick(self, layer: ImageLayer | None) -> None:
        """Pick a layer of the list; it doesn't count as the user's choice.

        Parameters
        ----------
        layer : napari.layers.Image or None
            One that `refresh` was given.
        """
        self.many.setChecked(False)
        rows = [row for row, known in enumerate(self._layers) if layer is not None and known() is layer]
        self.combo.setCurrentIndex(rows[0] if rows else -1)

    @property
    def emptied(self) -> bool:
        """True if the user picked "none"."""
        return self._emptied

    def leave_empty(self) -> None:
        """Pick "none", as the user does."""
        self.combo.setCurrentIndex(len(self._layers))
        self._on_user_activated(len(self._layers))

    def pick_many(self, layers: Sequence[ImageLayer], stack_as: str) -> None:
        """Pick several layers of the list, as a stack.

        Parameters
        ----------
        layers : sequence of napari.layers.Image
            Some that `refresh` was given.
        stack_as : str
            "channels", "repeats" or "different fields".
        """
        self.stack_as.setCurrentText(stack_as)
        self.many.setChecked(True)
        for row, known in enumerate(self._layers):
            chosen = any(known() is layer for layer in layers)
            self.list.item(row).setCheckState(Qt.CheckState.Checked if chosen else Qt.CheckState.Unchecked)

    def refresh(self, layers: list[ImageLayer]) -> None:
        """Offer these layers; a picked one stays picked while it is among them.

        Parameters
        ----------
        layers : list of napari.layers.Image
            In the order to show.
        """
        chosen = self._chosen() if self._chosen is not None else None
        checked = [self._layers[row]() for row in self._checked_rows()]
        before = self.layers
        self._watch(layers)
        self._layers = [ref(layer) for layer in layers]
        names = [layer.name for layer in layers]
        for widget in (self.combo, self.list):
            widget.blockSignals(True)
        self.combo.clear()
        self.combo.addItems(names)
        if self._optional and layers:
            self.combo.addItem("none")
        self.list.clear()
        for layer, name in zip(layers, names, strict=True):
            item = QListWidgetItem(name)
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if layer in checked else Qt.CheckState.Unchecked)
            self.list.addItem(item)
        row = next((i for i, layer in enumerate(layers) if layer is chosen), -1)
        self._chosen = self._layers[row] if row >= 0 else None
        self._emptied = self._emptied and row < 0 and bool(layers)
        if row < 0 and not self._emptied:
            self.by_user = False
        self.combo.setCurrentIndex(len(layers) if self._emptied else row)
        for widget in (self.combo, self.list):
            widget.blockSignals(False)
        self.list.setFixedHeight(
            (self.list.sizeHintForRow(0) if layers else 20) * min(max(len(layers), 2), _ROWS_SHOWN) + 6
        )
        if self.layers != before:
            self.changed.emit()

    def leave(self) -> None:
        """Disconnect from all layers."""
        self._watch([])

    def _watch(self, layers: list[ImageLayer]) -> None:
        """Follow data and axes of these layers, and of no others."""
        # only changed layers: a disconnect compares whole viewers in napari, which takes a tenth of a second
        for layer in self._watched:
            if not any(layer is other for other in layers):
                for event in _events_of(layer):
                    event.disconnect(self._on_viewer_layer)
        for layer in layers:
            if not any(layer is other for other in self._watched):
                for event in _events_of(layer):
                    event.connect(self._on_viewer_layer)
        self._watched = list(layers)

    def _checked_rows(self) -> list[int]:
        """Return the checked rows of the list."""
        return [
            r for r in range(self.list.count()) if self.list.item(r).checkState() == Qt.CheckState.Checked
        ]

    # ---------------------------------------------------------------- handlers

    def _on_viewer_layer(self, event: Any) -> None:
        """Report other data or axes of a picked layer."""
        source = getattr(event.source, "__wrapped__", event.source)
        if any(layer is source for layer in self.layers):
            self.changed.emit()

    def _on_user_activated(self, row: int) -> None:
        """Remember that the user picked."""
        self.matched.clear()
        self.by_user = True
        self._emptied = row == len(self._layers)

    def _on_user_index(self, row: int) -> None:
        """Follow the picked layer, whoever picked it."""
        self._chosen = self._layers[row] if 0 <= row < len(self._layers) else None
        self.changed.emit()

    def _on_user_many(self, many: bool) -> None:
        """Pick one layer, or several."""
        if many:
            self.by_user = True
            chosen = self._chosen() if self._chosen is not None else None
            if not self._checked_rows():
                for row, layer in enumerate(self._layers):
                    if layer() is chosen:
                        self.list.item(row).setCheckState(Qt.CheckState.Checked)
        self._stack.setVisible(many)
        self.combo.setEnabled(not many)
        self.changed.emit()


def _events_of(layer: ImageLayer) -> tuple[Any, ...]:
    """Return the events of a layer that a picker follows."""
    return layer.events.data, layer.events.axis_labels, layer.events.scale, layer.events.units
