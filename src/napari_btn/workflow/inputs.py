"""Conversion of user input to pairs, images and masks, checked against the networks.

Long because all that users give comes in through this one door, so that each step sees it alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import SPACE, Image, View, shown_names, shown_unit, upper_axes
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.series import Series, series_axes
from napari_btn.core.progress import Note, counted
from napari_btn.core.supervision.registry import supervision_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.data.detector import Detector
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.settings import EnsembleSettings, SupervisionSettings
    from napari_btn.model import Model

__all__ = [
    "axes_seen",
    "image_for",
    "in_axes_of",
    "is_same",
    "need_same",
    "over_scenes",
    "over_space",
    "pair_for",
    "pair_of",
    "scenes_for",
    "scenes_of",
    "seen_by",
    "size_note",
    "sound_pair",
    "sound_view",
    "unmasked",
]


def unmasked(image: Any, valid: Any, name: str) -> tuple[Any, Any]:
    """Return an image and the pixels that count, with a mask of numpy taken as pixels that don't count.

    Parameters
    ----------
    image : array, or None
    valid : array of bool, or "finite", optional
        True where a pixel counts.
    name : str
        Name of the image in errors.

    Returns
    -------
    image : array
        Masked values are NaN, if there are any.
    valid : array of bool, "finite" or None
        "finite" if there are masked values.

    Raises
    ------
    ValueError
        If there are masked values, and ``valid`` is an array.
    """
    if not np.ma.is_masked(image):
        return image, valid
    if valid is not None and not isinstance(valid, str):
        raise ValueError(
            f"{name.capitalize()} is a masked array, and valid came too; add one to the other, or leave valid out."
        )
    values = image.astype(np.result_type(image.dtype, np.float32))
    return values.filled(np.nan), "finite" if valid is None else valid


def _size_of(pixel_size: Sequence[float]) -> tuple[float, ...]:
    """Return a pixel size as numbers above zero."""
    try:
        size = tuple(np.atleast_1d(np.asarray(pixel_size, float)).tolist())
    except (TypeError, ValueError):
        size = (float("nan"),)
    if not all(np.isfinite(v) and v > 0 for v in size):
        raise ValueError(
            f"pixel_size is {pixel_size!r}; each value must be a finite number above 0. Leave it out if it is unknown."
        )
    return size


def _names_of(channel_names: Sequence[str]) -> tuple[str, ...]:
    """Return names of channels; raise ``ValueError`` if they aren't texts."""
    try:
        names = tuple(channel_names)
        texts = all(isinstance(name, str) for name in names)
    except TypeError:
        texts = False
    if not texts:
        raise ValueError(
            f'channel_names is {channel_names!r}; give a text for each channel, such as ("Si", "Al", "Fe").'
        )
    return names


def _unit_of(unit: str | None) -> str:
    """Return a unit of a pixel size, "px" if it is unknown; raise ``ValueError`` if it is no text."""
    if unit is not None and not isinstance(unit, str):
        raise ValueError(f'unit is {unit!r}; give a text such as "um", or leave it out if it is unknown.')
    return unit or "px"


def pair_of(
    noisy: Any,
    clean: Any,
    axes: str,
    *,
    channel_names: Sequence[str] | None = None,
    pixel_size: Sequence[float] | None = None,
    unit: str = "px",
    valid: Any = None,
    noise_model: Any = None,
    detector: Detector | None = None,
) -> Pair:
    """Return a `Pair` of user input; lists become arrays.

    Parameters
    ----------
    noisy, clean : array, or None
    axes : str
        Axes of ``noisy``, any case.
    channel_names : sequence of str, optional
    pixel_size : sequence of float, optional
        One per space axis, in ``unit``.
    unit : str
    valid : array of bool, or "finite", optional
        True where a pixel counts.
    noise_model : NoiseModel, optional
        Noise to simulate, if there is no noisy image.
    detector : Detector, optional
        Dark and flat frames and broken pixels of the noisy image.
    """

    def array(value: Any) -> Any:
        """Return lists as arrays."""
        given = value is None or isinstance(value, str) or hasattr(value, "shape")
        return value if given else np.asarray(value)

    noisy, valid = unmasked(noisy, valid, "noisy")
    clean, valid = unmasked(clean, valid, "clean")
    return Pair(
        array(noisy),
        array(clean),
        upper_axes(axes),
        None if channel_names is None else _names_of(channel_names),
        None if pixel_size is None else _size_of(pixel_size),
        _unit_of(unit),
        array(valid),
        noise_model=noise_model,
        detector=detector,
    )


def pair_for(model: Model, noisy: Any, clean: Any, axes: str | None, valid: Any = None) -> Pair:
    """Return a `Pair` of images for a trained model, with its channel names.

    Parameters
    ----------
    model : Model
    noisy, clean : array, or None
    axes : str, optional
        Those of training by default, less S and T where ``noisy`` has fewer dimensions.
    valid : array of bool, optional
        True where a pixel counts.
    """
    axes = axes or _axes_like(model.learned.axes, noisy)
    return pair_of(noisy, clean, axes, channel_names=model.channel_names, valid=valid)


def image_for(
    model: Model,
    array: Any,
    axes: str | None = None,
    pixel_size: Sequence[float] | None = None,
    unit: str | None = None,
) -> Image:
    """Return an image for the networks of a model, with its metadata.

    Parameters
    ----------
    model : Model
    array : array
        Numpy, dask or zarr.
    axes : str, optional
        Those of training by default, less S and T where the image has fewer dimensions.
    pixel_size : sequence of float, optional
        One per space axis, in ``unit``; that of training by default.
    unit : str, optional
        Unit of ``pixel_size``.

    Raises
    ------
    ValueError
        If channels or space axes aren't those of training.
    """
    array = array if hasattr(array, "shape") else np.asarray(array)
    view = View(array, axes or _axes_like(model.learned.axes, array), "image")
    _need_fit(View(array, axes_seen(view.axes, model.settings), "image"), model)
    if pixel_size is None:
        size, unit = _sizes_along(view.axes, model), model.learned.unit
    else:
        size, unit = _size_of(pixel_size), _unit_of(unit)
    return Image(array, view.axes, model.channel_names, size, unit)


_METRES = {"pm": 1e-12, "angstrom": 1e-10, "nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
_SAME_PIXELS = 0.02  # relative difference


def size_note(model: Model, axes: str, pixel_size: Sequence[float] | None, unit: str | None) -> Note | None:
    """Return a note if pixels are larger or smaller than those of the training; None if not, or if unknown.

    Parameters
    ----------
    model : Model
    axes : str
        Axes of the image.
    pixel_size : sequence of float, optional
        One per space axis of the image, in ``unit``.
    unit : str, optional
        Unit of ``pixel_size``.
    """
    trained, there = _sizes_along(axes, model), model.learned.unit
    if pixel_size is None or trained is None or len(trained) != len(pixel_size):
        return None
    here = (unit or "px").replace("\u00b5", "u").replace("\u03bc", "u")
    same = there.replace("\u00b5", "u").replace("\u03bc", "u")
    if here != same and not {here, same} <= set(_METRES):
        return None
    factor = 1.0 if here == same else _METRES[here] / _METRES[same]
    if all(abs(a * factor / b - 1) <= _SAME_PIXELS for a, b in zip(pixel_size, trained, strict=True)):
        return None

    def shown(size: Sequence[float], unit: str) -> str:
        """Return a size as people read it, one value if all are equal."""
        return f"{' x '.join(dict.fromkeys(f'{v:.4g}' for v in size))} {shown_unit(unit)}"

    text = (
        f"The image has pixels of {shown(pixel_size, here)}, the networks were trained at {shown(trained, same)}. "
        "Resample it, or don't rely on the coverage."
    )
    return Note("amber", text)


def sound_pair(pair: Pair) -> tuple[Pair, Detector | None]:
    """Return a pair whose noisy image is repaired, and the detector with the broken pixels that were found.

    Parameters
    ----------
    pair : Pair
        Unchanged, and no detector, if it has none.

    Raises
    ------
    ValueError
        If the frames of the detector don't fit the image.
    """
    return (pair, None) if pair.detector is None else pair.detector.repaired_pair(pair)


def sound_view(model: Model, view: View) -> View:
    """Return an image repaired as those of the training were; the same view without a detector.

    Parameters
    ----------
    model : Model
    view : View
        The image as it was given.

    Raises
    ------
    ValueError
        If the frames of the detector don't fit the image.
    """
    detector = model.learned.detector
    return view if detector is None else View(detector.repaired(view.array, view.axes).image, view.axes)


def scenes_of(pair: Pair, settings: EnsembleSettings) -> Scenes:
    """Return inputs and targets of a pair as members see them; values are not yet read.

    Parameters
    ----------
    pair : Pair
        What the user gave.
    settings : EnsembleSettings

    Raises
    ------
    ValueError
        If the images don't permit the supervision, or have no neighbouring frames where members see such.
    """
    way, how = supervision_of(settings.supervision), settings.supervision_settings
    if how.frames == 1:
        return way.scenes(pair, how, seed=settings.seed)
    size = pair.pixel_size
    if size is not None and how.frames_along == "z":
        kept = (
            n for a, n in zip((a for a in pair.axes.upper() if a in SPACE), size, strict=True) if a != "Z"
        )
        size = tuple(kept)
        # repeats can't lie along Z, and times are scenes
        how = replace(how, repeats="s")
    pair = replace(pair, axes=series_axes(pair.axes, how.frames_along), pixel_size=size)
    scenes = way.scenes(pair, how, seed=settings.seed)
    _see_neighbours(scenes.noisy, how)
    return scenes


def _see_neighbours(view: View, settings: SupervisionSettings) -> View:
    """Return the view of a series, of which members see neighbouring frames from now on."""
    if view.n_frames < 2:
        raise ValueError(
            f"The image has one frame along {settings.frames_along.upper()}; members that see {settings.frames} at a "
            "time need more. Give the whole series, or let them see single frames (frames=1)."
        )
    view.series = Series(View(view.array, view.axes), settings.frames)
    return view


def axes_seen(axes: str, settings: EnsembleSettings) -> str:
    """Return the axes of an image as members see it: slices that they see as neighbours are frames.

    Parameters
    ----------
    axes : str
    settings : EnsembleSettings
    """
    how = settings.supervision_settings
    return upper_axes(axes) if how.frames == 1 else series_axes(axes, how.frames_along)


def scenes_for(model: Model, pair: Pair) -> Scenes:
    """Return the views of a pair for the networks of a model; values are not yet read.

    Parameters
    ----------
    model : Model
    pair : Pair

    Raises
    ------
    ValueError
        If channels or space axes aren't those of training, or the two images don't fit each other.
    """
    pair, _ = sound_pair(replace(pair, detector=pair.detector or model.learned.detector))
    scenes = scenes_of(pair, model.settings)
    _need_fit(scenes.noisy, model)
    return scenes


def seen_by(model: Model, image: Image) -> View:
    """Return an image as the networks of a model see it for a prediction.

    Parameters
    ----------
    model : Model
    image : Image
    """
    settings, how = model.settings, model.settings.supervision_settings
    view, way = sound_view(model, image.view), supervision_of(settings.supervision)
    if how.frames == 1:
        return way.seen(view, how, seed=settings.seed)
    view = View(view.array, axes_seen(view.axes, settings))
    return _see_neighbours(way.seen(view, how, seed=settings.seed), how)


def _need_fit(view: View, model: Model) -> None:
    """Raise ``ValueError`` if an image has other channels or space axes than the training images."""
    if view.n_channels != model.blueprint.n_out:
        names = ", ".join(shown_names(model.channel_names))
        raise ValueError(
            f"The image has {counted(view.n_channels, 'channel')} (axes {view.axes}, shape "
            f"{tuple(view.array.shape)}); these networks were trained on {model.blueprint.n_out}: {names}. Give those."
        )
    if view.ndim != model.blueprint.ndim:
        raise ValueError(
            f"The image has the space axes {view.space_axes}; these networks were trained in "
            f"{model.blueprint.ndim}D. Give a {model.blueprint.ndim}D image."
        )


def _axes_like(axes: str, image: Any) -> str:
    """Return the axes of training, without S and T if the image has fewer dimensions."""
    ndim = len(image.shape) if hasattr(image, "shape") else np.ndim(image)
    for candidate in (axes, axes.replace("S", "").replace("T", "")):
        if len(candidate) == ndim:
            return candidate
    return axes


def _sizes_along(axes: str, model: Model) -> tuple[float, ...] | None:
    """Return the pixel size of training along the space axes of an image."""
    if model.learned.pixel_size is None:
        return None
    size = dict(zip((a for a in model.learned.axes if a in "ZYX"), model.learned.pixel_size, strict=True))
    return tuple(size[a] for a in axes if a in size)


def over_scenes(valid: Any, view: View) -> NDArray[np.bool_] | None:
    """Return the mask of pixels that count, (S, *space); None for all.

    Parameters
    ----------
    valid : array of bool, "finite" or None
        Mask over the space axes, or over all axes but C; "finite" for pixels with finite values.
    view : View
        Image of the mask.

    Raises
    ------
    ValueError
        If the mask does not fit the image.
    """
    if valid is None:
        return None
    if isinstance(valid, str):
        if valid != "finite":
            raise ValueError(
                f'valid is {valid!r}; give "finite", or an array that is True where a pixel counts.'
            )
        return np.stack([np.isfinite(view.read(s)).all(0) for s in range(view.n_scenes)])
    valid = np.asarray(valid, dtype=bool)
    axes = view.axes.replace("C", "")
    if valid.ndim == view.ndim:
        axes = "".join(a for a in axes if a in view.space_axes)
    mask = View(valid, axes, "valid")
    if mask.space != view.space or mask.n_scenes not in (1, view.n_scenes):
        raise ValueError(
            f"valid has shape {valid.shape}; over {axes} the image has {view.space}. Give it the same shape."
        )
    scenes = [mask.read(s if mask.n_scenes > 1 else 0)[0] > 0 for s in range(view.n_scenes)]
    return np.stack(scenes)


def over_space(groups: Any, axes: str) -> View:
    """Return a view of painted groups over the space axes of an image, or over all of its axes but C.

    Parameters
    ----------
    groups : array
    axes : str
        Axes of the image.
    """
    groups = groups if hasattr(groups, "shape") else np.asarray(groups)
    left = axes.replace("C", "")
    if len(groups.shape) != len(left):
        left = "".join(a for a in left if a in "ZYX")
    return View(groups, left, "groups")


def in_axes_of(scenes: NDArray[Any], view: View) -> NDArray[Any]:
    """Return a map (S, *space) in the axes of an image without C.

    Parameters
    ----------
    scenes : ndarray, (S, *space)
    view : View
        The image.
    """
    size = dict(zip(view.axes, view.array.shape, strict=True))
    left = view.axes.replace("C", "")
    out = np.empty([size[a] for a in left], scenes.dtype)
    target = View(out, left, "groups")
    for s, one in enumerate(scenes):
        target.write(s, tuple(slice(0, n) for n in view.space), one[None])
    return out


def is_same(view: View, held_out: HeldOut) -> bool:
    """Return True if held-out scores come from this image; False if unknown.

    Parameters
    ----------
    view : View
    held_out : HeldOut
    """
    from napari_btn.core.data.image import values_at

    position, observed = held_out.position, held_out.observed
    if position is None or observed is None or position.shape[1] != 1 + view.ndim:
        return False
    inside = (position.max(axis=0) < (view.n_scenes, *view.space)).all()
    return bool(inside) and np.array_equal(np.nan_to_num(values_at(view, position)), np.nan_to_num(observed))


def need_same(view: View, held_out: HeldOut) -> None:
    """Raise ``ValueError`` unless held-out scores come from this image.

    Parameters
    ----------
    view : View
    held_out : HeldOut

    Raises
    ------
    ValueError
        If the scores come from another image, or have no positions.
    """
    if held_out.position is None or held_out.observed is None:
        raise ValueError("The held-out pixels have no positions; calibrate on images of their own again.")
    if not is_same(view, held_out):
        raise ValueError(
            "The held-out scores come from another image than this one. Give that image, or calibrate on a pair of "
            "this one."
        )
