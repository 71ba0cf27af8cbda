"""Thresholds from scores: the right rank, infinite where there are too few cases, as good as promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from napari_btn.core.calibration.rules import (
    _image_quantile,
    _risk_quantile,
    conformal_quantile,
    needed_blocks,
)


class TestOracles:
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
            threshold = _image_quantile(scores[:n].ravel(), 0.1, 0.1, np.repeat(np.arange(n), size))
            under.append(np.mean(np.mean(scores[n:] <= threshold, axis=1) < 0.90))
        # The share itself is at most 0.10; it has an SE of 0.004 over the draws.
        assert np.mean(under) <= 0.13
        assert np.mean(under) >= 0.05

    def test_image_rule_takes_the_right_rank_of_the_images_own_thresholds(self):
        scores = np.arange(200.0)
        image = np.repeat(np.arange(20), 10)
        # Own thresholds are 8, 18, ... 198; the 19th of 20 at delta = 0.1.
        assert _image_quantile(scores, 0.1, 0.1, image) == 188
        assert math.isinf(_image_quantile(scores[:80], 0.1, 0.1, image[:80]))

    def test_risk_rule_needs_22_blocks(self):
        for n_blocks, finite in ((21, False), (22, True)):
            block = np.repeat(np.arange(n_blocks), 30)
            scores = np.random.default_rng(0).normal(size=len(block))
            assert math.isfinite(_risk_quantile(scores, 0.1, 0.1, block)) is finite
        assert needed_blocks(0.1, rule="risk") == 22

    def test_coverage_holds_with_the_stated_certainty(self):
        rng = np.random.default_rng(3)
        short = []
        for _ in range(300):
            shift = rng.normal(size=60)
            scores = np.abs(rng.normal(size=(60, 50)) + shift[:, None])
            threshold = _risk_quantile(scores.ravel(), 0.1, 0.1, np.repeat(np.arange(60), 50))
            # Shift and noise together have an SD of sqrt(2).
            short.append(math.erf(threshold / 2) < 0.9)
        assert np.mean(short) <= 0.1 + 2 * math.sqrt(0.09 / 300)


def _risk_control(scores, alpha):
    """Smallest score whose corrected mean block miscoverage is at most alpha."""
    n = len(scores)
    for threshold in np.sort(np.concatenate(scores)):
        risk = np.mean([np.mean(s > threshold) for s in scores])
        if n / (n + 1) * risk + 1 / (n + 1) <= alpha + 1e-9 * n / (n + 1):
            return threshold
    return math.inf
