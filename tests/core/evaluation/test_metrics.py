"""Scores agree with published implementations."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules

from napari_btn.core.evaluation import metrics

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    target = rng.gamma(2, size=(2, 501))
    quantiles = np.sort(rng.gamma(2, size=(len(LEVELS), 2, 501)), axis=0)
    return target, quantiles


def test_interval_score_equals_scoringrules(case):
    target, q = case
    ours = metrics.interval_score(target, q[0], q[-1], 0.1, axis=-1)
    theirs = scoringrules.interval_score(target, q[0], q[-1], 0.1).mean(axis=-1)
    np.testing.assert_allclose(ours, theirs, atol=1e-12, rtol=0)


def test_crps_is_twice_the_mean_pinball_and_equals_scoringrules(case):
    target, q = case
    ours = metrics.crps_from_quantiles(target, q, LEVELS, axis=-1)
    np.testing.assert_allclose(
        ours, 2 * metrics.pinball(target, q, LEVELS, axis=-1).mean(axis=0), atol=1e-12, rtol=0
    )
    theirs = scoringrules.crps_quantile(target, q, np.asarray(LEVELS), m_axis=0).mean(axis=-1)
    np.testing.assert_allclose(ours, theirs, atol=1e-12, rtol=0)


def test_pinball_of_each_level_equals_scoringrules(case):
    target, q = case
    for ours, quantile, level in zip(metrics.pinball(target, q, LEVELS), q, LEVELS, strict=True):
        theirs = scoringrules.quantile_score(target, quantile, level).mean()
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_coverage_counts_the_bounds_as_inside():
    assert metrics.coverage([1, 2, 3, 4], [1, 0, 4, 0], [2, 2, 5, 3]) == 0.5


def test_correlation_equals_numpy_and_is_nan_for_a_constant(case):
    target, q = case
    ours = metrics.correlation(target, q[3], axis=-1)
    theirs = [np.corrcoef(t, e)[0, 1] for t, e in zip(target, q[3], strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert np.isnan(metrics.correlation(target, np.ones_like(target)))


def test_psnr_equals_skimage():
    from skimage.metrics import peak_signal_noise_ratio

    rng = np.random.default_rng(0)
    target, estimate = rng.normal(size=(2, 17, 23))
    ours = metrics.psnr(target, estimate, data_range=4)
    assert ours == pytest.approx(peak_signal_noise_ratio(target, estimate, data_range=4))
    assert metrics.psnr(target, estimate) == pytest.approx(
        peak_signal_noise_ratio(target, estimate, data_range=np.ptp(target))
    )
    assert np.isposinf(metrics.psnr(target, target))


def test_ssim_is_one_for_the_same_image_in_two_and_three_dimensions_and_nan_where_too_small():
    rng = np.random.default_rng(0)
    for shape in [(33, 21), (12, 13, 15)]:
        image = rng.normal(size=shape)
        assert metrics.ssim(image, image) == pytest.approx(1)
        assert metrics.ssim(image, rng.normal(size=shape)) < 0.3
    assert np.isnan(metrics.ssim(rng.normal(size=(5, 50)), rng.normal(size=(5, 50))))
