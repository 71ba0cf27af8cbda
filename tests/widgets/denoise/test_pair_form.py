"""The form that picks a pair: what it refuses, guesses, stacks and masks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtWidgets import QWidget

from napari_btn.core.calibration.forecast import Forecast
from napari_btn.core.progress import Note
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.opening import open_image
from napari_btn.workflow.start import Origin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget


def refused(dock: DenoiseWidget) -> str:
    assert not dock.view.train.isEnabled()
    return str(dock.view.train.toolTip())


def test_an_rgb_layer_is_refused_beside_its_picker(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    viewer.add_image(np.eye(40, 50, dtype=np.uint8)[..., None] * np.uint8([1, 2, 3]), name="photo", rgb=True)
    ready.view.pair.noisy.pick(viewer.layers["photo"])
    assert "RGB" in refused(ready)
    assert "RGB" in ready.view.pair.noisy.note.notes[0][1]
    ready.view.pair.noisy.pick(viewer.layers["soil noisy"])
    assert ready.view.train.isEnabled()
    assert not ready.view.pair.noisy.note.notes


def test_noisy_as_its_own_clean_is_refused(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    ready.view.pair.clean.pick(viewer.layers["soil noisy"])
    assert "same image" in refused(ready)
    assert "same image" in ready.view.pair.check.note.notes[0][1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(
    ready: DenoiseWidget, viewer: ViewerModel, bad: float
) -> None:
    data = viewer.layers["soil noisy"].data.copy()
    data[0, 3, 4] = bad
    viewer.layers["soil noisy"].data = data
    assert "finite" in refused(ready) or "NaN" in refused(ready)


def test_a_constant_image_is_refused(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    viewer.layers["soil clean"].data = np.ones((3, 40, 50), np.float32)
    assert "constant" in refused(ready) or "same value" in refused(ready) or "one value" in refused(ready)


def test_shapes_that_differ_are_refused(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    viewer.layers["soil clean"].data = viewer.layers["soil clean"].data[:, :-1]
    assert "must match" in refused(ready)


@pytest.mark.parametrize("axes", ["", "YX", "CQX", "YYX", "SCYX"])
def test_wrong_axes_are_refused_and_right_ones_train(ready: DenoiseWidget, axes: str) -> None:
    ready.view.pair.axes.letters.setText(axes)
    assert refused(ready)
    assert ready.view.pair.check.note.notes
    ready.view.pair.axes.letters.setText("cyx")
    assert ready.view.train.isEnabled()


def test_rows_named_channels_do_not_train(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    ready.view.pair.axes.letters.setText("YXC")
    assert 'such as axes "CYX"' in refused(ready)


def test_channels_can_be_named(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, train: Callable[[DenoiseWidget], None]
) -> None:
    ready.view.pair.axes.channels.setText("Ca, Ti")
    assert "2 channel names came" in refused(ready)
    ready.view.pair.axes.channels.setText("Ca, Ti , Mn")
    assert ready.view.train.isEnabled()
    train(ready)
    assert viewer.layers["soil noisy median"].metadata["napari_btn"]["channel_names"] == ["Ca", "Ti", "Mn"]
    ready.view.pair.axes.letters.setText("ZYX")
    assert ready.view.pair.axes.channels.isHidden()
    assert ready.view.train.isEnabled()


def test_the_whole_check_reports_later(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    for name in ("soil noisy", "soil clean"):
        viewer.layers[name].data = viewer.layers[name].data[:, :12, :12].copy()
    qtbot.waitUntil(lambda: not ready.view.train.isEnabled())
    assert "too small" in refused(ready)


def test_a_shift_is_noted_and_align_adds_a_moved_layer(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    steps.notes = (Note("amber", "Clean lies Y -3.1 px from noisy."),)
    steps.shift = (-3.1, 1.4)
    ready.view.form.seed.setValue(3)
    qtbot.waitUntil(lambda: bool(ready.view.pair.check.note.notes))
    assert ready.view.train.isEnabled()
    assert not ready.view.pair.check.align.isHidden()
    ready.view.pair.check.align.click()
    assert ready.view.pair.clean.combo.currentText() == "soil clean aligned"
    np.testing.assert_allclose(viewer.layers["soil clean aligned"].scale, (1, 0.5, 0.5))


def test_axes_are_guessed_with_a_badge_where_a_layer_says_nothing(
    dock: DenoiseWidget, viewer: ViewerModel, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    viewer.add_image(pair[0], name="raw")
    viewer.add_image(pair[1], name="truth")
    assert dock.view.pair.axes.letters.text() == "CYX"
    assert not dock.view.pair.axes.guessed.isHidden()
    dock.view.pair.axes.letters.setText("ZYX")
    assert dock.view.pair.axes.guessed.isHidden()
    assert dock.view.train.isEnabled()


def test_layers_are_stacked_as_channels(
    dock: DenoiseWidget,
    viewer: ViewerModel,
    pair: tuple[np.ndarray, np.ndarray],
    qtbot: QtBot,
    train: Callable[[DenoiseWidget], None],
) -> None:
    from qtpy.QtCore import Qt

    for name, c in (("Si", 0), ("Al", 1), ("Fe", 2)):
        viewer.add_image(pair[0][c], name=f"{name} fast", scale=(0.5, 0.5), units=("um", "um"))
        viewer.add_image(pair[1][c], name=f"{name} slow", scale=(0.5, 0.5), units=("um", "um"))
    for picker, word in ((dock.view.pair.noisy, "fast"), (dock.view.pair.clean, "slow")):
        picker.many.setChecked(True)
        for row in range(picker.list.count()):
            item = picker.list.item(row)
            item.setCheckState(Qt.CheckState.Checked if word in item.text() else Qt.CheckState.Unchecked)
    assert dock.view.pair.axes.letters.text() == "CYX"
    assert dock.view.train.isEnabled(), dock.view.train.toolTip()
    train(dock)
    [median] = [layer for layer in viewer.layers if layer.name.endswith(" median")]
    assert median.data.shape == (3, 40, 50)
    np.testing.assert_allclose(median.scale, (1, 0.5, 0.5))
    assert median.metadata["napari_btn"]["channel_names"] == ["Si fast", "Al fast", "Fe fast"]
    dock.view.pair.noisy.stack_as.setCurrentText("repeats")
    assert dock.view.pair.axes.letters.text() == "SYX"


def test_repeats_train_against_one_clean_layer(
    dock: DenoiseWidget,
    viewer: ViewerModel,
    pair: tuple[np.ndarray, np.ndarray],
    qtbot: QtBot,
    train: Callable[[DenoiseWidget], None],
) -> None:
    viewer.add_image(np.stack([pair[0], pair[0] + 1]), name="noisy", axis_labels=("s", "c", "y", "x"))
    viewer.add_image(pair[1], name="clean", axis_labels=("c", "y", "x"))
    assert dock.view.pair.axes.letters.text() == "SCYX"
    assert dock.view.train.isEnabled(), dock.view.train.toolTip()
    train(dock)
    assert viewer.layers["noisy median"].data.shape == (2, 3, 40, 50)


def test_clean_in_another_order_is_transposed(
    dock: DenoiseWidget, viewer: ViewerModel, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    viewer.add_image(pair[0], name="noisy", axis_labels=("c", "y", "x"))
    viewer.add_image(np.moveaxis(pair[1], 0, 2), name="clean", axis_labels=("y", "x", "c"), rgb=False)
    assert dock.view.train.isEnabled(), dock.view.train.toolTip()
    assert dock.view.pair.inputs is not None
    np.testing.assert_array_equal(dock.view.pair.inputs.clean.data, pair[1])


def test_a_file_is_read_added_and_picked(
    dock: DenoiseWidget,
    viewer: ViewerModel,
    pair: tuple[np.ndarray, np.ndarray],
    qtbot: QtBot,
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "soil.npz", noisy=pair[0], clean=pair[1])
    for picker in (dock.view.pair.noisy, dock.view.pair.clean):
        open_image(viewer, picker, tmp_path / "soil.npz", dock.lifetime)
        qtbot.waitUntil(lambda picker=picker: bool(picker.layers))
    assert dock.view.pair.noisy.combo.currentText() == "soil noisy"
    assert dock.view.pair.clean.combo.currentText() == "soil clean"
    assert dock.view.train.isEnabled(), dock.view.train.toolTip()
    (tmp_path / "broken.tif").write_bytes(b"no image")
    open_image(viewer, dock.view.pair.noisy, tmp_path / "broken.tif", dock.lifetime)
    qtbot.waitUntil(lambda: bool(dock.view.pair.noisy.note.notes))
    assert len(viewer.layers) == 2


def test_workers_are_started_once_before_training(
    ready: DenoiseWidget, qtbot: QtBot, steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    qtbot.waitUntil(lambda: steps.prepared == 1 and not ready.lifetime.runs)
    ready.view.form.members.setValue(3)
    ready.view.form.seed.setValue(3)
    qtbot.waitUntil(
        lambda: (
            ready.view.pair.check._found is not None
            and ready.view.pair.check._found.key == ready.view.pair.inputs.key()
        )
    )
    assert steps.prepared == 1
    ready.view.pair.check._prepared -= 100
    at_check: list[int] = []

    def checked(*args: Any) -> Any:
        at_check.append(steps.prepared)
        return steps.plan_of(*args)

    monkeypatch.setattr(engine, "plan_of", checked)
    ready.view.form.seed.setValue(4)
    qtbot.waitUntil(lambda: bool(at_check) and not ready.lifetime.runs)
    assert at_check == [2]  # before the check that a person doesn't wait for
    ready.view.pair.check._prepared -= 100
    ready.view.form.members.setValue(4)
    qtbot.waitUntil(lambda: steps.prepared == 3 and not ready.lifetime.runs)


def test_no_workers_are_started_for_an_invalid_pair(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    for name, side in (("noisy", 8), ("clean", 9)):
        viewer.add_image(np.random.default_rng(0).random((8, side), np.float32), name=name)
    qtbot.waitUntil(lambda: not dock.view.train.isEnabled() and not dock.lifetime.runs)
    qtbot.wait(50)
    assert steps.prepared == 0


def by_name(dock: DenoiseWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None, name
    return found


def test_painted_masks_are_used_for_training(
    ready: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    steps: Any,
    train: Callable[[DenoiseWidget], None],
) -> None:
    labels = viewer.add_labels(np.zeros((3, 40, 50), np.uint8), name="parts")
    regions = by_name(ready, "regions")
    assert [regions.itemText(i) for i in range(regions.count())] == ["as split", "parts"]
    regions.setCurrentText("parts")
    before = ready.view.pair.inputs
    # Napari's brush paints the channel in sight alone; the part is meant for all.
    labels.data_setitem((np.zeros(800, int), *np.indices((40, 20)).reshape(2, -1)), 1)
    labels.data_setitem((np.zeros(400, int), *np.mgrid[5:25, 30:50].reshape(2, -1)), 2)
    labels.events.paint(value=[])
    assert before is not None
    assert ready.view.pair.inputs is not None
    assert ready.view.pair.inputs.key() != before.key()
    train(ready)
    painted = steps.regions
    assert painted.shape == (40, 50)
    assert (painted[:, :20] == 1).all()
    assert (painted[5:25, 30:] == 2).all()
    assert painted.sum() == 800 + 2 * 400
    viewer.layers.remove(labels)
    assert regions.currentText() == "as split"


def test_pixels_that_are_not_finite_can_be_left_out_on_screen(
    ready: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    steps: Any,
    train: Callable[[DenoiseWidget], None],
) -> None:
    clean = viewer.layers["soil clean"].data.copy()
    clean[1, 3, 4] = np.nan
    viewer.layers["soil clean"].data = clean
    assert "NaN or infinite" in refused(ready)
    by_name(ready, "valid").setCurrentText("where finite")
    assert ready.view.train.isEnabled(), ready.view.train.toolTip()
    viewer.add_labels((np.isfinite(clean).all(0)).astype(int), name="counts")
    by_name(ready, "valid").setCurrentText("counts")
    assert ready.view.train.isEnabled(), ready.view.train.toolTip()
    train(ready)
    valid = steps.pair.valid
    assert valid.dtype == bool
    assert valid.sum() == valid.size - 1
    viewer.add_labels(np.ones((40, 49), int), name="too narrow")
    by_name(ready, "valid").setCurrentText("too narrow")
    assert "Layer 'too narrow' has 40 x 49 pixels, noisy has 40 x 50 along YX" in refused(ready)


def test_results_are_not_offered_as_masks(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    viewer.add_labels(np.ones((40, 50), int), name="ours", metadata={"napari_btn": {"map": "tokens"}})
    assert by_name(ready, "valid").findText("ours") < 0
    assert by_name(ready, "regions").findText("soil noisy") < 0


def test_a_forecast_follows_the_coverage_and_the_start_the_members(
    ready: DenoiseWidget, qtbot: QtBot, steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, form = ready.view.pair.check.note, ready.view.form
    plan_of = steps.plan_of

    def two_pretrained(*args: Any) -> Any:
        """Plan with pretrained members of which there are two."""
        plan = plan_of(*args)
        plan.origin = Origin((SimpleNamespace(members=(0, 1)),), "pretrained members")  # type: ignore[arg-type]
        return plan

    monkeypatch.setattr(engine, "plan_of", two_pretrained)
    steps.forecast = Forecast(30, 40, "blocks of 40 px")
    form.seed.setValue(7)
    for coverage, members, level in ((90, 4, "amber"), (80, 2, "info"), (99, 3, "red")):
        form.coverage.setValue(coverage)
        form.members.setValue(members)
        qtbot.waitUntil(lambda: not ready.lifetime.runs and bool(note.notes))
        ((shown, text),) = note.notes
        assert (shown, f"{coverage} %" in text) == (level, True)
        rest = f"; {members - 2} of {members} start from random weights" if members > 2 else ""
        assert ready.view.estimate.text().endswith(f"Members start from pretrained members{rest}.")
        assert by_name(ready, "add_scenes").isHidden() == (level == "info")


def test_a_note_has_the_whole_width_beside_no_button(ready: DenoiseWidget, qtbot: QtBot) -> None:
    pair = ready.view.pair
    qtbot.waitUntil(lambda: not ready.lifetime.runs)
    pair.resize(440, pair.height())
    for shown in (False, True):
        for button in (pair.check.align, pair.check.mask_along):
            button.setVisible(shown)
        pair.check.note.say(("amber", "The noise is correlated along y. " * 8))
        pair.layout().activate()
        assert pair.check.note.width() == pair.contentsRect().width()


def test_a_forecast_of_few_blocks_offers_another_split_and_more_scenes(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    split, scenes = by_name(ready, "use_checkerboard"), by_name(ready, "add_scenes")
    qtbot.waitUntil(lambda: not ready.lifetime.runs)
    assert split.isHidden()
    assert scenes.isHidden()
    steps.forecast = Forecast(3, 40, "blocks of 40 px", checkerboard=12)
    ready.view.form.seed.setValue(7)
    qtbot.waitUntil(lambda: not split.isHidden())
    assert "about 3 blocks of 40 px" in ready.view.pair.check.note.text()
    assert "about 12 blocks" in split.text()
    split.click()
    assert ready.view.form.settings().calibration.split == "checkerboard"
    qtbot.waitUntil(lambda: not scenes.isHidden())
    layers = [viewer.add_image(layer.data, name=f"{layer.name} 2") for layer in list(viewer.layers)[:2]]
    scenes.click()
    for picker, more in zip((ready.view.pair.noisy, ready.view.pair.clean), layers, strict=True):
        picker.pick_many([*picker.layers, more], "different fields")
    assert ready.view.pair.inputs is not None
    assert ready.view.pair.inputs.pair.axes[0] == "S"
