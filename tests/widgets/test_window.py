"""Whole walks in a real window: it stays fluid, its pixels show the result, it closes in mid-work."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytestqt.qtbot import QtBot


class Stalls:
    """Longest time between two ticks of a timer: what the user feels as a frozen window.

    Time in which this process did not run counts for nothing: other work on the same cores
    withheld it, not the dock.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._timer = QTimer()
        self._timer.setInterval(10)
        self._timer.timeout.connect(self._tick)

    def _tick(self) -> None:
        now, used = time.perf_counter(), time.process_time()
        self.longest = max(self.longest, min(now - self._last, used - self._used))
        self._last, self._used = now, used

    def __enter__(self) -> Stalls:
        self._last, self._used = time.perf_counter(), time.process_time()
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._tick()
        self._timer.stop()


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
    qtbot.waitUntil(lambda: not dock.busy, timeout=120_000)
    assert not dock.view.message.notes or dock.view.message.notes[0][0] != "red", dock.view.message.notes
    median = viewer.layers["edx noisy median"]
    assert median.data.shape == (3, 96, 160)
    assert np.isfinite(median.data).all()
    assert (viewer.layers["edx noisy upper"].data >= median.data).all()
    assert viewer.layers["edx noisy width"].data.min() >= 0
    assert dock.session.denoiser.report is not None
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
    qtbot.waitUntil(lambda: "xct noisy preview" in viewer.layers or not dock.busy, timeout=60_000)
    preview = viewer.layers["xct noisy preview"]
    assert preview.data.shape == (18, 28, 64)
    qtbot.waitUntil(lambda: not dock.busy, timeout=120_000)
    assert not dock.view.message.notes or dock.view.message.notes[0][0] != "red", dock.view.message.notes
    noisy, median = viewer.layers["xct noisy"], viewer.layers["xct noisy median"]
    assert median.data.shape == (18, 28, 64)
    np.testing.assert_array_equal(median.scale, noisy.scale)
    assert median.units == noisy.units
    assert (viewer.layers["xct noisy upper"].data >= median.data).all()
    assert viewer.dims.ndim == 3
    assert viewer.dims.nsteps[0] == 18
    assert dock.session.denoiser.pixel_size == (2.0, 2.0, 2.0)


def test_opening_the_dock_loads_no_torch() -> None:
    code = (
        "import sys, napari_btn.widgets.denoise.dock, napari_btn.widgets.shared.layers as layers\n"
        "from napari.components import ViewerModel\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "viewer = ViewerModel()\n"
        "[viewer.add_image(data, **arguments) for data, arguments, _ in layers.sample_edx()]\n"
        "dock = napari_btn.widgets.denoise.dock.DenoiseWidget(viewer)\n"
        "assert dock.view.train.isEnabled(), dock.view.train.toolTip()\n"
        "assert dock.view.estimate.text()\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'sklearn' not in sys.modules\n"
        "dock.leave()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_window_stays_responsive_while_training(
    make_napari_viewer: Callable[..., Any], qtbot: QtBot, denoiser_class: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    dock = open_dock(viewer)
    denoiser_class.updates = 300
    denoiser_class.preview_every = 60
    qtbot.wait(300)
    longest = []
    # On cores that are busy with other work, even a paint may take long: the best of three counts.
    for seed in range(3):
        dock.view.form.seed.setValue(seed)
        before = dock.session.denoiser
        with Stalls() as stalls:
            dock.view.train.click()
            qtbot.waitUntil(lambda before=before: dock.session.denoiser is not before, timeout=60_000)
        longest.append(stalls.longest)
        qtbot.waitUntil(lambda: not dock.busy, timeout=60_000)
        assert "edx noisy median" in viewer.layers
        if longest[-1] < 0.5:
            break
    # What is held is that it never waits for training; 0.2 s is measured by benchmarks.screen, on an idle machine.
    assert min(longest) < 0.5


@pytest.mark.parametrize("what", ["dock", "viewer"])
def test_closing_in_mid_training_ends_it_within_two_seconds(
    make_napari_viewer: Callable[..., Any], qtbot: QtBot, denoiser_class: Any, what: str
) -> None:
    viewer = make_napari_viewer(show=True)
    dock = open_dock(viewer)
    denoiser_class.updates = 100_000
    dock.view.train.click()
    qtbot.waitUntil(lambda: bool(dock.view.chart.losses))
    work = dock.lifetime.runs["work"]
    start = time.monotonic()
    if what == "dock":
        viewer.window.remove_dock_widget(dock)
    else:
        viewer.close()
    qtbot.waitUntil(lambda: not work.running, timeout=2000)
    assert time.monotonic() - start < 2
    qtbot.wait(200)
