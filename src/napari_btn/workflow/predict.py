"""Prediction: calibrated maps of an image with their metadata, in memory or on disk."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.drift import drift_notes
from napari_btn.core.data.record import inputs_steps, maps_digest_steps, recipe_step
from napari_btn.core.progress import Note
from napari_btn.core.supervision.registry import supervision_of
from napari_btn.io.maps import open_maps, zarr_maps
from napari_btn.workflow.calibrate import group_labels_steps
from napari_btn.workflow.inputs import in_axes_of, over_scenes, over_space, seen_by, size_note, sound_view
from napari_btn.workflow.recipe import model_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.detector import Detector
    from napari_btn.core.data.image import Image, View
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.progress import Step
    from napari_btn.model import Model

__all__ = ["Folder", "predict_steps"]

_MAPS = ("lower", "median", "upper", "spread")
_LATER = ("mean", "signal_sd")  # made from whole maps where the mean uses each pixel's own value


@dataclass(frozen=True)
class Folder:
    """A folder for maps that need not fit in memory.

    Parameters
    ----------
    path : str or Path
        Path that ends with ``.ome.zarr`` or ``.zarr``; it appears when it is complete.
    overwrite : bool
        Replace an existing folder.
    """

    path: str | Path
    overwrite: bool = False


def predict_steps(
    model: Model,
    image: Image,
    compute: Compute,
    *,
    out: Folder | None = None,
    quantiles: bool = True,
    groups: Any = None,
    valid: Any = None,
    detector: Detector | None = None,
) -> Step[Prediction]:
    """Return calibrated maps of an image, computed tile by tile; a step.

    Parameters
    ----------
    model : Model
    image : Image
        Result of `inputs.image_for`.
    compute : Compute
    out : Folder, optional
        Folder to write to tile by tile; in memory by default.
    quantiles : bool
        Keep the quantiles of the ensemble, which `Prediction.exceedance` needs.
    groups : array of int, optional
        Group of each pixel, if groups of a mask were calibrated separately.
    valid : array of bool, or "finite", optional
        True where a pixel counts.
    detector : Detector, optional
        Dark and flat frames and broken pixels of this image; those of the training by default.

    Raises
    ------
    ValueError
        If a pixel that counts is NaN or infinite, or ``out`` exists or is not a zarr path.
    """
    from napari_btn.core.calibration.exceedance import lock_notes
    from napari_btn.core.calibration.maps import write_maps_steps
    from napari_btn.core.calibration.prediction import Prediction

    if detector is not None:
        model = replace(model, learned=replace(model.learned, detector=detector))
    view, calibrated = seen_by(model, image), model.calibrated
    mask = None if groups is None else over_space(groups, view.axes)
    counted: Any = "finite" if isinstance(valid, str) and valid == "finite" else over_scenes(valid, view)
    group, group_notes = yield from group_labels_steps(model, view, mask, compute)
    drift = drift_notes(model.learned.profile, view, model.channel_names)
    locks = lock_notes(model.scores.held_out, calibrated.locks, model.channel_names)
    notes = (*calibrated.report.warnings, *group_notes, *drift, *locks)
    own, doubts = yield from _noise_for_own_pixels_steps(model, image)
    size = size_note(model, image.view.axes, image.pixel_size, image.unit)
    notes = (*notes, *doubts, *(() if size is None else (size,)))
    step = yield from _recipe_steps(model, image, groups, valid, detector)
    earlier = model.learned.provenance.get("recipe", ())
    caption = {**model.caption, "recipe": [*earlier, step], "warnings": [n.to_dict() for n in notes]}
    quantiles = quantiles or own is not None
    # in memory, the mean follows from quantiles that are kept
    stored = _LATER if own is not None else () if quantiles and out is None else ("mean",)
    names = (*_MAPS, *stored, *(("quantiles",) if quantiles else ()))
    with _maps(model, image, view, names, caption, compute, out) as maps:
        said = yield from write_maps_steps(
            view,
            model.networks,
            calibrated.calibration,
            {name: array for name, array in maps.items() if own is None or name not in _LATER},
            compute,
            groups=None if group is None or calibrated.groups is None else (calibrated.groups, group),
            valid=counted,
        )
        if own is not None:
            said = (*said, (yield from _own_pixels_steps(model, image, own, maps)))
    if out is not None:
        maps = open_maps(out.path, image.view.axes)
    else:
        # maps on disk may be too large to be read again
        step["maps"] = yield from maps_digest_steps(maps)
    return Prediction(
        lower=maps["lower"],
        median=maps["median"],
        upper=maps["upper"],
        spread=maps["spread"],
        quantiles=maps.get("quantiles"),
        stored_width=maps.get("width"),
        stored_mean=maps.get("mean"),
        signal_sd=maps.get("signal_sd"),
        levels=model.settings.levels,
        axes=image.view.axes,
        channel_names=model.channel_names,
        pixel_size=image.pixel_size,
        unit=image.unit or "px",
        alpha=calibrated.calibration.alpha,
        covers=model.scores.covers,
        provenance=caption,
        notes=(*notes, *said),
        distribution=calibrated.distribution,
        held_out=None if calibrated.invalid else model.scores.held_out,
        groups=None if group is None else in_axes_of(group + 1, view),
        locks=calibrated.locks,
        calibration=None if calibrated.invalid else calibrated.calibration,
    )


def _noise_for_own_pixels_steps(
    model: Model, image: Image
) -> Step[tuple[NoiseModel | None, tuple[Note, ...]]]:
    """Return the noise by which the mean uses own values, or None and notes on why it does not; a step."""
    how = model.settings.supervision_settings
    if not how.own_pixel or not supervision_of(model.settings.supervision).blind:
        return None, ()
    from napari_btn.core.data.noise_frames import read_noise_frames_steps
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.supervision.noise2void import fitting_mask

    given, noisy = model.learned.provenance.get("noise_model"), sound_view(model, image.view)
    if given is not None:
        noise = NoiseModel.from_dict(given)
    else:
        noise = yield from NoiseModel.fit_steps((yield from read_noise_frames_steps(noisy.array, noisy.axes)))
    wanted = fitting_mask(noise, how)
    if wanted == how:
        return noise, ()
    text = (
        "The noise is correlated between pixels that are not masked together, so that the mean leaves each pixel's own "
        f'value out. Mask neighbours as well: struct_n2v_axes="{wanted.struct_n2v_axes}", '
        f"struct_n2v_span={wanted.struct_n2v_span}."
    )
    return None, (Note("amber", text),)


def _own_pixels_steps(model: Model, image: Image, noise: NoiseModel, maps: dict[str, Any]) -> Step[Note]:
    """Add each pixel's own value to the mean, and return a note on it; a step."""
    from napari_btn.core.calibration.own_pixel import add_own_pixels_steps

    noisy = sound_view(model, image.view)
    weights = yield from add_own_pixels_steps(noisy, noise, maps, model.settings.levels)
    single = len(weights) == 1
    shares = [
        f"{100 * w:.0f} %" + ("" if single else f" in {n}")
        for n, w in zip(model.channel_names, weights, strict=True)
    ]
    source = "given" if "noise_model" in model.learned.provenance else "measured on this image"
    return Note(
        "amber",
        f"The mean gives each pixel's own noisy value {', '.join(shares)} of the weight on average, by the noise model "
        f"{source}. Intervals and median don't use it.",
    )


def _recipe_steps(
    model: Model, image: Image, groups: Any, valid: Any, detector: Detector | None
) -> Step[dict[str, Any]]:
    """Return the record of a prediction for its recipe; a step."""
    frames = {} if detector is None else detector.to_arrays()
    inputs = yield from inputs_steps({"image": image.data, "groups": groups, "valid": valid, **frames})
    return recipe_step(
        "predict",
        inputs,
        axes=image.view.axes,
        pixel_size=None if image.pixel_size is None else list(image.pixel_size),
        unit=image.unit,
        valid=valid if isinstance(valid, str) else None,
        detector=None if detector is None else detector.axes,
        makes=model_digest(model),
    )


@contextmanager
def _maps(
    model: Model,
    image: Image,
    seen: View,
    names: Sequence[str],
    caption: dict[str, Any],
    compute: Compute,
    out: Folder | None,
) -> Iterator[dict[str, Any]]:
    """Yield arrays for the maps, in memory, or on disk, where the width is stored as well."""
    shape, levels = tuple(image.view.array.shape), model.settings.levels
    if out is None:
        sizes = {"quantiles": (len(levels), *shape)}
        yield {name: np.empty(sizes.get(name, shape), np.float32) for name in names}
        return
    from napari_btn.core.inference.run import tile_strides_of

    inner = tile_strides_of(model.blueprint, seen.space, compute.tiles)
    with zarr_maps(
        out.path,
        (*names, "width"),
        image,
        provenance={"levels": list(levels), **caption},
        overwrite=out.overwrite,
        steps=dict(zip(seen.space_axes, inner, strict=True)),
    ) as maps:
        yield maps
