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
def test_the_whole_walk_in_a_window(
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
    train.form.preset.setCurrentText("quick")
    train.form.members.setValue(1)
    train.form.steps.setValue(30)
    train.form.depth.setValue(4)
    assert train.train.isEnabled(), train.train.toolTip()
    train.train.click()
    qtbot.waitUntil(lambda: not train.busy, timeout=240_000)
    session = train.session
    assert session.training is not None
    train.apply_to.pick(wide)
    train.apply.click()
    qtbot.waitUntil(lambda: not train.busy and "wide median" in viewer.layers, timeout=120_000)

    # tokens: pick, name, paint, export
    tokens = dock_of(viewer, "Tokens")
    tokens.n_tokens.setValue(6)
    tokens.find.click()
    qtbot.waitUntil(lambda: tokens.shown is not None and not tokens.busy, timeout=240_000)
    layer = tokens.shown.layer
    tokens.table.selectRow(0)
    assert tokens.table.picked()
    layer.data[:8, :8] = tokens.table.picked()[0]
    layer.refresh()
    tokens.export_to(tmp_path / "tokens.ome.tif")
    qtbot.waitUntil(lambda: (tmp_path / "tokens.json").exists(), timeout=60_000)

    # propose, measure again, go on
    again = dock_of(viewer, "Re-measure")
    again.score.setCurrentIndex(again.score.findData("width"))
    for box in (again.window_height, again.window_width):
        box.setValue(24)
    again.count.setValue(3)
    again.propose.click()
    qtbot.waitUntil(lambda: len(session.regions or ()) == 3, timeout=60_000)
    again.export_to(tmp_path / "regions.geojson")
    assert (tmp_path / "regions.geojson").exists()
    again.loop.measured.pick(viewer.add_image(truth, name="measured again", scale=(1, 0.5, 0.5)))
    again.table.clearSelection()
    again.loop.put.click()
    before, old = session.denoiser, np.array(viewer.layers["wide median"].data)
    assert again.loop.go.isEnabled(), again.loop.go.toolTip()
    again.loop.go.click()
    qtbot.waitUntil(lambda: bool(again.loop.gain.notes) or bool(again.message.notes), timeout=240_000)
    assert len(again.loop.gain.notes) == 4, again.message.notes
    assert session.denoiser is not before
    new = np.array(viewer.layers["wide median"].data)
    assert np.square(new - truth).mean() < np.square(old - truth).mean()
    assert read_layer(viewer.layers["wide median"]).axes == "CYX"
