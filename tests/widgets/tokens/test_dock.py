"""The Tokens dock: find, cut, pick, merge, name, paint, take back, export.

Long because all tests share one dock with found tokens, made by the functions at the top.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtWidgets import QAbstractButton, QAbstractSlider, QComboBox, QSpinBox, QTableWidget, QWidget
from vispy.util.keys import SHIFT

from napari_btn.core.data.image import Image
from napari_btn.core.progress import Progress, drain
from napari_btn.core.settings import TokenSettings
from napari_btn.core.tokens.clustering import fit_palette_steps
from napari_btn.core.tokens.tokens import Tokens
from napari_btn.io.images import read_image, read_provenance
from napari_btn.io.labels import read_labels
from napari_btn.io.tables import read_table
from napari_btn.session import session_of
from napari_btn.widgets.shared import engine
from napari_btn.widgets.tokens.editor import channels_of
from napari_btn.workflow.tokens import edited_again_steps

NAMES = ("Si", "Al", "Fe")
SHAPE = (40, 56)


@pytest.fixture(scope="module")
def found():
    """Tokens of a made-up image, in a palette of 12."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    phase = (x // 14 + 4 * (y // 14)).astype(np.float32)
    points = np.stack([phase % 4, phase // 4, 0.1 * rng.normal(size=SHAPE)], -1).reshape(-1, 3)
    points += 0.1 * rng.normal(size=points.shape)
    median = (phase + rng.normal(size=(3, *SHAPE))).astype(np.float32)
    palette = drain(fit_palette_steps(points, median.reshape(3, -1), count=12, replicates=1))
    nodes = palette.assign(points.astype(np.float32)).reshape(-1, *SHAPE)
    return Tokens(
        palette, nodes, 8, 8, "YX", median, np.ones((3, *SHAPE), np.float32), NAMES,
        pixel_size=(0.5, 0.5), unit="um", provenance={"seed": 0, "tokens": {"n_tokens": 8}},
    )  # fmt: skip


class FakeSearch:
    """A search for tokens that ends when the test says so."""

    def __init__(self, found):
        self.found = found
        self.asked = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.fail = None

    def tokens_steps(self, model, image, compute, settings, *, refit, valid, prediction):
        self.asked.append((image.data.shape, settings, image.axes, refit, prediction))
        yield Progress(0, 2, "Assigning tokens")
        while not self.go_on.wait(0.01):
            yield Progress(1, 2, "Assigning tokens")
        if self.fail is not None:
            raise self.fail
        return model, self.found.cut(settings.n_tokens)


@pytest.fixture
def search(found, monkeypatch):
    fake = FakeSearch(found)
    monkeypatch.setattr(engine, "tokens_steps", fake.tokens_steps)
    return fake


def fill(viewer, model):
    """What the Denoise dock leaves behind."""
    noisy = viewer.add_image(
        np.zeros((3, *SHAPE), np.float32), name="soil", scale=(1, 0.5, 0.5), translate=(0, 3, 4),
        units=("pixel", "um", "um"), axis_labels=("c", "y", "x"),
    )  # fmt: skip
    session = session_of(viewer)
    session.model = model
    session.source = Image(noisy.data, "CYX", NAMES, (0.5, 0.5), "um", "soil")
    session.prediction = SimpleNamespace(axes="CYX")
    return session


@pytest.fixture
def make_dock(viewer, qtbot):
    docks = []

    def make():
        from napari_btn.widgets.tokens.dock import TokensWidget

        dock = TokensWidget(viewer)
        qtbot.addWidget(dock)
        docks.append(dock)
        return dock

    yield make
    for dock in docks:
        dock.leave()


@pytest.fixture
def dock(viewer, make_dock, tiny_model, search, qtbot):
    """A dock that has found eight tokens."""
    fill(viewer, tiny_model)
    dock = make_dock()
    part(dock, "n_tokens").setValue(8)
    find(dock, qtbot)
    return dock


def find(dock, qtbot):
    part(dock, "find").click()
    qtbot.waitUntil(lambda: not dock.busy)


def rested(dock, qtbot):
    qtbot.waitUntil(
        lambda: not dock.editor._describe_later.isActive() and not dock.editor._look_later.isActive()
    )


def part(dock, name):
    return dock.findChild(QWidget, name)


def heads(dock):
    return [dock.view.table.horizontalHeaderItem(c).text() for c in range(dock.view.table.columnCount())]


def column(dock, title):
    return [
        dock.view.table.item(r, heads(dock).index(title)).text() for r in range(dock.view.table.rowCount())
    ]


def layer_of(viewer):
    return viewer.layers["soil tokens"]


@pytest.mark.parametrize("method", ["kmeans", "mixture", "hdbscan"])
def test_the_way_of_grouping_is_asked_for(dock, search, qtbot, method):
    combo = part(dock, "method")
    combo.setCurrentIndex(combo.findData(method))
    find(dock, qtbot)
    assert search.asked[-1][1].method == method


def test_an_empty_dock_says_what_to_do_first(make_dock):
    dock = make_dock()
    assert "Train" in dock.view.hint.notes[0][1]
    for name in ("find", "table", "merge", "rename", "export", "undo"):
        assert not part(dock, name).isEnabled(), name


def test_every_control_has_a_tooltip_and_a_name(dock):
    for kind in (QAbstractButton, QComboBox, QSpinBox, QAbstractSlider, QTableWidget):
        for control in dock.findChildren(kind):
            if not control.objectName() or control.objectName().startswith(("qt_", "Scroll")):
                continue
            assert control.toolTip(), control.objectName()
            assert control.accessibleName(), control.objectName()
    for name in ("n_tokens", "table", "merge", "rename", "export"):
        assert part(dock, name) is not None
    for name in ("merge", "rename", "export"):
        assert isinstance(part(dock, name), QAbstractButton)


def test_found_tokens_are_labels_where_their_source_stands(dock, viewer, found, search):
    shape, settings, axes, refit, prediction = search.asked[0]
    assert settings == TokenSettings(8)
    assert (shape, axes, refit) == ((3, *SHAPE), "CYX", False)
    assert prediction is dock.session.prediction
    layer = layer_of(viewer)
    np.testing.assert_array_equal(layer.data, found.labels)
    np.testing.assert_allclose(layer.scale, (0.5, 0.5))
    np.testing.assert_allclose(layer.translate, (3, 4))
    assert [str(u) for u in layer.units] == ["micrometer", "micrometer"]
    colours = layer.colormap.color_dict
    assert None in colours
    assert colours[0][3] == 0
    np.testing.assert_allclose(colours[3], found.colours[3], atol=1e-6)
    assert list(layer.features["index"]) == list(range(1, 9))
    assert {"name", "share", "Si median", "Fe width"} <= set(layer.features)
    record = layer.metadata["napari_btn"]
    assert record["map"] == "tokens"
    assert record["k"] == 8
    assert record["provenance"] == found.provenance
    assert dock.session.tokens.k == 8
    assert dock.view.table.rowCount() == 8
    assert sorted(dock.view.chart.violins) == list(range(1, 9))


def test_the_slider_cuts_at_once_and_the_table_follows(dock, viewer, found, qtbot):
    part(dock, "n_tokens_slider").setValue(3)
    np.testing.assert_array_equal(layer_of(viewer).data, found.cut(3).labels)
    assert part(dock, "n_tokens").value() == 3
    assert dock.session.tokens.k == 3
    rested(dock, qtbot)
    assert column(dock, "#") == ["1", "2", "3"]
    assert part(dock, "n_tokens").maximum() == 12
    assert f"{found.cut(3).stability:.2f}" in dock.view.stability.notes[0][1]
    part(dock, "suggest").click()
    assert part(dock, "n_tokens").value() == found.suggested


def test_the_table_sorts_by_number(dock):
    shares = [float(s.rstrip(" %")) for s in column(dock, "share")]
    from qtpy.QtCore import Qt

    dock.view.table.sortByColumn(2, Qt.SortOrder.DescendingOrder)
    assert [float(s.rstrip(" %")) for s in column(dock, "share")] == sorted(shares, reverse=True)
    dock.view.table.pick([4])
    assert dock.view.table.number_at(dock.view.table.selectedIndexes()[0].row()) == 4
    assert dock.view.table.picked() == [4]


def test_picked_rows_stand_out_in_the_image(dock, viewer):
    dock.view.table.pick([2, 5])
    colours = layer_of(viewer).colormap.color_dict
    assert [colours[n][3] for n in (2, 5)] == [1, 1]
    assert 0 < colours[1][3] < 0.5
    assert "2, 5" in dock.view.status.notes[0][1]
    part(dock, "alone").setChecked(True)
    assert layer_of(viewer).colormap.color_dict[1][3] == 0
    dock.view.table.pick([5])
    assert layer_of(viewer).selected_label == 5
    dock.view.table.pick([])
    assert layer_of(viewer).colormap.color_dict[1][3] == 1


def test_a_click_on_the_image_picks_its_token(dock, viewer, found):
    layer = layer_of(viewer)

    def click(at, modifiers=()):
        position = tuple(layer.data_to_world(at))
        event = SimpleNamespace(type="mouse_press", pos=(0, 0), position=position, modifiers=modifiers)
        run = viewer.mouse_drag_callbacks[-1](viewer, event)
        next(run)
        event.type = "mouse_release"
        assert next(run, None) is None

    first, second = int(found.labels[5, 5]), int(found.labels[30, 50])
    assert first != second
    click((5, 5))
    assert dock.view.table.picked() == [first]
    click((30, 50), (SHIFT,))
    assert dock.view.table.picked() == sorted([first, second])
    layer.mode = "paint"
    viewer.layers.selection.active = layer
    click((5, 5))
    assert dock.view.table.picked() == sorted([first, second])
    layer.mode = "pick"
    layer.selected_label = 3
    assert dock.view.table.picked() == [3]


def test_merged_tokens_are_one_and_come_back(dock, viewer, found, qtbot):
    labels = found.labels
    counts = np.bincount(labels.ravel())
    pair = [2, 3]
    target = max(pair, key=lambda n: counts[n])
    other = next(n for n in pair if n != target)
    dock.view.table.pick(pair)
    part(dock, "merge").click()
    expected = np.where(labels == other, target, labels)
    np.testing.assert_array_equal(layer_of(viewer).data, expected)
    np.testing.assert_array_equal(found.labels, labels)
    assert str(other) not in column(dock, "#")
    assert dock.view.table.picked() == [target]
    assert layer_of(viewer).metadata["napari_btn"]["edited"]
    assert "merging 2, 3" in part(dock, "undo").toolTip()
    part(dock, "undo").click()
    np.testing.assert_array_equal(layer_of(viewer).data, labels)
    assert len(column(dock, "#")) == 8
    assert not layer_of(viewer).metadata["napari_btn"]["edited"]
    assert not part(dock, "undo").isEnabled()


def test_a_new_cut_lets_merged_tokens_come_back(dock, viewer, found, qtbot):
    dock.view.table.pick([1, 2])
    part(dock, "merge").click()
    merged = layer_of(viewer).data.copy()
    part(dock, "n_tokens").setValue(5)
    np.testing.assert_array_equal(layer_of(viewer).data, found.cut(5).labels)
    assert "Undo" in dock.view.status.notes[0][1]
    part(dock, "undo").click()
    np.testing.assert_array_equal(layer_of(viewer).data, merged)
    assert part(dock, "n_tokens").value() == 8
    rested(dock, qtbot)
    assert len(column(dock, "#")) == 7


def test_return_in_the_field_for_the_number_keeps_merged_tokens(dock, viewer, qtbot):
    from qtpy.QtCore import Qt

    dock.view.table.pick([1, 2])
    part(dock, "merge").click()
    merged, field = layer_of(viewer).data.copy(), part(dock, "n_tokens")
    qtbot.keyClick(field, Qt.Key.Key_Return)
    np.testing.assert_array_equal(layer_of(viewer).data, merged)
    field.selectAll()
    qtbot.keyClicks(field, "5")
    qtbot.keyClick(field, Qt.Key.Key_Return)
    # the number is said twice, and what was lost must stay said
    assert "Undo restores merged" in dock.view.status.notes[0][1]


def test_names_follow_their_tokens_from_cut_to_cut(dock, viewer, found, qtbot):
    number = 1
    dock.view.table.item(dock.view.table.row_of(number), 1).setText(" quartz ")
    rested(dock, qtbot)
    assert next(iter(layer_of(viewer).features["name"])) == "quartz"
    leaf = found.lineages[number - 1]
    for k in range(2, 13):
        part(dock, "n_tokens").setValue(k)
        leaves = list(dock.session.tokens.lineages)
        expected = {leaves.index(leaf) + 1: "quartz"} if leaf in leaves else {}
        assert dock.editor.shown.names == expected
    part(dock, "n_tokens").setValue(8)
    rested(dock, qtbot)
    dock.view.table.pick([number])
    assert "quartz" in dock.view.status.notes[0][1]
    part(dock, "undo").click()
    assert dock.editor.shown.names == {}
    part(dock, "rename").click()
    assert dock.view.table.state() == dock.view.table.State.EditingState


def test_paint_reaches_table_and_features(dock, viewer, qtbot):
    layer = layer_of(viewer)
    layer.selected_label = 11
    layer.brush_size = 9
    layer.paint((20, 20), 11)
    rested(dock, qtbot)
    assert "11" in column(dock, "#")
    assert 11 in list(layer.features["index"])
    assert 11 in layer.colormap.color_dict
    assert layer.metadata["napari_btn"]["edited"]
    layer.undo()
    rested(dock, qtbot)
    assert "11" not in column(dock, "#")


def test_colours_may_show_a_channel(dock, viewer, found):
    part(dock, "colour_by").setCurrentText("Fe")
    colours = layer_of(viewer).colormap.color_dict
    order = np.argsort(found.table["Fe median"]) + 1
    green = [colours[n][1] for n in order]
    assert green == sorted(green)
    part(dock, "channel").setCurrentText("Fe")
    assert dock.view.chart._plot.getAxis("left").labelText == "median of Fe"


def test_coverage_is_shown_where_it_is_known(dock, viewer, found):
    assert set(column(dock, "coverage")) == {"—"}
    cell = dock.view.table.item(0, heads(dock).index("coverage"))
    assert "calibrated on" in cell.toolTip()
    inside = np.full((3, *SHAPE), np.nan, np.float32)
    inside[:2, found.labels == 2] = 1
    inside[2, found.labels == 2] = 0
    dock.session.tokens = replace(found, inside=inside)
    shown = dict(zip(column(dock, "#"), column(dock, "coverage"), strict=True))
    # the mean of the channels hides that none of the pixels is inside in one
    assert shown.pop("2") == "⚠ 67 %"
    assert "In token 2, 0 % of the held-out pixels of Fe" in dock.view.stability.notes[-1][1]
    for theme in ("light", "dark"):
        viewer.theme = theme
        cell = dock.view.table.item(dock.view.table.row_of(2), heads(dock).index("coverage"))
        assert cell.foreground().color() == dock.theme.colours()["amber"]
    assert set(shown.values()) == {"—"}
    said = dock.view.table.item(dock.view.table.row_of(2), heads(dock).index("coverage")).toolTip()
    assert "Si 100.0 %, Al 100.0 %, Fe 0.0 %" in said
    assert f"{(found.labels == 2).sum()} held-out pixels" in said
    other = dock.view.table.item(dock.view.table.row_of(1), heads(dock).index("coverage"))
    assert "none of the token's pixels" in other.toolTip()
    assert layer_of(viewer).features["Fe coverage"][1] == 0


@pytest.mark.parametrize(
    ("apart", "said", "offered"),
    [
        ((1.0, 1.0, 0.86), "about 86 % are expected", True),
        ((1.0, 1.0, 0.02), "it would be 2 %, which hardly helps: hold out more", False),
        (None, "too few held-out blocks to be calibrated on its own: hold out more", False),
    ],
)
def test_a_separate_calibration_is_offered_only_where_it_is_expected_to_help(
    dock, found, monkeypatch, apart, said, offered
):
    asked = []
    monkeypatch.setattr(
        engine, "coverage_apart_of", lambda *given: asked.append(given[2:]) or apart, raising=False
    )
    inside = np.full((3, *SHAPE), np.nan, np.float32)
    inside[:2, found.labels == 2] = 1
    inside[2, found.labels == 2] = 0
    dock.session.tokens = replace(found, inside=inside)
    ((labels, axes, number),) = asked  # not for each change of the window
    np.testing.assert_array_equal(labels, found.labels)
    assert (axes, number) == ("YX", 2)
    note = dock.view.stability.notes[-1][1]
    assert said in note
    assert ("Calibrate tokens separately" in note) == offered
    assert ("href='groups'" in dock.view.stability.text()) == offered


def group(dock, viewpoint, numbers, name):
    part(dock, "viewpoint").setCurrentText(viewpoint)
    dock.view.table.pick(numbers)
    part(dock, "group_name").setCurrentText(name)
    part(dock, "assign").click()


def test_picked_tokens_are_grouped_from_two_points_of_view(dock, make_dock, viewer, found, tmp_path, qtbot):
    assert not part(dock, "assign").isEnabled()
    assert "morphology" not in heads(dock)
    group(dock, "morphology", [1, 3], "grain")
    group(dock, "chemistry", [3, 4], "iron-rich")
    assert column(dock, "morphology") == ["grain", "", "grain", *[""] * 5]
    assert column(dock, "chemistry") == ["", "", "iron-rich", "iron-rich", *[""] * 4]
    group_name = part(dock, "group_name")
    assert [group_name.itemText(i) for i in range(group_name.count())] == ["iron-rich"]
    part(dock, "colour_by").setCurrentText("morphology")
    colours = layer_of(viewer).colormap.color_dict
    dock.view.table.pick([])
    np.testing.assert_array_equal(colours[1][:3], colours[3][:3])
    assert not np.array_equal(colours[1][:3], colours[2][:3])
    dock.export_to(tmp_path / "soil.ome.tif")
    qtbot.waitUntil(lambda: not dock.busy)
    back = read_labels(tmp_path / "soil.ome.tif")
    assert back.column("morphology") == {1: "grain", 3: "grain"}
    assert back.column("chemistry") == {3: "iron-rich", 4: "iron-rich"}
    assert back.provenance["tokens"]["groups"]["chemistry"] == {"3": "iron-rich", "4": "iron-rich"}
    # groups follow finer cuts, and come back from coarser ones
    part(dock, "n_tokens").setValue(12)
    leaves = found.palette.leaves
    grain = leaves[found.identities[[0, 2]]].any(axis=0)
    inside = {n for n, i in enumerate(found.cut(12).identities, 1) if grain[leaves[i]].all()}
    assert set(dock.editor.shown.groups["morphology"]) == inside
    part(dock, "n_tokens").setValue(2)
    part(dock, "n_tokens").setValue(8)
    rested(dock, qtbot)
    assert column(dock, "morphology") == ["grain", "", "grain", *[""] * 5]
    dock.leave()
    again = make_dock()
    assert again.editor.shown.groups["chemistry"] == {3: "iron-rich", 4: "iron-rich"}


def test_a_group_is_taken_back_and_emptied(dock):
    group(dock, "chemistry", [2], "clay")
    group(dock, "chemistry", [2, 5], "quartz")
    part(dock, "undo").click()
    assert dock.editor.shown.groups["chemistry"] == {2: "clay"}
    group(dock, "chemistry", [2], "")
    assert dock.editor.shown.groups["chemistry"] == {}
    assert "chemistry" not in heads(dock)


def test_export_writes_labels_table_and_provenance(dock, viewer, found, tmp_path, qtbot):
    dock.view.table.item(dock.view.table.row_of(2), 1).setText("clay")
    rested(dock, qtbot)
    dock.export_to(tmp_path / "soil.ome.tif")
    qtbot.waitUntil(lambda: not dock.busy)
    image = read_image(tmp_path / "soil.ome.tif")
    np.testing.assert_array_equal(image.data, found.labels)
    assert image.axes == "YX"
    assert image.pixel_size == (0.5, 0.5)
    table = read_table(tmp_path / "soil.csv")
    assert table["index"] == list(range(1, 9))
    assert table["name"][1] == "clay"
    np.testing.assert_allclose(table["share"], found.table["share"])
    record = json.loads((tmp_path / "soil.json").read_text(encoding="utf-8"))
    assert record["seed"] == 0
    assert record["tokens"]["names"] == {"2": "clay"}
    dock.export_to(tmp_path / "soil.ome.tif")
    qtbot.waitUntil(lambda: not dock.busy)
    assert dock.view.status.notes[0][0] == "red"
    assert "soil.csv" in dock.view.status.notes[0][1]


def test_export_records_what_a_hand_did(make_dock, viewer, tiny_model, search, found, tmp_path, qtbot):
    recorded = {**found.provenance, "recipe": [{"do": "tokens", "inputs": {}}]}
    search.found = replace(found, provenance=recorded)
    fill(viewer, tiny_model)
    dock = make_dock()
    part(dock, "n_tokens").setValue(8)
    find(dock, qtbot)
    dock.view.table.pick([2, 3])
    part(dock, "merge").click()
    rested(dock, qtbot)
    dock.export_to(tmp_path / "soil.ome.tif")
    qtbot.waitUntil(lambda: not dock.busy)
    steps = read_provenance(tmp_path / "soil.ome.tif")["recipe"]
    assert [step["do"] for step in steps] == ["tokens", "edit"]
    again = drain(edited_again_steps(found, steps[-1]))
    np.testing.assert_array_equal(again.labels, read_image(tmp_path / "soil.ome.tif").data)
    assert not np.array_equal(again.labels, found.labels)


def test_a_search_can_be_stopped_and_says_what_fails(make_dock, viewer, tiny_model, search, qtbot):
    fill(viewer, tiny_model)
    dock = make_dock()
    search.go_on.clear()
    part(dock, "find").click()
    assert not part(dock, "find").isEnabled()
    part(dock, "stop").click()
    qtbot.waitUntil(lambda: not dock.busy)
    assert "stopped" in dock.view.progress.line.text()
    assert "soil tokens" not in viewer.layers
    search.go_on.set()
    search.fail = RuntimeError("CUDA out of memory")
    find(dock, qtbot)
    assert "memory" in dock.view.status.notes[0][1]
    assert part(dock, "find").isEnabled()


def test_what_is_found_of_an_image_that_went_is_not_shown(make_dock, viewer, tiny_model, search, qtbot):
    session = fill(viewer, tiny_model)
    dock = make_dock()
    search.go_on.clear()
    part(dock, "find").click()
    session.source = session.source
    search.go_on.set()
    qtbot.wait(100)
    assert session.tokens is None
    assert "soil tokens" not in viewer.layers
    assert part(dock, "find").isEnabled()


def test_a_new_dock_keeps_layer_names_and_edits(dock, make_dock, viewer, qtbot):
    dock.view.table.item(dock.view.table.row_of(2), 1).setText("clay")
    rested(dock, qtbot)
    dock.view.table.pick([1, 3])
    part(dock, "merge").click()
    merged = layer_of(viewer).data.copy()
    dock.leave()
    again = make_dock()
    np.testing.assert_array_equal(layer_of(viewer).data, merged)
    assert again.editor.shown.edited
    assert again.editor.shown.names == {2: "clay"}
    assert len(viewer.layers) == 2


def test_edits_survive_a_new_search_as_a_backup(dock, viewer, found, qtbot):
    dock.view.table.pick([1, 3])
    part(dock, "merge").click()
    merged = layer_of(viewer).data.copy()
    part(dock, "n_tokens").setValue(8)
    dock.session.prediction = SimpleNamespace(axes="CYX")
    part(dock, "n_tokens").setValue(6)
    find(dock, qtbot)
    np.testing.assert_array_equal(layer_of(viewer).data, found.cut(6).labels)
    before = viewer.layers["soil tokens (before)"]
    np.testing.assert_array_equal(before.data, merged)
    assert not before.visible


def test_a_removed_layer_is_missed(dock, viewer, qtbot):
    assert "is a layer now" in dock.view.progress.line.text()
    viewer.layers.remove("soil")
    assert not dock.view.progress.isHidden()
    viewer.layers.remove("soil tokens")
    assert dock.view.progress.isHidden()
    assert "removed" in dock.view.hint.notes[0][1]
    assert not part(dock, "merge").isEnabled()
    find(dock, qtbot)
    assert "soil tokens" in viewer.layers
    assert dock.view.table.rowCount() == 8


def test_a_walk_with_real_networks(make_napari_viewer, qtbot, tmp_path, monkeypatch):
    import napari_btn as btn
    from napari_btn.core.compute.pool import Inline
    from napari_btn.widgets.shared.layers import pair_layers, read_layer
    from napari_btn.widgets.shared.results import show_prediction

    pair = btn.samples.edx(seed=0, size=(96, 192))
    denoiser = btn.Denoiser(
        members=1, network=btn.NetworkSettings(depth=3), train=btn.TrainSettings(steps=20, patch_px=32),
        device="cpu",
    )  # fmt: skip
    inline = Inline()
    denoiser.fit(pair.noisy, pair.clean, axes="CYX", channel_names=pair.channel_names, executor=inline)
    prediction = denoiser.predict(pair.noisy, executor=inline)
    viewer = make_napari_viewer(show=True)
    layers = [viewer.add_image(data, **how) for data, how, _ in pair_layers(pair)]
    source = read_layer(layers[0])
    session = session_of(viewer)
    session.model = denoiser.model
    session.source = Image(
        source.data, source.axes, source.channel_names, source.pixel_size, source.unit, source.name
    )
    session.prediction = prediction
    show_prediction(viewer, prediction, source)
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Tokens")
    assert part(dock, "find").isEnabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 2500)
        patch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 2)
        part(dock, "find").click()
        qtbot.waitUntil(lambda: not dock.busy)
    assert not dock.view.status.notes, dock.view.status.notes
    assert session.model.tokens.palette is session.tokens.palette
    assert session.model.learned is denoiser.model.learned
    assert denoiser.model.tokens is None
    layer = viewer.layers[f"{source.name} tokens"]
    assert layer.data.shape == (96, 192)
    assert layer.data.max() == 20
    part(dock, "n_tokens").setValue(6)
    rested(dock, qtbot)
    dock.view.table.pick([1, 2])
    part(dock, "merge").click()
    layer.paint((40, 90), 3)
    rested(dock, qtbot)
    monkeypatch.chdir(tmp_path)  # the dock names the file, and a long name takes more lines
    dock.export_to(Path("walk.ome.tif"))
    qtbot.waitUntil(lambda: not dock.busy)
    np.testing.assert_array_equal(read_image("walk.ome.tif").data, layer.data)
    pixels = viewer.screenshot(canvas_only=True, flash=False)
    assert pixels[..., :3].std() > 1
    assert dock.sizeHint().height() < 640


def test_a_single_channel_is_called_image(found):
    one = replace(found, channel_names=("0",), median=found.median[:1], width=None, inside=None)
    assert one.shown_channels == ("image",)
    assert channels_of(one) == ["image"]
    assert "image median" in one.table
    two = replace(found, channel_names=(), median=found.median[:2], width=None, inside=None)
    assert channels_of(two) == ["channel 0", "channel 1"]
