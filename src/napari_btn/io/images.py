"""Read and write images, whatever the format: TIFF, OME-TIFF, ImageJ TIFF, OME-Zarr, npy and npz, PNG and WebP.

`FORMATS` is the one place that knows the formats and their suffixes; a new format is a module like
`_numpy` and an entry there. Large files are opened, not read: their `Image.data` is a memory map or
a zarr array. Outputs appear under their name only when they are whole.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.core.data.image import Image
from napari_btn.io._format import ORDER
from napari_btn.io._hdf5 import HDF5
from napari_btn.io._numpy import NPY, NPZ
from napari_btn.io._pictures import PICTURES
from napari_btn.io._tiff import TIFF
from napari_btn.io._torch import TENSORS
from napari_btn.io._zarr import ZARR
from napari_btn.io.atomic import MissingInputError, path_of, recover, written_whole
from napari_btn.io.damage import LazyPixels, reading
from napari_btn.io.metadata import Meta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.io._format import Format

__all__ = [
    "SUFFIXES",
    "array_names",
    "output_format",
    "read_image",
    "read_provenance",
    "split_key",
    "split_suffix",
    "write_images",
    "write_prediction",
]

FORMATS: Final[tuple[Format, ...]] = (TIFF, ZARR, NPY, NPZ, HDF5, TENSORS, PICTURES)

SUFFIXES: Final = tuple(suffix for one in FORMATS for suffix in one.suffixes)
"""Last suffixes of the image files that can be read."""


def split_suffix(name: str) -> tuple[str, str]:
    """Split the name of an image file: ``("soil", ".ome.tif")``; the suffix is empty for other files.

    Parameters
    ----------
    name : str
        Name without its folder.

    Returns
    -------
    stem, suffix : str
        Together the name.
    """
    endings = "|".join(map(re.escape, SUFFIXES))
    match = re.fullmatch(rf"(.+?)((?:\.ome)?(?:{endings}))", name, flags=re.IGNORECASE | re.DOTALL)
    return (match[1], match[2]) if match else (name, "")


def split_key(path: str | Path) -> tuple[Path, str | None]:
    """Split a file from the key that follows its name after a colon, as in ``pair.npz:noisy``.

    Parameters
    ----------
    path : str or Path
        Name of a file, with a key or without.

    Returns
    -------
    file : Path
        The file.
    key : str or None
        The key; None for none.
    """
    file, colon, key = str(path).rpartition(":")
    if not (colon and key and split_suffix(Path(file).name)[1]) or Path(path).exists():
        return Path(path), None
    return Path(file), key


def output_format(path: str | Path) -> Format:
    """Return the format in which an image of this name is written.

    Parameters
    ----------
    path : str or Path
        Name of the file; it need not exist.

    Returns
    -------
    Format
        One that can be written.

    Raises
    ------
    ValueError
        If no format that can be written has the name's suffix.
    """
    path = path_of(path)
    found = _format_of(path)
    if found is None or found.write is None:
        outputs = [one.output for one in FORMATS if one.output]
        raise ValueError(f"{path.name} names no format that can be written; end it in {_or(outputs)}.")
    return found


def read_image(path: str | Path) -> Image:
    """Read an image file: its array, axes, channels and pixel size.

    Parameters
    ----------
    path : str or Path
        A file in one of the `FORMATS`. A key after the name, as in ``pair.npz:noisy``, chooses one
        of several images: the key of an npz, the name of an OME-TIFF's image, the group of a zarr;
        without it, the first image of a TIFF or zarr is read. Of several resolutions the finest is
        read.

    Returns
    -------
    Image
        Arrays over 64 MiB are opened without being read, except from ``.npz``.

    Raises
    ------
    ValueError
        If there is no such file or key, the format is unknown, the file is damaged, or it doesn't
        hold real numbers. If the format needs a package that is missing: a subclass, which is an
        ``ImportError`` too.
    """
    file, key = split_key(path)
    found = _format_of(file)
    if found is None:
        shown = _or([one.shown for one in FORMATS])
        raise ValueError(f"{file.resolve().name} is no image file that can be read; give {shown}.")
    with _one_sentence(file):
        data, meta = found.read(file, key)
        meta = meta.checked(data.shape)
    if not isinstance(data, np.ndarray):
        data = LazyPixels(data, file)
    if np.dtype(data.dtype).kind not in "biuf" or 0 in data.shape:
        raise ValueError(
            f"{file.name} holds {data.dtype} of shape {tuple(data.shape)}; "
            "real numbers are needed, at least one."
        )
    stem, _ = split_suffix(file.name)
    return Image(
        data=data,
        axes=meta.axes,
        channel_names=meta.channel_names,
        pixel_size=meta.pixel_size,
        unit=meta.unit,
        name=f"{stem} {meta.name}" if meta.name else stem,
        axes_guessed=meta.axes_guessed,
    )


def array_names(path: str | Path) -> tuple[str, ...]:
    """Return the names of the arrays in a file that holds several; none for other formats.

    Parameters
    ----------
    path : str or Path
        ``.npz``, ``.h5``, ``.zarr`` or ``.pt``.

    Raises
    ------
    ValueError
        If there is no such file, or it is damaged.
    """
    file = path_of(path)
    found = _format_of(file)
    if found is None or found.names is None:
        return ()
    with _one_sentence(file):
        return tuple(found.names(file))


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Read the provenance of a file that `write_images` wrote; empty for other files.

    Parameters
    ----------
    path : str or Path
        ``.ome.tif``, ``.ome.zarr`` or ``.npz``.

    Returns
    -------
    dict
        What was given to `write_images`.

    Raises
    ------
    ValueError
        If there is no such file or it is damaged.
    """
    file, key = split_key(path)
    found = _format_of(file)
    with _one_sentence(file):
        return found.provenance(file, key) if found and found.provenance else {}


def write_prediction(
    prediction: Prediction, path: str | Path, *, draws: Any = None, overwrite: bool = False
) -> None:
    """Write the maps of a prediction: lower, median, upper, width, spread, mean; and draws, if there are any.

    Parameters
    ----------
    prediction : Prediction
        From ``Denoiser.predict``.
    path : str or Path
        ``.ome.tif`` (one OME image per map), ``.ome.zarr`` (one image group per map) or
        ``.npz`` (one key per map).
    draws : array of float32, (n, *axes), optional
        From ``Prediction.draws``; written as the maps "draw_1" to "draw_n".
    overwrite : bool
        Replace what is there.

    Raises
    ------
    ValueError
        If the format is unknown, or the output exists and may not be replaced.
    OSError
        If the disk is full or the folder can't be written to; nothing is left behind then.
    """
    names = ("lower", "median", "upper", "width", "spread", "mean")
    maps = {name: getattr(prediction, name) for name in names}
    maps |= {f"draw_{k + 1}": draw for k, draw in enumerate(() if draws is None else draws)}
    known = {
        "levels": list(prediction.levels),
        "alpha": prediction.alpha,
        "covers": prediction.covers,
        **prediction.provenance,
    }
    write_images(
        {name: values for name, values in maps.items() if values is not None},
        path,
        axes=prediction.axes,
        channel_names=prediction.channel_names,
        pixel_size=prediction.pixel_size,
        unit=prediction.unit,
        provenance=known,
        overwrite=overwrite,
    )


def write_images(
    maps: Mapping[str, Any],
    path: str | Path,
    *,
    axes: str,
    channel_names: Sequence[str] | None = None,
    pixel_size: Sequence[float] | None = None,
    unit: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write maps of one scene as the images of one file.

    Parameters
    ----------
    maps : mapping of str to array-like
        Named arrays (numpy, zarr, dask), all of the axes ``axes``.
    path : str or Path
        ``.ome.tif`` or ``.tif`` (an OME-TIFF with one image per map), ``.ome.zarr`` or
        ``.zarr`` (one OME-NGFF image group per map) or ``.npz`` (one key per map). The first
        two store the axes in the order T, S, C, Z, Y, X, the last as they are.
    axes : str
        One letter of S, T, C, Z, Y, X per dimension, any order and case.
    channel_names : sequence of str, optional
        One per channel.
    pixel_size : sequence of float, optional
        One per space axis, in the order of ``axes``, in ``unit``.
    unit : str, optional
        Unit of the pixel size, e.g. "um"; "px" for none.
    provenance : mapping, optional
        How the maps were made: numbers, texts, lists and dicts.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    ValueError
        If the format is unknown, axes and shapes don't fit, a number type has no place in the
        format, or the output exists and may not be replaced.
    OSError
        If the disk is full or the folder can't be written to; nothing is left behind then.
    """
    path = path_of(path)
    write = output_format(path).write
    assert write is not None, "an output format can be written"
    meta = Meta.given(axes, channel_names, pixel_size, unit)
    _check_maps(maps, meta)
    with written_whole(path, overwrite=overwrite) as partial:
        write(maps, partial, meta, dict(provenance or {}))


def _format_of(path: Path) -> Format | None:
    """Return the format that a name asks for; an image inside a folder has that of the folder."""
    suffix = path.suffix.lower()
    inside = [Path(part).suffix.lower() for part in path.parts[:-1]]
    by_name = (one for one in FORMATS if suffix in one.suffixes)
    by_folder = (one for one in FORMATS if one.is_folder and set(inside) & set(one.suffixes))
    return next(by_name, None) or next(by_folder, None)


def _or(kinds: Sequence[str]) -> str:
    """Return a list in words: ``a, b or c``."""
    return " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))


@contextmanager
def _one_sentence(file: Path) -> Iterator[None]:
    """Check that the file exists, and turn what a damaged one raises into one sentence."""
    if not file.exists():
        # a process that was killed while it replaced a folder may have left both where `recover` finds them
        recover(file.parent)
    if not file.exists():
        raise MissingInputError(f"There is no {file}; check the name and the folder.")
    with reading(file):
        yield


def _check_maps(maps: Mapping[str, Any], meta: Meta) -> None:
    """Raise unless every map fits the axes and the rest of the metadata."""
    axes = meta.axes or ""
    # of all formats, so that maps written in one can be written in another
    reserved = {name for one in FORMATS for name in one.reserved}
    if not maps:
        raise ValueError("There is no map to write; give at least one.")
    if not set(axes) <= set(ORDER) or len(set(axes)) < len(axes) or not {"Y", "X"} <= set(axes):
        raise ValueError(f"Axes {axes} came; use S, T, C, Z, Y, X, each at most once, with Y and X.")
    for name, values in maps.items():
        if len(values.shape) != len(axes):
            raise ValueError(
                f"The map {name} has shape {tuple(values.shape)}; axes {axes} need {len(axes)} dimensions."
            )
        if not name or "/" in name or name in reserved:
            raise ValueError(f"A map cannot be called {name!r}; give it another name.")
    shapes = {tuple(values.shape) for values in maps.values()}
    if len(shapes) > 1:
        raise ValueError(f"The maps have the shapes {sorted(shapes)}; maps of one file must have one shape.")
    checked = meta.checked(shapes.pop())
    if (checked.channel_names, checked.pixel_size) != (meta.channel_names, meta.pixel_size):
        raise ValueError(
            f"Channel names {meta.channel_names} and pixel size {meta.pixel_size} don't fit axes {axes}; "
            "give one name per channel and one size above zero per space axis."
        )
