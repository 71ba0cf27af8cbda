"""Layers removed, docks, viewers and second viewers closed or opened at every stage of an analysis.

Networks are real and small; a gate holds each step at a stage until the test lets it go on.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from napari.layers import Layer
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QThreadPool

from napari_btn import samples
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.session import session_of
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.layers import KEY, pair_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_btn.model import Model

STAGES = {
    "fit_steps": {
        "planning": "Planning the training",
        "before the first member": "Starting the members",
        "in a member": "Training member 1 (step",
        "with a preview": "",
        "with a finished member": "Training member 2 (step",
        "calibrating": "Calibrating: measuring",
    },
    "calibrate_steps": {"recalibrating": "Calibrating: computing"},
    "predict_steps": {"applying": "Predicting tile"},
    "tokens_steps": {"finding tokens": "Assigning tokens"},
    "propose_steps": {"proposing": "Searching windows"},
}
"""Note of the progress of each step at its stages; empty where it shows a preview."""
TRAINING = tuple(STAGES["fit_steps"])
KEPT = {"with a finished member": 1, "calibrating": 2}
"""Members that have finished at a stage."""

WINDOW = """
import napari, psutil
from qtpy.QtCore import QTimer
from napari_btn import samples
from napari_btn.widgets.shared.layers import pair_layers

viewer = napari.Viewer()
for data, arguments, _ in pair_layers(samples.edx(seed=0, size=(48, 160))):
    viewer.add_image(data, **arguments)
dock = viewer.window.add_plugin_dock_widget("napari-btn", "Denoise")[1]
dock.view.form.members.setValue(2)
dock.view.form.steps.setValue(100_000)
dock.view.train.click()

def look():
    if dock.view.chart.losses:
        print(*[child.pid for child in psutil.Process().children(recursive=True)])
        viewer.close()

timer = QTimer()
timer.timeout.connect(look)
timer.start(50)
napari.run()
"""


class Gate:
    """Holds the thread of a step at one stage."""

    def __init__(self) -> None:
        self.stage = self.at = ""
        self.closed: Callable[[], bool] = lambda: False

    def reached(self, stage: str) -> bool:
        """Return True to hold here; the main thread sees where."""
        if stage != self.stage:
            return False
        self.at = stage
        time.sleep(0.005)
        return True

    def through(self, name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return a maker of steps that are held at their stages, and may be stopped there."""

        def steps(*args: Any, **options: Any) -> Generator[Any, None, Any]:
            step = make(*args, **options)
            try:
                while True:
                    progress = next(step)
                    yield progress
                    for stage, text in STAGES[name].items():
                        here = text in progress.note if text else progress.preview is not None
                        while here and self.reached(stage):
                            yield replace(progress, losses=(), preview=None)
            except StopIteration as end:
                return end.value
            finally:
                step.close()

        return steps

    def between(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return a maker of layers that is held after the first, and after the last."""

        def steps(*args: Any, **options: Any) -> Iterator[Any]:
            for shown in make(*args, **options):
                yield shown
                stage = f"showing the {'last' if 'median' in shown else 'first'} layer"
                while shown and not self.closed() and self.reached(stage):
                    yield shown

        return steps

    def before(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is held before it begins, until its dock is closed."""

        def held(*args: Any, **options: Any) -> Any:
            while self.reached(stage) and not self.closed():
                pass
            return call(*args, **options)

        return held


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate in all steps, whose members train one after the other in the thread of their step."""
    from napari_btn.io import labels
    from napari_btn.widgets.denoise import applier, trainer
    from napari_btn.widgets.remeasure import dock as remeasure

    made = Gate()
    for name in ("fit_steps", "calibrate_steps", "predict_steps", "tokens_steps"):
        monkeypatch.setattr(engine, name, made.through(name, getattr(engine, name)))
    monkeypatch.setattr(engine, "plan_of", made.before("checking", engine.plan_of))
    monkeypatch.setattr(engine, "prepare", lambda compute: None)
    monkeypatch.setattr(
        engine, "compute_on", lambda device, settings: Compute(settings.tiles, Inline(), "cpu", 1)
    )
    monkeypatch.setattr(remeasure, "propose_steps", made.through("propose_steps", remeasure.propose_steps))
    monkeypatch.setattr(remeasure, "_AT_ONCE", 0)
    monkeypatch.setattr(labels, "write_labels", made.before("saving", labels.write_labels))
    monkeypatch.setattr(applier, "show_prediction_steps", made.between(applier.show_prediction_steps))
    monkeypatch.setattr(trainer, "_PREVIEW_EVERY", 1e-6)
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    yield made
    made.stage = ""


ALL = (
    "checking",
    *TRAINING,
    "showing the first layer",
    "showing the last layer",
    "recalibrating",
    "applying",
    "finding tokens",
    "saving",
    "proposing",
)
DOCK_OF = {"finding tokens": "Tokens", "saving": "Tokens", "proposing": "Re-measure"}


class Walk:
    """An analysis in a window, which can be held at each stage."""

    def __init__(self, viewer: Any, gate: Gate, qtbot: QtBot, folder: Path, raised: list[Any]) -> None:
        self.viewer, self.gate, self.qtbot, self.file = viewer, gate, qtbot, folder / "tokens.ome.tif"
        self.raised = raised
        self.session = session_of(viewer)
        self.docks: dict[str, Any] = {}
        gate.closed = lambda: any(dock.lifetime.ended for dock in self.docks.values())

    def dock(self, name: str) -> Any:
        """Return a dock, opened if it is not open."""
        if name not in self.docks:
            self.docks[name] = self.viewer.window.add_plugin_dock_widget("napari-btn", name)[1]
        return self.docks[name]

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait; nothing may be raised in a slot or a callback meanwhile."""
        self.qtbot.waitUntil(lambda: bool(self.raised) or until())
        self.check()

    def check(self) -> None:
        """Check that nothing was raised in a slot, a callback or a thread, also soon after."""
        self.qtbot.wait(1)
        assert not self.raised, (self.gate.stage, "".join(traceback.format_exception(*self.raised[0])))

    def ask(self, stage: str) -> None:
        """Let the step that is held go on, and hold the next one at a stage."""
        self.gate.at, self.gate.stage = "", stage

    def rest(self) -> None:
        """Let all steps go on to their end."""
        self.ask("")
        self.wait(lambda: not any(d.lifetime.runs or getattr(d, "busy", False) for d in self.docks.values()))

    def reach(self, stage: str) -> None:
        """Hold a step at a stage; a training that runs goes on to it."""
        denoise = self.dock("Denoise").view
        if stage == "checking":
            self.ask(stage)
            self.add_pair()
            form = denoise.form
            form.preset.setCurrentText("quick")
            for box, value in ((form.members, 2), (form.steps, 3), (form.depth, 2), (form.channels, 1)):
                box.setValue(value)
        elif stage in TRAINING:
            self.ask(stage)
            if not self.dock("Denoise").busy:
                self.rest()
                self.ask(stage)
                press(denoise.train)
        elif stage in DOCK_OF:
            self.click_in(DOCK_OF[stage], stage)
        elif not self.dock("Denoise").busy or stage in ("recalibrating", "applying"):
            self.rest()
            self.ask(stage)
            denoise.form.coverage.setValue(80 if self.session.model.settings.alpha < 0.15 else 90)
            denoise.apply_to.pick(self.viewer.layers["edx noisy"])
            press(denoise.recalibrate if stage == "recalibrating" else denoise.apply)
        else:
            self.ask(stage)
        self.wait(lambda: self.gate.at == stage and (stage != "with a preview" or preview(self.viewer)))

    def prepare(self, stage: str, model: Model) -> None:
        """Do what a stage needs, with networks that are trained already where it isn't a training."""
        if stage == "checking":
            return
        if stage not in TRAINING:
            self.session.model = model
        self.reach("checking")
        self.rest()

    def click_in(self, name: str, stage: str) -> None:
        """Find tokens, write them, or propose windows."""
        self.rest()
        if self.session.prediction is None:
            denoise = self.docks["Denoise"].view
            denoise.apply_to.pick(self.viewer.layers["edx noisy"])
            press(denoise.apply)
            self.rest()
        view = self.dock(name).view
        if stage == "saving" and self.session.tokens is None:
            press(view.find)
            self.rest()
        self.ask(stage)
        if stage == "saving":
            self.dock(name).export_to(self.file, overwrite=True)
        elif stage == "proposing":
            view.score.setCurrentIndex(view.score.findData("width"))
            view.window_height.setValue(8)
            view.window_width.setValue(8)
            press(view.propose)
        else:
            press(view.find)

    def add_pair(self) -> None:
        """Add the pair of images."""
        for data, arguments, _ in pair_layers(samples.edx(seed=0, size=(48, 160))):
            self.viewer.add_image(data, **arguments)

    def train_to_the_end(self) -> None:
        """Train again, which must work whatever happened before."""
        form = self.dock("Denoise").view.form
        form.seed.setValue(form.seed.value() + 1)
        before = self.session.model
        self.rest()
        press(self.docks["Denoise"].view.train)
        self.rest()
        assert self.session.model is not before
        assert {"edx noisy median", "edx noisy width"} <= {layer.name for layer in self.viewer.layers}
        assert not preview(self.viewer)


def press(button: Any) -> None:
    """Click a button, which must be possible."""
    assert button.isEnabled(), (button.text(), button.toolTip())
    assert not button.isHidden(), button.text()
    button.click()


def preview(viewer: Any) -> bool:
    """Return True if a preview is shown."""
    return any(one.metadata.get(KEY, {}).get("map") == "preview" for one in viewer.layers)


@pytest.fixture
def walk(
    make_napari_viewer: Callable[..., Any],
    gate: Gate,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Walk]:
    """An analysis in a window; nothing may be raised in it, and nothing logged as an error."""
    # Mesa's software renderer ends the process where a layer follows a removed one, without our docks, too
    monkeypatch.setattr("vispy.scene.canvas.SceneCanvas.on_draw", lambda canvas, event: None)
    # napari collects garbage for each layer that goes, which takes long with all modules of the tests
    gc.freeze()
    with qtbot.capture_exceptions() as raised:
        walk = Walk(make_napari_viewer(show=True), gate, qtbot, tmp_path, raised)
        yield walk
        walk.ask("")
        walk.check()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["edx noisy", "edx clean", "results"])
def test_layers_are_removed_at_every_stage(walk: Walk, victim: str) -> None:
    layers = walk.viewer.layers
    removed: list[Any] = []
    for stage in ALL:
        for layer in removed:
            walk.viewer.add_layer(Layer.create(*layer))
        walk.reach(stage)
        gone = [one for one in layers if one.name == victim or (victim == "results" and KEY in one.metadata)]
        removed = [one.as_layer_data_tuple() for one in gone]
        for layer in gone:
            layers.remove(layer)
        walk.check()
        assert removed or (victim == "results" and stage in ALL[:4] + ALL[5:7]), stage
    walk.rest()
    walk.check()
    assert not preview(walk.viewer)
    for layer in removed:
        walk.viewer.add_layer(Layer.create(*layer))
    walk.train_to_the_end()


@pytest.mark.slow
def test_a_second_viewer_opens_and_closes_at_every_stage(
    walk: Walk, make_napari_viewer: Callable[..., Any]
) -> None:
    for stage in ALL:
        walk.reach(stage)
        other = make_napari_viewer(show=True)
        dock = other.window.add_plugin_dock_widget("napari-btn", "Denoise")[1]
        assert dock.session is not walk.session
        assert "No noisy image" in dock.view.train.toolTip()
        walk.check()
        other.close()
        walk.check()
        assert walk.gate.at == stage
        assert not stopped(walk), stage
    walk.rest()
    assert walk.file.exists()
    assert len(walk.session.regions or ()) > 0
    walk.train_to_the_end()


def stopped(walk: Walk) -> bool:
    """Return True if a step was stopped."""
    return any(run._stop.is_set() for dock in walk.docks.values() for run in dock.lifetime.runs.values())


@pytest.mark.slow
def test_a_dock_is_closed_and_opened_again_at_every_stage(walk: Walk) -> None:
    for stage in ALL:
        walk.reach(stage)
        name = DOCK_OF.get(stage, "Denoise")
        dock = walk.docks[name]
        said = len(notification_manager.records)
        walk.viewer.window.remove_dock_widget(dock)
        del walk.docks[name]
        walk.check()
        assert not dock.lifetime.runs
        assert not preview(walk.viewer), stage
        sentences = [one.message for one in notification_manager.records[said:]]
        goes_on = stage in TRAINING
        assert (walk.session.background is not None) == goes_on, stage
        assert any("Still training" in one for one in sentences) == goes_on, (stage, sentences)
        if stage.startswith("showing"):
            assert {"edx noisy median", "edx noisy width"} <= {layer.name for layer in walk.viewer.layers}
        elif stage not in ("checking", *TRAINING):
            assert any(f"{name} was closed" in one for one in sentences), (stage, sentences)
        assert bool(walk.dock(name).lifetime.runs.get("work")) == goes_on, stage
        walk.check()
    walk.train_to_the_end()


@pytest.mark.parametrize("stage", ALL)
def test_the_viewer_is_closed_at_every_stage(walk: Walk, tiny_model: Model, stage: str) -> None:
    walk.prepare(stage, tiny_model)
    walk.reach(stage)
    runs = [run for dock in walk.docks.values() for run in dock.lifetime.runs.values()]
    walk.viewer.close()
    walk.check()
    assert not [run for run in runs if run.running]
    walk.wait(lambda: QThreadPool.globalInstance().activeThreadCount() == 0)
    assert all(dock.lifetime.ended for dock in walk.docks.values())
    left = walk.session.unfinished
    assert len(left.members if left is not None else ()) == KEPT.get(stage, 0)
    assert walk.session.background is None


def test_the_viewer_is_closed_after_its_dock(walk: Walk) -> None:
    stage = "with a finished member"
    walk.reach("checking")
    walk.reach(stage)
    walk.viewer.window.remove_dock_widget(walk.docks["Denoise"])
    run = walk.session.background.run
    walk.viewer.close()
    walk.check()
    assert not run.running
    assert len(walk.session.unfinished.members) == KEPT[stage]


@pytest.mark.slow
def test_a_program_whose_window_is_closed_in_a_training_ends_with_its_workers() -> None:
    env = {**os.environ, "LOKY_MAX_CPU_COUNT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WINDOW], capture_output=True, text=True, check=False, timeout=500, env=env
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    workers = [psutil.Process(int(pid)) for pid in done.stdout.split() if psutil.pid_exists(int(pid))]
    assert done.stdout.split()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
