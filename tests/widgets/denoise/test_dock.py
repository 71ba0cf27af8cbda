"""The Denoise dock with fake steps: what it runs, shows and keeps."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from qtpy.QtGui import QTextDocument
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QWidget

import napari_btn as btn
from napari_btn.core.compute.pool import Inline
from napari_btn.core.data.image import Image
from napari_btn.core.progress import Note, Progress
from napari_btn.core.remeasure.regions import Region
from napari_btn.model import save_model
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.report_panel import _known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.model import Model
    from napari_btn.widgets.denoise.dock import DenoiseWidget

PLACED = {"axis_labels": ("c", "y", "x"), "scale": (1, 0.5, 0.5), "units": ("pixel", "um", "um")}


def test_controls_have_the_object_names_of_the_api(ready: DenoiseWidget) -> None:
    for name in ("noisy", "clean", "preset", "supervision", "device"):
        assert isinstance(ready.findChild(QWidget, name), QComboBox), name
    for name in ("train", "stop", "pause", "apply", "save", "load"):
        assert isinstance(ready.findChild(QWidget, name), QAbstractButton), name
    for name in ("members", "coverage"):
        assert hasattr(ready.findChild(QWidget, name), "setValue"), name
    assert isinstance(ready.findChild(QWidget, "axes"), QLineEdit)
    preset = ready.findChild(QComboBox, "preset")
    assert [preset.itemText(i) for i in range(preset.count())] == ["instant", "quick", "standard", "thorough"]


def test_done_is_said_as_long_as_its_layers_are_there(
    ready: DenoiseWidget, viewer: ViewerModel, train: Callable[[DenoiseWidget], None], qtbot: QtBot
) -> None:
    train(ready)
    progress = ready.view.progress
    qtbot.waitUntil(lambda: progress.line.text().startswith("Done: median and width"))
    viewer.layers.remove("soil clean")
    assert not progress.isHidden()
    viewer.layers.remove("soil noisy width")
    assert progress.isHidden()


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


def test_obvious_layers_are_picked(ready: DenoiseWidget) -> None:
    assert ready.view.pair.noisy.combo.currentText() == "soil noisy"
    assert ready.view.pair.clean.combo.currentText() == "soil clean"
    assert ready.view.pair.axes.letters.text() == "CYX"
    assert ready.view.pair.axes.guessed.isHidden()
    assert ready.view.train.isEnabled()
    assert ready.view.pair.axes.channels.text() == "Si, Al, Fe"
    assert "0.5" in ready.view.pair.axes.shape.text()


@pytest.mark.parametrize(
    ("names", "picked"),
    [
        (("a", "b"), ("a", "b")),
        (("rgb", "fast"), ("fast", "rgb")),
        (("slow", "other"), ("other", "slow")),
        (("fast",), ("fast", "")),
    ],
)
def test_one_layer_is_never_picked_on_both_sides(
    dock: DenoiseWidget, viewer: ViewerModel, names: tuple[str, ...], picked: tuple[str, str]
) -> None:
    for name in names:
        viewer.add_image(np.zeros((3, 20, 30)), name=name)
    pair = dock.view.pair
    for picker, name in zip((pair.noisy, pair.clean), picked, strict=True):
        assert [layer.name for layer in picker.layers] == ([name] if name else [])


def test_an_empty_viewer_says_what_is_missing(dock: DenoiseWidget) -> None:
    assert not dock.view.train.isEnabled()
    assert "No noisy image" in dock.view.train.toolTip()


def test_training_ends_in_layers_with_scale_units_and_provenance(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, train: Callable[[DenoiseWidget], None]
) -> None:
    train(ready)
    for name in ("median", "width"):
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
    assert "90 %" in ready.view.report.text()
    assert "Overlap &lt;here&gt;" in ready.view.report.text()
    assert ready.view.chart.losses
    assert ready.view.progress.line.text().startswith("Done")


def test_a_deleted_preview_is_not_added_again(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    steps.updates = 10**6
    ready.view.train.click()
    qtbot.waitUntil(lambda: "soil noisy preview" in viewer.layers)
    viewer.layers.remove("soil noisy preview")
    qtbot.wait(300)
    assert ready.busy
    assert "soil noisy preview" not in viewer.layers
    ready.view.stop.click()
    qtbot.waitUntil(lambda: not ready.busy)


@pytest.mark.parametrize("victim", ["soil noisy", "soil clean"])
def test_a_layer_may_be_deleted_while_training(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, victim: str
) -> None:
    ready.view.train.click()
    qtbot.waitUntil(lambda: "work" in ready.lifetime.runs)
    viewer.layers.remove(victim)
    qtbot.waitUntil(lambda: not ready.busy)
    assert "soil noisy median" in viewer.layers
    assert not ready.view.message.notes
    assert not ready.view.train.isEnabled()


@pytest.mark.parametrize(
    "error",
    [ValueError("Too few blocks."), RuntimeError("CUDA out of memory"), MemoryError(), KeyError("x")],
    ids=["value", "gpu memory", "memory", "bug"],
)
def test_a_failure_is_reported_and_train_is_enabled_again(
    ready: DenoiseWidget,
    qtbot: QtBot,
    steps: Any,
    error: Exception,
    train: Callable[[DenoiseWidget], None],
) -> None:
    steps.fail = error
    train(ready)
    [(level, text)] = ready.view.message.notes
    assert level == "red"
    assert text.startswith("Training failed. ")
    assert "emory" in text or "Too few blocks." in text or "KeyError" in text
    assert ready.view.train.isEnabled()


def test_a_failure_while_layers_are_added_leaves_the_dock_ready(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    def refuse(event: Any) -> None:
        """Fail as another plugin may, which watches the layers."""
        if event.value.name == "soil noisy width":
            raise RuntimeError("no room for this layer")

    viewer.layers.events.inserted.connect(refuse)
    ready.view.train.click()
    qtbot.waitUntil(lambda: bool(ready.view.message.notes))
    [(level, text)] = ready.view.message.notes
    assert level == "red"
    assert "no room for this layer" in text
    assert "Apply" in text
    assert not ready.busy
    assert ready.session.prediction is not None
    viewer.layers.events.inserted.disconnect(refuse)
    ready.view.apply_to.combo.setCurrentText("soil noisy")
    ready.view.apply.click()
    qtbot.waitUntil(lambda: ready.view.progress.line.text().startswith("Done"))
    assert "soil noisy width" in viewer.layers


def test_stop_keeps_finished_members_and_continue_uses_them(
    ready: DenoiseWidget, qtbot: QtBot, steps: Any, train: Callable[[DenoiseWidget], None]
) -> None:
    steps.updates = 10**6
    ready.view.train.click()
    qtbot.waitUntil(lambda: "work" in ready.lifetime.runs)
    qtbot.waitUntil(lambda: ready.lifetime.runs["work"].checkpoint is not None)
    ready.view.stop.click()
    qtbot.waitUntil(lambda: not ready.busy)
    steps.updates = 20
    assert "1 of 10 members" in ready.view.progress.line.text()
    assert ready.view.train.text() == "Continue"
    ready.view.form.seed.setValue(7)
    assert ready.view.train.text() == "Train"
    ready.view.form.seed.setValue(0)
    train(ready)
    assert steps.resumed == ("member 0",)
    assert ready.view.train.text() == "Train"


def test_pause_and_resume(ready: DenoiseWidget, qtbot: QtBot, steps: Any) -> None:
    ready.view.train.click()
    qtbot.waitUntil(lambda: ready.view.pause.isEnabled())
    ready.view.pause.click()
    before = steps.updated
    assert ready.view.pause.text() == "Resume"
    qtbot.wait(300)
    assert steps.updated <= before + 1  # the one that had begun
    assert ready.view.progress.line.text().startswith("Paused.")
    assert ready.busy
    ready.view.pause.click()
    qtbot.waitUntil(lambda: not ready.busy)


def test_a_second_run_updates_in_place_and_keeps_the_first_as_one_backup(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, train: Callable[[DenoiseWidget], None]
) -> None:
    train(ready)
    median = viewer.layers["soil noisy median"]
    n = len(viewer.layers)
    train(ready)
    assert len(viewer.layers) == n
    backups = []
    for seed in (1, 2):
        ready.view.form.seed.setValue(seed)
        train(ready)
        backups.append(viewer.layers["soil noisy median (before)"])
    assert viewer.layers["soil noisy median"] is median
    assert len(viewer.layers) == n + 1
    before = backups[1]
    # napari collects garbage when a layer is removed, so the backup is filled again
    assert before is backups[0]
    assert not before.visible
    assert before.metadata["napari_btn"]["provenance"]["seed"] == 1


def test_recalibration_is_offered_and_gives_new_intervals(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, train: Callable[[DenoiseWidget], None]
) -> None:
    train(ready)
    assert ready.view.recalibrate.isHidden()
    ready.view.form.coverage.setValue(95)
    assert not ready.view.recalibrate.isHidden()
    ready.view.recalibrate.click()
    qtbot.waitUntil(lambda: not ready.busy)
    assert viewer.layers["soil noisy width"].metadata["napari_btn"]["alpha"] == pytest.approx(0.05)
    assert ready.view.recalibrate.isHidden()


def test_apply_denoises_another_layer_and_says_how_it_differs(
    ready: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    pair: tuple[np.ndarray, np.ndarray],
    train: Callable[[DenoiseWidget], None],
) -> None:
    assert not ready.view.apply.isEnabled()
    train(ready)
    viewer.add_image(
        pair[0][:, :30], name="wide", axis_labels=("c", "y", "x"), scale=(1, 2, 2), units=PLACED["units"]
    )
    ready.view.apply_to.pick(viewer.layers["wide"])
    assert ready.view.apply.isEnabled()
    ready.view.apply.click()
    qtbot.waitUntil(lambda: not ready.busy)
    assert viewer.layers["wide median"].data.shape == (3, 30, 50)
    np.testing.assert_allclose(viewer.layers["wide median"].scale, (1, 2, 2))
    assert "pixels of 2 µm" in ready.view.message.notes[0][1]


def test_networks_adapt_to_the_picked_layer(
    ready: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    pair: tuple[np.ndarray, np.ndarray],
    train: Callable[[DenoiseWidget], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def adapt_steps(model: Any, image: Any, compute: Any, settings: Any) -> Any:
        seen.append((image.view.space, settings.loss))
        yield Progress(0, 1, "Adapting member 1 of 1")
        return replace(model, calibrated=replace(model.calibrated, invalid="adapted"))

    monkeypatch.setattr(engine, "adapt_steps", adapt_steps)
    assert not ready.view.adapt.isEnabled()
    train(ready)
    viewer.add_image(pair[0][:, :30], name="wide", axis_labels=("c", "y", "x"), scale=(1, 2, 2))
    ready.view.apply_to.pick(viewer.layers["wide"])
    ready.view.adapt.click()
    qtbot.waitUntil(lambda: not ready.busy)
    assert seen == [((30, 50), "blind_spot")]
    assert "wide median" in viewer.layers
    assert ready.session.model.calibrated.invalid == "adapted"


def test_save_and_load(
    ready: DenoiseWidget, qtbot: QtBot, tmp_path: Path, train: Callable[[DenoiseWidget], None]
) -> None:
    assert not ready.view.save.isEnabled()
    ready.view.form.preset.setCurrentText("quick")
    ready.view.form.members.setValue(3)
    ready.view.form.coverage.setValue(0.8)
    train(ready)
    before = ready.session.model
    ready.keeper.save_to(tmp_path / "soil")
    assert (tmp_path / "soil.btn").exists()
    ready.keeper.save_to(tmp_path / "nowhere" / "soil.btn")
    assert ready.view.message.notes[0][0] == "red"
    ready.view.form.preset.setCurrentText("standard")
    ready.view.form.members.setValue(10)
    ready.view.form.coverage.setValue(0.9)
    ready.keeper.load_from(tmp_path / "soil.btn")
    qtbot.waitUntil(lambda: not ready.busy)
    assert ready.session.model is not before
    assert ready.session.training is None
    assert ready.view.form.preset.currentText() == "quick"
    assert ready.view.form.members.value() == 3
    assert ready.view.form.coverage.value() == pytest.approx(0.8)
    loaded = ready.session.model
    (tmp_path / "damaged.btn").write_bytes((tmp_path / "soil.btn").read_bytes()[:-100])
    ready.keeper.load_from(tmp_path / "damaged.btn")
    qtbot.waitUntil(lambda: not ready.busy)
    assert "damaged" in ready.view.message.notes[0][1]
    assert ready.session.model is loaded


def test_a_recipe_is_saved_and_repeated_on_the_layers(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    pair = btn.samples.edx(seed=3, size=(64, 130))
    denoiser = btn.Denoiser("quick", members=2, train=btn.TrainSettings(steps=3), device="cpu")
    denoiser.fit(pair.noisy, pair.clean, axes="CYX", channel_names=pair.channel_names, executor=Inline())
    ready.session.model = denoiser.model
    ready.keeper.save_to(tmp_path / "soil.json")
    assert "soil.json" in ready.view.message.notes[0][1]
    ready.session.model = None
    ready.keeper.load_from(tmp_path / "soil.json")
    qtbot.waitUntil(lambda: not ready.busy)
    level, text = ready.view.message.notes[0]
    assert level == "red"
    assert "needs noisy (3 x 64 x 130 float32), and no open layer holds exactly these values" in text
    for name, data in (("fast", pair.noisy), ("slow", pair.clean)):
        viewer.add_image(np.asarray(data), name=name)
    ready.keeper.load_from(tmp_path / "soil.json")
    qtbot.waitUntil(lambda: not ready.busy)
    assert "equals the record bit by bit" in ready.view.message.notes[0][1]
    again = ready.session.model
    assert again is not None
    for before, after in zip(denoiser.model.networks.members, again.networks.members, strict=True):
        for name, weights in before.weights.items():
            np.testing.assert_array_equal(weights, after.weights[name])
    # the recipe of maps in sight shows them again, fused with counts that another layer holds
    region, noisy = Region(4, 10, 16, 20), np.asarray(pair.noisy)
    counts = np.random.default_rng(0).poisson(9 * pair.clean).astype(np.uint16)
    window = (slice(None), *region.slices)
    fused = denoiser.predict(noisy).fuse(region, counts[window].astype(np.float32), dose=9.0)
    ready.session.source = Image(noisy, "CYX", name="fast")
    ready.session.prediction = fused
    ready.keeper.save_to(tmp_path / "fused.json")
    viewer.add_image(counts, name="counts")
    ready.keeper.load_from(tmp_path / "fused.json")
    qtbot.waitUntil(lambda: not ready.busy)
    assert "equals the record bit by bit" in ready.view.message.notes[0][1]
    assert ready.session.prediction is not fused
    np.testing.assert_array_equal(viewer.layers["fast median"].data, fused.median)
    again = ready.session.model
    (tmp_path / "list.json").write_text("[1, 2]")
    ready.keeper.load_from(tmp_path / "list.json")
    qtbot.waitUntil(lambda: not ready.busy)
    assert "no recipe" in ready.view.message.notes[0][1]
    assert ready.session.model is again


def test_a_dock_is_rebuilt_from_the_session(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, train: Callable[[DenoiseWidget], None]
) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    ready.view.form.members.setValue(4)
    ready.session.device = "cpu"
    assert ready.view.form.device_name == "cpu"
    train(ready)
    ready.leave()
    again = DenoiseWidget(viewer)
    qtbot.addWidget(again)
    assert again.view.form.members.value() == 4
    assert again.view.report.text() == ready.view.report.text()
    assert again.view.chart.losses
    assert again.view.save.isEnabled()
    assert again.view.form.device_name == "cpu"
    assert again.view.calibrate_on.isHidden()
    again.view.form.coverage.setValue(0.8)
    again.view.recalibrate.click()
    qtbot.waitUntil(lambda: not again.busy)
    assert viewer.layers["soil noisy width"].metadata["napari_btn"]["alpha"] == pytest.approx(0.2)
    again.leave()


def test_a_dock_that_is_opened_again_has_picked_the_same_layers(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    rng = np.random.default_rng(0)
    more = [viewer.add_image(rng.random((3, 32, 32)), name=name) for name in ("a", "b", "c", "d")]
    ready.view.pair.noisy.pick(more[0])
    ready.view.pair.clean.pick(more[3])
    ready.view.pair.axes.letters.setText("CYX")
    ready.view.pair.axes.channels.setText("Si, Al, Fe")
    ready.leave()
    again = DenoiseWidget(viewer)
    qtbot.addWidget(again)
    assert [layer.name for layer in again.view.pair.noisy.layers] == ["a"]
    assert [layer.name for layer in again.view.pair.clean.layers] == ["d"]
    inputs = again.view.pair.inputs
    assert inputs is not None
    assert inputs.noisy.axes == "CYX"
    assert inputs.noisy.channel_names == ("Si", "Al", "Fe")
    again.view.pair.noisy.pick_many(more[:2], "channels")
    again.leave()
    viewer.layers.remove("d")
    third = DenoiseWidget(viewer)
    qtbot.addWidget(third)
    assert [layer.name for layer in third.view.pair.noisy.layers] == ["a", "b"]
    assert third.view.pair.noisy.stack_as.currentText() == "channels"
    assert "d" not in [layer.name for layer in third.view.pair.clean.layers]
    third.leave()


def test_renamed_and_removed_layers_are_followed(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    viewer.layers["soil noisy"].name = "fast scan"
    assert ready.view.pair.noisy.combo.currentText() == "fast scan"
    viewer.layers.remove("fast scan")
    assert ready.view.pair.noisy.combo.currentIndex() == -1
    assert "No noisy image" in ready.view.train.toolTip()


def test_a_dock_that_left_ignores_layers(ready: DenoiseWidget, viewer: ViewerModel) -> None:
    heard: list[int] = []
    ready.view.pair.noisy.changed.connect(lambda: heard.append(1))
    layer = viewer.layers["soil noisy"]
    layer.data = np.asarray(layer.data) + 1
    assert heard
    ready.leave()
    heard.clear()
    layer.data = np.asarray(layer.data) + 1
    assert not heard


def test_leaving_stops_the_training_without_a_callback(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    steps.updates = 10**6
    ready.view.train.click()
    qtbot.waitUntil(lambda: bool(ready.view.chart.losses))
    work = ready.lifetime.runs["work"]
    ready.leave()
    assert not work.running
    viewer.add_image(np.zeros((5, 5)))
    qtbot.wait(200)


def test_a_theme_changes_the_colours(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, train: Callable[[DenoiseWidget], None]
) -> None:
    train(ready)
    dark = ready.view.report.text()
    viewer.theme = "light"
    assert ready.view.report.text() != dark
    viewer.theme = "dark"
    assert ready.view.report.text() == dark


def test_other_promises_use_the_stored_scores(
    ready: DenoiseWidget, qtbot: QtBot, steps: Any, train: Callable[[DenoiseWidget], None]
) -> None:
    train(ready)
    assert ready.view.recalibrate.isHidden()
    assert ready.view.calibrate_on.isHidden()
    ready.view.form.unit.setCurrentText("with a stated probability")
    assert not ready.view.form.delta.isHidden()
    ready.view.form.delta.setValue(0.05)
    ready.view.form.score.setCurrentText("scaled by the width")
    ready.view.form.groups.setValue(4)
    assert ready.view.recalibrate.text() == "Recalibrate"
    ready.view.recalibrate.click()
    qtbot.waitUntil(lambda: not ready.busy)
    settings = ready.session.model.settings.calibration
    assert (settings.unit, settings.delta, settings.score, settings.groups) == ("risk", 0.05, "scaled", 4)
    # Tokens come from the image that the scores come from.
    assert steps.calibrated_on.noisy is ready.view.pair.inputs.noisy.data
    assert steps.calibrated_on.clean is None
    assert ready.view.recalibrate.isHidden()


def test_another_pair_calibrates_trained_networks(
    ready: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    steps: Any,
    tiny_model: Model,
    tmp_path: Path,
) -> None:
    save_model(tiny_model, tmp_path / "a.btn")
    ready.keeper.load_from(tmp_path / "a.btn")
    qtbot.waitUntil(lambda: not ready.busy)
    assert not ready.view.calibrate_on.isHidden()
    ready.view.calibrate_on.click()
    qtbot.waitUntil(lambda: not ready.busy)
    assert steps.calibrated_on.noisy is viewer.layers["soil noisy"].data
    assert steps.calibrated_on.clean is viewer.layers["soil clean"].data
    assert steps.calibrated_on.axes == "CYX"


def test_a_first_look_needs_no_clean_image_and_promises_no_interval(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    assert not dock.view.now.isEnabled()
    assert dock.view.now.toolTip() == "Pick a noisy image first."
    viewer.add_image(pair[0], name="soil noisy", **PLACED)
    assert not dock.view.train.isEnabled()
    assert dock.view.now.isEnabled()
    dock.view.now.click()
    qtbot.waitUntil(lambda: not dock.busy)
    layer = viewer.layers["soil noisy median"]
    assert layer.data.shape == pair[0].shape
    np.testing.assert_allclose(layer.scale, (1, 0.5, 0.5))
    assert layer.data.std() < pair[0].std()
    record = layer.metadata["napari_btn"]
    assert record["covers"] == "nothing"
    assert "no interval is promised" in record["caption"]
    assert "no interval is promised" in dock.view.message.notes[0][1]
    assert dock.session.model is None


def test_what_networks_start_from_is_asked_for_and_shown(ready: DenoiseWidget, qtbot: QtBot) -> None:
    from napari_btn.core.settings import EnsembleSettings, TrainSettings

    qtbot.waitUntil(lambda: ready.view.estimate.text().endswith("Members start from pretrained members."))
    form = ready.view.form
    assert form.settings().train.start == "pretrained"
    for start in ("scratch", "/tmp/own.btn", "pretrained"):
        form.show_settings(EnsembleSettings(train=TrainSettings(start=start)))
        assert form.settings().train.start == start


@pytest.fixture
def held(steps: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set to let the check of a pair end."""
    end = threading.Event()

    def plan_of(*args: Any) -> Any:
        assert end.wait(60)
        return steps.plan_of(*args)

    monkeypatch.setattr(engine, "plan_of", plan_of)
    yield end
    end.set()


def test_train_waits_for_the_check_of_the_pair(
    held: threading.Event, ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    view, turns = ready.view, []
    view.train.click()
    assert view.train.text() == "Checking…"
    assert not view.train.isEnabled()
    assert "Checking the images first" in view.progress.line.text()
    QTimer.singleShot(0, lambda: turns.append(1))
    qtbot.waitUntil(lambda: bool(turns) and "check" in ready.lifetime.runs)
    assert ready.busy
    assert steps.pair is None
    held.set()
    qtbot.waitUntil(lambda: "soil noisy median" in viewer.layers and not ready.busy)
    assert view.train.text() == "Train"


def test_a_wrong_pair_is_not_trained_on_until_train_is_clicked_again(
    held: threading.Event, ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    steps.notes = (Note("red", "The two seem to be swapped."),)
    ready.view.train.click()
    held.set()
    qtbot.waitUntil(lambda: not ready.busy)
    assert steps.pair is None
    [(level, text)] = ready.view.message.notes
    assert level == "red"
    assert "seem to be swapped" in text
    assert "click Train again" in text
    assert ready.view.progress.isHidden()
    assert ready.view.train.text() == "Train"
    ready.view.train.click()
    qtbot.waitUntil(lambda: "soil noisy median" in viewer.layers and not ready.busy)


def test_what_ends_the_wait_for_the_check(
    held: threading.Event, ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    ready.view.train.click()
    ready.view.stop.click()
    assert not ready.busy
    assert ready.view.train.isEnabled()
    assert not ready.view.stop.isEnabled()
    ready.view.train.click()
    viewer.layers.remove("soil clean")
    assert not ready.busy
    assert ready.view.message.notes[0][1].startswith("Not started. No clean image is picked.")
    held.set()
    qtbot.waitUntil(lambda: not ready.lifetime.runs)
    assert steps.pair is None


def test_the_report_names_its_image_and_goes_with_it(
    ready: DenoiseWidget, viewer: ViewerModel, train: Callable[[DenoiseWidget], None]
) -> None:
    train(ready)
    assert "of 'soil noisy'" in ready.view.report.text()
    viewer.layers.remove("soil noisy width")
    assert not ready.view.report.isHidden()
    viewer.layers.remove("soil noisy")
    assert ready.view.report.isHidden()
    assert ready.view.save.isEnabled()


def test_a_report_without_enough_blocks_has_dashes() -> None:
    assert [_known(91.23, ".1f", " %"), _known(np.nan, ".1f", " %")] == ["91.2 %", "&ndash;"]


@pytest.mark.parametrize("high", [0.931, np.nan])
def test_the_table_of_the_report_fits_the_width_of_a_dock(
    ready: DenoiseWidget, make_model: Callable[..., Model], high: float
) -> None:
    ready.session.model = make_model(coverage_high=np.full(3, high))
    text = ready.view.report.text()
    table = QTextDocument()
    table.setDefaultFont(ready.view.report.font())
    table.setHtml(text[text.index("<table") : text.index("</table>")] + "</table>")
    assert table.idealWidth() < 340
    assert ("interval is that of this field." in text) == np.isfinite(high)
