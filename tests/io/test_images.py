from __future__ import annotations

import errno
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from napari_btn.core.calibration.prediction import Prediction
from napari_btn.io import _tiff, atomic, images
from napari_btn.io._format import Format
from napari_btn.io.damage import LazyPixels
from napari_btn.io.images import read_image, read_provenance, write_images, write_prediction
from napari_btn.io.metadata import Meta, guess_axes

zarr = pytest.importorskip("zarr")

FORMATS = (".ome.tif", ".ome.zarr", ".npz")
SIZES = {"S": 2, "T": 3, "C": 4, "Z": 5, "Y": 7, "X": 11}


def _maps(shape: tuple[int, ...], dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: (100 * rng.random(shape)).astype(dtype) for name in ("lower", "median", "width")}


def _prediction(axes: str = "CYX", shape: tuple[int, ...] = (3, 37, 51)) -> Prediction:
    median = np.random.default_rng(0).random(shape).astype(np.float32)
    return Prediction(
        lower=median - 1,
        median=median,
        upper=median + 2,
        spread=0.1 * median,
        quantiles=None,
        levels=(0.05, 0.5, 0.95),
        axes=axes,
        channel_names=tuple("abc"[: shape[axes.index("C")]] if "C" in axes else "0"),
        pixel_size=(0.5, 0.25),
        unit="um",
        alpha=0.1,
        covers="clean",
        provenance={"seed": 7, "nested": {"numpy": np.float32(0.5), "list": [1, 2]}},
    )


def _in_order(values: np.ndarray, axes: str, wanted: str) -> np.ndarray:
    return values.transpose([axes.upper().index(a) for a in wanted])


# --- round trips ---------------------------------------------------------------------------------


@st.composite
def _axes(draw: st.DrawFn) -> tuple[str, tuple[int, ...]]:
    extra = draw(st.sets(st.sampled_from("STCZ")))
    axes = "".join(draw(st.permutations(sorted({*extra, "Y", "X"}))))
    shape = tuple(draw(st.integers(1, 4)) if a not in "YX" else draw(st.integers(2, 13)) for a in axes)
    return (axes.lower() if draw(st.booleans()) else axes), shape


@pytest.mark.parametrize("suffix", FORMATS)
@given(drawn=_axes(), dtype=st.sampled_from(["float32", "uint16", "float64"]))
def test_images_survive_a_round_trip(suffix: str, drawn: tuple[str, tuple[int, ...]], dtype: str) -> None:
    axes, shape = drawn
    size = dict(zip(axes.upper(), shape, strict=True))
    space = [a for a in axes.upper() if a in "ZYX"]
    per_axis = {"Z": 2.0, "Y": 0.5, "X": 0.25}
    names = tuple(f"dye {k}" for k in range(size["C"])) if "C" in size else None
    maps = _maps(shape, dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"out{suffix}"
        write_images(
            maps,
            path,
            axes=axes,
            channel_names=names,
            pixel_size=[per_axis[a] for a in space],
            unit="µm",
            provenance={"seed": 3},
        )
        for name, values in maps.items():
            image = read_image(f"{path}:{name}")
            assert image.axes is not None
            assert not image.axes_guessed
            assert sorted(image.axes) == sorted(axes.upper())
            np.testing.assert_array_equal(image.data[...], _in_order(values, axes, image.axes))
            assert image.data.dtype == dtype
            assert image.channel_names == names
            assert image.pixel_size == tuple(per_axis[a] for a in image.axes if a in "ZYX")
            assert image.unit == "um"
            assert image.name == f"out {name}"
        assert read_provenance(path) == {"seed": 3}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_prediction_keeps_its_maps_and_provenance(suffix: str, tmp_path: Path) -> None:
    prediction = _prediction()
    path = tmp_path / f"p{suffix}"
    write_prediction(prediction, path)
    for name in ("lower", "median", "upper", "width", "spread"):
        image = read_image(f"{path}:{name}")
        np.testing.assert_array_equal(image.data[...], getattr(prediction, name))
        assert (image.axes, image.channel_names, image.pixel_size) == ("CYX", ("a", "b", "c"), (0.5, 0.25))
    kept = read_provenance(path)
    assert kept["seed"] == 7
    assert kept["nested"] == {"numpy": 0.5, "list": [1, 2]}
    assert kept["levels"] == [0.05, 0.5, 0.95]
    assert (kept["alpha"], kept["covers"]) == (0.1, "clean")


def test_an_npz_has_the_promised_keys(tmp_path: Path) -> None:
    write_prediction(_prediction(), tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
        assert {"lower", "median", "upper", "width", "spread", "levels", "axes", "provenance"} <= set(arrays)
        assert str(arrays["axes"]) == "CYX"
        np.testing.assert_array_equal(arrays["levels"], [0.05, 0.5, 0.95])


def test_an_ome_tiff_reads_the_same_in_other_programs(tmp_path: Path) -> None:
    prediction = _prediction()
    write_prediction(prediction, tmp_path / "p.ome.tif")
    with tifffile.TiffFile(tmp_path / "p.ome.tif") as tif:
        assert [one.name for one in tif.series] == ["lower", "median", "upper", "width", "spread"]
        assert {one.axes for one in tif.series} == {"CYX"}
        metadata = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"][1]
        np.testing.assert_array_equal(tif.series[1].asarray(), prediction.median)
    assert metadata["Name"] == "median"
    pixels = metadata["Pixels"]
    assert (pixels["PhysicalSizeY"], pixels["PhysicalSizeX"]) == (0.5, 0.25)
    assert pixels["PhysicalSizeXUnit"] == "µm"
    assert [channel["Name"] for channel in pixels["Channel"]] == ["a", "b", "c"]


def test_scenes_are_a_modulo_dimension_for_other_readers_of_ome_tiff(tmp_path: Path) -> None:
    write_images(_maps((2, 3, 7, 11)), tmp_path / "p.ome.tif", axes="SCYX")
    with tifffile.TiffFile(tmp_path / "p.ome.tif") as tif:
        assert tif.series[0].axes == "QCYX"
        assert tif.series[0].shape == (2, 3, 7, 11)


@pytest.mark.parametrize("axes", ["CYX", "YX", "TCZYX", "SYX", "SCYX", "ZYX"])
def test_an_ome_zarr_is_valid_by_its_models(axes: str, tmp_path: Path) -> None:
    v05 = pytest.importorskip("ome_zarr_models.v05")
    shape = tuple(SIZES[a] for a in axes)
    sizes = [0.5] * sum(a in "ZYX" for a in axes)
    write_images(_maps(shape), tmp_path / "p.ome.zarr", axes=axes, pixel_size=sizes, unit="um")
    for name in ("lower", "median", "width"):
        group = zarr.open_group(tmp_path / "p.ome.zarr" / name, mode="r")
        model = v05.Image.from_zarr(group)
        assert [a.name for a in model.ome_attributes.multiscales[0].axes] == list(axes.lower())


def test_the_ome_zarr_package_opens_every_map(tmp_path: Path) -> None:
    io = pytest.importorskip("ome_zarr.io")
    reader = pytest.importorskip("ome_zarr.reader")
    maps = _maps((3, 7, 11))
    write_images(maps, tmp_path / "p.ome.zarr", axes="CYX")
    for name, values in maps.items():
        location = io.parse_url(str(tmp_path / "p.ome.zarr" / name))
        nodes = list(reader.Reader(location)())
        np.testing.assert_array_equal(np.asarray(nodes[0].data[0]), values)


@pytest.mark.parametrize("dtype", ["bool", "float16", "int64", "uint8", "int32", ">u2"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_number_types_survive_or_widen(dtype: str, suffix: str, tmp_path: Path) -> None:
    values = (np.arange(77).reshape(7, 11) % 5).astype(dtype)
    write_images({"labels": values}, tmp_path / f"p{suffix}", axes="YX")
    np.testing.assert_array_equal(read_image(tmp_path / f"p{suffix}").data[...].astype("int64"), values)


def test_maps_on_disk_are_written_without_reading_them_whole(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((40, 3, 30, 70)).astype(np.float32)
    source = zarr.create_array(tmp_path / "in.zarr", shape=values.shape, chunks=(7, 2, 9, 20), dtype="f4")
    source[...] = values
    for suffix in (".ome.tif", ".ome.zarr"):
        write_images({"median": source}, tmp_path / f"p{suffix}", axes="zcyx")
        image = read_image(tmp_path / f"p{suffix}:median")
        np.testing.assert_array_equal(image.data[...], _in_order(values, "ZCYX", image.axes or ""))


# --- files of others -----------------------------------------------------------------------------


def test_an_ome_tiff_of_another_program(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 999, (4, 3, 8, 9), dtype=np.uint16)
    metadata = {
        "axes": "TCYX",
        "PhysicalSizeX": 120.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 130.0,
        "PhysicalSizeYUnit": "nm",
        "Channel": {"Name": ["Si", "Al", "Fe"]},
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata=metadata, compression="zlib")
    image = read_image(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(image.data, values)
    assert (image.axes, image.pixel_size, image.unit) == ("TCYX", (130.0, 120.0), "nm")
    assert image.channel_names == ("Si", "Al", "Fe")
    assert image.name == "a"


def test_the_finest_level_of_a_pyramid_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((64, 96)).astype(np.float32)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(values, subifds=1, tile=(16, 16), metadata={"axes": "YX"})
        tif.write(values[::2, ::2], subfiletype=1, tile=(16, 16))
    image = read_image(tmp_path / "a.ome.tif")
    assert image.data.shape == (64, 96)
    np.testing.assert_array_equal(image.data, values)


def test_an_imagej_hyperstack(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((5, 2, 8, 9)).astype(np.float32)
    metadata = {"axes": "ZCYX", "spacing": 3.0, "unit": "micron"}
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, resolution=(4, 2), metadata=metadata)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.data, values)
    assert (image.axes, image.pixel_size, image.unit) == ("ZCYX", (3.0, 0.5, 0.25), "um")
    assert not image.axes_guessed


def test_a_plain_stack_has_its_axes_guessed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 40, 50), "f4"), photometric="minisblack")
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.axes_guessed, image.pixel_size) == ("CYX", True, None)
    tifffile.imwrite(
        tmp_path / "b.tif", np.zeros((33, 40, 50), "f4"), photometric="minisblack", metadata=None
    )
    assert read_image(tmp_path / "b.tif").axes == "ZYX"
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((40, 50), "f4"))
    image = read_image(tmp_path / "c.tif")
    assert (image.axes, image.axes_guessed) == ("YX", False)


def test_colour_samples_are_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 50, 3), "u1"), photometric="rgb")
    assert read_image(tmp_path / "a.tif").axes == "YXC"


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_large_tiff_is_opened_and_not_read(
    compression: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tiff, "_LAZY_BYTES", 1000)
    values = np.random.default_rng(0).random((3, 64, 70)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata={"axes": "CYX"}, compression=compression)
    image = read_image(tmp_path / "a.ome.tif")
    assert isinstance(image.data, np.memmap if compression is None else LazyPixels)
    assert (image.axes, image.data.shape, image.nbytes) == ("CYX", (3, 64, 70), values.nbytes)
    np.testing.assert_array_equal(image.data[1, 5:9], values[1, 5:9])


def test_our_own_large_output_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tiff, "_LAZY_BYTES", 1000)
    maps = _maps((3, 64, 70))
    write_images(maps, tmp_path / "a.ome.tif", axes="CYX")
    image = read_image(f"{tmp_path / 'a.ome.tif'}:width")
    assert isinstance(image.data, np.memmap)
    np.testing.assert_array_equal(image.data, maps["width"])


def test_npy_is_mapped_and_npz_is_read_by_key(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 40, 50))
    np.save(tmp_path / "a.npy", values)
    image = read_image(tmp_path / "a.npy")
    assert isinstance(image.data, np.memmap)
    assert (image.axes, image.axes_guessed, image.name) == ("CYX", True, "a")
    np.savez(tmp_path / "b.npz", noisy=values, clean=2 * values)
    image = read_image(f"{tmp_path / 'b.npz'}:clean")
    np.testing.assert_array_equal(image.data, 2 * values)
    assert (image.axes, image.axes_guessed) == ("CYX", True)
    np.savez(tmp_path / "c.npz", only=values)
    np.testing.assert_array_equal(read_image(tmp_path / "c.npz").data, values)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_bare_zarr_array_stays_on_disk(zarr_format: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 40, 50))
    names = {"dimension_names": ["c", "y", "x"]} if zarr_format == 3 else {}
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=values.shape,
        dtype="f8",
        chunks=(1, 20, 20),
        zarr_format=zarr_format,
        **names,
    )
    array[...] = values
    image = read_image(tmp_path / "a.zarr")
    assert isinstance(image.data, LazyPixels)
    assert (image.axes, image.axes_guessed) == ("CYX", zarr_format == 2)
    np.testing.assert_array_equal(image.data[1], values[1])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_of_another_program(version: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((2, 6, 40, 50)).astype(np.float32)
    root = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    root.create_array("full", shape=values.shape, dtype="f4", chunks=(1, 6, 20, 20))[...] = values
    root.create_array("half", shape=(2, 6, 20, 25), dtype="f4", chunks=(1, 6, 20, 20))
    space = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    ngff = {
        "multiscales": [
            {
                "axes": [{"name": "c", "type": "channel"}, *space],
                "datasets": [
                    {
                        "path": "full",
                        "coordinateTransformations": [{"type": "scale", "scale": [1, 3.0, 0.5, 0.5]}],
                    },
                    {"path": "half", "coordinateTransformations": [{"type": "scale", "scale": [1, 3, 1, 1]}]},
                ],
                "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 2, 2]}],
            }
        ],
        "omero": {"channels": [{"label": "Si"}, {"label": "Fe"}]},
    }
    root.attrs.update({"ome": {"version": "0.5", **ngff}} if version == "0.5" else ngff)
    image = read_image(tmp_path / "a.ome.zarr")
    assert isinstance(image.data, LazyPixels)
    assert (image.axes, image.pixel_size, image.unit) == ("CZYX", (6.0, 1.0, 1.0), "nm")
    assert image.channel_names == ("Si", "Fe")
    np.testing.assert_array_equal(image.data[...], values)


def test_the_first_map_of_our_zarr_is_the_first_written(tmp_path: Path) -> None:
    maps = _maps((7, 11))
    write_images(maps, tmp_path / "a.ome.zarr", axes="YX")
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.zarr").data[...], maps["lower"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.zarr" / "width").data[...], maps["width"])


def test_the_real_maps_are_read(data_dir: Path) -> None:
    image = read_image(f"{data_dir / 'edx_top' / 'edx_top.npz'}:noisy")
    assert (image.axes, image.axes_guessed) == ("CYX", True)
    assert image.data.shape == (3, 238, 597)


@given(shape=st.lists(st.integers(1, 300), min_size=0, max_size=7))
def test_guessed_axes_fit_the_shape_or_are_none(shape: list[int]) -> None:
    axes = guess_axes(shape)
    assert (axes is None) == (not 2 <= len(shape) <= 5)
    if axes is not None:
        assert len(axes) == len(shape) == len(set(axes))
        assert {"Y", "X"} <= set(axes)


# --- bad input -----------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _truncated_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "whole.tif", np.ones((90, 90), "f4"))
    return _write(folder / "cut.tif", (folder / "whole.tif").read_bytes()[:5000])


def _keyed(folder: Path, key: str) -> str:
    np.savez(folder / "pair.npz", noisy=np.ones((5, 6)), clean=np.ones((5, 6)))
    return f"{folder / 'pair.npz'}{key}"


def _saved(path: Path, values: np.ndarray) -> Path:
    np.save(path, values)
    return path


def _empty_group(folder: Path) -> Path:
    zarr.open_group(folder / "none.zarr", mode="w")
    return folder / "none.zarr"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda d: d / "none.tif", "There is no"),
        (lambda d: d / "none.zarr", "There is no"),
        (lambda d: _write(d / "a.jpg", b"x"), "a.jpg is no image file that can be read; give .tif, .ome.tif"),
        (lambda d: _write(d / "a.tif", b"not a tiff at all"), "a.tif is damaged or not what its name says"),
        (
            lambda d: _write(d / "a.npy", b"not numpy"),
            "a.npy is damaged or not what its name says (it doesn't begin",
        ),
        (lambda d: d, "is no image file that can be read"),
        (lambda d: _write(d / "a.npz", b"not a zip"), "a.npz is damaged"),
        (_truncated_tiff, "cut.tif is damaged"),
        (
            lambda d: _keyed(d, ""),
            "pair.npz holds several images: noisy, clean. Name one, as in pair.npz:noisy",
        ),
        (lambda d: _keyed(d, ":raw"), "pair.npz has no raw; it holds noisy, clean"),
        (lambda d: _saved(d / "a.npy", np.ones((4, 4), complex)), "real numbers are needed"),
        (lambda d: _saved(d / "a.npy", np.array([["a"]])), "real numbers are needed"),
        (lambda d: _saved(d / "a.npy", np.ones((0, 4))), "at least one"),
        (_empty_group, "holds no image"),
        (lambda d: _write(d / "file.zarr", b"x"), "is no zarr folder"),
    ],
)
def test_unreadable_files_raise_one_sentence(make, sentence: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_image(make(tmp_path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged or not what its name says"):
        read_image(tmp_path / "a.npy")


def test_an_unknown_key_lists_the_maps(tmp_path: Path) -> None:
    for suffix in (".ome.tif", ".ome.zarr"):
        write_images(_maps((7, 11)), tmp_path / f"a{suffix}", axes="YX")
        with pytest.raises(ValueError, match="has no mean; it holds lower, median, width"):
            read_image(f"{tmp_path / f'a{suffix}'}:mean")


def test_zarr_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(_maps((7, 11)), tmp_path / "a.ome.zarr", axes="YX")
    monkeypatch.setitem(sys.modules, "zarr", None)
    for call in (
        lambda: read_image(tmp_path / "a.ome.zarr"),
        lambda: write_images(_maps((7, 11)), tmp_path / "b.ome.zarr", axes="YX"),
    ):
        with pytest.raises(ImportError, match=r"needs the package zarr.*napari-btn\[all\]") as caught:
            call()
        assert isinstance(caught.value, ValueError)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ome.zarr"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"path": "a.jpg"}, "end it in .ome.tif, .ome.zarr or .npz"),
        ({"axes": "CYX"}, "axes CYX need 3 dimensions"),
        ({"axes": "QX"}, "use S, T, C, Z, Y, X"),
        ({"axes": "YY"}, "each at most once"),
        ({"maps": {}}, "no map to write"),
        ({"maps": {"a": np.ones((3, 4)), "b": np.ones((4, 3))}}, "maps of one file must have one shape"),
        ({"maps": {"provenance": np.ones((3, 4))}}, "cannot be called 'provenance'"),
        ({"maps": {"../a": np.ones((3, 4))}}, "cannot be called"),
        ({"maps": {"a": np.full((3, 4), 2**40)}}, "OME-TIFF has whole numbers of 32 bits"),
        ({"pixel_size": (1.0,)}, "don't fit axes YX"),
        ({"pixel_size": (1.0, -1.0)}, "above zero"),
        ({"channel_names": ("a", "b")}, "don't fit axes YX"),
        ({"provenance": {"bad": object()}}, "JSON has no form for"),
        ({"path": "none/a.ome.tif"}, "There is no folder"),
    ],
)
def test_bad_output_raises_one_sentence_and_leaves_nothing(change, sentence: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    call = {"maps": _maps((3, 4)), "axes": "YX", "path": "a.ome.tif", **change}
    maps, path = call.pop("maps"), tmp_path / call.pop("path")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        write_images(maps, path, **call)
    assert sentence in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# --- whole or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_existing_output_is_replaced_only_when_allowed(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_images({"old": np.zeros((3, 4))}, path, axes="YX")
    with pytest.raises(ValueError, match="exists; choose another name, or allow it to be replaced") as caught:
        write_images({"new": np.ones((5, 6))}, path, axes="YX")
    assert isinstance(caught.value, FileExistsError)
    assert read_image(f"{path}:old").data.shape == (3, 4)
    write_images({"new": np.ones((5, 6))}, path, axes="YX", overwrite=True)
    assert read_image(f"{path}:new").data.shape == (5, 6)
    with pytest.raises(ValueError, match="has no old"):
        read_image(f"{path}:old")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="folder of something else"):
        write_images(_maps((3, 4)), tmp_path / "a.zarr", axes="YX", overwrite=True)
    assert (tmp_path / "a.zarr" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "read-only"), (errno.EIO, "could not be written")],
)
def test_a_failing_disk_raises_one_sentence_and_keeps_the_old_output(
    suffix: str, number: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    write_images({"old": np.zeros((3, 4))}, path, axes="YX")

    class Failing:
        shape, dtype = (3, 4), np.dtype("f4")

        def __getitem__(self, index: object) -> np.ndarray:
            raise OSError(number, "the system's own words")

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise OSError(number, "the system's own words")

    with pytest.raises(OSError, match=sentence) as caught:
        write_images({"first": np.ones((3, 4)), "second": Failing()}, path, axes="YX", overwrite=True)
    assert not isinstance(caught.value, ValueError)
    assert not str(caught.value).startswith("[Errno")
    assert list(tmp_path.iterdir()) == [path]
    assert read_image(f"{path}:old").data.shape == (3, 4)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_interrupt_leaves_nothing_behind(suffix: str, tmp_path: Path) -> None:
    class Interrupted:
        shape, dtype = (3, 4), np.dtype("f4")

        def __getitem__(self, index: object) -> np.ndarray:
            raise KeyboardInterrupt

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_images({"a": Interrupted()}, tmp_path / f"a{suffix}", axes="YX")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody may write")
def test_an_unwritable_folder_raises_one_sentence() -> None:
    with pytest.raises(OSError, match=r"/proc/self/a\.npz could not be written"):
        write_images(_maps((3, 4)), "/proc/self/a.npz", axes="YX")


def test_a_zarr_that_cannot_be_renamed_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ome.zarr"
    write_images({"old": np.zeros((3, 4))}, path, axes="YX")
    rename = Path.replace

    def stubborn(self: Path, target: Path) -> Path:
        if target == path and not self.name.startswith("replaced-"):
            raise OSError(errno.EIO, "no")
        return rename(self, target)

    monkeypatch.setattr(atomic.Path, "replace", stubborn)
    with pytest.raises(OSError, match="could not be written"):
        write_images({"new": np.ones((3, 4))}, path, axes="YX", overwrite=True)
    assert read_image(f"{path}:old").data.shape == (3, 4)
    assert list(tmp_path.iterdir()) == [path]


# --- the table of formats ------------------------------------------------------------------------


@given(
    stem=st.text(min_size=1), suffix=st.sampled_from(images.SUFFIXES), ome=st.booleans(), upper=st.booleans()
)
def test_a_name_is_split_at_the_suffix_of_an_image(stem: str, suffix: str, ome: bool, upper: bool) -> None:
    ending = ".ome" * ome + suffix
    ending = ending.upper() if upper else ending
    found = images.split_suffix(stem + ending)
    assert "".join(found) == stem + ending
    assert found[1].endswith(ending[-len(suffix) :])


def test_other_names_have_no_suffix_of_an_image() -> None:
    for name in ("soil", "soil.csv", ".npz", "soil.tif.txt"):
        assert images.split_suffix(name) == (name, "")


def test_formats_share_no_suffix_and_are_found_by_their_outputs() -> None:
    assert len(set(images.SUFFIXES)) == len(images.SUFFIXES)
    for one in images.FORMATS:
        if one.write:
            assert images.output_format(f"soil{one.output}") is one
            assert one.output.endswith(one.suffixes)


def test_a_new_format_is_one_entry_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(file: Path, key: str | None) -> tuple[np.ndarray, Meta]:
        return np.loadtxt(file), Meta(name=key or "")

    def write(maps: dict[str, np.ndarray], path: Path, meta: Meta, provenance: dict[str, object]) -> None:
        np.savetxt(path, maps["median"])

    text = Format((".txt",), ".txt", read, lambda file, key: {}, write, ".txt")
    monkeypatch.setattr(images, "FORMATS", (*images.FORMATS, text))
    monkeypatch.setattr(images, "SUFFIXES", (*images.SUFFIXES, ".txt"))
    values = np.arange(6.0).reshape(2, 3)
    write_images({"median": values}, tmp_path / "soil.txt", axes="YX")
    image = read_image(tmp_path / "soil.txt")
    np.testing.assert_array_equal(image.data, values)
    assert (image.axes, image.name) == ("YX", "soil")
    with pytest.raises(ValueError, match=r"file\.npz:key.* or \.txt"):
        read_image(tmp_path)


def test_a_gray_picture_is_one_plane_however_it_is_stored(tmp_path: Path) -> None:
    from PIL import Image as Picture

    gray = np.random.default_rng(0).integers(0, 255, (9, 12)).astype(np.uint8)
    colours = np.stack([gray] * 3, axis=-1)
    Picture.fromarray(gray).save(tmp_path / "gray.png")
    Picture.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Picture.fromarray(colours).save(tmp_path / "colours.webp", lossless=True)
    Picture.fromarray(np.dstack([colours, np.full_like(gray, 99)])).save(tmp_path / "clear.png")
    for name, factor in (("gray.png", 1), ("deep.png", 257), ("colours.webp", 1), ("clear.png", 1)):
        image = read_image(tmp_path / name)
        np.testing.assert_array_equal(image.data, gray.astype(int) * factor)
        assert (image.axes, image.axes_guessed) == ("YX", False)


def test_a_picture_in_colour_keeps_its_colours(tmp_path: Path) -> None:
    from PIL import Image as Picture

    colours = np.random.default_rng(0).integers(0, 255, (9, 12, 3)).astype(np.uint8)
    Picture.fromarray(colours).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.data, colours)
    assert (image.axes, image.axes_guessed) == ("YXC", True)
    with pytest.raises(ValueError, match="leave :noisy out"):
        read_image(f"{tmp_path / 'a.png'}:noisy")
