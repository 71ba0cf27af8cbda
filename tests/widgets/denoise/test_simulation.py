"""Clean images and a noise model in the Denoise dock, from the first click to the repeated recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import napari_btn as btn
from napari_btn.core.progress import drain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget

FIELDS = np.kron(np.random.default_rng(0).gamma(3.0, 3.0, (2, 8, 20)), np.ones((1, 8, 8))).astype(np.float32)
CLEAN, REAL = FIELDS[0], np.random.default_rng(1).poisson(FIELDS[1][:, :104]).astype(np.float32)
LABELS = ("y", "x")


def picked(dock: DenoiseWidget) -> str:
    return str(dock.view.form.supervision.currentData())


def offered(dock: DenoiseWidget) -> list[str]:
    picker = dock.view.form.supervision
    return [picker.itemData(i) for i in range(picker.count())]


@pytest.fixture
def real(dock: DenoiseWidget, monkeypatch: pytest.MonkeyPatch) -> DenoiseWidget:
    """A dock whose steps compute, with the smallest networks."""
    from napari_btn.core.compute.pool import Compute, Inline
    from napari_btn.widgets.shared import engine
    from napari_btn.workflow.calibrate import calibrate_steps
    from napari_btn.workflow.fit import fit_steps, plan_of
    from napari_btn.workflow.predict import predict_steps

    for step in (calibrate_steps, fit_steps, plan_of, predict_steps):
        monkeypatch.setattr(engine, step.__name__, step)
    monkeypatch.setattr("napari_btn.widgets.denoise.trainer._PREVIEW_EVERY", 1e-9)
    monkeypatch.setattr(engine, "compute_on", lambda device, settings: Compute(executor=Inline()))
    form = dock.view.form
    form.preset.setCurrentText("quick")
    form.start.setCurrentText("random weights")
    for box, value in (
        (form.members, 1),
        (form.steps, 4),
        (form.depth, 2),
        (form.channels, 2),
        (form.patch, 16),
    ):
        box.setValue(value)
    return dock


@pytest.fixture
def open_model(dock: DenoiseWidget, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Click *Open file…* beside the noise model, and choose a file."""

    def choose(path: Path) -> None:
        monkeypatch.setattr(
            "napari_btn.widgets.denoise.noise_source.QFileDialog.getOpenFileName",
            lambda *args: (str(path), ""),
        )
        dock.view.pair.noise_model.open.click()

    return choose


def test_clean_images_and_a_file_train_apply_save_and_repeat(
    real: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    tmp_path: Path,
    open_model: Callable[[Path], None],
) -> None:
    from napari_btn.core.compute.pool import Compute, Inline
    from napari_btn.workflow.recipe import Recipe
    from napari_btn.workflow.repeat import run_recipe_steps

    dock, view = real, real.view
    btn.NoiseModel(gain=1.0).save(tmp_path / "camera.json")
    viewer.add_image(CLEAN, name="clean", axis_labels=LABELS)
    qtbot.waitUntil(lambda: picked(dock) == "simulation")
    assert offered(dock) == ["simulation"]
    assert not view.pair.noise_model.isHidden()
    assert not view.train.isEnabled()
    assert "give a noise model" in view.train.toolTip()
    open_model(tmp_path / "camera.json")
    qtbot.waitUntil(view.train.isEnabled)
    assert view.pair.noise_model.combo.currentText() == "camera.json"
    view.train.click()
    qtbot.waitUntil(lambda: not dock.busy)
    model = dock.session.model
    assert model is not None, view.message.notes
    assert model.calibrated.report.covers == "simulation"
    assert "unknown for real ones" in view.report.text()
    assert "click Apply" in view.progress.line.text()
    assert view.calibrate_on.isHidden()

    # other clean images calibrate with the same noise; a real pair does not
    viewer.layers["clean"].data = FIELDS[1]
    qtbot.waitUntil(lambda: not view.calibrate_on.isHidden() and view.train.isEnabled())
    view.calibrate_on.click()
    qtbot.waitUntil(lambda: not dock.busy)
    assert dock.session.model is not model, view.message.notes
    model = dock.session.model
    view.form.groups.setValue(2)
    view.recalibrate.click()
    assert any("Set 'Calibrate tokens', and train again" in text for _, text in view.message.notes)
    view.form.groups.setValue(0)
    viewer.layers["clean"].data = CLEAN

    noisy = viewer.add_image(REAL, name="real", axis_labels=LABELS)
    view.apply_to.pick(noisy)
    view.apply.click()
    qtbot.waitUntil(lambda: not dock.busy and "real median" in viewer.layers)
    assert dock.session.prediction is not None
    assert dock.session.prediction.covers == "simulation"
    dock.keeper.save_to(tmp_path / "sim.btn")
    dock.keeper.load_from(tmp_path / "sim.btn")
    qtbot.waitUntil(lambda: not dock.busy and dock.session.model is not model)
    assert dock.session.model is not None

    def opened(name: str, known: Any) -> np.ndarray:
        return FIELDS[1] if name == "clean2" else CLEAN

    recipe = Recipe.of(dock.session.model.learned.provenance)
    again = drain(run_recipe_steps(recipe, opened, Compute(executor=Inline())))
    assert (again.compared > 0, again.differences) == (True, ())


def test_noise_measured_on_a_layer_is_drawn_on_clean_images_of_another_field(
    real: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    dock, view = real, real.view
    viewer.add_image(REAL, name="noisy", axis_labels=LABELS)
    qtbot.waitUntil(lambda: picked(dock) in ("thinning", "noise2void"))
    assert view.noise.use.isHidden()
    view.noise.inspect.click()
    qtbot.waitUntil(lambda: not dock.busy and not view.noise.use.isHidden())
    view.noise.use.click()
    assert any("pick clean images" in text for _, text in view.message.notes)
    viewer.add_image(CLEAN, name="clean", axis_labels=LABELS)
    qtbot.waitUntil(lambda: picked(dock) == "simulation" and view.train.isEnabled())
    assert view.pair.noise_model.combo.currentText() == "measured on noisy"
    added: list[str] = []
    viewer.layers.events.inserted.connect(lambda event: added.append(event.value.name))
    view.train.click()
    qtbot.waitUntil(lambda: not dock.busy)
    assert "clean preview" in added
    assert "clean preview" not in viewer.layers
    assert "noisy median" in viewer.layers, view.message.notes
    assert viewer.layers["noisy median"].data.shape == REAL.shape
    assert dock.session.report_of == "clean"
    inputs = view.pair.inputs
    assert inputs is not None
    assert inputs.pair.noisy is None
    assert inputs.pair.noise_model is view.noise.findings.model  # type: ignore[union-attr]
    # a clean image of the same field is a better target, and may be picked instead
    viewer.layers["clean"].data = FIELDS[1][:, :104]
    qtbot.waitUntil(lambda: offered(dock) == ["pair", "noise2noise", "simulation"])
    view.form.supervision.setCurrentIndex(0)
    qtbot.waitUntil(lambda: view.pair.inputs is not None and view.pair.inputs.noisy is not None)
    view.pair.noise_model.combo.setCurrentText("none")
    qtbot.waitUntil(lambda: offered(dock) == ["pair", "noise2noise"])
    assert view.pair.noise_model.isHidden()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("channels", "The noise model has 2 channels, clean has 1 (axes YX)"),
        ("volume", "The noise model has correlated noise of 3D images, clean is 2D"),
        ("cut", "camera.json is not a whole noise model"),
        ("other", "camera.npz holds a, b; a mixture has trained_weight"),
    ],
)
def test_a_noise_model_that_does_not_fit_is_refused_in_one_sentence(
    real: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    tmp_path: Path,
    open_model: Callable[[Path], None],
    made: str,
    says: str,
) -> None:
    view, path = real.view, tmp_path / "camera.json"
    if made == "other":
        path = tmp_path / "camera.npz"
        np.savez(path, a=np.ones(3), b=np.ones(3))
    else:
        steep = np.broadcast_to([1.0, 0.6, 0.3, 0.0], (1, 3, 4)) if made == "volume" else None
        btn.NoiseModel([1.0, 2.0] if made == "channels" else 1.0, correlation=steep).save(path)
    if made == "cut":
        path.write_text(path.read_text()[:40])
    viewer.add_image(CLEAN, name="clean", axis_labels=LABELS)
    qtbot.waitUntil(lambda: picked(real) == "simulation")
    open_model(path)

    def shown() -> list[str]:
        return [text for _, text in (*view.pair.check.note.notes, *view.pair.noise_model.note.notes)]

    qtbot.waitUntil(lambda: any(says in text for text in shown()))
    assert not view.train.isEnabled()


def test_a_dock_that_is_opened_again_has_the_noise_model(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    viewer.add_image(CLEAN, name="clean", axis_labels=LABELS)
    dock.view.pair.noise_model.offer("camera.json", btn.NoiseModel(gain=1.0))
    qtbot.waitUntil(lambda: dock.view.pair.inputs is not None)
    assert dock.view.pair.inputs is not None
    key = dock.view.pair.inputs.key()
    dock.leave()
    again = DenoiseWidget(viewer)
    qtbot.addWidget(again)
    qtbot.waitUntil(lambda: again.view.pair.inputs is not None)
    assert again.view.pair.inputs is not None
    assert again.view.pair.inputs.key() == key
    again.leave()
