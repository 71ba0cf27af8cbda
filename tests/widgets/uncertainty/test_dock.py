"""The Uncertainty dock: live maps of a threshold, claims, line cuts, pixels and coverage.

Long because all tests share one dock with a made-up prediction, made by the functions at the top.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtWidgets import QAbstractButton, QAbstractSlider, QComboBox, QDoubleSpinBox, QWidget
from scipy.stats import norm

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import covered
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.data.image import Box, Image
from napari_btn.core.data.pairs import Pair
from napari_btn.core.inference.jacobian import EquivalentFilter
from napari_btn.core.progress import Note, Progress
from napari_btn.session import Threshold, Training, session_of
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.side_by_side import _caption, _grid
from napari_btn.widgets.shared.tabs import open_dock

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
Z = norm.ppf(LEVELS).astype(np.float32)
NAMES = ("Si", "Al", "Fe")


def make_prediction(shape=(3, 40, 56), axes="CYX", notes=()):
    rng = np.random.default_rng(0)
    centre = rng.normal(size=shape).astype(np.float32)
    quantiles = centre + Z.reshape(-1, *([1] * len(shape)))
    n = 9000
    held_out = HeldOut(
        np.broadcast_to(Z[:, None, None], (7, 3, n)).copy(),
        rng.normal(size=(3, n)).astype(np.float32),
        np.arange(n) // 100,
        LEVELS,
    )
    return Prediction(
        quantiles[0],
        centre,
        quantiles[-1],
        np.full(shape, 0.2, np.float32),
        quantiles,
        LEVELS,
        axes,
        NAMES,
        (0.5,) * (len(shape) - 1),
        "um",
        0.1,
        "clean",
        provenance={"seed": 0},
        notes=notes,
        distribution=exceedance_from(held_out),
        held_out=held_out,
    )


def equivalent_filter_steps(model, image, at, compute, *, channel, scene, noise_factor):
    yield Progress(0, 1, "Looking through member 1 of 1")
    if channel == 2:
        raise ValueError("The image has other channels.")
    box = Box(scene, tuple(slice(max(p - 3, 0), p + 4) for p in at))
    crop = np.zeros((3, *box.shape), np.float32)
    crop[channel, 3, 3] = 0.5 / noise_factor
    return EquivalentFilter(
        crop, box, image.data.shape, image.axes, tuple(at), channel, 2.0, 0.25 * noise_factor
    )


def coverage_by_level(model, alphas):
    return 1 - np.tile(np.asarray(alphas), (3, 1))


def missed_share(model, shape, axes, image):
    if image.data.mean() < -1e6:
        raise ValueError("This image is not the one that the held-out scores come from.")
    painted = np.full((3, *shape), np.nan, np.float32)
    painted[..., : shape[-1] // 2] = 0.1
    return painted


@pytest.fixture
def model(make_model, monkeypatch):
    """A model, and answers to questions about it that take no time."""
    for answer in (equivalent_filter_steps, coverage_by_level, missed_share):
        monkeypatch.setattr(engine, answer.__name__, answer)
    notes = (Note("amber", "Few blocks."), Note("red", "Overlap."))
    return make_model(bin_coverage=np.array([[0.9] * 9 + [0.8]] * 3), warnings=notes)


def fill(viewer, prediction, model):
    """What the Denoise dock leaves behind."""
    from napari_btn.widgets.shared.layers import read_layer
    from napari_btn.widgets.shared.results import show_prediction

    grid = {
        "axis_labels": tuple(prediction.axes.lower()),
        "scale": tuple(1.0 if a == "C" else 0.5 for a in prediction.axes),
        "metadata": {"channel_names": list(NAMES)},
    }
    rng = np.random.default_rng(1)
    noise = rng.normal(size=prediction.median.shape).astype(np.float32)
    noisy = viewer.add_image(0.01 * (prediction.median + 0.3 * noise), name="soil", **grid)
    viewer.add_image(prediction.median + 0.1, name="soil clean", **grid)
    source = read_layer(noisy)
    session = session_of(viewer)
    session.model = model
    session.source = Image(source.data, source.axes, NAMES, (0.5, 0.5), "um", "soil")
    session.prediction = prediction
    show_prediction(viewer, prediction, source)
    return session


@pytest.fixture
def make_dock(viewer, qtbot):
    docks = []

    def make(prediction=None, model=None):
        from napari_btn.widgets.uncertainty.dock import UncertaintyWidget

        if prediction is not None:
            fill(viewer, prediction, model)
        dock = UncertaintyWidget(viewer)
        qtbot.addWidget(dock)
        docks.append(dock)
        return dock

    yield make
    for dock in docks:
        dock.leave()


def drawn(dock, qtbot):
    qtbot.waitUntil(lambda: not (dock._due or dock._settle.isActive() or dock.lifetime.runs))


def part(dock, name):
    return dock.findChild(QWidget, name)


def test_an_empty_dock_says_what_to_do_first(make_dock):
    dock = make_dock()
    assert "Train" in dock.view.hint.notes[0][1]
    assert not part(dock, "threshold").isEnabled()
    assert not part(dock, "line_cut").isEnabled()


def test_every_control_has_a_tooltip_and_a_name(make_dock, model):
    dock = make_dock(make_prediction(), model)
    for kind in (QAbstractButton, QComboBox, QDoubleSpinBox, QAbstractSlider):
        for control in dock.findChildren(kind):
            if not control.objectName() or control.objectName().startswith(("qt_", "Scroll")):
                continue  # Qt's own: scroll bars, arrows of tabs
            assert control.toolTip(), control.objectName()
            assert control.accessibleName(), control.objectName()
    for name in ("channel", "threshold", "confidence", "line_cut", "report"):
        assert part(dock, name) is not None
    assert isinstance(part(dock, "line_cut"), QAbstractButton)


def test_a_threshold_makes_the_calibrated_map_where_the_median_stands(make_dock, model, viewer, qtbot):
    prediction = make_prediction()
    dock = make_dock(prediction, model)
    part(dock, "channel").setCurrentIndex(2)
    part(dock, "threshold").setValue(0.25)
    drawn(dock, qtbot)
    layer = viewer.layers["soil P(> t)"]
    np.testing.assert_array_equal(layer.data[2], prediction.exceedance(0.25, "Fe"))
    np.testing.assert_allclose(layer.scale, viewer.layers["soil median"].scale)
    record = layer.metadata["napari_btn"]
    assert record["thresholds"][2] == 0.25
    assert "not right for each pixel" in record["caption"]
    assert record["provenance"] == {"seed": 0}
    assert "Fe > 0.25" in part(dock, "caption").text()
    assert dock.view.toggles["exceedance"].isChecked()
    assert session_of(viewer).threshold.value == 0.25


def test_slider_and_box_stay_in_sync(make_dock, model, qtbot):
    dock = make_dock(make_prediction(), model)
    slider = part(dock, "threshold_slider")
    slider.setValue(slider.maximum())
    top = part(dock, "threshold").value()
    slider.setValue(slider.minimum())
    assert part(dock, "threshold").value() < top
    part(dock, "threshold").setValue(1e6)
    assert slider.value() == slider.maximum()
    assert part(dock, "threshold").value() == 1e6
    drawn(dock, qtbot)


def test_channel_and_viewer_follow_each_other(make_dock, model, viewer, qtbot):
    dock = make_dock(make_prediction(), model)
    part(dock, "channel").setCurrentIndex(1)
    assert viewer.dims.current_step[0] == 1
    part(dock, "threshold").setValue(0.1)
    viewer.dims.set_current_step(0, 2)
    assert part(dock, "channel").currentText() == "Fe"
    part(dock, "threshold").setValue(0.3)
    viewer.dims.set_current_step(0, 1)
    assert part(dock, "threshold").value() == pytest.approx(0.1)
    drawn(dock, qtbot)


def test_claims_are_the_pixels_whose_bound_lies_above(make_dock, model, viewer, qtbot):
    prediction = make_prediction()
    dock = make_dock(prediction, model)
    part(dock, "threshold").setValue(0.2)
    part(dock, "confidence").setValue(0.8)
    drawn(dock, qtbot)
    mask = viewer.layers["soil flagged > t"].data
    c = dock.focus.asked.channel
    np.testing.assert_array_equal(mask[c] > 0, prediction.lower_bound(0.8, c) > 0.2)
    assert part(dock, "caption").text().startswith(f"{int(mask[c].sum())} pixels outlined.")
    assert "most can be wrong" in part(dock, "caption").text()
    features = viewer.layers["soil flagged > t"].features
    assert list(features["index"]) == [0, 1]


def test_a_selected_set_says_its_false_discovery_level(make_dock, model, viewer, qtbot):
    prediction = make_prediction()
    dock = make_dock(prediction, model)
    part(dock, "threshold").setValue(0.2)
    part(dock, "select").setChecked(True)
    drawn(dock, qtbot)
    c = dock.focus.asked.channel
    wanted = prediction.select(0.2, c, level=0.1)
    np.testing.assert_array_equal(viewer.layers["soil flagged > t"].data[c] > 0, wanted.mask)
    assert part(dock, "caption").text() == wanted.caption
    assert not part(dock, "confidence").isEnabled()


def test_a_locked_threshold_is_recalibrated_once_and_makes_nothing_stale(
    make_dock, model, viewer, qtbot, monkeypatch
):
    prediction, made = make_prediction(), []
    recalibrated = Prediction.recalibrated
    monkeypatch.setattr(
        Prediction, "recalibrated", lambda self, *at: made.append(at) or recalibrated(self, *at)
    )
    dock = make_dock(prediction, model)
    session = session_of(viewer)
    session.tokens = tokens = object()
    part(dock, "channel").setCurrentIndex(2)
    part(dock, "threshold").setValue(0.3)
    drawn(dock, qtbot)
    plain = prediction.exceedance(0.3, "Fe")
    part(dock, "lock").click()
    drawn(dock, qtbot)
    layer, wanted = viewer.layers["soil P(> t)"], prediction.exceedance(0.3, "Fe", locked=True)
    assert not np.array_equal(wanted, plain)
    np.testing.assert_array_equal(layer.data[2], wanted)
    assert not part(dock, "threshold").isEnabled()
    assert not part(dock, "threshold_slider").isEnabled()
    assert (
        "calibrated for this threshold with 90 held-out blocks. Its sum estimates the area"
        in part(dock, "caption").text()
    )
    assert layer.metadata["napari_btn"]["locks"] == {"Fe": 0.3}
    assert session.model.calibrated.locks == session.prediction.locks == {"Fe": 0.3}
    assert session.prediction.median is prediction.median
    assert session.tokens is tokens
    # another channel has its own threshold, which moves
    part(dock, "channel").setCurrentIndex(0)
    assert not part(dock, "lock").isChecked()
    assert part(dock, "threshold").isEnabled()
    part(dock, "threshold").setValue(0.1)
    drawn(dock, qtbot)
    np.testing.assert_array_equal(layer.data[0], prediction.exceedance(0.1, "Si"))
    part(dock, "channel").setCurrentIndex(2)
    assert part(dock, "lock").isChecked()
    drawn(dock, qtbot)
    np.testing.assert_array_equal(layer.data[2], wanted)
    assert made.count((0.3, 2)) == 2  # one for the dock, one above
    part(dock, "lock").click()
    drawn(dock, qtbot)
    np.testing.assert_array_equal(layer.data[2], plain)
    assert part(dock, "threshold").isEnabled()
    assert "recalibrated" not in part(dock, "caption").text()
    assert session.model.calibrated.locks == {}


def test_a_lock_that_cannot_be_used_says_so_under_the_map(make_dock, model, qtbot):
    locks = {"Fe": 1e6}
    dock = make_dock(replace(make_prediction(), locks=locks), model.with_locks(locks))
    part(dock, "channel").setCurrentIndex(2)
    part(dock, "show_exceedance").click()
    drawn(dock, qtbot)
    assert not part(dock, "lock").isChecked()
    assert "The locked threshold Fe > 1e+06 is not used: only 0 held-out blocks" in dock.view.caption.text()
    assert "is not used" not in dock.view.caption.text().split("The unlocked map")[1]


def test_locks_of_the_model_are_shown_by_a_new_dock(make_dock, model, viewer, qtbot):
    locks = {"Al": 0.7, "Fe": -0.4}
    prediction = replace(make_prediction(), locks=locks)
    session_of(viewer).threshold = Threshold((0.1, 0.1, 0.1), 1)
    dock = make_dock(prediction, model.with_locks(locks))
    assert dock.focus.asked.values == (0.1, 0.7, -0.4)
    part(dock, "channel").setCurrentIndex(1)
    assert part(dock, "lock").isChecked()
    part(dock, "show_exceedance").click()
    drawn(dock, qtbot)
    layer = viewer.layers["soil P(> t)"]
    for name, value in locks.items():
        np.testing.assert_array_equal(
            layer.data[NAMES.index(name)], prediction.exceedance(value, name, locked=True)
        )
    # another dock looks at another threshold: that one is not locked, the model's stays
    session_of(viewer).threshold = Threshold((0.1, 0.2, 0.2), 1)
    assert not part(dock, "lock").isChecked()
    drawn(dock, qtbot)
    np.testing.assert_array_equal(layer.data[1], prediction.exceedance(0.2, "Al"))
    assert session_of(viewer).model.calibrated.locks == locks


def test_a_threshold_that_no_block_reaches_is_not_locked(make_dock, model, viewer, qtbot):
    locks = {"Al": 50.0}  # as an earlier version saved it
    prediction = replace(make_prediction(), locks=locks)
    session_of(viewer).threshold = Threshold((0.1, 50.0, 0.1), 1)
    dock = make_dock(prediction, model.with_locks(locks))
    part(dock, "channel").setCurrentIndex(1)
    assert dock.focus.asked.value == 50.0
    assert not part(dock, "lock").isChecked()
    part(dock, "show_exceedance").click()
    drawn(dock, qtbot)
    np.testing.assert_array_equal(viewer.layers["soil P(> t)"].data[1], prediction.exceedance(50.0, "Al"))
    part(dock, "lock").click()
    assert not part(dock, "lock").isChecked()
    assert "Only 0 held-out blocks have targets above 50" in dock.view.hint.text()
    assert session_of(viewer).model.calibrated.locks == locks


def test_the_sum_of_the_map_is_shown_as_an_area(make_dock, model, viewer, qtbot):
    prediction = make_prediction()
    dock = make_dock(prediction, model)
    part(dock, "channel").setCurrentIndex(2)
    part(dock, "threshold").setValue(0.25)
    drawn(dock, qtbot)
    area = float(prediction.exceedance(0.25, "Fe").sum(dtype=np.float64))
    assert f"Estimated area above 0.25: {area / 4:.4g} µm² (sum of the map)." in part(dock, "caption").text()
    session_of(viewer).prediction = replace(prediction, pixel_size=None, unit="px")
    part(dock, "threshold").setValue(0.3)
    drawn(dock, qtbot)
    area = float(prediction.exceedance(0.3, "Fe").sum(dtype=np.float64))
    assert f"Estimated area above 0.3: {area:.4g} pixels (sum of the map)." in part(dock, "caption").text()


def test_without_held_out_scores_nothing_can_be_locked(make_dock, model):
    dock = make_dock(replace(make_prediction(), held_out=None), model)
    assert part(dock, "threshold").isEnabled()
    assert not part(dock, "lock").isEnabled()


def test_a_volume_shows_the_plane_in_sight_at_once_and_the_rest_after(
    make_dock, model, viewer, qtbot, monkeypatch
):
    monkeypatch.setattr("napari_btn.widgets.uncertainty.dock._AT_ONCE", 0)
    prediction = make_prediction((3, 5, 20, 24), "CZYX")
    dock = make_dock(prediction, model)
    viewer.dims.set_point([0, 1], [1, 1.5])
    part(dock, "threshold").setValue(0.3)
    dock._draw()
    layer = viewer.layers["soil P(> t)"]
    wanted = prediction.exceedance(0.3, 1)
    np.testing.assert_array_equal(layer.data[1, 3], wanted[3])
    assert not layer.data[1, 0].any()
    drawn(dock, qtbot)
    np.testing.assert_array_equal(layer.data[1], wanted)


def test_of_a_lazy_volume_only_planes_in_sight_are_read_at_once(make_dock, model, viewer, qtbot, monkeypatch):
    da = pytest.importorskip("dask.array")
    monkeypatch.setattr("napari_btn.widgets.uncertainty.dock._AT_ONCE", 2000)
    whole = make_prediction((3, 40, 20, 24), "CZYX")
    read = []

    def seen(block, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return block

    def lazy(values):
        planes = da.from_array(values, chunks=(*([1] * (values.ndim - 2)), 20, 24))
        return planes.map_blocks(seen, dtype=values.dtype, meta=np.empty((0,) * values.ndim, np.float32))

    names = ("lower", "median", "upper", "spread", "quantiles")
    prediction = replace(whole, **{n: lazy(getattr(whole, n)) for n in names})
    dock = make_dock(prediction, model)
    read.clear()
    part(dock, "threshold").setValue(0.3)
    dock._draw()
    # seven levels of one plane; of the volume, other planes of them are for the worker
    assert {at[2] for at in read if len(at) == 5} <= {dock.focus.at()["Z"]}
    read.clear()
    dock._show_controls()
    part(dock, "show_spread").click()
    assert len({at[1] for at in read if len(at) == 4}) <= 10
    drawn(dock, qtbot)
    shown = dock.focus.at()["C"]
    np.testing.assert_array_equal(viewer.layers["soil P(> t)"].data[shown], whole.exceedance(0.3, shown))


def test_the_text_follows_when_the_slider_rests(make_dock, model, qtbot):
    dock = make_dock(make_prediction(), model)
    drawn(dock, qtbot)
    part(dock, "threshold").setValue(0.3)
    drawn(dock, qtbot)
    before = dock.view.caption.text()
    assert "0.3" in before
    part(dock, "threshold").setValue(0.7)
    qtbot.waitUntil(lambda: not dock._due)
    assert dock.view.caption.text() == before
    drawn(dock, qtbot)
    assert "0.7" in dock.view.caption.text()


def test_a_line_cut_follows_the_channel_and_scales_the_observed_values(make_dock, model, viewer, qtbot):
    prediction = make_prediction()
    dock = make_dock(prediction, model)
    part(dock, "channel").setCurrentIndex(0)
    part(dock, "line_cut").click()
    drawn(dock, qtbot)
    layer = viewer.layers["soil line cut"]
    np.testing.assert_allclose(layer.scale, (0.5, 0.5))
    layer.data = [np.array([[7.0, 3.0], [7.0, 50.0]])]
    drawn(dock, qtbot)
    curves = dock.view.line_chart.curves
    assert set(curves) == {"lower", "median", "upper", "observed", "truth"}
    np.testing.assert_allclose(curves["median"], prediction.median[0, 7, 3:51], atol=1e-6)
    np.testing.assert_allclose(curves["truth"], prediction.median[0, 7, 3:51] + 0.1, atol=1e-6)
    assert np.std(curves["observed"]) == pytest.approx(np.std(curves["median"]), rel=0.3)
    said = dock.view.line_note.notes[0][1]
    assert "% of the truth along the line lies inside the interval" in said
    assert said.endswith(f"Aimed at: 90 % of {covered(prediction.covers)}, on average.")
    viewer.dims.set_current_step(0, 2)
    drawn(dock, qtbot)
    np.testing.assert_allclose(
        dock.view.line_chart.curves["median"], prediction.median[2, 7, 3:51], atol=1e-6
    )
    assert "truth" in dock.view.line_chart.legend.text()
    assert "threshold" not in dock.view.line_chart.legend.text()
    part(dock, "truth").setCurrentIndex(0)
    drawn(dock, qtbot)
    assert "truth" not in dock.view.line_chart.curves
    assert "truth" not in dock.view.line_chart.legend.text()
    assert "observed" in dock.view.line_chart.legend.text()
    viewer.layers.remove(layer)
    drawn(dock, qtbot)
    assert dock.view.line_chart.isHidden()


def test_a_click_shows_interval_distribution_and_spread(make_dock, model, viewer, qtbot):
    prediction = make_prediction()
    dock = make_dock(prediction, model)
    part(dock, "channel").setCurrentIndex(2)
    viewer.layers.selection.active = viewer.layers["soil median"]
    event = SimpleNamespace(type="mouse_press", position=(2, 5.0, 10.0), pos=(1, 1))
    click = viewer.mouse_drag_callbacks[-1](viewer, event)
    next(click)
    event.type = "mouse_release"
    assert next(click, None) is None
    text = part(dock, "pixel").text()
    assert "Fe at y 10, x 20" in text
    assert f"{prediction.median[2, 10, 20]:.4g}" in text
    assert f"{prediction.lower[2, 10, 20]:.4g} to {prediction.upper[2, 10, 20]:.4g}" in text
    assert "0.2" in text
    assert "P(> " in text
    assert "truth" in text
    dock.pixel.show_pixel(-1, 5)
    assert "y 10, x 20" in part(dock, "pixel").text()


def test_after_drawing_a_line_a_pixel_can_be_clicked(make_dock, model, viewer):
    dock = make_dock(make_prediction(), model)
    part(dock, "line_cut").click()
    event = SimpleNamespace(type="mouse_press", position=(2, 5.0, 10.0), pos=(1, 1))
    next(click := viewer.mouse_drag_callbacks[-1](viewer, event))
    event.type = "mouse_release"
    next(click, None)
    assert "Click a pixel" in part(dock, "pixel").text()
    dock.view.tabs.setCurrentIndex(1)
    event.type = "mouse_press"
    next(click := viewer.mouse_drag_callbacks[-1](viewer, event))
    event.type = "mouse_release"
    next(click, None)
    assert "y 10, x 20" in part(dock, "pixel").text()


def test_the_token_of_a_pixel_is_named_where_there_are_tokens(make_dock, model, viewer, monkeypatch):
    dock = make_dock(make_prediction(), model)
    labels = np.zeros((40, 56), int)
    labels[3, 4] = 17
    tokens = SimpleNamespace(axes="YX", labels=labels)
    monkeypatch.setattr(type(session_of(viewer)), "tokens", tokens, raising=False)
    dock.pixel.show_pixel(3, 4)
    assert "token" in part(dock, "pixel").text()
    assert "<b>17</b>" in part(dock, "pixel").text()


def test_a_drag_is_not_a_click(make_dock, model, viewer):
    dock = make_dock(make_prediction(), model)
    event = SimpleNamespace(type="mouse_press", position=(2, 5.0, 10.0), pos=(1, 1))
    drag = viewer.mouse_drag_callbacks[-1](viewer, event)
    next(drag)
    event.type, event.pos = "mouse_move", (30, 1)
    assert next(drag, None) is None
    assert "Click a pixel" in part(dock, "pixel").text()


def test_the_dock_is_rebuilt_from_the_session_alone(make_dock, model, viewer, qtbot):
    prediction = make_prediction()
    first = make_dock(prediction, model)
    part(first, "channel").setCurrentIndex(2)
    part(first, "threshold").setValue(0.25)
    part(first, "confidence").setValue(0.9)
    drawn(first, qtbot)
    first.leave()
    second = make_dock()
    assert part(second, "channel").currentText() == "Fe"
    assert part(second, "threshold").value() == 0.25
    assert part(second, "confidence").value() == 0.9
    part(second, "threshold").setValue(0.5)
    drawn(second, qtbot)
    np.testing.assert_array_equal(viewer.layers["soil P(> t)"].data[2], prediction.exceedance(0.5, 2))
    assert [layer.name for layer in viewer.layers].count("soil P(> t)") == 1


def test_another_dock_may_set_the_threshold(make_dock, model, viewer, qtbot):
    dock = make_dock(make_prediction(), model)
    c = dock.focus.asked.channel
    session_of(viewer).threshold = Threshold((0.7, 0.7, 0.7), 0, 0.6)
    assert part(dock, "threshold").value() == pytest.approx(0.7)
    assert part(dock, "confidence").value() == pytest.approx(0.6)
    assert dock.focus.asked.channel == c
    drawn(dock, qtbot)


def test_a_new_model_takes_the_old_maps_away_from_the_dock(make_dock, model, viewer, qtbot):
    dock = make_dock(make_prediction(), model)
    part(dock, "threshold").setValue(0.3)
    session_of(viewer).model = replace(model)
    assert dock.focus.live is None
    assert not part(dock, "threshold").isEnabled()
    drawn(dock, qtbot)
    assert part(dock, "caption").text() == ""


def test_drift_is_reported_without_repeating_notes_of_the_report(make_dock, model):
    notes = (Note("amber", "Few blocks."), Note("red", "Noise twice as high."))
    dock = make_dock(make_prediction(notes=notes), model)
    assert dock.view.drift.notes == (("red", "This image: Noise twice as high."),)


def test_maps_without_quantiles_can_be_looked_at_but_not_thresholded(make_dock, model, viewer):
    from dataclasses import replace

    dock = make_dock(replace(make_prediction(), quantiles=None), model)
    assert dock.view.hint.notes[0][0] == "amber"
    assert not part(dock, "threshold").isEnabled()
    dock.pixel.show_pixel(3, 4)
    assert "interval" in part(dock, "pixel").text()
    dock.view.toggles["width"].click()
    assert viewer.layers["soil width"].visible


def test_toggles_show_what_is_in_sight(make_dock, model, viewer, qtbot):
    dock = make_dock(make_prediction(), model)
    assert dock.view.toggles["median"].isChecked()
    dock.view.toggles["median"].click()
    assert not viewer.layers["soil median"].visible
    dock.view.toggles["upper"].click()
    assert viewer.layers["soil upper"].visible
    assert viewer.layers["soil upper"].contrast_limits == viewer.layers["soil median"].contrast_limits
    viewer.layers["soil upper"].visible = False
    assert not dock.view.toggles["upper"].isChecked()
    dock.view.toggles["spread"].click()
    np.testing.assert_array_equal(viewer.layers["soil spread"].data, np.float32(0.2))
    viewer.layers.remove("soil width")
    assert not dock.view.toggles["width"].isEnabled()
    drawn(dock, qtbot)


def test_side_by_side_and_back(make_dock, model, viewer):
    from napari_btn.widgets.shared.side_by_side import _grid

    dock = make_dock(make_prediction(), model)
    before = {layer.name: layer.visible for layer in viewer.layers}
    part(dock, "side_by_side").click()
    assert [layer.name for layer in viewer.layers if layer.visible] == ["soil", "soil median", "soil width"]
    grid = _grid(viewer)
    assert grid.enabled
    part(dock, "side_by_side").click()
    assert not grid.enabled
    assert {layer.name: layer.visible for layer in viewer.layers} == before


def test_coverage_is_shown_and_missed_blocks_painted(make_dock, model, viewer, qtbot):
    dock = make_dock(make_prediction(), model)
    dock.view.tabs.setCurrentIndex(2)
    drawn(dock, qtbot)
    assert not dock.view.reliability.isHidden()
    assert "Fe" in part(dock, "report").text()
    assert "Overlap" in part(dock, "report").text()
    part(dock, "miscoverage").click()
    drawn(dock, qtbot)
    layer = viewer.layers["soil miscoverage"]
    assert layer.data.shape == (3, 40, 56)
    np.testing.assert_allclose(layer.scale, (1, 0.5, 0.5))
    assert "are aimed at, on average" in part(dock, "missed_note").text()
    assert "Covered least" in part(dock, "worst").text()


def test_a_second_frame_is_checked_with_one_click(make_dock, model, viewer, qtbot):
    prediction = make_prediction()
    dock = make_dock(prediction, model)
    dock.view.tabs.setCurrentIndex(2)
    drawn(dock, qtbot)
    known = {part(dock, "second_frame").itemText(i) for i in range(part(dock, "second_frame").count())}
    assert "soil" not in known
    frame = np.array(prediction.median)
    frame[0, :20] = prediction.upper[0, :20] + 1
    viewer.add_image(frame, name="frame 2", axis_labels=("c", "y", "x"))
    dock.coverage._list_frames()
    part(dock, "second_frame").setCurrentText("frame 2")
    part(dock, "check_second").click()
    drawn(dock, qtbot)
    said = part(dock, "second_note").text()
    assert "50.0 % of" in said
    assert "100.0 % of" in said
    assert "Aimed at" in said
    assert "Of a noisier image fewer lie inside" in said
    assert "so more may lie inside" not in said
    dock.session.prediction = replace(prediction, covers="thinned counts")
    drawn(dock, qtbot)
    part(dock, "second_frame").setCurrentText("frame 2")
    part(dock, "check_second").click()
    drawn(dock, qtbot)
    said = part(dock, "second_note").text()
    assert (
        "of twice a count at half the dose, on average. A frame at the full dose has half the variance"
        in said
    )
    assert "noisier" not in said


def test_a_check_on_the_field_of_the_training_says_that_it_flatters(make_dock, model, viewer, qtbot):
    prediction = replace(make_prediction(), covers="replicate")
    dock = make_dock(prediction, model)
    dock.session.training = Training(Pair(prediction.median, prediction.median, "CYX", NAMES, name="soil"))
    dock.view.tabs.setCurrentIndex(2)
    drawn(dock, qtbot)
    part(dock, "second_frame").setCurrentText("soil clean")
    part(dock, "check_second").click()
    drawn(dock, qtbot)
    said = part(dock, "second_note").text()
    assert "trained on a part of this field, so more may lie inside" in said
    assert "noisier" not in said


def test_the_equivalent_filter_becomes_a_layer_in_its_place(make_dock, model, viewer, qtbot):
    dock = make_dock(make_prediction(), model)
    part(dock, "channel").setCurrentIndex(1)
    assert part(dock, "filter").isHidden()
    dock.pixel.show_pixel(20, 30)
    drawn(dock, qtbot)
    assert not part(dock, "filter").isHidden()
    part(dock, "filter").click()
    drawn(dock, qtbot)
    layer = viewer.layers["soil filter"]
    assert layer.data.shape == (3, 7, 7)
    np.testing.assert_allclose(
        layer.world_to_data(viewer.layers["soil median"].data_to_world((1, 20, 30))), (1, 3, 3)
    )
    assert layer.contrast_limits == [-0.5, 0.5]
    assert layer.metadata["napari_btn"]["net_bias"] == 0.25
    note = part(dock, "filter_note")
    assert "2 = 1.75 from the noisy pixels" in note.text()
    assert "With twice the noise: net bias 0.5, effective width 1.13 px" in note.text()
    assert "from constants of the networks (net bias)" in note.text()
    (own,), (noisier,) = dock.view.filter_chart.rows
    np.testing.assert_array_equal(own.plane, 2 * noisier.plane)
    assert own.plane[3, 3] == 0.5
    # it follows the pixel
    dock.pixel.show_pixel(10, 40)
    drawn(dock, qtbot)
    assert viewer.layers["soil filter"] is layer
    np.testing.assert_allclose(
        layer.world_to_data(viewer.layers["soil median"].data_to_world((1, 10, 40))), (1, 3, 3)
    )
    part(dock, "filter").click()
    assert not note.text()
    assert dock.view.filter_chart.isHidden()


def test_the_filter_follows_a_drag_with_shift_and_the_channel(make_dock, model, viewer, qtbot):
    dock = make_dock(make_prediction(), model)
    dock.pixel.show_pixel(20, 30)
    part(dock, "filter").click()
    drawn(dock, qtbot)
    median, layer = viewer.layers["soil median"], viewer.layers["soil filter"]

    def drag(modifiers, *places):
        event = SimpleNamespace(type="mouse_press", modifiers=modifiers, pos=(0, 0), position=None)
        running = [callback(viewer, event) for callback in viewer.mouse_drag_callbacks]
        running = [one for one in running if next(one, "ended") != "ended"]
        for n, place in enumerate(places):
            event.type, event.pos, event.position = (
                "mouse_move",
                (50 * n + 50, 0),
                median.data_to_world(place),
            )
            running = [one for one in running if next(one, "ended") != "ended"]
        event.type = "mouse_release"
        for one in running:
            next(one, None)

    drag((), (0, 12, 18))
    drawn(dock, qtbot)
    assert layer.metadata["napari_btn"]["at"] == [20, 30]
    drag(("Shift",), (0, 12, 18), (0, 13, 19), (0, 38, 50))
    qtbot.waitUntil(lambda: layer.metadata["napari_btn"]["at"] == [38, 50])
    assert "y 38, x 50" in part(dock, "pixel").text()
    part(dock, "channel").setCurrentIndex(1)
    qtbot.waitUntil(lambda: layer.metadata["napari_btn"]["channel"] == NAMES[1])


def with_positions(prediction):
    """The prediction with places of its held-out pixels."""
    position = np.column_stack([np.zeros(9000, int), np.argwhere(np.ones((90, 100), bool))])
    return replace(prediction, held_out=replace(prediction.held_out, position=position))


def test_draws_are_one_layer_that_slider_and_movie_move_through(make_dock, model, viewer, qtbot):
    prediction = with_positions(make_prediction())
    fill(viewer, prediction, model)
    dock = make_dock()
    assert not dock.view.draw_slider.isEnabled()
    dock.view.draws_count.setValue(3)
    dock.view.draw.click()
    qtbot.waitUntil(lambda: "soil draw" in viewer.layers)
    layer = viewer.layers["soil draw"]
    draws = prediction.draws(3)
    np.testing.assert_array_equal(layer.data, draws[0])
    np.testing.assert_allclose(layer.scale, viewer.layers["soil median"].scale)
    assert layer.contrast_limits == viewer.layers["soil median"].contrast_limits
    dock.view.draw_slider.setValue(2)
    np.testing.assert_array_equal(viewer.layers["soil draw"].data, draws[2])
    assert "Draw 3 of 3" in dock.view.draws_note.text()
    dock.view.play.click()
    assert dock.view.play.text() == "Pause"
    assert dock.view.draw_slider.value() == 0
    qtbot.waitUntil(lambda: dock.view.draw_slider.value() == 1)
    dock.view.play.click()
    assert dock.view.play.text() == "Play"
    # another prediction has no draws yet
    session_of(viewer).prediction = with_positions(make_prediction())
    assert not dock.view.draw_slider.isEnabled()


def test_a_statistic_of_a_painted_region_has_an_interval(make_dock, model, viewer, qtbot):
    prediction = with_positions(make_prediction())
    fill(viewer, prediction, model)
    dock = make_dock()
    painted = np.zeros((40, 56), int)
    painted[5:20, 6:30] = 1
    viewer.add_labels(painted, name="grain", scale=(0.5, 0.5))
    assert [dock.view.region.itemText(i) for i in range(dock.view.region.count())] == ["whole field", "grain"]
    dock.view.region.setCurrentText("grain")
    dock.view.statistic.setCurrentText("Mean")
    dock.view.measure.click()
    qtbot.waitUntil(lambda: "draws" in dock.view.draws_note.text())
    channel = dock.focus.asked.channel
    expected = prediction.statistic("mean", channel, region=painted, n=99)
    text = dock.view.draws_note.text()
    assert f"{expected.lower:.4g} to {expected.upper:.4g}" in text
    assert NAMES[channel] in text
    assert "grain" in text
    dock.view.statistic.setCurrentText("Area above t")
    dock.view.measure.click()
    qtbot.waitUntil(lambda: "µm²" in dock.view.draws_note.text())
    assert "clean signal" not in dock.view.draws_note.text()


def test_after_noisy_targets_texts_say_that_values_are_noisy(make_dock, model, viewer, qtbot):
    prediction = replace(with_positions(make_prediction()), covers="replicate")
    fill(viewer, prediction, model)
    dock = make_dock()
    says = "These are values of a repeat, with its noise: they say nothing of the clean signal"
    part(dock, "show_exceedance").click()
    drawn(dock, qtbot)
    assert says in part(dock, "caption").text()
    part(dock, "select").click()
    drawn(dock, qtbot)
    assert "in a repeat" in part(dock, "caption").text()
    dock.view.draws_count.setValue(2)
    dock.view.draw.click()
    qtbot.waitUntil(lambda: "Draw 1 of 2" in dock.view.draws_note.text())
    assert says in dock.view.draws_note.text()
    dock.view.measure.click()
    qtbot.waitUntil(lambda: "% of 99 draws" in dock.view.draws_note.text())
    assert says in dock.view.draws_note.text()


def test_draws_that_cannot_be_made_say_why(make_dock, model, viewer, qtbot):
    fill(viewer, make_prediction(), model)
    dock = make_dock()
    dock.view.draw.click()
    qtbot.waitUntil(lambda: "positions" in dock.view.draws_note.text())
    session_of(viewer).prediction = replace(make_prediction(), held_out=None)
    assert not dock.view.draw.isEnabled()


def test_a_filter_that_cannot_be_made_says_why(make_dock, model, viewer, qtbot):
    dock = make_dock(make_prediction(), model)
    part(dock, "channel").setCurrentIndex(2)
    dock.pixel.show_pixel(20, 30)
    drawn(dock, qtbot)
    part(dock, "filter").click()
    qtbot.waitUntil(lambda: "filter" not in dock.lifetime.runs)
    assert "soil filter" not in viewer.layers
    assert "other channels" in part(dock, "filter_note").text()


def test_missed_blocks_are_not_painted_on_another_image(make_dock, model, viewer, qtbot):
    dock = make_dock(make_prediction(), model)
    dock.view.tabs.setCurrentIndex(2)
    drawn(dock, qtbot)
    dock.focus.source.data[:] = -1e7
    part(dock, "miscoverage").click()
    qtbot.waitUntil(lambda: "missed" not in dock.lifetime.runs)
    assert "soil miscoverage" not in viewer.layers
    assert "not the one" in part(dock, "missed_note").text()


def test_a_dock_that_left_ignores_the_viewer(make_dock, model, viewer, qtbot):
    callbacks = list(viewer.mouse_drag_callbacks)
    dock = make_dock(make_prediction(), model)
    assert len(viewer.mouse_drag_callbacks) > len(callbacks)
    part(dock, "line_cut").click()
    drawn(dock, qtbot)
    dock.leave()
    assert list(viewer.mouse_drag_callbacks) == callbacks
    text = part(dock, "caption").text()
    viewer.dims.set_current_step(0, 0)
    viewer.layers["soil width"].visible = True
    viewer.layers.remove("soil line cut")
    session_of(viewer).prediction = None
    assert part(dock, "caption").text() == text


def test_one_channel_without_an_axis(make_dock, viewer, qtbot, model):
    from dataclasses import replace

    whole = make_prediction()
    prediction = replace(
        whole,
        **{name: getattr(whole, name)[0] for name in ("lower", "median", "upper", "spread")},
        quantiles=whole.quantiles[:, 0],
        axes="YX",
        channel_names=("0",),
    )
    viewer.add_image(prediction.median, name="soil")
    session = session_of(viewer)
    session.source = Image(prediction.median, "YX", None, None, "px", "soil")
    session.model = model
    session.source = Image(prediction.median, "YX", None, None, "px", "soil")
    session.prediction = prediction
    dock = make_dock()
    part(dock, "threshold").setValue(0.2)
    part(dock, "line_cut").click()
    drawn(dock, qtbot)
    np.testing.assert_array_equal(viewer.layers["soil P(> t)"].data, prediction.exceedance(0.2))


def test_a_walk_in_a_real_window(make_napari_viewer, qtbot, model):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1366, 768)
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Uncertainty")
    fill(viewer, make_prediction((3, 120, 160)), model)
    qtbot.wait(50)
    assert dock.minimumSizeHint().height() <= 620
    part(dock, "channel").setCurrentIndex(1)
    for value in np.linspace(-1, 1, 12):
        part(dock, "threshold").setValue(float(value))
        qtbot.wait(15)
    part(dock, "confidence").setValue(0.7)
    part(dock, "line_cut").click()
    drawn(dock, qtbot)
    assert viewer.screenshot(canvas_only=True, flash=False)[..., :3].std() > 1
    dock.view.tabs.setCurrentIndex(2)
    drawn(dock, qtbot)
    viewer.theme = "light"
    part(dock, "side_by_side").click()
    qtbot.wait(50)
    viewer.window.remove_dock_widget(dock)
    assert dock.lifetime.ended


def test_a_dock_hidden_by_another_tab_keeps_working(make_napari_viewer, qtbot, model):
    viewer = make_napari_viewer(show=True)
    _, first = viewer.window.add_plugin_dock_widget("napari-btn", "Uncertainty")
    viewer.window.add_dock_widget(QWidget(), name="another", tabify=True)
    qtbot.wait(100)
    assert not first.lifetime.ended
    fill(viewer, make_prediction(), model)
    part(first, "threshold").setValue(0.25)
    drawn(first, qtbot)
    assert "soil P(> t)" in viewer.layers
    viewer.close()
    assert first.lifetime.ended


def test_the_clicked_pixel_is_marked_and_the_mark_goes_with_the_dock(make_dock, model, viewer):
    dock = make_dock(make_prediction(), model)
    active = viewer.layers.selection.active
    dock.pixel.show_pixel(3, 4)
    mark = viewer.layers["soil pixel"]
    np.testing.assert_allclose(mark.data, [[3, 4]])
    np.testing.assert_allclose(mark.scale, viewer.layers["soil median"].scale[-2:])
    dock.pixel.show_pixel(5, 6)
    assert viewer.layers["soil pixel"] is mark
    np.testing.assert_allclose(mark.data, [[5, 6]])
    assert viewer.layers.selection.active is active
    dock.leave()
    assert mark not in viewer.layers


def test_the_clicked_pixel_is_marked_in_each_layer_side_by_side(make_dock, model, viewer):
    dock = make_dock(make_prediction(), model)
    before = [layer.name for layer in viewer.layers]
    part(dock, "side_by_side").click()
    dock.pixel.show_pixel(3, 4)
    dock.pixel.show_pixel(5, 6)
    marks = [layer for layer in viewer.layers if layer.name.endswith(" pixel")]
    assert len(marks) == 3
    for mark in marks:
        np.testing.assert_allclose(mark.data, [[5, 6]])
    assert part(dock, "side_by_side").isChecked()
    grid = _grid(viewer)
    boxes = [
        [viewer.layers[i].name for i in within if viewer.layers[i].visible]
        for _, within in grid.iter_viewboxes(viewer.layers)
    ]
    names = ("soil", "soil median", "soil width")
    assert boxes == [[name, f"{name} pixel"] for name in names]
    part(dock, "side_by_side").click()
    assert [layer.name for layer in viewer.layers] == before


def test_a_row_that_ends_is_no_longer_shown_as_one(make_dock, model, viewer):
    dock = make_dock(make_prediction(), model)
    part(dock, "side_by_side").click()
    assert _caption(viewer).visible
    assert _caption(viewer).text == NAMES[dock.focus.asked.channel]
    part(dock, "line_cut").click()
    assert not part(dock, "side_by_side").isChecked()
    assert not _caption(viewer).visible


def test_line_mark_filter_and_draw_leave_with_the_dock_and_come_back(
    make_napari_viewer, qtbot, model, monkeypatch
):
    viewer = make_napari_viewer(show=True)
    fill(viewer, with_positions(make_prediction()), model)
    open_dock(viewer, "Tokens")
    open_dock(viewer, "Uncertainty")
    dock = next(d for d in viewer.window.dock_widgets.values() if d.objectName() == "napari_btn_uncertainty")
    qtbot.wait(200)
    lasting = {layer.name for layer in viewer.layers}
    part(dock, "line_cut").click()
    viewer.layers["soil line cut"].data = [[[4, 5], [20, 30]]]
    viewer.layers["soil line cut"].mode = "pan_zoom"
    dock.pixel.show_pixel(20, 30)
    part(dock, "filter").click()
    dock.view.draws_count.setValue(2)
    dock.view.draw.click()
    helpers = {f"soil {kind}" for kind in ("line cut", "pixel", "filter", "draw")}
    qtbot.waitUntil(lambda: helpers <= {layer.name for layer in viewer.layers})
    open_dock(viewer, "Tokens")
    qtbot.waitUntil(lambda: {layer.name for layer in viewer.layers} == lasting)
    open_dock(viewer, "Uncertainty")
    qtbot.waitUntil(lambda: {layer.name for layer in viewer.layers} == lasting | helpers)
    np.testing.assert_allclose(viewer.layers["soil line cut"].data[0], [[4, 5], [20, 30]])
    np.testing.assert_allclose(viewer.layers["soil pixel"].data, [[20, 30]])
    part(dock, "filter").click()
    assert "soil filter" not in viewer.layers


def test_the_clean_layer_of_the_training_is_the_truth_whatever_its_name(make_dock, model, viewer):
    from napari_btn.widgets.shared.contrast import keep_contrast

    fill(viewer, make_prediction(), model)
    viewer.layers["soil clean"].name = "seven hours"
    dock = make_dock()
    assert part(dock, "truth").currentText() == "none"
    # known only when the result has been shown
    keep_contrast(viewer, "soil", {"median": viewer.layers["soil median"]}, viewer.layers["seven hours"])
    part(dock, "line_cut").click()
    assert part(dock, "truth").currentText() == "seven hours"
    part(dock, "truth").setCurrentText("none")
    part(dock, "line_cut").click()
    assert part(dock, "truth").currentText() == "none"


def test_a_line_that_is_drawn_at_once_stays(make_napari_viewer, qtbot, model):
    viewer = make_napari_viewer(show=True)
    fill(viewer, make_prediction(), model)
    open_dock(viewer, "Denoise")
    qtbot.wait(200)
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Uncertainty")
    part(dock, "line_cut").click()
    qtbot.wait(400)
    qtbot.waitUntil(lambda: dock.in_front and not dock.visibleRegion().isEmpty())
    assert "soil line cut" in viewer.layers


def test_a_dock_that_the_window_moves_for_a_moment_keeps_its_line(make_napari_viewer, qtbot, model):
    viewer = make_napari_viewer(show=True)
    fill(viewer, make_prediction(), model)
    frame, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Uncertainty")
    part(dock, "line_cut").click()
    layer = viewer.layers["soil line cut"]
    qtbot.waitUntil(lambda: not dock.visibleRegion().isEmpty())
    place = frame.pos()
    # out of sight during one look of the dock, as while the window makes tabs
    frame.move(-3000, -3000)
    frame.visibilityChanged.emit(False)
    dock._look()
    frame.move(place)
    qtbot.wait(200)
    assert layer in viewer.layers
    # out of sight for long, and back without a word of the window
    turn, turned = dock.turn, []

    def turn_and_tell(in_front):
        turn(in_front)
        turned.append((in_front, "soil line cut" in viewer.layers))

    def behind():
        # the window may lay the dock out again, with PySide6 sooner than with PyQt6
        frame.move(-3000, -3000)
        if not dock._look_later.isActive():
            frame.visibilityChanged.emit(False)
        return bool(turned)

    dock.turn = turn_and_tell
    qtbot.waitUntil(behind)
    frame.move(place)
    qtbot.waitUntil(lambda: dock.in_front)
    assert turned[0] == (False, False)
    assert turned[-1] == (True, True)
