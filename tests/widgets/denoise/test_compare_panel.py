"""The part that shows classical filters beside the trained networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_btn.core.evaluation import classical
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.side_by_side import _grid

if TYPE_CHECKING:
    import pytest
    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget


def test_filters_are_compared_and_shown_side_by_side(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classical, "_filter_names", lambda _: ("gaussian", "median"))
    panel = ready.view.compare
    assert panel.table.isHidden()
    panel.start.click()
    assert ready.busy
    assert not panel.start.isEnabled()
    qtbot.waitUntil(lambda: not ready.busy)
    heads = [panel.table.horizontalHeaderItem(k).text() for k in range(panel.table.columnCount())]
    assert heads[:3] == ["method", "channel", "PSNR"]
    rows = [[panel.table.item(r, k).text() for k in (0, 1)] for r in range(panel.table.rowCount())]
    assert rows == [[m, c] for c in ("Si", "Al", "Fe") for m in ("noisy", "gaussian", "median")]
    layer, noisy = viewer.layers["soil noisy gaussian"], viewer.layers["soil noisy"]
    assert layer.data.shape == noisy.data.shape
    np.testing.assert_array_equal(layer.scale, noisy.scale)
    assert layer.metadata[KEY]["method"] == "gaussian"
    assert len(layer.metadata[KEY]["rows"]) == 3
    assert "soil noisy median" not in viewer.layers
    median = viewer.layers["soil noisy median filter"]
    for channel in (0, 2, 1):
        viewer.dims.set_current_step(0, channel)
        shown = [other.data[channel] for other in (layer, median)]
        high = np.median([np.percentile(values, 99.8) for values in shown])
        assert layer.contrast_limits == median.contrast_limits
        assert 0.7 * high < layer.contrast_limits[1] < 1.4 * high
    assert _grid(viewer).enabled
    assert layer.visible
    assert "Compared 2 methods" in ready.view.progress.line.text()
    count = len(viewer.layers)
    panel.start.click()
    qtbot.waitUntil(lambda: not ready.busy)
    assert len(viewer.layers) == count


def test_without_clean_the_loss_is_shown(
    dock: DenoiseWidget, viewer: ViewerModel, pair: tuple[np.ndarray, np.ndarray], qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert not dock.view.compare.start.isEnabled()
    monkeypatch.setattr(classical, "_filter_names", lambda _: ("gaussian",))
    viewer.add_image(pair[0], name="soil noisy", axis_labels=("c", "y", "x"))
    dock.view.compare.start.click()
    qtbot.waitUntil(lambda: not dock.busy)
    table = dock.view.compare.table
    assert "loss" in [table.horizontalHeaderItem(k).text() for k in range(table.columnCount())]
    assert "soil noisy gaussian" in viewer.layers
