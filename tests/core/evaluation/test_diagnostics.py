"""Where intervals hold less: painted by block, and at every level of coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.evaluation.diagnostics import (
    block_shares,
    by_group,
    by_width,
    coverage_curve,
    miscoverage_map,
    places,
)

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def too_narrow(n_blocks, size=200, seed=0, channels=2):
    """Errors of SD 1.2 where the quantiles say 1."""
    rng = np.random.default_rng(seed)
    target = 1.2 * rng.normal(size=(channels, n_blocks * size)).astype(np.float32)
    quantiles = np.stack([np.full_like(target, norm.ppf(level)) for level in LEVELS])
    return HeldOut(quantiles, target, np.arange(target.shape[1]) // size, LEVELS)


def test_miscoverage_is_painted_where_its_block_lies():
    index = np.indices((1, 20, 33)).reshape(3, -1).T
    block = (index[:, 1] // 10) * 4 + index[:, 2] // 10
    rng = np.random.default_rng(0)
    target = rng.normal(size=(2, 660)).astype(np.float32)
    lower, upper = np.full_like(target, -1), np.full_like(target, 1)
    quantiles = np.stack([lower, 0 * lower, upper])
    data = HeldOut(quantiles, target, block, (0.1, 0.5, 0.9), None, index)
    painted = miscoverage_map(data, lower, upper, (25, 40), "YX")
    assert painted.shape == (2, 25, 40)
    assert np.isnan(painted[:, 20:]).all()
    assert np.isnan(painted[:, :, 33:]).all()
    miss = np.abs(target[1]) > 1
    assert painted[1, 3, 14] == pytest.approx(miss[block == 1].mean())
    with pytest.raises(ValueError, match="lie within"):
        miscoverage_map(data, lower, upper, (10, 40), "YX")
    with pytest.raises(ValueError, match="no positions"):
        miscoverage_map(HeldOut(quantiles, target, block, (0.1, 0.5, 0.9)), lower, upper, (25, 40), "YX")


def test_scenes_with_targets_of_their_own_have_maps_of_their_own():
    index = np.indices((3, 8, 9)).reshape(3, -1).T
    target = np.random.default_rng(0).normal(size=(1, 216)).astype(np.float32)
    quantiles = np.stack([np.full_like(target, v) for v in (-1, 0, 1)])
    scenes = HeldOut(quantiles, target, index[:, 0].copy(), (0.1, 0.5, 0.9), None, index)
    painted = miscoverage_map(scenes, quantiles[0], quantiles[2], (3, 8, 9), "SYX")
    shares = (np.abs(target) > 1).reshape(3, 72).mean(axis=1)
    np.testing.assert_allclose(painted[0], np.broadcast_to(shares[:, None, None], (3, 8, 9)), rtol=1e-6)
    assert len(np.unique(shares)) > 1
    with pytest.raises(ValueError, match="lie over each other on the axes YX"):
        miscoverage_map(scenes, quantiles[0], quantiles[2], (8, 9), "YX")
    repeats = HeldOut(quantiles, target, index[:, 1].copy(), (0.1, 0.5, 0.9), None, index)
    shared = miscoverage_map(repeats, quantiles[0], quantiles[2], (8, 9), "YX")
    assert len(np.unique(shared)) <= 8


def test_every_level_is_covered_after_calibration():
    alphas = (0.5, 0.2, 0.1, 0.05)
    curve = coverage_curve(too_narrow(120), alphas=alphas)
    assert curve.shape == (2, 4)
    # The block rule's own expectation, where there are enough blocks for it.
    for c, alpha in zip(curve.T, alphas, strict=True):
        expected = (1 - alpha) * (1 + 1 / 96)
        np.testing.assert_allclose(c, expected, atol=4 * math.sqrt(alpha * (1 - alpha) / 24_000) + 0.01)
    assert np.isnan(coverage_curve(too_narrow(1), alphas=alphas)).all()


def test_parts_are_counted():
    width = np.array([[3.0, 1, 2]])
    widths, coverage = by_width(width, np.array([[True, False, False]]))
    np.testing.assert_array_equal(widths, [[1, 2, 3]])
    np.testing.assert_array_equal(coverage, [[1, 1, 0]])
    covered, share = by_group(np.array([[True, False, False, True]]), np.array([0, 0, 2, -1]))
    np.testing.assert_array_equal(covered, [[0.5, np.nan, 1]])
    np.testing.assert_array_equal(share, [0.5, 0, 0.25])
    assert by_group(np.zeros((2, 4), bool), None)[0].shape == (2, 0)


def test_places_show_which_side_is_too_narrow():
    histogram = places(too_narrow(50))
    assert histogram.shape == (2, 20)
    np.testing.assert_allclose(histogram.sum(axis=1), 1)
    assert (histogram[:, [0, -1]] > 0.06).all()


@pytest.mark.parametrize(("shape", "side"), [((17, 23), 5), ((4, 9), 16), ((20, 20), 10)])
def test_block_shares_weigh_back_to_the_whole(shape, side):
    rng = np.random.default_rng(0)
    miss, valid = rng.random(shape) < 0.3, rng.random(shape) < 0.8
    shares = block_shares(miss, side, valid)
    assert shares.shape == tuple(-(-n // side) for n in shape)
    first = valid[:side, :side]
    assert shares[0, 0] == pytest.approx((miss[:side, :side] & first).sum() / first.sum())
    whole = np.kron(np.nan_to_num(shares), np.ones((side, side)))[: shape[0], : shape[1]]
    assert whole[valid].sum() == pytest.approx((miss & valid).sum())
    assert np.isnan(block_shares(miss, side, np.zeros(shape, bool))).all()
