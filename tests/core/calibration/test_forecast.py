"""The forecast of held-out blocks before training."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_btn import samples
from napari_btn.core.calibration.blocks import Blocks
from napari_btn.core.calibration.forecast import Forecast, forecast_blocks
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.splits import split
from napari_btn.core.settings import CalibrationSettings, EnsembleSettings
from napari_btn.workflow.fit import plan_of

# The side of the blocks after training, of the preset "instant" with two members.
MEASURED = {0: 28, 1: 44, 2: 64}


def test_blocks_are_those_of_the_split_at_the_side_that_is_forecast():
    pair = samples.edx(seed=1)
    plan = plan_of(pair, EnsembleSettings("quick"))
    field = np.zeros(pair.noisy.shape[1:], bool)
    for box in plan.split.held_out:
        field[box.slices] = True
    assert plan.forecast.blocks == Blocks.of(field, plan.forecast.side_px).numbers.max() + 1
    assert plan.forecast.name == f"blocks of {plan.forecast.side_px} px"
    assert plan.forecast.checkerboard > 0


@pytest.mark.parametrize("seed", MEASURED)
def test_the_side_is_that_after_training_to_a_factor_of_two(seed):
    side = plan_of(samples.edx(seed=seed), EnsembleSettings("quick")).forecast.side_px
    assert MEASURED[seed] / 2 <= side <= MEASURED[seed] * 2


def test_white_errors_need_the_smallest_blocks_and_a_given_side_counts():
    rng = np.random.default_rng(0)
    slow = (40 * gaussian_filter(rng.normal(size=(200, 160)), 12)).astype(np.float32)
    exact = slow + 0.1 * rng.normal(size=slow.shape).astype(np.float32)
    scenes = Pair(slow, exact, "YX").views
    for settings, side in ((CalibrationSettings(), 16), (CalibrationSettings(block_px=40), 40)):
        parts = split(scenes, 8, settings, seed=0)
        assert forecast_blocks(scenes, parts, settings).side_px == side


def test_fields_are_counted_where_scenes_have_targets_of_their_own():
    rng = np.random.default_rng(0)
    clean = rng.random((10, 40, 48), np.float32)
    plan = plan_of(Pair(clean + 0.1, clean, "SYX"), EnsembleSettings("quick"))
    assert plan.forecast.blocks == 4
    assert "fields" in plan.forecast.note(0.1)[1]


def test_a_guarantee_is_forecast_only_where_it_holds_with_blocks_twice_as_wide():
    plan = plan_of(samples.edx(seed=1), EnsembleSettings("quick"))
    assert plan.forecast._least < plan.forecast.blocks
    level, text = Forecast(60, 20, "blocks of 20 px", fewest=16).note(0.1)
    assert level == "amber"
    assert "or 16 twice as wide" in text


@pytest.mark.parametrize(("blocks", "level"), [(3, "red"), (20, "amber"), (50, "info")])
def test_the_note_says_what_the_blocks_permit_and_what_helps(blocks, level):
    said = Forecast(blocks, 20, "blocks of 20 px", checkerboard=70).note(0.1)
    assert said[0] == level
    assert f"about {blocks} blocks of 20 px" in said[1]
    assert ("about 70" in said[1]) == (level != "info")
    assert ("even only for others like them" in said[1]) == (level == "amber")
    assert "checkerboard" not in Forecast(blocks, 20, "blocks of 20 px", checkerboard=2).note(0.1)[1]
