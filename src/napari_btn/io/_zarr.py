"""Zarr folders: OME-NGFF 0.1 to 0.5 and bare arrays are read, OME-NGFF 0.5 is written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io import metadata
from napari_btn.io._format import ExplainedError, Format, choose, need_small_chunks, package, slabs, stored
from napari_btn.io.metadata import Meta

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ZARR", "create_maps", "create_quantiles"]

_CHUNK_PIXELS: Final = 512 * 512


def _read(file: Path, key: str | None) -> tuple[Any, Meta]:
    """Open an array, or the finest level of an image group."""
    zarr = package("zarr", file)
    node = _open(file, key)
    if isinstance(node, zarr.Array):
        need_small_chunks(node)
        names = node.metadata.to_dict().get("dimension_names") or node.attrs.get("_ARRAY_DIMENSIONS") or ()
        letters = [str(name)[:1].upper() for name in names]
        known = len(set(letters)) == len(letters) == node.ndim and set(letters) <= set("STCZYX")
        return node, Meta("".join(letters) if known else None)
    found = metadata.from_ngff(dict(node.attrs))
    if found is None:
        images = _images_in(node)
        inside = list(images) or [name for name, _ in node.arrays()]
        several = "bioformats2raw.layout" in node.attrs.get("ome", node.attrs)
        chosen = inside[0] if images and several else choose(inside, None, file)
        data, meta = _read(file, f"{key}/{chosen}" if key else chosen)
        return data, replace(meta, name=meta.name if len(inside) > 1 else "")
    meta, level = found
    note = dict(node.attrs.get(metadata.NAMESPACE, {}))
    data = node[level]
    if not isinstance(data, zarr.Array):
        raise ValueError(f"its level {level} is no array")
    need_small_chunks(data)
    if tuple(note.get("shape", ())) == data.shape:
        meta = metadata.from_note(note, "")
    return data, replace(meta, name=key or "")


def _provenance(file: Path, key: str | None) -> dict[str, Any]:
    """Read the provenance of a group, or of the images in it."""
    group = _open(file, key)
    nodes = (group, *_images_in(group).values())
    return metadata.first_provenance([dict(node.attrs.get(metadata.NAMESPACE, {})) for node in nodes])


def _names(file: Path) -> list[str]:
    """Return the names of the image groups, or of the arrays, right inside a store."""
    node = _open(file, None)
    if not hasattr(node, "groups") or metadata.from_ngff(dict(node.attrs)) is not None:
        return []
    return list(_images_in(node)) or sorted(name for name, _ in node.arrays())


def _open(file: Path, key: str | None) -> Any:
    """Open the zarr array or group at a path."""
    zarr = package("zarr", file)
    try:
        return zarr.open(file / key if key else file, mode="r")
    except (FileNotFoundError, NotADirectoryError) as error:
        if key:
            choose(list(_images_in(_open(file, None))), key, file)
        raise ExplainedError(
            f"{file.name} is no zarr folder; give one that holds an array or an image group."
        ) from error


def _images_in(node: Any) -> dict[str, Any]:
    """Return the image groups right inside a zarr group, in the order in which it lists them."""
    groups = dict(node.groups()) if hasattr(node, "groups") else {}
    listed = groups["OME"].attrs if "OME" in groups else {}
    order = [str(name) for name in listed.get("ome", listed).get("series", ())]
    names = [*(name for name in order if name in groups), *sorted(set(groups) - set(order))]
    return {name: groups[name] for name in names if metadata.from_ngff(dict(groups[name].attrs))}


def _write(maps: Mapping[str, Any], path: Path, meta: Meta, provenance: Mapping[str, Any]) -> None:
    """Write one image group per map."""
    arrays = create_maps(
        path, {name: (values.shape, values.dtype) for name, values in maps.items()}, meta, provenance
    )
    for name, values in maps.items():
        array = arrays[name]
        for where, slab in slabs(values, meta.axes or "", array.shape, array.chunks[:-1]):
            array[where] = slab


def create_maps(
    path: Path,
    maps: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    meta: Meta,
    provenance: Mapping[str, Any],
    steps: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Create the empty arrays of one OME-NGFF 0.5 image group per map.

    Parameters
    ----------
    path : Path
        Folder to write.
    maps : mapping of str to (shape, dtype)
        What each map will hold, the shape in the order of the axes of ``meta``.
    meta : Meta
        Axes and the rest.
    provenance : mapping
        How the maps are made.
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
    root = package("zarr", path).open_group(path, mode="w-", zarr_format=3)
    # the layout by which viewers find all images of one folder
    root.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    root.create_group("OME").attrs["ome"] = {"version": "0.5", "series": list(maps)}
    made = {}
    for name, (own_shape, dtype) in maps.items():
        kept, shape = stored(meta, own_shape, name)
        note = json.loads(metadata.to_json(metadata.to_note(kept, shape, provenance)))
        group = root.create_group(name)
        group.attrs.update(metadata.to_ngff(kept, note))
        made[name] = group.create_array(
            "0",
            shape=shape,
            chunks=_chunks(kept.axes or "", shape, steps or {}),
            dtype=dtype,
            dimension_names=[a.lower() for a in kept.axes or ""],
        )
    return made


def create_quantiles(
    path: Path,
    shape: tuple[int, ...],
    meta: Meta,
    provenance: Mapping[str, Any],
    steps: Mapping[str, int] | None = None,
) -> Any:
    """Create an empty array (L, T, S, C, Z, Y, X) beside the maps of a folder, which viewers ignore.

    Parameters
    ----------
    path : Path
        Folder that `create_maps` made.
    shape : tuple of int
        Shape of a map, in the order of the axes of ``meta``.
    meta : Meta
        Axes and the rest.
    provenance : mapping
        Its "levels" are those of the first axis.
    steps : mapping of str to int, optional
        As in `create_maps`.

    Returns
    -------
    zarr.Array
        float32.
    """
    kept, own_shape = stored(meta, shape, "quantiles")
    levels = [float(v) for v in provenance["levels"]]
    array = (
        package("zarr", path)
        .open_group(path, mode="r+")
        .create_array(
            "quantiles",
            shape=(len(levels), *own_shape),
            chunks=(1, *_chunks(kept.axes or "", own_shape, steps or {})),
            dtype=np.float32,
            dimension_names=["level", *(a.lower() for a in kept.axes or "")],
        )
    )
    array.attrs["levels"] = levels
    return array


def _chunks(axes: str, shape: tuple[int, ...], steps: Mapping[str, int]) -> tuple[int, ...]:
    """Return chunks of about a megabyte, compact in space, or as long as the steps of writing."""
    side = 128 if "Z" in axes else 512
    chunks: list[int] = []
    for axis, n in reversed(list(zip(axes, shape, strict=True))):
        room = side if len(chunks) < 2 else max(_CHUNK_PIXELS // math.prod(chunks), 1)
        chunks.insert(0, max(min(n, steps.get(axis, room)), 1))
    return tuple(chunks)


ZARR: Final = Format(
    suffixes=(".zarr",),
    shown=".zarr, .ome.zarr",
    read=_read,
    provenance=_provenance,
    write=_write,
    output=".ome.zarr",
    is_folder=True,
    names=_names,
)
