"""The axes and channel names that the user types for the picked image, beside its shape."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QLabel, QLineEdit, QSizePolicy

from napari_btn.core.data.image import shown_unit
from napari_btn.core.settings import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Image as ImageLayer

    from napari_btn.widgets.shared.layers import LayerImage

__all__ = ["PairAxes"]


class PairAxes:
    """The fields for axes and channel names of one image at a time, which the form lays out."""

    def __init__(self) -> None:
        self.letters = QLineEdit()
        self.letters.setObjectName("axes")
        self.letters.setMaximumWidth(64)
        self.letters.setToolTip(
            "One letter for each dimension of the noisy image: S scene or repeat, T time, C channel, Z Y X "
            "space. The clean image has the same ones, or lacks S and T."
        )
        self.letters.setAccessibleName("Axes")
        self.guessed = QLabel("guessed")
        self.guessed.setObjectName("axes_guessed")
        self.guessed.setToolTip(
            "The layer doesn't name its axes, so they were guessed from its shape. Correct them here if "
            "they are wrong."
        )
        self.shape = QLabel()
        self.shape.setObjectName("shape")
        self.shape.setWordWrap(True)
        self.shape.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.channels = QLineEdit()
        self.channels.setObjectName("channel_names")
        self.channels.setPlaceholderText("names, such as Si, Al, Fe")
        self.channels.setToolTip("Names of the channels in order, separated by commas: Si, Al, Fe.")
        self.channels.setAccessibleName("Channel names")
        self._typed_for: object = None

    def clear(self) -> None:
        """Show the axes and channels of no image."""
        self._typed_for = None
        for line in (self.letters, self.channels):
            line.blockSignals(True)
            line.clear()
            line.blockSignals(False)
        self.shape.clear()

    def typed(self, image: LayerImage, layers: Sequence[ImageLayer]) -> LayerImage:
        """Return an image with the typed axes and channel names, which are reset for other layers.

        Parameters
        ----------
        image : LayerImage
            As read from the layers.
        layers : sequence of napari.layers.Image
            The picked layers.
        """
        picked = (tuple(id(layer) for layer in layers), image.axes, image.shape)
        if picked != self._typed_for:
            self._typed_for = picked
            for line, start in (
                (self.letters, image.axes),
                (self.channels, ", ".join(image.channel_names or ())),
            ):
                line.blockSignals(True)
                line.setText(start)
                line.blockSignals(False)
        text = self.letters.text().strip()
        if text.upper() != image.axes:
            image = image.with_axes(text)
        if "C" in image.axes:
            names = tuple(filter(None, listed(self.channels.text())))
            image = replace(image, channel_names=names or None)
        parts = [" x ".join(str(n) for n in image.shape)]
        if image.pixel_size:
            sizes = dict.fromkeys(f"{v:.4g}" for v in image.pixel_size)
            parts.append(f"{' x '.join(sizes)}\N{NO-BREAK SPACE}{shown_unit(image.unit)}")
        self.shape.setText(" · ".join(parts))
        return image
