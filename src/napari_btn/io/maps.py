"""Maps larger than memory: zarr arrays that are written part by part and appear when they are whole."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io import _zarr
from napari_btn.io._format import ORDER, package
from napari_btn.io.atomic import MissingInputError, path_of, written_whole
from napari_btn.io.metadata import Meta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Image

__all__ = ["open_maps", "zarr_maps"]

_QUANTILES: Final = "quantiles"


@contextmanager
def zarr_maps(
    path: str | Path,
    names: Sequence[str],
    like: Image,
    *,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    steps: Mapping[str, int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Open writable maps on disk, which appear under ``path`` if the block ends without an error.

    Parameters
    ----------
    path : str or Path
        Folder to write, ``.ome.zarr`` or ``.zarr``: one OME-NGFF image group per map, as
        `write_images` makes them.
    names : sequence of str
        Maps to make. "quantiles" becomes a plain array whose first axis is the levels of ``provenance``.
    like : Image
        Image whose shape, axes, channel names and pixel size a map has.
    provenance : mapping, optional
        How the maps are made.
    overwrite : bool
        Replace what is there.
    steps : mapping of str to int, optional
        Per axis letter, the steps in which it will be written; chunks of that length are written once.

    Yields
    ------
    dict of str to array
        float32, of the axes given, to be written by slices.

    Raises
    ------
    ValueError
        If the name doesn't end in .zarr or exists already, or zarr isn't installed.
    OSError
        If the disk is full or the folder can't be written to.
    """
    path = path_of(path)
    if path.suffix.lower() not in _zarr.ZARR.suffixes:
        raise ValueError(
            f"{path.name} can't be filled tile by tile; end it in {_zarr.ZARR.output}, or predict without "
            "out and write the prediction."
        )
    shape = tuple(like.data.shape)
    meta = Meta.given(like.axes or "", like.channel_names, like.pixel_size, like.unit)
    known = dict(provenance or {})
    with written_whole(path, overwrite=overwrite) as partial:
        images = {name: (shape, np.dtype(np.float32)) for name in names if name != _QUANTILES}
        made = _zarr.create_maps(partial, images, meta, known, steps)
        if _QUANTILES in names:
            made[_QUANTILES] = _zarr.create_quantiles(partial, shape, meta, known, steps)
        yield {name: _in_axes(array, meta.axes or "") for name, array in made.items()}


def open_maps(path: str | Path, axes: str) -> dict[str, Any]:
    """Open the maps that `zarr_maps` made; pixels are read when they are indexed.

    Parameters
    ----------
    path : str or Path
        A folder written by `zarr_maps` or, without quantiles, `write_images`.
    axes : str
        Axes of the maps as they were written.

    Returns
    -------
    dict of str to array
        Zarr arrays, or views of them if the file keeps the axes in another order.

    Raises
    ------
    ValueError
        If there is no such folder.
    """
    path = path_of(path)
    if not path.is_dir():
        raise MissingInputError(f"There is no {path}; check the name and the folder.")
    root = package("zarr", path).open_group(path, mode="r")
    found = {name: group["0"] for name, group in root.groups() if "0" in group}
    found |= dict(root.arrays())
    return {name: _in_axes(array, axes.upper()) for name, array in found.items()}


def _in_axes(array: Any, axes: str) -> Any:
    """Return an array of stored order in the order of ``axes``."""
    stored = "".join(a for a in ORDER if a in axes)
    if stored == axes:
        return array
    before = array.ndim - len(axes)
    return _Transposed(array, (*range(before), *(before + stored.index(a) for a in axes)))


class _Transposed:
    """A view of an array with its axes in another order, read and written part by part."""

    def __init__(self, array: Any, order: tuple[int, ...]) -> None:
        self.array, self.order = array, order
        self.shape = tuple(array.shape[i] for i in order)
        self.ndim, self.dtype = len(order), array.dtype

    def _stored(self, index: Any) -> tuple[tuple[Any, ...], list[int]]:
        """Return the index in stored order, and the order of the remaining axes."""
        given = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in given:
            at = given.index(Ellipsis)
            given[at : at + 1] = [slice(None)] * (self.ndim - len(given) + 1)
        given += [slice(None)] * (self.ndim - len(given))
        own = [given[self.order.index(i)] for i in range(self.ndim)]
        left = [i for i in range(self.ndim) if isinstance(own[i], slice)]
        return tuple(own), [left.index(i) for i in self.order if i in left]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        own, order = self._stored(index)
        return np.asarray(self.array[own]).transpose(order)

    def __setitem__(self, index: Any, values: Any) -> None:
        own, order = self._stored(index)
        values = np.asarray(values)
        self.array[own] = values.transpose(np.argsort(order)) if values.ndim == len(order) else values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)
