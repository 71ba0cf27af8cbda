"""The noise inspector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget


def _inspect(dock: DenoiseWidget, qtbot: QtBot) -> None:
    dock.view.noise.inspect.click()
    assert dock.busy
    assert not dock.view.noise.inspect.isEnabled()
    qtbot.waitUntil(lambda: not dock.busy)


def test_counts_are_found_and_their_defects_become_a_layer(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    assert "Pick a noisy image" in dock.view.noise.inspect.toolTip()
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.linspace(2, 12, 90), (2, 80, 90)).astype(np.float32)
    counts[:, 20, 30] = 4095
    viewer.add_image(
        counts, name="counts noisy", axis_labels=("c", "y", "x"), scale=(1, 0.5, 0.5), translate=(0, 3, 7),
        metadata={"channel_names": ["Si", "Al"]},
    )  # fmt: skip
    _inspect(dock, qtbot)
    panel = dock.view.noise
    assert "thinning and Noise2Void are allowed" in panel.sentence.text()
    assert "Fano factor" in panel.numbers.text()
    assert [panel.channel.itemText(i) for i in range(2)] == ["Si", "Al"]
    assert len(panel.correlation.lines) == 2
    assert "fit" in panel.transfer.legend.text()
    first = panel.numbers.text()
    panel.channel.setCurrentIndex(1)
    assert panel.numbers.text() != first
    assert any("Noise2Noise is not allowed" in text for _, text in panel.notes.notes)
    panel.defects.click()
    panel.defects.click()
    layer = viewer.layers["counts noisy defects"]
    assert len(viewer.layers) == 2
    assert layer.data.shape == (80, 90)
    assert layer.data[20, 30] == 2
    np.testing.assert_allclose(layer.translate, (3, 7))
    np.testing.assert_allclose(layer.scale, (0.5, 0.5))


def test_bad_input_is_reported_in_the_dock(dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot) -> None:
    viewer.add_image(np.ones((40, 50)), name="flat noisy", axis_labels=("y", "x"))
    _inspect(dock, qtbot)
    assert any("constant" in text for _, text in dock.view.message.notes)
    assert dock.view.noise.findings is None


def test_repair_and_saturation_go_into_the_training(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    rng = np.random.default_rng(0)
    seen = rng.poisson(np.kron(rng.gamma(3.0, 3.0, (8, 16)), np.ones((8, 8)))).astype(np.float32)
    viewer.add_image(seen + 100, name="noisy", axis_labels=("y", "x"))
    viewer.add_image(np.full(seen.shape, 100.0), name="dark")
    pair, form = dock.view.pair, dock.view.form
    qtbot.waitUntil(lambda: dock.view.train.isEnabled())
    assert pair.inputs is not None
    assert pair.inputs.detector is None
    assert pair.inputs.settings.train.saturation is None
    before = pair.inputs.key()
    pair.masks.repair.click()
    pair.masks.dark.setCurrentText("dark")
    form.saturation.setValue(150)
    qtbot.waitUntil(lambda: pair.inputs is not None and pair.inputs.settings.train.saturation == 150)
    assert pair.inputs.key() != before
    assert pair.inputs.pair.detector is not None
    assert np.asarray(pair.inputs.pair.detector.dark).max() == 100
    # counts again, without the offset: thinning is offered
    qtbot.waitUntil(lambda: form.supervision.findData("thinning") >= 0)
    # a given mask instead of the broken pixels that are found
    mask = np.zeros(seen.shape, np.uint8)
    mask[5, 7] = 3
    viewer.add_labels(mask, name="broken")
    pair.masks.defects.setCurrentText("broken")
    qtbot.waitUntil(
        lambda: pair.inputs is not None and pair.inputs.pair.detector.defects is not None  # type: ignore[union-attr]
    )
    given = pair.inputs.pair.detector.defects
    assert np.argwhere(given).tolist() == [[5, 7]]
    viewer.layers["dark"].data = np.full((5, 6), 100.0)
    qtbot.waitUntil(lambda: any("dark has shape (5, 6)" in text for _, text in pair.check.note.notes))


def test_the_defects_that_are_shown_can_be_edited_and_given(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    seen = np.random.default_rng(0).poisson(np.linspace(2, 12, 90), (90, 80, 90)).astype(np.float32)[0]
    seen[20, 30] = 4095
    viewer.add_image(seen.T, name="noisy", axis_labels=("x", "y"))
    _inspect(dock, qtbot)
    dock.view.noise.defects.click()
    layer, pair = viewer.layers["noisy defects"], dock.view.pair
    kinds = layer.data.copy()
    kinds[3, 4], kinds[5, 6] = 1, 3
    layer.data = kinds
    pair.masks.repair.click()
    pair.masks.defects.setCurrentText("noisy defects")
    qtbot.waitUntil(lambda: pair.inputs is not None)
    assert pair.inputs is not None
    assert pair.inputs.pair.detector is not None
    given = np.argwhere(np.asarray(pair.inputs.pair.detector.defects)).tolist()
    assert given == [[3, 4], [30, 20]], "in the axes of the image, without the saturated pixel"
    viewer.add_labels(np.zeros((7, 8), np.uint8), name="other")
    pair.masks.defects.setCurrentText("other")
    qtbot.waitUntil(lambda: any("'other' has 7 x 8 pixels" in text for _, text in pair.check.note.notes))
