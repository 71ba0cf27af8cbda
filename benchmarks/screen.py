"""Bar 5: what a person feels: opening the dock, the first preview, training in the window, sliders.

Runs in a process of its own under a virtual screen where there is no other. Wall times; they mean
something on an idle machine only.
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


def _start_screen() -> subprocess.Popen[bytes] | None:
    """Virtual screen, where there is no other."""
    if os.environ.get("DISPLAY") or not sys.platform.startswith("linux"):
        return None
    read, write = os.pipe()
    call = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1366x768x24", "-nolisten", "tcp"]
    screen = subprocess.Popen(call, pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as number:
        os.environ["DISPLAY"] = f":{number.readline().strip()}"
    return screen


def _wait(done: Callable[[], bool], seconds: float) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"Not done after {seconds:g} s.")
        QApplication.processEvents()
        time.sleep(0.005)


def _open_dock() -> dict[str, Any]:
    """Seconds from the command to the dock on screen, in a viewer that is there already."""
    import napari
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer()
    _wait(lambda: viewer.window is not None, 20)
    for _ in range(20):
        QApplication.processEvents()
    began = time.perf_counter()
    viewer.window.add_plugin_dock_widget("napari-btn", "Denoise")
    QApplication.processEvents()
    seconds = time.perf_counter() - began
    torch_loaded = "torch" in sys.modules
    viewer.close()
    return {"seconds": seconds, "torch_loaded": torch_loaded}


def _denoiser(tiny: bool) -> Any:
    from napari_btn import Denoiser
    from napari_btn.core.config import TrainSettings

    return Denoiser("quick", members=2, train=TrainSettings(steps=4 if tiny else 100, batch_size=4))


def _through_worker(pair: Any, tiny: bool, preview_every: float) -> dict[str, float]:
    """Wall seconds of training in napari's thread while the event loop lives, and to the first preview."""
    from napari_btn.widgets.worker import run_step

    state: dict[str, Any] = {"first": float("nan"), "over": False, "error": None, "gap": 0.0}
    began = last = time.perf_counter()

    def tell(progress: Any, timing: Any) -> None:
        del timing
        if progress.preview is not None and np.isnan(state["first"]):
            state["first"] = time.perf_counter() - began

    run = run_step(
        lambda: _denoiser(tiny).fit_steps(
            pair.noisy, pair.clean, axes=pair.axes, preview_every=preview_every
        ),
        on_result=lambda _made: None,
        on_error=lambda error: state.update(error=error),
        on_progress=tell,
        on_finished=lambda: state.update(over=True),
    )

    def done() -> bool:
        nonlocal last
        now = time.perf_counter()
        state["gap"], last = max(state["gap"], now - last), now
        return bool(state["over"])

    _wait(done, 600)
    del run
    if state["error"] is not None:
        raise state["error"]
    return {"wall": time.perf_counter() - began, "first_preview": state["first"], "gap": state["gap"]}


def _training(tiny: bool) -> dict[str, Any]:
    from napari_btn import samples

    pair = samples.edx(seed=0, size=(128, 256) if tiny else (512, 512))
    # starts the workers, so that none of the timed runs does
    _denoiser(True).fit(pair.noisy, pair.clean, axes=pair.axes)
    headless, worker = [], []
    for _ in range(1 if tiny else 3):
        began = time.perf_counter()
        for _progress in _denoiser(tiny).fit_steps(pair.noisy, pair.clean, axes=pair.axes):
            pass
        headless.append(time.perf_counter() - began)
        worker.append(_through_worker(pair, tiny, 0.0))
    live = _through_worker(pair, tiny, 2.0)
    return {
        "headless": statistics.median(headless),
        "worker": statistics.median(w["wall"] for w in worker),
        "gap": max(live["gap"], *(w["gap"] for w in worker)),
        "with_previews": live["wall"],
        "first_preview": live["first_preview"],
    }


def _sliders(tiny: bool) -> dict[str, Any]:
    from napari_btn import samples

    pair = samples.edx(seed=0, size=(256, 256))
    denoiser = _denoiser(True).fit(pair.noisy, pair.clean, axes=pair.axes)
    prediction = denoiser.predict(pair.noisy, axes=pair.axes)
    repeats = 1 if tiny else 4
    planes = np.tile(prediction.quantiles[:, 0], (1, repeats, repeats))
    times = []
    for threshold in np.quantile(planes, np.linspace(0.1, 0.9, 9)):
        began = time.perf_counter()
        prediction.distribution.probability(planes, float(threshold))
        times.append(time.perf_counter() - began)
    megapixels = planes[0].size / 1e6
    tokens = denoiser.tokens(pair.noisy, n_tokens=20, axes=pair.axes, prediction=prediction)
    cuts = []
    for k in (5, 12, 30, 8):
        began = time.perf_counter()
        tokens.cut(k)
        cuts.append(time.perf_counter() - began)
    return {"threshold": 1e3 * statistics.median(times) / megapixels, "token_cut": max(cuts)}


def _child(tiny: bool) -> None:
    screen = _start_screen()
    try:
        found = {"dock": _open_dock(), "training": _training(tiny), "sliders": _sliders(tiny)}
    finally:
        if screen is not None:
            screen.terminate()
    print(json.dumps(found))


def run(tiny: bool) -> list[Result]:
    """Measure what a person feels, in a process of its own."""
    call = [sys.executable, "-m", "benchmarks.screen", "--child", *(["--tiny"] if tiny else [])]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    dock, training, sliders = found["dock"], found["training"], found["sliders"]
    result = Result("On screen, wall time")
    ratio = training["worker"] / training["headless"]
    for what, value, needed in (
        ("dock opens, s", dock["seconds"], 1.0),
        ("torch loaded by it (0 or 1)", float(dock["torch_loaded"]), 0.0),
        ("first preview at 512 x 512, s", training["first_preview"], 5.0),
        ("training through the worker / headless", ratio, 1.1),
        ("longest pause of the window while training, s", training["gap"], 0.2),
        ("threshold, ms a megapixel", sliders["threshold"], 50.0),
        ("token slider at 256 x 256, s", sliders["token_cut"], 0.2),
    ):
        result.add({"what": what, "measured": value, "at most": needed})
        result.bars.append(Bar(f"5: {what}", value, needed, above=False))
    share = training["with_previews"] / training["headless"]
    result.notes.append(f"With a preview every two seconds: {share:.3f} times headless.")
    return [result]


if __name__ == "__main__":
    if "--child" in sys.argv:
        _child("--tiny" in sys.argv)
    else:
        main("screen", run)
