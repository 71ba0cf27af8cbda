"""The whole walk in a real window, dock by dock: train, tokens, pick, paint, export, propose, measure again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_btn.widgets.shared.layers import pair_layers, read_layer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

KNOWN = 130


def dock_of(viewer: Any, name: str) -> Any:
    return viewer.window.add_plugin_dock_widget("napari-btn", name)[1]


@pytest.mark.slow
def test_the_whole_workflow_in_a_window(
    make_napari_viewer: Callable[..., Any],
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari_btn import samples
    from napari_btn.core.data.pairs import Pair

    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 1500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    field = samples.edx(seed=3, size=(64, 240))
    truth = np.asarray(field.clean)
    known = Pair(
        field.noisy[..., :KNOWN], truth[..., :KNOWN], "CYX", field.channel_names, (0.5, 0.5), "um", name="edx"
    )
    viewer = make_napari_viewer(show=True)
    for data, arguments, _ in pair_layers(known):
        viewer.add_image(data, **arguments)
    wide = viewer.add_image(field.noisy, name="wide", scale=(1, 0.5, 0.5), axis_labels=("c", "y", "x"))

    # train on what is known, apply to the whole field
    train = dock_of(viewer, "Denoise")
    train.view.form.preset.setCurrentText("quick")
    train.view.form.members.setValue(1)
    train.view.form.steps.setValue(30)
    train.view.form.depth.setValue(4)
    assert train.view.train.isEnabled(), train.view.train.toolTip()
    train.view.train.click()
    qtbot.waitUntil(lambda: not train.busy)
    session = train.session
    assert session.training is not None
    train.view.apply_to.pick(wide)
    train.view.apply.click()
    qtbot.waitUntil(lambda: not train.busy and "wide width" in viewer.layers)
    train.view.form.coverage.setValue(0.8)
    assert not train.view.recalibrate.isHidden()
    train.view.recalibrate.click()
    qtbot.waitUntil(lambda: not train.busy)

    # tokens: pick, name, paint, export
    tokens = dock_of(viewer, "Tokens")
    tokens.view.n_tokens.setValue(6)
    tokens.view.find.click()
    qtbot.waitUntil(lambda: tokens.editor.shown is not None and not tokens.busy)
    layer = tokens.editor.shown.layer
    tokens.view.table.selectRow(0)
    assert tokens.view.table.picked()
    layer.data[:8, :8] = tokens.view.table.picked()[0]
    layer.refresh()
    tokens.export_to(tmp_path / "tokens.ome.tif")
    qtbot.waitUntil(lambda: (tmp_path / "tokens.json").exists())

    # propose, measure again, go on
    again = dock_of(viewer, "Re-measure")
    again.view.score.setCurrentIndex(again.view.score.findData("width"))
    for box in (again.view.window_height, again.view.window_width):
        box.setValue(24)
    again.view.count.setValue(3)
    again.view.propose.click()
    qtbot.waitUntil(lambda: len(session.regions or ()) == 3)
    # both images and the wide one, three maps, tokens and regions
    assert len(viewer.layers) <= 8, [layer.name for layer in viewer.layers]
    again.export_to(tmp_path / "regions.geojson")
    assert (tmp_path / "regions.geojson").exists()
    again.view.loop.measured.pick(viewer.add_image(truth, name="measured again", scale=(1, 0.5, 0.5)))
    again.view.table.clearSelection()
    again.view.loop.put.click()
    before, old = session.model, np.array(viewer.layers["wide median"].data)
    assert again.view.loop.go.isEnabled(), again.view.loop.go.toolTip()
    again.view.loop.go.click()
    qtbot.waitUntil(lambda: bool(again.view.loop.gain.notes) or bool(again.view.message.notes))
    assert len(again.view.loop.gain.notes) == 4, again.view.message.notes
    assert session.model is not before
    new = np.array(viewer.layers["wide median"].data)
    assert np.square(new - truth).mean() < np.square(old - truth).mean()
    assert read_layer(viewer.layers["wide median"]).axes == "CYX"
