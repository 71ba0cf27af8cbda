"""Calibration by token: the rare phase is covered, small groups climb the tree and say so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate, cross_fitted
from napari_btn.core.calibration.groups import (
    GroupCalibration,
    calibrate_groups,
    coverage_apart,
    cross_fitted_groups,
)
from napari_btn.core.settings import CalibrationSettings

LEVELS = (0.05, 0.5, 0.95)


def phases(seed, n_blocks=60, size=400, rare=0.04, worse=1.25):
    """A field whose rare phase has larger errors than its quantiles say; (held out, group)."""
    rng = np.random.default_rng(seed)
    n = n_blocks * size
    group = (rng.uniform(size=n) < rare).astype(np.int64)
    block = np.arange(n) // size
    spread = np.where(group == 1, worse, 1.0) * (1 + 0.1 * rng.normal(size=n_blocks))[block]
    target = (rng.normal(size=n) * spread)[None].astype(np.float32)
    quantiles = np.broadcast_to(np.float32([-1.5, 0, 1.5])[:, None, None], (3, 1, n)).copy()
    return HeldOut(quantiles, target, block, LEVELS), group


def inside(data, bounds):
    return ((bounds[0] <= data.target) & (data.target <= bounds[2]))[0]


def test_the_rare_phase_gains_coverage_and_keeps_it_on_fresh_data():
    alone, together, widths = [], [], []
    for seed in range(20):
        data, group = phases(2 * seed)
        fresh, fresh_group = phases(2 * seed + 1)
        rare = fresh_group == 1
        made = calibrate_groups(data, group)
        bounds = made.interval(fresh.quantiles, np.broadcast_to(fresh_group, fresh_group.shape))
        pooled = calibrate(data).interval(fresh.quantiles)
        alone.append(inside(fresh, bounds)[rare].mean())
        together.append(inside(fresh, pooled)[rare].mean())
        widths.append((bounds[2] - bounds[0]).mean() / (pooled[2] - pooled[0]).mean())
    error = np.std(alone) / np.sqrt(len(alone))
    assert np.mean(alone) >= 0.90 - 2 * error
    assert np.mean(alone) - np.mean(together) >= 0.03
    assert np.mean(widths) < 1.03


def test_the_coverage_of_a_group_that_would_stand_alone_is_foretold():
    foretold, measured = [], []
    for seed in range(20):
        data, group = phases(2 * seed)
        fresh, fresh_group = phases(2 * seed + 1)
        (value,) = coverage_apart(data, group == 1)
        foretold.append(value)
        bounds = calibrate_groups(data, group).interval(fresh.quantiles, fresh_group)
        measured.append(inside(fresh, bounds)[fresh_group == 1].mean())
    error = np.hypot(np.std(foretold), np.std(measured)) / np.sqrt(len(measured))
    assert np.mean(foretold) == pytest.approx(np.mean(measured), abs=2 * error + 0.005)


def test_nothing_is_foretold_of_a_group_in_too_few_blocks():
    data, _ = phases(0)
    assert coverage_apart(data, data.block < 18) is None
    assert coverage_apart(data, data.block < 19) is not None
    assert coverage_apart(data, data.block < 0) is None


def test_a_part_of_the_pixels_foretells_the_same(monkeypatch):
    data, group = phases(0, rare=0.5)
    whole = coverage_apart(data, group == 1)
    monkeypatch.setattr("napari_btn.core.calibration.groups._MOST_PIXELS", 3000)
    assert coverage_apart(data, group == 1) == pytest.approx(whole, abs=0.02)


def test_a_group_in_19_blocks_stands_alone_and_covers():
    covered = []
    for seed in range(40):
        data, _ = phases(seed, n_blocks=60, rare=0.0)
        group = np.where(data.block < 19, 1, 0)
        data.target[0, group == 1] *= 1.5
        made = calibrate_groups(data, group)
        assert made.node.tolist() == [0, 1]
        fresh, _ = phases(1000 + seed, n_blocks=19, rare=0.0)
        fresh.target[0] *= 1.5
        bounds = made.interval(fresh.quantiles, np.ones(fresh.block.size, np.int64))
        covered.append(inside(fresh, bounds).mean())
    assert np.mean(covered) >= 0.90 - 2 * np.std(covered) / np.sqrt(len(covered))


def test_small_groups_climb_to_the_first_parent_with_enough_blocks():
    data, _ = phases(0, n_blocks=60)
    block = data.block
    # Groups 0 and 1 lie in 10 blocks each, 2 in 20, 3 in 20; tree: 4 = {0, 1}, 5 = {4, 2}, 6 = all.
    group = np.select([block < 10, block < 20, block < 40], [0, 1, 2], 3)
    made = calibrate_groups(data, group, parents=[4, 4, 5, 6, 5, 6, -1])
    assert made.node.tolist() == [4, 4, 2, 3]
    assert made.fallback == (0, 1)
    assert made.n_blocks.tolist() == [20, 20, 20, 20]
    assert made.offset_lower[0] == made.offset_lower[1]
    assert "Tokens 1, 2: worth fewer than 19" in made.notes[-2].text
    assert "Tokens 1, 2, 3, 4: few held-out blocks, so that" in made.notes[-1].text
    without = calibrate_groups(data, np.where(group == 0, 0, 1))
    assert without.node.tolist() == [-1, 1]
    np.testing.assert_array_equal(without.offset_lower[0], without.base.offset_lower)


def test_a_group_that_fills_few_blocks_and_touches_many_climbs():
    data, _ = phases(0, n_blocks=40)
    group = (data.block < 5).astype(np.int64)
    group[::400] = 1
    assert np.unique(data.block[group == 1]).size == 40
    made = calibrate_groups(data, group)
    assert made.node.tolist() == [0, -1]
    # Where every block counts the same, it counts.
    assert calibrate_groups(data, group, settings=CalibrationSettings(unit="block")).node.tolist() == [0, 1]
    assert (
        "Token 2: worth fewer than 19 held-out blocks, so calibrated together with all" in made.notes[-1].text
    )


def test_pixels_of_no_group_get_the_offsets_of_all():
    data, group = phases(0)
    made = calibrate_groups(data, group)
    space = data.quantiles.reshape(3, 1, 60, 400)
    outside = made.interval(space, np.full((60, 400), -1))
    for a, b in zip(outside, made.base.interval(space), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("score", ["symmetric", "asymmetric", "scaled"])
def test_bounds_never_cross_and_json_keeps_them(score):
    data, group = phases(0)
    made = calibrate_groups(data, group, settings=CalibrationSettings(score=score, minimum=-1.0))
    lower, median, upper = made.interval(data.quantiles, group)
    assert ((lower <= median) & (median <= upper)).all()
    assert lower.min() >= -1
    again = GroupCalibration.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False)))
    for a, b in zip(again.interval(data.quantiles, group), (lower, median, upper), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_interval_uses_its_own_block():
    data, group = phases(0)
    before = cross_fitted_groups(data, group)
    target = data.target.copy()
    mine = data.block == 7
    target[:, mine] += 1e3
    after = cross_fitted_groups(HeldOut(data.quantiles, target, data.block, LEVELS), group)
    np.testing.assert_array_equal(before[0][:, mine], after[0][:, mine])
    assert (before[0] != after[0]).any()
    assert (
        inside(data, before)[group == 1].mean()
        > inside(data, cross_fitted(data, calibrate(data)))[group == 1].mean()
    )


def test_bad_groups_are_refused():
    data, group = phases(0)
    with pytest.raises(ValueError, match="each needs one"):
        calibrate_groups(data, group[:-1])
    with pytest.raises(ValueError, match="every group needs a node"):
        calibrate_groups(data, group, parents=[-1])
    with pytest.raises(ValueError, match="never to a root"):
        calibrate_groups(data, group, parents=[1, 0])
    with pytest.raises(ValueError, match="every pixel needs a group"):
        calibrate_groups(data, group).interval(data.quantiles, group[:-1])


@pytest.mark.parametrize(
    "settings",
    [CalibrationSettings(unit="risk"), CalibrationSettings(unit="risk", score="asymmetric"),
     CalibrationSettings(unit="image", delta=0.03)],
)  # fmt: skip
def test_a_group_too_small_for_its_promise_climbs_and_is_never_infinite(settings):
    data, _ = phases(0, n_blocks=60, size=40)
    group = (data.block >= 20).astype(np.int64)
    made = calibrate_groups(data, group, settings=settings)
    assert made.base.finite
    assert np.isfinite(made.offset_upper).all()
    assert 0 in made.fallback
    assert any("Token" in note.text for note in made.notes)


def test_groups_whose_pixels_were_pooled_are_named():
    data, _ = phases(0, n_blocks=60, size=40)
    group = (data.block >= 30).astype(np.int64)
    made = calibrate_groups(data, group)
    assert made.base.rule == "block"
    assert any(note.text.startswith("Tokens 1, 2: few held-out blocks") for note in made.notes)
    alone = calibrate_groups(data, np.zeros_like(group))
    assert not any("coverage there" in note.text for note in alone.notes)
