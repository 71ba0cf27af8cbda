"""Proposals: the default score, the expected wrong area, and when windows are enough."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.calibration.dose import Dose, dose_of
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.fusion import fuse_steps as one_window
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.progress import drain
from napari_btn.core.remeasure.expected import Decision, wrong_now
from napari_btn.core.remeasure.regions import Region
from napari_btn.core.remeasure.scores import combine_channels, score_map
from napari_btn.workflow.fuse import fuse_steps
from napari_btn.workflow.propose import Expected, dwell_sentence, expected_wrong, propose_steps
from napari_btn.workflow.search import Choice, Search

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
RAMP = np.array([-1.6, -0.7, 0.0, 0.7, 1.6])


@pytest.fixture(scope="module")
def prediction():
    """Two channels that are undecided about 1 in a few places."""
    rng = np.random.default_rng(0)
    known = rng.normal(1, 1, (2, 4000))
    q = (known + 0.3 * RAMP[:, None, None]).astype(np.float32)
    held = HeldOut(
        q, (known + 0.3 * rng.normal(size=known.shape)).astype(np.float32), np.arange(4000) // 40, LEVELS
    )
    y, x = np.mgrid[:60, :90]
    centre = np.stack([1 + 2 * np.cos(y / 9) * np.cos(x / 13), 1 + 2 * np.sin(y / 7) * np.cos(x / 11)])
    planes = (centre + 0.3 * RAMP[:, None, None, None]).astype(np.float32)
    return Prediction(
        planes[0], planes[2], planes[4], 0 * planes[2], planes, LEVELS, "CYX", ("Al", "Fe"), None, "px", 0.1, "clean",
        distribution=exceedance_from(held), held_out=held,
    )  # fmt: skip


def proposed(prediction, choice, **how):
    return drain(propose_steps(prediction, choice, Search((12, 14), **{"count": 4} | how)))


UNSURE = Choice("ambiguity", (1,), (1.0,))


def test_scores_are_undecided_at_a_threshold_else_the_width(prediction):
    p = prediction.exceedance(1.0, "Fe")
    np.testing.assert_allclose(drain(propose_steps(prediction, UNSURE)).score, 4 * p * (1 - p), atol=1e-6)
    np.testing.assert_array_equal(score_map(prediction, channel=0), prediction.width[0])
    np.testing.assert_array_equal(
        drain(propose_steps(prediction, Choice("width", (0,)))).score, prediction.width[0]
    )
    both = combine_channels(prediction.width, by="mean")
    np.testing.assert_array_equal(score_map(prediction), both)
    np.testing.assert_array_equal(drain(propose_steps(prediction, Choice("width", (0, 1)))).score, both)
    relative = drain(propose_steps(prediction, Choice("relative width", (0,)))).score
    np.testing.assert_array_equal(relative, score_map(prediction, channel=0, width="relative"))
    assert not np.array_equal(relative, prediction.width[0])
    with pytest.raises(ValueError, match="Leave one out"):
        score_map(prediction, channel=0, width="relative", threshold=1.0)


def test_the_expected_area_falls_by_what_the_windows_hold(prediction):
    made = proposed(prediction, UNSURE)
    now = wrong_now(prediction, Decision(1, 1.0))
    inside = sum(now[r.slices].sum(dtype=float) for r in made.regions)
    assert made.expected.now == pytest.approx(now.sum(dtype=float))
    assert made.expected.after == pytest.approx(now.sum(dtype=float) - inside, rel=1e-5)
    assert made.expected.more is None
    assert made.expected.dwells == ()
    noisy = replace(prediction, covers="replicate")
    assert (made.expected.covers, proposed(noisy, UNSURE).expected.covers) == ("clean", "replicate")
    assert proposed(prediction, Choice("width", (1,))).expected is None
    both = proposed(prediction, Choice("ambiguity", (0, 1), (1.0, 1.0)))
    assert both.expected.now == pytest.approx(
        made.expected.now + wrong_now(prediction, Decision(0, 1.0)).sum()
    )


def test_windows_stop_where_the_area_is_small_enough(prediction):
    many = proposed(prediction, UNSURE, count=8)
    maps = wrong_now(prediction, Decision(1, 1.0))
    after = many.expected.now - np.cumsum([maps[r.slices].sum(dtype=float) for r in many.regions])
    for k in (0, 2, 5):
        stopped = proposed(prediction, UNSURE, count=8, until=float(after[k]) + 0.01)
        assert stopped.regions == many.regions[: k + 1]
        assert stopped.expected.more == 0
        assert stopped.expected.after <= after[k] + 0.011
    nothing = proposed(prediction, UNSURE, count=8, until=many.expected.now + 1)
    assert nothing.regions == ()
    assert nothing.expected.more == 0


def test_windows_that_share_dwell_are_enough_by_their_own_dwell(prediction):
    dose = Dose((3.0, 3.0), (1.0, 1.0))
    many = proposed(prediction, UNSURE, count=8, dose=dose)
    few = [expected_wrong(prediction, UNSURE.decisions, many.regions[:k], dose=dose).after for k in range(9)]
    for goal in np.linspace(few[8], few[0], 12):
        stopped = proposed(prediction, UNSURE, count=8, dose=dose, until=float(goal) + 1e-6)
        assert stopped.expected.after <= goal + 1e-3
        assert stopped.expected.more == 0


def test_how_many_more_are_needed_is_counted(prediction):
    few = proposed(prediction, UNSURE, count=2)
    goal = 0.4 * few.expected.now
    short = proposed(prediction, UNSURE, count=2, until=goal)
    assert short.regions == few.regions
    assert short.expected.more > 0
    enough = proposed(prediction, UNSURE, count=2 + short.expected.more, until=goal)
    assert enough.expected.more == 0
    assert proposed(prediction, UNSURE, count=2, until=0.0, margin=10).expected.more is None


def test_a_short_dwell_decides_less_and_is_shared(prediction):
    sure = proposed(prediction, UNSURE)
    dose = Dose((3.0, 3.0), (1.0, 1.0))
    short, long = (proposed(prediction, UNSURE, dose=dose, dwell=d) for d in (1.0, 100.0))
    places = [[(r.start, r.size) for r in one.regions] for one in (sure, short, long)]
    assert places[0] == places[1] == places[2]
    assert [r.dwell for r in sure.regions] == [None] * 4
    assert tuple(r.dwell for r in short.regions) == short.expected.dwells
    assert sure.expected.after < long.expected.after < short.expected.after < short.expected.now
    assert len(short.expected.dwells) == 4
    assert sum(long.expected.dwells) <= 400 + 1e-6
    travelled = proposed(prediction, UNSURE, dose=dose, dwell=1.0, travel=True)
    by_place = dict(zip(short.regions, short.expected.dwells, strict=True))
    assert [by_place[r] for r in travelled.regions] == list(travelled.expected.dwells)


def test_values_in_the_units_of_the_maps_are_fused_as_counts_of_their_dwell(prediction):
    rng = np.random.default_rng(1)
    known = prediction.held_out
    seen = rng.poisson(np.maximum(known.target, 0) * 2.0).astype(np.float32)
    held = replace(known, observed=seen, target=np.maximum(known.target, 0))
    whole = replace(prediction, held_out=held, calibration=calibrate(held))
    (region, other, *_) = proposed(prediction, UNSURE).regions
    signal = np.abs(rng.normal(1, 0.5, (2, *region.size)))
    dose = dose_of(held).times(30)
    values = rng.poisson(signal * np.reshape(dose.dose, (2, 1, 1))) / np.reshape(dose.dose, (2, 1, 1))
    made = drain(fuse_steps(whole, [(region, values), (other, values)], 30.0))
    plain = Dose(dose.dose, tuple(1 / d for d in dose.dose))
    first = drain(one_window(whole, region, values, plain))
    wanted = drain(one_window(first, other, values, plain))
    np.testing.assert_array_equal(made.median, wanted.median)
    planned = [(replace(r, dwell=30.0), values) for r in (region, other)]
    np.testing.assert_array_equal(drain(fuse_steps(whole, planned)).median, wanted.median)
    with pytest.raises(ValueError, match="window 2 has no planned dwell"):
        drain(fuse_steps(whole, [planned[0], (other, values)]))
    at = (slice(None), *region.slices)
    before, after = (np.abs(p.median[at] - signal).mean() for p in (whole, made))
    assert after < before
    with pytest.raises(ValueError, match="Subtract the offset"):
        drain(
            fuse_steps(replace(whole, held_out=replace(held, observed=seen + 50)), [(region, values)], 30.0)
        )


def test_the_shared_dwell_is_told_with_its_beam_time():
    regions = [Region(0, 0, 10, 10, dwell=d) for d in (2.0, 6.0)]
    text = dwell_sentence(regions, (20, 20))
    assert text == "All have a dwell of 2 to 6 times that of the image; together 2 times its beam time."
    assert dwell_sentence([*regions, Region(0, 0, 5, 5)], (20, 20)).startswith("2 of 3 windows have a dwell")
    assert dwell_sentence([Region(0, 0, 5, 5)], (20, 20)) == ""


def test_the_same_windows_each_time(prediction):
    one, two = (proposed(prediction, UNSURE, until=10.0) for _ in range(2))
    assert one.regions == two.regions
    assert one.expected == two.expected
    for a, b in itertools.combinations(one.regions, 2):
        assert abs(a.y - b.y) >= 12 or abs(a.x - b.x) >= 14


def test_areas_are_told_in_the_unit_of_the_image():
    made = Expected(800.0, 200.0, 3)
    assert made.sentence(None, "px") == (
        "Expected wrongly decided area, on average over fields like the calibration data: now 800 px, after these "
        "windows 200 px if they are measured without error."
    )
    assert (
        replace(made, dwells=(10.0,))
        .sentence(None, "px")
        .endswith("after these windows 200 px. After short dwells the gain is often smaller than expected.")
    )
    several = replace(made, channels=3).sentence(None, "px")
    assert several.startswith(
        "Expected wrongly decided area, the sum over 3 channels, on average over fields"
    )
    assert made.sentence((0.5, 0.5), "um", 100.0).endswith(
        "now 200 µm², after these windows 50 µm² if they are measured without error. To reach 25 µm², about 3 "
        "more windows are expected to be needed."
    )
    assert (
        replace(made, covers="replicate")
        .sentence(None, "px")
        .endswith(
            "It counts values of a repeat, with its noise; of the clean signal another area is decided wrongly."
        )
    )
    assert "is expected to be reached" in replace(made, more=0).sentence(None, "px", 300.0)
    assert "No number of windows" in replace(made, more=None).sentence((1.0, 1.0, 2.0), "nm", 1.0)


def test_a_window_with_a_mask_counts_its_own_pixels(prediction):
    (region, *_) = proposed(prediction, UNSURE).regions
    mask = np.zeros(region.size, bool)
    mask[3:6] = True
    part = replace(region, mask=mask)
    for dose in (None, Dose((5.0, 5.0), (1.0, 1.0))):
        some, whole = (expected_wrong(prediction, UNSURE.decisions, [r], dose=dose) for r in (part, region))
        assert whole.after < some.after < some.now
