"""The Re-measure dock: proposed windows, rectangles and table that follow each other, export.

Long because all tests share one dock with a made-up prediction, made by the functions at the top.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)
from scipy.stats import norm
from superqt import QCollapsible

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.data.image import Image
from napari_btn.core.data.pairs import Pair
from napari_btn.core.progress import Progress
from napari_btn.core.remeasure.expected import Decision
from napari_btn.core.remeasure.regions import propose_regions
from napari_btn.core.remeasure.scores import score_map
from napari_btn.core.remeasure.stage import travel_order
from napari_btn.io.regions import read_regions
from napari_btn.io.tables import read_table
from napari_btn.session import Threshold, Training, session_of
from napari_btn.widgets.remeasure.rectangles import place_of
from napari_btn.widgets.shared import engine
from napari_btn.workflow.propose import expected_wrong
from napari_btn.workflow.refine import Refinement

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
Z = norm.ppf(LEVELS).astype(np.float32)
NAMES = ("Si", "Al", "Fe")


def make_prediction(shape=(3, 40, 56), axes="CYX"):
    rng = np.random.default_rng(0)
    centre = rng.normal(size=shape).astype(np.float32)
    wide = (1 + np.arange(shape[-1], dtype=np.float32) / shape[-1]) ** 2
    quantiles = centre + Z.reshape(-1, *([1] * len(shape))) * wide
    n, c = 2000, shape[axes.index("C")] if "C" in axes else 1
    held_out = HeldOut(
        np.broadcast_to(Z[:, None, None], (len(Z), c, n)).copy(),
        rng.normal(size=(c, n)).astype(np.float32),
        np.arange(n) // 50,
        LEVELS,
    )
    space = [a for a in axes if a in "ZYX"]
    return Prediction(
        quantiles[0], centre, quantiles[-1], np.full(shape, 0.2, np.float32), quantiles, LEVELS, axes,
        NAMES[:c], (0.5,) * len(space), "um", 0.1, "clean", provenance={"seed": 0},
        distribution=exceedance_from(held_out), held_out=held_out,
    )  # fmt: skip


def fill(viewer, model, prediction, name="soil"):
    """What the Denoise dock leaves behind."""
    scale = tuple(0.5 if a in "ZYX" else 1.0 for a in prediction.axes)
    labels = tuple(prediction.axes.lower())
    if name not in viewer.layers:
        viewer.add_image(
            prediction.median, name=name, scale=scale, axis_labels=labels, contrast_limits=(-3, 3)
        )
    session = session_of(viewer)
    session.model = model
    session.source = Image(prediction.median, prediction.axes, NAMES, None, "um", name)
    session.prediction = prediction
    return session


@pytest.fixture
def make_dock(viewer, tiny_model, qtbot):
    docks = []

    def make(prediction=None):
        from napari_btn.widgets.remeasure.dock import RemeasureWidget

        if prediction is not None:
            fill(viewer, tiny_model, prediction)
        dock = RemeasureWidget(viewer)
        qtbot.addWidget(dock)
        docks.append(dock)
        return dock

    yield make
    for dock in docks:
        dock.leave()


def part(dock, name):
    return dock.findChild(QWidget, name)


def settled(dock, qtbot):
    qtbot.waitUntil(
        lambda: (
            not (dock.editor._read_later.isActive() or dock._score_later.isActive() or dock.lifetime.runs)
        ),
    )


def propose(dock, height=8, width=10, count=4):
    part(dock, "window_height").setValue(height)
    part(dock, "window_width").setValue(width)
    part(dock, "count").setValue(count)
    part(dock, "propose").click()


def places(regions):
    return [(r.y, r.x, r.height, r.width) for r in regions]


def test_an_empty_dock_says_what_to_do_first(make_dock):
    dock = make_dock()
    assert "Train" in dock.view.hint.notes[0][1]
    assert not part(dock, "propose").isEnabled()
    assert "Nothing is denoised" in part(dock, "propose").toolTip()
    assert "no regions yet" in part(dock, "export").toolTip()


def test_every_control_has_a_tooltip_and_a_name(make_dock):
    dock = make_dock(make_prediction())
    for kind in (QAbstractButton, QComboBox, QAbstractSpinBox, QTableWidget):
        for control in dock.findChildren(kind):
            if not control.objectName() or control.objectName().startswith("qt_"):
                continue
            assert control.toolTip(), control.objectName()
            assert control.accessibleName(), control.objectName()
    for name in ("score", "window_height", "window_width", "count", "propose", "export"):
        assert part(dock, name) is not None


def test_proposals_are_those_of_the_core_placed_as_the_source(make_dock, viewer):
    prediction = make_prediction()
    dock = make_dock(prediction)
    session = session_of(viewer)
    session.threshold = Threshold((0.1, 0.2, 0.3), channel=2)
    part(dock, "channel").setCurrentText("Fe")
    propose(dock)
    wanted = propose_regions(score_map(prediction, channel=2, threshold=0.3), (8, 10), 4, (0.5, 0.5), "um")
    assert list(session.regions) == wanted
    layer = viewer.layers["soil regions"]
    assert layer.nshapes == 4
    np.testing.assert_allclose(layer.scale, (0.5, 0.5))
    first = wanted[0]
    np.testing.assert_allclose(layer.data[0].min(0), (first.y - 0.5, first.x - 0.5))
    np.testing.assert_allclose(np.ptp(layer.data[0], axis=0), (8, 10))
    assert list(layer.features["rank"]) == [1, 2, 3, 4]
    np.testing.assert_allclose(layer.features["centre_y"], [r.centre[0] for r in wanted])
    np.testing.assert_allclose(layer.features["score"], [r.score for r in wanted], rtol=1e-5)
    record = layer.metadata["napari_btn"]
    assert (record["map"], record["score"], record["channels"]) == ("regions", "ambiguity", ["Fe"])
    assert record["thresholds"] == [0.3]
    assert part(dock, "regions").rowCount() == 4
    assert "of the score" in part(dock, "summary").text()


@pytest.mark.parametrize("kind", ["ambiguity", "relative width", "width", "spread", "relative spread"])
def test_all_channels_count_each_at_its_own_threshold(make_dock, kind, viewer):
    prediction = make_prediction()
    slope = np.broadcast_to(np.linspace(0.1, 4, 56, dtype=np.float32) ** 4, prediction.median.shape)
    dock = make_dock(replace(prediction, spread=slope))
    part(dock, "score").setCurrentIndex(part(dock, "score").findData(kind))
    part(dock, "channel").setCurrentIndex(0)
    assert "all channels" in part(dock, "channel").currentText()
    propose(dock, count=2)
    regions = session_of(viewer).regions
    assert len(regions) == 2
    # ranks end at one, widths are in units of their mean
    by_mean = kind in ("width", "spread", "relative spread")
    assert 0 < regions[0].mean_score <= (np.inf if by_mean else 1)
    assert regions[0].mean_score > 1 or not by_mean
    assert regions[0].x == 56 - 10 or "spread" not in kind
    assert part(dock, "threshold").isHidden()


def test_a_width_is_proposed_where_it_is_wide(make_dock, viewer):
    dock = make_dock(make_prediction())
    part(dock, "score").setCurrentIndex(part(dock, "score").findData("width"))
    part(dock, "channel").setCurrentText("Si")
    propose(dock, count=1)
    assert session_of(viewer).regions[0].x == 56 - 10


def test_one_member_has_no_spread(make_dock):
    prediction = make_prediction()
    dock = make_dock(replace(prediction, spread=0 * prediction.median))
    part(dock, "score").setCurrentIndex(part(dock, "score").findData("spread"))
    propose(dock)
    assert "two members or more" in dock.view.message.notes[0][1]


def test_physical_units_are_pixels_too(make_dock):
    dock = make_dock(make_prediction())
    propose(dock, 8, 10)
    unit = part(dock, "window_unit")
    assert [unit.itemText(i) for i in range(unit.count())] == ["px", "µm"]
    unit.setCurrentIndex(1)
    assert part(dock, "window_height").value() == 4.0
    assert part(dock, "window_width").value() == 5.0
    part(dock, "window_height").setValue(6.0)
    assert dock.request.window() == (12, 10)
    assert "12 x 10 px" in part(dock, "window_pixels").text()


def test_a_window_larger_than_the_image_is_refused_beside_the_control(make_dock):
    dock = make_dock(make_prediction())
    part(dock, "window_height").setValue(41)
    assert not part(dock, "propose").isEnabled()
    assert dock.view.problem.notes[0][0] == "red"
    assert "40 x 56" in part(dock, "propose").toolTip()
    part(dock, "window_height").setValue(40)
    assert part(dock, "propose").isEnabled()
    assert dock.view.problem.notes == ()


def test_maps_without_levels_have_widths_only(make_dock):
    prediction = replace(make_prediction(), distribution=None, quantiles=None)
    dock = make_dock(prediction)
    assert part(dock, "score").currentData() == "width"
    assert part(dock, "propose").isEnabled()
    part(dock, "score").setCurrentIndex(0)
    assert not part(dock, "propose").isEnabled()
    assert "quantiles" in part(dock, "propose").toolTip()


def test_a_score_that_was_picked_stays_for_the_next_image(make_dock, viewer):
    dock = make_dock(make_prediction())
    part(dock, "score").setCurrentIndex(part(dock, "score").findData("width"))
    session_of(viewer).prediction = make_prediction()
    assert part(dock, "score").currentData() == "width"


def test_the_table_follows_edits(make_dock, viewer, qtbot):
    prediction = make_prediction()
    dock = make_dock(prediction)
    part(dock, "channel").setCurrentText("Al")
    propose(dock)
    layer = viewer.layers["soil regions"]
    data = [d.copy() for d in layer.data]
    data[1] = np.array([[2, 3], [2, 15], [9, 15], [9, 3]]) - 0.5
    layer.data = data
    settled(dock, qtbot)
    region = session_of(viewer).regions[1]
    assert places([region]) == [(2, 3, 7, 12)]
    score = score_map(prediction, channel=1, threshold=dock.request.asked.values[1])
    assert region.score == pytest.approx(score[2:9, 3:15].sum(), rel=1e-5)
    assert layer.features["score"][1] == pytest.approx(region.score)
    layer.add(np.array([[30, 40], [30, 70], [36, 70], [36, 40]]), shape_type="rectangle")
    settled(dock, qtbot)
    assert part(dock, "regions").rowCount() == 5
    assert places(session_of(viewer).regions)[-1] == (30, 40, 6, 16)
    assert list(layer.features["rank"]) == [1, 2, 3, 4, 5]
    assert any("border" in text for _, text in dock.view.message.notes)
    layer.selected_data = {4, 0}
    layer.remove_selected()
    settled(dock, qtbot)
    assert len(session_of(viewer).regions) == 3
    assert not any("border" in text for _, text in dock.view.message.notes)
    viewer.layers.remove(layer)
    assert session_of(viewer).regions is None
    assert part(dock, "regions").rowCount() == 0
    assert not part(dock, "export").isEnabled()


def test_another_threshold_rescores_the_rectangles(make_dock, viewer, qtbot):
    prediction = make_prediction()
    dock = make_dock(prediction)
    part(dock, "channel").setCurrentText("Si")
    propose(dock)
    before = [r.score for r in session_of(viewer).regions]
    part(dock, "threshold").setValue(1.5)
    assert session_of(viewer).threshold.values[0] == 1.5
    assert part(dock, "summary").text() == ""  # nothing stale in sight
    settled(dock, qtbot)
    after = session_of(viewer).regions
    assert [r.score for r in after] != before
    score = score_map(prediction, channel=0, threshold=1.5)
    assert [r.score for r in after] == pytest.approx([score[r.slices].sum() for r in after], rel=1e-5)


def test_proposing_again_keeps_what_was_edited(make_dock, viewer, qtbot):
    dock = make_dock(make_prediction())
    propose(dock)
    layer = viewer.layers["soil regions"]
    propose(dock, count=3)
    assert viewer.layers["soil regions"] is layer
    assert layer.nshapes == 3
    layer.data = [d + 1 for d in layer.data]
    settled(dock, qtbot)
    propose(dock, count=2)
    assert viewer.layers["soil regions"].nshapes == 2
    assert not viewer.layers["soil regions (before)"].visible
    assert viewer.layers["soil regions (before)"].nshapes == 3


def test_rows_and_rectangles_select_each_other(make_dock, viewer, qtbot):
    from napari_btn.widgets.remeasure.editor import _camera

    dock = make_dock(make_prediction())
    propose(dock)
    settled(dock, qtbot)
    layer, table = viewer.layers["soil regions"], part(dock, "regions")
    table.selectRow(2)
    assert set(layer.selected_data) == {2}
    assert viewer.layers.selection.active is layer
    corner = 0.25  # napari counts from the centre of the first pixel
    centre = np.array(session_of(viewer).regions[2].centre) - corner
    np.testing.assert_allclose(_camera(viewer).center[-2:], centre)
    layer.selected_data = {0, 3}
    assert sorted(i.row() for i in table.selectionModel().selectedRows()) == [0, 3]


def test_a_volume_has_its_rectangles_on_their_planes(make_dock, viewer, qtbot):
    prediction = make_prediction((2, 6, 30, 40), "CZYX")
    dock = make_dock(prediction)
    assert not part(dock, "window_depth").isHidden()
    part(dock, "channel").setCurrentText("Al")
    propose(dock, 10, 12, 3)
    regions = session_of(viewer).regions
    layer = viewer.layers["soil regions"]
    assert layer.ndim == 3
    assert [set(d[:, 0]) for d in layer.data] == [{float(r.z)} for r in regions]
    assert all(r.depth == 1 for r in regions)
    part(dock, "regions").selectRow(1)
    assert viewer.dims.point[1] == pytest.approx(0.5 * regions[1].z)
    part(dock, "window_depth").setValue(3)
    propose(dock, 10, 12, 1)
    (region,) = session_of(viewer).regions
    assert region.depth == 3
    assert set(layer.data[0][:, 0]) == {region.z + 1.0}
    layer.data = [d + np.array([0, 1, 1]) for d in layer.data]
    settled(dock, qtbot)
    (moved,) = session_of(viewer).regions
    assert (moved.z, moved.depth, moved.y) == (region.z, 3, region.y + 1)
    part(dock, "window_depth").setValue(7)
    assert not part(dock, "propose").isEnabled()


def test_channels_between_planes_leave_the_rectangles_in_sight(make_dock, viewer, qtbot):
    dock = make_dock(make_prediction((4, 3, 30, 40), "ZCYX"))
    propose(dock, 10, 12, 2)
    layer, regions = viewer.layers["soil regions"], session_of(viewer).regions
    for c in range(3):
        viewer.dims.set_current_step((0, 1), (regions[0].z, c))
        assert layer._data_view._displayed[0]
    assert [r.z for r in regions] == [d[0, 0] for d in layer.data]
    settled(dock, qtbot)
    assert places(session_of(viewer).regions) == places(regions)


def test_scenes_have_rectangles_of_their_own(make_dock, viewer, qtbot):
    prediction = make_prediction((2, 30, 40), "SYX")
    prediction.median[1, :, :10] += 5
    viewer.dims.set_current_step(0, 1)
    dock = make_dock(prediction)
    viewer.dims.set_current_step(0, 1)
    propose(dock, 8, 8, 2)
    layer = viewer.layers["soil regions"]
    assert all((d[:, 0] == 1).all() for d in layer.data)
    wanted = propose_regions(
        score_map(prediction, channel=0, threshold=dock.request.asked.value, scene=1), (8, 8), 2
    )
    assert places(session_of(viewer).regions) == places(wanted)


@pytest.mark.parametrize("ending", ["csv", "geojson", "zip"])
def test_export_is_what_is_in_sight(make_dock, viewer, tmp_path, ending):
    dock = make_dock(make_prediction())
    propose(dock)
    path = tmp_path / f"regions.{ending}"
    dock.export_to(path)
    assert places(read_regions(path)) == places(session_of(viewer).regions)
    assert read_regions(path)[0].unit == "um"
    assert dock.view.message.notes[0][0] == "info"
    dock.export_to(tmp_path / "missing" / f"regions.{ending}")
    assert dock.view.message.notes[0][0] == "red"


def type_places(dock, rows):
    for row, values in enumerate(rows):
        for k, text in enumerate(values):
            dock.view.stage.table.setItem(row, k, QTableWidgetItem(str(text)))


def test_three_places_put_stage_coordinates_into_the_files(make_dock, viewer, tmp_path):
    dock = make_dock(make_prediction())
    propose(dock)
    dock.export_to(tmp_path / "without.csv")
    assert "stage_1" not in read_table(tmp_path / "without.csv")
    assert "stage coordinates" not in dock.view.message.notes[0][1]
    # the stage counts in quarters of a pixel from 1000, its second axis runs against the columns
    type_places(dock, [(0, 0, 1000, 2000), (30, "0,0", 1120, 2000), (0, 50, 1000, 1800)])
    assert "fit exactly" in dock.view.stage.fit.notes[0][1]
    dock.export_to(tmp_path / "with.csv")
    table = read_table(tmp_path / "with.csv")
    for k, region in enumerate(session_of(viewer).regions):
        y, x = region.y + region.height / 2 - 0.5, region.x + region.width / 2 - 0.5
        np.testing.assert_allclose((table["stage_1"][k], table["stage_2"][k]), (1000 + 4 * y, 2000 - 4 * x))
    assert "stage coordinates" in dock.view.message.notes[0][1]
    part(dock, "stage_more").click()
    type_places(dock, [(0, 0, 1000, 2000), (30, 0, 1120, 2000), (0, 50, 1000, 1800), (30, 50, 1128, 1800)])
    assert "4 places agree to 2" in dock.view.stage.fit.notes[0][1]
    dock.leave()
    again = make_dock()
    assert len(again.view.stage.pairs()) == 4
    part(again, "stage_clear").click()
    assert session_of(viewer).stage is None
    assert again.stage.affine is None


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([(0, 0, 1, 1), (5, 5, 2, 2), (10, 10, 3, 3)], "lie on one line"),
        ([(0, 0, 1, 1), (5, 5, 2, "")], "Place 2 lacks stage 2"),
        ([(0, "left", 1, 1)], "numbers are needed"),
        ([(0, 0, 1, 1), (5, 7, 2, 2)], "2 of 3 places"),
    ],
)
def test_places_without_a_fit_are_reported(make_dock, viewer, rows, sentence):
    dock = make_dock(make_prediction())
    type_places(dock, rows)
    assert sentence in dock.view.stage.fit.notes[0][1]
    assert dock.stage.affine is None
    assert session_of(viewer).stage is None


def test_positions_come_from_a_points_layer(make_dock, viewer):
    dock = make_dock(make_prediction())
    part(dock, "stage_take").click()
    assert "no Points layer" in dock.view.stage.fit.notes[0][1]
    viewer.add_points([[1.0, 2.0], [15.0, 2.5], [1.0, 25.0]], name="marks")
    type_places(dock, [("", "", 7, 8)])
    part(dock, "stage_take").click()
    # the image has pixels of half a unit
    texts = [[dock.view.stage._text(r, c) for c in range(4)] for r in range(3)]
    assert texts == [["2", "4", "7", "8"], ["30", "5", "", ""], ["2", "50", "", ""]]
    assert "lacks stage 1, stage 2" in dock.view.stage.fit.notes[0][1]


def test_places_count_for_their_image_alone(make_dock, viewer, tiny_model):
    prediction = make_prediction()
    dock = make_dock(prediction)
    type_places(dock, [(0, 0, 1, 1), (0, 5, 1, 2), (5, 0, 2, 1)])
    assert dock.stage.affine is not None
    fill(viewer, tiny_model, prediction, name="other")
    assert dock.stage.affine is None
    assert dock.view.stage.pairs() == []


def test_export_asks_only_on_a_click(make_dock, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    answer = (str(tmp_path / "out"), "ImageJ ROIs (*.zip)")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: answer)
    dock = make_dock(make_prediction())
    propose(dock)
    part(dock, "export").click()
    assert (tmp_path / "out.zip").is_file()


def test_a_large_image_is_searched_in_a_thread(make_dock, viewer, qtbot, monkeypatch):
    monkeypatch.setattr("napari_btn.widgets.remeasure.dock._AT_ONCE", 0)
    dock = make_dock(make_prediction())
    propose(dock)
    assert "propose" in dock.lifetime.runs
    assert not part(dock, "propose").isEnabled()
    settled(dock, qtbot)
    assert part(dock, "regions").rowCount() == 4
    assert part(dock, "propose").isEnabled()
    propose(dock)
    session_of(viewer).prediction = make_prediction()  # while it runs
    settled(dock, qtbot)
    assert len(session_of(viewer).regions) == 4  # the rectangles that were there, scored by the new maps


def test_a_reopened_dock_keeps_the_regions(make_dock, viewer, qtbot):
    dock = make_dock(make_prediction())
    propose(dock)
    regions = session_of(viewer).regions
    dock.leave()
    again = make_dock()
    settled(again, qtbot)
    assert part(again, "regions").rowCount() == 4
    assert places(session_of(viewer).regions) == places(regions)
    again.leave()
    viewer.layers.remove("soil regions")
    last = make_dock()
    assert places(session_of(viewer).regions) == places(regions)
    assert viewer.layers["soil regions"].nshapes == 4
    settled(last, qtbot)


def test_an_empty_score_is_reported(make_dock, viewer):
    prediction = make_prediction()
    dock = make_dock(replace(prediction, lower=prediction.median, upper=prediction.median))
    part(dock, "score").setCurrentIndex(part(dock, "score").findData("width"))
    part(dock, "channel").setCurrentText("Si")
    propose(dock)
    assert dock.view.message.notes[0][0] == "amber"
    assert "soil regions" not in viewer.layers


def test_a_dock_that_left_ignores_the_viewer(make_dock, viewer):
    dock = make_dock(make_prediction())
    propose(dock)
    dock.leave()
    session_of(viewer).prediction = None
    viewer.layers.remove("soil regions")
    assert part(dock, "regions").rowCount() == 4


def test_a_walk_in_a_real_window(make_napari_viewer, qtbot, tmp_path, tiny_model):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1366, 768)
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Re-measure")
    fill(viewer, tiny_model, make_prediction((3, 120, 160)))
    qtbot.wait(50)
    assert dock.minimumSizeHint().height() <= 620
    propose(dock, 24, 32, 5)
    settled(dock, qtbot)
    layer = viewer.layers["soil regions"]
    part(dock, "regions").selectRow(1)
    layer.data = [d + 2 for d in layer.data]
    settled(dock, qtbot)
    dock.export_to(tmp_path / "regions.csv")
    assert len(read_regions(tmp_path / "regions.csv")) == 5
    assert viewer.screenshot(canvas_only=True, flash=False)[..., :3].std() > 1
    for folded in dock.findChildren(QCollapsible):
        folded.expand()
    qtbot.wait(50)
    assert dock.minimumSizeHint().height() <= 620  # or the window would outgrow a laptop's screen
    viewer.theme = "light"
    qtbot.wait(50)
    viewer.window.remove_dock_widget(dock)
    assert dock.lifetime.ended


def test_the_expected_wrong_area_is_told_and_stops_the_proposals(make_dock, viewer):
    prediction = make_prediction()
    dock = make_dock(prediction)
    session_of(viewer).threshold = Threshold((0.1, 0.2, 0.3), channel=2)
    part(dock, "channel").setCurrentText("Fe")
    propose(dock)
    expected = expected_wrong(prediction, [Decision(2, 0.3)], session_of(viewer).regions)
    assert dock.view.message.notes[0][1] == expected.sentence((0.5, 0.5), "µm")
    part(dock, "until").setValue(round(0.25 * expected.now * 0.99, 1))
    part(dock, "propose").click()
    assert len(session_of(viewer).regions) == 1
    assert "is expected to be reached" in dock.view.message.notes[0][1]
    part(dock, "until").setValue(0.1)
    part(dock, "propose").click()
    assert places(session_of(viewer).regions) == [(r.y, r.x, 8, 10) for r in session_of(viewer).regions]
    assert "more" in dock.view.message.notes[0][1] or "No number of windows" in dock.view.message.notes[0][1]
    part(dock, "score").setCurrentIndex(part(dock, "score").findData("width"))
    assert not part(dock, "until").isVisibleTo(dock)


# ---------------------------------------------------------------- measured again


def propose_two(dock):
    part(dock, "score").setCurrentIndex(dock.view.score.findData("width"))
    propose(dock, count=2)
    return session_of(dock.viewer).regions


def select(dock, *rows):
    dock.view.table.clearSelection()
    for row in rows:
        dock.view.table.selectRow(row)


def column(dock, head):
    names = [dock.view.table.horizontalHeaderItem(k).text() for k in range(dock.view.table.columnCount())]
    return [dock.view.table.item(r, names.index(head)).text() for r in range(dock.view.table.rowCount())]


def test_without_anything_measured_training_cannot_go_on_and_it_says_why(make_dock):
    dock = make_dock(make_prediction())
    assert "no windows yet" in part(dock, "put").toolTip()
    assert "Nothing is measured again" in part(dock, "continue_training").toolTip()
    propose_two(dock)
    assert part(dock, "continue_training").isEnabled() is False
    session_of(dock.viewer).training = None
    assert dock.view.loop._pair.isVisibleTo(dock.view.loop.folded)


def test_a_patch_is_put_into_its_window_and_shown_there(make_dock, viewer):
    dock = make_dock(make_prediction())
    _, second = propose_two(dock)
    values = np.arange(3 * 8 * 10, dtype=np.float32).reshape(3, 8, 10)
    patch = viewer.add_image(values, name="again", axis_labels=("c", "y", "x"))
    dock.view.loop.measured.pick(patch)
    assert part(dock, "put").isEnabled()
    dock.view.table.clearSelection()
    part(dock, "put").click()
    assert "2 windows have 8 x 10 px" in dock.view.message.notes[0][1]
    select(dock, 1)
    part(dock, "put").click()
    assert column(dock, "✓") == ["", "✓"]
    ((region, kept),) = dock.loop.windows()
    assert region.start == second.start
    np.testing.assert_array_equal(kept, values)
    np.testing.assert_allclose(patch.translate[1:], np.multiply(second.start, 0.5))
    np.testing.assert_allclose(patch.scale, (1, 0.5, 0.5))


def test_an_image_of_the_whole_field_fills_all_windows_and_moving_one_empties_it(make_dock, viewer, qtbot):
    dock = make_dock(make_prediction())
    propose_two(dock)
    whole = viewer.add_image(np.random.default_rng(1).random((3, 40, 56), np.float32), name="slow")
    dock.view.loop.measured.pick(whole)
    dock.view.table.clearSelection()
    part(dock, "put").click()
    assert column(dock, "✓") == ["✓", "✓"]
    for region, values in dock.loop.windows():
        np.testing.assert_array_equal(values, whole.data[(slice(None), *region.slices)])
    layer = viewer.layers["soil regions"]
    corners = np.array(layer.data[0])
    corners[:, 0] += 1 if corners[:, 0].max() < 38 else -1
    layer.data = [corners, layer.data[1]]
    settled(dock, qtbot)
    assert sorted(column(dock, "✓")) == ["", "✓"]


def test_an_image_of_another_size_is_refused(make_dock, viewer):
    dock = make_dock(make_prediction())
    propose_two(dock)
    dock.view.loop.measured.pick(viewer.add_image(np.ones((3, 9, 10), np.float32), name="odd"))
    select(dock, 0)
    part(dock, "put").click()
    assert "9 x 10 px, the windows have 8 x 10" in dock.view.message.notes[0][1]
    assert dock.loop.windows() == []


class Continuing:
    """A training that goes on in no time; intervals get half as wide."""

    def __init__(self, make_model, prediction):
        self.make_model, self.prediction = make_model, prediction
        self.fails = False

    def refine_steps(self, model, pair, compute, *, windows, image, regions):
        yield Progress(0, 1, "Training")
        self.asked = (pair, windows, image)
        if self.fails:
            raise ValueError("The windows leave nothing of the held-out part. Propose others.")
        before, after = (
            self.make_model(width=np.full(3, w), coverage=np.full(3, 0.9)).calibrated.report
            for w in (2.0, 1.0)
        )
        return replace(model), Refinement(before, after, 2)

    def predict_steps(self, model, image, compute, *, valid):
        yield Progress(0, 1, "Tile 1 of 1")
        old = self.prediction
        return replace(old, lower=old.median - 0.1, upper=old.median + 0.1)


@pytest.fixture
def continuing(make_model, monkeypatch):
    """A further training under control."""
    fake = Continuing(make_model, make_prediction())
    for name in ("refine_steps", "predict_steps"):
        monkeypatch.setattr(engine, name, getattr(fake, name))
    return fake


@pytest.fixture
def ready(make_dock, continuing, viewer):
    """A dock with two windows measured again, and what the networks were trained on."""
    dock = make_dock(continuing.prediction)
    session = session_of(viewer)
    rng = np.random.default_rng(2)
    session.training = Training(Pair(rng.random((3, 30, 30)), rng.random((3, 30, 30)), "CYX", NAMES))
    propose_two(dock)
    dock.view.loop.measured.pick(viewer.add_image(rng.random((3, 40, 56), np.float32), name="slow"))
    dock.view.table.clearSelection()
    part(dock, "put").click()
    return dock, session


def test_training_continues_with_the_windows_and_reports_the_gain(ready, continuing, viewer, qtbot):
    dock, session = ready
    before = session.model
    windows = dock.loop.windows()
    assert part(dock, "continue_training").isEnabled(), part(dock, "continue_training").toolTip()
    part(dock, "continue_training").click()
    assert not part(dock, "propose").isEnabled()
    settled(dock, qtbot)
    pair, given, image = continuing.asked
    assert pair is session.training.pair
    assert image.axes == "CYX"
    np.testing.assert_array_equal(image.data, session.source.data)
    for (a, b), (c, d) in zip(given, windows, strict=True):
        assert a == c
        np.testing.assert_array_equal(b, d)
    assert session.model is not before
    assert session.training is not None
    np.testing.assert_allclose(session.prediction.width, 0.2, rtol=1e-4)
    assert "soil median" in viewer.layers
    said = [text for _, text in dock.view.loop.gain.notes]
    assert len(said) == 4
    assert said[1].startswith("Si: ")
    assert "2 → 1 (-50.0 %), 90.0 %" in said[1]
    assert column(dock, "✓") == ["✓", "✓"]


def test_the_gain_is_brought_into_sight(ready, continuing, qtbot):
    dock, _ = ready
    dock.resize(460, 560)
    dock.show()
    dock.view.loop.folded.expand(animate=False)
    dock.view.table.clearSelection()
    part(dock, "continue_training").click()
    settled(dock, qtbot)
    gain = dock.view.loop.gain
    qtbot.wait(500)
    assert gain.visibleRegion().boundingRect() == gain.rect()


@pytest.mark.parametrize("fused", [True, False])
def test_training_that_goes_on_says_that_fused_windows_are_lost(ready, continuing, qtbot, fused):
    dock, session = ready
    record = {"fused": [{"window": [0, 0]}]} if fused else {}
    session.prediction = replace(session.prediction, provenance={**session.prediction.provenance, **record})
    dock.view.table.clearSelection()
    part(dock, "continue_training").click()
    settled(dock, qtbot)
    assert [level for level, text in dock.view.message.notes if "fused" in text] == ["amber"] * fused


def test_windows_are_fused_with_the_prediction_before_training_goes_on(ready, viewer, qtbot, monkeypatch):
    dock, session = ready
    before, asked = session.prediction, []

    def fuse_steps(prediction, windows, dwell, scene):
        yield Progress(0, 1)
        asked.append((prediction, [place_of(r) for r, _ in windows], dwell, scene))
        return replace(prediction, median=prediction.median + 1)

    monkeypatch.setattr(engine, "fuse_steps", fuse_steps, raising=False)
    regions = session.regions
    part(dock, "dwell").setValue(20)
    part(dock, "fuse").click()
    settled(dock, qtbot)
    assert asked == [(before, [place_of(r) for r in regions], 20.0, 0)]
    np.testing.assert_array_equal(session.prediction.median, before.median + 1)
    assert "2 windows are fused" in dock.view.message.notes[0][1]
    assert places(session.regions) == places(regions)
    np.testing.assert_array_equal(viewer.layers["soil median"].data, before.median + 1)


def test_what_is_proposed_and_fused_is_in_the_recipe_unless_moved_by_hand(ready, viewer, qtbot, tmp_path):
    dock, session = ready
    steps = [{"do": "predict", "inputs": {}}]
    prediction = replace(session.prediction, provenance={"seed": 0, "recipe": steps})
    held = counted(prediction).held_out
    session.prediction = replace(prediction, held_out=held, calibration=calibrate(held))
    propose_two(dock)
    whole = viewer.add_image(np.ones((3, 40, 56), np.float32), name="slow field")
    dock.view.loop.measured.pick(whole)
    dock.view.table.clearSelection()
    part(dock, "put").click()
    dock.export_to(tmp_path / "r.geojson")
    known = json.loads((tmp_path / "r.geojson").read_text())["napari_btn"]
    assert [s["do"] for s in known["recipe"]] == ["predict", "regions"]
    assert (known["map"], known["recipe"][-1]["search"]["count"]) == ("regions", 2)
    part(dock, "dwell").setValue(20)
    part(dock, "fuse").click()
    settled(dock, qtbot)
    recipe = session.prediction.provenance["recipe"]
    assert [s["do"] for s in recipe] == ["predict", "regions", "fuse", "fuse"]
    first = session.regions[0]
    assert recipe[2]["inputs"]["counts"]["window"] == [[s.start, s.stop] for s in first.slices]
    layer = dock.editor.layer
    layer.data = [np.array(d) + 1 for d in layer.data]
    settled(dock, qtbot)
    session.prediction = replace(session.prediction, provenance={"recipe": steps})
    dock.export_to(tmp_path / "moved.geojson")
    known = json.loads((tmp_path / "moved.geojson").read_text())["napari_btn"]
    assert [s["do"] for s in known["recipe"]] == ["predict"]


def counted(prediction):
    """A prediction whose noisy image is made of counts."""
    rng = np.random.default_rng(5)
    target = rng.gamma(3.0, 1 / 3, prediction.held_out.target.shape).astype(np.float32)
    seen = rng.poisson(2 * target).astype(np.float32)
    return replace(prediction, held_out=replace(prediction.held_out, target=target, observed=seen))


def test_windows_that_share_a_dwell_say_so_in_table_sentence_and_files(make_dock, viewer, qtbot, tmp_path):
    dock = make_dock(counted(make_prediction()))
    assert part(dock, "mean_dwell").text() == "without error"
    propose(dock)
    names = [dock.view.table.horizontalHeaderItem(k).text() for k in range(dock.view.table.columnCount())]
    assert "dwell" not in names
    assert "dwell" not in dock.view.summary.text()
    part(dock, "mean_dwell").setValue(10)
    propose(dock)
    regions = session_of(viewer).regions
    dwells = [r.dwell for r in regions]
    assert 0 < sum(dwells) <= 40 + 1e-6
    assert column(dock, "dwell") == [f"x {d:.3g}" for d in dwells]
    assert "its beam time" in dock.view.summary.text()
    assert "if they are measured without error" not in dock.view.message.notes[0][1]
    assert part(dock, "dwell").text() == "dwell as planned"
    dock.export_to(tmp_path / "r.csv")
    assert read_table(tmp_path / "r.csv")["dwell"] == dwells
    # a moved window has another share of the score, so its dwell was chosen for another place
    layer = dock.editor.layer
    moved = [np.array(d) for d in layer.data]
    moved[0][:, -1] += 3 if moved[0][:, -1].max() < 50 else -3
    layer.data = moved
    settled(dock, qtbot)
    assert column(dock, "dwell")[0] == ""
    assert "3 of 4 windows have a dwell" in dock.view.summary.text()
    # fused maps, or those of networks that learned more, don't change what was planned
    shown = column(dock, "dwell")
    session_of(viewer).prediction = replace(dock._field.prediction, notes=())
    settled(dock, qtbot)
    assert column(dock, "dwell") == shown
    assert [r.dwell for r in session_of(viewer).regions] == [None, *dwells[1:]]


def test_a_dwell_needs_counts_and_says_so(make_dock):
    dock = make_dock(make_prediction())
    part(dock, "mean_dwell").setValue(10)
    propose(dock)
    assert dock.view.message.notes[0][0] == "red"
    assert "dose" in dock.view.message.notes[0][1]


def test_an_error_is_reported_and_nothing_changes(ready, continuing, qtbot):
    dock, session = ready
    continuing.fails = True
    before = session.model
    part(dock, "continue_training").click()
    settled(dock, qtbot)
    assert dock.view.message.notes[0][0] == "red"
    assert "nothing of the held-out part" in dock.view.message.notes[0][1]
    assert session.model is before
    assert part(dock, "continue_training").isEnabled()


def test_images_of_the_training_are_picked_where_the_session_has_none(ready, continuing, viewer, qtbot):
    dock, session = ready
    session.training = None
    assert "trained on" in part(dock, "continue_training").toolTip()
    rng = np.random.default_rng(3)
    for name, picker in (("fast", dock.view.loop.noisy), ("clean", dock.view.loop.clean)):
        picker.pick(viewer.add_image(rng.random((3, 30, 30), np.float32), name=name))
    assert part(dock, "continue_training").isEnabled()
    part(dock, "continue_training").click()
    settled(dock, qtbot)
    np.testing.assert_array_equal(continuing.asked[0].noisy, viewer.layers["fast"].data)


# ---------------------------------------------------------------- margin and order


def test_a_margin_keeps_windows_off_the_border_and_off_each_other(make_dock, viewer):
    prediction = make_prediction()
    dock = make_dock(prediction)
    part(dock, "score").setCurrentIndex(dock.view.score.findData("width"))
    part(dock, "margin").setValue(3)
    propose(dock)
    regions = session_of(viewer).regions
    assert list(regions) == propose_regions(
        score_map(prediction), (8, 10), 4, (0.5, 0.5), "um", margin=3, spacing=3
    )
    assert all(3 <= r.y <= 40 - 8 - 3 and 3 <= r.x <= 56 - 10 - 3 for r in regions)
    part(dock, "margin").setValue(17)
    assert not part(dock, "propose").isEnabled()
    assert "margins of 17 px" in part(dock, "propose").toolTip()


def test_windows_are_listed_as_the_stage_travels(make_dock, viewer):
    prediction = make_prediction()
    dock = make_dock(prediction)
    part(dock, "score").setCurrentIndex(dock.view.score.findData("width"))
    propose(dock, 6, 6, 8)
    best = session_of(viewer).regions
    part(dock, "travel_order").setChecked(True)
    propose(dock, 6, 6, 8)
    route = session_of(viewer).regions
    assert set(places(route)) == set(places(best))
    assert places(route) == places(travel_order(list(best)))
    assert list(viewer.layers["soil regions"].features["rank"]) == list(range(1, 9))


# ---------------------------------------------------------------- inside an area


def test_windows_are_proposed_inside_a_painted_area(make_dock, viewer):
    dock = make_dock(make_prediction())
    propose_two(dock)
    everywhere = {place_of(r) for r in session_of(viewer).regions}
    painted = np.zeros((40, 56), int)
    painted[5:25, 4:24] = 3
    layer = viewer.add_labels(painted, name="field", scale=(0.5, 0.5))
    area = part(dock, "area")
    area.setCurrentIndex(area.findText("field"))
    propose(dock, count=2)
    found = session_of(viewer).regions
    assert {place_of(r) for r in found} != everywhere
    assert all(painted[r.slices].any() for r in found)
    # the table's score is what counts: inside the area
    width = dock.editor.scored.score
    assert [r.score for r in found] == pytest.approx(
        [width[r.slices][painted[r.slices] > 0].sum(dtype=float) for r in found]
    )
    assert "inside the area" in dock.view.summary.text()
    layer.data = np.zeros_like(painted)
    part(dock, "propose").click()
    assert "Paint or draw the area" in dock.view.message.notes[0][1]
    assert {place_of(r) for r in session_of(viewer).regions} == {place_of(r) for r in found}


def test_an_area_of_another_size_is_refused(make_dock, viewer):
    dock = make_dock(make_prediction())
    viewer.add_labels(np.ones((9, 9), int), name="odd")
    part(dock, "area").setCurrentIndex(part(dock, "area").findText("odd"))
    propose_two(dock)
    assert "must have the same size" in dock.view.message.notes[0][1]


def test_drawn_shapes_are_an_area_wherever_their_layer_stands(make_dock, viewer):
    dock = make_dock(make_prediction())
    shapes = viewer.add_shapes(
        [
            np.array([[10.0, 20], [10, 40], [18, 40], [18, 20]]),
            np.array([[29.5, 29.5], [29.5, 50.5], [50.5, 50.5], [50.5, 29.5]]),
            np.array([[0.0, 0], [79, 111]]),
        ],
        shape_type=["rectangle", "ellipse", "line"],
        name="drawn",
        scale=(0.25, 0.25),
        translate=(1.0, 2.0),
    )
    area = dock._field.area(shapes)
    rows, columns = np.mgrid[:40, :56]
    # centres of pixels in coordinates of the shapes
    y, x = (rows * 0.5 - 1.0) / 0.25, (columns * 0.5 - 2.0) / 0.25
    box = (y >= 10) & (y <= 18) & (x >= 20) & (x <= 40)
    disc = (y - 40) ** 2 + (x - 40) ** 2 <= 10.5**2
    np.testing.assert_array_equal(area, box | disc)


def test_what_was_measured_is_left_out_unless_asked_for(make_dock, viewer):
    dock = make_dock(make_prediction())
    first = propose_two(dock)
    assert not part(dock, "unmeasured").isEnabled()
    whole = viewer.add_image(np.ones((3, 40, 56), np.float32), name="slow")
    dock.view.loop.measured.pick(whole)
    dock.view.table.clearSelection()
    part(dock, "put").click()
    assert part(dock, "unmeasured").isEnabled()
    propose(dock, count=2)
    left = np.ones((40, 56), bool)
    for r in first:
        left[r.slices] = False
    later = session_of(viewer).regions
    assert not {place_of(r) for r in later} & {place_of(r) for r in first}
    width = dock.editor.scored.score
    assert later[0].score == pytest.approx(width[later[0].slices][left[later[0].slices]].sum(dtype=float))
    part(dock, "unmeasured").setChecked(False)
    propose(dock, count=2)
    assert {place_of(r) for r in session_of(viewer).regions} == {place_of(r) for r in first}


def test_what_was_measured_belongs_to_its_image(make_dock, viewer, tiny_model):
    dock = make_dock(make_prediction())
    propose_two(dock)
    dock.view.loop.measured.pick(viewer.add_image(np.ones((3, 40, 56), np.float32), name="slow"))
    dock.view.table.clearSelection()
    part(dock, "put").click()
    fill(viewer, tiny_model, make_prediction(), name="other")
    assert not part(dock, "unmeasured").isEnabled()
