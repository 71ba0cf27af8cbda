"""The report tells the truth about coverage, and how well it knows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from napari_btn.core.calibration.blocks import blocks_of
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate, cross_fitted
from napari_btn.core.evaluation.bootstrap import coverage_interval
from napari_btn.core.evaluation.report import Judged, Report, report_on
from napari_btn.core.progress import Note
from napari_btn.core.settings import CalibrationSettings

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
SCALE = 1.2


def correlated(seed, shape=(80, 160), sigma=3.0, side=16, channels=2):
    """Errors of SD `SCALE` where the quantiles say 1, alike over about three sigma."""
    rng = np.random.default_rng(seed)
    margin = int(4 * sigma) + 1
    noise = rng.normal(size=(channels, *(n + 2 * margin for n in shape)))
    inside = (slice(None), *(slice(margin, -margin) for _ in shape))
    field = gaussian_filter(noise, (0, sigma, sigma))[inside] * 2 * np.sqrt(np.pi) * sigma * SCALE
    target = field.reshape(channels, -1).astype(np.float32)
    quantiles = np.stack([np.full_like(target, norm.ppf(level)) for level in LEVELS])
    block = blocks_of(np.ones((1, *shape), bool), side)[0].ravel()
    index = np.indices((1, *shape)).reshape(3, -1).T
    observed = target + rng.normal(size=target.shape).astype(np.float32)
    return HeldOut(quantiles, target, block, LEVELS, observed, index)


def report(held_out, settings=None, *, notes=(), block_px=0, **about):
    """Report on cross-fitted intervals, as training makes it."""
    settings = settings or CalibrationSettings()
    calibration = calibrate(held_out, settings=settings)
    intervals = cross_fitted(held_out, calibration, folds=settings.folds)
    notes = (*notes, *calibration.notes)
    judged = Judged(held_out, *intervals, block_px=block_px)
    return report_on(judged, alpha=0.1, rule=calibration.rule, notes=notes, **about)


def true_coverage(calibration):
    """Coverage on endless fresh data of the same law."""
    lower = norm.cdf((norm.ppf(0.05) - calibration.offset_lower) / SCALE)
    upper = norm.cdf((norm.ppf(0.95) + calibration.offset_upper) / SCALE)
    return upper - lower


@pytest.mark.parametrize("unit", ["block", "pixel"])
def test_the_interval_of_coverage_holds_the_true_one(unit):
    settings = CalibrationSettings(unit=unit)
    held = []
    for seed in range(100):
        data = correlated(seed, channels=1)
        result = report(data, settings, block_px=16)
        truth = true_coverage(calibrate(data, settings=settings))
        held.append((result.coverage_low <= truth) & (truth <= result.coverage_high))
    assert np.sum(held) >= 88


def test_blocks_know_less_than_their_pixels_pretend():
    data = correlated(0)
    result = report(data, CalibrationSettings(unit="pixel"), block_px=16)
    n = data.target.shape[1]
    block_error = (result.coverage_high - result.coverage_low) / (2 * 1.96)
    pixel_error = np.sqrt(0.1 * 0.9 / n)
    assert (block_error >= 2 * pixel_error).all()
    assert (result.n_eff < n / 4).all()


def test_independent_pixels_are_worth_about_their_number():
    rng = np.random.default_rng(0)
    n = 8000
    target = rng.normal(size=(1, n)).astype(np.float32)
    quantiles = np.stack([np.full_like(target, norm.ppf(level)) for level in LEVELS])
    data = HeldOut(quantiles, target, np.arange(n) // 80, LEVELS)
    # 100 blocks: the variance between them is known to 14 %, one SE.
    assert n / 2 < report(data).n_eff[0] <= n


def test_below_and_above_stand_apart():
    data = correlated(1)
    shifted = HeldOut(data.quantiles, data.target + 3, data.block, LEVELS)
    result = report_on(Judged(shifted, *data.quantiles[[0, 2, 4]]), alpha=0.1)
    assert (result.below < 0.01).all()
    assert (result.above > 0.7).all()
    np.testing.assert_allclose(result.coverage, 1 - result.below - result.above)


def test_observations_own_width_is_that_of_their_noise_at_the_targets_scale():
    rng = np.random.default_rng(0)
    n = 50_000
    target = rng.gamma(3, size=(1, n)).astype(np.float32)
    observed = (5 + 0.02 * (target + rng.normal(size=(1, n)))).astype(np.float32)
    quantiles = np.stack([target - 0.1, target, target + 0.1])
    data = HeldOut(quantiles, target, np.arange(n) // 50, (0.05, 0.5, 0.95), observed)
    result = report_on(Judged(data, *quantiles), alpha=0.1)
    assert result.width_ratio[0] == pytest.approx(0.2 / (2 * 1.645), rel=0.03)


def test_reliability_is_the_share_under_each_quantile():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(1, 20_000)).astype(np.float32)
    quantiles = np.stack([np.full_like(target, norm.ppf(level)) for level in LEVELS])
    result = report(HeldOut(quantiles, target, np.arange(20_000) // 100, LEVELS))
    np.testing.assert_allclose(result.reliability[0], LEVELS, atol=4 * 0.5 / np.sqrt(20_000))
    np.testing.assert_allclose(result.crps, 2 * result.pinball.mean(axis=1))


def test_the_same_seed_gives_the_same_report_and_json_keeps_it():
    data = correlated(2)
    first, second = (report(data, channel_names=("Si", "Al"), covers="long exposure") for _ in range(2))
    assert first.to_dict() == second.to_dict()
    again = Report.from_dict(json.loads(json.dumps(first.to_dict(), allow_nan=False)))
    assert again.to_dict() == first.to_dict()
    assert again.channel_names == ("Si", "Al")
    assert again.n_blocks.dtype == np.int64
    assert again.reliability.shape == (2, len(LEVELS))


def test_one_block_has_no_coverage_and_says_so():
    data = correlated(0, shape=(10, 11))
    result = report(data)
    assert np.isnan(result.coverage).all()
    (note,) = result.warnings  # one note, which names what helps
    assert note.level == "red"
    assert "Only 1 held-out block; coverage 90 % needs at least 9" in note.text
    assert "nor can it be checked. Hold out more of the field, add scenes" in note.text
    assert np.isfinite(result.crps).all()
    json.dumps(result.to_dict(), allow_nan=False)


def test_one_block_that_is_enough_for_the_rule_is_said_to_be_unchecked():
    judged = Judged(correlated(0, shape=(10, 11)), *(np.full((2, 110), np.nan, np.float32),) * 3)
    (note,) = report_on(
        judged, alpha=0.5, rule="pixel", notes=(Note("amber", "Only 1 held-out block."),)
    ).warnings[1:]
    assert note.level == "red"
    assert "can't be checked" in note.text


def test_infinite_intervals_are_reported_as_such():
    data = correlated(0, shape=(32, 48))
    result = report(data, CalibrationSettings(unit="block"))
    assert (result.coverage == 1).all()
    assert np.isinf(result.width).all()
    assert "red" in {note.level for note in result.warnings}
    assert np.isinf(Report.from_dict(result.to_dict()).width).all()


def test_notes_come_first_and_few_independent_pixels_give_a_warning():
    given = Note("red", "Targets overlap.")
    result = report(correlated(0, shape=(48, 48), sigma=6), notes=(given,))
    assert result.warnings[0] == given
    assert any("independent" in note.text for note in result.warnings)


def test_the_wanted_number_of_independent_pixels_is_that_of_the_coverage():
    # 225 give a coverage of 90 % to 0.04, and one of 50 % to 0.07 only
    data = correlated(0, shape=(144, 144))
    for alpha in (0.1, 0.5):
        intervals = cross_fitted(data, calibrate(data, alpha=alpha))
        result = report_on(Judged(data, *intervals), alpha=alpha, channel_names=["a", "b"])
        (text,) = [n.text for n in result.warnings if "independent" in n.text] or [""]
        poor = 2 * np.sqrt(alpha * (1 - alpha) / result.n_eff) > 0.04
        assert [f"{name} (" in text for name in "ab"] == poor.tolist()
    assert (result.n_eff > 225).all()
    assert poor.any()


def test_scenes_are_not_merged_into_larger_blocks():
    rng = np.random.default_rng(0)
    scenes, n = 20, 100
    target = (rng.normal(size=(scenes, 1)) + rng.normal(size=(scenes, n))).reshape(1, -1).astype(np.float32)
    quantiles = np.stack([np.full_like(target, q) for q in (-2.3, 0, 2.3)])
    index = np.indices((scenes, 10, 10)).reshape(3, -1).T
    with_position = HeldOut(quantiles, target, index[:, 0], (0.05, 0.5, 0.95), None, index)
    without = HeldOut(quantiles, target, index[:, 0], (0.05, 0.5, 0.95))
    assert report(with_position).to_dict() == report(without).to_dict()


def test_quantiles_may_be_unknown():
    data = correlated(0)
    bare = HeldOut(np.empty((0, *data.target.shape), np.float32), data.target, data.block, ())
    result = report_on(Judged(bare, *data.quantiles[[0, 2, 4]]), alpha=0.1)
    assert np.isnan(result.crps).all()
    assert result.pinball.shape == (2, 0)
    assert np.isfinite(result.winkler).all()
    json.dumps(result.to_dict(), allow_nan=False)


def test_names_must_fit_the_channels():
    with pytest.raises(ValueError, match="1 channel name came for 2 channels"):
        report(correlated(0), channel_names=("Fe",))


def test_coverage_by_width_and_by_token_names_the_worst():
    rng = np.random.default_rng(0)
    n = 20_000
    width = rng.uniform(1, 3, size=n)
    # One half-width fits all, so the widest predictions cover most and the narrowest least.
    target = rng.normal(size=(1, n)).astype(np.float32)
    quantiles = np.stack([-width, np.zeros(n), width])[:, None].astype(np.float32)
    group = (np.arange(n) % 4 == 0).astype(np.int64) - (np.arange(n) % 8 == 0) * 2
    data = HeldOut(quantiles, target, np.arange(n) // 100, (0.05, 0.5, 0.95))
    result = report_on(Judged(data, *quantiles, group=group), alpha=0.1)
    assert result.bin_width.shape == result.bin_coverage.shape == (1, 10)
    assert (np.diff(result.bin_width[0]) > 0).all()
    np.testing.assert_allclose(result.bin_coverage.mean(), result.coverage[0], atol=1e-9)
    assert result.worst[0].startswith("the narrowest tenth of the intervals, 7")
    assert result.group_coverage.shape == (1, 2)
    np.testing.assert_allclose(result.group_share, [0.75, 0.125])
    inside = np.abs(target[0]) <= width.astype(np.float32)
    assert result.group_coverage[0, 0] == pytest.approx(inside[group == 0].mean())
    again = Report.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    assert again.worst == result.worst


def test_places_in_the_predicted_distribution_are_flat_where_it_is_right():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(1, 40_000)).astype(np.float32)
    levels = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    quantiles = np.stack([np.full_like(target, norm.ppf(level)) for level in levels])
    result = report(HeldOut(quantiles, target, np.arange(40_000) // 400, levels))
    assert result.pit.shape == (1, 20)
    assert result.pit.sum() == pytest.approx(1)
    # A normal distribution bends between the levels, by up to a fifth of the mean height.
    np.testing.assert_allclose(result.pit[0], 0.05, atol=0.015)


@pytest.mark.parametrize("n_blocks", [3, 20, 59])
def test_that_no_block_misses_does_not_prove_that_none_will(n_blocks):
    low, high, _ = coverage_interval(np.zeros((1, 10 * n_blocks), bool), np.repeat(np.arange(n_blocks), 10))
    # a share of blocks that would go unseen once in forty times: 2.5 % is each side of a two-sided interval
    assert low[0] ** n_blocks == pytest.approx(0.025)
    assert high[0] == 1


def test_just_enough_blocks_are_said_to_be_unchecked():
    data = correlated(0, shape=(48, 48), side=16, channels=1)
    assert data.n_blocks == 9
    result = report(data, CalibrationSettings(unit="block"))
    assert any("exactly as many as" in note.text for note in result.warnings)
    assert not any("exactly as many as" in note.text for note in report(data).warnings)
