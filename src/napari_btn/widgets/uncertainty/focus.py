"""The prediction, plane and threshold that the Uncertainty dock looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.exceedance import can_lock, lock_notes
from napari_btn.session import Threshold
from napari_btn.widgets.shared.overlays import layer_name, our_layer
from napari_btn.widgets.shared.results import record_of
from napari_btn.widgets.shared.thresholds import has_levels
from napari_btn.widgets.uncertainty.live_maps import LIVE, LiveMaps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image

__all__ = ["Focus"]

_ANCHORS = ("median", "lower", "width")


class Focus:
    """A prediction, with the plane in sight and the threshold that is asked for.

    Parameters
    ----------
    viewer : napari.Viewer
        Viewer with the layers.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.prediction: Prediction | None = None
        self.source: Image | None = None
        self.live: LiveMaps | None = None
        """Exceedance and claims; None without calibrated quantiles."""
        self.asked = Threshold((0.0,))
        self.locks: Mapping[str, float] = {}
        """Locked threshold by channel name."""

    def show(self, prediction: Prediction | None, source: Image | None) -> None:
        """Look at another prediction, or at none.

        Parameters
        ----------
        prediction : Prediction, optional
            Of the source.
        source : Image, optional
            Image that was predicted.
        """
        known = prediction is not None and source is not None
        self.prediction, self.source = (prediction, source) if known else (None, None)
        self.live, self.locks = None, {} if self.prediction is None else self.prediction.locks
        if prediction is not None and source is not None and has_levels(prediction):
            self.live = LiveMaps(self.viewer, prediction, source.name)

    @property
    def name(self) -> str:
        """Name of the source; empty without one."""
        return "" if self.source is None else self.source.name

    def locked(self) -> bool:
        """Return True if the threshold that is asked for is locked in its channel."""
        return self.locked_thresholds().get(self.asked.channel) == self.asked.value

    def locked_thresholds(self) -> dict[int, float]:
        """Return the locked threshold of each channel that has one which the held-out blocks can recalibrate."""
        held_out = None if self.prediction is None else self.prediction.held_out
        if self.prediction is None or held_out is None:
            return {}
        names = self.prediction.channel_names or ("0",)
        known = {c: self.locks[name] for c, name in enumerate(names) if name in self.locks}
        # a bundle of an earlier version may lock any threshold
        return {c: t for c, t in known.items() if can_lock(held_out, t, channel=c)}

    def unused_lock(self) -> str:
        """Return why the threshold that is asked for is locked but not used; empty if that is not so."""
        held_out = None if self.prediction is None else self.prediction.held_out
        if self.prediction is None or held_out is None:
            return ""
        names = self.prediction.channel_names or ("0",)
        name, asked = names[self.asked.channel], self.asked.value
        if self.locks.get(name) != asked:
            return ""
        return " ".join(note.text for note in lock_notes(held_out, {name: asked}, names))

    def layer(self, kind: str) -> Any:
        """Return the layer of a map; None if there is none.

        Parameters
        ----------
        kind : str
            Name of a map kind.

        Returns
        -------
        napari.layers.Layer or None
            The layer.
        """
        return None if self.source is None else our_layer(self.viewer, layer_name(self.name, kind), kind)

    def anchor(self) -> Any:
        """Return any layer in the axes of the prediction; None if there is none."""
        if self.source is None or self.prediction is None:
            return None
        found = [self.layer(kind) for kind in (*_ANCHORS, *(LIVE if self.live is not None else ()))]
        found += [self.viewer.layers[self.name]] if self.name in self.viewer.layers else []
        ndim = len(self.prediction.axes)
        return next((layer for layer in found if layer is not None and layer.ndim == ndim), None)

    def point(self) -> NDArray[np.float64] | None:
        """Return the position of the sliders, in pixels of the prediction; None if no layer gives it."""
        anchor = self.anchor()
        if anchor is None:
            return None
        return np.asarray(anchor.world_to_data(self.viewer.dims.point), dtype=np.float64)

    def at(self) -> dict[str, int]:
        """Return the index, by axis letter, of the plane in sight, in the channel that is asked for."""
        prediction = self.prediction
        if prediction is None:
            return {}
        point = self.point()
        if point is None:
            point = np.zeros(len(prediction.axes))
        at = {
            a: int(np.clip(round(float(v)), 0, n - 1))
            for a, v, n in zip(prediction.axes, point, prediction.median.shape, strict=True)
            if a not in "YX"
        }
        return {**at, "C": self.asked.channel}

    def record(self, caption: str) -> dict[str, Any]:
        """Return the metadata of a layer that depends on the threshold.

        Parameters
        ----------
        caption : str
            Sentence about the map at this threshold.

        Returns
        -------
        dict
            With thresholds, those that are locked, confidence and caption.
        """
        assert self.prediction is not None
        names = self.prediction.channel_names or ("0",)
        return {
            **record_of(self.prediction),
            "thresholds": list(self.asked.values),
            "locks": {names[c]: t for c, t in self.locked_thresholds().items()},
            "confidence": self.asked.confidence,
            "caption": caption,
        }
