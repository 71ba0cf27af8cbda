"""Calibrated maps of an image, written tile by tile, and the table of all kinds of maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_btn.core.calibration.distribution import mean
from napari_btn.core.data.image import View, whole_boxes
from napari_btn.core.progress import Note

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.calibration.conformal import Calibration
    from napari_btn.core.calibration.groups import GroupCalibration
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.inference.run import TileQuantiles
    from napari_btn.core.networks.family import Networks
    from napari_btn.core.progress import Step

__all__ = ["MAP_KINDS", "MapKind", "write_maps_steps"]


@dataclass(frozen=True)
class MapKind:
    """Name and look of one kind of map.

    Parameters
    ----------
    name : str
        Name of the map; of the attribute of a prediction that holds it, where one does.
    title : str
        End of the name of its layer.
    colormap : str
        Name of a colormap, or "signed" (blue, clear, red), or "outline" for a mask.
    contrast : str
        Rule of its contrast limits: "signal" (shared by clean, lower, median and upper), "from zero",
        "probability" (0 to 1), "missed" (0 to three times the miscoverage), "around zero" or "none".
    caption : str
        What the map shows, in one sentence.
    added : str
        When its layer is added: with the "prediction", on "request", following the "threshold", or by a "button"
        of its own.
    visible : bool
        False if a new layer is hidden at first.
    """

    name: str
    title: str
    colormap: str
    contrast: Literal["signal", "from zero", "probability", "missed", "around zero", "none"]
    caption: str
    added: Literal["prediction", "request", "threshold", "button"]
    visible: bool = True


MAP_KINDS = (
    MapKind("lower", "lower", "gray", "signal", "Lower bound of the interval.", "request", visible=False),
    MapKind("median", "median", "gray", "signal", "Median: the denoised image.", "prediction"),
    MapKind(
        "mean",
        "mean",
        "gray",
        "signal",
        "Mean: the denoised image where targets are noisy, since skewed noise moves the median.",
        "request",
    ),
    MapKind("upper", "upper", "gray", "signal", "Upper bound of the interval.", "request", visible=False),
    MapKind(
        "width",
        "width",
        "magma",
        "from zero",
        "Width of the interval: upper minus lower.",
        "prediction",
        visible=False,
    ),
    MapKind(
        "spread",
        "spread",
        "magma",
        "from zero",
        "Spread of the members' medians, before calibration: where networks disagree.",
        "request",
    ),
    MapKind(
        "exceedance",
        "P(> t)",
        "viridis",
        "probability",
        "Estimated probability that the signal exceeds the threshold (after learning from noisy targets, that a noisy "
        "value does); follows the slider; its sum estimates the area.",
        "threshold",
    ),
    MapKind(
        "claim",
        "flagged > t",
        "outline",
        "none",
        "Outline of the pixels that are claimed to exceed the threshold.",
        "threshold",
    ),
    MapKind(
        "miscoverage",
        "miscoverage",
        "magma",
        "missed",
        "Share of missed pixels of each held-out block of the field that was calibrated on.",
        "button",
    ),
    MapKind(
        "filter",
        "filter",
        "signed",
        "around zero",
        "Weight of each noisy pixel in the median of one, per unit of the noisy image.",
        "button",
    ),
    MapKind(
        "draw",
        "draw",
        "gray",
        "signal",
        "One whole plausible image: each pixel by its distribution, errors correlated as estimated, roughly.",
        "button",
    ),
    MapKind("preview", "preview", "gray", "signal", "Median so far, while the members train.", "button"),
)
"""All kinds of maps, in the order in which docks list them."""


def write_maps_steps(
    source: View,
    networks: Networks,
    calibration: Calibration,
    maps: dict[str, Any],
    compute: Compute,
    *,
    groups: tuple[GroupCalibration, NDArray[np.integer[Any]]] | None = None,
    valid: NDArray[np.bool_] | Literal["finite"] | None = None,
) -> Step[tuple[Note, ...]]:
    """Write calibrated maps into arrays, tile by tile; a step.

    It returns notes on the device and the image.

    Parameters
    ----------
    source : View
        The noisy image.
    networks : Networks
    calibration : Calibration
    maps : dict of str to array
        Writable arrays in the axes of the source, under any of "lower", "median", "upper",
        "width", "spread", "mean", and "quantiles" with the levels first.
    compute : Compute
    groups : tuple of GroupCalibration, ndarray of int (S, *space), optional
        Offsets by group, and the group of each pixel from 0, instead of the calibration's.
    valid : ndarray of bool (S, *space), or "finite", optional
        Where a pixel counts; maps are NaN elsewhere. "finite": where no channel is NaN or infinite.

    Raises
    ------
    ValueError
        If a pixel that counts is NaN or infinite.
    """
    # docks read the table of kinds, and must not load torch for it
    from napari_btn.core.inference.run import tile_quantiles

    views = {k: View(v, source.axes, k) for k, v in maps.items() if k != "quantiles"}
    if "quantiles" in maps:
        levels = range(len(networks.blueprint.levels))
        stack = [View(maps["quantiles"], source.axes, "quantiles", first=(i,)) for i in levels]
    whole = whole_boxes(source.space, source.n_scenes)
    notes: list[Note] = []
    results = tile_quantiles(source, whole, networks, compute, notes=notes)
    left_out = 0
    for progress, result in results:
        if result is not None:
            unknown = _left_out(source, result, valid)
            left_out += int(unknown.sum())
            if groups is None:
                lower, median, upper = calibration.interval(result.quantiles)
            else:
                here = groups[1][result.scene][result.write]
                lower, median, upper = groups[0].interval(result.quantiles, here)
            made = {
                "lower": lower,
                "median": median,
                "upper": upper,
                "width": upper - lower,
                "spread": result.spread,
            }
            if "mean" in views:
                made["mean"] = mean(result.quantiles, calibration.levels, minimum=calibration.minimum)
            if unknown.any():
                for values in (*made.values(), result.quantiles):
                    values[..., unknown] = np.nan
            for name, view in views.items():
                view.write(result.scene, result.write, made[name])
            if "quantiles" in maps:
                for i, view in enumerate(stack):
                    view.write(result.scene, result.write, result.quantiles[i])
        yield progress
    if left_out:
        text = f"{left_out:,} pixels don't count or are NaN or infinite; maps are NaN there, and less sure beside them."
        notes.append(Note("amber", text))
    return tuple(notes)


def _left_out(
    source: View, tile: TileQuantiles, valid: NDArray[np.bool_] | Literal["finite"] | None
) -> NDArray[np.bool_]:
    """Return the pixels of a tile that don't count, (*tile)."""
    finite = np.asarray(np.isfinite(source.read(tile.scene, tile.write)).all(0))
    if isinstance(valid, str):
        return np.asarray(~finite)
    counted = np.ones_like(finite) if valid is None else valid[tile.scene][tile.write]
    if not finite[counted].all():
        first = [int(i) + s.start for i, s in zip(np.argwhere(counted & ~finite)[0], tile.write, strict=True)]
        raise ValueError(
            f"The image has NaN or infinite values, such as at {source.space_axes} {tuple(first)}. Give "
            '`valid` as "finite" or as a mask of the pixels that count, or fill such pixels first.'
        )
    return np.asarray(~counted)
