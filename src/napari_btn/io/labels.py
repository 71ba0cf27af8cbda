"""Label maps as files: an image, a table of the labels beside it, and a record of how they were made."""

from __future__ import annotations

import json
from colorsys import hsv_to_rgb
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.io import metadata
from napari_btn.io.atomic import OutputExistsError, path_of, written_whole
from napari_btn.io.damage import reading
from napari_btn.io.images import read_image, split_suffix, write_images
from napari_btn.io.tables import read_table, write_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

__all__ = ["LabelMap", "read_labels", "write_labels", "write_outlines"]

_TABLE, _RECORD = ".csv", ".json"


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label image with the names, colours and features of its labels.

    Parameters
    ----------
    labels : ndarray of int32, (*axes)
        0 for nothing.
    features : dict of str to list
        One row per label, with the column "index"; empty where no table is beside the image.
    names : dict of int to str
        Names of the labels that have one.
    colours : dict of int to tuple of float
        Colours (RGB, 0 to 1) of the labels that have one.
    axes : str
        One letter per dimension.
    pixel_size : tuple of float, optional
        One per space axis, in `unit`.
    unit : str
        Unit of the pixel size.
    provenance : dict
        How the labels were made; empty where no record is beside the image.
    """

    labels: NDArray[np.int32]
    features: dict[str, list[Any]]
    names: dict[int, str]
    colours: dict[int, tuple[float, float, float]]
    axes: str
    pixel_size: tuple[float, ...] | None = None
    unit: str = "px"
    provenance: dict[str, Any] = field(default_factory=dict)

    def column(self, name: str) -> dict[int, str]:
        """Return the words of a column by label, such as groups by "morphology"; empty if it is missing."""
        rows = zip(self.features.get("index", ()), self.features.get(name, ()), strict=False)
        return {int(n): str(word) for n, word in rows if word is not None}


def read_labels(path: str | Path) -> LabelMap:
    """Read labels with names and colours: those that `write_labels` wrote, or any label image.

    Parameters
    ----------
    path : str or Path
        The image; a table (.csv) and a record (.json) of the same name are read if they exist.

    Returns
    -------
    LabelMap
        With the numbers, names and colours that were written.

    Raises
    ------
    ValueError
        If the image doesn't hold whole numbers from 0, or a file beside it is damaged.
    """
    path = path_of(path)
    image = read_image(path)
    values = np.asarray(image.data)
    if values.dtype.kind not in "biu" or (values.size and values.min() < 0):
        raise ValueError(
            f"{path.name} holds values of type {values.dtype}; labels are whole numbers from 0. Give a label image."
        )
    _, table, record = _files(path)
    features = read_table(table) if table.is_file() else {}
    provenance: dict[str, Any] = {}
    if record.is_file():
        with reading(record, "{file} is not valid JSON: {why}. Move it away, or write it again."):
            provenance = json.loads(record.read_text(encoding="utf-8"))
            if not isinstance(provenance, dict):
                raise TypeError("it holds no object")
    with reading(table, "{file} is no table of labels ({why}). Move it away, or write it again."):
        names, colours = _names_and_colours(features)
    return LabelMap(
        values.astype(np.int32),
        features,
        names,
        colours,
        image.axes or "",
        image.pixel_size,
        image.unit or "px",
        provenance,
    )


def _names_and_colours(
    features: Mapping[str, list[Any]],
) -> tuple[dict[int, str], dict[int, tuple[float, float, float]]]:
    """Return names and colours by label, of the rows that have them."""
    rows = features.get("index", [])
    empty = [None] * len(rows)
    names = {int(n): str(v) for n, v in zip(rows, features.get("name", empty), strict=True) if v is not None}
    colours = {
        int(n): _rgb(v) for n, v in zip(rows, features.get("colour", empty), strict=True) if v is not None
    }
    return names, colours


def _rgb(text: str) -> tuple[float, float, float]:
    """Return the colour of "#rrggbb"."""
    r, g, b = (int(str(text).lstrip("#")[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return r, g, b


def _files(path: Path) -> tuple[Path, Path, Path]:
    """Return the image, the table and the record that belong to a name."""
    stem, suffix = split_suffix(path.name)
    if not suffix and path.suffix.lower() in (_TABLE, _RECORD):
        stem = path.stem
    image = path if suffix else path.with_name(f"{stem}.ome.tif")
    return image, path.with_name(stem + _TABLE), path.with_name(stem + _RECORD)


def write_outlines(
    labels: ArrayLike,
    features: Mapping[str, Sequence[Any] | NDArray[Any]],
    path: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Write labels as GeoJSON, one annotation with all its polygons per label, as QuPath imports it.

    Parameters
    ----------
    labels : array_like of int, (Y, X)
        0 for nothing.
    features : mapping of str to sequence
        One row per label with the column "index"; "name" and "colour" ("#rrggbb") where known, numbers
        become measurements.
    path : str or Path
        Ends in .geojson.
    overwrite : bool
        Replace what is there.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the labels aren't a plane, or the file exists and may not be replaced.

    References
    ----------
    Butler et al., "The GeoJSON Format", RFC 7946; coordinates are pixels, as QuPath has them.
    """
    from napari_btn.io.outlines import polygons

    values = np.asarray(labels)
    if values.ndim != 2:
        raise ValueError(
            f"Labels have {values.ndim} dimensions; polygons are drawn in a plane. Give one plane."
        )
    rows = {int(n): k for k, n in enumerate(features["index"])}
    made = []
    for number in (int(n) for n in np.unique(values) if n):
        shapes = polygons(values == number)
        row = rows.get(number)
        about = {} if row is None else {name: column[row] for name, column in features.items()}
        name = str(about.get("name") or f"Token {number}")
        colour = (
            _rgb(about["colour"]) if about.get("colour") else hsv_to_rgb(number * 0.618034 % 1, 0.55, 0.9)
        )
        measured = {
            k: float(v)
            for k, v in about.items()
            if k != "index" and isinstance(v, int | float | np.number) and np.isfinite(v)
        }
        made.append(
            {
                "type": "Feature",
                "id": str(number),
                "geometry": {"type": "MultiPolygon", "coordinates": shapes},
                "properties": {
                    "objectType": "annotation",
                    "name": name,
                    "classification": {"name": name, "color": [round(255 * c) for c in colour]},
                    "measurements": measured,
                },
            }
        )
    path = path_of(path)
    with written_whole(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": made}), encoding="utf-8")
    return path


def _sizes(
    features: Mapping[str, Any], axes: str, pixel_size: Sequence[float] | None, unit: str | None
) -> dict[str, NDArray[np.float64]]:
    """Return the areas or volumes of the labels as a column with its unit; none where pixels have no size."""
    space = [a for a in axes.upper() if a in "ZYX"]
    if "pixels" not in features or pixel_size is None or not unit or unit in ("px", "pixel"):
        return {}
    what = "volume" if len(space) == 3 else "area"
    return {f"{what} ({unit}^{len(space)})": np.asarray(features["pixels"]) * float(np.prod(pixel_size))}


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
    """Write labels as an image, their features as CSV and their provenance as JSON, side by side.

    Parameters
    ----------
    labels : array_like of int, (*axes)
        0 for nothing; stored in the smallest unsigned type.
    features : mapping of str to sequence
        One row per label, with the column "index". Where pixels have a size, the table gets the area or volume of
        the column "pixels" as well, with its unit.
    path : str or Path
        Ends in .ome.tif (also used if no suffix of an image is given) or .ome.zarr; the other two
        take its name with .csv and .json.
    axes : str
        One letter per dimension.
    pixel_size : sequence of float, optional
        One per space axis, in `unit`.
    unit : str, optional
        Unit of the pixel size.
    provenance : mapping, optional
        How the labels were made: numbers, texts, lists and dicts.
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
    path = path_of(path)
    files = image, table, record = _files(path)
    there = [file.name for file in files if file.exists()]
    if there and not overwrite:
        # checked before the first is written, so that new and old files are never mixed
        raise OutputExistsError(
            f"{', '.join(there)} exists; choose another name, or allow it to be replaced."
        )
    values = np.asarray(labels)
    small = values.astype(np.min_scalar_type(int(values.max(initial=0))))
    write_images(
        {"tokens": small}, image, axes=axes, pixel_size=pixel_size, unit=unit, provenance=provenance,
        overwrite=overwrite,
    )  # fmt: skip
    write_table({**features, **_sizes(features, axes, pixel_size, unit)}, table, overwrite=overwrite)
    with written_whole(record, overwrite=overwrite) as temporary:
        temporary.write_text(metadata.to_json(dict(provenance or {})), encoding="utf-8")
    return files
