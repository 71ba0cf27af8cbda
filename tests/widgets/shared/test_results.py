"""Results as layers: one contrast for all that show the signal, following the channel."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest

from napari_btn.widgets.shared.layers import read_layer
from napari_btn.widgets.shared.results import (
    is_ours,
    leave_source_steps,
    show_map,
    show_prediction,
    show_preview,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel


def prediction(scale: float = 1.0, seed: int = 0, axes: str = "CYX") -> Any:
    shape = {"CYX": (3, 20, 30), "YX": (20, 30), "SCYX": (2, 3, 20, 30), "YXC": (20, 30, 3)}[axes]
    values = np.random.default_rng(seed).random(shape, np.float32) * scale
    if "C" in axes:
        weights = np.array([1.0, 0.1, 0.01], np.float32)
        values *= weights.reshape([3 if a == "C" else 1 for a in axes])
    return SimpleNamespace(
        lower=values * 0.5,
        median=values,
        upper=values * 1.5,
        width=values,
        shown="median",
        axes=axes,
        channel_names=("Si", "Al", "Fe"),
        covers="clean",
        alpha=0.1,
        provenance={"seed": seed},
    )


@pytest.fixture
def shown(viewer: ViewerModel) -> dict[str, Any]:
    made = prediction()
    noisy = viewer.add_image(made.median * 0.01, name="scan", axis_labels=("c", "y", "x"))
    clean = viewer.add_image(made.median * 2, name="truth", axis_labels=("c", "y", "x"))
    layers = show_prediction(viewer, made, read_layer(noisy), clean=clean)
    assert set(layers) == {"median", "width"}
    viewer.layers.selection.active = layers["median"]
    bounds = {name: show_map(viewer, name, made, "scan") for name in ("lower", "upper")}
    viewer.layers.selection.active = layers["median"]
    return {**layers, **bounds, "noisy": noisy, "clean": clean}


def test_maps_on_request_follow_the_next_prediction(viewer: ViewerModel, shown: dict[str, Any]) -> None:
    again = prediction(scale=0.5)
    again.alpha, again.upper = 0.2, None
    layers = show_prediction(viewer, again, read_layer(shown["noisy"]), clean=shown["clean"])
    assert layers["lower"] is shown["lower"]
    np.testing.assert_array_equal(shown["lower"].data, again.lower)
    assert shown["lower"].metadata["napari_btn"]["alpha"] == 0.2
    assert shown["upper"] not in viewer.layers
    assert show_map(viewer, "upper", again, "scan") is None


def test_a_source_that_is_left_keeps_its_denoised_image_alone(
    viewer: ViewerModel, shown: dict[str, Any]
) -> None:
    theirs = viewer.add_image(np.ones((4, 4)), name="scan draw")
    drain_all = list(leave_source_steps(viewer, "scan"))
    assert len(drain_all) == 3
    assert list(viewer.layers) == [shown["noisy"], shown["clean"], shown["median"], theirs]


def test_layers_that_show_the_signal_share_their_limits(viewer: ViewerModel, shown: dict[str, Any]) -> None:
    limits = shown["clean"].contrast_limits
    for name in ("lower", "median", "upper"):
        assert shown[name].contrast_limits == limits
    assert shown["noisy"].contrast_limits != limits
    shown["upper"].contrast_limits = (0.1, 0.4)
    assert shown["clean"].contrast_limits == [0.1, 0.4]


def test_limits_follow_the_channel_and_come_back_as_the_user_left_them(
    viewer: ViewerModel, shown: dict[str, Any]
) -> None:
    viewer.dims.set_point(0, 0)
    first = list(shown["median"].contrast_limits)
    viewer.dims.set_point(0, 2)
    assert shown["median"].contrast_limits[1] < first[1] / 20
    assert shown["clean"].contrast_limits == shown["median"].contrast_limits
    assert shown["width"].contrast_limits[0] == 0
    assert shown["width"].contrast_limits[1] < 0.02
    shown["median"].contrast_limits = (0.001, 0.002)
    viewer.dims.set_point(0, 0)
    assert shown["median"].contrast_limits == first
    viewer.dims.set_point(0, 2)
    assert shown["median"].contrast_limits == [0.001, 0.002]


def test_width_is_magma_from_zero_and_never_black(shown: dict[str, Any]) -> None:
    width = shown["width"]
    assert width.colormap.name == "magma"
    assert width.contrast_limits[0] == 0
    assert width.contrast_limits[1] <= width.data.max()


def test_median_is_shown_and_the_rest_waits(viewer: ViewerModel, shown: dict[str, Any]) -> None:
    assert shown["median"].visible
    assert not shown["lower"].visible
    assert viewer.layers.selection.active is shown["median"]
    assert all(is_ours(shown[name]) for name in ("lower", "median", "upper", "width"))
    assert not is_ours(shown["clean"])


def test_a_layer_of_the_users_by_that_name_is_left_alone(viewer: ViewerModel) -> None:
    noisy = viewer.add_image(np.zeros((3, 20, 30)), name="scan", axis_labels=("c", "y", "x"))
    theirs = viewer.add_image(np.ones((4, 4)), name="scan median")
    layers = show_prediction(viewer, prediction(), read_layer(noisy))
    assert layers["median"] is not theirs
    assert theirs.data.shape == (4, 4)


def test_a_result_of_other_dimensions_replaces_the_old_one(
    viewer: ViewerModel, shown: dict[str, Any]
) -> None:
    flat = viewer.add_image(np.zeros((20, 30)), name="scan2")
    source = read_layer(flat)
    from dataclasses import replace

    layers = show_prediction(viewer, prediction(axes="YX", seed=1), replace(source, name="scan"))
    assert layers["median"].ndim == 2
    assert shown["median"] not in viewer.layers
    assert viewer.layers["scan median (before)"].data.shape == (3, 20, 30)


@pytest.mark.parametrize("axes", ["SCYX", "YXC"])
def test_other_orders_of_axes_follow_too(viewer: ViewerModel, axes: str) -> None:
    made = prediction(axes=axes)
    noisy = viewer.add_image(made.median, name="scan", axis_labels=tuple(axes.lower()), rgb=False)
    layers = show_prediction(viewer, made, read_layer(noisy))
    viewer.dims.set_point(axes.index("C"), 0)
    high = layers["median"].contrast_limits[1]
    viewer.dims.set_point(axes.index("C"), 2)
    assert layers["median"].contrast_limits[1] < high / 20


def test_deleted_results_don_t_hinder_the_slider(viewer: ViewerModel, shown: dict[str, Any]) -> None:
    for name in ("median", "width", "clean", "upper"):
        viewer.layers.remove(shown[name])
        viewer.dims.set_point(0, 0)
        viewer.dims.set_point(0, 1)


def test_a_preview_is_one_layer_updated_in_place(viewer: ViewerModel) -> None:
    noisy = viewer.add_image(np.zeros((2, 3, 20, 30)), name="scan", axis_labels=("s", "c", "y", "x"))
    source = read_layer(noisy)
    median = prediction().median
    layer = show_preview(viewer, median, source)
    assert show_preview(viewer, median + 1, source) is layer
    assert len(viewer.layers) == 2
    assert layer.data.max() >= 1
    assert layer.axis_labels == ("c", "y", "x")


def test_a_preview_of_the_middle_lies_in_the_middle(viewer: ViewerModel) -> None:
    noisy = viewer.add_image(np.zeros((40, 61)), name="scan", scale=(2, 3), translate=(5, 7))
    middle = np.random.default_rng(0).random((1, 40, 50), np.float32)
    layer = show_preview(viewer, middle, read_layer(noisy))
    assert layer.data.shape == (40, 50)
    np.testing.assert_allclose(layer.data_to_world((0, 0)), noisy.data_to_world((0, 5)))
    layers = show_prediction(viewer, prediction(axes="YX"), read_layer(noisy))
    assert layers["median"] is layer
    assert layer.name == "scan median"
    np.testing.assert_allclose(layer.translate, (5, 7))


def test_a_viewer_with_results_can_go(qapp: object) -> None:
    from napari.components import ViewerModel

    viewer = ViewerModel()
    made = prediction()
    noisy = viewer.add_image(made.median, name="scan", axis_labels=("c", "y", "x"))
    show_prediction(viewer, made, read_layer(noisy))
    gone = weakref.ref(viewer)
    del viewer, noisy
    gc.collect()
    assert gone() is None


def test_contrast_is_found_without_reading_a_large_file(viewer: ViewerModel):
    read: list[int] = []

    def block(block_info: Any = None) -> Any:
        place = block_info[None]["array-location"]
        read.append(int(np.prod([b - a for a, b in place])))
        z, y, x = np.mgrid[tuple(slice(*p) for p in place)]
        inside = np.hypot(y - 200, x - 200) < 100
        return (7 * (inside & (abs(z - 80) < 40)) * (x % 2)).astype(np.float32)

    values = da.map_blocks(block, chunks=((20,) * 8, (50,) * 8, (50,) * 8), dtype=np.float32)
    noisy = viewer.add_image(np.zeros(values.shape, np.float32), name="soil")
    made = prediction(axes="YX")
    made.axes = "ZYX"
    for name in ("lower", "median", "upper", "width"):
        setattr(made, name, values)
    read.clear()
    layers = show_prediction(viewer, made, read_layer(noisy))
    assert layers["median"].contrast_limits == [0, 7]  # what is in the middle, as the corners are empty
    assert layers["width"].contrast_limits == [0, 7]
    assert sum(read) < values.size  # the layers' slices on screen, and the middle of each
