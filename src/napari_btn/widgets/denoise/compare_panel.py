"""The Compare part of the Denoise dock: classical filters beside the trained networks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_btn.core.data.pairs import Pair
from napari_btn.core.settings import EnsembleSettings
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.contrast import share_contrast
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.notes import NoteLabel
from napari_btn.widgets.shared.overlays import KINDS, our_layer
from napari_btn.widgets.shared.panels import lay_out, push_button
from napari_btn.widgets.shared.side_by_side import side_by_side

if TYPE_CHECKING:
    from napari_btn.core.evaluation.comparison import Comparison
    from napari_btn.session import Session
    from napari_btn.widgets.denoise.view import DenoiseView
    from napari_btn.widgets.denoise.work import Work
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.widgets.shared.notes import Theme

__all__ = ["ComparePanel", "Comparer"]

_HELP = (
    "Denoise the noisy image with classical filters, each with its best parameters, and with the trained "
    "networks if they know these channels. All results become layers, side by side."
)
_HEADS = {
    "method": "Filter; 'ensemble' is the median of the trained networks.",
    "channel": "Channel of the image.",
    "PSNR": "Peak signal-to-noise ratio against the clean image on the held-out part, in dB: higher is better.",
    "SSIM": "Structural similarity to the clean image on the held-out part: higher is better.",
    "correlation": "Correlation with the clean image on the held-out part: higher is better.",
    "loss": "Mean squared difference to the noisy image at pixels that were hidden: lower is better.",
    "coverage": "Share of the pixels inside the interval, which was calibrated on them; the same for all methods.",
    "width": "Mean width of the interval with that coverage, calibrated in the same way (split conformal) for all "
    "methods: narrower is better.",
    "CPU-s": "CPU time for the image in seconds, without the training of the networks.",
    "CPU-s to tune": "CPU time in seconds to find the best parameters of the filter.",
}


class ComparePanel(QWidget):
    """A button that compares, and the table of figures.

    Parameters
    ----------
    theme : Theme
        Colours of the viewer.
    """

    asked = Signal()
    """Emitted when the user asks for the comparison."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self.start = push_button("compare", "Compare filters", _HELP)
        self.note = NoteLabel(theme, "compare_note")
        self.table = QTableWidget()
        self.table.setObjectName("compare_table")
        self.table.setAccessibleName("Methods compared")
        self.table.setToolTip("One row per method and channel.")
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.hide()
        lay_out(self, self.start, self.note, self.table, above_px=4)
        self.start.clicked.connect(self.asked.emit)

    def set_busy(self, reason: str) -> None:
        """Allow a comparison, or show why it is impossible.

        Parameters
        ----------
        reason : str
            Empty where it is possible.
        """
        self.start.setEnabled(not reason)
        self.start.setToolTip(reason or _HELP)

    def show_comparison(self, comparison: Comparison) -> None:
        """Show the figures, channel by channel.

        Parameters
        ----------
        comparison : Comparison
        """
        columns = comparison.table
        channel = columns["channel"].tolist()
        order = sorted(range(len(channel)), key=lambda row: channel.index(channel[row]))
        self.table.setSortingEnabled(False)
        self.table.setColumnCount(len(columns))
        self.table.setRowCount(len(channel))
        for k, (head, values) in enumerate(columns.items()):
            title = QTableWidgetItem(head)
            title.setToolTip(_HEADS[head])
            self.table.setHorizontalHeaderItem(k, title)
            for row, source in enumerate(order):
                self.table.setItem(row, k, _item(values[source]))
        shown = min(len(channel), 12)
        height = self.table.horizontalHeader().height() + shown * self.table.rowHeight(0) + 18
        self.table.setFixedHeight(height)
        self.table.show()

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        self.note.redraw()


def _item(value: Any) -> QTableWidgetItem:
    """Return a cell: text to the left, a number to the right, nothing where there is none."""
    if isinstance(value, str):
        return QTableWidgetItem(value)
    item = QTableWidgetItem("" if value != value else f"{value:.4g}")
    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item


class Comparer:
    """Compares methods on the picked images, and shows the result.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layers.
    view : DenoiseView
        Form with the panel and the picked images.
    work : Work
        Runs the comparison.
    session : Session
        Has the trained networks.
    """

    def __init__(self, viewer: Any, view: DenoiseView, work: Work, session: Session) -> None:
        self._viewer, self._view, self._work, self._session = viewer, view, work, session
        view.compare.asked.connect(self._on_user_compares)

    def _on_user_compares(self) -> None:
        """Compare on the picked images."""
        source, inputs = self._view.pair.noisy_image(), self._view.pair.inputs
        if source is None or self._work.run is not None:
            return
        if inputs is None or inputs.noisy is None:
            pair = Pair(source.data, None, source.axes, source.channel_names)
        else:
            pair = inputs.pair
        model = self._session.model
        channels = dict(zip(source.axes, source.shape, strict=True)).get("C", 1)
        self._view.compare.note.say()
        if model is not None and (model.blueprint.n_in, model.blueprint.ndim) != (
            channels,
            sum(axis in "ZYX" for axis in source.axes),
        ):
            model = None
            self._view.compare.note.say(
                ("info", "The trained networks were trained on other channels, so they are left out.")
            )
        device = self._session.device
        settings = EnsembleSettings() if model is None else model.settings
        self._work.launch(
            "Comparing",
            lambda: engine.compare_steps(pair, engine.compute_on(device, settings), model=model),
            partial(self._show, source),
        )

    def _show(self, source: LayerImage, comparison: Comparison) -> None:
        """Show table and layers, the noisy image first."""
        self._view.compare.show_comparison(comparison)
        shown = [self._layer(source, comparison, name) for name in comparison.images]
        share_contrast(self._viewer, f"{source.name} compared", shown, comparison.axes)
        noisy = [layer for layer in self._viewer.layers if layer.name == source.name]
        side_by_side(self._viewer, [*noisy, *shown])
        self._view.progress.finish(
            f"Compared {len(shown)} methods on '{source.name}'; the results are layers now.",
            [layer.name for layer in shown],
        )

    def _layer(self, source: LayerImage, comparison: Comparison, name: str) -> Any:
        """Add the image of a method, or update its layer."""
        image = comparison.images[name]
        # the median of the trained networks has that name
        title = f"{source.name} {name} filter" if name in KINDS else f"{source.name} {name}"
        record = {
            "map": "compared",
            "method": name,
            "caption": f"{name} of '{source.name}', no interval",
            "axes": comparison.axes,
            "rows": [row for row in comparison.to_dict()["rows"] if row["method"] == name],
        }
        old = our_layer(self._viewer, title, "compared")
        if old is not None and old.data.shape == image.shape:
            old.data = image
            old.metadata = {**old.metadata, KEY: record}
            return old
        place = source.placement.onto(comparison.axes).to_layer()
        return self._viewer.add_image(image, name=title, metadata={KEY: record}, **place)
