"""Whole walks in a real window: it stays fluid, its pixels show the result, it closes in mid-work."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytestqt.qtbot import QtBot


def open_dock(viewer: Any) -> Any:
    for data, arguments, _ in small_edx():
        viewer.add_image(data, **arguments)
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Denoise")
    return dock


def small_edx() -> list[Any]:
    from napari_btn import samples
    from napari_btn.widgets.shared.layers import pair_layers

    return pair_layers(samples.edx(seed=0, size=(96, 160)))


def test_a_walk_with_real_networks_from_a_dask_and_a_multiscale_layer(
    make_napari_viewer: Callable[..., Any], qtbot: QtBot
) -> None:
    da = pytest.importorskip("dask.array")
    viewer = make_napari_viewer(show=True)
    (noisy, how, _), (clean, also, _) = small_edx()
    viewer.add_image(da.from_array(noisy, chunks=(1, 64, 64)), **how)
    viewer.add_image([clean, clean[:, ::2, ::2]], multiscale=True, **also)
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Denoise")
    assert dock.view.train.isEnabled(), dock.view.train.toolTip()
    dock.view.form.preset.setCurrentText("quick")
    dock.view.form.members.setValue(1)
    dock.view.form.steps.setValue(8)
    dock.view.form.depth.setValue(4)
    dock.view.train.click()
    qtbot.waitUntil(lambda: not dock.busy)
    assert not dock.view.message.notes or dock.view.message.notes[0][0] != "red", dock.view.message.notes
    median = viewer.layers["edx noisy median"]
    assert median.data.shape == (3, 96, 160)
    assert np.isfinite(median.data).all()
    assert (np.asarray(dock.session.prediction.upper) >= median.data).all()
    assert viewer.layers["edx noisy width"].data.min() >= 0
    assert dock.session.model is not None
    assert "Fe" in dock.view.report.text()
    pixels = viewer.screenshot(canvas_only=True, flash=False)
    assert pixels[..., :3].std() > 1


def test_a_walk_with_a_volume(make_napari_viewer: Callable[..., Any], qtbot: QtBot) -> None:
    from napari_btn import samples
    from napari_btn.widgets.shared.layers import pair_layers

    viewer = make_napari_viewer()
    for data, arguments, _ in pair_layers(samples.xct(seed=0, size=(18, 28, 64))):
        viewer.add_image(data, **arguments)
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Denoise")
    assert dock.view.train.isEnabled(), dock.view.train.toolTip()
    dock.view.form.preset.setCurrentText("quick")
    dock.view.form.members.setValue(1)
    dock.view.form.steps.setValue(60)
    dock.view.form.depth.setValue(3)
    dock.view.train.click()
    qtbot.waitUntil(lambda: "xct noisy preview" in viewer.layers or not dock.busy)
    preview = viewer.layers["xct noisy preview"]
    assert preview.data.shape == (18, 28, 64)
    qtbot.waitUntil(lambda: not dock.busy)
    assert not dock.view.message.notes or dock.view.message.notes[0][0] != "red", dock.view.message.notes
    noisy, median = viewer.layers["xct noisy"], viewer.layers["xct noisy median"]
    assert median.data.shape == (18, 28, 64)
    np.testing.assert_array_equal(median.scale, noisy.scale)
    assert median.units == noisy.units
    assert (np.asarray(dock.session.prediction.upper) >= median.data).all()
    assert viewer.dims.ndim == 3
    assert viewer.dims.nsteps[0] == 18
    assert dock.session.model.learned.pixel_size == (2.0, 2.0, 2.0)


def test_opening_docks_loads_no_torch() -> None:
    code = (
        "import sys, napari_btn.widgets.shared.samples as layers\n"
        "from napari.components import ViewerModel\n"
        "from napari_btn.widgets.denoise.dock import DenoiseWidget\n"
        "from napari_btn.widgets.remeasure.dock import RemeasureWidget\n"
        "from napari_btn.widgets.tokens.dock import TokensWidget\n"
        "from napari_btn.widgets.uncertainty.dock import UncertaintyWidget\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "viewer = ViewerModel()\n"
        "[viewer.add_image(data, **arguments) for data, arguments, _ in layers.sample_edx()]\n"
        "others = [make(viewer) for make in (RemeasureWidget, TokensWidget, UncertaintyWidget)]\n"
        # the choices of the Re-measure dock are numbers alone; steps that train and predict come later
        "known = ('napari_btn.workflow.propose', 'napari_btn.workflow.search')\n"
        "late = [m for m in sys.modules if m.startswith('napari_btn.workflow.') and m not in known]\n"
        "assert not late, late\n"
        "dock = DenoiseWidget(viewer)\n"
        "assert dock.view.train.isEnabled(), dock.view.train.toolTip()\n"
        "assert dock.view.estimate.text()\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'sklearn' not in sys.modules\n"
        "[each.leave() for each in (dock, *others)]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_the_window_stays_responsive_while_training(
    make_napari_viewer: Callable[..., Any], qtbot: QtBot, steps: Any
) -> None:
    """Its timer ticks before each update; `benchmarks.screen` measures how long a tick may take."""
    viewer = make_napari_viewer(show=True)
    dock = open_dock(viewer)
    ticked, timer = threading.Event(), QTimer()
    timer.timeout.connect(ticked.set)
    timer.start(10)

    def wait_for_a_tick() -> None:
        ticked.clear()
        if not ticked.wait(60):
            raise TimeoutError("the window stood still")

    steps.before_update = wait_for_a_tick
    steps.updates, steps.preview_every = 100, 20
    before = dock.session.model
    dock.view.train.click()
    qtbot.waitUntil(lambda: not dock.busy)
    timer.stop()
    assert dock.session.model is not before, dock.view.message.notes
    assert steps.updated == 100
    assert "edx noisy median" in viewer.layers


@pytest.mark.parametrize("dock_first", [False, True])
def test_closing_the_viewer_in_mid_training_ends_it(
    make_napari_viewer: Callable[..., Any], qtbot: QtBot, steps: Any, dock_first: bool
) -> None:
    viewer = make_napari_viewer(show=True)
    dock = open_dock(viewer)
    steps.updates = 10**6
    dock.view.train.click()
    qtbot.waitUntil(lambda: bool(dock.view.chart.losses))
    work = dock.lifetime.runs["work"]
    if dock_first:
        viewer.window.remove_dock_widget(dock)
        assert work.running  # it goes on in the background
    viewer.close()
    assert not work.running
    qtbot.wait(200)


def test_a_dock_that_trained_and_was_closed_leaves_no_widget(
    make_napari_viewer: Callable[..., Any], qtbot: QtBot, steps: Any
) -> None:
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    def trained(dock: Any) -> None:
        dock.view.train.click()
        qtbot.waitUntil(lambda: not dock.busy)

    viewer, widgets = make_napari_viewer(), []
    for _ in range(3):
        trained(open_dock(viewer))
        viewer.window.remove_dock_widget("all")
        viewer.layers.clear()
        for _ in range(2):
            QApplication.processEvents()
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
            gc.collect()
        widgets.append(len(QApplication.allWidgets()))
    assert widgets[2] <= widgets[1], widgets
