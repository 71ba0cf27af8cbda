"""The Denoise dock without a clean image: what it offers, why, and what it shows first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget

FIELD = np.kron(np.random.default_rng(0).gamma(3.0, 3.0, (6, 16)), np.ones((8, 8)))


def counts(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).poisson(np.broadcast_to(FIELD, (*shape, *FIELD.shape))).astype(np.float32)


def offered(dock: DenoiseWidget) -> list[str]:
    picker = dock.view.form.supervision
    return [picker.itemData(i) for i in range(picker.count())]


def picked(dock: DenoiseWidget) -> str:
    return str(dock.view.form.supervision.currentData())


@pytest.mark.parametrize(
    ("image", "labels", "best", "also"),
    [
        (counts(), ("y", "x"), "thinning", ["noise2void"]),
        (counts() + 0.25, ("y", "x"), "noise2void", []),
        (counts(3), ("t", "y", "x"), "noise2noise", ["thinning", "noise2void"]),
    ],
)
def test_only_what_the_image_permits_is_offered_and_the_best_is_picked(
    dock: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    image: np.ndarray,
    labels: tuple[str, ...],
    best: str,
    also: list[str],
) -> None:
    viewer.add_image(image, name="noisy", axis_labels=labels)
    assert "is being checked" in dock.view.pair.check.note.text()
    qtbot.waitUntil(lambda: picked(dock) == best)
    assert offered(dock) == [best, *also]
    qtbot.waitUntil(lambda: dock.view.train.isEnabled())
    assert not dock.view.form.reason.isHidden(), "without a clean image it says how it learns"
    assert dock.view.form.reason.text().endswith(".")
    form = dock.view.form
    assert form.supervision.isHidden() == (not also), "the only way is plain text"
    assert form.only_way.isHidden() == bool(also)
    assert also or form.only_way.text() == form.supervision.currentText() != ""
    if also:
        dock.view.form.supervision.setCurrentIndex(1)
        qtbot.waitUntil(lambda: dock.view.pair.inputs is not None)
        assert picked(dock) == also[0], "what the user picked stays"


def test_a_pair_offers_its_clean_image_first(ready: DenoiseWidget) -> None:
    assert picked(ready) == "pair"
    assert offered(ready) == ["pair", "noise2noise"]
    assert ready.view.train.isEnabled()


def test_correlated_noise_gets_a_button_that_sets_the_mask(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    from napari_btn.core.data.noise import correlated

    flat = np.full((128, 144), 10.0)
    rows = correlated(flat, rng=np.random.default_rng(0), sd=1.0, length_px=(0, 1.5))
    viewer.add_image(rows, name="noisy", axis_labels=("y", "x"))
    qtbot.waitUntil(lambda: not dock.view.pair.check.mask_along.isHidden())
    assert dock.view.pair.check.mask_along.text() == "Mask along x"
    dock.view.pair.check.mask_along.click()
    assert dock.view.form.learning.struct_axes.currentText() == "horizontal"
    qtbot.waitUntil(lambda: dock.view.pair.check.mask_along.isHidden() and dock.view.train.isEnabled())


@pytest.mark.parametrize("first", ["mean", "median"])
def test_noisy_targets_show_the_mean_first(viewer: ViewerModel, first: str) -> None:
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.widgets.shared.layers import read_layer
    from napari_btn.widgets.shared.results import show_prediction

    noisy = counts()
    source = read_layer(viewer.add_image(noisy, name="noisy", axis_labels=("y", "x")))
    quantiles = np.stack([noisy - 1, noisy, noisy + 3])
    made = Prediction(
        *quantiles,
        np.zeros_like(noisy),
        quantiles,
        (0.1, 0.5, 0.9),
        "YX",
        ("0",),
        None,
        "px",
        0.1,
        "replicate",
        provenance={} if first == "median" else {"shown": "mean"},
    )
    shown = show_prediction(viewer, made, source)
    assert viewer.layers.selection.active is shown[first]
    assert shown[first].visible
    assert ("mean" in shown) == (first == "mean")
    if first == "mean":
        assert not shown["median"].visible
        np.testing.assert_array_equal(shown["mean"].data, made.mean)
        assert shown["mean"].contrast_limits == shown["median"].contrast_limits
    assert len(viewer.layers) <= 4


def test_networks_of_a_pair_are_not_calibrated_on_a_noisy_image_alone(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    ready.view.train.click()
    qtbot.waitUntil(lambda: not ready.busy)
    viewer.layers.clear()
    viewer.add_image(counts() + 0.25, name="noisy", axis_labels=("y", "x"))
    qtbot.waitUntil(lambda: ready.view.train.isEnabled())
    assert ready.view.calibrate_on.isHidden()


@pytest.mark.parametrize(
    ("sample", "best"), [("counts", "thinning"), ("repeats", "noise2noise"), ("stripes", "noise2void")]
)
def test_samples_without_a_clean_image_are_learned_without_their_truth(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, sample: str, best: str
) -> None:
    from napari_btn.widgets.shared import samples

    for data, arguments, _ in getattr(samples, f"sample_{sample}")():
        viewer.add_image(data, **arguments)
    qtbot.waitUntil(lambda: picked(dock) == best and dock.view.train.isEnabled())
    assert dock.view.pair.inputs is not None
    assert dock.view.pair.inputs.clean is None
    assert [layer.name for layer in viewer.layers if layer.visible] == [f"{sample} noisy"]
    if sample == "stripes":
        qtbot.waitUntil(lambda: not dock.view.pair.check.mask_along.isHidden())
        assert dock.view.pair.check.mask_along.text() == "Mask along y"
    # the truth may be picked by hand
    dock.view.pair.clean.pick(viewer.layers[f"{sample} truth"])
    qtbot.waitUntil(lambda: picked(dock) == "pair")


def test_clean_can_be_set_to_none_and_stays_so(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    viewer.add_image(counts(), name="noisy", axis_labels=("y", "x"))
    viewer.add_image(FIELD.astype(np.float32), name="clean", axis_labels=("y", "x"))
    qtbot.waitUntil(lambda: picked(dock) == "pair")
    combo = dock.view.pair.clean.combo
    combo.setCurrentText("none")
    combo.activated.emit(combo.currentIndex())
    qtbot.waitUntil(lambda: picked(dock) == "thinning" and dock.view.train.isEnabled())
    viewer.add_image(FIELD.astype(np.float32), name="another clean", axis_labels=("y", "x"))
    assert combo.currentText() == "none"
    assert dock.view.pair.inputs is not None
    assert dock.view.pair.inputs.clean is None
    dock.leave()
    again = type(dock)(viewer)
    qtbot.addWidget(again)
    assert again.view.pair.clean.combo.currentText() == "none"
    again.leave()
