"""The Denoise dock with a fake denoiser: what it refuses, runs, shows and keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QWidget

from napari_btn.core.progress import Note, Progress
from napari_btn.core.settings import TrainSettings
from napari_btn.denoiser import Denoiser
from napari_btn.widgets.shared.pickers import open_image
from napari_btn.workflow.scan import Scan, ScanRow

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget

PLACED = {"axis_labels": ("c", "y", "x"), "scale": (1, 0.5, 0.5), "units": ("pixel", "um", "um")}


@pytest.fixture
def ready(dock: DenoiseWidget, viewer: ViewerModel, pair: tuple[np.ndarray, np.ndarray]) -> DenoiseWidget:
    """A dock with a good pair picked."""
    names = {"channel_names": ["Si", "Al", "Fe"]}
    viewer.add_image(pair[0], name="soil noisy", metadata=names, **PLACED)
    viewer.add_image(pair[1], name="soil clean", metadata=names, **PLACED)
    return dock


def run(dock: DenoiseWidget, qtbot: QtBot) -> None:
    dock.train.click()
    assert dock.busy
    qtbot.waitUntil(lambda: not dock.busy)


def test_the_names_that_scripts_drive_are_there(ready: DenoiseWidget) -> None:
    for name in ("noisy", "clean", "preset", "supervision", "device"):
        assert isinstance(ready.findChild(QWidget, name), QComboBox), name
    for name in ("train", "stop", "pause", "apply", "save", "load"):
        assert isinstance(ready.findChild(QWidget, name), QAbstractButton), name
    for name in ("members", "coverage"):
        assert hasattr(ready.findChild(QWidget, name), "setValue"), name
    assert isinstance(ready.findChild(QWidget, "axes"), QLineEdit)
    preset = ready.findChild(QComboBox, "preset")
    assert [preset.itemText(i) for i in range(preset.count())] == ["quick", "standard", "thorough"]


def test_the_devices_of_this_machine_are_offered_or_why_there_is_none(dock: DenoiseWidget) -> None:
    from napari_btn.core.compute.device import devices

    shown = [dock.form.device.itemText(i) for i in range(dock.form.device.count())]
    assert [text.split(":")[0] for text in shown] == ["auto", *(n.split(":")[0] for n in devices().names)]
    assert dock.form.settings()["device"] == "auto"
    dock.form.device.setCurrentIndex(dock.form.device.count() - 1)
    assert dock.form.settings()["device"] == devices().names[-1]
    assert devices().reason in dock.form.device_reason.text()


def test_every_control_has_a_tooltip_and_an_accessible_name(ready: DenoiseWidget) -> None:
    from qtpy.QtWidgets import QAbstractSpinBox, QListWidget

    for kind in (QAbstractButton, QComboBox, QAbstractSpinBox):
        for control in ready.findChildren(kind):
            if not control.objectName() or control.objectName().startswith("qt_"):
                continue
            if control.objectName() in ("align", "train"):
                assert control.toolTip()
                continue
            assert control.toolTip(), control.objectName()
            assert control.accessibleName(), control.objectName()
    assert all(w.accessibleName() for w in ready.findChildren(QListWidget) if w.objectName())


def test_coverage_is_set_as_a_fraction_or_a_percentage(dock: DenoiseWidget) -> None:
    coverage = dock.form.coverage
    coverage.setValue(95)
    assert coverage.value() == pytest.approx(0.95)
    coverage.setValue(0.8)
    assert coverage.value() == pytest.approx(0.8)
    assert coverage.text() == "80 %"
    coverage.lineEdit().setText("92.5 %")
    coverage.interpretText()
    assert coverage.value() == pytest.approx(0.925)


def test_the_obvious_layers_are_picked(ready: DenoiseWidget) -> None:
    assert ready.pair.noisy.combo.currentText() == "soil noisy"
    assert ready.pair.clean.combo.currentText() == "soil clean"
    assert ready.pair.axes.text() == "CYX"
    assert ready.pair.guessed.isHidden()
    assert ready.train.isEnabled()
    assert ready.pair.channels.text() == "Si, Al, Fe"
    assert "0.5" in ready.pair.shape.text()


def test_an_empty_viewer_says_what_is_missing(dock: DenoiseWidget) -> None:
    assert not dock.train.isEnabled()
    assert "No noisy image" in dock.train.toolTip()


def test_training_ends_in_layers_with_scale_units_and_provenance(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    run(ready, qtbot)
    for name in ("lower", "median", "upper", "width"):
        layer = viewer.layers[f"soil noisy {name}"]
        assert layer.data.shape == (3, 40, 50)
        np.testing.assert_allclose(layer.scale, (1, 0.5, 0.5))
        assert [str(u) for u in layer.units] == ["pixel", "micrometer", "micrometer"]
        assert layer.axis_labels == ("c", "y", "x")
        assert layer.metadata["napari_btn"]["map"] == name
        assert layer.metadata["napari_btn"]["provenance"]["seed"] == 0
    assert "soil noisy preview" not in viewer.layers
    assert ready.session.prediction is not None
    assert ready.session.source.name == "soil noisy"
    assert "90 %" in ready.report.text()
    assert "Overlap &lt;here&gt;" in ready.report.text()
    assert ready.chart.losses
    assert ready.progress.line.text().startswith("Done")


def test_a_preview_comes_while_training_and_stays_away_when_it_is_deleted(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, denoiser_class: Any
) -> None:
    denoiser_class.updates = 10**6
    ready.train.click()
    qtbot.waitUntil(lambda: "soil noisy preview" in viewer.layers)
    viewer.layers.remove("soil noisy preview")
    qtbot.wait(300)
    assert ready.busy
    assert "soil noisy preview" not in viewer.layers
    ready.stop.click()
    qtbot.waitUntil(lambda: not ready.busy)


@pytest.mark.parametrize("victim", ["soil noisy", "soil clean"])
def test_a_layer_deleted_while_training_harms_nothing(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, victim: str
) -> None:
    ready.train.click()
    viewer.layers.remove(victim)
    qtbot.waitUntil(lambda: not ready.busy)
    assert "soil noisy median" in viewer.layers
    assert not ready.message.notes
    assert not ready.train.isEnabled()


@pytest.mark.parametrize(
    "error",
    [ValueError("Too few blocks."), RuntimeError("CUDA out of memory"), MemoryError(), KeyError("x")],
    ids=["value", "gpu memory", "memory", "bug"],
)
def test_what_fails_is_said_and_train_is_ready_again(
    ready: DenoiseWidget, qtbot: QtBot, denoiser_class: Any, error: Exception
) -> None:
    denoiser_class.fail = error
    run(ready, qtbot)
    [(level, text)] = ready.message.notes
    assert level == "red"
    assert text.startswith("Training failed. ")
    assert "emory" in text or "Too few blocks." in text or "KeyError" in text
    assert ready.train.isEnabled()


def test_stop_keeps_finished_members_and_continue_goes_on_from_them(
    ready: DenoiseWidget, qtbot: QtBot, denoiser_class: Any
) -> None:
    denoiser_class.updates = 10**6
    ready.train.click()
    qtbot.waitUntil(lambda: ready._runs["work"].checkpoint is not None)
    ready.stop.click()
    qtbot.waitUntil(lambda: not ready.busy)
    denoiser_class.updates = 20
    assert "1 of 10 members" in ready.progress.line.text()
    assert ready.train.text() == "Continue"
    ready.form.seed.setValue(7)
    assert ready.train.text() == "Train"
    ready.form.seed.setValue(0)
    run(ready, qtbot)
    assert denoiser_class.resumed == ("member 0",)
    assert ready.train.text() == "Train"


def test_pause_holds_and_resume_goes_on(ready: DenoiseWidget, qtbot: QtBot, denoiser_class: Any) -> None:
    ready.train.click()
    ready.pause.click()
    before = denoiser_class.updated
    assert ready.pause.text() == "Resume"
    qtbot.wait(300)
    assert denoiser_class.updated <= before + 1  # the one that had begun
    assert ready.progress.line.text().startswith("Paused.")
    assert ready.busy
    ready.pause.click()
    qtbot.waitUntil(lambda: not ready.busy, timeout=20_000)


def test_a_second_run_updates_in_place_and_keeps_the_first_as_one_backup(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    run(ready, qtbot)
    median = viewer.layers["soil noisy median"]
    n = len(viewer.layers)
    run(ready, qtbot)
    assert len(viewer.layers) == n
    for seed in (1, 2):
        ready.form.seed.setValue(seed)
        run(ready, qtbot)
    assert viewer.layers["soil noisy median"] is median
    assert len(viewer.layers) == n + 4
    before = viewer.layers["soil noisy median (before)"]
    assert not before.visible
    assert before.metadata["napari_btn"]["provenance"]["seed"] == 1


def test_recalibration_offers_itself_and_brings_new_intervals(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    run(ready, qtbot)
    assert ready.recalibrate.isHidden()
    ready.form.coverage.setValue(95)
    assert not ready.recalibrate.isHidden()
    ready.recalibrate.click()
    qtbot.waitUntil(lambda: not ready.busy)
    assert viewer.layers["soil noisy lower"].metadata["napari_btn"]["alpha"] == pytest.approx(0.05)
    assert ready.recalibrate.isHidden()


def test_apply_denoises_another_layer_and_says_how_it_differs(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    assert not ready.apply.isEnabled()
    run(ready, qtbot)
    viewer.add_image(
        pair[0][:, :30], name="wide", axis_labels=("c", "y", "x"), scale=(1, 2, 2), units=PLACED["units"]
    )
    ready.apply_to.pick(viewer.layers["wide"])
    assert ready.apply.isEnabled()
    ready.apply.click()
    qtbot.waitUntil(lambda: not ready.busy)
    assert viewer.layers["wide median"].data.shape == (3, 30, 50)
    np.testing.assert_allclose(viewer.layers["wide median"].scale, (1, 2, 2))
    assert "pixels of 2 um" in ready.message.notes[0][1]


def test_save_and_load(ready: DenoiseWidget, qtbot: QtBot, tmp_path: Path) -> None:
    assert not ready.save.isEnabled()
    run(ready, qtbot)
    ready.save_to(tmp_path / "soil")
    assert (tmp_path / "soil.btn").exists()
    ready.save_to(tmp_path / "nowhere" / "soil.btn")
    assert ready.message.notes[0][0] == "red"
    ready.load_from(tmp_path / "soil.btn")
    qtbot.waitUntil(lambda: not ready.busy)
    assert ready.form.preset.currentText() == "quick"
    assert ready.form.members.value() == 3
    assert ready.form.coverage.value() == pytest.approx(0.8)
    ready.load_from(tmp_path / "damaged.btn")
    qtbot.waitUntil(lambda: not ready.busy)
    assert "is damaged. Save it again." in ready.message.notes[0][1]
    assert ready.session.denoiser is not None


def test_a_dock_is_rebuilt_from_the_session(ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    ready.form.members.setValue(4)
    run(ready, qtbot)
    ready.leave()
    again = DenoiseWidget(viewer)
    qtbot.addWidget(again)
    assert again.form.members.value() == 4
    assert again.report.text() == ready.report.text()
    assert again.chart.losses
    assert again.save.isEnabled()
    again.leave()


# -------------------------------------------------------------------- bad input


def refused(dock: DenoiseWidget) -> str:
    assert not dock.train.isEnabled()
    return str(dock.train.toolTip())


def test_an_rgb_layer_is_refused_beside_its_picker(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((40, 50, 3), np.uint8), name="photo", rgb=True)
    ready.pair.noisy.pick(viewer.layers["photo"])
    assert "RGB" in refused(ready)
    assert "RGB" in ready.pair.noisy.note.notes[0][1]
    ready.pair.noisy.pick(viewer.layers["soil noisy"])
    assert ready.train.isEnabled()
    assert not ready.pair.noisy.note.notes


def test_noisy_as_its_own_clean_is_refused(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    ready.pair.clean.pick(viewer.layers["soil noisy"])
    assert "same image" in refused(ready)
    assert "same image" in ready.pair.note.notes[0][1]


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
    ready.pair.axes.setText(axes)
    assert refused(ready)
    assert ready.pair.note.notes
    ready.pair.axes.setText("cyx")
    assert ready.train.isEnabled()


def test_channels_can_be_named(ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot) -> None:
    ready.pair.channels.setText("Ca, Ti")
    assert "2 channel names came" in refused(ready)
    ready.pair.channels.setText("Ca, Ti , Mn")
    assert ready.train.isEnabled()
    run(ready, qtbot)
    assert viewer.layers["soil noisy median"].metadata["napari_btn"]["channel_names"] == ["Ca", "Ti", "Mn"]
    ready.pair.axes.setText("ZYX")
    assert ready.pair.channels.isHidden()
    assert ready.train.isEnabled()


def test_what_the_whole_check_finds_comes_later(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, denoiser_class: Any
) -> None:
    for name in ("soil noisy", "soil clean"):
        viewer.layers[name].data = viewer.layers[name].data[:, :12, :12].copy()
    qtbot.waitUntil(lambda: not ready.train.isEnabled())
    assert "too small" in refused(ready)


def test_a_shift_is_noted_and_align_adds_a_moved_layer(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, denoiser_class: Any
) -> None:
    denoiser_class.notes_of_check = (Note("amber", "Clean lies Y -3.1 px from noisy."),)
    denoiser_class.shift = (-3.1, 1.4)
    ready.form.seed.setValue(3)
    qtbot.waitUntil(lambda: bool(ready.pair.note.notes))
    assert ready.train.isEnabled()
    assert not ready.pair.align.isHidden()
    ready.pair.align.click()
    assert ready.pair.clean.combo.currentText() == "soil clean aligned"
    np.testing.assert_allclose(viewer.layers["soil clean aligned"].scale, (1, 0.5, 0.5))


def test_axes_are_guessed_with_a_badge_where_a_layer_says_nothing(
    dock: DenoiseWidget, viewer: ViewerModel, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    viewer.add_image(pair[0], name="raw")
    viewer.add_image(pair[1], name="truth")
    assert dock.pair.axes.text() == "CYX"
    assert not dock.pair.guessed.isHidden()
    dock.pair.axes.setText("ZYX")
    assert dock.pair.guessed.isHidden()
    assert dock.train.isEnabled()


def test_layers_are_stacked_as_channels(
    dock: DenoiseWidget, viewer: ViewerModel, pair: tuple[np.ndarray, np.ndarray], qtbot: QtBot
) -> None:
    from qtpy.QtCore import Qt

    for name, c in (("Si", 0), ("Al", 1), ("Fe", 2)):
        viewer.add_image(pair[0][c], name=f"{name} fast", scale=(0.5, 0.5), units=("um", "um"))
        viewer.add_image(pair[1][c], name=f"{name} slow", scale=(0.5, 0.5), units=("um", "um"))
    for picker, word in ((dock.pair.noisy, "fast"), (dock.pair.clean, "slow")):
        picker.many.setChecked(True)
        for row in range(picker.list.count()):
            item = picker.list.item(row)
            item.setCheckState(Qt.CheckState.Checked if word in item.text() else Qt.CheckState.Unchecked)
    assert dock.pair.axes.text() == "CYX"
    assert dock.train.isEnabled(), dock.train.toolTip()
    run(dock, qtbot)
    [median] = [layer for layer in viewer.layers if layer.name.endswith(" median")]
    assert median.data.shape == (3, 40, 50)
    np.testing.assert_allclose(median.scale, (1, 0.5, 0.5))
    assert median.metadata["napari_btn"]["channel_names"] == ["Si fast", "Al fast", "Fe fast"]
    dock.pair.noisy.stack_as.setCurrentText("repeats")
    assert dock.pair.axes.text() == "SYX"


def test_repeats_train_against_one_clean_layer(
    dock: DenoiseWidget, viewer: ViewerModel, pair: tuple[np.ndarray, np.ndarray], qtbot: QtBot
) -> None:
    viewer.add_image(np.stack([pair[0], pair[0] + 1]), name="noisy", axis_labels=("s", "c", "y", "x"))
    viewer.add_image(pair[1], name="clean", axis_labels=("c", "y", "x"))
    assert dock.pair.axes.text() == "SCYX"
    assert dock.train.isEnabled(), dock.train.toolTip()
    run(dock, qtbot)
    assert viewer.layers["noisy median"].data.shape == (2, 3, 40, 50)


def test_clean_in_another_order_is_turned(
    dock: DenoiseWidget, viewer: ViewerModel, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    viewer.add_image(pair[0], name="noisy", axis_labels=("c", "y", "x"))
    viewer.add_image(np.moveaxis(pair[1], 0, 2), name="clean", axis_labels=("y", "x", "c"), rgb=False)
    assert dock.train.isEnabled(), dock.train.toolTip()
    assert dock.pair.inputs is not None
    np.testing.assert_array_equal(dock.pair.inputs.clean.data, pair[1])


def test_a_file_is_read_added_and_picked(
    dock: DenoiseWidget,
    viewer: ViewerModel,
    pair: tuple[np.ndarray, np.ndarray],
    qtbot: QtBot,
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "soil.npz", noisy=pair[0], clean=pair[1])
    for picker in (dock.pair.noisy, dock.pair.clean):
        open_image(viewer, picker, tmp_path / "soil.npz", dock._runs)
        qtbot.waitUntil(lambda picker=picker: bool(picker.layers))
    assert dock.pair.noisy.combo.currentText() == "soil noisy"
    assert dock.pair.clean.combo.currentText() == "soil clean"
    assert dock.train.isEnabled(), dock.train.toolTip()
    (tmp_path / "broken.tif").write_bytes(b"no image")
    open_image(viewer, dock.pair.noisy, tmp_path / "broken.tif", dock._runs)
    qtbot.waitUntil(lambda: bool(dock.pair.noisy.note.notes))
    assert len(viewer.layers) == 2


def test_workers_are_made_ready_once_while_the_user_looks_at_the_form(
    ready: DenoiseWidget, qtbot: QtBot, denoiser_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    qtbot.waitUntil(lambda: denoiser_class.prepared == 1 and not ready._runs)
    ready.form.members.setValue(3)
    ready.form.seed.setValue(3)
    qtbot.waitUntil(
        lambda: ready.pair._found is not None and ready.pair._found.key == ready.pair.inputs.key()
    )
    assert denoiser_class.prepared == 1
    ready.pair._prepared -= 100
    at_check: list[int] = []
    check = denoiser_class.check

    def checked(self: Any, *args: Any, **given: Any) -> Any:
        at_check.append(denoiser_class.prepared)
        return check(self, *args, **given)

    monkeypatch.setattr(denoiser_class, "check", checked)
    ready.form.seed.setValue(4)
    qtbot.waitUntil(lambda: bool(at_check) and not ready._runs)
    assert at_check == [2]  # before the check that a person doesn't wait for
    ready.pair._prepared -= 100
    ready.form.members.setValue(4)
    qtbot.waitUntil(lambda: denoiser_class.prepared == 3 and not ready._runs)


def test_no_workers_are_started_for_a_pair_that_will_not_do(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, denoiser_class: Any
) -> None:
    for name, side in (("noisy", 8), ("clean", 9)):
        viewer.add_image(np.random.default_rng(0).random((8, side), np.float32), name=name)
    qtbot.waitUntil(lambda: not dock.train.isEnabled() and not dock._runs)
    qtbot.wait(50)
    assert denoiser_class.prepared == 0


def test_renamed_and_removed_layers_are_followed(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    viewer.layers["soil noisy"].name = "fast scan"
    assert ready.pair.noisy.combo.currentText() == "fast scan"
    viewer.layers.remove("fast scan")
    assert ready.pair.noisy.combo.currentIndex() == -1
    assert "No noisy image" in ready.train.toolTip()


def test_a_dock_that_left_hears_nothing_of_layers(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    heard: list[int] = []
    ready.pair.noisy.changed.connect(lambda: heard.append(1))
    layer = viewer.layers["soil noisy"]
    layer.data = np.asarray(layer.data) + 1
    assert heard
    ready.leave()
    heard.clear()
    layer.data = np.asarray(layer.data) + 1
    assert not heard


def test_leaving_in_mid_training_ends_it_at_once_and_nothing_is_called_back(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, denoiser_class: Any
) -> None:
    denoiser_class.updates = 10**6
    ready.train.click()
    qtbot.waitUntil(lambda: bool(ready.chart.losses))
    work = ready._runs["work"]
    ready.leave()
    assert not work.running
    viewer.add_image(np.zeros((5, 5)))
    qtbot.wait(200)


def test_a_theme_changes_the_colours(ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot) -> None:
    run(ready, qtbot)
    dark = ready.report.text()
    viewer.theme = "light"
    assert ready.report.text() != dark
    viewer.theme = "dark"
    assert ready.report.text() == dark


# ---------------------------------------------------------------- masks, splits, promises


def by_name(dock: DenoiseWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None, name
    return found


def test_painted_parts_train_as_they_were_painted(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    labels = viewer.add_labels(np.zeros((3, 40, 50), np.uint8), name="parts")
    regions = by_name(ready, "regions")
    assert [regions.itemText(i) for i in range(regions.count())] == ["as split", "parts"]
    regions.setCurrentText("parts")
    before = ready.pair.inputs
    # Napari's brush paints the channel in sight alone; the part is meant for all.
    labels.data_setitem((np.zeros(800, int), *np.indices((40, 20)).reshape(2, -1)), 1)
    labels.data_setitem((np.zeros(400, int), *np.mgrid[5:25, 30:50].reshape(2, -1)), 2)
    labels.events.paint(value=[])
    assert before is not None
    assert ready.pair.inputs is not None
    assert ready.pair.inputs.key() != before.key()
    run(ready, qtbot)
    painted = type(ready.session.denoiser).given["regions"]
    assert painted.shape == (40, 50)
    assert (painted[:, :20] == 1).all()
    assert (painted[5:25, 30:] == 2).all()
    assert painted.sum() == 800 + 2 * 400
    viewer.layers.remove(labels)
    assert regions.currentText() == "as split"


def test_pixels_that_are_not_finite_can_be_left_out_on_screen(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    clean = viewer.layers["soil clean"].data.copy()
    clean[1, 3, 4] = np.nan
    viewer.layers["soil clean"].data = clean
    assert "NaN or infinite" in refused(ready)
    by_name(ready, "valid").setCurrentText("where finite")
    assert ready.train.isEnabled(), ready.train.toolTip()
    viewer.add_labels((np.isfinite(clean).all(0)).astype(int), name="counts")
    by_name(ready, "valid").setCurrentText("counts")
    assert ready.train.isEnabled(), ready.train.toolTip()
    run(ready, qtbot)
    valid = type(ready.session.denoiser).given["valid"]
    assert valid.dtype == bool
    assert valid.sum() == valid.size - 1
    viewer.add_labels(np.ones((40, 49), int), name="too narrow")
    by_name(ready, "valid").setCurrentText("too narrow")
    assert "Layer 'too narrow' has 40 x 49 pixels, noisy has 40 x 50 along YX" in refused(ready)


def test_results_are_no_masks(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    viewer.add_labels(np.ones((40, 50), int), name="ours", metadata={"napari_btn": {"map": "tokens"}})
    assert by_name(ready, "valid").findText("ours") < 0
    assert by_name(ready, "regions").findText("soil noisy") < 0


@pytest.mark.parametrize(
    ("shown", "split", "axis"),
    [
        ("along the longest axis", "auto", "longest"),
        ("along Y", "auto", "y"),
        ("checkerboard", "checkerboard", "longest"),
    ],
)
def test_the_split_is_chosen(ready: DenoiseWidget, shown: str, split: str, axis: str) -> None:
    by_name(ready, "split").setCurrentText(shown)
    calibration = ready.form.settings()["calibration"]
    assert (calibration.split, calibration.split_axis) == (split, axis)


def test_other_promises_are_made_from_the_scores_that_there_are(ready: DenoiseWidget, qtbot: QtBot) -> None:
    run(ready, qtbot)
    assert ready.recalibrate.isHidden()
    assert ready.calibrate_on.isHidden()
    by_name(ready, "unit").setCurrentText("with certainty")
    assert not by_name(ready, "delta").isHidden()
    by_name(ready, "delta").setValue(0.05)
    by_name(ready, "score").setCurrentText("scaled by the width")
    by_name(ready, "groups").setValue(4)
    assert ready.recalibrate.text() == "Recalibrate as set"
    ready.recalibrate.click()
    qtbot.waitUntil(lambda: not ready.busy)
    made = ready.session.denoiser
    settings = made.calibration_settings
    assert (settings.unit, settings.delta, settings.score, settings.groups) == ("risk", 0.05, "scaled", 4)
    # Tokens come from the image that the scores come from.
    assert made.calibrated["noisy"] is ready.pair.inputs.noisy.data
    assert made.calibrated["clean"] is None
    assert ready.recalibrate.isHidden()


def test_another_pair_calibrates_trained_networks(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    ready.load_from(tmp_path / "a.btn")
    qtbot.waitUntil(lambda: not ready.busy)
    assert not ready.calibrate_on.isHidden()
    ready.calibrate_on.click()
    qtbot.waitUntil(lambda: not ready.busy)
    given = type(ready.session.denoiser).calibrated
    assert given["noisy"] is viewer.layers["soil noisy"].data
    assert given["clean"] is viewer.layers["soil clean"].data
    assert given["axes"] == "CYX"


def test_a_bundles_promise_is_shown(ready: DenoiseWidget) -> None:
    from napari_btn.core.settings import CalibrationSettings

    denoiser = type(ready)._wanted.__globals__["engine"]().Denoiser()
    denoiser.calibration_settings = CalibrationSettings(
        unit="image", score="asymmetric", split="checkerboard", delta=0.2, groups=5
    )
    ready.form.show_settings(denoiser)
    assert ready.form.calibration() == denoiser.calibration_settings


# ---------------------------------------------------------------- networks compared


def a_scan() -> Scan:
    rows = [
        ScanRow(d, c, r, 3 * d, 1000 * d * c, 1.5, 0.3 - 0.001 * d * (c == 4), 0.9, 0.91, 0.5)
        for d in (5, 10)
        for c in (4, 8)
        for r in (4,)
    ]
    return Scan(tuple(rows))


def test_networks_are_compared_and_the_best_is_taken(
    ready: DenoiseWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def steps(inputs, grid, common):
        asked.append((inputs.noisy.name, grid, common))
        yield Progress(0, 2, "Kind 1 of 4")
        return a_scan()

    monkeypatch.setattr("napari_btn.widgets.denoise.dock._compared", steps)
    ready.scan.lists["scan_depths"].setText("5,10")
    ready.scan.start.click()
    assert ready.busy
    assert not ready.scan.start.isEnabled()
    qtbot.waitUntil(lambda: not ready.busy)
    grid = {"depths": (5, 10), "channels": (4,), "dilations": (4, 8)}
    assert asked == [("soil noisy", grid, {"seed": 0, "device": "auto"})]
    table = ready.scan.table
    assert table.rowCount() == 4
    texts = [table.item(r, 3).text() for r in range(4)]
    assert [text.endswith("best") for text in texts] == [False, False, True, False]
    assert table.currentRow() == 2
    assert len(ready.scan.chart.lines) == 2
    assert "depth 10, 4 channels, dilation to 4" in ready.progress.line.text()
    ready.scan.take.click()
    network = ready.form.settings()["network"]
    assert (network.depth, network.channels, network.max_dilation) == (10, 4, 4)
    table.selectRow(1)
    ready.scan.take.click()
    assert ready.form.settings()["network"].channels == 8


def test_a_list_that_is_none_is_said_and_nothing_starts(ready: DenoiseWidget) -> None:
    ready.scan.lists["scan_dilations"].setText("4; 8")
    ready.scan.start.click()
    assert not ready.busy
    assert "whole numbers with commas" in ready.scan.note.text()


def test_without_images_networks_can_not_be_compared(dock: DenoiseWidget) -> None:
    assert not dock.scan.start.isEnabled()
    assert dock.scan.start.toolTip() == dock.train.toolTip()


def test_bias_free_networks_are_asked_for_and_shown(ready: DenoiseWidget) -> None:
    assert not ready.form.settings()["network"].bias_free
    ready.form.bias_free.setChecked(True)
    made = Denoiser(**ready.form.settings())
    assert made.network.bias_free
    ready.form.bias_free.setChecked(False)
    ready.form.show_settings(made)
    assert ready.form.bias_free.isChecked()


def test_early_stopping_is_asked_for(ready: DenoiseWidget) -> None:
    assert not ready.form.settings()["train"].early_stopping
    ready.form.early_stopping.setChecked(True)
    assert ready.form.settings()["train"].early_stopping


def test_the_image_decides_on_patches_until_a_size_is_asked_for(ready: DenoiseWidget) -> None:
    assert ready.form.patch.text() == "from the image"
    for side in (None, 96, None):
        ready.form.show_settings(Denoiser(train=TrainSettings(patch_px=side)))
        assert ready.form.settings()["train"].patch_px == side
