"""Parts that all image formats share: the record that describes one, its errors, and the order of stored axes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io.damage import ExplainedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_btn.io.metadata import Meta

__all__ = [
    "ORDER",
    "ExplainedError",
    "Format",
    "MissingPackageError",
    "choose",
    "need_small_chunks",
    "package",
    "slabs",
    "stored",
]

ORDER: Final = "TSCZYX"
"""Order in which TIFF and zarr files keep the axes."""

_MOST_NAMES, _LONGEST_NAME = 50, 80  # of arrays in a sentence
_LARGEST_CHUNK: Final = 2**31  # bytes; a chunk is read whole, and one that isn't stored takes its memory too


class MissingPackageError(ImportError, ValueError):
    """A file format needs a package that isn't installed."""


@dataclass(frozen=True)
class Format:
    """An image format.

    Parameters
    ----------
    suffixes : tuple of str
        Last suffixes of its files, in lower case.
    shown : str
        How a sentence lists the files that can be read.
    read : callable
        From a file and a key (None for none) to an array and its metadata.
    provenance : callable, optional
        From a file and a key to the provenance that `write` kept; None if such files hold none.
    write : callable, optional
        Writes maps with their metadata and provenance to a new file; None if the format is only read.
    output : str
        How a sentence asks for a file that is to be written.
    reserved : tuple of str
        Names that no map may have.
    is_folder : bool
        True if a path may go on inside the file, to one of its images.
    names : callable, optional
        From a file to the names of its arrays; None if it holds one.
    """

    suffixes: tuple[str, ...]
    shown: str
    read: Callable[[Path, str | None], tuple[Any, Meta]]
    provenance: Callable[[Path, str | None], dict[str, Any]] | None = None
    write: Callable[[Mapping[str, Any], Path, Meta, Mapping[str, Any]], None] | None = None
    output: str = ""
    reserved: tuple[str, ...] = ()
    is_folder: bool = False
    names: Callable[[Path], list[str]] | None = None


def package(name: str, file: Path) -> Any:
    """Return an optional package that a file needs.

    Raises
    ------
    MissingPackageError
        If it isn't installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"{file.name} needs the package {name}, which isn't installed; pip install 'napari-btn[all]'."
        ) from error


def choose(keys: Sequence[str], key: str | None, file: Path) -> str:
    """Return the key asked for, or the only one if none was asked for.

    Raises
    ------
    ExplainedError
        If there is no such key, or several and none was asked for.
    """
    if key is None and len(keys) == 1:
        return keys[0]
    if key in keys:
        return str(key)
    # names come from the file, and may hold line breaks or be thousands
    names = [" ".join(name.split())[:_LONGEST_NAME] for name in keys[:_MOST_NAMES]]
    shown = ", ".join(names) + (", ..." if len(keys) > _MOST_NAMES else "")
    example = f" Name one, as in {file.name}:{names[0]}." if names else ""
    if key is None and names:
        raise ExplainedError(f"{file.name} holds several images: {shown}.{example}")
    came = "holds no image" if key is None else f"has no {key}; it holds {shown or 'no image'}"
    raise ExplainedError(f"{file.name} {came}.{example}")


def need_small_chunks(array: Any) -> None:
    """Raise if a chunk of an opened array is larger than what may be read at a time.

    Raises
    ------
    ValueError
        If it is.
    """
    size = math.prod(array.chunks or ()) * np.dtype(array.dtype).itemsize
    if size > _LARGEST_CHUNK:
        raise ValueError(f"it has chunks of {size:,} bytes; {_LARGEST_CHUNK:,} are the most")


def stored(meta: Meta, shape: Sequence[int], name: str) -> tuple[Meta, tuple[int, ...]]:
    """Return metadata and shape of a map, called ``name``, in the order of stored axes."""
    came = meta.axes or ""
    axes = "".join(a for a in ORDER if a in came)
    space = [a for a in came if a in "ZYX"]
    size = meta.pixel_size
    if size is not None:
        size = tuple(size[space.index(a)] for a in axes if a in space)
    kept = replace(meta, axes=axes, pixel_size=size, name=name)
    return kept, tuple(int(shape[came.index(a)]) for a in axes)


def slabs(
    values: Any, axes: str, shape: tuple[int, ...], steps: Sequence[int]
) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
    """Cut a map of any array type into parts in stored order: whole rows, ``steps`` along the other axes."""
    order = [a for a in ORDER if a in axes]
    starts = [range(0, n, step) for n, step in zip(shape[:-1], steps, strict=True)]
    for corner in product(*starts):
        cuts = [slice(k, min(k + step, n)) for k, step, n in zip(corner, steps, shape[:-1], strict=True)]
        where = (*cuts, slice(0, shape[-1]))
        own = tuple(where[order.index(a)] for a in axes)
        yield where, np.asarray(values[own]).transpose([axes.index(a) for a in order])
