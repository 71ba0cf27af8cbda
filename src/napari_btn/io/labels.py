"""Label maps with what belongs to them: OME-TIFF or OME-Zarr, a table beside it, and how they came about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io import metadata
from napari_btn.io.atomic import OutputExistsError, written_whole
from napari_btn.io.images import write_images
from napari_btn.io.tables import write_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["write_labels"]

_SUFFIXES: Final = (".ome.tiff", ".ome.tif", ".tiff", ".tif", ".ome.zarr", ".zarr", ".csv", ".json")


def write_labels(
    labels: ArrayLike,
    features: Mapping[str, Sequence[Any] | NDArray[Any]],
    path: str | Path,
    *,
    axes: str,
    pixel_size: Sequence[float] | None = None,
    unit: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> tuple[Path, Path, Path]:
    """Write labels, their features as CSV, and a JSON of provenance beside each other; returns the three paths.

    Parameters
    ----------
    labels : array_like of int, (*axes)
        0 for nothing; stored in the smallest unsigned type.
    features : mapping of str to sequence
        One row per label, with the column "index".
    path : str or Path
        Ends in .ome.tif (also where a suffix is missing) or .ome.zarr; the other two take its name
        with .csv and .json.
    axes : str
        One letter per dimension.
    pixel_size : sequence of float, optional
        One per space axis, in `unit`.
    unit : str, optional
        Unit of the pixel size.
    provenance : mapping, optional
        How the labels came about: numbers, texts, lists and dicts.
    overwrite : bool
        Replace what is there.

    Returns
    -------
    tuple of Path
        Image, table, provenance.

    Raises
    ------
    ValueError
        If axes and shape don't fit, or one of the files exists and may not be replaced.
    OSError
        If the disk is full or the folder can't be written to.
    """
    path = Path(path)
    suffix = next((s for s in _SUFFIXES if path.name.lower().endswith(s)), "")
    stem = path.name[: len(path.name) - len(suffix)]
    image = path if suffix and suffix not in (".csv", ".json") else path.with_name(f"{stem}.ome.tif")
    table, record = path.with_name(f"{stem}.csv"), path.with_name(f"{stem}.json")
    there = [file.name for file in (image, table, record) if file.exists()]
    if there and not overwrite:
        # before the first is written, so that none is new where another stays old
        raise OutputExistsError(
            f"{', '.join(there)} exists; choose another name, or allow it to be replaced."
        )
    values = np.asarray(labels)
    small = values.astype(np.min_scalar_type(int(values.max(initial=0))))
    write_images(
        {"tokens": small}, image, axes=axes, pixel_size=pixel_size, unit=unit, provenance=provenance,
        overwrite=overwrite,
    )  # fmt: skip
    write_table(features, table, overwrite=overwrite)
    with written_whole(record, overwrite=overwrite) as temporary:
        temporary.write_text(metadata.to_json(dict(provenance or {})), encoding="utf-8")
    return image, table, record
