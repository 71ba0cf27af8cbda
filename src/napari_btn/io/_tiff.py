"""TIFF files: OME-TIFF, ImageJ's and plain ones are read, OME-TIFF is written."""

from __future__ import annotations

import math
import re
import struct
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

import numpy as np

from napari_btn.io import metadata
from napari_btn.io._format import ExplainedError, Format, choose, package, slabs, stored

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_btn.io.metadata import Meta

__all__ = ["TIFF"]

_LAZY_BYTES: Final = 64 * 2**20
# How much larger than its files an image may be, by the number of the compression: none (planes of a stopped
# acquisition may be missing), LZW, deflate (two numbers), packbits.
_MOST_TIMES: Final = {1: 16, 5: 2000, 8: 2000, 32946: 2000, 32773: 128}
_PLANE_BYTES: Final = 64  # least that a file spends on a plane: its directory takes more


def _read(file: Path, key: str | None) -> tuple[Any, Meta]:
    """Read one series of the file at its finest level."""
    import tifffile

    _need_directories(file)
    try:
        with tifffile.TiffFile(file) as tif:
            room = _need_planes(tif, file)
            if not tif.series:
                raise ExplainedError(f"{file.name} holds no image.")
            series = list(tif.series)
            names = [one.name or str(k) for k, one in enumerate(series)]
            index = 0 if key is None else names.index(choose(names, key, file))
            one = series[index].levels[0]
            name = names[index] if len(series) > 1 else ""
            meta = replace(_meta(tif, index, one.axes, one.shape), name=name)
            data = _pixels(tif, file, index, room)
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


def _need_directories(file: Path) -> None:
    """Raise if the directories of a TIFF form a loop or overlap; the reader would go on nearly forever."""
    room = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        kind = struct.unpack_from(f"{order}H", head, 2)[0] if order and len(head) == 16 else 0
        if kind not in (42, 43):
            return  # the reader says what else it is
        count, entry, link, at = ("H", 12, "I", 4) if kind == 42 else ("Q", 20, "Q", 8)
        (offset,) = struct.unpack_from(order + link, head, at)
        total, seen = 0, set()
        while 0 < offset < room:
            stream.seek(offset)
            size = struct.calcsize(order + count)
            (entries,) = struct.unpack(order + count, stream.read(size).ljust(size, b"\0"))
            total += size + entries * entry
            if offset in seen or total > room:
                raise ValueError("its directories overlap or form a loop")
            seen.add(offset)
            stream.seek(offset + size + entries * entry)
            size = struct.calcsize(order + link)
            (offset,) = struct.unpack(order + link, stream.read(size).ljust(size, b"\0"))


def _need_planes(tif: Any, file: Path) -> int:
    """Return the size of all files of an image, whose OME-XML may not claim more planes than they can hold.

    The reader makes lists as long as what is claimed, and opens whatever files are named.

    Raises
    ------
    ValueError
        If too much is claimed.
    ExplainedError
        If a file is missing, or lies elsewhere.
    """
    room = file.stat().st_size
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return room
    named = {uuid.get("FileName", file.name) for uuid in root.iterfind(".//{*}UUID")}
    for name in sorted(n for n in named if n.lower() != file.name.lower()):
        beside = file.parent / name
        if not re.fullmatch(r"[^/\\:]+", name) or not beside.is_file():
            raise ExplainedError(
                f"Pixels of {file.name} lie in the file {name}, which is not beside it; put all files of the image in "
                "one folder, or save the image as one file."
            )
        room += beside.stat().st_size
    most = room // _PLANE_BYTES + 16
    for pixels in root.iterfind(".//{*}Pixels"):
        planes = math.prod(int(pixels.get(f"Size{a}", 1)) for a in "ZCT")
        counts = [int(v) for data in pixels.iterfind("{*}TiffData") for k, v in data.items() if k != "ID"]
        if not all(0 <= n <= most for n in (planes, *counts)):
            raise ValueError(f"it claims {max(planes, *counts):,} planes in {room:,} bytes")
    for along in root.iter():
        if {"Start", "End"} <= set(along.keys()):
            length = float(along.get("End", 0)) - float(along.get("Start", 0))
            if not abs(length) <= most * abs(float(along.get("Step", 1))):
                raise ValueError(f"it claims a dimension from {along.get('Start')} to {along.get('End')}")
    return room


def _meta(tif: Any, index: int, axes: str, shape: tuple[int, ...]) -> Meta:
    """Return the metadata of a series, by the program that wrote the file."""
    if tif.is_ome and tif.ome_metadata:
        return metadata.from_ome(tif.ome_metadata, index, axes, shape)
    if tif.is_imagej:
        tags = tif.pages[0].tags
        resolution = {a: tags[f"{a}Resolution"].value for a in "XY" if f"{a}Resolution" in tags}
        return metadata.from_imagej(tif.imagej_metadata or {}, resolution, axes, shape)
    return metadata.plain_axes(axes, shape)


def _pixels(tif: Any, file: Path, index: int, room: int) -> Any:
    """Return the pixels of a series: a small one is read, a large one is mapped or opened."""
    import tifffile

    one = tif.series[index].levels[0]
    _need_pixels(one, room)
    # the reader takes an offset in a file beside this one for one in this file, except page by page
    own = one.keyframe.parent is tif
    if own and one.nbytes <= _LAZY_BYTES:
        return one.asarray()
    if own and one.dataoffset is not None and one.keyframe.is_memmappable:
        return tifffile.memmap(file, series=index, level=0, mode="r")
    zarr = package("zarr", file)
    store = tifffile.imread(file, aszarr=True, series=index, level=0)
    array = zarr.open_array(store, mode="r")
    weakref.finalize(array, store.close)
    return array


def _need_pixels(one: Any, room: int) -> None:
    """Raise if a series claims far more pixels than its files can hold; a part of the planes may be missing."""
    if one.nbytes > _MOST_TIMES.get(int(one.keyframe.compression), 10**5) * room:
        raise ValueError(f"it claims {one.nbytes:,} bytes of pixels in {room:,} bytes")


def _provenance(file: Path, key: str | None) -> dict[str, Any]:
    """Read the provenance of our own files; it is the same for all of their images."""
    import tifffile

    del key
    _need_directories(file)
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
