"""Regions written and read back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_btn.core.remeasure.regions import Region, label_image, propose_regions
from napari_btn.core.remeasure.stage import StageAffine
from napari_btn.io.regions import read_regions, write_regions
from napari_btn.io.tables import read_table, write_table

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ENDINGS = ["csv", "geojson", "zip"]


@pytest.fixture
def windows() -> list[Region]:
    score = np.random.default_rng(0).random((50, 70))
    return propose_regions(score, (11, 13), 4, pixel_size=(0.5, 0.25), unit="um")


@pytest.fixture
def volumes() -> list[Region]:
    score = np.random.default_rng(0).random((12, 30, 20))
    return propose_regions(score, (5, 11, 7), 3, pixel_size=(2, 0.5, 0.25), unit="nm")


@pytest.fixture
def components() -> list[Region]:
    rng = np.random.default_rng(1)
    return connected(ndimage.gaussian_filter(rng.normal(size=(60, 80)), 2) >= 0.12, unit="um")


def connected(inside: NDArray[np.bool_], unit: str = "px") -> list[Region]:
    """Connected components with their own pixels."""
    labels, _ = ndimage.label(inside, structure=np.ones((3, 3)))
    return [
        Region(y.start, x.start, y.stop - y.start, x.stop - x.start, unit=unit, mask=labels[y, x] == k)
        for k, (y, x) in enumerate(ndimage.find_objects(labels), start=1)
    ]


@pytest.mark.parametrize("ending", ENDINGS)
def test_windows_survive_a_round_trip(windows: list[Region], tmp_path: Path, ending: str) -> None:
    write_regions(windows, tmp_path / f"a.{ending}")
    assert read_regions(tmp_path / f"a.{ending}") == windows


@pytest.mark.parametrize("ending", [".csv", ".geojson", ".zip"])
def test_planned_dwells_survive_a_round_trip(windows: list[Region], tmp_path: Path, ending: str) -> None:
    planned = [replace(r, dwell=d) for r, d in zip(windows, (2.5, None), strict=False)]
    write_regions(planned, tmp_path / f"r{ending}")
    assert [r.dwell for r in read_regions(tmp_path / f"r{ending}")] == [r.dwell for r in planned]


@pytest.mark.parametrize("ending", ENDINGS)
def test_boxes_in_volumes_survive_a_round_trip(volumes: list[Region], tmp_path: Path, ending: str) -> None:
    write_regions(volumes, tmp_path / f"a.{ending}")
    assert read_regions(tmp_path / f"a.{ending}") == volumes


def test_one_roi_survives_a_round_trip(windows: list[Region], tmp_path: Path) -> None:
    write_regions(windows[:1], tmp_path / "a.roi")
    assert read_regions(tmp_path / "a.roi") == windows[:1]
    with pytest.raises(ValueError, match=r"name the file \.zip"):
        write_regions(windows, tmp_path / "b.roi")


def test_components_keep_their_outline(components: list[Region], tmp_path: Path) -> None:
    assert len(components) > 5
    write_regions(components, tmp_path / "a.geojson")
    back = read_regions(tmp_path / "a.geojson")
    assert back == components
    assert np.array_equal(label_image(back, (60, 80)), label_image(components, (60, 80)))
    write_regions(components, tmp_path / "a.zip")
    filled = read_regions(tmp_path / "a.zip")
    for was, now in zip(components, filled, strict=True):
        assert was.start == now.start
        assert was.mask is not None
        assert np.array_equal(
            ndimage.binary_fill_holes(was.mask), np.ones(now.size, bool) if now.mask is None else now.mask
        )


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_component_is_recovered_from_its_polygon(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    regions = connected(rng.random((12, 14)) >= 0.6)
    write_regions(regions, tmp_path / "a.geojson", overwrite=True)
    back = read_regions(tmp_path / "a.geojson")
    assert np.array_equal(label_image(back, (12, 14)), label_image(regions, (12, 14)))


def test_csv_has_pixels_units_and_stage(windows: list[Region], tmp_path: Path) -> None:
    stage = StageAffine(np.array([[0.0, 1000.0, 5.0], [1000.0, 0.0, -5.0]]))
    write_regions(windows, tmp_path / "a.csv", stage=stage)
    table = read_table(tmp_path / "a.csv")
    assert table["index"] == [1, 2, 3, 4]
    assert table["height_unit"] == [5.5] * 4
    assert table["unit"] == ["um"] * 4
    assert table["centre_y"] == [(r.y + 5.5) * 0.5 for r in windows]
    np.testing.assert_allclose(table["stage_1"], [1000 * r.centre[1] + 5 for r in windows])


def test_geojson_is_what_qupath_imports(windows: list[Region], tmp_path: Path) -> None:
    write_regions(windows, tmp_path / "a.geojson", provenance={"seed": 3})
    data = json.loads((tmp_path / "a.geojson").read_text())
    assert data["type"] == "FeatureCollection"
    assert data["napari_btn"] == {"seed": 3}
    feature = data["features"][0]
    ring = feature["geometry"]["coordinates"][0]
    r = windows[0]
    assert ring[0] == ring[-1] == [r.x, r.y]
    assert [r.x + r.width, r.y + r.height] in ring
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["measurements"]["score"] == r.score


def test_rectangles_are_rectangles_in_imagej(windows: list[Region], tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile")
    write_regions(windows, tmp_path / "a.zip")
    first = roifile.roiread(tmp_path / "a.zip")[0]
    r = windows[0]
    assert first.roitype == roifile.ROI_TYPE.RECT
    assert (first.top, first.left, first.bottom, first.right) == (r.y, r.x, r.y + r.height, r.x + r.width)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_may_have_no_regions(tmp_path: Path, ending: str) -> None:
    write_regions([], tmp_path / f"a.{ending}")
    assert read_regions(tmp_path / f"a.{ending}") == []


def test_files_are_replaced_only_when_allowed(windows: list[Region], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_regions(windows, path)
    with pytest.raises(ValueError, match="exists"):
        write_regions(windows[:1], path)
    write_regions(windows[:1], path, overwrite=True)
    assert read_regions(path) == windows[:1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_other_files_are_refused_as_regions(windows: list[Region], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose"):
        write_regions(windows, tmp_path / "a.xls")
    with pytest.raises(ValueError, match="no file"):
        read_regions(tmp_path / "none.csv")
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection"}')
    (tmp_path / "b.geojson").write_text("nonsense")
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    for name in ("a.geojson", "b.geojson", "c.csv"):
        with pytest.raises(ValueError, match="does not hold regions"):
            read_regions(tmp_path / name)
    (tmp_path / "d.csv").write_text("a,b\n1\n")
    with pytest.raises(ValueError, match="not a CSV table"):
        read_regions(tmp_path / "d.csv")


def test_tables_keep_their_types(tmp_path: Path) -> None:
    table = {"n": [1, np.int64(2)], "v": [0.1, np.float64(1e-30)], "word": ["a, b", "µm"], "hole": [None, 3]}
    write_table(table, tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv") == {
        "n": [1, 2],
        "v": [0.1, 1e-30],
        "word": ["a, b", "µm"],
        "hole": [None, 3],
    }
    with pytest.raises(ValueError, match="lengths"):
        write_table({"a": [1], "b": []}, tmp_path / "u.csv")
