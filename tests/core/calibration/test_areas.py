"""Thresholds that are moved so that predicted areas are the true ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from napari_btn.core.calibration.areas import Area
from napari_btn.core.calibration.cases import HeldOut

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


def of(held_out, careful):
    weight = np.full(held_out.block.size, 1 / held_out.block.size)
    return Area.of(held_out, 0, weight, careful=careful)


def test_a_phase_that_is_predicted_too_low_still_moves_its_threshold():
    area = of(phases((0.0, 1.0), 0, shrunk=0.6), careful=True)
    assert area.matched(0.7) < 0.5
    assert of(phases((0.0, 1.0), 0, shrunk=0.6), careful=False).matched(0.7) < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_between_phases_is_hardly_moved_where_few_errors_ask_for_it(seed):
    held_out = phases((0.0, 1.0), seed)
    free, careful = (abs(of(held_out, kind).matched(0.5) - 0.5) for kind in (False, True))
    assert careful < 0.6 * free


@pytest.mark.parametrize("shrunk", [0.6, 1.0])
def test_moved_thresholds_never_cross_and_go_on_outside(shrunk):
    area = of(phases((0.0, 1.0), 1, shrunk), careful=True)
    asked = np.linspace(-2, 3, 400)
    moved = [area.matched(float(t)) for t in asked]
    assert (np.diff(moved) >= -1e-9).all()
    assert area.matched(10.0) - area.matched(9.0) == pytest.approx(1)
