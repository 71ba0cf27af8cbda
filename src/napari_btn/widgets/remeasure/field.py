"""The prediction that the Re-measure dock works on, and the frame of its regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_btn.widgets.remeasure.rectangles import Frame
from napari_btn.workflow.propose import pixel_size_of, sizes_of

if TYPE_CHECKING:
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image

__all__ = ["Field"]


class Field:
    """A prediction and its image, in a viewer.

    Parameters
    ----------
    viewer : napari.Viewer
        Viewer with the layers.
    prediction : Prediction
        Of the source.
    source : Image
        Image that was predicted.
    """

    def __init__(self, viewer: Any, prediction: Prediction, source: Image) -> None:
        self._viewer = viewer
        self.prediction, self.source = prediction, source
        self.frame = Frame(sizes_of(prediction), *pixel_size_of(prediction))

    @property
    def channel_names(self) -> list[str]:
        """Names of the channels; "0" for the only one of an image without names."""
        return list(self.prediction.channel_names) or ["0"]

    def anchor(self) -> Any:
        """Return a layer with the axes of the prediction; None if it was removed."""
        layers = self._viewer.layers
        names = (f"{self.source.name} median", self.source.name)
        found = [layers[name] for name in names if name in layers]
        return next((layer for layer in found if layer.ndim == len(self.prediction.axes)), None)

    def at(self) -> dict[str, int]:
        """Return the index of the scene in sight, and of the channel, by axis letter."""
        anchor = self.anchor() if set("STC") & set(self.frame.axes) else None
        if anchor is None:
            return {}
        point = anchor.world_to_data(self._viewer.dims.point[-anchor.ndim :])
        axes = self.prediction.axes
        return {a: round(float(v)) for a, v in zip(axes, point, strict=True) if a in "STC"}

    def scene_in_sight(self) -> int:
        """Return the number of the scene in sight."""
        return self.frame.scene(self.at())
