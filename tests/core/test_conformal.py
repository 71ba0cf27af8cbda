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
from scipy.ndimage import gaussian_filter
from scipy.stats import beta

from napari_btn.core.config import CalibrationSettings
from napari_btn.core.conformal import (
    Calibration,
    HeldOut,
    blocks_of,
    calibrate,
    conformal_quantile,
    cross_fitted,
    error_length,
    needed_blocks,
    without_target_noise,
)
from napari_btn.core.rules import image_quantile, risk_quantile

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

    def test_quantile_equals_crepes(self):
        crepes = pytest.importorskip("crepes", reason="crepes is not installed")
        rng = np.random.default_rng(0)
        for n in (25, 60, 333):  # (n + 1) * 0.9 is no whole number, which crepes rounds up
            scores = np.abs(rng.normal(size=n))
            theirs = crepes.ConformalRegressor().fit(residuals=scores)
            bounds = theirs.predict_int(np.zeros(1), confidence=0.9)
            assert conformal_quantile(scores, 0.1) == pytest.approx(bounds[0, 1], abs=1e-12)

    @given(
        sizes=st.lists(st.integers(1, 12), min_size=1, max_size=40),
        alpha=st.sampled_from([0.05, 0.1, 0.2, 1 / 3, 0.5]),
        seed=st.integers(0, 99),
    )
    def test_block_rule_equals_conformal_risk_control(self, sizes, alpha, seed):
        rng = np.random.default_rng(seed)
        scores = [rng.normal(size=size) + rng.normal() for size in sizes]
        block = np.repeat(np.arange(len(sizes)), sizes)
        assert conformal_quantile(np.concatenate(scores), alpha, block) == _risk_control(scores, alpha)


class TestQuantile:
    def test_too_few_cases_give_infinity(self):
        scores = np.arange(8.0)
        assert math.isinf(conformal_quantile(scores, 0.1))
        assert conformal_quantile(np.arange(9.0), 0.1) == 8
        assert math.isinf(conformal_quantile(np.arange(80.0), 0.1, np.arange(80) // 10))
        assert conformal_quantile(np.arange(90.0), 0.1, np.arange(90) // 10) == 89

    def test_a_block_of_one_pixel_each_is_the_plain_rule(self):
        scores = np.random.default_rng(0).normal(size=101)
        for alpha in (0.05, 0.1, 0.25):
            assert conformal_quantile(scores, alpha, np.arange(101)) == conformal_quantile(scores, alpha)

    def test_block_numbers_need_not_be_consecutive(self):
        scores = np.random.default_rng(0).normal(size=60)
        block = np.arange(60) // 5
        assert conformal_quantile(scores, 0.1, block) == conformal_quantile(scores, 0.1, 7 * block + 3)

    def test_exchangeable_scores_cover_as_promised(self):
        draws, n = 2000, 500
        scores = np.random.default_rng(0).uniform(size=(draws, n))
        coverage = np.mean([conformal_quantile(row, 0.1) for row in scores])
        expected = beta(451, 50)
        assert 0.898 <= coverage <= 0.904
        assert abs(coverage - expected.mean()) < 4 * expected.std() / math.sqrt(draws)

    def test_between_image_effects_are_covered_on_average(self):
        rng = np.random.default_rng(1)
        coverage = []
        for _ in range(400):
            shift = rng.normal(size=21)
            scores = np.abs(rng.normal(size=(21, 100)) + shift[:, None])
            threshold = conformal_quantile(scores[:20].ravel(), 0.1, np.repeat(np.arange(20), 100))
            coverage.append(np.mean(scores[20] <= threshold))
        assert np.mean(coverage) >= 0.90

    def test_bad_input_is_refused(self):
        with pytest.raises(ValueError, match="between 0 and 1"):
            conformal_quantile([1.0], 0)
        with pytest.raises(ValueError, match="no scores"):
            conformal_quantile([], 0.1)
        with pytest.raises(ValueError, match="each score needs one"):
            conformal_quantile([1.0, 2.0], 0.1, [0])


class TestImageAndRiskRules:
    def test_share_of_new_images_that_are_covered_less(self):
        rng = np.random.default_rng(2)
        under, n, size = [], 20, 200
        for _ in range(300):
            shift = rng.normal(size=n + 10)
            scores = np.abs(rng.normal(size=(n + 10, size)) + shift[:, None])
            threshold = image_quantile(scores[:n].ravel(), 0.1, 0.1, np.repeat(np.arange(n), size))
            under.append(np.mean(np.mean(scores[n:] <= threshold, axis=1) < 0.90))
        # The share itself is at most 0.10; it has an SE of 0.004 over the draws.
        assert np.mean(under) <= 0.13
        assert np.mean(under) >= 0.05

    def test_image_rule_takes_the_right_rank_of_the_images_own_thresholds(self):
        scores = np.arange(200.0)
        image = np.repeat(np.arange(20), 10)
        # Own thresholds are 8, 18, ... 198; the 19th of 20 at delta = 0.1.
        assert image_quantile(scores, 0.1, 0.1, image) == 188
        assert math.isinf(image_quantile(scores[:80], 0.1, 0.1, image[:80]))

    def test_risk_rule_needs_22_blocks(self):
        for n_blocks, finite in ((21, False), (22, True)):
            block = np.repeat(np.arange(n_blocks), 30)
            scores = np.random.default_rng(0).normal(size=len(block))
            assert math.isfinite(risk_quantile(scores, 0.1, 0.1, block)) is finite
        assert needed_blocks(0.1, rule="risk") == 22

    def test_coverage_holds_with_the_stated_certainty(self):
        rng = np.random.default_rng(3)
        short = []
        for _ in range(300):
            shift = rng.normal(size=60)
            scores = np.abs(rng.normal(size=(60, 50)) + shift[:, None])
            threshold = risk_quantile(scores.ravel(), 0.1, 0.1, np.repeat(np.arange(60), 50))
            # Shift and noise together have an SD of sqrt(2).
            short.append(math.erf(threshold / 2) < 0.9)
        assert np.mean(short) <= 0.1 + 2 * math.sqrt(0.09 / 300)

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


class TestTargetNoise:
    def test_without_it_the_interval_covers_the_signal_as_stated(self):
        rng = np.random.default_rng(0)
        n = 40_000
        error, noise = rng.normal(size=(2, 1, n))
        signal = (error).astype(np.float32)
        target = (signal + 0.8 * noise).astype(np.float32)
        quantiles = np.stack([np.full_like(target, q) for q in (-1, 0, 1)])
        data = HeldOut(quantiles, target, np.arange(n) // 100, LEVELS)
        lower, median, upper = calibrate(data, settings=CalibrationSettings(unit="pixel")).interval(quantiles)
        assert np.mean((lower <= signal) & (signal <= upper)) > 0.95
        low, high = without_target_noise(lower, median, upper, np.array([0.64 / 1.64]))
        assert np.mean((low <= signal) & (signal <= high)) == pytest.approx(0.9, abs=0.01)

    def test_noise_over_the_residual_is_refused(self):
        a = np.zeros((1, 3), np.float32)
        with pytest.raises(ValueError, match="overestimated"):
            without_target_noise(a, a, a, np.array([1.0]))


class TestCaption:
    def test_says_what_is_covered_by_which_rule_and_what_is_wrong(self):
        text = calibrate(held_out(500, n_blocks=60)).caption()
        assert text == (
            "Covers the clean signal: 0.9 of pixels on average over images like the calibration data; "
            "not per pixel. Held-out blocks: 60."
        )
        text = calibrate(held_out(500, n_blocks=5)).caption("long exposure")
        assert text.startswith("Covers a long exposure: ")
        assert "without a finite-sample guarantee" in text
        assert text.endswith("Held-out blocks: 5. Warnings: 1 red, 1 amber.")


class TestCalibrate:
    @pytest.mark.parametrize(
        ("n_blocks", "unit", "rule", "levels", "finite"),
        [
            (50, "auto", "block", [], True),
            (49, "auto", "pixel", ["amber"], True),
            (9, "auto", "pixel", ["amber"], True),
            (8, "auto", "pixel", ["amber", "red"], True),
            (9, "block", "block", [], True),
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


class TestBlocks:
    @given(
        mask=hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=4, max_side=12)),
        side=st.integers(1, 6),
    )
    def test_blocks_fill_the_mask_and_are_numbered_without_gaps(self, mask, side):
        numbers = blocks_of(mask, side)
        np.testing.assert_array_equal(numbers >= 0, mask)
        used = np.unique(numbers[mask])
        np.testing.assert_array_equal(used, np.arange(len(used)))

    def test_repeats_share_their_blocks(self):
        mask = np.zeros((3, 40, 50), bool)
        mask[:, 5:, 10:] = True
        numbers = blocks_of(mask, 10)
        np.testing.assert_array_equal(numbers[0], numbers[2])

    def test_scenes_are_blocks(self):
        mask = np.ones((4, 9, 9), bool)
        mask[1] = False
        numbers = blocks_of(mask, 3, by_scene=True)
        assert [set(np.unique(n)) for n in numbers] == [{0}, {-1}, {1}, {2}]

    def test_slivers_join_a_neighbour_and_larger_parts_stand(self):
        # 35 = 2 * 16 + 3: a strip of 3 is under a quarter of 16; 40 = 2 * 16 + 8 stands.
        assert blocks_of(np.ones((1, 35, 32), bool), 16).max() + 1 == 4
        assert blocks_of(np.ones((1, 40, 32), bool), 16).max() + 1 == 6
        sizes = np.bincount(blocks_of(np.ones((1, 35, 35), bool), 16).ravel())
        assert len(sizes) == 4
        assert sizes.min() >= 16 * 16

    def test_a_thin_volume_is_cut_along_its_long_axes(self):
        assert blocks_of(np.ones((1, 4, 32, 48), bool), 16).max() + 1 == 6

    def test_empty_mask_and_bad_side(self):
        assert (blocks_of(np.zeros((1, 5, 5), bool), 4) == -1).all()
        with pytest.raises(ValueError, match="at least 1 px"):
            blocks_of(np.ones((1, 5, 5), bool), 0)


class TestErrorLength:
    def test_independent_misses_are_one_pixel_long(self):
        miss = np.random.default_rng(0).uniform(size=(120, 130)) < 0.1
        assert error_length(miss, 64) == 1

    def test_grows_with_the_correlation(self):
        rng = np.random.default_rng(0)
        lengths = []
        for sigma in (1, 3, 6):
            field = gaussian_filter(rng.normal(size=(200, 200)), sigma)
            lengths.append(error_length(field > np.quantile(field, 0.9), 64))
        assert lengths == sorted(lengths)
        # Neighbours of a Gaussian-smoothed field correlate as exp(-lag^2 / (4 sigma^2)).
        assert 4 <= lengths[1] <= 12
        assert lengths[2] >= 1.5 * lengths[1]

    def test_the_worst_axis_counts_and_the_mask_is_kept(self):
        rng = np.random.default_rng(0)
        field = gaussian_filter(rng.normal(size=(200, 200)), (1, 8))
        miss = field > np.quantile(field, 0.9)
        valid = np.zeros_like(miss)
        valid[40:160, 40:160] = True
        assert error_length(miss, 64) >= 10
        assert error_length(np.where(valid, miss, True), 64, valid=valid) == pytest.approx(
            error_length(miss[40:160, 40:160], 64), abs=2
        )

    def test_no_miss_or_a_single_row(self):
        assert error_length(np.zeros((8, 9), bool), 16) == 1
        assert error_length(np.array([[True, True, False, False]] * 1), 16) <= 4


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


def _risk_control(scores, alpha):
    """Smallest score whose corrected mean block miscoverage is at most alpha."""
    n = len(scores)
    for threshold in np.sort(np.concatenate(scores)):
        risk = np.mean([np.mean(s > threshold) for s in scores])
        if n / (n + 1) * risk + 1 / (n + 1) <= alpha + 1e-9 * n / (n + 1):
            return threshold
    return math.inf


def _fixed(offset, minimum=None):
    """Calibration of two channels with a given offset."""
    offsets = np.full(2, float(offset))
    return Calibration(0.1, "pixel", "symmetric", LEVELS, 0, 2, offsets, offsets, 10, 10, minimum)
