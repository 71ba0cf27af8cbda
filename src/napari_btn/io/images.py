"""Images in and out: TIFF, OME-TIFF, ImageJ TIFF, OME-Zarr, npy and npz.

Large files are opened, not read: their `Image.data` is a memory map or a zarr array. Outputs
appear under their name only when whole.
"""

from __future__ import annotations

import math
import re
import struct
import weakref
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.core.data.image import Image
from napari_btn.io import metadata, output
from napari_btn.io.atomic import MissingInputError, written_whole
from napari_btn.io.metadata import Meta, guess_axes
from napari_btn.io.output import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_btn.core.calibration.prediction import Prediction

__all__ = [
    "guess_axes",
    "read_image",
    "read_provenance",
    "write_images",
    "write_prediction",
]

_LAZY_BYTES: Final = 64 * 2**20
_NPY: Final = b"\x93NUMPY"
_KINDS: Final = ".tif, .ome.tif, .zarr, .ome.zarr, .npy or file.npz:key"
_DAMAGED: Final = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


def read_image(path: str | Path) -> Image:
    """An image file with what it says of axes, channels and pixel size.

    Parameters
    ----------
    path : str or Path
        ``.tif``, ``.ome.tif``, ``.zarr``, ``.ome.zarr``, ``.npy`` or ``.npz``. Of several
        images the first is taken, or the one that ``:key`` after the name asks for: the key
        of an npz, the name of an OME-TIFF's image, the group of a zarr. Of several
        resolutions the finest is taken.

    Returns
    -------
    Image
        Arrays over 64 MiB are opened without being read, except from ``.npz``.

    Raises
    ------
    ValueError
        If there is no such file or key, the kind is unknown, the file is damaged, or it holds
        something else than real numbers. A package that is missing for the kind is told by a
        subclass that is an ``ImportError`` too.
    """
    file, key = _split_key(path)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".tif": _read_tiff, ".zarr": _read_zarr}
    read = readers.get(_kind(file) or "")
    if read is None:
        raise ValueError(f"{file.resolve().name} is no image file that can be read; give {_KINDS}.")
    if not file.exists():
        raise MissingInputError(f"There is no {file}; check the name and the folder.")
    try:
        data, meta = read(file, key)
    except (_Told, MissingPackageError):
        raise
    except _DAMAGED as error:
        raise ValueError(
            f"{file.name} is damaged or not what its name says ({error}); write it again."
        ) from error
    if np.dtype(data.dtype).kind not in "biuf" or 0 in data.shape:
        raise ValueError(
            f"{file.name} holds {data.dtype} of shape {tuple(data.shape)}; "
            "real numbers are needed, at least one."
        )
    meta = meta.checked(data.shape)
    stem = re.sub(r"\.(ome\.)?(tiff?|zarr|npy|npz)$", "", file.name, flags=re.IGNORECASE)
    return Image(
        data=data,
        axes=meta.axes,
        channel_names=meta.channel_names,
        pixel_size=meta.pixel_size,
        unit=meta.unit,
        name=f"{stem} {meta.name}" if meta.name else stem,
        axes_guessed=meta.axes_guessed,
    )


def read_provenance(path: str | Path) -> dict[str, Any]:
    """How a file written by `write_images` came about; empty for other files.

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
    file, key = _split_key(path)
    if not file.exists():
        raise MissingInputError(f"There is no {file}; check the name and the folder.")
    kind = _kind(file)
    try:
        if kind == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return metadata.read_json(str(arrays["provenance"])) if "provenance" in arrays else {}
        if kind == ".tif":
            import tifffile

            with tifffile.TiffFile(file) as tif:
                notes = metadata.ome_notes(tif.ome_metadata or "")
        elif kind == ".zarr":
            group = _open_zarr(file, key)
            notes = [
                dict(node.attrs.get(metadata.NAMESPACE, {})) for node in (group, *_images_in(group).values())
            ]
        else:
            notes = []
    except _DAMAGED as error:
        raise ValueError(f"{file.name} is damaged or not what its name says ({error}).") from error
    return next((dict(note["provenance"]) for note in notes if "provenance" in note), {})


def write_prediction(prediction: Prediction, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the maps of a prediction: lower, median, upper, width, spread.

    Parameters
    ----------
    prediction : Prediction
        From ``Denoiser.predict``.
    path : str or Path
        ``.ome.tif`` (one OME image per map), ``.ome.zarr`` (one image group per map) or
        ``.npz`` (one key per map).
    overwrite : bool
        Replace what is there.

    Raises
    ------
    ValueError
        If the kind is unknown, or the output exists and may not be replaced.
    OSError
        If the disk is full or the folder can't be written to; nothing is left behind then.
    """
    maps = {name: getattr(prediction, name) for name in ("lower", "median", "upper", "width", "spread")}
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
        How the maps came about: numbers, texts, lists and dicts.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    ValueError
        If the kind is unknown, axes and shapes don't fit, a number type has no place in the
        format, or the output exists and may not be replaced.
    OSError
        If the disk is full or the folder can't be written to; nothing is left behind then.
    """
    path = Path(path)
    writers = {".npz": output.write_npz, ".tif": output.write_tiff, ".zarr": output.write_zarr}
    write = writers.get(_kind(path) or "")
    if write is None:
        raise ValueError(
            f"{path.name} is no kind of file that can be written; end it in .ome.tif, .ome.zarr or .npz."
        )
    meta = Meta(
        axes=axes.upper(),
        channel_names=tuple(channel_names) if channel_names else None,
        pixel_size=tuple(map(float, pixel_size)) if pixel_size is not None else None,
        unit=metadata.unit_symbol(unit),
    )
    _check_maps(maps, meta)
    with written_whole(path, overwrite=overwrite) as partial:
        write(maps, partial, meta, dict(provenance or {}))


class _Told(ValueError):
    """Bad input that is already told in a whole sentence."""


def _kind(path: Path) -> str | None:
    """The format that a name asks for; a group inside a zarr folder is one too."""
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        return ".tif"
    if suffix in (".npy", ".npz"):
        return suffix
    return ".zarr" if any(part.lower().endswith(".zarr") for part in path.parts) else None


def _split_key(path: str | Path) -> tuple[Path, str | None]:
    """A file and the key that follows its name after a colon."""
    match = re.fullmatch(r"(.+\.(?:npz|tiff?|zarr)):([^:]+)", str(path), flags=re.IGNORECASE | re.DOTALL)
    if match is None or Path(path).exists():
        return Path(path), None
    return Path(match[1]), match[2]


def _choose(keys: Sequence[str], key: str | None, file: Path) -> str:
    """The key asked for, if there is one; the only one, if none was asked for."""
    if key is None and len(keys) == 1:
        return keys[0]
    if key in keys:
        return str(key)
    example = f" Name one, as in {file.name}:{keys[0]}." if keys else ""
    if key is None and keys:
        raise _Told(f"{file.name} holds several images: {', '.join(keys)}.{example}")
    came = "holds no image" if key is None else f"has no {key}; it holds {', '.join(keys) or 'no image'}"
    raise _Told(f"{file.name} {came}.{example}")


def _read_npy(file: Path, key: str | None) -> tuple[Any, Meta]:
    """A memory map."""
    del key
    with file.open("rb") as stream:
        # numpy takes all other files for pickles, and advises to open them as such
        if stream.read(len(_NPY)) != _NPY:
            raise ValueError("it doesn't begin as an npy file")
    return np.load(file, mmap_mode="r", allow_pickle=False), Meta()


def _read_npz(file: Path, key: str | None) -> tuple[Any, Meta]:
    """One array of the archive, with the metadata that our own archives keep beside it."""
    with np.load(file, allow_pickle=False) as arrays:
        keys = [name for name in arrays.files if name not in output.NPZ_NOTES]
        data = arrays[_choose(keys, key, file)]
        if "axes" not in arrays or "provenance" not in arrays:
            return data, Meta(name=key or "")
        note = {name: arrays[name].tolist() for name in output.NPZ_NOTES if name in arrays}
    return data, metadata.from_note(note, key or "")


def _read_tiff(file: Path, key: str | None) -> tuple[Any, Meta]:
    """One series of the file at its finest level."""
    import tifffile

    try:
        with tifffile.TiffFile(file) as tif:
            if not tif.series:
                raise _Told(f"{file.name} holds no image.")
            series = list(tif.series)
            names = [one.name or str(k) for k, one in enumerate(series)]
            index = 0 if key is None else names.index(_choose(names, key, file))
            one = series[index].levels[0]
            name = names[index] if len(series) > 1 else ""
            meta = replace(_tiff_meta(tif, index, one.axes, one.shape), name=name)
            data = _tiff_data(tif, file, index)
            notes = metadata.ome_notes(tif.ome_metadata or "")
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error
    note = notes[index] if index < len(notes) else {}
    shape = tuple(note.get("shape") or ())
    if (
        isinstance(data, np.ndarray)
        and math.prod(shape) == data.size
        and len(shape) == len(note.get("axes", ""))
    ):
        # the reader drops axes of length one; the note still has them
        return data.reshape(shape), metadata.from_note(note, meta.name)
    return data, meta


def _tiff_meta(tif: Any, index: int, axes: str, shape: tuple[int, ...]) -> Meta:
    """What the file says of one of its series, by whoever wrote it."""
    if tif.is_ome and tif.ome_metadata:
        return metadata.from_ome(tif.ome_metadata, index, axes, shape)
    if tif.is_imagej:
        tags = tif.pages[0].tags
        resolution = {a: tags[f"{a}Resolution"].value for a in "XY" if f"{a}Resolution" in tags}
        return metadata.from_imagej(tif.imagej_metadata or {}, resolution, axes, shape)
    return metadata.plain_axes(axes, shape)


def _tiff_data(tif: Any, file: Path, index: int) -> Any:
    """Pixels of a series: read where they are few, else mapped or opened."""
    import tifffile

    one = tif.series[index].levels[0]
    if one.nbytes <= _LAZY_BYTES:
        return one.asarray()
    if one.dataoffset is not None and one.keyframe.is_memmappable:
        return tifffile.memmap(file, series=index, level=0, mode="r")
    zarr = output.zarr_package(file)
    store = tifffile.imread(file, aszarr=True, series=index, level=0)
    array = zarr.open_array(store, mode="r")
    weakref.finalize(array, store.close)
    return array


def _read_zarr(file: Path, key: str | None) -> tuple[Any, Meta]:
    """An array, or the finest level of an image group."""
    zarr = output.zarr_package(file)
    node = _open_zarr(file, key)
    if isinstance(node, zarr.Array):
        names = node.metadata.to_dict().get("dimension_names") or node.attrs.get("_ARRAY_DIMENSIONS") or ()
        letters = [str(name)[:1].upper() for name in names]
        known = len(set(letters)) == len(letters) == node.ndim and set(letters) <= set("STCZYX")
        return node, Meta("".join(letters) if known else None)
    found = metadata.from_ngff(dict(node.attrs))
    if found is None:
        images = _images_in(node)
        inside = list(images) or [name for name, _ in node.arrays()]
        several = "bioformats2raw.layout" in node.attrs.get("ome", node.attrs)
        chosen = inside[0] if images and several else _choose(inside, None, file)
        data, meta = _read_zarr(file, f"{key}/{chosen}" if key else chosen)
        return data, replace(meta, name=meta.name if len(inside) > 1 else "")
    meta, level = found
    note = dict(node.attrs.get(metadata.NAMESPACE, {}))
    data = node[level]
    if tuple(note.get("shape", ())) == data.shape:
        meta = metadata.from_note(note, "")
    return data, replace(meta, name=key or "")


def _open_zarr(file: Path, key: str | None) -> Any:
    """The zarr array or group at a path."""
    zarr = output.zarr_package(file)
    try:
        return zarr.open(file / key if key else file, mode="r")
    except (FileNotFoundError, NotADirectoryError) as error:
        if key:
            _choose(list(_images_in(_open_zarr(file, None))), key, file)
        raise _Told(
            f"{file.name} is no zarr folder; give one that holds an array or an image group."
        ) from error


def _images_in(node: Any) -> dict[str, Any]:
    """Image groups right inside a zarr group, in the order that it lists them in."""
    groups = dict(node.groups()) if hasattr(node, "groups") else {}
    listed = groups["OME"].attrs if "OME" in groups else {}
    order = [str(name) for name in listed.get("ome", listed).get("series", ())]
    names = [*(name for name in order if name in groups), *sorted(set(groups) - set(order))]
    return {name: groups[name] for name in names if metadata.from_ngff(dict(groups[name].attrs))}


def _check_maps(maps: Mapping[str, Any], meta: Meta) -> None:
    """Raise unless every map fits the axes and the rest of the metadata."""
    axes = meta.axes or ""
    if not maps:
        raise ValueError("There is no map to write; give at least one.")
    if not set(axes) <= set(output.ORDER) or len(set(axes)) < len(axes) or not {"Y", "X"} <= set(axes):
        raise ValueError(f"Axes {axes} came; use S, T, C, Z, Y, X, each at most once, with Y and X.")
    for name, values in maps.items():
        if len(values.shape) != len(axes):
            raise ValueError(
                f"The map {name} has shape {tuple(values.shape)}; axes {axes} need {len(axes)} dimensions."
            )
        if not name or "/" in name or name in output.NPZ_NOTES:
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
