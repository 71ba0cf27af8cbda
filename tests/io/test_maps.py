"""Maps on disk that are written part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_btn.core.data.image import Image
from napari_btn.io.images import read_image, read_provenance
from napari_btn.io.maps import open_maps, zarr_maps

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("zarr")

NAMES = ("lower", "width", "quantiles")


def like(shape, axes, *known):
    return Image(np.broadcast_to(np.float32(0), shape), axes, *known)


def values_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("axes", "shape"), [("ZYX", (9, 11, 7)), ("YXC", (11, 7, 3)), ("XCSYZ", (7, 2, 3, 5, 4))]
)
def test_parts_written_are_read_back_in_the_same_axes(axes, shape, tmp_path: Path) -> None:
    whole, stack = values_of(shape), values_of((2, *shape), 1)
    levels = {"levels": (0.5, 0.9)}
    path = tmp_path / "p.ome.zarr"
    with zarr_maps(path, NAMES, like(shape, axes), provenance=levels) as maps:
        assert not path.exists()
        cut = shape[0] // 2
        for part in (slice(0, cut), slice(cut, None)):
            maps["lower"][part] = whole[part]
            maps["width"][part, ..., 1:] = 2 * whole[part, ..., 1:]
            maps["width"][part, ..., 0] = 2 * whole[part, ..., 0]
            for i in range(2):
                maps["quantiles"][i, part] = stack[i, part]
    read = open_maps(path, axes.lower())
    assert set(read) == set(NAMES)
    np.testing.assert_array_equal(np.asarray(read["lower"]), whole)
    np.testing.assert_array_equal(read["width"][...], 2 * whole)
    np.testing.assert_array_equal(read["quantiles"][1, ..., 1:3], stack[1, ..., 1:3])
    np.testing.assert_array_equal(read["lower"][1:3, ..., -1], whole[1:3, ..., -1])
    np.testing.assert_array_equal(read["lower"][2], whole[2])
    assert read["quantiles"].shape == (2, *shape)
    assert (read["lower"].ndim, read["lower"].dtype) == (len(shape), np.float32)


def test_other_readers_find_the_images_and_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "p.ome.zarr"
    known = {"alpha": 0.1, "levels": [0.5]}
    with zarr_maps(
        path, NAMES, like((2, 9, 8), "CYX", ("Si", "Fe"), (0.5, 0.25), "um"), provenance=known
    ) as maps:  # fmt: skip
        maps["lower"][:] = 1
    image = read_image(path)
    assert (image.axes, image.channel_names, image.pixel_size, image.unit) == (
        "CYX",
        ("Si", "Fe"),
        (0.5, 0.25),
        "um",
    )
    assert image.data[:].min() == 1
    assert read_image(f"{path}:width").data.shape == (2, 9, 8)
    assert read_provenance(path) == known


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with zarr_maps(tmp_path / "p.zarr", ("lower",), like((9, 8), "YX")) as maps:
            maps["lower"][0] = 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_existing_maps_are_replaced_only_when_allowed(tmp_path: Path) -> None:
    path = tmp_path / "p.zarr"
    for value, overwrite in ((1, False), (2, True)):
        with zarr_maps(path, ("lower",), like((9, 8), "YX"), overwrite=overwrite) as maps:
            maps["lower"][:] = value
    with (
        pytest.raises(ValueError, match="exists"),
        zarr_maps(path, ("lower",), like((9, 8), "YX")),
    ):
        pytest.fail("opened")
    assert open_maps(path, "YX")["lower"][0, 0] == 2


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"end it in \.ome\.zarr"),
        zarr_maps(tmp_path / "p.npz", ("lower",), like((9, 8), "YX")),
    ):
        pytest.fail("opened")
    with pytest.raises(ValueError, match="There is no"):
        open_maps(tmp_path / "none.zarr", "YX")


def test_chunks_are_as_long_as_the_steps_of_writing(tmp_path: Path) -> None:
    path = tmp_path / "p.zarr"
    known = {"levels": [0.5]}
    with zarr_maps(path, NAMES, like((3, 70, 90), "CYX"), provenance=known, steps={"Y": 23, "X": 45}) as maps:
        assert maps["lower"].chunks == (3, 23, 45)
        assert maps["quantiles"].chunks == (1, 3, 23, 45)
    with zarr_maps(tmp_path / "q.zarr", NAMES, like((3, 70, 900), "CYX"), provenance=known) as maps:
        assert maps["lower"].chunks == (3, 70, 512)
