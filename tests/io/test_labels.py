"""Labels survive a round trip, and other programs can read the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_btn.io.labels import read_labels, write_labels, write_outlines
from napari_btn.io.tables import read_table

LABELS = np.zeros((20, 30), int)
LABELS[2:8, 3:12], LABELS[10:18, 5:25], LABELS[12:14, 8:10] = 1, 2, 0
LABELS[0, 29] = 7
TABLE = {
    "index": np.array([1, 2, 7]),
    "name": np.array(["quartz", "", "iron oxide"], dtype=object),
    "share": np.array([0.1, 0.2, 0.01]),
    "colour": np.array(["#ff0000", "#00ff80", "#0000ff"]),
}
RECORD = {"tokens": {"n_tokens": 3}}


@pytest.fixture(params=[".ome.tif", ".ome.zarr"])
def written(request, tmp_path):
    if "zarr" in request.param:
        pytest.importorskip("zarr")
    path = tmp_path / f"soil{request.param}"
    write_labels(LABELS, TABLE, path, axes="YX", pixel_size=(0.5, 0.25), unit="um", provenance=RECORD)
    return path


def test_labels_survive_a_round_trip_with_names_and_colours(written):
    back = read_labels(written)
    np.testing.assert_array_equal(back.labels, LABELS)
    assert back.labels.dtype == np.int32
    assert back.names == {1: "quartz", 7: "iron oxide"}
    assert back.colours[1] == (1.0, 0.0, 0.0)
    assert back.colours[7] == (0.0, 0.0, 1.0)
    assert back.features["share"] == [0.1, 0.2, 0.01]
    assert (back.axes, back.pixel_size, back.unit) == ("YX", (0.5, 0.25), "um")
    assert back.provenance == RECORD


def test_a_bare_label_image_is_read_too(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", LABELS.astype(np.uint8))
    back = read_labels(tmp_path / "a.tif")
    np.testing.assert_array_equal(back.labels, LABELS)
    assert back.names == back.colours == back.features == back.provenance == {}


def test_other_images_are_refused_as_labels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", LABELS.astype(np.float32))
    with pytest.raises(ValueError, match="whole numbers from 0"):
        read_labels(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", LABELS.astype(np.uint8))
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ValueError, match=r"b\.json is not valid JSON"):
        read_labels(tmp_path / "b.tif")


def test_the_ome_tiff_has_what_fiji_and_qupath_read(tmp_path):
    """Both open OME-TIFF by Bio-Formats: one plane of a whole-number type, and its physical size."""
    write_labels(LABELS, TABLE, tmp_path / "a.ome.tif", axes="YX", pixel_size=(0.5, 0.25), unit="um")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.is_ome
        (series,) = file.series
        assert (series.axes, series.dtype) == ("YX", np.uint8)
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"]) == (0.25, 0.5)
    # a plain reader, as ilastik's, sees the labels themselves
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.ome.tif"), LABELS)


def test_outlines_are_annotations_as_qupath_documents_them(tmp_path):
    path = write_outlines(LABELS, TABLE, tmp_path / "a.geojson")
    data = json.loads(path.read_text())
    assert data["type"] == "FeatureCollection"
    found = {f["id"]: f for f in data["features"]}
    assert sorted(found) == ["1", "2", "7"]
    for feature in found.values():
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "MultiPolygon"
        assert feature["properties"]["objectType"] == "annotation"
        for rings in feature["geometry"]["coordinates"]:
            assert all(ring[0] == ring[-1] for ring in rings)
    first = found["1"]["properties"]
    assert first["classification"] == {"name": "quartz", "color": [255, 0, 0]}
    assert first["measurements"] == {"share": 0.1}
    assert found["2"]["properties"]["name"] == "Token 2"
    assert len(found["2"]["geometry"]["coordinates"][0]) == 2  # with its hole
    with pytest.raises(ValueError, match="exist"):
        write_outlines(LABELS, TABLE, path)


def test_outlines_need_a_plane(tmp_path):
    with pytest.raises(ValueError, match="Give one plane"):
        write_outlines(np.zeros((2, 3, 4), int), TABLE, tmp_path / "a.geojson")


@pytest.mark.parametrize(
    ("axes", "size", "unit", "column", "one"),
    [
        ("YX", (0.5, 0.25), "um", "area (um^2)", 0.125),
        ("ZYX", (2.0, 0.5, 0.5), "nm", "volume (nm^3)", 0.5),
        ("YX", None, None, None, 0),
        ("YX", (1.0, 1.0), "px", None, 0),
    ],
)
def test_the_table_names_the_unit_of_areas_and_volumes(tmp_path, axes, size, unit, column, one):
    labels = np.zeros((4,) * len(axes), int)
    labels[0] = 1
    features = {"index": [1], "pixels": [int(labels.sum())]}
    _, table, _ = write_labels(
        labels, features, tmp_path / "a.ome.tif", axes=axes, pixel_size=size, unit=unit
    )
    columns = read_table(table)
    assert set(columns) == {"index", "pixels", *([column] if column else [])}
    if column:
        assert columns[column] == [features["pixels"][0] * one]
