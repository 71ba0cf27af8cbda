"""Bar 5: responsiveness: opening the dock, the first preview, training in the window, sliders.

Every figure is measured in the real window and its docks. Each of the first three parts runs in its own
process, so that nothing is already loaded. A virtual screen is started if there is no other. Figures are
wall times, meaningful only on an idle machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.table import Bar, Result, main

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.settings import EnsembleSettings

FORM_S = 5.0  # seconds at the form before the click on Train
ROW_S = 2.0  # seconds in which a result is drawn


def _start_screen() -> subprocess.Popen[bytes] | None:
    """Start a virtual screen if there is no other."""
    if os.environ.get("DISPLAY") or not sys.platform.startswith("linux"):
        return None
    read, write = os.pipe()
    call = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1366x768x24", "-nolisten", "tcp"]
    screen = subprocess.Popen(call, pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as number:
        os.environ["DISPLAY"] = f":{number.readline().strip()}"
    return screen


def _wait(done: Callable[[], bool], seconds: float, *, every_ms: int = 10) -> None:
    """Run the event loop of Qt until a condition holds.

    A loop of our own that polls for events would take a tenth of a core from the workers.
    """
    from qtpy.QtCore import QEventLoop, QTimer

    end, loop, timer = time.monotonic() + seconds, QEventLoop(), QTimer()
    timer.setInterval(every_ms)
    timer.timeout.connect(lambda: loop.quit() if done() or time.monotonic() > end else None)
    timer.start()
    loop.exec()
    timer.stop()
    if not done():
        raise TimeoutError(f"Not done after {seconds:g} s.")


class Pauses:
    """The longest turn of the event loop, in wall time and in CPU time of its thread."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self._timer = QTimer()
        self._timer.timeout.connect(self._turn)
        self._timer.start(5)
        self.reset()

    def reset(self) -> None:
        """Forget all turns."""
        self.wall = self.cpu = 0.0
        self._last = time.perf_counter(), time.thread_time()

    def _turn(self) -> None:
        """Measure the turn that has ended."""
        now = time.perf_counter(), time.thread_time()
        self.wall, self.cpu = max(self.wall, now[0] - self._last[0]), max(self.cpu, now[1] - self._last[1])
        self._last = now


def _side(tiny: bool) -> int:
    return 160 if tiny else 512


def _viewer_with_pair(side: int) -> Any:
    """Return a viewer that has drawn a pair of square element maps."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_btn import samples
    from napari_btn.widgets.shared.layers import pair_layers

    viewer = napari.Viewer()
    for data, arguments, _ in pair_layers(samples.edx(seed=0, size=(side, side))):
        viewer.add_image(data, **arguments)
    for _ in range(20):
        QApplication.processEvents()
    return viewer


def _open(viewer: Any, name: str) -> Any:
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", name)
    return dock


def _rest(seconds: float) -> None:
    """Run the event loop for some seconds."""
    end = time.monotonic() + seconds
    _wait(lambda: time.monotonic() > end, seconds + 1)


def _set(dock: Any, members: int, steps: int) -> None:
    """Fill in the form."""
    dock.view.form.preset.setCurrentText("quick")
    dock.view.form.members.setValue(members)
    dock.view.form.steps.setValue(steps)


def making(tiny: bool) -> dict[str, Any]:
    """Measure the seconds from the choice of the slowest sample to its data."""
    from napari_btn import samples

    del tiny  # samples have one size
    took = []
    for make in (samples.blobs, samples.edx, samples.xct):
        began = time.perf_counter()
        make()
        took.append(time.perf_counter() - began)
    return {"seconds": max(took)}


def opening(tiny: bool) -> dict[str, Any]:
    """Measure the seconds from the command to the dock on screen, beside a loaded pair."""
    from qtpy.QtWidgets import QApplication

    viewer = _viewer_with_pair(_side(tiny))
    loaded_before = "torch" in sys.modules
    began = time.perf_counter()
    dock = _open(viewer, "Denoise")
    QApplication.processEvents()
    seconds = time.perf_counter() - began
    assert dock.view.train.isEnabled(), dock.view.train.toolTip()
    return {"seconds": seconds, "torch_loaded": "torch" in sys.modules and not loaded_before}


def preview(tiny: bool, wait: float) -> dict[str, Any]:
    """Measure the seconds from a click on Train, ``wait`` seconds after the dock opened, to the first preview."""
    viewer = _viewer_with_pair(_side(tiny))
    dock = _open(viewer, "Denoise")
    _set(dock, members=2, steps=0)
    _rest(wait)
    began = time.perf_counter()
    dock.view.train.click()
    _wait(lambda: any(layer.name.endswith("preview") for layer in viewer.layers) or not dock.busy, 300)
    seconds = time.perf_counter() - began
    assert dock.busy, dock.view.message.notes
    dock.leave()
    return {"seconds": seconds}


def training(tiny: bool) -> dict[str, Any]:
    """Measure the wall seconds of training by the dock, with previews and curves, and without a window."""
    viewer = _viewer_with_pair(_side(tiny))
    dock = _open(viewer, "Denoise")
    headless, window, walls, cpus, pauses = [], [], [], [], Pauses()
    # not counted, because the first round starts workers and loads libraries
    for counted, steps in [(False, 4), *[(True, 4 if tiny else 100)] * (1 if tiny else 3)]:
        _set(dock, members=2, steps=steps)
        pair, settings = dock.view.pair.inputs.pair, dock.view.form.settings()
        began = time.perf_counter()
        _headless(pair, settings, dock.session.device)
        alone = time.perf_counter() - began
        # the check of the pair comes before the training, in the seconds at the form
        _wait(lambda: dock.view.pair.check.knows(dock.view.pair.inputs), 300)
        before = dock.session.model
        pauses.reset()
        began = time.perf_counter()
        dock.view.train.click()
        _wait(lambda before=before: dock.session.model is not before or not dock.busy, 900)
        seen = time.perf_counter() - began
        assert dock.session.model is not before, dock.view.message.notes
        _wait(lambda: not dock.busy, 300)
        _rest(ROW_S)  # until the result stands in its row
        if counted:
            headless.append(alone)
            window.append(seen)
            walls.append(pauses.wall)
            cpus.append(pauses.cpu)
    found = {"headless": statistics.median(headless), "window": statistics.median(window)}
    return {**found, "pause": max(walls), "pause_cpu": max(cpus)}


def _headless(pair: Pair, settings: EnsembleSettings, device: str) -> None:
    from napari_btn.core.progress import drain
    from napari_btn.widgets.shared import engine

    drain(engine.fit_steps(pair, settings, engine.compute_on(device, settings)))


def sliders(tiny: bool) -> dict[str, Any]:
    """Measure milliseconds per megapixel from a threshold to its map, and seconds from a number of tokens to labels."""
    small, large, token_side = (160, 200, 160) if tiny else (1024, 2048, 256)
    found = {"threshold": _threshold(small), "threshold_large": _threshold(large)}
    dock = _with_result(token_side, "Tokens")
    dock.view.find.click()
    _wait(lambda: not dock.busy, 300)
    cuts = []
    for k in (5, 12, 30, 8):
        began = time.perf_counter()
        dock.view.n_tokens.setValue(k)
        _draw()
        cuts.append(time.perf_counter() - began)
        assert len(np.unique(dock.editor.shown.layer.data)) <= k
    dock.leave()
    return {**found, "token_cut": max(cuts)}


def _threshold(side: int) -> float:
    """Measure the milliseconds per megapixel from a threshold to its map on screen."""
    dock = _with_result(side, "Uncertainty")
    live, plane, times = dock.focus.live, dock.session.prediction.median[0], []
    for value in np.quantile(plane, np.linspace(0.2, 0.9, 9)):
        began = time.perf_counter()
        dock.view.threshold.box.setValue(float(value))
        key, asked = live.key(dock.focus.at()), dock.view.threshold.box.value()
        _wait(lambda key=key, asked=asked: not live.stale("exceedance", key, (asked,)), 20, every_ms=1)
        times.append(time.perf_counter() - began)
    dock.leave()
    return 1e3 * statistics.median(times[1:]) / (plane.size / 1e6)


def _draw() -> None:
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()


def _with_result(side: int, name: str) -> Any:
    """Return a dock on a viewer with an image denoised by barely trained networks."""
    from napari_btn import Denoiser
    from napari_btn.core.data.image import Image
    from napari_btn.core.settings import TrainSettings
    from napari_btn.session import session_of
    from napari_btn.widgets.shared.layers import read_layer
    from napari_btn.widgets.shared.results import show_prediction

    viewer = _viewer_with_pair(side)
    source = read_layer(viewer.layers[0])
    clean = viewer.layers[1]
    names = source.channel_names
    denoiser = Denoiser("quick", members=2, train=TrainSettings(steps=4))
    denoiser.fit(source.data, clean.data, axes=source.axes, channel_names=names)
    prediction = denoiser.predict(source.data, axes=source.axes)
    show_prediction(viewer, prediction, source, clean=clean)
    session = session_of(viewer)
    session.model = denoiser.model
    session.source = Image(source.data, source.axes, names, source.pixel_size, source.unit, source.name)
    session.prediction = prediction
    dock = _open(viewer, name)
    _draw()
    return dock


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "making": making,
    "opening": opening,
    "preview": lambda tiny: preview(tiny, FORM_S),
    "preview_at_once": lambda tiny: preview(tiny, 0.0),
    "training": training,
    "sliders": sliders,
}


def _child(part: str, tiny: bool) -> None:
    screen = _start_screen()
    try:
        print(json.dumps(PARTS[part](tiny)), flush=True)
    finally:
        # not measured; threads that still check images must not outlive their window
        if "napari" in sys.modules:
            from napari import Viewer

            Viewer.close_all()
        if screen is not None:
            screen.terminate()
            screen.wait()


def run(tiny: bool) -> list[Result]:
    """Measure responsiveness, every part in its own process."""
    found = {}
    for part in PARTS:
        call = [sys.executable, "-m", "benchmarks.screen", "--child", part, *(["--tiny"] if tiny else [])]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if not lines:
            raise RuntimeError(f"{part}: {done.stderr[-3000:]}")
        found[part] = json.loads(lines[-1])
    trained, moved = found["training"], found["sliders"]
    result = Result("On screen, wall time")
    for what, value, needed in (
        ("slowest sample is made, s", found["making"]["seconds"], 3.0),
        ("dock opens, s", found["opening"]["seconds"], 1.0),
        ("torch loaded by it (0 or 1)", float(found["opening"]["torch_loaded"]), 0.0),
        (f"first preview at 512 x 512, {FORM_S:g} s at the form, s", found["preview"]["seconds"], 5.0),
        ("first preview at 512 x 512, clicked at once, s", found["preview_at_once"]["seconds"], 5.0),
        ("training by the dock with previews / headless", trained["window"] / trained["headless"], 1.1),
        ("longest pause of the window, from Train to the row of results, s", trained["pause"], 0.2),
        ("longest turn of its event loop, CPU-s", trained["pause_cpu"], 0.2),
        ("threshold to map on screen, 1024 x 1024, ms a megapixel", moved["threshold"], 50.0),
        ("threshold to map on screen, 2048 x 2048, ms a megapixel", moved["threshold_large"], 50.0),
        ("token slider to labels on screen at 256 x 256, s", moved["token_cut"], 0.2),
    ):
        result.add({"what": what, "measured": value, "at most": needed})
        result.bars.append(Bar(f"5: {what}", value, needed, above=False))
    return [result]


if __name__ == "__main__":
    if "--child" in sys.argv:
        _child(sys.argv[sys.argv.index("--child") + 1], "--tiny" in sys.argv)
    else:
        main("screen", run)
