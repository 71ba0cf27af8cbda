"""Layers to arrays: axes, units, place, stacks; and samples to layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_btn.widgets.shared.layers import LayerImage, add_image, limits_of, read_layer, stack_images
from napari_btn.widgets.shared.samples import sample_blobs, sample_edx, sample_lattice, sample_xct

if TYPE_CHECKING:
    from napari.components import ViewerModel


def image(shape: tuple[int, ...], **how: Any) -> Any:
    from napari.layers import Image

    return Image(np.random.default_rng(0).random(shape, np.float32), rgb=False, **how)


@pytest.mark.parametrize(
    ("labels", "axes"),
    [(("c", "y", "x"), "CYX"), (("Channel", "Row", "Column"), "CYX"), (("z", "y", "x"), "ZYX")],
)
def test_axes_come_from_the_labels(labels: tuple[str, ...], axes: str) -> None:
    read = read_layer(image((3, 7, 9), axis_labels=labels))
    assert (read.axes, read.axes_guessed) == (axes, False)


def test_axes_come_from_the_metadata_where_labels_say_nothing() -> None:
    read = read_layer(image((3, 7, 9), metadata={"axes": "tyx"}))
    assert (read.axes, read.axes_guessed) == ("TYX", False)
    read = read_layer(image((3, 7, 9), metadata={"napari_btn": {"axes": "SYX", "channel_names": []}}))
    assert (read.axes, read.axes_guessed) == ("SYX", False)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((7, 9), "YX"), ((3, 40, 50), "CYX"), ((30, 40, 50), "ZYX"), ((12, 3, 40, 50), "SCYX")],
)
def test_axes_are_guessed_from_the_shape_and_said_to_be(shape: tuple[int, ...], axes: str) -> None:
    read = read_layer(image(shape))
    assert (read.axes, read.axes_guessed) == (axes, True)


def test_useless_or_double_labels_are_no_axes() -> None:
    assert read_layer(image((3, 40, 50), axis_labels=("y", "y", "x"))).axes_guessed
    assert read_layer(image((3, 40, 50), axis_labels=("a", "y", "x"))).axes_guessed


def test_pixel_size_and_unit_come_from_scale_and_units() -> None:
    read = read_layer(
        image((3, 7, 9), axis_labels=("c", "y", "x"), scale=(1, 0.5, 0.25), units=("pixel", "um", "um"))
    )
    assert (read.pixel_size, read.unit) == ((0.5, 0.25), "um")
    assert read_layer(image((7, 9))).pixel_size is None
    assert read_layer(image((7, 9), scale=(2, 2))).pixel_size == (2, 2)
    assert read_layer(image((7, 9), units=("um", "nm"))).pixel_size is None


def test_channel_names_count_only_where_there_is_one_for_each() -> None:
    names = {"channel_names": ["Si", "Al", "Fe"]}
    assert read_layer(image((3, 40, 50), metadata=names)).channel_names == ("Si", "Al", "Fe")
    assert read_layer(image((4, 40, 50), metadata=names)).channel_names is None
    assert read_layer(image((30, 40, 50), metadata=names)).channel_names is None


def test_a_gray_picture_is_one_plane_always_the_same_array() -> None:
    from napari.layers import Image

    gray = np.random.default_rng(0).integers(0, 255, (8, 9)).astype(np.uint8)
    layer = Image(np.stack([gray] * 3 + [np.full_like(gray, 255)], axis=-1), rgb=True, scale=(0.5, 0.5))
    image = read_layer(layer)
    np.testing.assert_array_equal(image.data, gray)
    assert image.axes == "YX"
    assert read_layer(layer).data is image.data
    layer.data = np.random.default_rng(1).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="Split RGB"):
        read_layer(layer)


def test_rgb_is_refused_with_what_to_do() -> None:
    from napari.layers import Image

    colours = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="Split RGB"):
        read_layer(Image(colours, rgb=True))


def test_of_a_multiscale_layer_level_0_is_read() -> None:
    from napari.layers import Image

    levels = [np.ones((3, 64, 64)), np.ones((3, 32, 32))]
    read = read_layer(Image(levels, multiscale=True))
    assert read.data is levels[0]


def test_lazy_arrays_are_passed_on_unread() -> None:
    da = pytest.importorskip("dask.array")

    def explode(block: np.ndarray) -> np.ndarray:
        if block.size:
            raise AssertionError("read")
        return block

    from napari.layers import Image

    lazy = da.zeros((3, 4096, 4096), chunks=(1, 1024, 1024), dtype="float32")
    layer = Image(lazy, contrast_limits=(0, 1))
    layer.data = lazy
    read = read_layer(layer)
    assert read.data is lazy
    stacked = stack_images([read.with_axes("ZYX"), read.with_axes("ZYX")], "C")
    assert not isinstance(stacked.data, np.ndarray)
    assert stacked.nbytes == 2 * lazy.nbytes
    assert stacked.data[0, :1, 5:9, 5:9].shape == (1, 4, 4)


def test_a_stack_reads_like_the_array_it_stands_for() -> None:
    images = [read_layer(image((7, 9), name=name)) for name in ("Si", "Al")]
    stacked = stack_images(images, "C")
    whole = np.stack([i.data for i in images])
    assert (stacked.axes, stacked.channel_names, stacked.name) == ("CYX", ("Si", "Al"), "Si + Al")
    for index in (0, slice(None), (slice(None), slice(2, 5)), (1, 2, slice(3)), (slice(0, 1), 2)):
        np.testing.assert_array_equal(stacked.data[index], whole[index])
    np.testing.assert_array_equal(np.asarray(stacked.data), whole)


def test_layers_that_do_not_fit_are_not_stacked() -> None:
    with pytest.raises(ValueError, match="must match"):
        stack_images([read_layer(image((7, 9))), read_layer(image((7, 8)))], "C")
    with pytest.raises(ValueError, match="channels already"):
        stack_images([read_layer(image((3, 7, 9), axis_labels=("c", "y", "x")))] * 2, "C")


def placed() -> LayerImage:
    return read_layer(
        image(
            (4, 3, 7, 9),
            axis_labels=("s", "c", "y", "x"),
            scale=(1, 1, 0.5, 0.25),
            translate=(0, 0, 10, 20),
            units=("pixel", "pixel", "um", "um"),
            rotate=np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]], float),
            shear=np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.3], [0, 0, 0, 1]], float),
            affine=np.diag([1.0, 1, 2, 2, 1]),
        )
    )


@pytest.mark.parametrize("axes", ["SCYX", "CYX", "YX"])
def test_a_result_lies_on_its_source_whatever_axes_it_lacks(axes: str) -> None:
    source = placed()
    shape = tuple(source.shape[source.axes.index(a)] for a in axes)
    result = image(shape, **source.placement.onto(axes).to_layer())
    original = image(source.shape, **source.placement.to_layer())
    corner = np.array([2.0, 1, 3, 5])
    kept = [source.axes.index(a) for a in axes]
    np.testing.assert_allclose(
        result.data_to_world(corner[kept]), np.asarray(original.data_to_world(corner))[kept]
    )
    assert result.axis_labels == tuple(axes.lower())
    assert [str(u) for u in result.units[-2:]] == ["micrometer", "micrometer"]


def test_a_new_axis_stands_at_the_origin() -> None:
    flat = read_layer(image((7, 9), scale=(0.5, 0.25), units=("um", "um")))
    placement = flat.placement.onto("CYX")
    assert placement.scale == (1.0, 0.5, 0.25)
    assert placement.units == ("pixel", "micrometer", "micrometer")
    assert placement.labels == ("c", "y", "x")


def test_samples_become_layers_with_axes_scale_units_and_names(viewer: ViewerModel) -> None:
    from napari.layers import Layer

    for data, arguments, kind in (*sample_edx(), *sample_blobs()):
        viewer.add_layer(Layer.create(data, arguments, kind))
    assert [layer.name for layer in viewer.layers] == ["edx noisy", "edx clean", "blobs noisy", "blobs clean"]
    read = read_layer(viewer.layers["edx noisy"])
    assert (read.axes, read.axes_guessed, read.channel_names) == ("CYX", False, ("Si", "Al", "Fe"))
    assert (read.pixel_size, read.unit) == ((0.5, 0.5), "um")
    assert read_layer(viewer.layers["blobs clean"]).axes == "SYX"


def test_an_image_of_a_file_becomes_a_layer_that_reads_back(viewer: ViewerModel) -> None:
    from napari_btn.core.data.image import Image

    data = np.zeros((3, 7, 9), np.float32)
    layer = add_image(viewer, Image(data, "CYX", ("a", "b", "c"), (0.5, 0.25), "um", "soil"))
    read = read_layer(layer)
    assert (read.axes, read.pixel_size, read.unit, read.channel_names) == (
        "CYX",
        (0.5, 0.25),
        "um",
        ("a", "b", "c"),
    )
    assert read_layer(add_image(viewer, Image(data, "CYX", axes_guessed=True, name="x"))).axes_guessed


@pytest.mark.parametrize("values", [np.zeros(5), np.full(4, np.nan), np.array([1.0, np.inf]), np.arange(9.0)])
def test_contrast_limits_differ(values: np.ndarray) -> None:
    low, high = limits_of(values, 99.5)
    assert np.isfinite([low, high]).all()
    assert low < high


def test_the_volume_sample_is_placed_in_the_world() -> None:
    noisy, clean = sample_xct()
    assert noisy[1]["axis_labels"] == clean[1]["axis_labels"] == ("z", "y", "x")
    assert noisy[1]["scale"] == (2.0, 2.0, 2.0)
    assert noisy[1]["units"] == ("um", "um", "um")
    assert noisy[0].shape == clean[0].shape == (32, 128, 128)


def test_the_lattice_sample_has_pixels_of_a_fraction_of_a_nanometre() -> None:
    noisy, clean = sample_lattice()
    assert noisy[1]["scale"] == pytest.approx((0.02, 0.02))
    assert noisy[1]["units"] == clean[1]["units"] == ("nm", "nm")
    assert noisy[0].shape == clean[0].shape == (256, 512)
