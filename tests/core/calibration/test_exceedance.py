"""Exceedance: calibrated on fresh data, honest on its conservative side, fast enough for a slider."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from napari_btn.core.calibration import exceedance
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.exceedance import Exceedance, exceedance_from, lock_threshold, select

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
THRESHOLDS = (-1.0, 0.0, 0.7, 1.5)


def draw(n, seed, blocks=100, narrow=0.7, shift=0.2):
    """Independent pixels of many widths, whose quantiles are too narrow and too high."""
    rng = np.random.default_rng(seed)
    centre, width = rng.normal(size=n), rng.uniform(0.3, 1.2, size=n)
    target = centre + width * rng.normal(size=n)
    quantiles = centre + width * (shift + narrow * norm.ppf(LEVELS)[:, None])
    return HeldOut(
        quantiles[:, None].astype(np.float32),
        target[None].astype(np.float32),
        np.arange(n) * blocks // n,
        LEVELS,
    )


def calibration_error(probability, truth, bins=20):
    """Mean distance of the promised from the realised share, weighted by the pixels of each bin."""
    cell = np.minimum((probability * bins).astype(int), bins - 1)
    counts = np.bincount(cell, minlength=bins)
    gap = np.bincount(cell, probability, minlength=bins) - np.bincount(cell, truth, minlength=bins)
    return np.abs(gap).sum() / counts.sum()


@pytest.mark.parametrize("rule", ["block", "pixel"])
def test_calibrated_on_fresh_independent_pixels(rule):
    fitted = exceedance_from(draw(40_000, 0, blocks=1000), rule)
    fresh = draw(100_000, 1)
    for t in THRESHOLDS:
        p = fitted.probability(fresh.quantiles[:, 0], t)
        assert calibration_error(p, fresh.target[0] > t) <= 0.015
    raw = 1 - exceedance.cdf(fresh.quantiles[:, 0], LEVELS, 0.0)
    assert calibration_error(raw, fresh.target[0] > 0) > 0.03


def test_falls_with_the_threshold_and_stays_within_0_and_1():
    data = draw(2000, 0)
    fitted = exceedance_from(data)
    for side in ("middle", "conservative"):
        maps = [fitted.probability(data.quantiles[:, 0], t, side=side) for t in np.linspace(-9, 9, 37)]
        assert (np.diff(maps, axis=0) <= 1e-6).all()
        assert np.min(maps) >= 0
        assert np.max(maps) <= 1


def test_the_conservative_side_lies_below_by_at_most_a_block_and_a_step():
    data = draw(5000, 0, blocks=20)
    fitted = exceedance_from(data)
    for t in THRESHOLDS:
        middle = fitted.probability(data.quantiles[:, 0], t)
        low = fitted.probability(data.quantiles[:, 0], t, side="conservative")
        assert (low <= middle).all()
        # Half a block, and half of what one of the 1024 steps can hold.
        assert (middle - low).max() <= 0.5 / 21 + 0.5 * np.diff(fitted.shares[0]).max() + 1e-6


def test_conservative_claims_hold_for_a_new_block():
    rng = np.random.default_rng(5)
    held = []
    for _ in range(400):
        centre = np.repeat(rng.normal(size=21), 50)
        target = (centre + rng.normal(size=centre.size)).astype(np.float32)
        quantiles = np.repeat(norm.ppf(LEVELS)[:, None], 1000, axis=1)[:, None].astype(np.float32)
        data = HeldOut(quantiles, target[None, :1000], np.arange(1000) // 50, LEVELS)
        bound = exceedance_from(data).lower_bound(quantiles[:, 0, :1], 0.75)
        held.append(np.mean(target[1000:] > bound[0]))
    assert np.mean(held) >= 0.75 - 2 * np.std(held) / np.sqrt(len(held))
    assert np.mean(held) <= 0.75 + 1 / 21 + 0.05


@given(confidence=st.floats(0.05, 0.97), threshold=st.floats(-2, 2))
def test_the_bound_and_the_map_make_the_same_claim(confidence, threshold):
    data = draw(3000, 0)
    fitted = exceedance_from(data)
    q = data.quantiles[:, 0]
    claimed = fitted.probability(q, threshold, side="conservative") >= confidence
    bound = fitted.lower_bound(q, confidence)
    assert claimed[bound > threshold + 1e-4].all()
    # Claimed by the map alone are only places within one step above the bound's.
    if np.isfinite(bound).all():
        alone = claimed & ~(bound > threshold)
        ahead = exceedance.cdf(q, LEVELS, threshold) - exceedance.cdf(q, LEVELS, bound)
        assert (ahead[alone] <= 1 / exceedance.STEPS + 1e-4).all()


def test_too_few_blocks_bound_nothing():
    fitted = exceedance_from(draw(500, 0, blocks=5))
    assert np.isneginf(fitted.lower_bound(draw(5, 1).quantiles[:, 0], 0.95)).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        fitted.lower_bound(draw(5, 1).quantiles[:, 0], 1.0)


def test_json_is_small_and_gives_the_same_map():
    data = draw(3000, 0)
    fitted = exceedance_from(data)
    text = json.dumps(fitted.to_dict())
    assert len(text) < 12_000
    again = Exceedance.from_dict(json.loads(text))
    np.testing.assert_allclose(
        again.probability(data.quantiles[:, 0], 0.3),
        fitted.probability(data.quantiles[:, 0], 0.3),
        atol=1e-6,
    )


def test_volumes_and_odd_shapes():
    fitted = exceedance_from(draw(500, 0))
    quantiles = np.sort(np.random.default_rng(0).normal(size=(7, 3, 5, 7)), axis=0)
    assert fitted.probability(quantiles, 0.1).shape == (3, 5, 7)
    assert fitted.probability(quantiles, 0.1).dtype == np.float32


def test_a_locked_threshold_is_calibrated_where_the_place_alone_is_not():
    # Skewed targets at few places: one curve of places is wrong at most thresholds.
    def skewed(n, seed):
        data = draw(n, seed)
        rng = np.random.default_rng(seed)
        bad = data.quantiles[:, 0] + np.where(data.quantiles[3, 0] > 0, 0.5, -0.5)
        target = data.target + rng.exponential(0.3, size=data.target.shape)
        return HeldOut(bad[:, None].astype(np.float32), target.astype(np.float32), data.block, LEVELS)

    known, fresh = skewed(40_000, 0), skewed(100_000, 1)
    truth = fresh.target[0] > 0.7
    locked = lock_threshold(known, 0.7).probability(fresh.quantiles[:, 0])
    moving = exceedance_from(known).probability(fresh.quantiles[:, 0], 0.7)
    assert calibration_error(locked, truth) <= 0.015
    assert calibration_error(locked, truth) < calibration_error(moving, truth)
    assert locked.min() >= 0
    assert locked.max() <= 1


@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_selection_keeps_its_false_discovery_level(level):
    wrong, power = [], []
    for seed in range(100):
        known, fresh = draw(1000, 2 * seed), draw(1000, 2 * seed + 1)
        chosen = select(known, fresh.quantiles[:, 0], 0.8, level=level).mask
        above = fresh.target[0] > 0.8
        wrong.append(np.mean(~above[chosen]) if chosen.any() else 0)
        power.append(np.mean(chosen[above]))
    assert np.mean(wrong) <= level + 0.02
    assert np.mean(power) > 0.1


def test_selection_is_benjamini_and_hochbergs():
    known, fresh = draw(300, 0), draw(200, 1)
    chosen = select(known, fresh.quantiles[:, 0], 0.5, level=0.2)
    score = 1 - exceedance.cdf(known.quantiles[:, 0], LEVELS, 0.5)
    null = known.target[0] <= 0.5
    wanted = 1 - exceedance.cdf(fresh.quantiles[:, 0], LEVELS, 0.5)
    p = np.array([(1 + np.sum(null & (score >= s))) / 301 for s in wanted])
    k = max((k for k in range(1, 201) if np.sort(p)[k - 1] <= 0.2 * k / 200), default=0)
    expected = p <= (np.sort(p)[k - 1] if k else -1)
    np.testing.assert_array_equal(chosen.mask, expected)
    assert f"{expected.sum()} pixels" in chosen.caption


def test_selection_by_block_is_more_careful_and_nothing_is_claimed_without_evidence():
    known, fresh = draw(2000, 0, blocks=50), draw(1000, 1)
    q = fresh.quantiles[:, 0]
    by_block, by_pixel = select(known, q, 0.3, rule="block"), select(known, q, 0.3)
    assert by_block.mask.sum() <= by_pixel.mask.sum()
    assert "far off" not in by_pixel.caption
    assert "far off" in select(draw(2000, 0, blocks=20), q, 0.3).caption
    nothing = select(known, q, 50.0)
    assert not nothing.mask.any()
    assert np.isinf(nothing.cut)
    with pytest.raises(ValueError, match="false-discovery level"):
        select(known, q, 0.3, level=0)


def test_the_caption_says_what_is_true():
    fitted = exceedance_from(draw(500, 0, blocks=40))
    text = fitted.caption(0.25, channel_name="Fe", confidence=0.75, covers="long exposure")
    assert text.startswith("P(Fe > 0.25 of a long exposure): right on average")
    assert "40 held-out blocks" in text
    assert "half of the time" in text
    assert "false-discovery" in text
    assert "half" not in fitted.caption(0.25)
