"""Pick a layer that marks pixels: as valid, for training, or as the area where windows are proposed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox

from napari_btn.io.outlines import inside
from napari_btn.widgets.shared.layers import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from weakref import ReferenceType

    from napari.layers import Layer, Shapes
    from numpy.typing import NDArray

__all__ = ["MaskPicker", "drawn_over", "mask_over"]

_ROUND = np.linspace(
    0, 2 * np.pi, 90, endpoint=False
)  # an ellipse as a polygon, a pixel off at 1,600 px across


class MaskPicker(QComboBox):
    """A combo box of layers that may be a mask, after entries that need none.

    Parameters
    ----------
    name : str
        Object name.
    help_text : str
        Tooltip.
    choices : sequence of str
        Entries that are no layers; the first is what holds when nothing is picked.
    kinds : sequence of str
        Kinds of layers that are offered: "Labels", "Image", "Shapes".
    maps : sequence of str
        Kinds of results that are offered, too.
    """

    changed = Signal()
    """Emitted when another entry is picked, or its layer is painted."""

    def __init__(
        self,
        name: str,
        help_text: str,
        choices: Sequence[str],
        kinds: Sequence[str],
        maps: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._choices, self._kinds, self._maps = tuple(choices), tuple(kinds), tuple(maps)
        self._layers: list[ReferenceType[Layer]] = []
        self._watched: Layer | None = None
        self.version = 0
        """Number of paintings of the picked layer."""
        self.setObjectName(name)
        self.setToolTip(help_text)
        self.setAccessibleName(name.replace("_", " ").capitalize())
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.addItems(self._choices)
        self.currentIndexChanged.connect(self._on_user_index)

    @property
    def choice(self) -> int:
        """Number of the entry that is no layer; -1 where a layer is picked."""
        return self.currentIndex() if self.currentIndex() < len(self._choices) else -1

    @property
    def layer(self) -> Any:
        """The picked layer; None where none is."""
        row = self.currentIndex() - len(self._choices)
        return self._layers[row]() if 0 <= row < len(self._layers) else None

    def refresh(self, layers: Sequence[Layer]) -> None:
        """Offer these layers; a picked one stays picked while it is among them.

        Parameters
        ----------
        layers : sequence of napari.layers.Layer
            Of any kind; results are left out, but for those of ``maps``.
        """
        from napari import layers as known

        kinds = tuple(getattr(known, kind) for kind in self._kinds)
        own = [a for a in layers if isinstance(a, kinds)]
        own = [a for a in own if KEY not in a.metadata or a.metadata[KEY].get("map") in self._maps]
        own = [a for a in own if not getattr(a, "rgb", False)]
        before, choice = self.layer, max(self.choice, 0)
        self._layers = [ref(a) for a in own]
        self.blockSignals(True)
        self.clear()
        self.addItems([*self._choices, *(a.name for a in own)])
        row = next((i for i, a in enumerate(own) if a is before), -1)
        self.setCurrentIndex(choice if row < 0 else len(self._choices) + row)
        self.blockSignals(False)
        if self.layer is not before:
            self._on_user_index()

    def leave(self) -> None:
        """Disconnect from all layers."""
        self._watch(None)

    def _watch(self, layer: Layer | None) -> None:
        """Follow the painting of this layer, and of no other."""
        for old, join in ((self._watched, False), (layer, True)):
            for name in ("data", "paint"):
                event = None if old is None else getattr(old.events, name, None)
                if event is not None:
                    (event.connect if join else event.disconnect)(self._on_viewer_paint)
        self._watched = layer

    def _on_user_index(self, row: int = 0) -> None:
        """Follow the picked entry, whoever picked it."""
        del row
        self._watch(self.layer)
        self.changed.emit()

    def _on_viewer_paint(self, event: Any = None) -> None:
        """Report that the picked layer was painted."""
        del event
        self.version += 1
        self.changed.emit()


def mask_over(layer: Any, axes: str, shape: Sequence[int]) -> NDArray[Any]:
    """Return a copy of a layer's values over the space axes of an image, in the order ZYX.

    A layer that napari made for the image has its channels and scenes too; what is painted in one of them
    holds for all.

    Parameters
    ----------
    layer : napari.layers.Labels or Image
        As picked.
    axes : str
        Axes of the image.
    shape : sequence of int
        Its shape.

    Returns
    -------
    ndarray
        The largest value over channels, scenes and time.

    Raises
    ------
    ValueError
        If the layer doesn't lie on the image pixel by pixel.
    """
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    size = dict(zip(axes, shape, strict=True))
    space = "".join(a for a in axes if a in "ZYX")
    for held in (axes, axes.replace("C", ""), space):
        if tuple(data.shape) == tuple(size[a] for a in held):
            values = np.nan_to_num(np.asarray(data))
            flat = values.max(axis=tuple(i for i, a in enumerate(held) if a not in "ZYX"))
            return np.array(flat.transpose([space.index(a) for a in "ZYX" if a in space]))
    wanted = " x ".join(str(size[a]) for a in space)
    came = " x ".join(str(n) for n in data.shape)
    raise ValueError(
        f"Layer '{layer.name}' has {came} pixels, noisy has {wanted} along {space}; they must have the same "
        "size. Select the noisy layer, and add a new Labels layer."
    )


def drawn_over(layer: Shapes, image: Layer, axes: str, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return the pixels of an image inside the shapes of a layer, over the space axes in the order ZYX.

    A shape counts in all planes, channels and scenes; lines and paths have no inside.

    Parameters
    ----------
    layer : napari.layers.Shapes
        As picked; it may stand anywhere in the viewer.
    image : napari.layers.Layer
        Layer of the image.
    axes : str
        Axes of the image.
    shape : sequence of int
        Its shape.
    """
    plane = [axes.index(a) for a in "YX"]
    rows, columns = (int(shape[k]) for k in plane)
    found = np.zeros((rows, columns), dtype=bool)
    for corners, kind in zip(layer.data, layer.shape_type, strict=True):
        if kind in ("line", "path"):
            continue
        points = np.asarray(corners, dtype=float)
        if kind == "ellipse":
            # napari keeps the corners of its bounding rectangle
            half = [(points[k] - points[0])[None] / 2 for k in (1, 3)]
            points = (
                points.mean(axis=0) + np.cos(_ROUND)[:, None] * half[0] + np.sin(_ROUND)[:, None] * half[1]
            )
        world = np.array([layer.data_to_world(point) for point in points])
        # napari aligns layers at their last axis
        missing = np.zeros((len(world), max(image.ndim - world.shape[1], 0)))
        at = np.hstack([missing, world])[:, -image.ndim :]
        ring = np.array([image.world_to_data(point) for point in at])[:, plane]
        found |= inside(ring, (rows, columns))
    space = [a for a in "ZYX" if a in axes]
    return np.array(np.broadcast_to(found, [int(shape[axes.index(a)]) for a in space]))
