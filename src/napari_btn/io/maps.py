"""Maps larger than memory: zarr arrays that are filled part by part and appear when they are whole."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io import metadata, output
from napari_btn.io.atomic import MissingInputError, written_whole
from napari_btn.io.metadata import Meta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["open_maps", "zarr_maps"]

_QUANTILES: Final = "quantiles"


@contextmanager
def zarr_maps(
    path: str | Path,
    names: Sequence[str],
    shape: Sequence[int],
    *,
    axes: str,
    channel_names: Sequence[str] | None = None,
    pixel_size: Sequence[float] | None = None,
    unit: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    steps: Mapping[str, int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Writable maps on disk, under ``path`` once the block ends well; nothing is left when it doesn't.

    Parameters
    ----------
    path : str or Path
        Folder to write, ``.ome.zarr`` or ``.zarr``: one OME-NGFF image group per map, as
        `write_images` makes them.
    names : sequence of str
        Maps to make. "quantiles" becomes a plain array with the levels of ``provenance`` in front.
    shape : sequence of int
        Shape of a map.
    axes : str
        One letter of S, T, C, Z, Y, X per dimension, any order and case.
    channel_names : sequence of str, optional
        One per channel.
    pixel_size : sequence of float, optional
        One per space axis, in the order of ``axes``, in ``unit``.
    unit : str, optional
        Unit of the pixel size.
    provenance : mapping, optional
        How the maps come about.
    overwrite : bool
        Replace what is there.
    steps : mapping of str to int, optional
        Per axis letter, the steps in which it will be written: a chunk is then written once and not read
        back for its next part.

    Yields
    ------
    dict of str to array
        float32, of the axes given, to be written by slices.

    Raises
    ------
    ValueError
        If the name isn't one of a zarr, or is taken; if zarr isn't installed.
    OSError
        If the disk is full or the folder can't be written to.
    """
    path = Path(path)
    if path.suffix.lower() != ".zarr":
        raise ValueError(
            f"{path.name} can't be filled tile by tile; end it in .ome.zarr, or predict without out and write "
            "the prediction."
        )
    meta = Meta(
        axes=axes.upper(),
        channel_names=tuple(channel_names) if channel_names else None,
        pixel_size=tuple(map(float, pixel_size)) if pixel_size is not None else None,
        unit=metadata.unit_symbol(unit),
    )
    known = dict(provenance or {})
    with written_whole(path, overwrite=overwrite) as partial:
        images = {name: (tuple(shape), np.dtype(np.float32)) for name in names if name != _QUANTILES}
        made = output.create_zarr(partial, images, meta, known, steps)
        if _QUANTILES in names:
            made[_QUANTILES] = output.create_quantiles(partial, tuple(shape), meta, known, steps)
        yield {name: _in_axes(array, meta.axes or "") for name, array in made.items()}


def open_maps(path: str | Path, axes: str) -> dict[str, Any]:
    """The maps that `zarr_maps` made, read only where asked.

    Parameters
    ----------
    path : str or Path
        A folder written by `zarr_maps` or, without quantiles, `write_images`.
    axes : str
        The axes that they were made with.

    Returns
    -------
    dict of str to array
        Zarr arrays; behind a thin view where the file keeps the axes in another order.

    Raises
    ------
    ValueError
        If there is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise MissingInputError(f"There is no {path}; check the name and the folder.")
    root = output.zarr_package(path).open_group(path, mode="r")
    found = {name: group["0"] for name, group in root.groups() if "0" in group}
    found |= dict(root.arrays())
    return {name: _in_axes(array, axes.upper()) for name, array in found.items()}


def _in_axes(array: Any, axes: str) -> Any:
    """An array that the file keeps in its own order, in the order of ``axes``."""
    stored = "".join(a for a in output.ORDER if a in axes)
    if stored == axes:
        return array
    before = array.ndim - len(axes)
    return _Turned(array, (*range(before), *(before + stored.index(a) for a in axes)))


class _Turned:
    """An array with its axes in another order, read and written part by part."""

    def __init__(self, array: Any, order: tuple[int, ...]) -> None:
        self.array, self.order = array, order
        self.shape = tuple(array.shape[i] for i in order)
        self.ndim, self.dtype = len(order), array.dtype

    def _stored(self, index: Any) -> tuple[tuple[Any, ...], list[int]]:
        """Index in the stored order, and how the axes that are left must be turned."""
        given = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in given:
            at = given.index(Ellipsis)
            given[at : at + 1] = [slice(None)] * (self.ndim - len(given) + 1)
        given += [slice(None)] * (self.ndim - len(given))
        own = [given[self.order.index(i)] for i in range(self.ndim)]
        left = [i for i in range(self.ndim) if isinstance(own[i], slice)]
        return tuple(own), [left.index(i) for i in self.order if i in left]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        own, turn = self._stored(index)
        return np.asarray(self.array[own]).transpose(turn)

    def __setitem__(self, index: Any, values: Any) -> None:
        own, turn = self._stored(index)
        values = np.asarray(values)
        self.array[own] = values.transpose(np.argsort(turn)) if values.ndim == len(turn) else values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)
