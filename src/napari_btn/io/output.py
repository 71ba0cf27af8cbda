"""Maps and their metadata as the bytes of each format."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_btn.io.metadata import Meta

__all__ = [
    "MissingPackageError",
    "create_quantiles",
    "create_zarr",
    "write_npz",
    "write_tiff",
    "write_zarr",
    "zarr_package",
]

ORDER: Final = "TSCZYX"
_CHUNK_PIXELS: Final = 512 * 512
NPZ_NOTES: Final = ("axes", "channel_names", "pixel_size", "unit", "levels", "provenance")


class MissingPackageError(ImportError, ValueError):
    """A file format needs a package that isn't installed."""


def zarr_package(file: Path) -> Any:
    """The zarr package."""
    try:
        import zarr
    except ImportError as error:
        raise MissingPackageError(
            f"{file.name} needs the package zarr, which isn't installed; pip install 'napari-btn[all]'."
        ) from error
    return zarr


def write_npz(maps: Mapping[str, Any], path: Path, meta: Meta, provenance: Mapping[str, Any]) -> None:
    """One key per map, and the metadata beside them.

    Parameters
    ----------
    maps : mapping of str to array-like
        Named arrays.
    path : Path
        File to write.
    meta : Meta
        Axes and the rest.
    provenance : mapping
        How the maps came about; its "levels" get a key of their own.
    """
    notes: dict[str, Any] = {"axes": meta.axes, "provenance": metadata.to_json(provenance)}
    notes |= {"channel_names": meta.channel_names, "pixel_size": meta.pixel_size, "unit": meta.unit}
    notes["levels"] = provenance.get("levels")
    kept = {name: np.asarray(value) for name, value in notes.items() if value is not None}
    with path.open("xb") as file:
        np.savez(
            file, allow_pickle=False, **{name: np.asarray(values) for name, values in maps.items()}, **kept
        )


def write_tiff(maps: Mapping[str, Any], path: Path, meta: Meta, provenance: Mapping[str, Any]) -> None:
    """One OME image per map, uncompressed so that readers can map them into memory.

    Parameters
    ----------
    maps : mapping of str to array-like
        Named arrays.
    path : Path
        File to write.
    meta : Meta
        Axes and the rest.
    provenance : mapping
        How the maps came about.

    Raises
    ------
    ValueError
        If a map has a number type that OME-TIFF has no place for.
    """
    import tifffile

    types = {name: _ome_type(name, values) for name, values in maps.items()}
    total = sum(math.prod(values.shape) * types[name].itemsize for name, values in maps.items())
    with tifffile.TiffWriter(path, ome=True, bigtiff=total > 2**32 - 2**26) as tif:
        for name, values in maps.items():
            told, shape = _ordered(meta, values.shape, name)
            note = metadata.to_json(metadata.to_note(told, shape, provenance))
            planes = _slabs(values, meta.axes or "", shape, (*(1,) * (len(shape) - 2), shape[-2]))
            tif.write(
                (np.ascontiguousarray(plane.reshape(shape[-2:]), types[name]) for _, plane in planes),
                shape=shape,
                dtype=types[name],
                photometric="minisblack",
                metadata=metadata.to_ome(told, note),
            )


def write_zarr(maps: Mapping[str, Any], path: Path, meta: Meta, provenance: Mapping[str, Any]) -> None:
    """One OME-NGFF 0.5 image group per map.

    Parameters
    ----------
    maps : mapping of str to array-like
        Named arrays.
    path : Path
        Folder to write.
    meta : Meta
        Axes and the rest.
    provenance : mapping
        How the maps came about.

    Raises
    ------
    ValueError
        If zarr isn't installed.
    """
    arrays = create_zarr(
        path, {name: (values.shape, values.dtype) for name, values in maps.items()}, meta, provenance
    )
    for name, values in maps.items():
        array = arrays[name]
        for where, slab in _slabs(values, meta.axes or "", array.shape, array.chunks[:-1]):
            array[where] = slab


def create_zarr(
    path: Path,
    maps: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    meta: Meta,
    provenance: Mapping[str, Any],
    steps: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Empty arrays of one OME-NGFF 0.5 image group per map, to be filled.

    Parameters
    ----------
    path : Path
        Folder to write.
    maps : mapping of str to (shape, dtype)
        What each map will hold, the shape in the order of the axes of ``meta``.
    meta : Meta
        Axes and the rest.
    provenance : mapping
        How the maps come about.
    steps : mapping of str to int, optional
        Per axis letter, the steps in which it will be written, to which chunks are fitted.

    Returns
    -------
    dict of str to zarr.Array
        Axes in the order T, S, C, Z, Y, X.

    Raises
    ------
    ValueError
        If zarr isn't installed.
    """
    zarr = zarr_package(path)
    root = zarr.open_group(path, mode="w-", zarr_format=3)
    # the layout by which viewers find all images of one folder
    root.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    root.create_group("OME").attrs["ome"] = {"version": "0.5", "series": list(maps)}
    made = {}
    for name, (own_shape, dtype) in maps.items():
        told, shape = _ordered(meta, own_shape, name)
        group = root.create_group(name)
        group.attrs.update(
            metadata.to_ngff(told, json.loads(metadata.to_json(metadata.to_note(told, shape, provenance))))
        )
        made[name] = group.create_array(
            "0",
            shape=shape,
            chunks=_chunks(told.axes or "", shape, steps or {}),
            dtype=dtype,
            dimension_names=[a.lower() for a in told.axes or ""],
        )
    return made


def create_quantiles(
    path: Path,
    shape: tuple[int, ...],
    meta: Meta,
    provenance: Mapping[str, Any],
    steps: Mapping[str, int] | None = None,
) -> Any:
    """Empty float32 array (L, T, S, C, Z, Y, X) beside the maps of a folder, which viewers pass over.

    Parameters
    ----------
    path : Path
        Folder that `create_zarr` made.
    shape : tuple of int
        Shape of a map, in the order of the axes of ``meta``.
    meta : Meta
        Axes and the rest.
    provenance : mapping
        Its "levels" are those of the first axis.
    steps : mapping of str to int, optional
        As in `create_zarr`.

    Returns
    -------
    zarr.Array
        float32.
    """
    told, stored = _ordered(meta, shape, "quantiles")
    levels = [float(v) for v in provenance["levels"]]
    array = (
        zarr_package(path)
        .open_group(path, mode="r+")
        .create_array(
            "quantiles",
            shape=(len(levels), *stored),
            chunks=(1, *_chunks(told.axes or "", stored, steps or {})),
            dtype=np.float32,
            dimension_names=["level", *(a.lower() for a in told.axes or "")],
        )
    )
    array.attrs["levels"] = levels
    return array


def _ordered(meta: Meta, shape: Sequence[int], name: str) -> tuple[Meta, tuple[int, ...]]:
    """Metadata and shape of a map in the order in which the formats keep axes."""
    came = meta.axes or ""
    axes = "".join(a for a in ORDER if a in came)
    space = [a for a in came if a in "ZYX"]
    size = meta.pixel_size
    if size is not None:
        size = tuple(size[space.index(a)] for a in axes if a in space)
    told = replace(meta, axes=axes, pixel_size=size, name=name)
    return told, tuple(int(shape[came.index(a)]) for a in axes)


def _chunks(axes: str, shape: tuple[int, ...], steps: Mapping[str, int]) -> tuple[int, ...]:
    """Chunks of about a megabyte, compact in space, or as long as the steps in which an axis is written."""
    side = 128 if "Z" in axes else 512
    chunks: list[int] = []
    for axis, n in reversed(list(zip(axes, shape, strict=True))):
        room = side if len(chunks) < 2 else max(_CHUNK_PIXELS // math.prod(chunks), 1)
        chunks.insert(0, max(min(n, steps.get(axis, room)), 1))
    return tuple(chunks)


def _slabs(
    values: Any, axes: str, shape: tuple[int, ...], steps: Sequence[int]
) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
    """Parts of a map of any array type in the stored order: whole rows, ``steps`` along the other axes."""
    order = [a for a in ORDER if a in axes]
    starts = [range(0, n, step) for n, step in zip(shape[:-1], steps, strict=True)]
    for corner in product(*starts):
        cuts = [slice(k, min(k + step, n)) for k, step, n in zip(corner, steps, shape[:-1], strict=True)]
        where = (*cuts, slice(0, shape[-1]))
        own = tuple(where[order.index(a)] for a in axes)
        yield where, np.asarray(values[own]).transpose([axes.index(a) for a in order])


def _ome_type(name: str, values: Any) -> np.dtype[Any]:
    """The number type in which an OME-TIFF keeps a map without loss."""
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
