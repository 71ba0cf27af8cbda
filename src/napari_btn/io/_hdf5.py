"""HDF5 files: one dataset of numbers, named by its path."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io._format import Format, choose, need_small_chunks, package
from napari_btn.io.metadata import Meta

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HDF5"]

_READ: Final = 64 * 2**20  # bytes; larger datasets are opened without being read


def _read(file: Path, key: str | None) -> tuple[Any, Meta]:
    """Read or open a dataset, with its axes and pixel size if the file has them."""
    with ExitStack() as closed:
        stored = closed.enter_context(package("h5py", file).File(file, "r"))
        data = stored[choose(_names(stored), None if key is None else key.strip("/"), file)]
        meta = _meta(data)
        need_small_chunks(data)
        if data.nbytes <= _READ:
            return np.asarray(data[()]), meta
        closed.pop_all()  # an opened dataset is read later, from a file that stays open
        return data, meta


def _names(group: Any, prefix: str = "") -> list[str]:
    """Return the paths of all datasets of numbers with two dimensions or more."""
    found: list[str] = []
    for name, item in group.items():
        if hasattr(item, "items"):
            found += _names(item, f"{prefix}{name}/")
        elif item.dtype.kind in "biuf" and item.ndim > 1:
            found.append(prefix + name)
    return found


def _meta(data: Any) -> Meta:
    """Return axes from the labels of dimensions, and the pixel size of Fiji and ilastik."""
    # dims[k].label would read the same attribute, and ends the whole program if that is damaged
    labels = data.attrs.get("DIMENSION_LABELS", ())
    axes = "".join(t.decode() if isinstance(t, bytes) else str(t) for t in labels).upper() or None
    if axes is not None and (len(axes) != data.ndim or not set(axes) <= set("STCZYX")):
        axes = None
    size = data.attrs.get("element_size_um")
    space = 0 if axes is None else sum(a in "ZYX" for a in axes)
    if size is None or space == 0 or len(size) < space:
        return Meta(axes=axes)
    # the attribute is in the order Z, Y, X
    by_axis = dict(zip("ZYX"[-len(size) :], (float(v) for v in size), strict=True))
    return Meta(axes=axes, pixel_size=tuple(by_axis[a] for a in axes or "" if a in by_axis), unit="um")


def _of(file: Path) -> list[str]:
    """Return the paths of the datasets of a file."""
    with package("h5py", file).File(file, "r") as stored:
        return _names(stored)


HDF5: Final = Format(suffixes=(".h5", ".hdf5"), shown="file.h5:dataset", read=_read, names=_of)
