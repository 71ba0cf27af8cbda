"""The layers that say which pixels of a pair count, are painted or broken, and how its noisy image is repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.defects import SATURATED
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.masks import MaskPicker, mask_over
from napari_btn.widgets.shared.panels import push_button

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.data.detector import Detector
    from napari_btn.widgets.shared.layers import LayerImage

__all__ = ["PairMasks"]

_VALID_HELP = (
    "Which pixels are used: all of them; those without NaN or infinite values; or those where a layer "
    "isn't zero."
)
_REGIONS_HELP = (
    "Labels layer that is painted over the noisy image, and used instead of the split: 1 for training, 2 for "
    "calibration, 3 (optional) for the report. The rest is not used. Leave a strip between 1 and the others; "
    "a note says how wide."
)
_REPAIR_HELP = (
    "Before training, subtract the dark frame, divide by the flat field, and fill broken pixels from their "
    "neighbours; broken pixels are not used in training. Every image that the trained networks are applied "
    "to is repaired in the same way."
)
_DEFECTS_HELP = (
    "Labels layer that is not zero where a pixel is broken, used instead of the broken pixels that are found "
    "automatically. In the layer of 'Show defects', saturated pixels (3) don't count as broken."
)


class PairMasks:
    """The pickers of masks and of a detector's frames, which the view of the dock lays out."""

    def __init__(self) -> None:
        self.valid = MaskPicker("valid", _VALID_HELP, ("everywhere", "where finite"), ("Labels", "Image"))
        self.regions = MaskPicker("regions", _REGIONS_HELP, ("as split",), ("Labels",))
        self.repair = push_button("repair", "Repair", _REPAIR_HELP)
        self.repair.setCheckable(True)
        self.dark = MaskPicker(
            "dark", "Frame without light, which is subtracted.", ("no dark frame",), ("Image",)
        )
        self.flat = MaskPicker(
            "flat", "Frame of even light, by which images are divided.", ("no flat field",), ("Image",)
        )
        self.defects = MaskPicker("defects", _DEFECTS_HELP, ("as found",), ("Labels",), ("defects",))
        self._painted: tuple[tuple[Any, ...], dict[str, NDArray[Any]]] | None = None

    @property
    def pickers(self) -> tuple[MaskPicker, ...]:
        """All pickers of layers."""
        return (self.valid, self.regions, self.dark, self.flat, self.defects)

    def over(self, image: LayerImage) -> tuple[Any, NDArray[Any] | None, tuple[Any, ...]]:
        """Return the masks of valid and painted pixels of an image, and a key that identifies them.

        Parameters
        ----------
        image : LayerImage

        Returns
        -------
        valid : array of bool, "finite" or None
            True where a pixel counts; None for all.
        regions : ndarray of int, or None
            Painted areas; None without any.
        key : tuple
            Changes with the picked layers, and when they are painted.

        Raises
        ------
        ValueError
            If a mask doesn't lie on the image pixel by pixel.
        """
        frames = (self.dark, self.flat, self.defects) if self.repair.isChecked() else ()
        key: list[Any] = [(p.choice, id(p.layer), p.version) for p in (self.valid, self.regions, *frames)]
        known = (*key, image.axes, image.shape)
        if self._painted is None or self._painted[0] != known:
            painted = {}
            for name, picker in (("valid", self.valid), ("regions", self.regions)):
                if picker.layer is not None:
                    painted[name] = mask_over(picker.layer, image.axes, image.shape)
            self._painted = (known, painted)
        painted = self._painted[1]
        valid = painted["valid"] != 0 if "valid" in painted else "finite" if self.valid.choice > 0 else None
        return valid, painted.get("regions"), tuple(key)

    def detector(self, image: LayerImage) -> Detector | None:
        """Return the frames and the mask by which an image is repaired; None if it is taken as it is.

        Parameters
        ----------
        image : LayerImage

        Raises
        ------
        ValueError
            If the mask of broken pixels doesn't lie on the image pixel by pixel.
        """
        if not self.repair.isChecked():
            return None
        from napari_btn.core.data.detector import Detector

        dark, flat = (None if p.layer is None else p.layer.data for p in (self.dark, self.flat))
        return Detector(dark, flat, self._broken(image))

    def _broken(self, image: LayerImage) -> NDArray[np.bool_] | None:
        """Return the given mask of broken pixels in the order of the image's axes; None if they are found."""
        layer = self.defects.layer
        if layer is None:
            return None
        marked, space = mask_over(layer, image.axes, image.shape), [a for a in "ZYX" if a in image.axes]
        # saturated pixels of the inspector's layer are not broken
        broken = (marked != 0) & ((marked != SATURATED) | (KEY not in layer.metadata))
        return np.asarray(broken.transpose([space.index(a) for a in image.axes if a in space]), bool)
