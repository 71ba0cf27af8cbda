"""Thresholds that are moved so that predicted areas are the true ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from napari_btn.core.calibration.areas import Area
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.distribution import cdf

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SD = 0.1


def phases(values, seed, shrunk=1.0, blocks=20):
    """Two phases with a gap between their signals; the predicted one lies closer to zero by a factor."""
    rng = np.random.default_rng(seed)
    share = np.clip(rng.beta(2, 4, blocks), 0.05, 0.95)
    block = np.repeat(np.arange(blocks), 300)
    signal = np.where(rng.random(block.size) < share[block], values[1], values[0])
    signal = signal + 0.02 * rng.normal(size=block.size)
    centre = shrunk * (signal + rng.normal(0, SD, block.size))
    q = centre + shrunk * SD * norm.ppf(LEVELS)[:, None]
    return HeldOut(q[:, None].astype(np.float32), signal[None].astype(np.float32), block, LEVELS)


def of(held_out, clearly=0.0):
    weight = np.full(held_out.block.size, 1 / held_out.block.size)
    return Area.of(held_out, 0, weight, clearly=clearly)


def test_a_phase_that_is_predicted_too_low_still_moves_its_threshold():
    for clearly in (0.0, 1.0):
        assert of(phases((0.0, 1.0), 0, shrunk=0.6), clearly).matched(0.7) < 0.5


@pytest.mark.parametrize("shrunk", [0.6, 1.0])
def test_moved_thresholds_never_cross_and_go_on_outside(shrunk):
    area = of(phases((0.0, 1.0), 1, shrunk), 1.0)
    asked = np.linspace(-2, 3, 400)
    moved = [area.matched(float(t)) for t in asked]
    assert (np.diff(moved) >= -1e-9).all()
    assert area.matched(10.0) - area.matched(9.0) == pytest.approx(1)


def worse(held_out, clearly):
    """Return the sum of the increases of the held-out error by moved thresholds, and its mean change."""
    area = of(held_out, clearly)

    def error(threshold, moved):
        p = cdf(held_out.quantiles[:, 0], LEVELS, moved, table=area.table)
        return np.mean(np.square(p - (held_out.target[0] > threshold)))

    change = np.array([error(t, area.matched(t)) - error(t, t) for t in area.asked])
    return np.clip(change, 0, None).sum(), change.mean()


@pytest.mark.parametrize(("seed", "share"), [(1, 0.9), (3, 0.95)])
def test_a_threshold_stays_where_moving_it_would_make_held_out_probabilities_worse(seed, share):
    held_out = phases((0.0, 0.2), seed)
    (made, gain), (free, _) = worse(held_out, 0.0), worse(held_out, -1e9)
    # what is left is where two rising curves cross
    assert 0 < made < share * free
    assert gain < -0.01


def test_thresholds_stay_where_nothing_is_clear_enough():
    area = of(phases((0.0, 1.0), 0), 1e9)
    np.testing.assert_allclose(area.moved, area.asked, atol=1e-9)


def test_a_single_block_is_never_clear():
    held_out = phases((0.0, 1.0), 0, shrunk=0.6, blocks=1)
    area = of(held_out, 1.0)
    np.testing.assert_allclose(area.moved, area.asked, atol=1e-9)
    assert not np.allclose(of(held_out, 0.0).moved, area.asked)
