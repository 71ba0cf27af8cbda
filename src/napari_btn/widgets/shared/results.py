"""Results as layers, placed like their source, with contrast limits that follow the channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_btn.core.calibration.maps import MAP_KINDS
from napari_btn.widgets.shared.contrast import clean_of, keep_contrast, stop_contrast
from napari_btn.widgets.shared.layers import KEY, read_layer
from napari_btn.widgets.shared.overlays import (
    KINDS,
    layer_name,
    map_layer,
    our_layer,
    placed_map,
    refill,
)
from napari_btn.widgets.shared.side_by_side import side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from napari.layers import Image as ImageLayer
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.workflow.now import FirstLook

__all__ = [
    "is_ours",
    "leave_source_steps",
    "present_result",
    "record_of",
    "show_first_look",
    "show_map",
    "show_prediction",
    "show_prediction_steps",
    "show_preview",
]

_MAPS = sorted((k.name for k in MAP_KINDS if k.added == "prediction"), key=lambda name: name == "median")
"""Maps that are added at once, from the lowest layer to the one on top, the median."""
_CONTRASTED = ("lower", "median", "mean", "upper", "width", "spread")
_RESULTS = ("median", "mean")
"""Maps of a source that stay when another one is denoised."""
_NETWORKS = ("seed", "settings", "images", "targets")  # what tells networks apart; calibrations share them


def is_ours(layer: ImageLayer) -> bool:
    """Return True if a layer is a result of ours.

    Parameters
    ----------
    layer : napari.layers.Image
        Any layer.

    Returns
    -------
    bool
        True for results, previews and their backups.
    """
    return KEY in layer.metadata


def show_prediction(
    viewer: Any, prediction: Prediction, source: LayerImage, *, clean: ImageLayer | None = None
) -> dict[str, ImageLayer]:
    """Show median and width of a prediction as layers, made or updated, and update its other maps.

    Clean, lower, median and upper get the same contrast limits, linked, and all follow the shown
    channel; `show_map` adds lower and upper. The median of other networks, or of another training,
    stays as one hidden backup.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layers.
    prediction : Prediction
        Maps in the axes of the source.
    source : LayerImage
        What was predicted: gives the names and the place.
    clean : napari.layers.Image, optional
        The clean layer of the same field, to share its contrast.

    Returns
    -------
    dict of str to napari.layers.Image
        By the names of the maps.
    """
    *_, shown = show_prediction_steps(viewer, prediction, source, clean=clean)
    return shown


def show_prediction_steps(
    viewer: Any, prediction: Prediction, source: LayerImage, *, clean: ImageLayer | None = None
) -> Iterator[dict[str, ImageLayer]]:
    """Show a prediction layer by layer, since each new layer blocks the window for a tenth of a second.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layers.
    prediction : Prediction
        Maps in the axes of the source.
    source : LayerImage
        What was predicted.
    clean : napari.layers.Image, optional
        The clean layer of the same field.

    Yields
    ------
    dict of str to napari.layers.Image
        The layers so far, by the names of the maps.
    """
    placement = source.placement.onto(prediction.axes)
    record = record_of(prediction)
    shown: dict[str, ImageLayer] = {}
    if _settle_preview(viewer, source.name, prediction.axes):
        yield shown
    names = [*_MAPS, "mean"] if prediction.shown == "mean" and prediction.mean is not None else _MAPS
    names = [*(name for name in _on_request(viewer, source.name) if name not in names), *names]
    for name in names:
        old = our_layer(viewer, layer_name(source.name, name), name)
        if name in ("median", "mean") and _back_up(viewer, old, record):
            yield shown
        values = getattr(prediction, name, None)
        if values is None:
            if old in viewer.layers:
                viewer.layers.remove(old)
            continue
        shown[name] = placed_map(viewer, name, source.name, values, placement, record)
        yield shown
    # the user may have removed a layer while the next one was added
    shown = {name: layer for name, layer in shown.items() if layer in viewer.layers}
    if "median" in shown:
        keep_contrast(viewer, source.name, shown, clean)
        if names[-1] != "median" and names[-1] in shown:
            # where targets are noisy, the mean is unbiased and the median is not
            shown["median"].visible = False
    if names[-1] in shown:
        viewer.layers.selection.active = shown[names[-1]]
    yield shown


def show_map(viewer: Any, kind: str, prediction: Prediction, source: str) -> ImageLayer | None:
    """Show a map that is added on request; None if the prediction doesn't have it.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    kind : str
        Name of a map kind.
    prediction : Prediction
        Maps of the source.
    source : str
        Name of the source.
    """
    values = getattr(prediction, kind)
    if values is None:
        return None
    layer: ImageLayer = map_layer(viewer, kind, source, values, record_of(prediction))
    median = our_layer(viewer, layer_name(source, "median"), "median")
    if KINDS[kind].contrast == "signal" and median is not None:
        limits = tuple(median.contrast_limits)
        shown = {name: our_layer(viewer, layer_name(source, name), name) for name in KINDS}
        keep_contrast(
            viewer,
            source,
            {name: one for name, one in shown.items() if one is not None and name in _CONTRASTED},
            clean_of(viewer, source),
        )
        median.contrast_limits = limits
    return layer


def leave_source_steps(viewer: Any, source: str) -> Iterator[None]:
    """Remove the maps of a source that is no longer looked at, one at a time; its denoised image stays.

    Parameters
    ----------
    viewer : napari.Viewer
        Has the layers.
    source : str
        Name of the source.
    """
    for kind in KINDS:
        layer = None if kind in _RESULTS else our_layer(viewer, layer_name(source, kind), kind)
        if layer is not None:
            viewer.layers.remove(layer)
            yield
    for kind in ("line cut", "pixel"):
        layer = our_layer(viewer, f"{source} {kind}", kind)
        if layer is not None:
            viewer.layers.remove(layer)
            yield


def _on_request(viewer: Any, source: str) -> list[str]:
    """Return the maps of a source that were added on request."""
    kinds = (kind.name for kind in MAP_KINDS if kind.added == "request")
    return [name for name in kinds if our_layer(viewer, layer_name(source, name), name) is not None]


def present_result(viewer: Any, source: str) -> None:
    """Show noisy, the denoised image and width side by side, with linked cameras and the name of the channel.

    The denoised image is the mean where that is the map on top, else the median.

    Parameters
    ----------
    viewer : napari.Viewer
        Has the layers of a prediction.
    source : str
        Name of the image.
    """
    mean, median = layer_name(source, "mean"), layer_name(source, "median")
    hidden = median in viewer.layers and not viewer.layers[median].visible
    names = (source, mean if hidden and mean in viewer.layers else median, layer_name(source, "width"))
    row = [viewer.layers[name] for name in names if name in viewer.layers]
    if len(row) == len(names):
        side_by_side(viewer, row)


def record_of(prediction: Prediction) -> dict[str, Any]:
    """Return the metadata that all layers of a prediction share.

    Parameters
    ----------
    prediction : Prediction
        Any.

    Returns
    -------
    dict
        Axes, channels, coverage and provenance.
    """
    return {
        "axes": prediction.axes,
        "channel_names": list(prediction.channel_names or ()),
        "covers": prediction.covers,
        "alpha": prediction.alpha,
        "provenance": prediction.provenance,
    }


def show_preview(
    viewer: Any, preview: NDArray[np.float32], source: LayerImage, *, clean: ImageLayer | None = None
) -> ImageLayer:
    """Show the median so far in a layer that is made once and then updated in place.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    preview : ndarray of float32
        The whole of the source without S and T, or the middle of it: C, if any, in front of Z, Y, X.
    source : LayerImage
        What is being learned from.
    clean : napari.layers.Image, optional
        The clean layer, to share its contrast.

    Returns
    -------
    napari.layers.Image
        The preview layer.
    """
    space = "".join(a for a in "ZYX" if a in source.axes)
    if "C" not in source.axes and preview.ndim > len(space):
        preview = preview[0]
    axes = f"C{space}" if preview.ndim > len(space) else space
    whole = dict(zip(source.axes, source.shape, strict=True))
    start = [max(whole.get(a, n) - n, 0) // 2 for a, n in zip(axes, preview.shape, strict=True)]
    placement = source.placement.onto(axes).cropped(start)
    name = layer_name(source.name, "preview")
    old = our_layer(viewer, name, "preview")
    layer = placed_map(viewer, "preview", source.name, preview, placement, {"axes": axes})
    if old is not layer:
        keep_contrast(viewer, name, {"median": layer}, clean)
    return layer


def show_first_look(viewer: Any, look: FirstLook, source: LayerImage) -> ImageLayer:
    """Show the median of pretrained networks as the median layer of a source.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    look : FirstLook
        Median without an interval.
    source : LayerImage
        What was denoised.

    Returns
    -------
    napari.layers.Image
        The layer, whose metadata says that no interval is promised.
    """
    record = {
        "axes": look.axes,
        "channel_names": list(look.channel_names),
        "covers": "nothing",
        "caption": look.caption,
        "provenance": look.provenance,
    }
    _back_up(viewer, our_layer(viewer, layer_name(source.name, "median"), "median"), record)
    placement = source.placement.onto(look.axes)
    layer = placed_map(viewer, "median", source.name, look.median, placement, record)
    keep_contrast(viewer, source.name, {"median": layer}, None)
    viewer.layers.selection.active = layer
    return layer


def _settle_preview(viewer: Any, name: str, axes: str) -> bool:
    """Turn the preview into the median layer; or remove it, and return True, if there is one already."""
    preview = our_layer(viewer, f"{name} preview", "preview")
    if preview is None:
        return False
    # Removing a layer makes napari collect garbage, which blocks the window: better to rename it.
    renamed = f"{name} median" not in viewer.layers and preview.metadata[KEY]["axes"] == axes
    if renamed:
        preview.metadata = {**preview.metadata, KEY: {**preview.metadata[KEY], "map": "median"}}
        preview.name = f"{name} median"
    else:
        viewer.layers.remove(preview)
    stop_contrast(viewer, f"{name} preview")
    return not renamed


def _back_up(viewer: Any, old: ImageLayer | None, record: dict[str, Any]) -> bool:
    """Keep the median of other networks as the one hidden backup at the bottom; return True if so."""
    if old is None:
        return False
    before = old.metadata[KEY]
    if "provenance" not in before:
        return False
    same = all(before["provenance"].get(k) == record.get("provenance", {}).get(k) for k in _NETWORKS)
    if same or old.source.path is not None:
        return False
    name, kept = f"{old.name} (before)", {**before, "map": f"{before['map']} (before)"}
    place = read_layer(old).placement.to_layer()
    backup = our_layer(viewer, name, kept["map"])
    if backup is not None and backup.ndim == old.ndim:
        refill(backup, old.data, place, kept)
        backup.colormap, backup.contrast_limits = old.colormap, old.contrast_limits
        return True
    if name in viewer.layers:
        viewer.layers.remove(name)
    viewer.add_image(
        old.data,
        name=name,
        visible=False,
        colormap=old.colormap,
        contrast_limits=old.contrast_limits,
        metadata={KEY: kept},
        rgb=False,
        **place,
    )
    viewer.layers.move(viewer.layers.index(name), 0)
    return True
