"""Exceedance: calibrated on fresh data, honest on its conservative side, fast enough for a slider."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from napari_btn.core.calibration import exceedance
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.claims import select
from napari_btn.core.calibration.conformal import calibrate, covered
from napari_btn.core.calibration.exceedance import exceedance_from, lock_threshold

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


def test_conservative_claims_hold_for_a_new_block(monkeypatch):
    # a bound needs no areas of maps, which take most of the time
    monkeypatch.setattr(exceedance.Area, "of", lambda *args, **options: None)
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


def test_where_many_signals_are_zero_bounds_reach_them_and_the_map_at_zero_is_no_area():
    # right predictions of a signal that is 0 in four of five pixels: what docstring and guide say of ties
    def drawn(rng, n):
        middle = rng.normal(-1, 1, n)
        signal = np.maximum(middle + 0.5 * rng.normal(size=n), 0)
        quantiles = np.maximum(middle + 0.5 * norm.ppf(LEVELS)[:, None], 0)
        return quantiles.astype(np.float32), signal.astype(np.float32)

    rng = np.random.default_rng(1)
    quantiles, signal = drawn(rng, 40_000)
    held_out = HeldOut(quantiles[:, None], signal[None], np.arange(40_000) // 800, LEVELS)
    made = exceedance_from(held_out, "pixel")
    quantiles, signal = drawn(rng, 100_000)
    bound = made.lower_bound(quantiles, 0.75)
    assert np.mean(signal >= bound) > 0.75
    assert np.mean(signal > bound) < 0.25
    assert made.probability(quantiles, 0.0).mean() < 0.6 * np.mean(signal > 0)
    assert abs(made.probability(quantiles, 1.0).mean() / np.mean(signal > 1) - 1) < 0.1
    lower, _, upper = calibrate(held_out).interval(quantiles[:, None])
    assert 0.94 < np.mean((lower[0] <= signal) & (signal <= upper[0])) < 0.99


def test_too_few_blocks_bound_nothing():
    fitted = exceedance_from(draw(500, 0, blocks=5))
    assert np.isneginf(fitted.lower_bound(draw(5, 1).quantiles[:, 0], 0.95)).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        fitted.lower_bound(draw(5, 1).quantiles[:, 0], 1.0)


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
    locked = lock_threshold(exceedance_from(known), known, 0.7).probability(fresh.quantiles[:, 0])
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
    assert np.mean(power) > (0.05 if level < 0.1 else 0.1)


def fields(n_blocks, seed, *, rare=0.03, side=12):
    """Blocks of one field: a rare phase in grains, seen with an error that whole blocks share."""
    rng = np.random.default_rng(seed)
    block = np.repeat(np.arange(n_blocks), side**2)
    grain = (rng.random(n_blocks * side) < rare).repeat(side) & (rng.random(block.size) < 0.9)
    target = np.where(grain, rng.uniform(0.5, 1.0, block.size), rng.gamma(2.0, 0.03, block.size))
    shared = rng.normal(0, 0.05, n_blocks)[block]
    centre = 0.3 * target.mean() + 0.7 * target + shared + rng.normal(0, 0.06, block.size)
    width = 0.05 + 0.25 * np.abs(centre)
    quantiles = centre + width * norm.ppf(LEVELS)[:, None]
    return HeldOut(
        quantiles[:, None].astype(np.float32), target[None].astype(np.float32), block.astype(np.int64), LEVELS
    )


def test_the_sum_of_a_map_is_the_area_also_of_a_rare_phase():
    thresholds = np.array([0.1, 0.2, 0.4, 0.7])
    summed, area, lowest = np.zeros(4), np.zeros(4), []
    for seed in range(20):
        known, fresh = fields(150, 2 * seed), fields(300, 2 * seed + 1)
        fitted = exceedance_from(known)
        found = [fitted.probability(fresh.quantiles[:, 0], t) for t in thresholds]
        summed += np.sum(found, axis=1)
        area += [np.sum(fresh.target[0] > t) for t in thresholds]
        lowest.append(np.min(found))
    np.testing.assert_allclose(summed / area, 1, atol=0.1)
    # half an unseen block in every pixel would make a rare phase much larger
    assert max(lowest) < 0.25 / 151
    known, fresh = fields(3000, 99), fields(3000, 98)
    fitted = exceedance_from(known)
    for t in thresholds:
        locked = lock_threshold(fitted, known, t).probability(fresh.quantiles[:, 0])
        assert locked.sum() / np.sum(fresh.target > t) == pytest.approx(1, abs=0.1)


def test_a_locked_threshold_has_the_better_brier_score():
    known, fresh = fields(400, 0), fields(1000, 1)
    fitted = exceedance_from(known)
    for threshold in (0.2, 0.4, 0.7):
        truth = fresh.target[0] > threshold
        moving = fitted.probability(fresh.quantiles[:, 0], threshold)
        locked = lock_threshold(fitted, known, threshold).probability(fresh.quantiles[:, 0])
        assert np.mean((locked - truth) ** 2) <= np.mean((moving - truth) ** 2) + 2e-4


@pytest.mark.parametrize("threshold", [0.0, 0.8, 1.5])
def test_locking_a_map_that_is_right_does_not_raise_its_brier_score(threshold):
    worse = []
    for seed in range(30):
        known, fresh = draw(1500, 2 * seed, blocks=15), draw(20_000, 2 * seed + 1)
        truth, quantiles = fresh.target[0] > threshold, fresh.quantiles[:, 0]
        fitted = exceedance_from(known)
        locked = lock_threshold(fitted, known, threshold).probability(quantiles)
        moving = fitted.probability(quantiles, threshold)
        worse.append(np.mean((locked - truth) ** 2) - np.mean((moving - truth) ** 2))
    assert np.mean(worse) <= 3e-4


def test_a_threshold_with_too_few_blocks_on_a_side_is_not_locked():
    known = draw(2000, 0)
    highest = np.sort([known.target[0, known.block == b].max() for b in range(100)])
    lock_threshold(exceedance_from(known), known, float(np.nextafter(highest[-5], -9)))
    for threshold, found in ((highest[-5], 4), (99.0, 0), (-99.0, 0)):
        with pytest.raises(
            ValueError, match=f"Only {found} held-out blocks have targets above .* unlocked map"
        ):
            lock_threshold(exceedance_from(known), known, float(threshold))


@pytest.mark.parametrize("masked", [0.0, 0.1, 0.3])
def test_masked_pixels_are_never_claimed_and_do_not_change_the_claims(masked):
    known, fresh = draw(20_000, 0), draw(20_000, 1)
    q, above = fresh.quantiles[:, 0].copy(), fresh.target[0] > 0.8
    hidden = np.random.default_rng(2).random(q.shape[1]) < masked
    q[:, hidden] = np.nan
    chosen, whole = select(known, q, 0.8), select(known, fresh.quantiles[:, 0], 0.8)
    assert not chosen.mask[hidden].any()
    np.testing.assert_array_equal(chosen.mask[~hidden], whole.mask[~hidden])
    assert np.mean(~above[chosen.mask]) <= 0.1 + 2 * 0.3 / np.sqrt(chosen.mask.sum())


def test_claims_hold_for_fields_whose_blocks_share_their_errors():
    wrong, power = [], []
    for seed in range(30):
        known, fresh = fields(120, 2 * seed), fields(120, 2 * seed + 1)
        chosen = select(known, fresh.quantiles[:, 0], 0.4).mask
        above = fresh.target[0] > 0.4
        wrong.append(np.mean(~above[chosen]) if chosen.any() else 0)
        power.append(np.mean(chosen[above]))
    assert np.mean(wrong) <= 0.1 + 2 * np.std(wrong) / np.sqrt(len(wrong))
    assert np.mean(power) > 0.2


def look_alikes(n_blocks, seed, *, rare=0.04, alike=0.01, side=10):
    """Blocks of one field: few hold the phase, and still fewer what looks like it, whole blocks of it."""
    rng = np.random.default_rng(seed)
    block, kind = np.repeat(np.arange(n_blocks), side**2), rng.random(n_blocks)
    phase, wrong = (np.repeat(a, side**2) for a in (kind < rare, (kind >= rare) & (kind < rare + alike)))
    target = np.where(phase, 0.8, 0.1) + rng.normal(0, 0.02, block.size)
    centre = np.where(phase | wrong, 0.7, 0.1) + rng.normal(0, 0.08, block.size)
    quantiles = centre + 0.15 * norm.ppf(LEVELS)[:, None]
    return HeldOut(quantiles[:, None].astype(np.float32), target[None].astype(np.float32), block, LEVELS)


def test_claims_of_a_rare_phase_hold_where_whole_grains_are_wrong():
    # with pixels as cases, 17 % of the claims were wrong
    wrong = []
    for seed in range(100):
        known, fresh = look_alikes(50, 2 * seed), look_alikes(200, 2 * seed + 1)
        chosen = select(known, fresh.quantiles[:, 0], 0.4).mask
        wrong.append(np.mean(fresh.target[0][chosen] <= 0.4) if chosen.any() else 0)
    assert np.mean(wrong) <= 0.1 + 2 * np.std(wrong) / np.sqrt(len(wrong))


@pytest.mark.parametrize(("share", "least", "most"), [(0.02, 0.6, 1.0), (0.13, 0.0, 0.08)])
def test_a_share_of_wrong_grains_above_the_level_is_rarely_taken_for_less(share, least, most):
    # one in twenty, and two standard errors of 200 draws; with pixels as cases 18 %, without a bound 37 %
    rng, claims = np.random.default_rng(0), []
    block = np.repeat(np.arange(40), 25)
    quantiles = np.repeat((0.7 + 0.15 * norm.ppf(LEVELS))[:, None, None], 1000, axis=2).astype(np.float32)
    for _ in range(200):
        wrong = np.repeat(rng.random(40) < share, 25)
        known = HeldOut(quantiles, np.where(wrong, 0.1, 0.8).astype(np.float32)[None], block, LEVELS)
        claims.append(select(known, quantiles[:, 0], 0.4).mask.any())
    assert least <= np.mean(claims) <= most


def test_a_last_block_without_wrong_claims_is_counted():
    known = look_alikes(50, 0)
    known.target[:, known.block == 49] = 0.9
    assert select(known, known.quantiles[:, 0], 0.4).n_blocks == 50


def test_nothing_is_claimed_without_enough_blocks_or_evidence():
    known, q = draw(2000, 0, blocks=50), draw(1000, 1).quantiles[:, 0]
    for few in (draw(2000, 0, blocks=4), draw(500, 0, blocks=1)):
        nothing = select(few, q, 0.3)
        assert not nothing.mask.any()
        assert "and 5 are needed" in nothing.caption
    nothing = select(known, q, 50.0)
    assert not nothing.mask.any()
    assert np.isinf(nothing.cut)
    assert nothing.caption.startswith("No pixel is claimed to exceed 50 with about 10 % of wrong claims: ")
    some = select(known, q, 0.3, level=0.3)
    assert some.share <= some.upper <= 0.3
    assert some.caption == (
        f"{some.mask.sum()} pixels are claimed to exceed 0.3. In the held-out blocks {100 * some.share:.1f} % of such "
        f"claims are wrong (30 % asked for; {some.claimed_blocks} of 50 blocks have claims). The set was chosen by "
        "these blocks: in "
        "other fields more may be wrong, and with few such blocks often more than asked for."
    )
    with pytest.raises(ValueError, match="share of wrong claims"):
        select(known, q, 0.3, level=0)


@pytest.mark.parametrize("covers", ["replicate", "masked pixel", "thinned counts"])
def test_with_noisy_targets_claims_and_probabilities_are_of_noisy_values(covers):
    known = draw(2000, 0, blocks=50)
    some = select(known, draw(1000, 1).quantiles[:, 0], 0.3, level=0.3, covers=covers)
    none = select(known, draw(1000, 1).quantiles[:, 0], 50.0, covers=covers)
    caption = exceedance_from(known).caption(0.3, covers=covers)
    assert f"claimed to exceed 0.3 in {covered(covers)}. In the" in some.caption
    assert f"claimed to exceed 50 in {covered(covers)} with" in none.caption
    for text in (some.caption, caption):
        assert text.endswith(
            f" These are values of {covered(covers)}, with its noise: they say nothing of the clean signal, of which "
            "another share lies above a threshold."
        )
    assert "noise" not in select(known, draw(1000, 1).quantiles[:, 0], 0.3, level=0.3).caption


def test_the_caption_says_what_is_true():
    fitted = exceedance_from(draw(500, 0, blocks=40))
    text = fitted.caption(0.25, channel_name="Fe", confidence=0.75, covers="long exposure")
    assert text.startswith(
        "P(Fe > 0.25 of a long exposure): calibrated on 40 held-out blocks, so that its sum is about their area where"
    )
    assert (
        "not over the flagged ones. Of those with a signal close to the threshold most can be wrong" in text
    )
    assert text.endswith("to aim at a share of wrong claims, select a set.")
    assert "half" not in fitted.caption(0.25)
    assert fitted.caption(0.25).endswith("another share may exceed the threshold.")
    assert fitted.caption(0.25, locked=True).endswith(
        "calibrated for this threshold with 40 held-out blocks. Its sum estimates the area; in a single field it can "
        "be far off, above all for a rare phase. It is not right for each pixel."
    )
