"""Broken and hostile files: each reader gives the content or one sentence, in little time and memory."""

from __future__ import annotations

import importlib
import io
import json
import struct
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from napari_btn.io import outlines
from napari_btn.io.damage import DamagedFileError, ExplainedError
from napari_btn.io.images import read_image
from napari_btn.io.labels import read_labels
from napari_btn.io.outlines import inside
from napari_btn.io.regions import read_regions
from napari_btn.workflow.recipe_files import read_recipe
from napari_btn.workflow.repeat import REPEATED

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "bundle", "bundle, version 1", "TIFF, OME", "TIFF, zlib", "TIFF, LZW", "TIFF, ImageJ", "zarr", "npy", "npz",
    "tensors", "PNG", "labels", "regions, CSV", "regions, GeoJSON", "regions, ROI", "regions, ROI zip", "recipe",
    "data set, JSON", "data set, YAML", "noise model", "pretrained members",
)  # fmt: skip
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "drop", "insert", "repeat"]),
        st.floats(0, 1),
        st.integers(0, 2**16),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def hostile():
    """The makers of whole files and of damage."""
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("benchmarks are in the repository only")
    for name in ("zarr", "roifile"):
        pytest.importorskip(name)
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("benchmarks.hostile")
    finally:
        sys.path.remove(str(ROOT))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(hostile, tmp_path, name):
    reader = hostile.READERS[name]
    path = reader.write(tmp_path)
    assert hostile.attempt(reader, path) == "read"
    files = sorted(f for f in tmp_path.rglob("*") if f.is_file() and reader.uses(f, path))
    assert set(NAMES) == set(hostile.READERS)
    whole = {f: f.read_bytes() for f in files}

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.integers(0, len(files) - 1), CHANGES)
    def damaged(k, changes):
        files[k].write_bytes(hostile.changed(whole[files[k]], changes))
        began = time.process_time()
        hostile.attempt(reader, path)
        assert time.process_time() - began < 2
        files[k].write_bytes(whole[files[k]])

    damaged()


# ---------------------------------------------------------------- damage that was a traceback once

IMAGE = (np.arange(40 * 60).reshape(40, 60) % 251).astype(np.uint16)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd"])
def test_a_compressed_tiff_that_is_cut_short_is_damaged(tmp_path, compression):
    pytest.importorskip("imagecodecs")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, compression=compression)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        start, size = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    for keep in (1, size // 2):
        path.write_bytes(data[: start + keep] + bytes(size - keep) + data[start + size :])
        with pytest.raises(DamagedFileError, match=r"a\.tif is damaged or not what its name says"):
            read_image(path)


def test_a_chunk_that_is_cut_short_is_damage_found_while_reading(tmp_path):
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=(40, 60), chunks=(20, 60), dtype="u2")[...] = IMAGE
    chunk = path / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    image = read_image(path)
    np.testing.assert_array_equal(image.data[:20], IMAGE[:20])
    with pytest.raises(DamagedFileError, match=r"a\.zarr is damaged"):
        image.view.read(0)
    with pytest.raises(DamagedFileError, match=r"a\.zarr is damaged"):
        np.asarray(image.data)


@pytest.mark.parametrize(
    "attributes",
    [
        {"multiscales": [{"axes": 3, "datasets": [{"path": "0"}]}]},
        {
            "multiscales": [
                {"axes": ["y", "x"], "datasets": [{"path": "0", "coordinateTransformations": [4]}]}
            ]
        },
        {"multiscales": [{"axes": ["y", "x"], "datasets": [{"path": "."}]}]},
        {"multiscales": [{"datasets": [{"path": "../other.zarr/0"}]}]},
        {"multiscales": [{"datasets": [{"path": "0"}]}], "omero": []},
    ],
)
def test_wrong_attributes_of_a_zarr_are_damage(tmp_path, attributes):
    zarr = pytest.importorskip("zarr")
    for name in ("a.zarr", "other.zarr"):
        group = zarr.open_group(tmp_path / name, mode="w")
        group.create_array("0", data=IMAGE)
    zarr.open_group(tmp_path / "a.zarr").attrs.put(attributes)
    with pytest.raises(ExplainedError, match=r"a\.zarr"):
        read_image(tmp_path / "a.zarr")


def test_deep_json_is_damage(tmp_path):
    (tmp_path / "r.geojson").write_text('{"type": "FeatureCollection", "features": ' + "[" * 200_000)
    with pytest.raises(DamagedFileError, match="does not hold regions"):
        read_regions(tmp_path / "r.geojson")
    tifffile.imwrite(tmp_path / "t.tif", np.zeros((4, 5), np.uint8))
    (tmp_path / "t.json").write_text("[" * 200_000)
    with pytest.raises(DamagedFileError, match="not valid JSON"):
        read_labels(tmp_path / "t.tif")
    (tmp_path / "t.json").unlink()
    (tmp_path / "t.csv").write_text("index,colour\n1,#12\n")
    with pytest.raises(DamagedFileError, match="no table of labels"):
        read_labels(tmp_path / "t.tif")


def test_a_damaged_label_of_an_hdf5_file_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as stored:
        for dim, letter in zip(stored.create_dataset("noisy", data=IMAGE).dims, "yx", strict=True):
            dim.label = letter
    data = path.read_bytes()
    heap = data.index(b"GCOL")
    for place in range(heap + 8, heap + 18):  # size of the heap of texts, and number of the first
        path.write_bytes(data[:place] + b"\x7f" + data[place + 1 :])
        with pytest.raises(DamagedFileError, match=r"a\.h5 is damaged"):
            read_image(path)
    path.write_bytes(data)
    assert read_image(path).axes == "YX"


def test_names_of_arrays_from_a_file_stay_one_sentence(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{"a\nb": IMAGE, "c\x1cd": IMAGE, **{f"e{k}" * 100: IMAGE for k in range(60)}})
    with pytest.raises(ExplainedError, match=r"^a\.npz holds several images: a b, c d, [^\n]{100,6000}\.$"):
        read_image(path)


def test_the_sample_of_a_recipe_has_every_step(hostile, tmp_path):
    steps = read_recipe(hostile.READERS["recipe"].write(tmp_path)).steps
    assert {step["do"] for step in steps} == set(REPEATED)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_memory_is_that_of_each_file(hostile):
    for size, least, most in ((10**8, 90, 200), (10**6, 0, 50)):
        before = hostile.memory_mb(forget=True)
        np.ones(size, np.uint8)
        assert least < hostile.peak_mb() - before + 1 < most


# ---------------------------------------------------------------- bombs


def refused_cheaply(call, words):
    """Assert that a call is refused within little time and memory."""
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(ExplainedError, match=words):
            call()
        assert tracemalloc.get_traced_memory()[1] < 5e7
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 2


def ome(path, pixels, change):
    """Write an OME-TIFF whose XML is changed."""
    tifffile.imwrite(path, pixels, metadata={"axes": "YX"}, ome=True)
    with tifffile.TiffFile(path) as tif:
        xml = change(tif.ome_metadata)
    tifffile.imwrite(path, pixels, description=xml.encode(), metadata=None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('SizeZ="1"', 'SizeZ="100000000"'),
        ('PlaneCount="1"', 'PlaneCount="1000000000"'),
        ('IFD="0"', 'IFD="0" FirstZ="1000000000"'),
    ],
)
def test_planes_that_no_file_could_hold_are_refused(tmp_path, old, new):
    path = tmp_path / "a.ome.tif"

    def change(xml):
        assert old in xml
        return xml.replace(old, new)

    ome(path, IMAGE[:20, :24], change)
    refused_cheaply(lambda: read_image(path), "it claims 1,?000,?000,000 planes|it claims 100,000,000 planes")


def test_an_archive_that_claims_400_terabytes_is_refused(tmp_path):
    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(10))
    refused_cheaply(lambda: read_image(tmp_path / "a.npz"), "claims 400,000,000,000,000 bytes")
    (tmp_path / "a.npy").write_bytes(header.getvalue() + bytes(10))
    refused_cheaply(lambda: read_image(tmp_path / "a.npy"), "is damaged")


def test_directories_in_a_loop_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, byteorder="<")
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    path.write_bytes(bytes(data))
    refused_cheaply(lambda: read_image(path), "form a loop")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_that_claims_more_pixels_than_it_can_hold_is_refused(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE[:8], compression=compression, byteorder="<", metadata=None)
    with tifffile.TiffFile(path) as tif:
        places = [tif.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    data = bytearray(path.read_bytes())
    for place in places:
        data[place : place + 4] = (100_000).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    refused_cheaply(lambda: read_labels(path), r"a\.tif")


def test_an_image_larger_than_the_memory_is_not_read_whole(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(tmp_path / "a.zarr", shape=(10**7, 10**7), chunks=(100, 100), dtype="u1")
    assert read_image(tmp_path / "a.zarr").data[:2, :3].tolist() == [[0, 0, 0], [0, 0, 0]]
    refused_cheaply(lambda: read_labels(tmp_path / "a.zarr"), "holds 100,000,000,000,000 bytes of pixels")


def polygon(*rings):
    """Return a feature of GeoJSON with rings of [x, y]."""
    geometry = {"type": "Polygon", "coordinates": rings}
    return {"type": "Feature", "geometry": geometry, "properties": {}}


def triangle(side):
    """Return a ring that spans a square."""
    return [[0, 0], [side, 0], [side, side], [0, 0]]


def zigzag(edges, rows, columns):
    """Return a ring of edges that each reach all rows."""
    ring = [[columns * k / edges, rows * (k % 2)] for k in range(edges)]
    return [*ring, ring[0]]


def test_outlines_of_more_pixels_than_fit_are_refused(tmp_path):
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps(polygon(triangle(10_000))))
    refused_cheaply(lambda: read_regions(path), "An outline spans 10000 x 10000 pixels")
    path.write_text(json.dumps([polygon(triangle(400)), polygon(triangle(700))]))
    assert [r.mask.shape for r in read_regions(path)] == [(400, 400), (700, 700)]


@pytest.mark.parametrize(
    "rings", [[zigzag(300, 60_000, 1000)], [triangle(3000), *[triangle(4000)] * 20]], ids=["edges", "holes"]
)
def test_outlines_of_more_edges_or_holes_than_fit_are_refused(tmp_path, rings):
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps(polygon(*rings)))
    refused_cheaply(lambda: read_regions(path), "pixels; those of a file may span 67,108,864 together")


def test_long_edges_take_little_more_memory_than_their_mask(tmp_path):
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps(polygon(zigzag(60, 60_000, 200))))
    tracemalloc.start()
    try:
        (region,) = read_regions(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < region.mask.size + 3e7


def test_holes_are_cut_to_the_outline_around_them(tmp_path):
    outer, hole = (
        np.array([(2, 3), (2, 22), (18, 24), (15, 5)]) + 1 / 3,
        np.array([(5, 9), (25, 11), (9, 30)]) + 1 / 7,
    )
    rings = [np.vstack([ring, ring[:1]])[:, ::-1].tolist() for ring in (outer, hole)]
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps(polygon(*rings)))
    (region,) = read_regions(path)
    want = polygon2mask((40, 40), outer - 0.5) ^ polygon2mask((40, 40), hole - 0.5)
    np.testing.assert_array_equal(region.mask, want[region.slices])


def test_a_zarr_with_chunks_of_gigabytes_is_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(tmp_path / "a.zarr", shape=(10**6, 10**6), chunks=(10**5, 10**5), dtype="f4")
    refused_cheaply(lambda: read_image(tmp_path / "a.zarr"), "chunks of 40,000,000,000 bytes")


# ---------------------------------------------------------------- files beside a file


def test_pixels_in_a_file_beside_are_read_and_others_are_not_opened(tmp_path):
    def elsewhere(name):
        link = f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:1</UUID></TiffData>'
        return lambda xml: xml.replace('<TiffData IFD="0" PlaneCount="1"/>', link)

    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.ome.tif"
    for name in ("b.tif", "../b.tif", str(tmp_path / "b.tif"), "..\\b.tif"):
        ome(path, np.zeros_like(IMAGE), elsewhere(name))
        (tmp_path / "b.tif").write_bytes(b"")
        with pytest.raises(ExplainedError, match="which is not beside it; put all files"):
            read_image(path)
    pytest.importorskip("zarr")
    ome(path, np.zeros_like(IMAGE), elsewhere("b.tif"))
    tifffile.imwrite(path.with_name("b.tif"), IMAGE, metadata=None)
    np.testing.assert_array_equal(np.asarray(read_image(path).data), IMAGE)


# ---------------------------------------------------------------- masks of outlines


@given(
    st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 15)), min_size=3, max_size=8),
    st.tuples(st.integers(1, 13), st.integers(1, 13)),
)
def test_the_mask_of_an_outline_is_that_of_scikit_image(points, shape):
    # a third of a pixel off the grid: on it, rounding decides what lies on an edge
    ring = np.round(np.array(points), 1) + np.array([1 / 3, 1 / 7])
    np.testing.assert_array_equal(inside(ring, shape), polygon2mask(shape, ring))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines, "_AT_ONCE", 5)
        np.testing.assert_array_equal(inside(ring, shape), polygon2mask(shape, ring))


def test_pixels_on_an_outline_are_inside():
    ring = np.array([(1.0, 1.0), (1.0, 4.0), (4.0, 4.0), (4.0, 1.0)])
    want = np.zeros((6, 7), bool)
    want[1:5, 1:5] = True
    np.testing.assert_array_equal(inside(ring, want.shape), want)
    np.testing.assert_array_equal(polygon2mask(want.shape, ring), want)
