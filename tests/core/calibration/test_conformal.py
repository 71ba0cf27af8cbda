"""Calibration: equal to published implementations, and as good as promised on simulated data."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import Calibration, calibrate, cross_fitted
from napari_btn.core.calibration.groups import calibrate_groups, cross_fitted_groups
from napari_btn.core.calibration.rules import needed_blocks
from napari_btn.core.settings import CalibrationSettings

LEVELS = (0.05, 0.5, 0.95)


def held_out(n=200, channels=1, n_blocks=None, seed=0, levels=LEVELS):
    """Quantiles that are too narrow, in float32 so that oracles see the very same numbers."""
    rng = np.random.default_rng(seed)
    quantiles = np.sort(rng.normal(size=(len(levels), channels, n)), axis=0).astype(np.float32)
    target = rng.standard_t(3, size=(channels, n)).astype(np.float32)
    block = np.arange(n) if n_blocks is None else np.arange(n) * n_blocks // n
    return HeldOut(quantiles, target, block, levels)


class TestOracles:
    @pytest.mark.parametrize("n", [40, 61, 99, 500])
    @pytest.mark.parametrize("score", ["symmetric", "asymmetric"])
    @pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.25, 0.5])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_plain_cqr_equals_mapie(self, n, score, alpha, seed):
        from mapie.regression import ConformalizedQuantileRegressor

        data = held_out(n, seed=seed)
        ours = calibrate(data, alpha=alpha, settings=CalibrationSettings(unit="pixel", score=score))
        features = data.quantiles[:, 0].astype(np.float64).T
        target = data.target[0].astype(np.float64)
        models = [_column(i).fit(features, target) for i in (0, 2, 1)]
        theirs = ConformalizedQuantileRegressor(models, confidence_level=1 - alpha, prefit=True)
        theirs.conformalize(features, target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says that bounds are infinite
            bounds = theirs.predict_interval(
                features, symmetric_correction=score == "symmetric", allow_infinite_bounds=True
            )[1]
        np.testing.assert_allclose(features[:, 0] - ours.offset_lower, bounds[:, 0, 0], atol=1e-12, rtol=0)
        np.testing.assert_allclose(features[:, 2] + ours.offset_upper, bounds[:, 1, 0], atol=1e-12, rtol=0)

    @pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
    def test_plain_cqr_equals_puncc(self, alpha):
        regression = pytest.importorskip("deel.puncc.regression", reason="puncc is not installed")
        prediction = pytest.importorskip("deel.puncc.api.prediction")
        data = held_out(150)
        features = data.quantiles[:, 0].astype(np.float64).T
        target = data.target[0].astype(np.float64)
        predictor = prediction.DualPredictor([_column(0), _column(2)], is_trained=[True, True])
        theirs = regression.CQR(predictor, train=False)
        theirs.fit(X_fit=features, y_fit=target, X_calib=features, y_calib=target)
        _, lower, upper = theirs.predict(features, alpha=alpha)
        ours = calibrate(data, alpha=alpha, settings=CalibrationSettings(unit="pixel"))
        np.testing.assert_allclose(features[:, 0] - ours.offset_lower, lower, atol=1e-12, rtol=0)
        np.testing.assert_allclose(features[:, 2] + ours.offset_upper, upper, atol=1e-12, rtol=0)


class TestImageAndRiskUnits:
    @pytest.mark.parametrize("unit", ["image", "risk"])
    @pytest.mark.parametrize("score", ["symmetric", "asymmetric", "scaled"])
    def test_both_are_units_of_a_calibration(self, unit, score):
        data = held_out(2000, channels=2, n_blocks=100)
        settings = CalibrationSettings(unit=unit, score=score)
        calibration = calibrate(data, settings=settings)
        assert calibration.rule == unit
        assert calibration.finite
        few = calibrate(held_out(100, n_blocks=5), settings=settings)
        assert not few.finite
        assert few.notes[-1].level == "red"
        again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict(), allow_nan=False)))
        for a, b in zip(again.interval(data.quantiles), calibration.interval(data.quantiles), strict=True):
            np.testing.assert_array_equal(a, b)


class TestScaledScore:
    def test_covers_and_stretches_wide_predictions_more(self):
        rng = np.random.default_rng(0)
        width = rng.uniform(0.2, 3, size=(1, 5000)).astype(np.float32)
        target = (rng.normal(size=width.shape) * width).astype(np.float32)
        quantiles = np.stack([-width, np.zeros_like(width), width])
        data = HeldOut(quantiles, target, np.arange(5000) // 50, LEVELS)
        calibration = calibrate(data, settings=CalibrationSettings(unit="pixel", score="scaled"))
        lower, _, upper = cross_fitted(data, calibration)
        inside = (lower <= target) & (target <= upper)
        assert inside.mean() == pytest.approx(0.9, abs=3 * 0.3 / math.sqrt(5000))
        narrow, wide = inside[width < 1].mean(), inside[width >= 1].mean()
        assert narrow == pytest.approx(wide, abs=0.03)
        lower, _, upper = calibration.interval(quantiles)
        assert np.corrcoef(upper - lower - 2 * width, width)[0, 1] > 0.99

    def test_a_width_of_zero_can_grow(self):
        quantiles = np.zeros((3, 1, 100), np.float32)
        target = np.random.default_rng(0).normal(size=(1, 100)).astype(np.float32)
        data = HeldOut(quantiles, target, np.arange(100), LEVELS)
        lower, _, upper = calibrate(data, settings=CalibrationSettings(score="scaled")).interval(quantiles)
        assert np.mean((lower <= target) & (target <= upper)) >= 0.9


class TestCaption:
    def test_says_what_is_covered_by_which_rule_and_what_is_wrong(self):
        text = calibrate(held_out(500, n_blocks=60)).caption()
        assert text == (
            "Aims to cover the clean signal: 90 % of pixels on average over images like the calibration data; "
            "measured on blocks of one field; not per pixel. Held-out blocks: 60."
        )
        text = calibrate(held_out(500, n_blocks=5)).caption("long exposure")
        assert text.startswith("Aims to cover a long exposure: ")
        assert "without a guarantee" in text
        assert text.endswith("Held-out blocks: 5. Warnings: 1 red.")


class TestCalibrate:
    @pytest.mark.parametrize(
        ("n_blocks", "unit", "rule", "levels", "finite"),
        [
            (50, "auto", "block", [], True),
            (49, "auto", "pixel", ["amber"], True),
            (9, "auto", "pixel", ["amber"], True),
            (8, "auto", "pixel", ["red"], True),
            (9, "block", "block", ["amber"], True),
            (8, "block", "block", ["red"], False),
            (8, "pixel", "pixel", ["red"], True),
            (30, "pixel", "pixel", [], True),
        ],
    )
    def test_rule_and_its_notes(self, n_blocks, unit, rule, levels, finite):
        calibration = calibrate(held_out(500, n_blocks=n_blocks), settings=CalibrationSettings(unit=unit))
        assert calibration.rule == rule
        assert [note.level for note in calibration.notes] == levels
        assert calibration.finite is finite
        assert (calibration.n_blocks, calibration.n_pixels) == (n_blocks, 500)

    def test_asymmetric_needs_twice_as_many_blocks(self):
        settings = CalibrationSettings(unit="block", score="asymmetric")
        assert not calibrate(held_out(400, n_blocks=18), settings=settings).finite
        assert calibrate(held_out(400, n_blocks=19), settings=settings).finite
        assert (needed_blocks(0.1), needed_blocks(0.05), needed_blocks(0.1, "asymmetric")) == (9, 19, 19)

    @pytest.mark.parametrize(
        ("alpha", "start", "warned"),
        [
            (0.1, (0, 6), False),
            (0.2, (1, 5), False),
            (0.15, (0, 6), False),
            (0.5, (2, 4), False),
            (0.4, (1, 5), False),
            (0.05, (0, 6), True),
        ],
    )
    def test_starts_from_the_nearest_levels_at_or_outside(self, alpha, start, warned):
        levels = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
        calibration = calibrate(held_out(levels=levels), alpha=alpha)
        assert (calibration.lower_index, calibration.upper_index) == start
        assert bool(calibration.notes) is warned

    def test_each_channel_has_its_own_offset(self):
        data = held_out(channels=3)
        together = calibrate(data)
        for c in range(3):
            one = HeldOut(data.quantiles[:, c : c + 1], data.target[c : c + 1], data.block, LEVELS)
            assert calibrate(one).offset_lower[0] == together.offset_lower[c]

    def test_json_keeps_everything_with_infinite_offsets_too(self):
        for n_blocks in (5, 50):
            settings = CalibrationSettings(unit="block", minimum=0.25)
            calibration = calibrate(held_out(channels=2, n_blocks=n_blocks), settings=settings)
            text = json.dumps(calibration.to_dict(), allow_nan=False)
            again = Calibration.from_dict(json.loads(text))
            assert again.to_dict() == calibration.to_dict()
            np.testing.assert_array_equal(again.offset_upper, calibration.offset_upper)

    def test_bad_held_out_data_are_refused(self):
        q, y, b = np.zeros((3, 2, 5), np.float32), np.zeros((2, 5), np.float32), np.zeros(5, np.int64)
        with pytest.raises(ValueError, match="one quantile per level"):
            HeldOut(q, y, b, (0.1, 0.9))
        with pytest.raises(ValueError, match="as the quantiles"):
            HeldOut(q, y[:1], b, LEVELS)
        with pytest.raises(ValueError, match="every pixel needs a block"):
            HeldOut(q, y, b[:3], LEVELS)
        with pytest.raises(ValueError, match="must ascend"):
            HeldOut(q, y, b, (0.5, 0.1, 0.9))
        with pytest.raises(ValueError, match="must be finite"):
            HeldOut(q, np.full_like(y, np.nan), b, LEVELS)


class TestInterval:
    @given(
        quantiles=hnp.arrays(np.float32, (3, 2, 5, 7), elements=st.floats(-100, 100, width=32)),
        offset=st.floats(-50, 50),
        minimum=st.none() | st.floats(-20, 20),
    )
    def test_never_crosses_and_keeps_to_the_minimum(self, quantiles, offset, minimum):
        calibration = _fixed(offset, minimum)
        lower, median, upper = calibration.interval(np.sort(quantiles, axis=0))
        assert lower.dtype == median.dtype == upper.dtype == np.float32
        assert lower.shape == (2, 5, 7)
        assert (lower <= median).all()
        assert (median <= upper).all()
        assert minimum is None or lower.min() >= np.float32(minimum)

    def test_pixels_that_tie_at_the_bound_are_inside(self):
        # Flat background: every pixel has the same score, which is the offset.
        target = np.full((1, 1000), 0.1, np.float32)
        quantiles = np.broadcast_to(np.float32([[[0.31]], [[0.37]], [[0.7]]]), (3, 1, 1000)).copy()
        data = HeldOut(quantiles, target, np.arange(1000), LEVELS)
        lower, _, upper = calibrate(data).interval(quantiles)
        assert (lower <= target).all()
        assert (target <= upper).all()

    def test_input_is_left_alone(self):
        data = held_out()
        before = data.quantiles.copy()
        calibrate(data, settings=CalibrationSettings(minimum=0)).interval(data.quantiles)
        np.testing.assert_array_equal(before, data.quantiles)

    def test_wrong_numbers_of_levels_or_channels_are_refused(self):
        with pytest.raises(ValueError, match="2 channels"):
            _fixed(0).interval(np.zeros((3, 1, 4), np.float32))


class TestCrossFitting:
    @pytest.mark.parametrize("grouped", [False, True])
    @pytest.mark.parametrize(("n_blocks", "sd"), [(20, 0.0), (20, 0.2), (40, 0.2)])
    def test_the_check_of_one_field_reports_the_coverage_of_fresh_blocks(self, n_blocks, sd, grouped):
        # a correction for the blocks of four folds instead of all five reports .225 / B too much
        off = np.array([_reported_minus_true(seed, n_blocks, sd, grouped) for seed in range(300)])
        tolerance = 3 * off.std(ddof=1) / np.sqrt(len(off))
        assert tolerance < 0.5 * 0.225 / n_blocks
        assert abs(off.mean()) <= tolerance

    @pytest.mark.parametrize("unit", ["block", "pixel"])
    def test_no_interval_uses_its_own_block(self, unit):
        data = held_out(600, channels=2, n_blocks=60)
        settings = CalibrationSettings(unit=unit)
        before = cross_fitted(data, calibrate(data, settings=settings))
        changed = data.target.copy()
        inside = data.block == 17
        changed[:, inside] += 1e3
        other = HeldOut(data.quantiles, changed, data.block, LEVELS)
        after = cross_fitted(other, calibrate(other, settings=settings))
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a[:, inside], b[:, inside])
        assert (before[0] != after[0]).any()

    def test_every_pixel_has_an_interval(self):
        for n_blocks in (2, 3, 5, 7, 12):
            data = held_out(120, n_blocks=n_blocks)
            lower, median, upper = cross_fitted(data, calibrate(data))
            assert np.isfinite(lower).all()
            assert ((lower <= median) & (median <= upper)).all()

    def test_folds_shrink_to_blocks_before_the_interval_becomes_infinite(self):
        data = held_out(200, n_blocks=10)
        calibration = calibrate(data, settings=CalibrationSettings(unit="block"))
        assert np.isfinite(cross_fitted(data, calibration)[0]).all()

    def test_one_block_can_not_be_checked(self):
        data = held_out(50, n_blocks=1)
        lower, median, upper = cross_fitted(data, calibrate(data))
        assert np.isnan(lower).all()
        assert np.isnan(upper).all()
        assert np.isfinite(median).all()


def _reported_minus_true(seed, n_blocks, sd, grouped, pixels=120):
    """Cross-fitted coverage of blocks whose noise scale varies, less that of endless fresh blocks."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(n_blocks, pixels)) * np.exp(rng.normal(0, sd, (n_blocks, 1)))
    target = target.reshape(1, -1).astype(np.float32)
    quantiles = np.stack([np.full_like(target, norm.ppf(level)) for level in LEVELS])
    data = HeldOut(
        quantiles, target, np.repeat(np.arange(n_blocks), pixels), LEVELS, blocks="blocks of 16 px"
    )
    settings, group = CalibrationSettings(unit="block"), np.arange(target.size) % 2
    calibration = calibrate(data, settings=settings)
    offsets = [(float(calibration.offset_lower[0]), float(calibration.offset_upper[0]))]
    lower, _, upper = cross_fitted(data, calibration)
    if grouped:
        made = calibrate_groups(data, group, settings=settings)
        offsets = list(zip(made.offset_lower[:, 0], made.offset_upper[:, 0], strict=True))
        lower, _, upper = cross_fitted_groups(data, group, settings=settings)
    scale = np.exp(sd * norm.ppf((np.arange(400) + 0.5) / 400))
    high = norm.ppf(LEVELS[-1])
    true = [np.mean(norm.cdf((high + b) / scale) - norm.cdf((-high - a) / scale)) for a, b in offsets]
    return float(np.mean((lower <= target) & (target <= upper)) - np.mean(true))


def _column(index):
    """Regressor whose prediction is one column of its input."""
    from sklearn.base import BaseEstimator, RegressorMixin

    class Column(RegressorMixin, BaseEstimator):
        def __init__(self, index=0):
            self.index = index

        def fit(self, X, y):
            self.fitted_ = True
            return self

        def predict(self, X):
            return X[:, self.index]

    return Column(index)


def _fixed(offset, minimum=None):
    """Calibration of two channels with a given offset."""
    offsets = np.full(2, float(offset))
    return Calibration(0.1, "pixel", "symmetric", LEVELS, 0, 2, offsets, offsets, 10, 10, minimum)
