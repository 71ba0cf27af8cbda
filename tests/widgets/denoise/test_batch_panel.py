"""Many files through the Denoise dock: the table, coverage, notes, stop, and files that are there already."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_btn import samples
from napari_btn.core.progress import drain
from napari_btn.io.tables import read_table
from napari_btn.widgets.shared import engine
from napari_btn.workflow.batch import batch_files, batch_steps
from napari_btn.workflow.predict import predict_steps

if TYPE_CHECKING:
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_btn.model import Model
    from napari_btn.widgets.denoise.dock import DenoiseWidget


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two noisy images, the clean one of each, and the second 40 times as bright."""
    inside = tmp_path / "images"
    inside.mkdir()
    for i, gain in enumerate((1, 40)):
        made = samples.edx(seed=i, size=(32, 48))
        np.save(inside / f"a{i}_noisy.npy", gain * made.noisy)
        np.save(inside / f"a{i}_clean.npy", made.clean)
    return inside


def added(dock: DenoiseWidget, qtbot: QtBot, *paths: Path) -> None:
    dock.batcher.add(paths)
    qtbot.waitUntil(lambda: "list files" not in dock.lifetime.runs)


def applied(dock: DenoiseWidget, qtbot: QtBot) -> None:
    assert dock.view.batch.start.isEnabled()
    dock.view.batch.start.click()
    qtbot.waitUntil(lambda: dock.work.run is None)


def cell(dock: DenoiseWidget, row: int, column: int) -> str:
    item = dock.view.batch.table.item(row, column)
    assert item is not None
    return item.text()


def test_a_folder_is_denoised_as_on_the_command_line(
    dock: DenoiseWidget, tiny_model: Model, qtbot: QtBot, folder: Path, tmp_path: Path
) -> None:
    panel = dock.view.batch
    added(dock, qtbot, folder)
    assert panel.output.text() == str(folder / "maps")
    assert "Train first" in panel.start.toolTip()
    assert [cell(dock, row, 3) for row in range(2)] == ["clean: a0_clean.npy", "clean: a1_clean.npy"]
    dock.session.model = tiny_model
    applied(dock, qtbot)
    wanted = drain(
        batch_steps(
            tiny_model,
            batch_files([folder], tmp_path / "again"),
            engine.compute_on("cpu", tiny_model.settings),
            table=tmp_path / "again" / "table.csv",
        )
    )
    ours, theirs = (read_table(at / "table.csv") for at in (folder / "maps", tmp_path / "again"))
    assert {k: list(v) for k, v in ours.items()} == {k: list(v) for k, v in theirs.items()}
    assert [cell(dock, row, 1) for row in range(2)] == ["a0_noisy.ome.tif", "a1_noisy.ome.tif"]
    assert wanted[0].coverage is not None
    assert cell(dock, 0, 3).startswith(f"Si {100 * wanted[0].coverage[0]:.1f} %, Al")
    assert cell(dock, 1, 4) == " ".join(wanted[1].notes)
    assert "brighter" in cell(dock, 1, 4) or "outside the range" in cell(dock, 1, 4)
    assert "hold less of the clean image" in cell(dock, 1, 4)
    said = panel.note.notes
    assert "2 of 2 files are denoised" in said[0][1]
    assert said[1][0] == "amber"
    qtbot.waitUntil(lambda: dock.view.progress.line.text().startswith("Done: 2 files"))
    assert dock.view.progress.bar.isHidden()


def test_files_that_are_there_are_replaced_on_purpose_only(
    dock: DenoiseWidget, tiny_model: Model, qtbot: QtBot, folder: Path
) -> None:
    dock.session.model = tiny_model
    np.save(folder / "two.npy", np.zeros((2, 32, 48), np.float32))
    added(dock, qtbot, folder / "a0_noisy.npy")
    added(dock, qtbot, folder / "two.npy", folder / "a0_noisy.npy")
    assert dock.view.batch.table.rowCount() == 2
    applied(dock, qtbot)
    assert cell(dock, 1, 1) == "no maps"
    assert "2 channels" in cell(dock, 1, 4)
    assert [level for level, _ in dock.view.batch.note.notes] == ["info", "red"]
    applied(dock, qtbot)
    assert "exists already" in dock.view.message.notes[0][1]
    dock.view.batch.replace.setChecked(True)
    applied(dock, qtbot)
    assert "1 of 2 files are denoised" in dock.view.batch.note.notes[0][1]
    dock.view.batch.clear.click()
    assert dock.view.batch.table.rowCount() == 0
    assert dock.view.batch.start.isHidden()


def test_a_stopped_batch_keeps_what_is_done(
    dock: DenoiseWidget, tiny_model: Model, qtbot: QtBot, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*given: object, **known: object) -> object:
        time.sleep(0.5)
        return (yield from predict_steps(*given, **known))  # type: ignore[arg-type]

    monkeypatch.setattr("napari_btn.workflow.batch.predict_steps", slow)
    dock.session.model = tiny_model
    added(dock, qtbot, *(folder / f"a{i}_{side}.npy" for i in range(2) for side in ("noisy", "clean")))
    panel, shown = dock.view.batch, dock.view.batch.show_rows

    def stop_after_the_first(rows: object, names: object) -> None:
        shown(rows, names)  # type: ignore[arg-type]
        dock.view.stop.click()

    panel.show_rows = stop_after_the_first  # type: ignore[method-assign, assignment]
    applied(dock, qtbot)
    done = len(read_table(folder / "maps" / "table.csv")["file"])
    assert 1 <= done < 4
    assert "was stopped" in dock.view.progress.line.text()
    assert f"{done} of 4" in panel.note.notes[0][1]


def test_files_that_were_added_come_into_sight(make_napari_viewer: Any, qtbot: QtBot, tmp_path: Path) -> None:
    from napari_btn.widgets.shared.tabs import open_dock

    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1000, 600)
    open_dock(viewer, "Denoise")
    (dock,) = viewer.window.dock_widgets.values()
    panel = dock.view.batch
    dock.view.batch_fold.expand(animate=False)
    # what was unfolded is scrolled to, which must be over
    qtbot.waitUntil(lambda: not panel.add_files.visibleRegion().isEmpty())
    qtbot.wait(500)
    paths = [tmp_path / f"{k}.npy" for k in range(3)]
    for path in paths:
        np.save(path, np.zeros((33, 47), np.float32))
    dock.batcher.add(paths)
    qtbot.waitUntil(lambda: panel.table.rowCount() == 3 and not panel.start.visibleRegion().isEmpty())
    table = panel.table
    table.item(0, 1).setText("a name that needs the bar below " * 10)
    qtbot.waitUntil(lambda: table.viewport().height() >= 3 * table.rowHeight(0))
    assert not table.verticalScrollBar().isVisible()


def test_a_folder_without_images_is_refused(dock: DenoiseWidget, qtbot: QtBot, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    added(dock, qtbot, tmp_path / "empty")
    assert "holds no image" in dock.view.batch.note.notes[0][1]
