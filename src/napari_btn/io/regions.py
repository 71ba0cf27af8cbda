"""Read and write regions: CSV, GeoJSON (QuPath) and ImageJ ROI.

CSV holds the bounding boxes in pixels and in physical units; GeoJSON and ImageJ ROI hold the
outlines. All coordinates count from the outer corner of the first pixel, x to the right and y
down, so a region's first pixel ``(y, x) = (0, 0)`` covers 0 to 1.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.core.remeasure.regions import Region
from napari_btn.io._format import package
from napari_btn.io.atomic import MissingInputError, path_of, written_whole
from napari_btn.io.damage import ExplainedError, reading
from napari_btn.io.outlines import inside, reached, ring_area
from napari_btn.io.tables import read_table, write_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.remeasure.stage import StageAffine

__all__ = ["REGION_ENDINGS", "STAGE_ENDINGS", "read_regions", "read_stage", "write_regions"]

REGION_ENDINGS: Final = (".csv", ".geojson", ".json", ".roi", ".zip")
"""Endings of files that hold regions."""

STAGE_ENDINGS: Final = (".csv", ".geojson", ".json")
"""Endings of files that hold stage coordinates beside them."""

_PLACE: Final = ("row", "column", "stage_1", "stage_2")

_NO_REGIONS: Final = "{file} does not hold regions ({why}). Save them again."
_MOST_PIXELS: Final = 2**26  # that all outlines of a file span, a byte each
_OF_AN_EDGE: Final = 4  # pixels that take as long as one row of one edge
_MOST_BYTES: Final = 2**26  # of the ROIs in an archive

_KINDS: Final = ".csv, .geojson, .roi (one region) or .zip (ImageJ ROIs)"


def write_regions(
    regions: Sequence[Region],
    path: str | Path,
    *,
    stage: StageAffine | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write regions in the format that the file's name asks for.

    Parameters
    ----------
    regions : sequence of Region
        In the order in which they are to be measured.
    path : str or Path
        ``.csv``: one line each, in pixels and physical units. ``.geojson``: polygons in pixels, as
        QuPath reads them. ``.roi`` or ``.zip``: ImageJ ROIs (holes are filled). The file appears
        only when it is whole.
    stage : StageAffine, optional
        Adds stage coordinates of the centres to CSV and GeoJSON.
    provenance : mapping, optional
        JSON-ready; kept in GeoJSON.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    ValueError
        If the format is unknown, the file exists and may not be replaced, a ``.roi`` is asked for
        other than one region, or the package `roifile` is missing.
    OSError
        If the folder is read-only or the disk full.
    """
    path = path_of(path)
    kind = _kind(path)
    if kind == ".csv":
        write_table(_columns(regions, stage), path, overwrite=overwrite)
        return
    if kind == ".geojson":
        data = _geojson(regions, stage, provenance)
        with written_whole(path, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
        return
    _write_rois(regions, path, overwrite=overwrite)


def read_regions(path: str | Path) -> list[Region]:
    """Read the regions of a file that `write_regions`, QuPath or ImageJ wrote.

    Parameters
    ----------
    path : str or Path
        ``.csv``, ``.geojson``, ``.roi`` or ``.zip``.

    Returns
    -------
    list of Region
        In the file's order; outlines other than upright rectangles become masks. CSV has no
        outlines, only the boxes. Values that the file lacks have their defaults (a pixel size of
        1 px, a score of 0).

    Raises
    ------
    ValueError
        If there is no such file, or it does not hold regions.
    """
    path = path_of(path)
    kind = _kind(path)
    if not path.is_file():
        raise MissingInputError(f"There is no file {path}; check the name.")
    with reading(path, _NO_REGIONS):
        if kind == ".csv":
            return _from_columns(read_table(path))
        if kind == ".geojson":
            return _from_geojson(json.loads(path.read_text(encoding="utf-8")))
        return _read_rois(path)


def _kind(path: Path) -> str:
    """Return the format that the suffix asks for."""
    kind = {".json": ".geojson"}.get(path.suffix.lower(), path.suffix.lower())
    if kind not in REGION_ENDINGS:
        raise ValueError(f"{path.name} names no format of regions; choose {_KINDS}.")
    return kind


def read_stage(path: str | Path, pixel_size: Sequence[float] = (1.0, 1.0)) -> StageAffine:
    """Fit the map to stage coordinates from places that are known in the image and on the stage.

    Parameters
    ----------
    path : str or Path
        CSV with a header line and the columns ``row``, ``column`` (pixels, from 0 at the centre of the
        first one, as napari shows them), ``stage_1`` and ``stage_2``; three places or more.
    pixel_size : sequence of float
        Along Y and X, in the unit of `Region.centre`.

    Returns
    -------
    StageAffine
        Takes positions in that unit; has the residual of the fit.

    Raises
    ------
    ValueError
        If a column is missing or holds words, if there are fewer than three places, or they lie on one line.
    """
    from napari_btn.core.remeasure.stage import StageAffine

    table = read_table(path)
    if missing := [name for name in _PLACE if name not in table]:
        raise ValueError(
            f"{Path(path).name} has the columns {', '.join(table)}; it lacks {', '.join(missing)}. "
            f"Give {', '.join(_PLACE)}."
        )
    values = [table[name] for name in _PLACE]
    if not all(isinstance(v, int | float) for column in values for v in column):
        raise ValueError(f"{Path(path).name} has cells that hold no number; give four numbers in each row.")
    places = np.array(values, float).T
    return StageAffine.from_pixels(places[:, :2], places[:, 2:], pixel_size)


def _columns(regions: Sequence[Region], stage: StageAffine | None) -> dict[str, list[Any]]:
    """Return a table of boxes: pixels first, then physical units."""
    volume = any(r.z is not None for r in regions)
    axes = "zyx" if volume else "yx"
    table: dict[str, list[Any]] = {"index": list(range(1, len(regions) + 1))}
    start = {"z": "z", "y": "y", "x": "x"}
    size = {"z": "depth", "y": "height", "x": "width"}
    for names in (start, size):
        table |= {names[a]: [getattr(r, names[a]) for r in regions] for a in axes}
    for i, a in enumerate(axes):
        table[f"centre_{a}"] = [r.centre[i] for r in regions]
    for i, a in enumerate(axes):
        table[f"{size[a]}_unit"] = [r.size[i] * r.pixel_size[i] for r in regions]
    table["unit"] = [r.unit for r in regions]
    for i, a in enumerate(axes):
        table[f"pixel_size_{a}"] = [r.pixel_size[i] for r in regions]
    table["area_px"] = [r.area_px for r in regions]
    table["score"] = [r.score for r in regions]
    table["mean_score"] = [r.mean_score for r in regions]
    if any(r.dwell is not None for r in regions):
        table["dwell"] = [r.dwell for r in regions]
    if stage is not None:
        at = [stage.to_stage(r.centre[-2:])[0] for r in regions]
        table |= {f"stage_{k + 1}": [float(p[k]) for p in at] for k in range(2)}
    return table


def _from_columns(table: dict[str, list[Any]]) -> list[Region]:
    """Return the boxes of a table."""
    axes = "zyx" if "z" in table else "yx"
    n = len(table["y"])
    ones = [1.0] * n
    sizes = [table.get(f"pixel_size_{a}", ones) for a in axes]
    score, unit = table.get("score", [0.0] * n), table.get("unit", [None] * n)
    dwell = table.get("dwell", [None] * n)
    return [
        Region(
            int(table["y"][k]),
            int(table["x"][k]),
            int(table["height"][k]),
            int(table["width"][k]),
            float(score[k]),
            tuple(float(s[k]) for s in sizes),
            str(unit[k] or ""),
            int(table["z"][k]) if "z" in table else None,
            int(table["depth"][k]) if "z" in table else None,
            dwell=None if dwell[k] is None else float(dwell[k]),
        )
        for k in range(n)
    ]


def _geojson(
    regions: Sequence[Region], stage: StageAffine | None, provenance: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return a FeatureCollection as QuPath imports it."""
    features = []
    for k, r in enumerate(regions, start=1):
        geometry: dict[str, Any] = {"type": "Polygon", "coordinates": [_closed(c) for c in _outline(r)]}
        ours: dict[str, Any] = {"score": r.score, "pixel_size": list(r.pixel_size), "unit": r.unit}
        ours["centre"] = list(r.centre)
        if r.dwell is not None:
            ours["dwell"] = r.dwell
        if r.z is not None and r.depth is not None:
            geometry["plane"] = {"c": -1, "z": r.z + r.depth // 2, "t": 0}
            ours |= {"z": r.z, "depth": r.depth}
        if stage is not None:
            ours["stage"] = [float(v) for v in stage.to_stage(r.centre[-2:])[0]]
        properties = {
            "objectType": "annotation",
            "name": f"Region {k}",
            "measurements": {"score": r.score, "mean score": r.mean_score, "area px": r.area_px},
            "napari_btn": ours,
        }
        features.append({"type": "Feature", "id": str(k), "geometry": geometry, "properties": properties})
    data: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    return data if provenance is None else {**data, "napari_btn": dict(provenance)}


def _from_geojson(data: Any) -> list[Region]:
    """Return the regions of a FeatureCollection, a list of features (older QuPath) or a single one."""
    if isinstance(data, dict):
        data = data["features"] if data.get("type") == "FeatureCollection" else [data]
    regions: list[Region] = []
    room = _Room()
    for feature in data:
        geometry = feature["geometry"]
        if geometry["type"] != "Polygon":
            raise ExplainedError(
                f"A region is a {geometry['type']}; only polygons are read. Split it into those."
            )
        ours = (feature.get("properties") or {}).get("napari_btn", {})
        rings = [np.asarray(c, dtype=float)[:, 1::-1] for c in geometry["coordinates"]]
        regions.append(_from_rings(rings, ours, room))
    return regions


def _write_rois(regions: Sequence[Region], path: Path, *, overwrite: bool) -> None:
    """Write one .roi, or a .zip of several."""
    roifile = package("roifile", path)
    if path.suffix.lower() == ".roi" and len(regions) != 1:
        raise ValueError(f"A .roi holds one region, {len(regions)} came; name the file .zip.")
    rois = []
    for k, r in enumerate(regions, start=1):
        outer = _outline(r)[0][:-1, ::-1]
        if r.mask is None:
            roi = roifile.ImagejRoi.frompoints(outer.astype(int))
            roi.roitype = roifile.ROI_TYPE.RECT
            (roi.left, roi.top), (roi.right, roi.bottom) = outer.min(0).astype(int), outer.max(0).astype(int)
            roi.n_coordinates, roi.integer_coordinates = 0, None
        else:
            roi = roifile.ImagejRoi.frompoints(outer)
            roi.roitype = roifile.ROI_TYPE.POLYGON
        roi.name = f"{k:04d}-region"
        ours: dict[str, Any] = {"score": r.score, "unit": r.unit}
        ours |= {f"pixel_size_{a}": p for a, p in zip("zyx"[-len(r.size) :], r.pixel_size, strict=True)}
        if r.z is not None and r.depth is not None:
            roi.position = r.z + r.depth // 2 + 1
            ours |= {"z": r.z, "depth": r.depth}
        if r.dwell is not None:
            ours["dwell"] = r.dwell
        roi.properties = ours
        rois.append(roi)
    with written_whole(path, overwrite=overwrite) as temporary:
        if path.suffix.lower() == ".roi":
            rois[0].tofile(temporary)
        else:
            roifile.roiwrite(temporary, rois, mode="w")


def _read_rois(path: Path) -> list[Region]:
    """Read the regions of ImageJ ROIs: rectangles and closed outlines."""
    roifile = package("roifile", path)
    kinds = roifile.ROI_TYPE
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
        if claimed > _MOST_BYTES:
            raise ValueError(f"it claims {claimed:,} bytes of ROIs; {_MOST_BYTES:,} are the most")
    found = roifile.roiread(path)
    regions: list[Region] = []
    room = _Room()
    for roi in found if isinstance(found, list) else [found]:
        if roi.roitype == kinds.RECT:
            corners = [
                (roi.top, roi.left),
                (roi.top, roi.right),
                (roi.bottom, roi.right),
                (roi.bottom, roi.left),
            ]
            ring = np.array(corners, dtype=float)
        elif roi.roitype in (kinds.POLYGON, kinds.FREEHAND, kinds.TRACED, kinds.OVAL):
            ring = np.asarray(roi.coordinates(), dtype=float)[:, ::-1]
        else:
            raise ExplainedError(
                f"{path.name} holds an ImageJ ROI of type {roi.roitype.name}; areas are needed. Leave it out."
            )
        ours = dict(roi.properties)
        sizes = [ours[f"pixel_size_{a}"] for a in "zyx" if f"pixel_size_{a}" in ours]
        known = {**ours, "pixel_size": sizes} if sizes else ours
        regions.append(_from_rings([ring], known, room))
    return regions


def _outline(region: Region) -> list[NDArray[np.float64]]:
    """Return closed rings (n, 2) of (y, x) around a region: the outer one first, then the holes."""
    if region.mask is None or region.mask.ndim != 2:
        low = np.array([region.y, region.x], dtype=float)
        corners = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)], dtype=float)
        return [low + corners * (region.height, region.width)]
    from skimage.measure import find_contours

    padded = np.pad(region.mask.astype(float), 1)
    rings = find_contours(padded, 0.5, fully_connected="high")
    rings.sort(key=ring_area, reverse=True)
    # less 1 for the padding, plus 0.5 from the centre of a pixel to its corner
    return [np.add(c, (region.y - 0.5, region.x - 0.5)) for c in rings]


def _closed(ring: NDArray[np.float64]) -> list[list[float]]:
    """Return a ring as GeoJSON has it: [x, y] pairs, the first repeated at the end."""
    return [[float(x), float(y)] for y, x in ring]


class _Room:
    """The pixels and rows of edges left to the outlines of a file: a small file can't ask for much memory or time."""

    def __init__(self) -> None:
        self.left = _MOST_PIXELS

    def take(self, ring: NDArray[np.float64], shape: tuple[int, int]) -> None:
        """Refuse a ring if its pixels, and the rows of its edges, are more than what is left."""
        _, rows = reached(ring, shape[0])
        self.left -= shape[0] * shape[1] + _OF_AN_EDGE * int(rows.sum())
        if self.left < 0:
            raise ExplainedError(
                f"An outline spans {shape[0]} x {shape[1]} pixels; those of a file may span {_MOST_PIXELS:,} "
                f"together, and each row of an edge counts as {_OF_AN_EDGE}. Draw smaller regions, or rectangles."
            )


def _from_rings(rings: Sequence[NDArray[np.float64]], ours: Mapping[str, Any], room: _Room) -> Region:
    """Return the region of an outer ring and holes of (y, x), with a mask unless it is an upright rectangle."""
    outer = rings[0]
    if len(outer) < 3 or not all(np.isfinite(ring).all() for ring in rings):
        raise ExplainedError(
            "An outline has fewer than three points or values that are not finite; draw it again."
        )
    low, high = _box(outer)
    size = high - low
    on_edge = np.isclose(outer, outer.min(0)) | np.isclose(outer, outer.max(0))
    mask = None
    if len(rings) > 1 or not on_edge.all() or len(np.unique(outer, axis=0)) != 4:
        mask = _filled(outer, low, high, room)
        for hole in rings[1:]:
            first, last = _box(hole)
            first, last = np.maximum(first, low), np.minimum(last, high)
            if (first < last).all():
                (y, x), (below, beyond) = first - low, last - low
                mask[y:below, x:beyond] ^= _filled(hole, first, last, room)
        low, mask = _cropped(low, mask)
        size = np.array(mask.shape)
    volume = ours.get("z") is not None
    pixels = tuple(float(p) for p in ours.get("pixel_size", (1.0,) * (3 if volume else 2)))
    return Region(
        int(low[0]),
        int(low[1]),
        int(size[0]),
        int(size[1]),
        float(ours.get("score", 0.0)),
        pixels,
        str(ours.get("unit", "px")),
        int(ours["z"]) if volume else None,
        int(ours["depth"]) if volume else None,
        None if volume else mask,
        None if ours.get("dwell") is None else float(ours["dwell"]),
    )


def _box(ring: NDArray[np.float64]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return the first pixel (y, x) that a ring reaches, and the one after the last."""
    low = np.floor(ring.min(0) + 1e-6).astype(int)
    return low, np.maximum(np.ceil(ring.max(0) - 1e-6).astype(int), low + 1)


def _filled(
    ring: NDArray[np.float64], low: NDArray[np.int_], high: NDArray[np.int_], room: _Room
) -> NDArray[np.bool_]:
    """Return the pixels of a ring from one pixel to another."""
    height, width = (int(n) for n in high - low)
    ring = ring - low - 0.5
    room.take(ring, (height, width))
    return inside(ring, (height, width))


def _cropped(low: NDArray[np.int_], mask: NDArray[np.bool_]) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
    """Return the first row and column of a mask and the mask without the empty edges."""
    if not mask.any():
        raise ExplainedError(
            "An outline holds no centre of a pixel; it is too small to be a region. Leave it out."
        )
    keep = [np.flatnonzero(mask.any(1 - axis)) for axis in range(2)]
    first = np.array([k[0] for k in keep])
    return low + first, mask[keep[0][0] : keep[0][-1] + 1, keep[1][0] : keep[1][-1] + 1]
