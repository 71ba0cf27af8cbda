"""TIFF files: OME-TIFF, ImageJ's and plain ones are read, OME-TIFF is written."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io import metadata
from napari_btn.io._format import ExplainedError, Format, choose, package, slabs, stored

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_btn.io.metadata import Meta

__all__ = ["TIFF"]

_LAZY_BYTES: Final = 64 * 2**20


def _read(file: Path, key: str | None) -> tuple[Any, Meta]:
    """Read one series of the file at its finest level."""
    import tifffile

    try:
        with tifffile.TiffFile(file) as tif:
            if not tif.series:
                raise ExplainedError(f"{file.name} holds no image.")
            series = list(tif.series)
            names = [one.name or str(k) for k, one in enumerate(series)]
            index = 0 if key is None else names.index(choose(names, key, file))
            one = series[index].levels[0]
            name = names[index] if len(series) > 1 else ""
            meta = replace(_meta(tif, index, one.axes, one.shape), name=name)
            data = _pixels(tif, file, index)
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


def _meta(tif: Any, index: int, axes: str, shape: tuple[int, ...]) -> Meta:
    """Return the metadata of a series, by the program that wrote the file."""
    if tif.is_ome and tif.ome_metadata:
        return metadata.from_ome(tif.ome_metadata, index, axes, shape)
    if tif.is_imagej:
        tags = tif.pages[0].tags
        resolution = {a: tags[f"{a}Resolution"].value for a in "XY" if f"{a}Resolution" in tags}
        return metadata.from_imagej(tif.imagej_metadata or {}, resolution, axes, shape)
    return metadata.plain_axes(axes, shape)


def _pixels(tif: Any, file: Path, index: int) -> Any:
    """Return the pixels of a series: a small one is read, a large one is mapped or opened."""
    import tifffile

    one = tif.series[index].levels[0]
    if one.nbytes <= _LAZY_BYTES:
        return one.asarray()
    if one.dataoffset is not None and one.keyframe.is_memmappable:
        return tifffile.memmap(file, series=index, level=0, mode="r")
    zarr = package("zarr", file)
    store = tifffile.imread(file, aszarr=True, series=index, level=0)
    array = zarr.open_array(store, mode="r")
    weakref.finalize(array, store.close)
    return array


def _provenance(file: Path, key: str | None) -> dict[str, Any]:
    """Read the provenance of our own files; it is the same for all of their images."""
    import tifffile

    del key
    with tifffile.TiffFile(file) as tif:
        return metadata.first_provenance(metadata.ome_notes(tif.ome_metadata or ""))


def _write(maps: Mapping[str, Any], path: Path, meta: Meta, provenance: Mapping[str, Any]) -> None:
    """Write one OME image per map, uncompressed so that readers can map them into memory."""
    import tifffile

    types = {name: _number_type(name, values) for name, values in maps.items()}
    total = sum(math.prod(values.shape) * types[name].itemsize for name, values in maps.items())
    with tifffile.TiffWriter(path, ome=True, bigtiff=total > 2**32 - 2**26) as tif:
        for name, values in maps.items():
            kept, shape = stored(meta, values.shape, name)
            note = metadata.to_json(metadata.to_note(kept, shape, provenance))
            planes = slabs(values, meta.axes or "", shape, (*(1,) * (len(shape) - 2), shape[-2]))
            tif.write(
                (np.ascontiguousarray(plane.reshape(shape[-2:]), types[name]) for _, plane in planes),
                shape=shape,
                dtype=types[name],
                photometric="minisblack",
                metadata=metadata.to_ome(kept, note),
            )


def _number_type(name: str, values: Any) -> np.dtype[Any]:
    """Return the number type in which an OME-TIFF keeps a map without loss."""
    dtype = np.dtype(values.dtype)
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype == np.float16:
        return np.dtype(np.float32)
    if dtype.kind in "iu" and dtype.itemsize == 8:
        whole = np.asarray(values)
        for narrow in (np.int32, np.uint32):
            limits = np.iinfo(narrow)
            if whole.size == 0 or (limits.min <= whole.min() and whole.max() <= limits.max):
                return np.dtype(narrow)
        raise ValueError(
            f"The map {name} goes from {whole.min()} to {whole.max()}; OME-TIFF has whole numbers of 32 "
            "bits. Write it as .ome.zarr or .npz."
        )
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(f"The map {name} holds {dtype}; OME-TIFF needs real numbers. Convert it first.")
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


TIFF: Final = Format(
    suffixes=(".tif", ".tiff"),
    shown=".tif, .ome.tif",
    read=_read,
    provenance=_provenance,
    write=_write,
    output=".ome.tif",
)
