"""The prediction that the Re-measure dock works on, and the frame of its regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import shown_names
from napari_btn.widgets.remeasure.rectangles import Frame
from napari_btn.widgets.shared.masks import drawn_over, mask_over
from napari_btn.workflow.propose import pixel_size_of, sizes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image
    from napari_btn.widgets.remeasure.rectangles import Place

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
        """Names of the channels; "image" for the only one of an image without names."""
        return list(shown_names(self.prediction.channel_names))

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

    def area(self, layer: Any, measured: Iterable[Place] = ()) -> NDArray[np.bool_] | None:
        """Return the pixels that count in a search, over the space axes in the order ZYX; None for all.

        Parameters
        ----------
        layer : napari.layers.Labels or Shapes, optional
            Where it is painted, or inside its shapes; None for the whole image.
        measured : iterable of Place
            Windows that are left out.

        Raises
        ------
        ValueError
            If the layer does not lie on the image, nothing is painted, or nothing is left.
        """
        measured = list(measured)
        if layer is None and not measured:
            return None
        if layer is None:
            area = np.ones(self.frame.shape, dtype=bool)
        else:
            area = self._marked(layer)
            if not area.any():
                raise ValueError(
                    f"Layer '{layer.name}' has nothing on the image. Paint or draw the area, or choose 'whole "
                    "image'."
                )
        for start, size in measured:
            area[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = False
        if not area.any():
            raise ValueError(
                "All of the area was measured again. Untick 'not measured yet', or choose another area."
            )
        return area

    def _marked(self, layer: Any) -> NDArray[np.bool_]:
        """Return the pixels that a layer marks."""
        axes, shape = self.prediction.axes, self.prediction.median.shape
        if not hasattr(layer, "shape_type"):
            return np.asarray(mask_over(layer, axes, shape) != 0)
        anchor = self.anchor()
        if anchor is None:
            raise ValueError(f"The layer '{self.source.name}' was removed. Open and denoise the image again.")
        return drawn_over(layer, anchor, axes, shape)
