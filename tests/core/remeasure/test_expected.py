"""Expected wrong area: never negative, less with more dose, and true on simulated fields."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import gamma

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.calibration.dose import Dose
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.remeasure.expected import (
    Decision,
    decided,
    share_dwell,
    undecided,
    wrong_after,
    wrong_now,
)
from napari_btn.core.remeasure.regions import Region
from napari_btn.core.settings import CalibrationSettings
from napari_btn.workflow.propose import expected_wrong

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
FAST = 2.0
WHOLE = Region(0, 0, 80, 100)
WINDOWS = [Region(0, 0, 20, 30), Region(30, 40, 20, 30), Region(60, 60, 20, 40)]
QUESTION = Decision(0, 0.5)


def scanned(n, rng):
    signal = rng.gamma(3.0, 1 / 6.0, n)
    counts = rng.poisson(FAST * signal)
    q = gamma.ppf(np.asarray(LEVELS)[:, None], 3.0 + counts, scale=1 / (6.0 + FAST))
    return signal.astype(np.float32), q.astype(np.float32)


@pytest.fixture(scope="module")
def field():
    """A calibrated prediction of independent pixels, and their signal."""
    rng = np.random.default_rng(0)
    signal, q = scanned(20_000, rng)
    known = HeldOut(q[:, None], signal[None], np.arange(20_000) // 100, LEVELS)
    calibration = calibrate(known, settings=CalibrationSettings(unit="pixel"))
    signal, q = scanned(8000, rng)
    lower, median, upper = (m[0].reshape(80, 100) for m in calibration.interval(q[:, None]))
    prediction = Prediction(
        lower, median, upper, 0 * median, q.reshape(-1, 80, 100), LEVELS, "YX", ("Fe",), None, "px", 0.1, "clean",
        distribution=exceedance_from(known, "pixel"), held_out=known, calibration=calibration,
    )  # fmt: skip
    return prediction, signal.reshape(80, 100)


def test_the_more_probable_answer_is_wrong_as_often_as_the_other_is_right():
    np.testing.assert_allclose(undecided([0, 0.2, 0.5, 0.9, 1, np.nan]), [0, 0.2, 0.5, 0.1, 0, 0], atol=1e-6)


def test_the_expected_area_is_the_true_one(field):
    prediction, signal = field
    wrong = (decided(prediction, QUESTION) > 0.5) != (signal > 0.5)
    assert abs(wrong_now(prediction, QUESTION).sum() / wrong.sum() - 1) < 0.06


def test_fused_windows_keep_their_own_calibration(field):
    prediction, signal = field
    box = WINDOWS[0].slices
    fused = prediction.fuse(WINDOWS[0], np.random.default_rng(3).poisson(20.0 * signal[box]), dose=20.0)
    np.testing.assert_array_equal(decided(fused, QUESTION)[box], fused.exceedance(0.5)[box])
    outside = np.ones(signal.shape, bool)
    outside[box] = False
    before, after = (wrong_now(p, QUESTION) for p in (prediction, fused))
    np.testing.assert_array_equal(after[outside], before[outside])
    assert after[box].sum() < before[box].sum()


def test_a_threshold_that_held_out_pixels_never_reach_is_not_recalibrated(field):
    prediction, _ = field
    np.testing.assert_array_equal(decided(prediction, Decision(0, 50.0)), prediction.exceedance(50.0))
    assert not np.array_equal(decided(prediction, QUESTION), prediction.exceedance(0.5))


@pytest.mark.parametrize("dose", [2.0, 20.0, 200.0])
def test_the_expected_area_after_a_measurement_is_that_of_the_fusion(field, dose):
    prediction, signal = field
    counts = np.random.default_rng(3).poisson(dose * signal)
    fused = prediction.fuse(WHOLE, counts, dose=dose)
    wrong = (fused.exceedance(0.5) > 0.5) != (signal > 0.5)
    after = float(wrong_after(prediction, QUESTION, [WHOLE], [Dose((dose,), (1.0,))])[0, 0])
    assert abs(after / wrong.sum() - 1) < 0.12


def test_more_dose_never_leaves_more_and_none_leaves_what_there_is(field):
    prediction, _ = field
    doses = [Dose((d,), (1.0,)) for d in (0.0, 0.01, 0.5, 2.0, 10.0, 50.0, 1e3, 1e6)]
    after = wrong_after(prediction, QUESTION, WINDOWS, [*doses, None])
    now = wrong_now(prediction, QUESTION)
    np.testing.assert_allclose(after[:, 0], [now[w.slices].sum() for w in WINDOWS], rtol=1e-3)
    assert (after >= 0).all()
    assert (np.diff(after, axis=1) <= 1e-3 * after[:, :-1] + 1e-9).all()
    assert (after[:, -1] == 0).all()
    normal = [Dose((1.0,), (2.0,), (sd,)) for sd in (1e3, 2.0, 0.2, 0.02)]
    after = wrong_after(prediction, QUESTION, WINDOWS, normal)
    np.testing.assert_allclose(after[:, 0], [now[w.slices].sum() for w in WINDOWS], rtol=5e-3)
    assert (np.diff(after, axis=1) < 0).all()


def test_a_dose_near_none_leaves_what_there_is_at_any_threshold(field):
    prediction, _ = field
    top = float(prediction.quantiles.max())
    for t in (0.01, 0.5, 0.99 * top, 1.01 * top, 1.3 * top):
        question = Decision(0, t)
        now = float(wrong_now(prediction, question).sum())
        assert now > 0
        for weak in (Dose((1e-6,), (1.0,)), Dose((1.0,), (1.0,), (1e6,))):
            after = float(wrong_after(prediction, question, [WHOLE], [weak])[0, 0])
            assert after == pytest.approx(now, rel=5e-3)


@pytest.mark.parametrize("dose", [None, Dose((FAST,), (1.0,))])
def test_each_window_lowers_the_expected_area(field, dose):
    prediction, _ = field
    made = [expected_wrong(prediction, [QUESTION], WINDOWS[:n], dose=dose, dwell=5.0) for n in range(4)]
    assert len({one.now for one in made}) == 1
    assert made[0].after == pytest.approx(made[0].now)
    after = [one.after for one in made]
    assert (np.diff(after) < 0).all()
    assert min(after) >= 0
    assert made == [
        expected_wrong(prediction, [QUESTION], WINDOWS[:n], dose=dose, dwell=5.0) for n in range(4)
    ]


def test_dwell_goes_where_it_decides_most():
    # the first window is decided at once, the second needs a long dwell, the third never is
    after = np.array([[10, 1, 1, 1, 1], [40, 35, 28, 12, 2], [50, 50, 50, 50, 49.9]], float)
    dwells = (0.25, 0.5, 1.0, 2.0, 4.0)
    chosen = share_dwell(after, dwells, 3.0)
    assert chosen.tolist() == [0.5, 2.0, 0.25]
    assert share_dwell(after, dwells, 100.0).tolist() == [0.5, 4.0, 4.0]
    assert share_dwell(after, dwells, 0.75).tolist() == [0.25] * 3
    with pytest.raises(ValueError, match="rising"):
        share_dwell(after, (1.0, 0.5, 2.0, 3.0, 4.0), 3.0)


def test_shared_dwell_decides_more_than_the_same_for_all(field):
    prediction, _ = field
    dose = Dose((FAST,), (1.0,))
    made = expected_wrong(prediction, [QUESTION], WINDOWS, dose=dose, dwell=5.0)
    even = wrong_after(prediction, QUESTION, WINDOWS, [dose.times(5.0)])
    now = [wrong_now(prediction, QUESTION)[w.slices].sum() for w in WINDOWS]
    assert made.after <= made.now - np.sum(now) + 1.01 * even.sum()  # the grids of signals differ
    assert sum(made.dwells) <= 15.0 + 1e-9
    # a window with a tenth of its pixels decides less, and leaves its dwell to the others
    few = replace(WINDOWS[0], mask=np.arange(600).reshape(20, 30) < 60)
    unlike = expected_wrong(prediction, [QUESTION], [few, *WINDOWS[1:]], dose=dose, dwell=5.0)
    assert unlike.dwells[0] < 5.0 < max(unlike.dwells)
    assert sum(unlike.dwells) <= 15.0 + 1e-9
