"""Contrast limits of maps: shared by what shows the signal, and following the shown channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np

from napari_btn.core.calibration.maps import MAP_KINDS
from napari_btn.widgets.shared.layers import KEY, limits_of, read_layer
from napari_btn.widgets.shared.overlays import KINDS, WIDTH_PERCENTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.layers import Image as ImageLayer
    from numpy.typing import NDArray

__all__ = ["clean_of", "keep_contrast", "share_contrast", "stop_contrast"]

_SAMPLED = 100_000
_CHANNELS_CUT = 64
_PERCENTILE = 99.8
_CLEAN: WeakKeyDictionary[Any, dict[str, ref[ImageLayer]]] = WeakKeyDictionary()
_FOLLOWING: WeakKeyDictionary[Any, dict[str, list[Callable[[], None]]]] = WeakKeyDictionary()


def clean_of(viewer: Any, tag: str) -> ImageLayer | None:
    """Return the clean layer that shares the contrast of these maps; None without one.

    Parameters
    ----------
    viewer : napari.Viewer
        Has the layers.
    tag : str
        Name of the source.
    """
    known = _CLEAN.get(viewer, {}).get(tag)
    return None if known is None else known()


def stop_contrast(viewer: Any, tag: str) -> None:
    """Stop following the shown channel.

    Parameters
    ----------
    viewer : napari.Viewer
        Has the layers.
    tag : str
        Name of the source.
    """
    for stop in _FOLLOWING.get(viewer, {}).pop(tag, []):
        stop()


def keep_contrast(viewer: Any, tag: str, shown: dict[str, ImageLayer], clean: ImageLayer | None) -> None:
    """Set the contrast limits of the maps per channel, following the shown channel.

    Parameters
    ----------
    viewer : napari.Viewer
        Has the layers.
    tag : str
        Name of the source.
    shown : dict of str to napari.layers.Image
        By the names of the maps; a median among them.
    clean : napari.layers.Image, optional
        Clean layer of the same field, to share its contrast.
    """
    following = _FOLLOWING.setdefault(viewer, {})
    if tag in following:
        for stop in following.pop(tag):
            stop()
    median = shown["median"]
    axes = median.metadata[KEY]["axes"]
    channel_axis = axes.index("C") if "C" in axes else None
    signal = [shown[k.name] for k in MAP_KINDS if k.contrast == "signal" and k.name in shown]
    limits = None
    if clean is not None:
        _CLEAN.setdefault(viewer, {})[tag] = ref(clean)
    if clean is not None and clean in viewer.layers and not clean.rgb:
        clean_axes = read_layer(clean).axes
        clean_channel = clean_axes.index("C") if "C" in clean_axes else None
        clean_limits = _channel_limits(clean, clean_channel)
        if len(clean_limits) == (1 if channel_axis is None else median.data.shape[channel_axis]):
            limits, signal = clean_limits, [clean, *signal]
    if limits is None:
        limits = _channel_limits(median, channel_axis)
    stops = [_follow(viewer, signal, limits, channel_axis)]
    if len(signal) > 1:
        stops.append(_link(viewer, signal))
    for layer in (layer for name, layer in shown.items() if KINDS[name].contrast == "from zero"):
        upper = [(0.0, high) for _, high in _channel_limits(layer, channel_axis, WIDTH_PERCENTILE)]
        stops.append(_follow(viewer, [layer], upper, channel_axis))
    following[tag] = stops


def share_contrast(viewer: Any, tag: str, layers: Sequence[ImageLayer], axes: str) -> None:
    """Set one contrast for all layers, per channel and following the shown one.

    It is the middle of their own, because one of them may have a few wild pixels.

    Parameters
    ----------
    viewer : napari.Viewer
        Has the layers.
    tag : str
        Name of the group, for `stop_contrast`.
    layers : sequence of napari.layers.Image
    axes : str
        Of the layers.
    """
    stop_contrast(viewer, tag)
    channel_axis = axes.index("C") if "C" in axes else None
    middle = np.median([_channel_limits(layer, channel_axis) for layer in layers], axis=0)
    for layer in layers:
        least, most = layer.contrast_limits_range
        layer.contrast_limits_range = (min(middle.min(), least), max(middle.max(), most))
    limits = [(float(low), float(high)) for low, high in middle]
    _FOLLOWING.setdefault(viewer, {})[tag] = [_follow(viewer, layers, limits, channel_axis)]


def _link(viewer: Any, layers: Sequence[ImageLayer]) -> Callable[[], None]:
    """Link the layers' contrast limits; return a function that unlinks them."""
    viewer.layers.link_layers(layers, ("contrast_limits",))
    window, members = ref(viewer), [ref(layer) for layer in layers]

    def stop() -> None:
        """Unlink the layers that still exist."""
        alive = [layer for member in members if (layer := member()) is not None]
        if (here := window()) is not None and len(alive) > 1:
            here.layers.unlink_layers(alive, ("contrast_limits",))

    return stop


def _follow(
    viewer: Any,
    layers: Sequence[ImageLayer],
    limits: list[tuple[float, float]],
    channel_axis: int | None,
) -> Callable[[], None]:
    """Set the layers' contrast limits for each shown channel; return a function that ends this."""
    # Weak references, so that a closed viewer can be deleted.
    window, members = ref(viewer), [ref(layer) for layer in layers]
    guide = members[-1]
    state = {"channel": -1}

    def follow(event: object = None) -> None:
        """Set the limits of the shown channel, and keep the user's limits of the last one."""
        del event
        here, layer = window(), guide()
        if here is None or layer is None or layer not in here.layers:
            return
        alive = [member for weak in members if (member := weak()) is not None and member in here.layers]
        channel = _shown_channel(here, layer, channel_axis, len(limits))
        if channel == state["channel"]:
            return
        if state["channel"] >= 0:
            limits[state["channel"]] = (float(layer.contrast_limits[0]), float(layer.contrast_limits[1]))
        state["channel"] = channel
        for member in alive:
            member.contrast_limits = limits[channel]

    def stop() -> None:
        """Stop following the channel."""
        if (here := window()) is not None:
            here.dims.events.current_step.disconnect(follow)

    viewer.dims.events.current_step.connect(follow)
    follow()
    return stop


def _shown_channel(viewer: Any, layer: ImageLayer, channel_axis: int | None, n: int) -> int:
    """Return the index of the channel at the sliders' position."""
    if channel_axis is None:
        return 0
    point = layer.world_to_data(viewer.dims.point)
    return int(np.clip(round(float(point[channel_axis])), 0, n - 1))


def _channel_limits(
    layer: ImageLayer, channel_axis: int | None, high: float = _PERCENTILE
) -> list[tuple[float, float]]:
    """Return the contrast limits of each channel of a layer."""
    data = layer.data[0] if layer.multiscale else layer.data
    if channel_axis is None:
        return [limits_of(_thinned(data), high)]
    channels = range(data.shape[channel_axis])
    if type(data) is not np.ndarray:
        # A whole channel of a zarr array would be read here, so its middle is cut out first.
        middle = _thinned(data) if len(channels) <= _CHANNELS_CUT else None
        if middle is not None and middle.shape[channel_axis] == len(channels):
            data = middle
    before = (slice(None),) * channel_axis
    return [limits_of(_thinned(data[(*before, c)]), high) for c in channels]


def _thinned(data: Any) -> NDArray[Any]:
    """Return about a hundred thousand values: spread evenly in memory, from the middle on disk."""
    size = int(np.prod(data.shape, dtype=np.int64))
    if type(data) is np.ndarray:
        step = max(1, int(np.ceil((size / _SAMPLED) ** (1 / max(1, data.ndim)))))
        return np.asarray(data[(slice(None, None, step),) * data.ndim])
    side = max(1, int(_SAMPLED ** (1 / max(1, len(data.shape)))))
    starts = [max(n - side, 0) // 2 for n in data.shape]
    return np.asarray(data[tuple(slice(s, s + side) for s in starts)])
