"""Cycles in one napari window that must leave nothing behind: layers, docks, a training, its results, and all closed.

napari keeps a little itself, so the same layers and plain docks are shown and removed as well.
"""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np

from benchmarks.screen import _start_screen, _wait

DOCKS = ("Denoise", "Uncertainty", "Tokens", "Re-measure")
NAMES = ("memory in MB", "threads", "open files", "widgets", "docks in memory")


def window_cycles(times: int, *, docks: bool) -> list[tuple[float, ...]]:
    """Return memory, threads, open files, widgets and docks after each cycle.

    Parameters
    ----------
    times : int
        Cycles; the first ones load libraries and start workers.
    docks : bool
        False shows the same layers, and docks without any content: what napari itself keeps.
    """
    screen = _start_screen()
    try:
        import napari
        import psutil
        from qtpy.QtCore import QEvent
        from qtpy.QtWidgets import QApplication

        from napari_btn import samples
        from napari_btn.widgets.shared.dock import Dock

        pair = samples.edx(seed=1, size=(40, 150))
        viewer, me, seen = napari.Viewer(), psutil.Process(), []
        for _ in range(times):
            (_train_and_show if docks else _show)(viewer, pair)
            viewer.window.remove_dock_widget("all")
            viewer.layers.clear()
            for _ in range(3):
                QApplication.processEvents()
                QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
                gc.collect()
            seen.append(
                (me.memory_info().rss / 2**20, threading.active_count(), me.num_fds(),
                 len(QApplication.allWidgets()), sum(issubclass(type(one), Dock) for one in gc.get_objects()))
            )  # fmt: skip
        viewer.close()
        return seen
    finally:
        if screen is not None:
            screen.terminate()


def _show(viewer: Any, pair: Any) -> None:
    """Show the images, as many layers more as the result of a training, and plain docks."""
    from qtpy.QtWidgets import QApplication, QWidget

    from napari_btn.widgets.shared.layers import pair_layers

    for name in DOCKS:
        viewer.window.add_dock_widget(QWidget(), name=name)
    for data, arguments, _ in pair_layers(pair):
        for name in (arguments["name"], f"{arguments['name']} of a result"):
            viewer.add_image(np.array(data), **{**arguments, "name": name})
            QApplication.processEvents()


def _train_and_show(viewer: Any, pair: Any) -> None:
    """Open the docks, train a tiny ensemble and show its result."""
    from napari_btn.widgets.shared.layers import pair_layers

    for data, arguments, _ in pair_layers(pair):
        viewer.add_image(data, **arguments)
    dock, *_ = [viewer.window.add_plugin_dock_widget("napari-btn", name)[1] for name in DOCKS]
    form = dock.view.form
    form.preset.setCurrentText("quick")
    for box, value in ((form.members, 1), (form.steps, 4), (form.depth, 2)):
        box.setValue(value)
    before = len(viewer.layers)
    assert dock.view.train.isEnabled(), dock.view.train.toolTip()
    dock.view.train.click()
    _wait(lambda: not dock.busy, 300)
    if len(viewer.layers) == before:
        dock.view.apply.click()
        _wait(lambda: not dock.busy and len(viewer.layers) > before, 300)
