"""The panel that compares networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_btn.core.progress import Progress
from napari_btn.core.settings import PRESETS, EnsembleSettings
from napari_btn.widgets.shared import engine
from napari_btn.workflow.scan import Scan, ScanRow, grid_of

if TYPE_CHECKING:
    import pytest
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget


def a_scan() -> Scan:
    rows = [
        ScanRow(d, c, r, 3 * d, 1000 * d * c, 1.5, 0.3 - 0.001 * d * (c == 4), 0.9, 0.91, 0.5, "unet")
        for d in (5, 10)
        for c in (4, 8)
        for r in (4,)
    ]
    return Scan(tuple(rows))


def test_networks_are_compared_and_the_best_is_taken(
    ready: DenoiseWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def scan_steps(pair, grid, settings, compute):
        asked.append((pair.name, grid, settings))
        yield Progress(0, 2, "Kind 1 of 4")
        return a_scan()

    monkeypatch.setattr(engine, "scan_steps", scan_steps)
    ready.view.scan.lists["scan_depths"].setText("5,10")
    ready.view.scan.lists["scan_families"].setText("sms, unet")
    ready.view.scan.start.click()
    assert ready.busy
    assert not ready.view.scan.start.isEnabled()
    qtbot.waitUntil(lambda: not ready.busy)
    grid = grid_of(depths=(5, 10), channels=(4,), dilations=(4, 8), families=("sms", "unet"))
    settings = EnsembleSettings("quick", members=1, train=PRESETS["quick"])
    assert asked == [("soil noisy", grid, settings)]
    table = ready.view.scan.table
    assert table.rowCount() == 4
    texts = [table.item(r, 4).text() for r in range(4)]
    assert [text.endswith("best") for text in texts] == [False, False, True, False]
    assert table.currentRow() == 2
    assert len(ready.view.scan.chart.lines) == 2
    assert "unet, depth 10, channels 4, largest dilation 4" in ready.view.progress.line.text()
    ready.view.scan.take.click()
    network = ready.view.form.settings().network
    assert (network.depth, network.channels, network.max_dilation) == (10, 4, 4)
    assert network.family == "unet"
    table.selectRow(1)
    ready.view.scan.take.click()
    assert ready.view.form.settings().network.channels == 8


def test_an_invalid_list_is_reported_and_nothing_starts(ready: DenoiseWidget) -> None:
    ready.view.scan.lists["scan_dilations"].setText("4; 8")
    ready.view.scan.start.click()
    assert not ready.busy
    assert "must be whole numbers above 0" in ready.view.scan.note.text()
    ready.view.scan.lists["scan_families"].setText("sms, other")
    ready.view.scan.start.click()
    assert not ready.busy
    assert "others come with packages" in ready.view.scan.note.text()


def test_without_images_networks_can_not_be_compared(dock: DenoiseWidget) -> None:
    assert not dock.view.scan.start.isEnabled()
    assert dock.view.scan.start.toolTip() == dock.view.train.toolTip()
