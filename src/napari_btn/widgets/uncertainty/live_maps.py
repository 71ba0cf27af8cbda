"""Layers of exceedance and claims that follow a threshold, first in the plane in sight."""

from __future__ import annotations

from collections import OrderedDict
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import shown_amount, shown_unit
from napari_btn.core.progress import Progress
from napari_btn.widgets.shared.overlays import KINDS, layer_name, map_layer, our_layer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.exceedance import LockedExceedance
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step

__all__ = ["LIVE", "LiveMaps"]

LIVE = tuple(kind.name for kind in KINDS.values() if kind.added == "threshold")
"""Names of the maps that follow the threshold."""
Key = tuple[int, ...]
_KEPT_VALUES = 60_000_000  # 240 MB of float32 quantiles of the planes last in sight


class LiveMaps:
    """Layers ``<source> P(> t)`` and ``<source> flagged > t`` of a prediction.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layers.
    prediction : Prediction
        With calibrated quantiles.
    source : str
        Name of what was predicted.
    """

    def __init__(self, viewer: Any, prediction: Prediction, source: str) -> None:
        self.viewer, self.prediction = viewer, prediction
        self.source = source
        self.axes = prediction.axes
        self.shape = tuple(int(n) for n in prediction.median.shape)
        self._size = dict(zip(self.axes, self.shape, strict=True))
        self.plane_shape = tuple(self._size[a] for a in self.axes if a in "YX")
        self._fixed = [a for a in self.axes if a not in "YX"]
        self._planes: OrderedDict[Key, NDArray[np.float32]] = OrderedDict()
        self._bounds: dict[Key, tuple[float, NDArray[np.float32]]] = {}
        self._drawn: dict[str, dict[Key, tuple[float, ...]]] = {kind: {} for kind in LIVE}
        self._locked: dict[int, LockedExceedance] = {}

    # ---------------------------------------------------------------- where

    def key(self, at: Mapping[str, int]) -> Key:
        """Return the key of a plane, from an index by axis letter."""
        return tuple(int(np.clip(at.get(a, 0), 0, self._size[a] - 1)) for a in self._fixed)

    def at(self, key: Key) -> dict[str, int]:
        """Return the index by axis letter of a plane."""
        return dict(zip(self._fixed, key, strict=True))

    def keys_of(self, channel: int) -> list[Key]:
        """Return the keys of all planes of a channel."""
        sizes = [range(self._size[a]) if a != "C" else (channel,) for a in self._fixed]
        return list(product(*sizes))

    def _where(self, key: Key) -> tuple[Any, ...]:
        """Return the index of a plane in a map."""
        at = self.at(key)
        return tuple(at.get(a, slice(None)) for a in self.axes)

    def quantiles(self, key: Key) -> NDArray[np.float32]:
        """Return the quantiles of a plane, kept while it is in sight."""
        if key not in self._planes:
            self._planes[key] = self.prediction.planes(self.at(key))
            while len(self._planes) > 1 and sum(p.size for p in self._planes.values()) > _KEPT_VALUES:
                self._bounds.pop(self._planes.popitem(last=False)[0], None)
        self._planes.move_to_end(key)
        return self._planes[key]

    # ---------------------------------------------------------------- probabilities

    def lock(self, locked: Mapping[int, LockedExceedance]) -> bool:
        """Take the recalibration of each locked channel; return True if maps became stale."""
        channels = {*self._locked, *locked}
        changed = [c for c in channels if self._locked.get(c) is not locked.get(c)]
        for channel in changed:
            self._drawn["exceedance"].update((key, ()) for key in self.keys_of(channel))
        self._locked = dict(locked)
        return bool(changed)

    def locked(self, channel: int, threshold: float) -> LockedExceedance | None:
        """Return the recalibration at a threshold of a channel; None if that is not locked."""
        found = self._locked.get(channel)
        return found if found is not None and found.threshold == threshold else None

    def probability(
        self, at: Mapping[str, int], threshold: float, planes: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the exceedance with some axes fixed, recalibrated at the threshold if that is locked."""
        locked = self.locked(at.get("C", 0), threshold)
        return self.prediction.probability(at, threshold, locked=locked, planes=planes)

    def area(self, key: Key) -> str:
        """Return the sum of a plane of the exceedance map as an area, with its unit; empty without a map."""
        layer, size = self.layer("exceedance"), self.prediction.pixel_size
        if layer is None:
            return ""
        pixels = float(np.nansum(layer.data[self._where(key)], dtype=np.float64))
        unit = shown_unit(self.prediction.unit)
        if size is None or unit == "px":
            return f"{shown_amount(pixels)} pixels"
        return f"{shown_amount(pixels * float(np.prod(size[-2:])))} {unit}²"

    # ---------------------------------------------------------------- layers

    def layer(self, kind: str) -> Any:
        """Return the layer of a map; None if there is none."""
        return our_layer(self.viewer, layer_name(self.source, kind), kind)

    def shows(self, kind: str) -> bool:
        """Return True if the layer shows planes of this prediction."""
        layer = self.layer(kind)
        return layer is not None and layer.data.shape == self.shape and bool(self._drawn[kind])

    def add(self, kind: str, record: Mapping[str, Any]) -> Any:
        """Return the layer, made if there is none."""
        if self.shows(kind):
            return self.layer(kind)
        self._drawn[kind] = {}
        dtype = np.uint8 if KINDS[kind].contrast == "none" else np.float32
        return map_layer(self.viewer, kind, self.source, np.zeros(self.shape, dtype), record)

    def stale(self, kind: str, key: Key, asked: tuple[float, ...]) -> bool:
        """Return True if a plane of a layer shows another threshold."""
        return self._drawn[kind].get(key) != asked

    def draw(self, kind: str, key: Key, threshold: float, confidence: float) -> bool:
        """Update a plane of a layer; return True if it was drawn."""
        layer = self.layer(kind)
        asked = _asked(kind, threshold, confidence)
        if layer is None or not self.stale(kind, key, asked):
            return False
        self._put(layer, kind, key, asked, self._plane(kind, key, threshold, confidence))
        layer.refresh(extent=False, thumbnail=False, highlight=False)
        return True

    def _plane(self, kind: str, key: Key, threshold: float, confidence: float) -> NDArray[Any]:
        """Return one plane of a map."""
        at = self.at(key)
        if kind == "exceedance":
            return self.probability(at, threshold, self.quantiles(key))
        kept = self._bounds.get(key)
        if kept is None or kept[0] != confidence:
            kept = (confidence, self.prediction.bound(at, confidence, planes=self.quantiles(key)))
            self._bounds[key] = kept
        return kept[1] > threshold

    def _put(self, layer: Any, kind: str, key: Key, asked: tuple[float, ...], plane: NDArray[Any]) -> None:
        """Write a plane into a layer's data."""
        layer.data[self._where(key)] = plane
        self._drawn[kind][key] = asked

    # ---------------------------------------------------------------- the rest of a volume

    def rest(self, kinds: Sequence[str], channel: int, threshold: float, confidence: float) -> list[Key]:
        """Return the planes of a channel that show another threshold in one of the layers."""
        return [
            key
            for key in self.keys_of(channel)
            if any(self.stale(kind, key, _asked(kind, threshold, confidence)) for kind in kinds)
        ]

    def rest_steps(
        self, kinds: Sequence[str], keys: Sequence[Key], threshold: float, confidence: float
    ) -> Step[dict[str, dict[Key, NDArray[Any]]]]:
        """Compute planes of the maps; a step that changes nothing."""
        made: dict[str, dict[Key, NDArray[Any]]] = {kind: {} for kind in kinds}
        for done, key in enumerate(keys):
            yield Progress(done, len(keys), "Exceedance")
            at = self.at(key)
            planes = self.prediction.planes(at)
            for kind in kinds:
                made[kind][key] = (
                    self.probability(at, threshold, planes)
                    if kind == "exceedance"
                    else self.prediction.bound(at, confidence, planes=planes) > threshold
                )
        return made

    def take(
        self, made: Mapping[str, Mapping[Key, NDArray[Any]]], threshold: float, confidence: float
    ) -> None:
        """Write the planes of `rest_steps` into the layers that still exist."""
        for kind, planes in made.items():
            layer = self.layer(kind)
            if layer is None:
                continue
            for key, plane in planes.items():
                self._put(layer, kind, key, _asked(kind, threshold, confidence), plane)
            layer.refresh(extent=False)

    def claimed(self, key: Key) -> int:
        """Return the number of claimed pixels of a plane."""
        layer = self.layer("claim")
        return 0 if layer is None else int(np.count_nonzero(layer.data[self._where(key)]))

    def take_selection(self, channel: int, mask: NDArray[np.bool_]) -> None:
        """Show a selected set of a channel instead of claims by pixel."""
        layer = self.layer("claim")
        if layer is None:
            return
        index = tuple(channel if a == "C" else slice(None) for a in self.axes)
        layer.data[index] = mask
        for key in self.keys_of(channel):
            self._drawn["claim"][key] = ()
        layer.refresh(extent=False)


def _asked(kind: str, threshold: float, confidence: float) -> tuple[float, ...]:
    """Return the settings that a plane depends on."""
    return (threshold,) if kind == "exceedance" else (threshold, confidence)
